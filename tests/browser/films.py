"""What a fake camera shows: NASA's portrait of Eileen Collins, in the public domain, moving a little as people do.

Chromium plays a y4m file in a loop (`--use-file-for-fake-video-capture`). The files are made by the tests and kept
nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage.data import astronaut

WIDTH, HEIGHT, RATE = 640, 480, 30
SLOW = 2  # frames a second
FRAMES = 45
FACE = (225.0, 118.0)  # middle of the face in the portrait, pixels


def portrait_frames(
    *,
    zoom: float = 1.6,
    centre: tuple[float, float] = (0.5, 0.5),
    size: tuple[int, int] = (WIDTH, HEIGHT),
) -> Iterator[NDArray[np.uint8]]:
    """RGB frames: the head sways, nods and comes nearer and farther by a few per cent."""
    picture = np.ascontiguousarray(astronaut())
    for number in range(FRAMES):
        turn = 2 * np.pi * number / FRAMES
        scale = zoom * (1 + 0.03 * np.sin(turn))
        x = size[0] * centre[0] + 8 * np.sin(turn) - FACE[0] * scale
        y = size[1] * centre[1] + 5 * np.cos(turn) - FACE[1] * scale
        yield cv2.warpAffine(
            picture,
            np.array([[scale, 0, x], [0, scale, y]]),
            size,
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=(118, 112, 106),
        )


def empty_frames() -> Iterator[NDArray[np.uint8]]:
    """A wall with a lamp that flickers."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    lamp = np.exp(-((x - 300) ** 2 + (y - 100) ** 2) / 20_000)
    for number in range(FRAMES):
        wall = 90 + (60 + number % 3) * lamp
        yield np.repeat(wall[..., None], 3, axis=2).astype(np.uint8)


def visitor_frames() -> Iterator[NDArray[np.uint8]]:
    """Nobody for half a minute, then somebody for ten seconds: to be played with `SLOW` frames a second."""
    yield from islice(cycle(empty_frames()), 30 * SLOW)
    yield from islice(portrait_frames(), 10 * SLOW)


def write_film(
    path: Path,
    frames: Iterator[NDArray[np.uint8]],
    *,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    rate: int = RATE,
) -> Path:
    with path.open("wb") as film:
        film.write(f"YUV4MPEG2 W{size[0]} H{size[1]} F{rate}:1 Ip A1:1 C420jpeg\n".encode())
        for frame in frames:
            film.write(b"FRAME\n" + cv2.cvtColor(frame, cv2.COLOR_RGB2YUV_I420).tobytes())
    return path
