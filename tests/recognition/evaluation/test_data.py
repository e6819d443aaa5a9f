"""Test sets in every form they come in, made here; and what must not get in."""

from __future__ import annotations

import io
import os
import pickle
import struct
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from skimage.data import astronaut

from recognition.evaluation import data


def encoded(value: int = 0, size: int = 112, extension: str = ".png") -> bytes:
    picture = np.full((size, size, 3), (value, 10, 200), np.uint8)  # RGB
    return bytes(cv2.imencode(extension, picture[:, :, ::-1])[1].tobytes())


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def write_pack(path: Path, values: list[int], **arrays: np.ndarray) -> Path:
    blobs = [encoded(value) for value in values]
    offsets = np.cumsum([0, *map(len, blobs)])
    np.savez(path, blob=np.frombuffer(b"".join(blobs), np.uint8), offsets=offsets, **arrays)
    return path


def test_a_folder_and_a_tar_of_the_same_pictures_are_the_same_set(tmp_path: Path) -> None:
    folder = tmp_path / "faces"
    (folder / "ada").mkdir(parents=True)
    (folder / "ada" / "1.png").write_bytes(encoded(7))
    (folder / "J._Doe_0001.png").write_bytes(encoded(9))
    (folder / "notes.txt").write_text("no picture")
    tar = write_tar(
        tmp_path / "faces.tar",
        {"./ada/1.png": encoded(7), "J._Doe_0001.png": encoded(9), "notes.txt": b"no picture"},
    )
    for images in (data.open_images(folder), data.open_images(tar)):
        assert set(images) == {"ada/1", "J._Doe_0001"}
        assert images["ada/1"].pixels[0, 0].tolist() == [7, 10, 200]
        assert "J" not in images


def test_a_pack_names_pictures_by_place_and_leaves_out_what_a_mask_marks(tmp_path: Path) -> None:
    pack = write_pack(
        tmp_path / "pack.npz",
        [1, 2, 3],
        labels=np.array([0, 1, 0]),
        identities=np.array(["ada", "bob"]),
        overlap=np.array([False, True, False]),
    )
    images = data.open_images(pack, leave_out="overlap")
    assert list(images) == ["000000", "000002"]
    assert images["000002"].pixels[0, 0, 0] == 3
    assert data.pack_identities(pack) == {"000000": "ada", "000001": "bob", "000002": "ada"}
    assert data.pack_identities(pack, leave_out="overlap") == {"000000": "ada", "000002": "ada"}
    with pytest.raises(data.DataError, match="no mask"):
        data.open_images(pack, leave_out="nothing")


def test_a_picture_of_another_size_or_no_picture_is_refused_by_name(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "x.tar", {"large.png": encoded(size=120), "broken.png": b"not a picture"})
    images = data.open_images(tar)
    with pytest.raises(data.DataError, match="large is 120x120"):
        images["large"]
    with pytest.raises(data.DataError, match="broken is not a picture"):
        images["broken"]
    with pytest.raises(data.DataError, match="no picture 'absent'"):
        images["absent"]


def test_an_empty_folder_and_an_unknown_file_are_no_sets(tmp_path: Path) -> None:
    with pytest.raises(data.DataError, match="no pictures"):
        data.open_images(tmp_path)
    (tmp_path / "x.doc").write_text("x")
    with pytest.raises(data.DataError, match="neither"):
        data.open_images(tmp_path / "x.doc")


