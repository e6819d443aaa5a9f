"""Aligned 112x112 faces for training, from npz packs, folders of identities, or tar shards.

npz pack: `blob` uint8 (encoded pictures end to end), `offsets` int64 (N + 1), optionally `labels` int32
(N) and a boolean
mask per picture (for example of identities that also appear in a test set). A file `<pack>_embeddings.npz` in a teacher
folder holds `embeddings` (N, D) in the same order. Folder or tar: `<identity>/<picture>`.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from recognition.types import CROP_SIZE

PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
NO_IDENTITY = -1


@dataclass(frozen=True, eq=False)
class Faces:
    """pixels uint8 (N, 112, 112, 3) RGB; labels int64 (N), NO_IDENTITY where unknown; teacher float32 (N,
    D) unit, or None."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    teacher: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        if len(self.labels) != len(self.pixels) or (
            self.teacher is not None and len(self.teacher) != len(self.pixels)
        ):
            raise ValueError("pictures, labels and embeddings differ in number")

    def __len__(self) -> int:
        return len(self.pixels)

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_] | slice) -> Faces:
        return Faces(
            self.pixels[rows], self.labels[rows], None if self.teacher is None else self.teacher[rows]
        )


def decode(encoded: bytes | NDArray[np.uint8]) -> NDArray[np.uint8]:
    """One encoded picture -> uint8 (112, 112, 3) RGB. Raises ValueError when it is not an aligned crop."""
    picture = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
    if picture is None or picture.shape != (CROP_SIZE, CROP_SIZE, 3):
        raise ValueError("not a picture of 112x112 pixels; align the faces first")
    return np.ascontiguousarray(picture[:, :, ::-1])


def read_pack(path: Path, *, teacher: Path | None = None, leave_out: str | None = None) -> Faces:
    """Read an npz pack; `leave_out` names its boolean mask of pictures not to use. Raises OSError,
    KeyError or ValueError."""
    with np.load(path, allow_pickle=False) as pack:
        offsets, blob = pack["offsets"], pack["blob"]
        pixels = np.stack([decode(blob[start:end]) for start, end in pairwise(offsets)])
        labels = pack["labels"].astype(np.int64) if "labels" in pack else np.full(len(pixels), NO_IDENTITY)
        keep = ~pack[leave_out] if leave_out and leave_out in pack else np.ones(len(pixels), bool)
    embeddings = None
    if teacher is not None:
        with np.load(teacher, allow_pickle=False) as stored:
            embeddings = stored["embeddings"].astype(np.float32)
        embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    return Faces(pixels, labels, embeddings).take(keep)


def read_folder(path: Path) -> Faces:
    """`<identity>/<picture>`; identities in sorted order are the labels."""
    files = sorted(file for file in path.glob("*/*") if file.suffix.lower() in PICTURES)
    return _labelled((file.parent.name, file.read_bytes()) for file in files)


def read_tar(paths: Iterable[Path]) -> Faces:
    """Tar shards whose members are `<identity>/<picture>`, read in the order given."""
    return _labelled(pair for path in paths for pair in _members(path))


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(path) as archive:
        for member in archive:
            name = Path(member.name)
            content = (
                archive.extractfile(member) if member.isfile() and name.suffix.lower() in PICTURES else None
            )
            if content is not None:
                yield name.parent.name, content.read()


def _labelled(pictures: Iterable[tuple[str, bytes]]) -> Faces:
    names, pixels = [], []
    for identity, encoded in pictures:
        names.append(identity)
        pixels.append(decode(encoded))
    if not pixels:
        raise ValueError("no pictures here; expected <identity>/<picture> with aligned 112x112 faces")
    _, labels = np.unique(names, return_inverse=True)
    return Faces(np.stack(pixels), labels.astype(np.int64))


def join(parts: Iterable[Faces]) -> Faces:
    """One set; identities of different parts stay different."""
    pixels, labels, teachers, first = [], [], [], 0
    for part in parts:
        pixels.append(part.pixels)
        labels.append(np.where(part.labels >= 0, part.labels + first, NO_IDENTITY))
        first += int(part.labels.max(initial=NO_IDENTITY)) + 1
        teachers.append(part.teacher)
    known = [teacher for teacher in teachers if teacher is not None]
    if known and len(known) != len(teachers):
        raise ValueError("some parts have a teacher's embeddings and some have not")
    return Faces(np.concatenate(pixels), np.concatenate(labels), np.concatenate(known) if known else None)


def hold_out(faces: Faces, *, identities: int, seed: int, least_pictures: int = 8) -> tuple[Faces, Faces]:
    """(training, validation): `identities` labelled people with enough pictures move whole into validation."""
    names, counts = np.unique(faces.labels[faces.labels >= 0], return_counts=True)
    candidates = names[counts >= least_pictures]
    chosen = np.random.default_rng(seed).permutation(candidates)[:identities]
    held = np.isin(faces.labels, chosen)
    return faces.take(~held), faces.take(held)


def draw(faces: Faces, *, count: int, balanced: bool, random: np.random.Generator) -> NDArray[np.int64]:
    """Rows of one batch: uniform over faces, or over identities first (unlabelled faces count as one identity each)."""
    if not balanced:
        return random.integers(0, len(faces), count)
    singles = np.flatnonzero(faces.labels < 0)
    names = np.unique(faces.labels[faces.labels >= 0])
    picks = random.integers(0, len(names) + len(singles), count)
    return np.array(
        [
            random.choice(np.flatnonzero(faces.labels == names[pick]))
            if pick < len(names)
            else singles[pick - len(names)]
            for pick in picks
        ]
    )


def augment(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror, small rotation, scale and shift, contrast and brightness: float (B, 3, 112, 112), 0..255, same device."""
    batch = len(pixels)

    def normal(deviation: float, *shape: int) -> Tensor:
        return torch.randn(batch, *shape, generator=generator) * deviation

    mirrored = torch.rand(batch, generator=generator) < 0.5
    pixels = torch.where(mirrored[:, None, None, None], pixels.flip(-1), pixels)
    angle, scale = normal(0.03), 1 + normal(0.025)
    rows = torch.stack(
        [
            torch.stack([scale * angle.cos(), -scale * angle.sin(), normal(0.015)], 1),
            torch.stack([scale * angle.sin(), scale * angle.cos(), normal(0.015)], 1),
        ],
        1,
    )  # (B, 2, 3)
    grid = F.affine_grid(rows, list(pixels.shape), align_corners=False)
    pixels = F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
    middle = pixels.mean((1, 2, 3), keepdim=True)
    contrast = normal(0.1, 1, 1, 1).exp()
    return ((pixels - middle) * contrast + middle + normal(8.0, 1, 1, 1)).clamp(0, 255)
