"""Who stands before the demo's camera: pictures of a folder, or portraits that a fresh machine has."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from terminal.camera import read_picture

Pixels = NDArray[np.uint8]  # (H, W, 3), RGB

NAME = re.compile(r"(?P<person>.+)_(?P<number>\d+)\.(jpe?g|png)", re.IGNORECASE)
VARIATIONS = 8  # pictures made of each portrait
SIDE = 480  # pixels of a varied frame


@dataclass(frozen=True)
class Picture:
    """One moment before the camera. `read` gives its frame: folders are read as they are needed."""

    person: str
    number: int
    read: Callable[[], Pixels]

    @property
    def name(self) -> str:
        return f"{self.person}_{self.number}"


class NoPicturesError(Exception):
    """There is nothing to show; the message says what to do."""


def pictures_of_folder(folder: Path) -> list[Picture]:
    """`<person>_<k>.jpg`, sorted by person and k. Raises NoPicturesError."""
    if not folder.is_dir():
        raise NoPicturesError(f"{folder} is not a folder")
    found = [
        Picture(match["person"], int(match["number"]), partial(read_picture, path))
        for path in folder.iterdir()
        if (match := NAME.fullmatch(path.name))
    ]
    if len({picture.person for picture in found}) < 2:
        raise NoPicturesError(f"{folder} needs pictures <person>_<k>.jpg of two people or more")
    return sorted(found, key=lambda picture: (picture.person, picture.number))


def pictures_of_this_machine() -> list[Picture]:
    """Varied frames of two public-domain portraits that Python packages carry. Raises NoPicturesError."""
    missing = [name for name in ("skimage", "matplotlib") if importlib.util.find_spec(name) is None]
    if missing:
        raise NoPicturesError(
            "the pictures of a fresh machine come with scikit-image and matplotlib:"
            ' pip install -e ".[demo]", or give a folder of pictures'
        )
    return [
        Picture(person, number, partial(_varied, portrait, number))
        for person, portrait in (("astronaut", _astronaut()), ("stranger", _admiral()))
        for number in range(1, VARIATIONS + 1)
    ]


WHAT_THIS_MACHINE_HAS = (
    "Two people, each from one photograph: Eileen Collins (NASA, from scikit-image), who is enrolled, and"
    " Grace Hopper (US Navy, from matplotlib), who is not. Their frames differ in crop, tilt, light and"
    " sensor noise, and not in day, pose or age: this shows that the parts work together, and says nothing"
    " about accuracy. FRAMES=folder shows real pictures."
)


def halves(pictures: Iterable[Picture]) -> tuple[list[str], list[str]]:
    """People to enroll and people who stay strangers: the first and the second half of the sorted names."""
    people = sorted({picture.person for picture in pictures})
    half = len(people) // 2
    return people[:half], people[half:]


def _astronaut() -> Pixels:
    from skimage import data  # only `make demo` without pictures of its own needs it

    return np.asarray(data.astronaut()[0:300, 70:370], np.uint8)


def _admiral() -> Pixels:
    spec = importlib.util.find_spec("matplotlib")
    if spec is None or spec.origin is None:
        raise NoPicturesError("matplotlib is not installed")
    path = Path(spec.origin).parent / "mpl-data" / "sample_data" / "grace_hopper.jpg"
    return read_picture(path)[0:440, 36:476]


def _varied(portrait: Pixels, number: int) -> Pixels:
    """The same frame for the same number, uint8 (SIDE, SIDE, 3)."""
    random = np.random.default_rng(number)
    side = portrait.shape[0]
    turn, zoom = random.uniform(-7, 7), random.uniform(0.9, 1.2) * SIDE / side
    matrix = cv2.getRotationMatrix2D((side / 2, side / 2), turn, zoom)
    matrix[:, 2] += SIDE / 2 - side / 2 + random.uniform(-0.06, 0.06, size=2) * SIDE
    frame = cv2.warpAffine(
        portrait, matrix, (SIDE, SIDE), flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REPLICATE
    )
    lit: NDArray[Any] = 255 * (frame / 255.0) ** random.uniform(0.75, 1.35) * random.uniform(0.85, 1.1)
    lit *= 1 + random.uniform(-0.2, 0.2) * np.linspace(-1, 1, SIDE)[None, :, None]  # light from one side
    lit += random.normal(0, 3, size=lit.shape)
    return np.clip(lit, 0, 255).astype(np.uint8)
