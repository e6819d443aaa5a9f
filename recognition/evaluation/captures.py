"""Thousands of captures as a terminal would send them, many at a time.

Code for code what `recognition.noise.perturb` draws from the same 32-bit integers (the tests hold the two against each
other), each drawn whole: the code comes from one logarithm, and only elements near a threshold are settled by the exact
thresholds.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from hashlib import sha256
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recognition.budget import PrivacyProfile
from recognition.frequency import (
    BLOCK,
    LUMA_CENTRE,
    RESEARCH_SHAPES,
    RGB_TO_YCBCR,
    axis_operator,
    dct_matrix,
)
from recognition.noise import code_thresholds
from recognition.types import CROP_SIZE

NEAR = 2e-3  # of a code's width: float32 is a hundred times better than this
TAIL = 1 << 18  # of 2^32: further out than this the rounding of thresholds matters
ELEMENTS_AT_ONCE = 2_400_000  # of one pass: a capture of `paper`, sixty of `critical`

Given = TypeVar("Given")
Made = TypeVar("Made")


def workers() -> int:
    """Threads that evaluation computes with: the cores this process may use, or what `set_workers` said."""
    if _chosen:
        return _chosen[0]
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_chosen: list[int] = []


def set_workers(count: int) -> None:
    """Compute in so many threads, each on its own part of a batch, with torch's own threads off.

    Two threads that share one operation wait for each other at every layer; on a machine that does other
    things too, that made recognition half as fast as one thread alone. Two that share a batch do not.
    """
    _chosen[:] = [max(1, count)]
    torch.set_num_threads(1)


def in_parallel(work: Callable[[Given], Made], parts: Sequence[Given]) -> list[Made]:
    """work(part) for every part, in order, `workers()` at a time."""
    if len(parts) < 2 or workers() == 1:
        return [work(part) for part in parts]
    with ThreadPoolExecutor(min(workers(), len(parts))) as pool:
        return list(pool.map(work, parts))


@cache
def _block_operator(frequencies: int) -> Tensor:
    """(64, 63 or 64): pixels of an 8x8 block, row by row, to its coefficients without DC or with it."""
    wanted = np.kron(dct_matrix(), dct_matrix())[-frequencies:]
    return torch.tensor(wanted.T.astype(np.float32)).contiguous()


@cache
def _axis_operator(transform: str) -> Tensor:
    return torch.tensor(axis_operator(transform).astype(np.float32))


@torch.inference_mode()
def planes_of(pixels: NDArray[np.uint8]) -> Tensor:
    """uint8 (N, 112, 112, 3) RGB to centred YCbCr float32 (N, 3, 112, 112), as `frequency.to_planes` of each."""
    colours = torch.tensor(RGB_TO_YCBCR.astype(np.float32))
    planes = torch.from_numpy(np.ascontiguousarray(pixels)).float() @ colours.T  # (N, 112, 112, 3)
    planes[..., 0] -= LUMA_CENTRE
    return planes.permute(0, 3, 1, 2).contiguous()


@torch.inference_mode()
def features_of(pixels: NDArray[np.uint8], transform: str) -> NDArray[np.float32]:
    """`frequency.to_frequency` of many crops: uint8 (N, 112, 112, 3) to float32 (N, C, H, W).

    Also of the transforms that keep DC, which `to_frequency` does not know."""
    planes, (channels, blocks, _) = planes_of(pixels), RESEARCH_SHAPES[transform]
    if blocks < CROP_SIZE:
        by_block = planes.view(-1, 3, blocks, BLOCK, blocks, BLOCK).permute(0, 2, 4, 1, 3, 5)
        operator = _block_operator(channels // 3)
        coefficients = by_block.reshape(-1, BLOCK * BLOCK) @ operator  # (N * 14 * 14 * 3, 63 or 64)
        by_place = coefficients.view(-1, blocks, blocks, channels).permute(0, 3, 1, 2)
        return np.asarray(by_place.contiguous().numpy())
    operator = _axis_operator(transform)
    everything = operator @ planes @ operator.T
    gathered = everything.view(-1, 3, BLOCK, blocks, BLOCK, blocks).permute(0, 1, 2, 4, 3, 5)
    of_plane = gathered.reshape(-1, 3, BLOCK * BLOCK, blocks, blocks)[:, :, -(channels // 3) :]
    return np.asarray(of_plane.reshape(-1, channels, blocks, blocks).numpy())


def hash_of_family(profiles: Sequence[PrivacyProfile]) -> str:
    """Names profiles of which every capture takes one, as a profile's hash names the one."""
    return sha256("".join(profile.hash for profile in profiles).encode()).hexdigest()


