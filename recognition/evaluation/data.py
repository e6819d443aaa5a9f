"""Test sets in the forms they come in: folders, tars, npz packs, InsightFace `.bin` sets, IJB protocol files.

Every picture is one aligned 112x112 face; it is read when it is asked for. Names are paths inside the set,
without extension. Nothing here executes what a file says: `.bin` sets are pickles and are read by an
unpickler that knows lists, bytes, booleans and nothing else.
"""

from __future__ import annotations

import csv
import pickle
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from recognition.align import align
from recognition.types import CROP_SIZE, FaceCrop

PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
BIN_FOLDS = 10


class DataError(ValueError):
    """A test set that is not what it should be; the message says which file and where."""


def decode(data: bytes, what: str) -> NDArray[np.uint8]:
    """An encoded picture to uint8 (H, W, 3) RGB. Raises DataError naming `what`."""
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    if picture is None:
        raise DataError(f"{what} is not a picture")
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8)


class Images(Mapping[str, FaceCrop]):
    """Face crops by name, decoded on access. A picture that is not 112x112 raises DataError."""

    def __init__(self, readers: Mapping[str, Callable[[], bytes]]) -> None:
        self._readers = dict(readers)

    def __getitem__(self, name: str) -> FaceCrop:
        picture = decode(self.encoded(name), name)
        if picture.shape != (CROP_SIZE, CROP_SIZE, 3):
            raise DataError(f"{name} is {picture.shape[1]}x{picture.shape[0]}; aligned crops are 112x112")
        return FaceCrop(picture)

    def encoded(self, name: str) -> bytes:
        """The file as it is."""
        try:
            reader = self._readers[name]
        except KeyError:
            raise DataError(f"there is no picture {name!r} in this set") from None
        return reader()

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)

    def __contains__(self, name: object) -> bool:
        return name in self._readers


def without_extension(name: str) -> str:
    """`a/b.jpg` to `a/b`; names without a picture's extension stay as they are (`J._Doe` is a name)."""
    path = PurePosixPath(name)
    return str(path.with_suffix("")) if path.suffix.lower() in PICTURES else str(path)


def open_images(path: Path | str, *, leave_out: str | None = None) -> Images:
    """A folder, an uncompressed tar, an npz pack or a `.bin` set. Raises DataError or OSError.

    leave_out: the name of a boolean mask in an npz pack; pictures it marks are not part of the set.
    """
    source = Path(path)
    if leave_out and source.suffix != ".npz":
        raise DataError("only npz packs carry masks of pictures to leave out")
    if source.is_dir():
        return _folder(source)
    if source.suffix == ".npz":
        return _pack(source, leave_out)
    if source.suffix == ".bin":
        return read_bin(source)[0]
    if tarfile.is_tarfile(source):
        return _tar(source)
    raise DataError(f"{source} is neither a folder nor a tar, npz or bin file")


def _named(readers: list[tuple[str, Callable[[], bytes]]], source: Path) -> Images:
    images = Images(dict(readers))
    if not readers:
        raise DataError(f"there are no pictures in {source}")
    if len(images) < len(readers):
        raise DataError(f"two pictures in {source} differ only in their extension")
    return images


def _folder(folder: Path) -> Images:
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in PICTURES)
    return _named(
        [(without_extension(f.relative_to(folder).as_posix()), f.read_bytes) for f in files], folder
    )


def _tar(file: Path) -> Images:
    """Only the index is read here; a picture is read from its place in the file."""

    def reader(place: int, size: int) -> Callable[[], bytes]:
        def read() -> bytes:
            with file.open("rb") as stream:
                stream.seek(place)
                return stream.read(size)

        return read

    try:
        with tarfile.open(file, "r:") as archive:
            members = [m for m in archive if m.isreg() and PurePosixPath(m.name).suffix.lower() in PICTURES]
    except tarfile.ReadError as error:
        raise DataError(f"{file} is not an uncompressed tar") from error
    return _named(
        [(without_extension(m.name.removeprefix("./")), reader(m.offset_data, m.size)) for m in members], file
    )


