"""Small, valid privacy profiles and streams of randomness for tests."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from recognition.budget import PrivacyProfile
from recognition.frequency import SHAPES


def make_profile(
    *,
    transform: str = "critical",
    name: str = "test",
    bits: int | np.ndarray = 2,
    epsilon: float = 8.0,
    reach: float = 100.0,
) -> PrivacyProfile:
    """Every channel clipped to [-reach, reach], `epsilon` per coefficient; channels with 0 bits have no budget."""
    channels, height, width = SHAPES[transform]
    allocation = np.broadcast_to(np.asarray(bits, np.int64), (channels,)).copy()
    sent = allocation > 0
    scale = 2 * reach / epsilon
    return PrivacyProfile(
        name=name,
        transform=transform,
        low=np.full(channels, -reach),
        high=np.full(channels, reach),
        channel_epsilon=np.where(sent, epsilon, 0.0),
        position_weight=np.ones((height, width)),
        bits=allocation,
        step=np.where(sent, scale, 0.0),
        deviation=np.full(channels, reach / 10),
    )


def mixed_bits(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 5, 189)


def recorded_randomness(seed: int) -> Callable[[int], bytes]:
    """A repeatable stand-in for os.urandom: tests only."""
    return np.random.default_rng(seed).bytes
