"""Aligned 112x112 faces for training, from npz packs, folders of identities, or tar shards.

npz pack: `blob` uint8 (encoded pictures end to end), `offsets` int64 (N + 1), optionally `labels` int32
(N) and a boolean
mask per picture (for example of identities that also appear in a test set). A file `<pack>_embeddings.npz` in a teacher
folder holds `embeddings` (N, D) in the same order. Folder or tar: `<identity>/<picture>`.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
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
DECODERS = 4  # threads


class Encoded:
    """Pictures left as they are stored and decoded when a batch asks for them: 37 KB a face is 220 GB of MS1M.

    Stands where an array uint8 (N, 112, 112, 3) would: `encoded[rows]` is one. Picture i is `size[i]` bytes from
    `offset[i]` of `sources[which[i]]`, a file or bytes in memory.
    """

    def __init__(
        self,
        sources: Sequence[Path | NDArray[np.uint8]],
        which: NDArray[np.int64],
        offset: NDArray[np.int64],
        size: NDArray[np.int64],
    ) -> None:
        self.sources, self.which, self.offset, self.size = tuple(sources), which, offset, size

    def __len__(self) -> int:
        return len(self.which)

    def __getitem__(self, rows: NDArray[np.int64] | NDArray[np.bool_] | slice) -> NDArray[np.uint8]:
        chosen = np.arange(len(self))[rows]
        if not len(chosen):
            return np.zeros((0, CROP_SIZE, CROP_SIZE, 3), np.uint8)
        with ThreadPoolExecutor(DECODERS) as pool:
            return np.stack(list(pool.map(self._picture, chosen)))

    def _picture(self, row: int) -> NDArray[np.uint8]:
        source, start, size = self.sources[self.which[row]], int(self.offset[row]), int(self.size[row])
        if not isinstance(source, Path):
            return decode(source[start : start + size])
        with source.open("rb") as file:
            file.seek(start)
            return decode(file.read(size))

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_] | slice) -> Encoded:
        return Encoded(self.sources, self.which[rows], self.offset[rows], self.size[rows])

    @classmethod
    def joined(cls, parts: Sequence[Encoded]) -> Encoded:
        firsts = np.cumsum([0, *(len(part.sources) for part in parts)])
        return cls(
            [source for part in parts for source in part.sources],
            np.concatenate([part.which + first for part, first in zip(parts, firsts[:-1], strict=True)]),
            np.concatenate([part.offset for part in parts]),
            np.concatenate([part.size for part in parts]),
        )


@dataclass(frozen=True, eq=False)
class Faces:
    """pixels uint8 (N, 112, 112, 3) RGB, or what gives such for any rows; labels int64 (N), NO_IDENTITY where unknown;
    teacher float32 (N, D) unit, or None."""

    pixels: NDArray[np.uint8] | Encoded
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
        pixels = self.pixels.take(rows) if isinstance(self.pixels, Encoded) else self.pixels[rows]
        return Faces(pixels, self.labels[rows], None if self.teacher is None else self.teacher[rows])

    @cached_property
    def identities(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(rows by identity, where each begins and the end); faces without a label are an identity each."""
        order = np.argsort(self.labels, kind="stable")
        known = self.labels[order]
        new = np.ones(len(order), bool)
        new[1:] = (known[1:] != known[:-1]) | (known[1:] < 0)
        return order, np.append(np.flatnonzero(new), len(order))


def decode(encoded: bytes | NDArray[np.uint8]) -> NDArray[np.uint8]:
    """One encoded picture -> uint8 (112, 112, 3) RGB. Raises ValueError when it is not an aligned crop."""
    picture = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
    if picture is None or picture.shape != (CROP_SIZE, CROP_SIZE, 3):
        raise ValueError("not a picture of 112x112 pixels; align the faces first")
    return np.ascontiguousarray(picture[:, :, ::-1])


