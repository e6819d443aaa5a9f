"""Networks from frequency features to an embedding, each with an unprotected twin that sees the picture.

Every network is `Receiver -> trunk -> embedding`. The receiver turns what arrives into what the trunk takes:
unprotected (3, 112, 112) planes, `paper` (189, 112, 112) as they are, or `critical` (189, 14, 14), inverted block by
block into a (3, 112, 112) picture of the noise (post-processing, so no privacy is spent). Trunks: `small` (ours, for
two CPU cores), IR-18/34/50/101 (He et al. 2016 in the form of Deng et al., ArcFace, CVPR 2019) and MobileFaceNet
(Chen et al. 2018).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recognition.frequency import BLOCK, RESEARCH_SHAPES, dct_matrix
from recognition.types import CROP_SIZE

UNPROTECTED = "none"
# Before a backbone's name: its receiver cleans `critical` features by convolutions so many channels wide.
RESTORING = {"restoring-": 160, "slim-restoring-": 96}
BACKBONES = (
    "small", "mobilefacenet", "mobilefacenet-se", *(f"{prefix}mobilefacenet-se" for prefix in RESTORING),
    "ir18", "ir34", "ir50", "ir101",
)  # fmt: skip
PLANES_SCALE = 1 / 64.0  # brings clean planes (about -128..127) to the size that weighted features have


class Receiver(nn.Module):
    """Centre and weigh what arrived, then give it the spatial form the trunk takes.

    forward(values, gain): values float32 (B, C, H, W) from PrivacyProfile.values_of, gain float32 (C, H, W) from
    PrivacyProfile.gain; the unprotected twin takes YCbCr planes (B, 3, 112, 112) and ignores gain.
    restoring: width of a Restorer that improves the estimate before it becomes a picture (`critical` only), 0 for none.
    """

    mean: Tensor
    inverse: Tensor

    def __init__(self, transform: str, *, restoring: int = 0) -> None:
        super().__init__()
        self.transform = transform
        shape = (3, 112, 112) if transform == UNPROTECTED else RESEARCH_SHAPES[transform]
        self.inverts = shape[1] < CROP_SIZE  # `critical`, with DC or without: back to a picture
        self.channels = 3 if self.inverts else shape[0]
        # The mean face in this transform's coefficients, from training data; kept per position where that is small.
        self.register_buffer("mean", torch.zeros(shape if self.inverts else (shape[0], 1, 1)))
        self.weight = nn.Parameter(torch.ones(shape[0], 1, 1))
        if self.inverts:
            inverse = np.kron(dct_matrix(), dct_matrix()).astype(
                np.float32
            )  # coefficients (64) -> pixels (64)
            self.register_buffer(
                "inverse", torch.from_numpy(inverse[-(shape[0] // 3) :].copy()), persistent=False
            )
            self.face = nn.Parameter(
                torch.zeros(3, 112, 112)
            )  # the picture around which the coefficients vary
        self.restorer = Restorer(shape, restoring) if restoring and self.inverts else None

    def forward(self, values: Tensor, gain: Tensor | None = None) -> Tensor:
        x = (values - self.mean) * (PLANES_SCALE if gain is None else gain)  # (B, C, H, W)
        if self.restorer is not None:
            x = self.restorer(x)
        x = x * self.weight
        return self._to_picture(x) + self.face if self.inverts else x

    def _to_picture(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        blocks = x.permute(0, 2, 3, 1).reshape(-1, len(self.inverse)) @ self.inverse  # (B*14*14*3, 64)
        blocks = blocks.view(batch, height, width, 3, BLOCK, BLOCK).permute(0, 3, 1, 4, 2, 5)
        return blocks.reshape(batch, 3, height * BLOCK, width * BLOCK)


class Restorer(nn.Module):
    """Estimate of the clean coefficients from noisy ones and their neighbours, by residual convolutions on the
    block grid.

    forward(x) -> float32 (B, C, H, W): x is each element's own linear (Wiener) estimate in standard deviations of the
    clean coefficient. Starts as the identity. What it computes is post-processing: it spends no privacy, and whoever
    has the features could compute as much (see the learned attack in recognition.evaluation.attacks).
    """

    def __init__(self, shape: tuple[int, int, int], width: int, blocks: int = 3) -> None:
        super().__init__()
        channels, height, rows = shape
        self.enter = nn.Conv2d(channels, width, 1)
        self.place = nn.Parameter(torch.zeros(width, height, rows))  # where in the face a block lies
        self.blocks = nn.Sequential(*(ResidualBlock(width, width) for _ in range(blocks)))
        self.leave = nn.Conv2d(width, channels, 1)
        for parameter in self.leave.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.leave(self.blocks(F.relu(self.enter(x) + self.place)))
        return out


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm and ReLU; the shortcut pools where the block strides."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs or stride != 1:
            pool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
            self.shortcut = nn.Sequential(
                pool, nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class SmallTrunk(nn.Module):
    """4x4 pixels to channels, then a residual network at 28, 14 and 7: about 100 M multiply-adds, 3.5 M parameters."""

    def __init__(self, channels: int, dimension: int, widths: tuple[int, int, int] = (64, 128, 256)) -> None:
        super().__init__()
        first, second, third = widths
        # 189 channels would become 3,024: a pointwise convolution brings them to 12 first.
        self.mix = nn.Conv2d(channels, 12, 1, bias=False) if channels > 3 else nn.Identity()
        self.unshuffle = nn.PixelUnshuffle(4)
        self.stem = nn.Conv2d((12 if channels > 3 else channels) * 16, first, 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(first)
        self.blocks = nn.Sequential(
            ResidualBlock(first, first),
            ResidualBlock(first, second, 2),
            ResidualBlock(second, second),
            ResidualBlock(second, third, 2),
            ResidualBlock(third, third),
        )
        self.reduce = nn.Conv2d(third, 64, 1, bias=False)
        self.reduce_norm = nn.BatchNorm2d(64)
        self.project = nn.Linear(64 * 7 * 7, dimension)
        self.project_norm = nn.BatchNorm1d(dimension)

    def forward(self, x: Tensor) -> Tensor:
        return self.after_mix(self.mix(x))

    def after_mix(self, x: Tensor) -> Tensor:
        x = self.unshuffle(x)  # (B, 48 or 192, 28, 28)
        x = F.relu(self.norm(self.stem(x)))  # (B, 64, 28, 28)
        x = self.blocks(x)  # (B, 256, 7, 7)
        x = F.relu(self.reduce_norm(self.reduce(x))).flatten(1)  # (B, 3136)
        out: Tensor = self.project_norm(self.project(x))  # (B, D)
        return out


class ImprovedResidualUnit(nn.Module):
    """BN-conv-BN-PReLU-conv-BN, the IR unit of Deng et al. (CVPR 2019, section 3.2.2)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.PReLU(outputs),
            nn.Conv2d(outputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut: nn.Module = (
            nn.MaxPool2d(1, stride)
            if inputs == outputs
            else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x) + self.shortcut(x)
        return out


class IRTrunk(nn.Module):
    """IR-n: 64, 128, 256, 512 channels at 56, 28, 14, 7; units per stage by depth."""

    UNITS = {"ir18": (2, 2, 2, 2), "ir34": (3, 4, 6, 3), "ir50": (3, 4, 14, 3), "ir101": (3, 13, 30, 3)}

    def __init__(self, name: str, channels: int, dimension: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.PReLU(64)
        )
        units: list[nn.Module] = []
        width = 64
        for stage, count in enumerate(self.UNITS[name]):
            for unit in range(count):
                units.append(ImprovedResidualUnit(width, 64 << stage, 2 if unit == 0 else 1))
                width = 64 << stage
        self.units = nn.Sequential(*units)
        self.embed = nn.Sequential(
            nn.BatchNorm2d(512),
            nn.Dropout(0.4),
            nn.Flatten(),
            nn.Linear(512 * 7 * 7, dimension),
            nn.BatchNorm1d(dimension),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.embed(self.units(self.stem(x)))
        return out


def _convolution(
    inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1, padding: int | None = None
) -> nn.Sequential:
    pad = size // 2 if padding is None else padding
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, pad, groups=groups, bias=False), nn.BatchNorm2d(outputs)
    )