def test_pairs_are_read_with_or_without_extension(tmp_path: Path) -> None:
    file = tmp_path / "pairs.csv"
    file.write_text("fold,img1,img2,same\n0,a.jpg,b,1\n1,a,c,0\n")
    pairs = data.read_pairs(file)
    assert (pairs.first, pairs.second) == (("a", "a"), ("b", "c"))
    assert pairs.same.tolist() == [True, False]
    assert pairs.fold.tolist() == [0, 1]
    assert pairs.names() == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("fold,img1,img2\n0,a,b\n", "no column same"),
        ("fold,img1,img2,same\n", "no rows"),
        ("fold,img1,img2,same\n0,a,b,yes\n", "line 2: `same` is 0 or 1"),
        ("fold,img1,img2,same\nx,a,b,1\n", "whole numbers"),
        ("fold,img1,img2,same\n0,a,b\n", "line 2: the number of fields"),
        ("fold,img1,img2,same\n0,a,b,1,2\n", "line 2: the number of fields"),
    ],
)
def test_a_malformed_list_of_pairs_is_refused_with_its_place(
    tmp_path: Path, text: str, complaint: str
) -> None:
    file = tmp_path / "pairs.csv"
    file.write_text(text)
    with pytest.raises(data.DataError, match=complaint):
        data.read_pairs(file)


