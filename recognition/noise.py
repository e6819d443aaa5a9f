"""Clip, add Laplace noise, emit integer codes: drawn exactly, from uniform integers of a CSPRNG.

The code of x is the number of thresholds t_j below x + n with n ~ Laplace(0, b). Its distribution needs no noisy float:
P(code >= j) = P(n > t_j - x), so one uniform 32-bit integer u decides, code = #{j : u < 2^32 * P(n > t_j - x)}.
Only integers leave, so the floating-point leaks of textbook Laplace sampling (Mironov, CCS 2012) have
nothing to leak from.
Every threshold is kept within [1, 2^32 - 1]: no code is ever impossible, whatever the face.

`perturb` finds that code the other way round, ten times as fast: the noise that u stands for is one float32 logarithm,
and the code is where value plus noise falls. Wherever that sum lies so near a threshold that float32 could be wrong,
the integers above decide. So every code is the exact one, and no float leaves.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from recognition.budget import PrivacyProfile
from recognition.types import CODE_BITS_MAX, FrequencyFeatures, PerturbedFeatures

Randomness = Callable[
    [int], bytes
]  # n -> n bytes, uniform and unpredictable: os.urandom, or a recorded stream in tests
_RANGE = float(1 << 32)
_SIGN = np.uint32(1 << 31)  # of a float32, and of u seen as more or less than a half
#: u this near an end of its range: a step of u moves the noise too far for float32
_RARE = np.float32(1 << 16)
#: How far from a threshold, in codes, float32 is trusted: `_STEP_ERROR` for what is added up, `_NOISE_ERROR` for each
#: code that one Laplace scale spans. Both are over thirty times the largest error that can arise: 2^-24 for each of
#: eight roundings of numbers below 2^5, half a unit of u in 2^16, and 2^-22 for the logarithm.
_STEP_ERROR = np.float32(2.0**-12)
_NOISE_ERROR = np.float32(2.0**-11)


def code_thresholds(
    values: NDArray[np.float64],
    centre: float | NDArray[np.float64],
    step: float | NDArray[np.float64],
    scale: NDArray[np.float64],
    bits: int,
) -> NDArray[np.uint32]:
    """uint32 (2^bits - 1, ...): threshold j - 1 is 2^32 * P(code >= j | value), falling in j.

    values: clipped coefficients, any shape; scale: Laplace scale, same shape, > 0; centre, step: coefficient units,
    one for all or one for each.
    """
    levels = 1 << bits
    places = (np.arange(1, levels) - levels / 2).reshape(-1, *[1] * values.ndim)
    distance = (centre + places * step - values) / scale  # in noise scales
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
    uniform = np.frombuffer(stream, dtype="<u4").reshape(sent.size, height * width)
    values = features.values.reshape(-1, height * width)
    scale = profile.scale.reshape(values.shape)
    inverse_weight = (1 / profile.position_weight).astype(np.float32).reshape(-1)
    codes = np.zeros(values.shape, np.uint8)
    for bits in range(1, CODE_BITS_MAX + 1):
        rows = np.flatnonzero(profile.bits[sent] == bits)
        if not rows.size:
            continue
        doubtful = []
        for row in rows:
            codes[sent[row]], doubt = _draw(
                values[sent[row]], uniform[row], profile, int(sent[row]), inverse_weight
            )
            doubtful.append(np.flatnonzero(doubt))
        # the doubtful elements of all channels of one width together: a call for each would cost half the time
        at = np.concatenate(doubtful)
        row_of = np.repeat(rows, [places.size for places in doubtful])
        channel = sent[row_of]
        clipped = np.clip(values[channel, at].astype(np.float64), profile.low[channel], profile.high[channel])
        thresholds = code_thresholds(
            clipped, profile.centre[channel], profile.step[channel], scale[channel, at], bits
        )
        codes[channel, at] = (uniform[row_of, at] < thresholds).sum(axis=0)
    codes = codes.reshape(profile.shape)
    return PerturbedFeatures(profile.hash, codes)


def _draw(
    values: NDArray[np.float32],
    uniform: NDArray[np.uint32],
    profile: PrivacyProfile,
    channel: int,
    inverse_weight: NDArray[np.float32],
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """The codes of one channel, uint8 (H * W), and where float32 does not suffice to tell, bool (H * W)."""
    levels = 1 << int(profile.bits[channel])
    step, centre = float(profile.step[channel]), float(profile.centre[channel])
    low, high = float(profile.low[channel]), float(profile.high[channel])
    in_steps = inverse_weight * np.float32((high - low) / (profile.channel_epsilon[channel] * step))

    # |noise| = -ln(2 p), where p = (u + 1/2) / 2^32 is the chance of as much noise or more on this side of 0
    folded = np.minimum(uniform, ~uniform).astype(np.float32)  # 0 .. 2^31
    doubt = folded < _RARE
    folded += np.float32(0.5)
    folded *= np.float32(2.0**-31)
    noise = np.log(folded, out=folded)
    noise *= in_steps
    np.abs(noise, out=noise)
    noise.view(np.uint32)[...] |= uniform & _SIGN  # large u: negative noise

    place = np.clip(values, np.float32(low), np.float32(high))
    place -= np.float32(centre)
    place *= np.float32(1 / step)
    place += noise
    place += np.float32(levels / 2)  # code j holds j <= place < j + 1, the outermost ones all beyond
    reach = (abs(low) + abs(high)) / step  # a channel clipped far from 0 loses digits when it is centred
    distance = np.rint(place, out=noise)
    distance -= place
    np.abs(distance, out=distance)  # to the nearest whole number, so at most that far from a threshold
    doubt |= distance < _NOISE_ERROR * in_steps.max() + _STEP_ERROR * np.float32(1 + reach)
    codes = np.clip(place, 0, levels - 1, out=place).astype(np.uint8)
    return codes, doubt
