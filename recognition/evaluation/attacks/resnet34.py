"""A recogniser that has nothing to do with ours: dlib's ResNet of 29 convolutions (King, 2017), as face-api carries it.

Its author trained it on about three million faces of FaceScrub, VGG and the web, with dlib's own alignment and
metric loss; none of its training, data or structure went into Lintel's. The weights come, 8 bits each, inside the
npm package @vladmandic/face-api (MIT), pinned by version, by the SHA-512 that npm publishes and by the SHA-256 of
each file. They are fetched once, when a judge is first asked for, into the folder of the face detection networks.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from recognition.fetch_models import (
    ModelsUnavailableError,
    Package,
    Part,
    fetch_tarball,
    find_registry,
    models_folder,
    read_model,
    unpack,
)

NAME = "face-api"
WEIGHTS = Part(
    file="face_recognition_model.bin",
    member="package/model/face_recognition_model.bin",
    start=0,
    length=6_444_032,
    sha256="b413e420d6840b2775fba32008db6f3cddb07d485967fb42cfcf379c16a8c589",
)
MANIFEST = Part(
    file="face_recognition_model-weights_manifest.json",
    member="package/model/face_recognition_model-weights_manifest.json",
    start=0,
    length=19_615,
    sha256="cbaffa501b0b9275a12b63357a6843e7e30c054e1c9151e1a5f879b26e32986b",
)
PACKAGE = Package(
    name="@vladmandic/face-api",
    version="1.7.15",
    integrity="WDMmK3CfNLo8jylWqMoQgf4nIst3M0fzx1dnac96wv/dvMTN4DxC/Pq1DGtduDk1lktCamQ3MIDXFnvrdHTXDw==",
    bytes=12_677_476,
    parts=(WEIGHTS, MANIFEST),
)

CHIP = 150  # pixels, what it takes
MEAN_RGB = (122.782, 117.001, 104.298)
# Where face-api would cut its chip out of an aligned crop, by its own rule (FaceLandmarks.align) applied to the five
# points of the template: a square of (eye to mouth) / 0.45 around the mean of eyes and mouth, which lies at 0.43 of
# its height. It ends 9 pixels below the crop; the last row is repeated there.
CHIP_SIDE, CHIP_CENTRE = 98.0, (56.0, 72.0)  # pixels of the 112x112 crop
STAGES = ((32, 3), (64, 3), (128, 2), (256, 2))  # channels, residual blocks without stride


def decode_weights(manifest: bytes, blob: bytes) -> dict[str, NDArray[np.float32]]:
    """Tensors of a TensorFlow.js manifest: uint8 with scale and least value, or float32. Raises ValueError."""
    tensors: dict[str, NDArray[np.float32]] = {}
    at = 0
    for group in json.loads(manifest):
        for entry in group["weights"]:
            count = int(np.prod(entry["shape"]))
            quantised = entry.get("quantization")
            width = 1 if quantised else 4
            if at + count * width > len(blob):
                raise ValueError("the weights end within " + str(entry["name"]))
            if quantised:
                codes = np.frombuffer(blob, np.uint8, count, at).astype(np.float32)
                values = codes * np.float32(quantised["scale"]) + np.float32(quantised["min"])
            else:
                values = np.frombuffer(blob, "<f4", count, at).copy()
            tensors[str(entry["name"])] = values.reshape(entry["shape"])
            at += count * width
    if at != len(blob):
        raise ValueError(f"{len(blob) - at} bytes of weights belong to no tensor")
    return tensors


class Convolution(nn.Module):
    """Convolution, then a scale and an offset per channel (dlib's affine layer), then perhaps ReLU."""

    filters: Tensor
    bias: Tensor

    def __init__(
        self, weights: Mapping[str, NDArray[np.float32]], name: str, stride: int, relu: bool
    ) -> None:
        super().__init__()
        scale = torch.tensor(weights[f"{name}/scale/weights"])
        filters = torch.tensor(weights[f"{name}/conv/filters"]).permute(3, 2, 0, 1)  # out, in, row, column
        offset = torch.tensor(weights[f"{name}/scale/biases"])
        self.register_buffer("filters", (filters * scale.view(-1, 1, 1, 1)).contiguous())
        self.register_buffer("bias", torch.tensor(weights[f"{name}/conv/bias"]) * scale + offset)
        self.stride, self.relu = stride, relu

    def forward(self, x: Tensor) -> Tensor:
        padding = 1 if self.stride == 1 else 0  # TensorFlow's `same` and `valid`
        y = functional.conv2d(x, self.filters, self.bias, self.stride, padding)
        return functional.relu(y) if self.relu else y


class Block(nn.Module):
    """Two 3x3 convolutions; where they stride, the shortcut is average-pooled and given zeros for its new channels."""

    def __init__(self, weights: Mapping[str, NDArray[np.float32]], name: str, stride: int) -> None:
        super().__init__()
        self.first = Convolution(weights, f"{name}/conv1", stride, relu=True)
        self.second = Convolution(weights, f"{name}/conv2", 1, relu=False)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(self.first(x))
        if self.stride > 1:
            x = functional.avg_pool2d(x, 2, 2)
            y = functional.pad(y, (0, x.shape[3] - y.shape[3], 0, x.shape[2] - y.shape[2]))
            x = functional.pad(x, (0, 0, 0, 0, 0, y.shape[1] - x.shape[1]))
        return functional.relu(x + y)


class ResNet34(nn.Module):
    """Aligned crops (N, 3, 112, 112), RGB 0..255, to descriptors (N, 128): compared by distance, not by angle."""

    last: Tensor
    mean: Tensor
    placing: Tensor

    def __init__(self, weights: Mapping[str, NDArray[np.float32]]) -> None:
        super().__init__()
        self.stem = Convolution(weights, "conv32_down", 2, relu=True)
        blocks: list[nn.Module] = []
        for width, count in STAGES:
            if width > 32:
                blocks.append(Block(weights, f"conv{width}_down", 2))
            blocks += [Block(weights, f"conv{width}_{k + 1}", 1) for k in range(count)]
        self.blocks = nn.Sequential(*blocks, Block(weights, "conv256_down_out", 2))
        self.register_buffer("last", torch.tensor(weights["fc"]))
        self.register_buffer("mean", torch.tensor(MEAN_RGB).view(1, 3, 1, 1))
        share = CHIP_SIDE / 112
        shift = [2 * (c + 0.5) / 112 - 1 for c in CHIP_CENTRE]
        self.register_buffer("placing", torch.tensor([[[share, 0, shift[0]], [0, share, shift[1]]]]))

    def forward(self, crops: Tensor) -> Tensor:
        grid = functional.affine_grid(
            self.placing.expand(len(crops), -1, -1), [len(crops), 3, CHIP, CHIP], align_corners=False
        )
        chips = functional.grid_sample(crops, grid, padding_mode="border", align_corners=False)
        x = functional.max_pool2d(self.stem((chips - self.mean) / 255), 3, 2)
        descriptors: Tensor = self.blocks(x).mean(dim=(2, 3)) @ self.last
        return descriptors


def load(folder: Path | None = None) -> ResNet34:
    """The network, from verified files; fetches them where they are missing. Raises ModelsUnavailableError."""
    place = models_folder() if folder is None else folder
    try:
        found = {part.file: read_model(part, place) for part in PACKAGE.parts}
    except ModelsUnavailableError:
        tarball = fetch_tarball(PACKAGE, find_registry(), lambda received, expected: None)
        found = unpack(PACKAGE, tarball)
        for name, content in found.items():
            _write(place / name, content)
    return ResNet34(decode_weights(found[MANIFEST.file], found[WEIGHTS.file])).eval()


def _write(path: Path, content: bytes) -> None:
    """Complete before it has its name: two processes may fetch at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, unfinished = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    Path(unfinished).chmod(0o644)
    Path(unfinished).replace(path)
