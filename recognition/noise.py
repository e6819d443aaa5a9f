"""Clip, add Laplace noise, emit integer codes: drawn exactly, from uniform integers of a CSPRNG.

The code of x is the number of thresholds t_j below x + n with n ~ Laplace(0, b). Its distribution needs no noisy float:
P(code >= j) = P(n > t_j - x), so one uniform 32-bit integer u decides, code = #{j : u < 2^32 * P(n > t_j - x)}.
Only integers leave, so the floating-point leaks of textbook Laplace sampling (Mironov, CCS 2012) have nothing to leak
from.
Every threshold is kept within [1, 2^32 - 1]: no code is ever impossible, whatever the face.

The upper 16 bits of u are drawn first, and the lower 16 only where the code is not the same for all 65,536 u that
begin so. A threshold lies inside one such interval at most, so of the elements with b bits at most (2^b - 1) / 65,536
need them on average: 15 in 65,536 for the widest codes. The code is that of the whole u, the randomness half.

`perturb` finds most codes the other way round, ten times as fast: the noise that an interval of u stands for is in a
table, and the code is where value plus noise falls. Wherever that sum lies so near a threshold that the interval or
float32 could reach across it, the integers above decide. So every code is the exact one, and no float leaves.
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
_HALF = 16  # bits of u that are drawn at a time
_LOWER = np.uint32((1 << _HALF) - 1)
_AT_ONCE = 1 << 15  # elements whose values, noise and noise table stay in the cache together

#: Intervals this near an end of the range of u: they stand for too much noise, and are left to the integers.
_RARE = 256
#: How far from a threshold, in codes, the middle of an interval speaks for all of it, times the codes that one Laplace
#: scale spans. With f whole intervals beyond it, |n| / b runs from -ln((f + 1) / 2^15) to -ln(f / 2^15), and the table
#: has -ln((f + 1/2) / 2^15): at most ln(1 + 1 / 2f) off. (u is below the integer nearest to y when u + 1/2 is below y.)
_REACH = 0.5 / _RARE
#: How far float32 is off, in codes: `_NOISE_ERROR` for each code that one scale spans, `_STEP_ERROR` for what is added
#: up. Both are over thirty times the largest error that can arise: with noise below 5 scales, 35 roundings of 2^-24 of
#: a scale, and 2^-24 of 16 codes and of 8 for each step that the clip range reaches from 0.
_NOISE_ERROR = 2.0**-13
_STEP_ERROR = 2.0**-15


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
    """Draw the codes of one capture with fresh randomness: 2 bytes per sent element, little-endian, in channel order;
    then 2 more for each element that these leave undecided, in the same order.

    Raises ValueError when the features are of another transform than the profile, or the source of
    randomness runs short.
    """
    if features.transform != profile.transform or features.values.shape != profile.shape:
        raise ValueError(
            f"profile {profile.name} perturbs {profile.transform} features, not {features.transform}"
        )
    channels, height, width = profile.shape
    sent = np.flatnonzero(profile.sent)
    values = features.values.reshape(channels, height * width)
    upper = _draw(randomness, sent.size * height * width).reshape(sent.size, height * width)
    codes = np.zeros(values.shape, np.uint8)
    codes[sent], row, at = _estimate(values, upper, profile)

    channel = sent[row]
    thresholds = _thresholds_of(values, profile, channel, at)
    first = upper[row, at].astype(np.uint32) << _HALF  # the least u of each interval
    of_first, of_last = first < thresholds, (first | _LOWER) < thresholds
    codes[channel, at] = of_first.sum(axis=0)

    undecided = np.flatnonzero((of_first != of_last).any(axis=0))
    uniform = first[undecided] | _draw(randomness, undecided.size)
    codes[channel[undecided], at[undecided]] = (uniform < thresholds[:, undecided]).sum(axis=0)
    return PerturbedFeatures(profile.hash, codes.reshape(profile.shape))


def _draw(randomness: Randomness, count: int) -> NDArray[np.uint16]:
    stream = randomness(2 * count)
    if len(stream) != 2 * count:
        raise ValueError("the source of randomness ran short")
    return np.frombuffer(stream, "<u2")


def _noise_of_intervals() -> NDArray[np.float32]:
    """float32 (65536,): the noise in the middle of each interval of u, in Laplace scales; infinite in the rare ones."""
    interval = np.arange(1 << _HALF)
    beyond = np.minimum(interval, interval[::-1])  # intervals nearer to its end of the range
    size = np.where(beyond < _RARE, np.inf, -np.log((beyond + 0.5) * 2.0 ** (1 - _HALF)))
    return np.where(interval == beyond, size, -size).astype(np.float32)  # large u: negative noise


_NOISE = _noise_of_intervals()


def _estimate(
    values: NDArray[np.float32], upper: NDArray[np.uint16], profile: PrivacyProfile
) -> tuple[NDArray[np.uint8], NDArray[np.intp], NDArray[np.intp]]:
    """Codes of the sent channels by float32, uint8 (S, H * W), and row and position of those that it cannot vouch for.

    values: (C, H * W); upper: (S, H * W), the upper half of each u. All codes that are vouched for are the same
    whatever the lower half.
    """
    sent = np.flatnonzero(profile.sent)
    step, low, high = profile.step[sent], profile.low[sent], profile.high[sent]
    levels = 1 << profile.bits[sent]
    inverse_weight = (1 / profile.position_weight).astype(np.float32).reshape(1, -1)
    scale = (high - low) / (profile.channel_epsilon[sent] * step)  # in codes, at weight 1
    near = inverse_weight.max() * scale * (_REACH + _NOISE_ERROR)
    near += (1 + (np.abs(low) + np.abs(high)) / step) * _STEP_ERROR
    middle = levels / 2 - profile.centre[sent] / step
    columns = np.array([low, high, 1 / step, middle, scale, levels - 1, near], np.float32)[..., None]

    codes = np.empty(upper.shape, np.uint8)
    doubtful = []
    rows = max(1, _AT_ONCE // upper.shape[1])
    with np.errstate(invalid="ignore"):  # infinite noise is at no distance: not a number, so never far
        for start in range(0, sent.size, rows):
            part = slice(start, start + rows)
            low32, high32, per_step, middle32, scale32, last, near32 = columns[:, part]  # (rows, 1) each
            place = np.clip(values[sent[part]], low32, high32)
            place *= per_step
            noise = _NOISE.take(upper[part], mode="wrap")  # no index is out of range: "wrap" is the fastest
            noise *= inverse_weight
            noise *= scale32
            place += noise
            place += middle32  # code j holds j <= place < j + 1, the outermost ones all beyond
            distance = np.rint(place, out=noise)
            distance -= place
            # to the nearest whole number, so at most that far from a threshold
            np.abs(distance, out=distance)
            doubtful.append(np.flatnonzero(~(distance > near32)) + start * upper.shape[1])
            codes[part] = np.clip(place, 0, last, out=place)
    row, at = np.divmod(np.concatenate(doubtful), upper.shape[1])
    return codes, row, at


def _thresholds_of(
    values: NDArray[np.float32], profile: PrivacyProfile, channel: NDArray[np.intp], at: NDArray[np.intp]
) -> NDArray[np.uint32]:
    """The thresholds of some elements, uint32 (15, n); 0, which no u is below, where a code has fewer levels."""
    clipped = np.clip(values[channel, at].astype(np.float64), profile.low[channel], profile.high[channel])
    scale = profile.scale.reshape(values.shape)[channel, at]
    thresholds = np.zeros(((1 << CODE_BITS_MAX) - 1, channel.size), np.uint32)
    for bits in np.unique(profile.bits[channel]):
        some = np.flatnonzero(profile.bits[channel] == bits)
        centre, step = profile.centre[channel[some]], profile.step[channel[some]]
        found = code_thresholds(clipped[some], centre, step, scale[some], int(bits))
        thresholds[: len(found), some] = found
    return thresholds