def _pack(file: Path, leave_out: str | None) -> Images:
    with np.load(file, allow_pickle=False) as pack:
        blob, offsets = pack["blob"], pack["offsets"]
        keep = _kept(file, pack, leave_out)

    def reader(i: int) -> Callable[[], bytes]:
        return lambda: blob[offsets[i] : offsets[i + 1]].tobytes()

    return _named([(f"{i:06d}", reader(int(i))) for i in np.flatnonzero(keep)], file)


def _kept(file: Path, pack: Any, leave_out: str | None) -> NDArray[np.bool_]:
    if leave_out is None:
        return np.ones(len(pack["offsets"]) - 1, bool)
    if leave_out not in pack:
        raise DataError(f"{file} has no mask {leave_out!r}")
    return ~pack[leave_out].astype(bool)


def pack_identities(path: Path | str, *, leave_out: str | None = None) -> dict[str, str]:
    """Name -> identity of an npz pack with `labels` and `identities`, named as `open_images` names them."""
    file = Path(path)
    with np.load(file, allow_pickle=False) as pack:
        if "labels" not in pack or "identities" not in pack:
            raise DataError(f"{file} has no identity labels")
        labels, identities = pack["labels"], pack["identities"]
        kept = np.flatnonzero(_kept(file, pack, leave_out))
    return {f"{i:06d}": str(identities[labels[i]]) for i in kept}


def pack_columns(path: Path | str, columns: str) -> dict[str, dict[str, str]]:
    """Of the columns named (separated by commas) those that an npz pack holds a value of for every picture:
    column -> name -> value."""
    found: dict[str, dict[str, str]] = {}
    with np.load(Path(path), allow_pickle=False) as pack:
        count = len(pack["offsets"]) - 1
        for column in columns.split(","):
            if column in pack and pack[column].shape == (count,):
                found[column] = {f"{i:06d}": str(value) for i, value in enumerate(pack[column])}
    return found


# --- pairs and labels -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pairs:
    """Comparisons of a verification test: names, whether both show one person, and the fold."""

    first: tuple[str, ...]
    second: tuple[str, ...]
    same: NDArray[np.bool_]
    fold: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.first)

    def names(self) -> list[str]:
        """Every picture once, in order of appearance."""
        return list(
            dict.fromkeys(name for pair in zip(self.first, self.second, strict=True) for name in pair)
        )

    def every(self, step: int) -> Pairs:
        """Every step-th pair: a quick look, never a figure to report."""
        keep = slice(None, None, step)
        return Pairs(self.first[keep], self.second[keep], self.same[keep], self.fold[keep])


def read_pairs(path: Path | str) -> Pairs:
    """csv with the header `fold,img1,img2,same`, names with or without extension, same 0 or 1."""
    rows = _rows(path, ("fold", "img1", "img2", "same"))
    same = []
    for line, row in enumerate(rows, start=2):
        if row["same"] not in ("0", "1"):
            raise DataError(f"{path}, line {line}: `same` is 0 or 1, not {row['same']!r}")
        same.append(row["same"] == "1")
    try:
        folds = np.array([int(row["fold"]) for row in rows], np.int64)
    except ValueError as error:
        raise DataError(f"{path}: folds are whole numbers") from error
    return Pairs(
        tuple(without_extension(row["img1"]) for row in rows),
        tuple(without_extension(row["img2"]) for row in rows),
        np.array(same, bool),
        folds,
    )


PAIRS_A_FOLD = 300  # of each kind, as LFW has them


