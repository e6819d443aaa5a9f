"""The codes as docs/protocol.md defines them, one channel and one threshold at a time: the referee of what is fast."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from recognition.budget import PrivacyProfile
from recognition.noise import Randomness, code_thresholds
from recognition.types import FrequencyFeatures


def thresholds_of(
    features: FrequencyFeatures, profile: PrivacyProfile, channel: int
) -> NDArray[np.uint32]:  # (2^bits - 1, H, W)
    low, high = profile.low[channel], profile.high[channel]
    return code_thresholds(
        np.clip(features.values[channel].astype(np.float64), low, high),
        profile.centre[channel],
        profile.step[channel],
        profile.scale[channel],
        int(profile.bits[channel]),
    )


def codes_of(
    features: FrequencyFeatures, profile: PrivacyProfile, uniform: NDArray[np.uint32]
) -> NDArray[np.uint8]:
    """How many thresholds each u is below. uniform: (S, H, W), one for each sent element; codes: (C, H, W)."""
    codes = np.zeros(profile.shape, np.uint8)
    for row, channel in enumerate(np.flatnonzero(profile.sent)):
        codes[channel] = (uniform[row] < thresholds_of(features, profile, channel)).sum(axis=0)
    return codes


def undecided(
    features: FrequencyFeatures, profile: PrivacyProfile, upper: NDArray[np.uint16]
) -> NDArray[np.bool_]:
    """(S, H, W): where the least and the greatest u with this upper half have different codes."""
    first = upper.astype(np.uint32) << 16
    ends = [codes_of(features, profile, end)[profile.sent] for end in (first, first | 0xFFFF)]
    return np.asarray(ends[0] != ends[1])


def in_halves(
    features: FrequencyFeatures, profile: PrivacyProfile, uniform: NDArray[np.uint32]
) -> Randomness:
    """A source that gives just these u to `perturb`: the upper halves of all, then the lower ones that it needs."""
    upper = (uniform >> 16).astype("<u2")
    needed = undecided(features, profile, upper)
    reads: Iterator[bytes] = iter([upper.tobytes(), (uniform[needed] & 0xFFFF).astype("<u2").tobytes()])
    return lambda count: next(reads)


def codes_from(
    features: FrequencyFeatures, profile: PrivacyProfile, randomness: Randomness
) -> NDArray[np.uint8]:
    """What `perturb` must draw from a source of randomness."""
    shape = (int(profile.sent.sum()), *profile.shape[1:])
    upper = np.frombuffer(randomness(2 * int(np.prod(shape))), "<u2").reshape(shape)
    uniform = upper.astype(np.uint32) << 16
    needed = undecided(features, profile, upper)
    uniform[needed] |= np.frombuffer(randomness(2 * int(needed.sum())), "<u2")
    return codes_of(features, profile, uniform)
