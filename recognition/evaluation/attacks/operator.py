"""The attacker's own copy of the two frequency transforms, as linear maps it can invert.

Written from the definition and independently of `recognition.frequency` (the tests hold the two against each
other), in torch, because attacks need gradients.

Both transforms act on each centred YCbCr plane x (112, 112) as T x T^T, T of 8 rows per block:
`critical`: T is the block-diagonal orthonormal DCT of 8x8 blocks, 14 blocks a side.
`paper`: T is that DCT after an eightfold bilinear upsampling (corners aligned), 112 blocks a side. A block
then depends on 3x3 pixels only, so its 63 noisy coefficients are 63 noisy views of at most 9 numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

SIDE = 112  # pixels
BLOCK = 8  # pixels after upsampling

# BT.601, full range (JPEG): rows Y, Cb, Cr over columns R, G, B. Y is then centred by -128, Cb and Cr are
# already.
RGB_TO_YCBCR = np.array(
    [
        [0.299, 0.587, 0.114],
        [-0.168735892, -0.331264108, 0.5],
        [0.5, -0.418687589, -0.081312411],
    ]
)
LUMA_CENTRE = 128.0


def ycbcr_from_rgb(rgb: Tensor) -> Tensor:
    """(N, 3, H, W) RGB in 0..255 to centred YCbCr of the same shape."""
    planes = torch.einsum(
        "pc,nchw->nphw", torch.as_tensor(RGB_TO_YCBCR, dtype=rgb.dtype, device=rgb.device), rgb
    )
    return planes - planes.new_tensor([LUMA_CENTRE, 0.0, 0.0]).view(1, 3, 1, 1)


def rgb_from_ycbcr(planes: Tensor) -> Tensor:
    """Inverse of `ycbcr_from_rgb`; not clipped."""
    inverse = torch.as_tensor(np.linalg.inv(RGB_TO_YCBCR), dtype=planes.dtype, device=planes.device)
    return torch.einsum(
        "cp,nphw->nchw", inverse, planes + planes.new_tensor([LUMA_CENTRE, 0.0, 0.0]).view(1, 3, 1, 1)
    )


def planes_from_crops(crops: np.ndarray) -> Tensor:
    """uint8 (N, 112, 112, 3) RGB to centred YCbCr float32 (N, 3, 112, 112)."""
    return ycbcr_from_rgb(torch.from_numpy(np.ascontiguousarray(crops)).permute(0, 3, 1, 2).float())


def crops_from_planes(planes: Tensor) -> np.ndarray:
    """Centred YCbCr (N, 3, 112, 112) to uint8 RGB (N, 112, 112, 3), rounded and clipped."""
    rgb = rgb_from_ycbcr(planes).round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous().numpy()
    return np.asarray(rgb)


def dct_matrix(size: int = BLOCK) -> np.ndarray:
    """Orthonormal type-II DCT, (size, size): row u is frequency u."""
    u, x = np.arange(size)[:, None], np.arange(size)[None, :]
    matrix = np.sqrt(2.0 / size) * np.cos(np.pi * (2 * x + 1) * u / (2 * size))
    matrix[0] /= np.sqrt(2.0)
    return np.asarray(matrix)


def upsampling_matrix(size: int = SIDE, factor: int = BLOCK) -> np.ndarray:
    """Bilinear upsampling with aligned corners along one axis, (factor*size, size)."""
    source = np.arange(size * factor) * (size - 1) / (size * factor - 1)
    left = np.minimum(source.astype(int), size - 2)
    matrix = np.zeros((size * factor, size))
    rows = np.arange(size * factor)
    matrix[rows, left] = 1 - (source - left)
    matrix[rows, left + 1] = source - left
    return matrix


@lru_cache(maxsize=4)
def axis_matrix(transform: str) -> np.ndarray:
    """T of the transform named, (8*blocks, 112): row 8*r+u is frequency u of block r."""
    blocks = {"paper": SIDE, "critical": SIDE // BLOCK}[transform]
    dct = np.kron(np.eye(blocks), dct_matrix())
    return np.asarray(dct @ upsampling_matrix() if transform == "paper" else dct)


@dataclass(frozen=True)
class Operator:
    """The transform as a linear map from planes (N, 3, 112, 112) to features (N, C, B, B), C = 3*63 (3*64
    with DC)."""

    transform: str
    with_dc: bool = False

    @classmethod
    def named(cls, transform: str) -> Operator:
        """Of a profile's transform: `critical-dc` is `critical` with DC."""
        return cls(transform.removesuffix("-dc"), with_dc=transform.endswith("-dc"))

    @property
    def blocks(self) -> int:
        return axis_matrix(self.transform).shape[0] // BLOCK

    @property
    def frequencies(self) -> int:
        return BLOCK * BLOCK - (0 if self.with_dc else 1)

    def forward(self, planes: Tensor) -> Tensor:
        t = torch.as_tensor(axis_matrix(self.transform), dtype=planes.dtype, device=planes.device)
        b = self.blocks
        coefficients = (t @ planes @ t.T).view(
            -1, 3, b, BLOCK, b, BLOCK
        )  # N, plane, block row, u, block col, v
        channels = coefficients.permute(0, 1, 3, 5, 2, 4).reshape(-1, 3, BLOCK * BLOCK, b, b)
        return channels[:, :, BLOCK * BLOCK - self.frequencies :].reshape(-1, 3 * self.frequencies, b, b)