class Drawer:
    """Draws the codes of one profile for many crops."""

    def __init__(self, profile: PrivacyProfile) -> None:
        self.profile = profile
        self.sent = np.flatnonzero(profile.sent)
        column = (slice(None), None, None)

        def of_sent(values: NDArray[np.float64]) -> NDArray[np.float32]:
            return np.asarray(values[self.sent][column], np.float32)

        step = of_sent(profile.step)
        self._low, self._high = of_sent(profile.low) / step, of_sent(profile.high) / step  # in steps
        levels = (1 << profile.bits[self.sent]).astype(np.float32)[column]
        self._per_step = 1 / step
        self._shift = levels / 2 - of_sent(profile.centre) / step
        self._scale = np.asarray(profile.scale[self.sent], np.float32) / step
        self._top = levels - 1

    @property
    def bytes_per_capture(self) -> int:
        """Randomness that one capture uses up."""
        _, height, width = self.profile.shape
        return 4 * self.sent.size * height * width

    def codes(self, features: NDArray[np.float32], stream: bytes) -> NDArray[np.uint8]:
        """features (N, C, H, W) and N * bytes_per_capture of randomness to codes uint8 (N, C, H, W)."""
        _, height, width = self.profile.shape
        if len(stream) != len(features) * self.bytes_per_capture:
            raise ValueError("the source of randomness ran short")
        uniform = np.frombuffer(stream, "<u4").reshape(len(features), self.sent.size, height, width)
        codes = np.zeros((len(features), *self.profile.shape), np.uint8)
        at_once = max(1, ELEMENTS_AT_ONCE // (codes[0].size))
        for start in range(0, len(features), at_once):
            part = slice(start, start + at_once)
            codes[part, self.sent] = self._draw(features[part][:, self.sent], uniform[part])
        return codes

    def _draw(self, features: NDArray[np.float32], uniform: NDArray[np.uint32]) -> NDArray[np.uint8]:
        from_end = np.minimum(uniform, ~uniform)
        noise = np.log((from_end.astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-31))  # -Exp(1)
        np.multiply(noise, self._scale, out=noise)
        np.negative(noise, out=noise, where=uniform < (1 << 31))  # u small: far up; u large: far down
        place = features * self._per_step
        np.clip(place, self._low, self._high, out=place)
        place += noise
        place += self._shift
        down = np.floor(place)
        place -= down
        unsure = (place < NEAR) | (place > 1 - NEAR) | (from_end < TAIL)
        np.clip(down, 0, self._top, out=down)
        codes: NDArray[np.uint8] = down.astype(np.uint8)
        n, row, y, x = np.nonzero(unsure)
        codes[n, row, y, x] = self._exact(features[n, row, y, x], uniform[n, row, y, x], row, y, x)
        return codes

    def _exact(
        self,
        values: NDArray[np.float32],
        uniform: NDArray[np.uint32],
        row: NDArray[np.int64],
        y: NDArray[np.int64],
        x: NDArray[np.int64],
    ) -> NDArray[np.uint8]:
        """The codes of some elements, by the thresholds themselves. Few, so by channel."""
        profile = self.profile
        codes = np.zeros(len(values), np.uint8)
        order = np.argsort(row, kind="stable")
        for some in np.split(order, np.flatnonzero(np.diff(row[order])) + 1):
            if not some.size:
                continue
            channel = int(self.sent[row[some[0]]])
            thresholds = code_thresholds(
                np.clip(values[some].astype(np.float64), profile.low[channel], profile.high[channel]),
                profile.centre[channel],
                profile.step[channel],
                profile.scale[channel, y[some], x[some]],
                int(profile.bits[channel]),
            )
            codes[some] = (uniform[some] < thresholds).sum(axis=0)
        return codes