def read_pack(
    path: Path, *, teacher: Path | None = None, leave_out: str | None = None, encoded: bool = False
) -> Faces:
    """Read an npz pack; `leave_out` names its boolean mask of pictures not to use; `encoded` decodes no picture before
    it is asked for, here and in `read_folder` and `read_tar`. Raises OSError, KeyError or ValueError."""
    with np.load(path, allow_pickle=False) as pack:
        offsets, blob = pack["offsets"], pack["blob"]
        stored = Encoded([blob], np.zeros(len(offsets) - 1, np.int64), offsets[:-1], np.diff(offsets))
        pixels = stored if encoded else np.stack([decode(blob[a:b]) for a, b in pairwise(offsets)])
        labels = pack["labels"].astype(np.int64) if "labels" in pack else np.full(len(pixels), NO_IDENTITY)
        keep = ~pack[leave_out] if leave_out and leave_out in pack else np.ones(len(pixels), bool)
    embeddings = None
    if teacher is not None:
        with np.load(teacher, allow_pickle=False) as stored:
            embeddings = stored["embeddings"].astype(np.float32)
        embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    return Faces(pixels, labels, embeddings).take(keep)


def read_folder(path: Path, *, encoded: bool = False) -> Faces:
    """`<identity>/<picture>`; identities in sorted order are the labels."""
    files = sorted(file for file in path.glob("*/*") if file.suffix.lower() in PICTURES)
    places = [(file.parent.name, file, 0, file.stat().st_size) for file in files]
    return _labelled(places, encoded)


def read_tar(paths: Iterable[Path], *, encoded: bool = False) -> Faces:
    """Tar shards whose members are `<identity>/<picture>`, read in the order given; uncompressed."""
    return _labelled([place for path in paths for place in _members(path)], encoded)


def _members(path: Path) -> Iterator[tuple[str, Path, int, int]]:
    """Identity, file, offset and size of every picture."""
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                name = Path(member.name)
                if member.isfile() and name.suffix.lower() in PICTURES:
                    yield name.parent.name, path, member.offset_data, member.size
    except tarfile.ReadError as error:
        raise ValueError(f"{path} is not an uncompressed tar") from error


def _labelled(places: Sequence[tuple[str, Path, int, int]], encoded: bool) -> Faces:
    if not places:
        raise ValueError("no pictures here; expected <identity>/<picture> with aligned 112x112 faces")
    names, files, offsets, sizes = zip(*places, strict=True)
    sources = list(dict.fromkeys(files))
    number = {file: k for k, file in enumerate(sources)}
    which = np.array([number[file] for file in files], np.int64)
    stored = Encoded(sources, which, np.array(offsets, np.int64), np.array(sizes, np.int64))
    _, labels = np.unique(names, return_inverse=True)
    return Faces(stored if encoded else stored[:], labels.astype(np.int64))


def join(parts: Iterable[Faces]) -> Faces:
    """One set; identities of different parts stay different."""
    parts = list(parts)
    labels, teachers, first = [], [], 0
    for part in parts:
        labels.append(np.where(part.labels >= 0, part.labels + first, NO_IDENTITY))
        first += int(part.labels.max(initial=NO_IDENTITY)) + 1
        teachers.append(part.teacher)
    known = [teacher for teacher in teachers if teacher is not None]
    if known and len(known) != len(teachers):
        raise ValueError("some parts have a teacher's embeddings and some have not")
    stored = [part.pixels for part in parts if isinstance(part.pixels, Encoded)]
    decoded = [part.pixels for part in parts if not isinstance(part.pixels, Encoded)]
    if stored and decoded:
        raise ValueError("some parts are decoded and some are not")
    pixels = Encoded.joined(stored) if stored else np.concatenate(decoded)
    return Faces(pixels, np.concatenate(labels), np.concatenate(known) if known else None)


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
    order, starts = faces.identities
    picks = random.integers(0, len(starts) - 1, count)
    return order[random.integers(starts[picks], starts[picks + 1])]


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