def _local(operator: Operator, like: Tensor) -> Tensor:
    """(B, 8, 3): for each block row r of `paper` the matrix from pixels r-1, r, r+1 to its frequencies; zero
    outside the picture."""
    padded = np.pad(axis_matrix(operator.transform), ((0, 0), (1, 1)))
    rows = [padded[BLOCK * r : BLOCK * (r + 1), r : r + 3] for r in range(operator.blocks)]
    return torch.as_tensor(np.stack(rows), dtype=like.dtype, device=like.device)


def transposed(operator: Operator, features: Tensor) -> Tensor:
    """The operator's transpose on features (N, C, B, B): planes (N, 3, 112, 112)."""
    b, f = operator.blocks, operator.frequencies
    all_of = features.reshape(-1, 3, f, b, b)
    if f < BLOCK * BLOCK:
        all_of = functional.pad(all_of, (0, 0, 0, 0, 1, 0))
    if operator.transform == "critical":
        dct = torch.as_tensor(
            np.kron(dct_matrix(), dct_matrix()), dtype=features.dtype, device=features.device
        )
        blocks = all_of.permute(0, 1, 3, 4, 2).reshape(-1, BLOCK * BLOCK) @ dct
        return blocks.view(-1, 3, b, b, BLOCK, BLOCK).transpose(3, 4).reshape(-1, 3, SIDE, SIDE)
    local = _local(operator, features)
    moment = torch.einsum("npuvrc,rua,cvd->npadrc", all_of.view(-1, 3, BLOCK, BLOCK, b, b), local, local)
    planes = features.new_zeros(len(features), 3, SIDE + 2, SIDE + 2)
    # Block (r, c) holds pixels (r + a - 1, c + d - 1): what lies outside the picture has no weight.
    for i, j in np.ndindex(3, 3):
        planes[..., i : i + b, j : j + b] += moment[:, :, i, j]
    return planes[..., 1:-1, 1:-1].contiguous()


