"""Clip, add Laplace noise, emit integer codes: drawn exactly, from uniform integers of a CSPRNG.

The code of x is the number of thresholds t_j below x + n with n ~ Laplace(0, b). Its distribution needs no noisy float:
P(code >= j) = P(n > t_j - x), so one uniform 32-bit integer u decides, code = #{j : u < 2^32 * P(n > t_j - x)}.
Only integers leave, so the floating-point leaks of textbook Laplace sampling (Mironov, CCS 2012) have
nothing to leak from.
Every threshold is kept within [1, 2^32 - 1]: no code is ever impossible, whatever the face.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from recognition.budget import PrivacyProfile
from recognition.types import FrequencyFeatures, PerturbedFeatures

Randomness = Callable[
    [int], bytes
]  # n -> n bytes, uniform and unpredictable: os.urandom, or a recorded stream in tests
_RANGE = float(1 << 32)


def code_thresholds(
    values: NDArray[np.float64], centre: float, step: float, scale: NDArray[np.float64], bits: int
) -> NDArray[np.uint32]:
    """uint32 (2^bits - 1, ...): threshold j - 1 is 2^32 * P(code >= j | value), falling in j.

    values: clipped coefficients, any shape; scale: Laplace scale, same shape, > 0; centre, step: coefficient units.
    """
    levels = 1 << bits
    cuts = centre + (np.arange(1, levels) - levels / 2) * step
    distance = (cuts.reshape(-1, *[1] * values.ndim) - values) / scale  # in noise scales
    tail = 0.5 * np.exp(-np.abs(distance))  # Laplace survival function
    probability = np.where(distance > 0, tail, 1.0 - tail)
    return np.clip(np.rint(probability * _RANGE), 1, _RANGE - 1).astype(np.uint32)


def perturb(
    features: FrequencyFeatures, profile: PrivacyProfile, randomness: Randomness
) -> PerturbedFeatures:
    """Draw the codes of one capture; fresh randomness each time, 4 bytes per sent element, in channel order.

    Raises ValueError when the features are of another transform than the profile, or the source of
    randomness runs short.
    """
    if features.transform != profile.transform or features.values.shape != profile.shape:
        raise ValueError(
            f"profile {profile.name} perturbs {profile.transform} features, not {features.transform}"
        )
    _, height, width = profile.shape
    sent = np.flatnonzero(profile.sent)
    needed = sent.size * height * width * 4
    stream = randomness(needed)
    if len(stream) != needed:
        raise ValueError("the source of randomness ran short")
    uniform = np.frombuffer(stream, dtype="<u4").reshape(sent.size, height, width)
    codes = np.zeros(profile.shape, np.uint8)
    for row, channel in enumerate(sent):
        clipped = np.clip(
            features.values[channel].astype(np.float64), profile.low[channel], profile.high[channel]
        )
        thresholds = code_thresholds(
            clipped,
            profile.centre[channel],
            profile.step[channel],
            profile.scale[channel],
            int(profile.bits[channel]),
        )
        codes[channel] = (uniform[row] < thresholds).sum(axis=0)
    return PerturbedFeatures(profile.hash, codes)