def draw_pairs(identities: Mapping[str, str], *, seed: int, folds: int = BIN_FOLDS) -> Pairs:
    """Pairs in LFW's manner for a set that comes without: ten folds of people, in each up to 300 pairs of one person
    and as many of two. People are drawn before pictures, so nobody decides by being photographed often."""
    rng = np.random.default_rng(seed)
    pictures: dict[str, list[str]] = {}
    for name in sorted(identities):
        pictures.setdefault(identities[name], []).append(name)
    rows: dict[tuple[str, str], tuple[bool, int]] = {}
    for fold, part in enumerate(np.array_split(rng.permutation(sorted(pictures)), folds)):
        people = [str(person) for person in part]
        several = [person for person in people if len(pictures[person]) > 1]
        if not several or len(people) < 2:
            raise DataError(f"{len(pictures)} people are too few for {folds} folds of pairs")
        wanted = {True: 0, False: 0}
        for attempt in range(4 * PAIRS_A_FOLD):
            same = attempt % 2 == 0
            if same:
                first, second = rng.choice(pictures[several[rng.integers(len(several))]], 2, replace=False)
            else:
                one, other = rng.choice(people, 2, replace=False)
                first, second = rng.choice(pictures[str(one)]), rng.choice(pictures[str(other)])
            pair = (str(min(first, second)), str(max(first, second)))
            if pair not in rows and wanted[same] < PAIRS_A_FOLD:
                rows[pair] = (same, fold)
                wanted[same] += 1
    return Pairs(
        tuple(first for first, _ in rows),
        tuple(second for _, second in rows),
        np.array([same for same, _ in rows.values()], bool),
        np.array([fold for _, fold in rows.values()], np.int64),
    )


def read_labels(path: Path | str) -> dict[str, dict[str, str]]:
    """csv with a column `file` and any others: name (without extension) -> its other columns."""
    labels: dict[str, dict[str, str]] = {}
    for line, row in enumerate(_rows(path, ("file",)), start=2):
        name = without_extension(row.pop("file"))
        if name in labels:
            raise DataError(f"{path}, line {line}: {name} is labelled twice")
        labels[name] = row
    return labels


def read_identities(path: Path | str) -> dict[str, str]:
    """csv with columns `file` and `identity`: name -> identity."""
    _rows(path, ("file", "identity"))
    return {name: row["identity"] for name, row in read_labels(path).items()}


def _rows(path: Path | str, columns: tuple[str, ...]) -> list[dict[str, str]]:
    with Path(path).open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        missing = [column for column in columns if column not in (reader.fieldnames or [])]
        if missing:
            raise DataError(f"{path} has no column {', '.join(missing)}")
        rows = list(reader)
    if not rows:
        raise DataError(f"{path} has no rows")
    for line, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise DataError(f"{path}, line {line}: the number of fields differs from the header's")
    return rows


# --- InsightFace .bin -------------------------------------------------------------------------------------


