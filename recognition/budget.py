"""Privacy profile: the public description of how a terminal perturbs, and the privacy arithmetic that follows from it.

Per element (c, h, w): clip to [low_c, high_c], so its sensitivity is high_c - low_c (Ji et al., section
3.3); its budget
is epsilon_chw = channel_epsilon_c * position_weight_hw; Laplace scale b = sensitivity / epsilon (Dwork et al. 2006).
What is emitted is a `bits_c`-bit code of the noisy value: post-processing, so the guarantee per coefficient stands.
Nothing here draws randomness or touches a face.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from recognition.frequency import SHAPES
from recognition.types import CODE_BITS_MAX

FORMAT = 1
_FIELDS = ("low", "high", "channel_epsilon", "position_weight", "bits", "step", "deviation")


@dataclass(frozen=True, eq=False)
class PrivacyProfile:
    """Clip ranges, budgets, noise scales and bit allocation of one named profile.

    low, high: float64 (C,), clip ranges in coefficient units; low < high wherever the channel has bits.
    channel_epsilon: float64 (C,) >= 0, epsilon per coefficient before the position weight; 0 means never sent.
    position_weight: float64 (H, W) > 0, mean 1.
    bits: int (C,) in 0..4. step: float64 (C,) > 0 where bits > 0, width of one code in coefficient units.
    deviation: float64 (C,), public standard deviation of the clean coefficient, used to weigh channels on arrival.
    Raises ValueError when anything contradicts this.
    """

    name: str
    transform: str
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    channel_epsilon: NDArray[np.float64]
    position_weight: NDArray[np.float64]
    bits: NDArray[np.int64]
    step: NDArray[np.float64]
    deviation: NDArray[np.float64]

    transforms: ClassVar[Mapping[str, tuple[int, int, int]]] = SHAPES  # those there may be a profile of

    def __post_init__(self) -> None:
        if self.transform not in self.transforms:
            raise ValueError(f"unknown transform {self.transform!r}")
        channels, height, width = self.shape
        for field in _FIELDS:
            values = getattr(self, field)
            expected = (height, width) if field == "position_weight" else (channels,)
            if values.shape != expected or not np.isfinite(values).all():
                raise ValueError(f"{field} must be finite and of shape {expected}")
        sent = self.bits > 0
        if not sent.any():
            raise ValueError("a profile sends at least one channel")
        if (self.bits < 0).any() or (self.bits > CODE_BITS_MAX).any():
            raise ValueError("bits are 0 to 4")
        if (self.high[sent] <= self.low[sent]).any() or (self.step[sent] <= 0).any():
            raise ValueError("a channel that is sent needs low < high and a positive step")
        if (self.channel_epsilon[sent] <= 0).any() or (self.channel_epsilon[~sent] != 0).any():
            raise ValueError("a channel has a budget exactly when it is sent")
        if (self.position_weight <= 0).any() or abs(float(self.position_weight.mean()) - 1.0) > 1e-6:
            raise ValueError("position weights are positive and average 1")

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.transforms[self.transform]

    @cached_property
    def sent(self) -> NDArray[np.bool_]:
        """(C,) True where the channel leaves the terminal."""
        return np.asarray(self.bits > 0)

    @cached_property
    def epsilon(self) -> NDArray[np.float64]:
        """(C, H, W) epsilon per coefficient; 0 where nothing is sent."""
        return np.asarray(self.channel_epsilon[:, None, None] * self.position_weight[None])

    @cached_property
    def scale(self) -> NDArray[np.float64]:
        """(C, H, W) Laplace scale in coefficient units; infinite where nothing is sent."""
        sensitivity = np.broadcast_to((self.high - self.low)[:, None, None], self.shape)
        scale: NDArray[np.float64] = np.full(self.shape, np.inf)
        np.divide(sensitivity, self.epsilon, out=scale, where=self.epsilon > 0)
        return scale

    @cached_property
    def centre(self) -> NDArray[np.float64]:
        """(C,) middle of the clip range, where the codes are centred."""
        return np.asarray((self.low + self.high) / 2)

    @property
    def epsilon_mean_per_coefficient(self) -> float:
        """Mean over all C * H * W coefficients, those never sent counted as 0 (Ji et al., equation 8's epsilon)."""
        return float(self.epsilon.mean())

    @property
    def epsilon_per_capture(self) -> float:
        """Sum over all coefficients: basic sequential composition within one capture."""
        return float(self.epsilon.sum())

    def epsilon_after(self, captures: int) -> float:
        """Basic composition over repeated captures of one face; raises ValueError below 0."""
        if captures < 0:
            raise ValueError("captures cannot be negative")
        return captures * self.epsilon_per_capture

    @property
    def payload_bits(self) -> int:
        """Bits of all codes of one capture, without header."""
        return int(self.bits.sum()) * self.shape[1] * self.shape[2]

    @cached_property
    def gain(self) -> NDArray[np.float32]:
        """(C, H, W) Wiener weight that a receiver gives each element: deviation / (deviation^2 + 2 scale^2).

        2 b^2 is the variance of Laplace noise. Output elements have comparable size whatever their budget.
        0 if not sent.
        """
        deviation = self.deviation[:, None, None]
        return np.asarray(
            np.where(self.sent[:, None, None], deviation / (deviation**2 + 2 * self.scale**2), 0), np.float32
        )

    def values_of(self, codes: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Codes uint8 (..., C, H, W) -> middle of each code's interval, float32, coefficient units; 0
        where not sent."""
        half = (1 << self.bits) / 2 - 0.5
        offset = np.where(self.sent, self.centre - half * self.step, 0).astype(np.float32)[:, None, None]
        step = np.where(self.sent, self.step, 0).astype(np.float32)[:, None, None]
        return np.asarray(codes * step + offset, np.float32)

    def to_json(self) -> str:
        """Canonical text: sorted keys, no spaces, shortest round-trip floats. Its SHA-256 is `hash`."""
        document: dict[str, Any] = {"format": FORMAT, "name": self.name, "transform": self.transform}
        document |= {field: getattr(self, field).tolist() for field in _FIELDS}
        return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)

    @cached_property
    def hash(self) -> str:
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @classmethod
    def from_json(cls, text: str) -> PrivacyProfile:
        """Raises ValueError on anything but a complete, consistent profile."""
        document = json.loads(text)
        if not isinstance(document, Mapping) or document.get("format") != FORMAT:
            raise ValueError("not a privacy profile of format 1")
        expected = {"format", "name", "transform", *_FIELDS}
        if set(document) != expected:
            raise ValueError(f"profile fields differ: {sorted(set(document) ^ expected)}")
        try:
            arrays: dict[str, Any] = {
                field: np.array(document[field], dtype=np.int64 if field == "bits" else np.float64)
                for field in _FIELDS
            }
        except (TypeError, OverflowError) as error:
            raise ValueError("profile values must be numbers") from error
        return cls(name=str(document["name"]), transform=str(document["transform"]), **arrays)


def load_profile(path: Path | str) -> PrivacyProfile:
    """Read one profile file. Raises OSError or ValueError."""
    return PrivacyProfile.from_json(Path(path).read_text(encoding="utf-8"))


def allocate_epsilon(free: NDArray[np.float64], *, epsilon_mean: float) -> NDArray[np.float64]:
    """softmax(free) * epsilon_mean * number of channels (Ji et al., equation 8, one budget shared per channel).

    free: float64 (C,), any real, -inf drops a channel. Returns (C,) epsilon per coefficient; its mean is epsilon_mean.
    Raises ValueError unless epsilon_mean > 0.
    """
    if epsilon_mean <= 0:
        raise ValueError("epsilon_mean must be positive")
    weights = np.exp(free - free.max())
    return np.asarray(weights / weights.sum() * epsilon_mean * free.size)