class Misfit:
    """Sum over all coefficients of weight * (forward(x) - y)^2, a quadratic in x, cheap to evaluate many
    times.

    y: (N, C, B, B) observed features; weight: (C, B, B), one over the noise variance. For `paper` the 63
    coefficients of a block are folded once into a 9x9 matrix and a 9-vector over the block's 3x3 pixels, and those
    of all blocks into one stencil of 5x5 neighbours per pixel: the same quadratic up to a constant, a
    hundredfold cheaper per step.
    """

    def __init__(self, operator: Operator, y: Tensor, weight: Tensor) -> None:
        self.operator = operator
        b, f = operator.blocks, operator.frequencies
        if operator.transform == "critical":
            # Block by block: small dense products instead of two with a matrix that is mostly zeros.
            self.dct = torch.as_tensor(np.kron(dct_matrix(), dct_matrix()), dtype=y.dtype, device=y.device)
            self.y, self.weight = self._as_coefficients(y), self._as_coefficients(weight[None])
            return
        local_t = _local(operator, y)
        w = weight.view(3, f, b, b)
        if f < BLOCK * BLOCK:
            w = functional.pad(w, (0, 0, 0, 0, 1, 0))
        w = w.view(3, BLOCK, BLOCK, b, b)
        pairs = torch.einsum("rua,rub->ruab", local_t, local_t)  # (B, 8, 3, 3)
        gram = torch.einsum("puvrc,ruab,cvde->padberc", w, pairs, pairs)  # plane, a d, b e, row, column
        stencil = y.new_zeros(5, 5, 3, SIDE + 2, SIDE + 2)
        for i, j in np.ndindex(3, 3):
            for k, m in np.ndindex(3, 3):
                stencil[k - i + 2, m - j + 2, :, i : i + b, j : j + b] += gram[:, i, j, k, m]
        self.stencil = stencil[..., 1:-1, 1:-1].contiguous()  # (5, 5, 3, 112, 112)
        self.linear = transposed(operator, y * weight)  # (N, 3, 112, 112)

    def _as_coefficients(self, features: Tensor) -> Tensor:
        """(N, C, B, B) to (N, 3, B, B, 64), zeros where the transform drops DC."""
        b, f = self.operator.blocks, self.operator.frequencies
        channels = functional.pad(features.view(-1, 3, f, b, b), (0, 0, 0, 0, BLOCK * BLOCK - f, 0))
        return channels.permute(0, 1, 3, 4, 2).contiguous()

    def _missed(self, planes: Tensor) -> Tensor:
        """Coefficients less those observed, (N, 3, B, B, 64); `critical`."""
        b = self.operator.blocks
        by_block = planes.view(-1, 3, b, BLOCK, b, BLOCK).transpose(3, 4)  # row, column, u, v
        return (by_block.reshape(-1, BLOCK * BLOCK) @ self.dct.T).view(-1, 3, b, b, BLOCK * BLOCK) - self.y

    def __call__(self, planes: Tensor) -> Tensor:
        """Per-image misfit, (N,); for `paper` up to a constant."""
        if self.operator.transform == "critical":
            return (self.weight * self._missed(planes) ** 2).sum(dim=(1, 2, 3, 4))
        return (planes * (self._curved(planes) - 2 * self.linear)).sum(dim=(1, 2, 3))

    def gradient(self, planes: Tensor) -> Tensor:
        """Of the misfit, (N, 3, 112, 112)."""
        if self.operator.transform == "critical":
            b = self.operator.blocks
            weighted = self._missed(planes).mul_(self.weight).mul_(2)
            blocks = (weighted.view(-1, BLOCK * BLOCK) @ self.dct).view(-1, 3, b, b, BLOCK, BLOCK)
            return blocks.transpose(3, 4).reshape(planes.shape)
        return self._curved(planes).sub_(self.linear).mul_(2)

    def _curved(self, planes: Tensor) -> Tensor:
        """The quadratic's matrix times the planes."""
        padded = functional.pad(planes, (2, 2, 2, 2))
        total = torch.zeros_like(planes)
        for row, column in np.ndindex(5, 5):
            near = padded[..., row : row + SIDE, column : column + SIDE]
            total = total.addcmul_(self.stencil[row, column], near)
        return total