def _latin1(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes in pickle protocol 2; any other use is refused."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError("a .bin set encodes bytes as latin1 only")
    return text.encode("latin1")


class _PlainUnpickler(pickle.Unpickler):
    """Lists, tuples, numbers, booleans, text, bytes. Any other name in the file raises before it is
    imported."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return _latin1
        if (module, name) in (("__builtin__", "bytes"), ("builtins", "bytes")):
            return bytes  # how protocol 2 writes b""
        raise pickle.UnpicklingError(f"a .bin set has no business naming {module}.{name}")

    def persistent_load(self, identifier: Any) -> Any:
        raise pickle.UnpicklingError("a .bin set refers to nothing outside itself")


def read_bin(path: Path | str) -> tuple[Images, Pairs]:
    """An InsightFace evaluation set (lfw, cfp_fp, agedb_30, calfw, cplfw): pickled (pictures, issame).

    Picture 2i and 2i+1 form pair i. The ten folds are ten runs of neighbouring pairs, as InsightFace's own
    verification splits them. Raises DataError for anything else, above all for a pickle that names code.
    """
    file = Path(path)
    try:
        with file.open("rb") as stream:
            content = _PlainUnpickler(stream, encoding="bytes").load()
    except (
        pickle.UnpicklingError,
        EOFError,
        AttributeError,
        IndexError,
        KeyError,
        TypeError,
        ValueError,
    ) as error:
        raise DataError(f"{file} is not an InsightFace evaluation set: {error}") from error
    if not (isinstance(content, tuple | list) and len(content) == 2):
        raise DataError(f"{file} does not hold (pictures, issame)")
    pictures, issame = content
    if not (isinstance(pictures, list) and isinstance(issame, list | tuple)) or len(pictures) != 2 * len(
        issame
    ):
        raise DataError(f"{file} does not hold two pictures for each comparison")
    if not issame or not all(isinstance(p, bytes) for p in pictures) or not all(s in (0, 1) for s in issame):
        raise DataError(f"{file}: pictures are encoded bytes, issame is true or false")

    def reader(data: bytes) -> Callable[[], bytes]:
        return lambda: data

    names = [f"{i:06d}" for i in range(len(pictures))]
    images = Images({name: reader(data) for name, data in zip(names, pictures, strict=True)})
    fold = np.concatenate(
        [np.full(len(part), k) for k, part in enumerate(np.array_split(np.arange(len(issame)), BIN_FOLDS))]
    )
    return images, Pairs(tuple(names[::2]), tuple(names[1::2]), np.array(issame, bool), fold.astype(np.int64))


# --- IJB-B and IJB-C --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class IjbProtocol:
    """IJB 1:1 mixed verification: pictures belong to templates and, within one, to media (a video is one)."""

    names: tuple[str, ...]
    template: NDArray[np.int64]  # (pictures,)
    media: NDArray[np.int64]  # (pictures,)
    first: NDArray[np.int64]  # (pairs,) template ids
    second: NDArray[np.int64]
    same: NDArray[np.bool_]


def read_ijb(media: Path | str, pairs: Path | str) -> IjbProtocol:
    """`ijbX_face_tid_mid.txt` (picture, template, media) and `ijbX_template_pair_label.txt` (template,
    template, 0 or 1), both separated by blanks. Raises DataError."""
    names: list[str] = []
    numbers: list[tuple[int, int]] = []
    for line, fields in _fields(media, 3):
        names.append(without_extension(fields[0]))
        numbers.append((_whole(fields[1], media, line), _whole(fields[2], media, line)))
    compared = np.array(
        [[_whole(field, pairs, line) for field in fields] for line, fields in _fields(pairs, 3)], np.int64
    )
    if not np.isin(compared[:, 2], (0, 1)).all():
        raise DataError(f"{pairs}: the third column is 0 or 1")
    template, medium = np.array(numbers, np.int64).T
    unknown = np.setdiff1d(compared[:, :2], template)
    if unknown.size:
        raise DataError(f"{pairs} compares template {unknown[0]}, of which {media} has no picture")
    return IjbProtocol(
        tuple(names), template, medium, compared[:, 0], compared[:, 1], compared[:, 2].astype(bool)
    )


def read_landmarks(path: Path | str) -> dict[str, NDArray[np.float64]]:
    """`ijbX_name_5pts_score.txt`: picture, ten coordinates (x y of five points), score: name -> (5, 2)."""
    landmarks = {}
    for line, fields in _fields(path, 12):
        try:
            landmarks[without_extension(fields[0])] = np.array(fields[1:11], np.float64).reshape(5, 2)
        except ValueError as error:
            raise DataError(f"{path}, line {line}: coordinates are numbers") from error
    return landmarks


def align_loose(images: Images, name: str, points: NDArray[np.float64]) -> FaceCrop:
    """A loosely cropped picture of IJB, aligned by its published landmarks."""
    return align(decode(images.encoded(name), name), points)


def _fields(path: Path | str, count: int) -> Iterator[tuple[int, list[str]]]:
    empty = True
    with Path(path).open(encoding="utf-8") as file:
        for line, text in enumerate(file, start=1):
            fields = text.split()
            if not fields:
                continue
            if len(fields) != count:
                raise DataError(f"{path}, line {line}: {len(fields)} fields instead of {count}")
            empty = False
            yield line, fields
    if empty:
        raise DataError(f"{path} is empty")


def _whole(text: str, path: Path | str, line: int) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise DataError(f"{path}, line {line}: {text!r} is not a whole number") from error
