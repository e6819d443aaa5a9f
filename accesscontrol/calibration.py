"""Which threshold a target needs, from a model's own `model.json`. Pure, and without torch: pages read this.

The worker decides with `recognition.checkpoint.Calibration`; this says the same numbers, and says besides which of
them were measured and which are a line drawn on from the last ones that were.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Threshold:
    """A cosine, and whether strangers' scores as rare as this were measured at all."""

    value: float
    measured: bool


@dataclass(frozen=True)
class Calibration:
    """`points`: (FMR, threshold), FMR falling. `comparisons` scores of strangers they come from."""

    source: str
    comparisons: int
    points: tuple[tuple[float, float], ...]

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Calibration:
        """Raises KeyError, TypeError or ValueError for what is no calibration."""
        points = tuple((float(rate), float(threshold)) for rate, threshold in document["points"])
        rates = [rate for rate, _ in points]
        if (
            len(points) < 2
            or rates != sorted(set(rates), reverse=True)
            or not all(0 < rate < 1 for rate in rates)
        ):
            raise ValueError("calibration points are two or more, with falling rates")
        return cls(str(document["source"]), int(document["comparisons"]), points)

    @property
    def rarest(self) -> float:
        """The smallest rate that was measured."""
        return self.points[-1][0]

    def threshold_for(self, *, gallery_size: int, target_fpir: float) -> Threshold:
        """The formula of `recognition.checkpoint`: FPIR = 1 - (1 - FMR)^N, linear in log FMR between points."""
        rarity = -math.log10(needed_fmr(gallery_size=gallery_size, target_fpir=target_fpir))
        rarities = [-math.log10(rate) for rate, _ in self.points]
        thresholds = [threshold for _, threshold in self.points]
        if rarity <= rarities[-1]:
            return Threshold(float(np.interp(rarity, rarities, thresholds)), measured=True)
        base = max((i for i, known in enumerate(rarities) if known <= rarities[-1] - 1), default=0)
        slope = (thresholds[-1] - thresholds[base]) / (rarities[-1] - rarities[base])
        return Threshold(min(1.0, thresholds[-1] + slope * (rarity - rarities[-1])), measured=False)

    def largest_gallery(self, target_fpir: float) -> int:
        """How many people may be enrolled before this target needs a rate rarer than any that was measured."""
        return int(math.log1p(-target_fpir) / math.log1p(-self.rarest) * (1 + 1e-12))


def needed_fmr(*, gallery_size: int, target_fpir: float) -> float:
    """How rarely one comparison may err, so that a search among so many errs as rarely as the target says."""
    if gallery_size < 1 or not 0 < target_fpir < 1:
        raise ValueError("a gallery has one person or more, and a target lies within (0, 1)")
    return -math.expm1(math.log1p(-target_fpir) / gallery_size)
