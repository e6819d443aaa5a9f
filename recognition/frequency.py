"""Aligned face -> block-DCT coefficients without DC, as exact linear operators.

`paper` (Ji et al., ECCV 2022, section 3.2): bilinear x8 upsampling, 8x8 block DCT; along one axis both together are one
896x112 matrix with at most three non-zeros per row. `critical` (ours): 8x8 blocks of the 112x112 image itself.
Channels are plane-major (Y, Cb, Cr), then row frequency u, then column frequency v, with (0, 0) left out: 3 x 63 = 189.

`paper-dc` and `critical-dc` keep (0, 0), 3 x 64 = 192: what training compares with. They are not among SHAPES, so no
terminal computes them and no privacy profile of production is of them (see recognition.training.research).
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from recognition.types import CROP_SIZE, FaceCrop, FrequencyFeatures

BLOCK = 8
CHANNELS = 3 * (BLOCK * BLOCK - 1)  # 189
SHAPES: dict[str, tuple[int, int, int]] = {
    "paper": (CHANNELS, CROP_SIZE, CROP_SIZE),
    "critical": (CHANNELS, CROP_SIZE // BLOCK, CROP_SIZE // BLOCK),
}
DC_SUFFIX = "-dc"
RESEARCH_SHAPES = SHAPES | {  # with counterparts that keep DC
    name + DC_SUFFIX: (3 * BLOCK * BLOCK, height, width) for name, (_, height, width) in SHAPES.items()
}

# ITU-R BT.601, full range (JPEG/JFIF); chroma is centred on 0 as it stands, luma after subtracting 128.
RGB_TO_YCBCR: NDArray[np.float64] = np.array(
    [
        [0.299, 0.587, 0.114],
        [-0.168735892, -0.331264108, 0.5],
        [0.5, -0.418687589, -0.081312411],
    ]
)
LUMA_CENTRE = 128.0


@cache
def dct_matrix(size: int = BLOCK) -> NDArray[np.float64]:
    """Orthonormal type-II DCT, float64 (size, size): rows are frequencies."""
    frequency, position = np.arange(size)[:, None], np.arange(size)[None, :]
    matrix = np.sqrt(2.0 / size) * np.cos(np.pi * (2 * position + 1) * frequency / (2 * size))
    matrix[0] /= np.sqrt(2.0)
    return np.asarray(matrix)


@cache
def upsampling_matrix(size: int = CROP_SIZE, factor: int = BLOCK) -> NDArray[np.float64]:
    """Bilinear upsampling with aligned corners, float64 (size * factor, size)."""
    source = np.arange(size * factor) * (size - 1) / (size * factor - 1)
    left = np.minimum(source.astype(int), size - 2)
    weight = source - left
    matrix = np.zeros((size * factor, size))
    rows = np.arange(size * factor)
    matrix[rows, left] = 1.0 - weight
    matrix[rows, left + 1] = weight
    return matrix


@cache
def axis_operator(transform: str) -> NDArray[np.float64]:
    """The whole transform along one axis, float64 (8 * blocks, 112); row u * blocks + i is frequency u of block i.

    With or without DC it is the same. Raises KeyError for an unknown transform.
    """
    blocks = RESEARCH_SHAPES[transform][1]
    signal = np.eye(CROP_SIZE) if blocks < CROP_SIZE else upsampling_matrix()  # (8 * blocks, 112)
    per_block = np.einsum("ub,ibp->uip", dct_matrix(), signal.reshape(blocks, BLOCK, CROP_SIZE))
    return np.asarray(per_block.reshape(BLOCK * blocks, CROP_SIZE), np.float64)


@cache
def _operator32(transform: str) -> NDArray[np.float32]:
    return axis_operator(transform).astype(np.float32)


def to_planes(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """RGB uint8 (H, W, 3) -> YCbCr float32 (3, H, W), luma in -128..127, chroma in -128..127."""
    planes = np.tensordot(RGB_TO_YCBCR.astype(np.float32), pixels.astype(np.float32), axes=(1, 2))
    planes[0] -= np.float32(LUMA_CENTRE)
    return planes


def to_frequency(
    crop: FaceCrop, transform: str, *, channels: NDArray[np.bool_] | None = None
) -> FrequencyFeatures:
    """Transform one crop; values float32, shape SHAPES[transform]. Raises KeyError for an unknown transform.

    channels: bool (189,), those wanted; the others stay 0, and a terminal spares itself what it would never send.
    """
    _, blocks, _ = SHAPES[transform]
    planes = to_planes(crop.pixels)
    values = np.zeros(SHAPES[transform], np.float32)
    if transform != "paper":
        operator = _operator32(transform)
        both = (operator @ planes @ operator.T).reshape(3, BLOCK, blocks, BLOCK, blocks)
        gathered = both.transpose(0, 1, 3, 2, 4).reshape(3, BLOCK * BLOCK, blocks, blocks)
        values[:] = gathered[:, 1:].reshape(SHAPES[transform])
        if channels is not None:
            values[~channels] = 0
        return FrequencyFeatures(transform, values)
    # One channel at a time: it stays in the cache.
    wanted = np.ones(CHANNELS, np.bool_) if channels is None else channels
    down, across = _neighbours()
    flat = values.reshape(CHANNELS, -1)
    scratch = np.empty(CROP_SIZE * CROP_SIZE, np.float32)
    picture = np.zeros((CROP_SIZE + 2) * CROP_SIZE, np.float32)  # with a row more at either end
    rows = np.zeros((BLOCK, CROP_SIZE * CROP_SIZE + 2), np.float32)  # with a pixel more at either end
    for plane in range(3):
        picture[CROP_SIZE:-CROP_SIZE] = planes[plane].reshape(-1)
        for u in range(BLOCK):
            _weigh(picture, down[u], CROP_SIZE, rows[u, 1:-1], scratch)
        for pair in range(1, BLOCK * BLOCK):
            channel = plane * (BLOCK * BLOCK - 1) + pair - 1
            if wanted[channel]:
                u, v = divmod(pair, BLOCK)
                _weigh(rows[u], across[v], 1, flat[channel], scratch)
    return FrequencyFeatures(transform, values)


@cache
def _neighbours() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weights that block i of `paper` gives to pixels i - 1, i and i + 1 at each frequency, all that it depends on.

    Both float32 (8, 3, 112 * 112), row by row of a picture: i its row, and i its column. Beyond an edge they are 0.
    """
    i = np.arange(CROP_SIZE)
    padded = np.pad(axis_operator("paper"), ((0, 0), (1, 1))).reshape(BLOCK, CROP_SIZE, CROP_SIZE + 2)
    weights = np.stack([padded[:, i, i + beside] for beside in range(3)], axis=1).astype(np.float32)
    return np.repeat(weights, CROP_SIZE, axis=2), np.tile(weights, CROP_SIZE)


def _weigh(
    signal: NDArray[np.float32],
    weights: NDArray[np.float32],
    apart: int,
    out: NDArray[np.float32],
    scratch: NDArray[np.float32],
) -> None:
    """out[k]: signal[k], signal[k + apart] and signal[k + 2 * apart], weighed by weights[0, k] to weights[2, k]."""
    np.multiply(signal[: out.size], weights[0], out=out)
    for beside in (1, 2):
        start = beside * apart
        out += np.multiply(signal[start : start + out.size], weights[beside], out=scratch)