def test_a_picture_labelled_twice_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_text("file,identity\na.jpg,ada\na,bob\n")
    with pytest.raises(data.DataError, match="line 3: a is labelled twice"):
        data.read_identities(file)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_an_insightface_set_is_read_whatever_pickle_protocol_wrote_it(tmp_path: Path, protocol: int) -> None:
    pictures = [encoded(value, extension=".jpg") for value in range(40)]
    file = tmp_path / "lfw.bin"
    file.write_bytes(pickle.dumps((pictures, [True, False] * 10), protocol=protocol))
    images, pairs = data.read_bin(file)
    assert len(images) == 40 and len(pairs) == 20
    assert (pairs.first[3], pairs.second[3]) == ("000006", "000007")
    assert pairs.same.tolist() == [True, False] * 10
    assert pairs.fold.tolist() == [k // 2 for k in range(20)]
    assert images["000006"].pixels.shape == (112, 112, 3)
    assert list(data.open_images(file)) == list(images)


def test_an_insightface_set_written_by_python_2_is_read(tmp_path: Path) -> None:
    # As cPickle of Python 2 writes ([picture, picture], [True]) in protocol 2: BINSTRING for its byte
    # strings.
    def string(content: bytes) -> bytes:
        return b"T" + struct.pack("<i", len(content)) + content

    pictures = b"](" + string(encoded(1)) + string(encoded(2)) + b"e"
    file = tmp_path / "agedb_30.bin"
    file.write_bytes(b"\x80\x02" + pictures + b"]\x88a\x86.")
    images, pairs = data.read_bin(file)
    assert images["000001"].pixels[0, 0, 0] == 2
    assert pairs.same.tolist() == [True]


class Weapon:
    """Unpickled, it would make a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_set_that_names_code_is_refused_and_the_code_does_not_run(tmp_path: Path, protocol: int) -> None:
    file = tmp_path / "evil.bin"
    file.write_bytes(pickle.dumps(([Weapon(tmp_path / "made"), encoded(1)], [True]), protocol=protocol))
    with pytest.raises(data.DataError, match="no business naming"):
        data.read_bin(file)
    assert not (tmp_path / "made").exists()


def test_codecs_encode_is_not_a_way_to_other_codecs(tmp_path: Path) -> None:
    file = tmp_path / "evil.bin"
    file.write_bytes(b"\x80\x02c_codecs\nencode\nX\x04\x00\x00\x00aaaaX\x05\x00\x00\x00rot13\x86R.")
    with pytest.raises(data.DataError, match="latin1 only"):
        data.read_bin(file)


@pytest.mark.parametrize(
    "content",
    [
        ["just a list"],
        ([b"one picture"], [True]),
        ([b"a", b"b"], ["yes"]),
        (["text", "text"], [True]),
        ([], []),
        {"a": 1},
    ],
)
def test_a_pickle_of_something_else_is_no_evaluation_set(tmp_path: Path, content: object) -> None:
    file = tmp_path / "x.bin"
    file.write_bytes(pickle.dumps(content))
    with pytest.raises(data.DataError):
        data.read_bin(file)


def test_a_truncated_set_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.bin"
    file.write_bytes(pickle.dumps(([encoded(1), encoded(2)], [True]))[:-40])
    with pytest.raises(data.DataError, match="not an InsightFace evaluation set"):
        data.read_bin(file)


def write_ijb(folder: Path, media: str, pairs: str) -> tuple[Path, Path]:
    one, two = folder / "ijbc_face_tid_mid.txt", folder / "ijbc_template_pair_label.txt"
    one.write_text(media)
    two.write_text(pairs)
    return one, two


def test_ijb_protocol_files_are_read(tmp_path: Path) -> None:
    protocol = data.read_ijb(*write_ijb(tmp_path, "1.jpg 7 70\n2.jpg 7 71\n3.jpg 9 72\n", "7 9 0\n7 7 1\n"))
    assert protocol.names == ("1", "2", "3")
    assert protocol.template.tolist() == [7, 7, 9]
    assert protocol.media.tolist() == [70, 71, 72]
    assert list(zip(protocol.first, protocol.second, protocol.same, strict=True)) == [
        (7, 9, False),
        (7, 7, True),
    ]


@pytest.mark.parametrize(
    ("media", "pairs", "complaint"),
    [
        ("1.jpg 7\n", "7 7 1\n", "2 fields instead of 3"),
        ("1.jpg 7 x\n", "7 7 1\n", "'x' is not a whole number"),
        ("1.jpg 7 70\n", "7 8 1\n", "template 8"),
        ("1.jpg 7 70\n", "7 7 2\n", "third column"),
        ("1.jpg 7 70\n", "\n", "is empty"),
    ],
)
def test_ijb_files_that_contradict_themselves_are_refused(
    tmp_path: Path, media: str, pairs: str, complaint: str
) -> None:
    with pytest.raises(data.DataError, match=complaint):
        data.read_ijb(*write_ijb(tmp_path, media, pairs))


def test_a_loose_ijb_crop_is_aligned_by_its_published_landmarks(tmp_path: Path) -> None:
    from recognition.evaluation.report import PORTRAIT_POINTS, portrait

    coordinates = " ".join(f"{v}" for v in PORTRAIT_POINTS.reshape(-1))
    file = tmp_path / "ijbc_name_5pts_score.txt"
    file.write_text(f"1.png {coordinates} 0.99\n")
    png = cv2.imencode(".png", np.asarray(astronaut())[:, :, ::-1])[1].tobytes()
    images = data.Images({"1": lambda: bytes(png)})
    crop = data.align_loose(images, "1", data.read_landmarks(file)["1"])
    assert np.array_equal(crop.pixels, portrait())


def test_a_compressed_tar_is_refused_because_its_pictures_have_no_place_to_be_read_from(
    tmp_path: Path,
) -> None:
    file = tmp_path / "x.tgz"
    with tarfile.open(file, "w:gz"):
        pass
    with pytest.raises(data.DataError, match="uncompressed"):
        data.open_images(file)


def test_pairs_are_drawn_in_folds_of_people_nobody_is_in_two_of() -> None:
    identities = {f"{n:03d}_{k}": f"p{n}" for n in range(60) for k in range(1 + n % 4)}
    pairs = data.draw_pairs(identities, seed=0)
    again = data.draw_pairs(identities, seed=0)
    assert (pairs.first, pairs.second) == (again.first, again.second)
    assert len(set(zip(pairs.first, pairs.second, strict=True))) == len(pairs)
    fold_of: dict[str, set[int]] = {}
    for a, b, same, fold in zip(pairs.first, pairs.second, pairs.same, pairs.fold, strict=True):
        assert a != b and (identities[a] == identities[b]) == same
        for person in (identities[a], identities[b]):
            fold_of.setdefault(person, set()).add(int(fold))
    assert all(len(folds) == 1 for folds in fold_of.values())
    assert set(pairs.fold.tolist()) == set(range(10)) and 0 < pairs.same.sum() < len(pairs)
    with pytest.raises(data.DataError, match="too few"):
        data.draw_pairs({"a": "a", "b": "b"}, seed=0)
