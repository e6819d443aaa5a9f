"""Pictures for tests of evaluation: synthetic people, a judge, sets on disk. No photograph of anybody but
the portrait."""

from __future__ import annotations

import io
import tarfile
import warnings
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from recognition.types import FaceCrop
from tests.tiny_model import synthetic_picture


def person(number: int, picture: int) -> FaceCrop:
    """Picture k of synthetic person n: the person's blobs, a little brighter or darker and a pixel moved."""
    pixels = synthetic_picture(number).pixels.astype(np.float64) + 6.0 * picture
    moved = np.roll(pixels, picture % 2, axis=1)
    return FaceCrop(np.clip(moved, 0, 255).astype(np.uint8))


def people(count: int, pictures: int) -> dict[str, FaceCrop]:
    """`p003_1` and so on."""
    return {f"p{n:03d}_{k}": person(n, k) for n in range(count) for k in range(pictures)}


def identities(images: dict[str, FaceCrop]) -> dict[str, str]:
    return {name: name.split("_")[0] for name in images}


def write_tar(path: Path, images: dict[str, FaceCrop]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, crop in images.items():
            content = cv2.imencode(".png", crop.pixels[:, :, ::-1])[1].tobytes()
            entry = tarfile.TarInfo(f"{name}.png")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def write_pack(path: Path, images: dict[str, FaceCrop]) -> Path:
    """An npz pack with identities, as training and evaluation read it."""
    encoded = [cv2.imencode(".png", crop.pixels[:, :, ::-1])[1].tobytes() for crop in images.values()]
    names, labels = np.unique(list(identities(images).values()), return_inverse=True)
    np.savez(
        path,
        blob=np.frombuffer(b"".join(encoded), np.uint8),
        offsets=np.cumsum([0, *map(len, encoded)]),
        labels=labels.astype(np.int32),
        identities=names,
    )
    return path


def write_labels(path: Path, images: dict[str, FaceCrop]) -> Path:
    path.write_text(
        "file,identity,gender,age\n"
        + "".join(
            f"{name},{who},{'f' if int(who[1:]) % 2 else 'm'},30\n"
            for name, who in identities(images).items()
        )
    )
    return path


class CoarseJudge(nn.Module):
    """Recognises by a coarse thumbnail without its mean: enough to tell synthetic people apart, and trained
    on nobody."""

    def forward(self, x: Tensor) -> Tensor:
        thumbnail = nn.functional.adaptive_avg_pool2d(x, 14).flatten(1)
        return nn.functional.normalize(thumbnail - thumbnail.mean(dim=1, keepdim=True))


def write_judge(path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # the format judges come in, whatever torch prefers
        torch.jit.script(CoarseJudge()).save(str(path))  # type: ignore[no-untyped-call]
    return path
