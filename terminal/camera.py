"""Where frames come from: a camera, a network camera, a film, or a folder of pictures. All give RGB."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import cv2
import numpy as np
from numpy.typing import NDArray

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
FRAME_TIMEOUT_S = 5.0
PREFERRED_SIZE = (1280, 720)


class CameraError(Exception):
    """No frames come. The message says what to look at."""


@dataclass(frozen=True, eq=False)
class Frame:
    """`pixels`: uint8 (H, W, 3) RGB. `name` says which picture of a folder it is, or is empty."""

    pixels: NDArray[np.uint8]
    name: str = ""

    def __repr__(self) -> str:
        return f"Frame({self.name!r}, {self.pixels.shape[1]}x{self.pixels.shape[0]})"


class Source(Protocol):
    """Frames in order of time. Iterating raises CameraError when the source fails, and ends when it is
    exhausted."""

    def __iter__(self) -> Iterator[Frame]: ...

    def close(self) -> None: ...


def open_source(text: str) -> Source:
    """`0` or `camera:0`: that camera; `rtsp://...`: that network camera; a folder: its pictures by name; a
    file: a film."""
    index = text.removeprefix("camera:")
    if index.isdigit():
        return LiveSource(int(index), f"camera {index}")
    if text.startswith(("rtsp://", "rtsps://", "http://", "https://")):
        return LiveSource(text, without_password(text))
    path = Path(text)
    if path.is_dir():
        return FolderSource(path)
    if path.is_file():
        return FilmSource(path)
    raise CameraError(f"{without_password(text)} is no camera index, address, folder or file")


class FolderSource:
    """Every picture once, by name."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise CameraError(f"there is no folder {folder}")
        self._paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES)
        if not self._paths:
            raise CameraError(f"{folder} holds no pictures ({', '.join(PICTURES)})")

    def __iter__(self) -> Iterator[Frame]:
        for path in self._paths:
            yield Frame(read_picture(path), path.stem)

    def close(self) -> None:
        """Nothing is held open."""


class FilmSource:
    """Every frame of a film once, as fast as they are asked for."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._video = cv2.VideoCapture(str(path))
        if not self._video.isOpened():
            raise CameraError(f"{path} is not a film that can be read")

    def __iter__(self) -> Iterator[Frame]:
        number = 0
        while True:
            came, pixels = self._video.read()
            if not came:
                return
            number += 1
            yield Frame(_to_rgb(pixels), f"{self._path.stem}-{number}")

    def close(self) -> None:
        self._video.release()


class LiveSource:
    """The newest frame each time it is asked, however slow the asking: a thread reads on, older frames are
    dropped.

    A person must be judged on what the camera sees now, not on what it saw while the last answer was awaited.
    """

    def __init__(self, device: int | str, name: str) -> None:
        self._name = name
        self._video = _open_video(device)
        if not self._video.isOpened():
            raise CameraError(
                f"{name} cannot be opened: is it plugged in, reachable, and used by nobody else?"
            )
        self._news = threading.Condition()
        self._latest: Any = None  # BGR, as OpenCV gives it
        self._ended = False
        self._reader = threading.Thread(target=self._read_on, name="camera", daemon=True)
        self._reader.start()

    def __iter__(self) -> Iterator[Frame]:
        while True:
            with self._news:
                came = self._news.wait_for(
                    lambda: self._latest is not None or self._ended, timeout=FRAME_TIMEOUT_S
                )
                pixels, self._latest = self._latest, None
            if pixels is None:
                why = "stopped giving frames" if came else f"gave no frame for {FRAME_TIMEOUT_S:.0f} s"
                raise CameraError(f"{self._name} {why}")
            yield Frame(_to_rgb(pixels))

    def close(self) -> None:
        with self._news:
            self._ended = True
            self._news.notify_all()
        self._reader.join(timeout=2 * FRAME_TIMEOUT_S)
        self._video.release()

    def _read_on(self) -> None:
        while not self._ended:
            came, pixels = self._video.read()
            with self._news:
                if came:
                    self._latest = pixels
                else:
                    self._ended = True
                self._news.notify_all()


def read_picture(path: Path) -> NDArray[np.uint8]:
    """One picture as uint8 (H, W, 3) RGB. Raises CameraError when it is none."""
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
        pixels = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    except (OSError, cv2.error) as error:
        raise CameraError(f"{path} cannot be read: {error}") from error
    if pixels is None:
        raise CameraError(f"{path} is not a picture")
    return _to_rgb(pixels)


def without_password(address: str) -> str:
    """An address that may be shown and logged."""
    try:
        parts = urlsplit(address)
        if parts.password is None and parts.username is None:
            return address
        host = parts.hostname or ""
        port = f":{parts.port}" if parts.port else ""
        return parts._replace(netloc=f"***@{host}{port}").geturl()
    except ValueError:
        return "***"


def _open_video(device: int | str) -> cv2.VideoCapture:
    # OpenCV warns in words of its own each time a camera is missing; what a person should do, CameraError says.
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
    milliseconds = int(FRAME_TIMEOUT_S * 1000)
    if isinstance(device, str):
        os.environ.setdefault(
            "OPENCV_FFMPEG_CAPTURE_OPTIONS", "rtsp_transport;tcp"
        )  # lost packets smear faces
        return cv2.VideoCapture(
            device,
            cv2.CAP_FFMPEG,
            [
                cv2.CAP_PROP_OPEN_TIMEOUT_MSEC,
                milliseconds,
                cv2.CAP_PROP_READ_TIMEOUT_MSEC,
                milliseconds,
            ],
        )
    video = cv2.VideoCapture(device)
    video.set(cv2.CAP_PROP_FRAME_WIDTH, PREFERRED_SIZE[0])
    video.set(cv2.CAP_PROP_FRAME_HEIGHT, PREFERRED_SIZE[1])
    video.set(cv2.CAP_PROP_BUFFERSIZE, 1)
    return video


def _to_rgb(pixels: Any) -> NDArray[np.uint8]:
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)