class InvertedResidual(nn.Module):
    """Expand, depthwise, project (Sandler et al. 2018), with PReLU as in MobileFaceNet."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.keep = stride == 1 and inputs == outputs
        self.body = nn.Sequential(
            _convolution(inputs, hidden, 1), nn.PReLU(hidden),
            _convolution(hidden, hidden, 3, stride, hidden), nn.PReLU(hidden),
            _convolution(hidden, outputs, 1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return x + y if self.keep else y


class MobileFaceNetTrunk(nn.Module):
    """MobileFaceNet, table 1 of Chen et al. 2018 (expansion, channels, repeats, stride of each row)."""

    ROWS = ((2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1))

    def __init__(self, channels: int, dimension: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            _convolution(channels, 64, 3, 2), nn.PReLU(64), _convolution(64, 64, 3, groups=64), nn.PReLU(64),
        ]  # fmt: skip
        width = 64
        for expansion, outputs, repeats, stride in self.ROWS:
            for repeat in range(repeats):
                layers.append(InvertedResidual(width, outputs, stride if repeat == 0 else 1, expansion))
                width = outputs
        layers += [
            _convolution(width, 512, 1),
            nn.PReLU(512),
            _convolution(512, 512, 7, groups=512, padding=0),
        ]
        layers += [nn.Flatten(), nn.Linear(512, dimension, bias=False), nn.BatchNorm1d(dimension)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out


class FixedSlope(nn.Module):
    """Leaky ReLU whose slope comes with the weights and is not trained: its gradient took a third of the
    training time."""

    slope: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("slope", torch.full((1,), 0.25))

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x, self.slope.item())


class SqueezeUnit(nn.Module):
    """Expand, depthwise, project, then weigh channels by what the whole map holds (Hu et al., CVPR 2018)."""

    def __init__(self, inputs: int, hidden: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.keep = stride == 1 and inputs == outputs
        self.body = nn.Sequential(
            nn.Conv2d(inputs, hidden, 1), FixedSlope(),
            nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden), FixedSlope(),
            nn.Conv2d(hidden, outputs, 1),
        )  # fmt: skip
        self.weigh = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(outputs, outputs // 8, 1),
            FixedSlope(),
            nn.Conv2d(outputs // 8, outputs, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        y = y * self.weigh(y)
        return x + y if self.keep else y


class MobileFaceNetSETrunk(nn.Module):
    """MobileFaceNet with channel weighing on 128x128 pictures: the network of Open Model Zoo's
    face-reidentification-retail-0095.

    Batch normalisation is folded away, so it can start from that model's published weights (Apache-2.0)
    and be trained on.
    """

    # inputs, hidden, outputs, stride, repeats
    ROWS = (
        (64, 128, 64, 2, 1),
        (64, 128, 64, 1, 4),
        (64, 256, 128, 2, 1),
        (128, 256, 128, 1, 6),
        (128, 512, 128, 2, 1),
        (128, 256, 128, 1, 2),
    )
    placing: Tensor

    def __init__(self, channels: int, dimension: int) -> None:
        super().__init__()
        # Where each of the 128x128 pixels lies in the 112x112 crop, as an affine map of the unit square.
        self.register_buffer("placing", torch.eye(2, 3))
        self.stem = nn.Sequential(
            nn.Conv2d(channels, 64, 3, 2, 1),
            FixedSlope(),
            nn.Conv2d(64, 64, 3, 1, 1, groups=64),
            FixedSlope(),
        )
        self.units = nn.Sequential(
            *(SqueezeUnit(i, h, o, s) for i, h, o, s, repeats in self.ROWS for _ in range(repeats))
        )
        self.embed = nn.Sequential(
            nn.Conv2d(128, 512, 1),
            FixedSlope(),
            nn.Conv2d(512, 512, 8, groups=512),
            nn.Conv2d(512, dimension, 1, bias=False),
            nn.Flatten(),
        )

    def forward(self, x: Tensor) -> Tensor:
        placing = self.placing.to(x.dtype).expand(len(x), -1, -1)
        grid = F.affine_grid(placing, [len(x), x.shape[1], 128, 128], align_corners=False)
        x = F.grid_sample(x, grid, align_corners=False)  # (B, C, 128, 128)
        out: Tensor = self.embed(self.units(self.stem(x)))
        return out


class Backbone(nn.Module):
    """Receiver and trunk. forward(values, gain) -> float32 (B, D), not normalised; see Receiver for the inputs."""

    def __init__(self, name: str, transform: str, dimension: int) -> None:
        super().__init__()
        if name not in BACKBONES:
            raise ValueError(f"unknown backbone {name!r}; there are {', '.join(BACKBONES)}")
        self.name, self.transform, self.dimension = name, transform, dimension
        width, name = restoring_width(name)
        self.receiver = Receiver(transform, restoring=width)
        channels = self.receiver.channels
        if name == "small":
            self.trunk: nn.Module = SmallTrunk(channels, dimension)
        elif name == "mobilefacenet":
            self.trunk = MobileFaceNetTrunk(channels, dimension)
        elif name == "mobilefacenet-se":
            self.trunk = MobileFaceNetSETrunk(channels, dimension)
        else:
            self.trunk = IRTrunk(name, channels, dimension)

    def forward(self, values: Tensor, gain: Tensor | None = None) -> Tensor:
        out: Tensor = self.trunk(self.receiver(values, gain))
        return out


def restoring_width(name: str) -> tuple[int, str]:
    """Width of a backbone's restorer, 0 where it has none, and the name of what follows the receiver."""
    for prefix, width in RESTORING.items():
        if name.startswith(prefix):
            return width, name.removeprefix(prefix)
    return 0, name


def build_backbone(name: str, *, transform: str, dimension: int) -> Backbone:
    """name in BACKBONES; transform of RESEARCH_SHAPES, or UNPROTECTED. Raises ValueError or KeyError otherwise."""
    return Backbone(name, transform, dimension)
