"""The codes a terminal emits follow the exact distribution of clipped value plus Laplace noise."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from skimage.data import astronaut

from recognition import noise
from recognition.budget import PrivacyProfile
from recognition.frequency import SHAPES, to_frequency
from recognition.noise import code_thresholds, perturb
from recognition.types import FaceCrop, FrequencyFeatures
from tests.recognition.definition import codes_from, codes_of, in_halves, thresholds_of, undecided
from tests.recognition.profiles import make_profile, mixed_bits, recorded_randomness


def constant(value: float, transform: str = "critical") -> FrequencyFeatures:
    return FrequencyFeatures(transform, np.full(SHAPES[transform], value, np.float32))


def exact_probabilities(value: float, *, centre: float, step: float, scale: float, bits: int) -> np.ndarray:
    levels = 1 << bits
    cuts = centre + (np.arange(1, levels) - levels / 2) * step
    below = np.concatenate([[0.0], stats.laplace(loc=value, scale=scale).cdf(cuts), [1.0]])
    return np.diff(below)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("value", [0.0, 3.0, -40.0, 99.0, 5_000.0])
def test_code_frequencies_match_the_exact_distribution(bits: int, value: float) -> None:
    profile = make_profile(bits=bits)
    codes = perturb(constant(value), profile, recorded_randomness(bits * 1000 + int(abs(value)))).codes
    clipped = min(max(value, -100.0), 100.0)
    expected = exact_probabilities(
        clipped, centre=0.0, step=float(profile.step[0]), scale=float(profile.scale[0, 0, 0]), bits=bits
    )
    counts = np.bincount(codes.ravel(), minlength=1 << bits)
    keep = expected * codes.size >= 5  # chi-square needs five expected in a cell
    if keep.sum() > 1:
        observed, wanted = counts[keep], expected[keep] * codes.size
        assert stats.chisquare(observed, wanted * observed.sum() / wanted.sum()).pvalue > 1e-4
    assert counts[~keep].sum() <= 60


@pytest.mark.parametrize("value", [0.0, 3.0, -40.0, 99.0])
def test_the_implied_noise_is_laplace_by_kolmogorov_and_smirnov(value: float) -> None:
    """Dense codes of one value, spread uniformly within each code, must look like the Laplace law they cut up."""
    profile = make_profile(bits=4, epsilon=4.0)
    step, scale = float(profile.step[0]) / 4, float(profile.scale[0, 0, 0])
    values = np.full(40_000, value)
    thresholds = code_thresholds(values, 0.0, step, np.full(values.shape, scale), 4)
    uniform = np.frombuffer(np.random.default_rng(3).bytes(4 * values.size), "<u4")
    codes = (uniform < thresholds).sum(axis=0)
    inner = (codes > 0) & (codes < 15)
    rng = np.random.default_rng(4)
    within = (codes[inner] + rng.random(inner.sum()) - 8) * step
    law = stats.laplace(loc=value, scale=scale)
    low, high = law.cdf(-7 * step), law.cdf(7 * step)
    assert stats.kstest(law.cdf(within), lambda p: (p - low) / (high - low)).statistic < 0.02


@settings(max_examples=60, deadline=None)
@given(st.floats(-100, 100), st.floats(-100, 100), st.sampled_from([0.5, 4.0, 16.0]), st.integers(1, 4))
def test_no_code_betrays_more_than_epsilon(one: float, other: float, epsilon: float, bits: int) -> None:
    """The likelihood ratio of any code between any two clipped values is at most e^epsilon (Dwork et al. 2006)."""
    profile = make_profile(bits=bits, epsilon=epsilon)
    scale = np.full(2, profile.scale[0, 0, 0])
    thresholds = (
        code_thresholds(np.array([one, other]), 0.0, float(profile.step[0]), scale, bits).astype(np.float64)
        / 2**32
    )
    at_least = np.concatenate([np.ones((1, 2)), thresholds, np.zeros((1, 2))])
    chance = at_least[:-1] - at_least[1:]
    assert (chance > 0).all()
    assert np.abs(np.log(chance[:, 0] / chance[:, 1])).max() <= epsilon + 1e-3


def test_two_captures_of_one_crop_differ() -> None:
    crop = FaceCrop(np.ascontiguousarray(astronaut()[30:254:2, 110:334:2]))
    features = to_frequency(crop, "critical")
    profile = make_profile()
    first, second = (perturb(features, profile, os.urandom).codes for _ in range(2))
    assert 0.2 < (first != second).mean() < 0.9


def test_channels_without_bits_send_nothing() -> None:
    bits = mixed_bits()
    codes = perturb(constant(80.0), make_profile(bits=bits), recorded_randomness(1)).codes
    assert not codes[bits == 0].any()
    assert all(codes[channel].max() < 1 << bits[channel] for channel in np.flatnonzero(bits))


def test_the_same_randomness_gives_the_same_codes_as_one_threshold_at_a_time() -> None:
    """An obvious slow version as referee: one element after another, the survival function by scipy."""
    profile = make_profile(bits=np.where(np.arange(189) < 3, 3, 0))
    rng = np.random.default_rng(9)
    features = FrequencyFeatures("critical", rng.normal(0, 60, SHAPES["critical"]).astype(np.float32))
    uniform = np.frombuffer(recorded_randomness(5)(3 * 196 * 4), "<u4").reshape(3, 14, 14)
    codes = perturb(features, profile, in_halves(features, profile, uniform)).codes
    for channel, row, column in [(0, 0, 0), (1, 7, 3), (2, 13, 13), (0, 5, 9), (2, 1, 12)]:
        value = min(max(float(features.values[channel, row, column]), -100.0), 100.0)
        cuts = (np.arange(1, 8) - 4) * float(profile.step[channel])
        tails = stats.laplace(loc=value, scale=float(profile.scale[channel, row, column])).sf(cuts)
        assert codes[channel, row, column] == sum(
            uniform[channel, row, column] < round(t * 2**32) for t in tails
        )


def test_features_of_another_transform_are_refused() -> None:
    with pytest.raises(ValueError, match="perturbs critical"):
        perturb(constant(0.0, "paper"), make_profile(), os.urandom)


def test_a_short_read_of_randomness_is_an_error_not_a_weaker_capture() -> None:
    with pytest.raises(ValueError, match="ran short"):
        perturb(constant(0.0), make_profile(), lambda n: os.urandom(n - 1))
    features, profile = constant(1.0), make_profile()
    upper = (
        thresholds_of(features, profile, 0)[0] >> 16
    )  # a threshold lies within: every element is undecided
    reads = iter([np.tile(upper.astype("<u2").ravel(), 189).tobytes(), b""])
    with pytest.raises(ValueError, match="ran short"):
        perturb(features, profile, lambda n: next(reads))


def test_values_that_are_not_numbers_never_become_features() -> None:
    with pytest.raises(ValueError, match="finite"):
        FrequencyFeatures("critical", np.full(SHAPES["critical"], np.nan, np.float32))


def uneven(transform: str, *, centre: float, narrow: float) -> PrivacyProfile:
    """Every width, clip ranges off centre, budgets that differ by channel and place, steps of any size."""
    rng = np.random.default_rng(11)
    channels, height, width = SHAPES[transform]
    bits = mixed_bits(7)
    reach = 10 ** rng.uniform(0, 3, channels)
    middle = centre * reach * rng.uniform(-1, 1, channels)
    epsilon = np.where(bits > 0, 10 ** rng.uniform(-1, 1.5, channels), 0.0)
    weight = rng.uniform(0.2, 1.8, (height, width))
    return PrivacyProfile(
        name="uneven",
        transform=transform,
        low=middle - reach,
        high=middle + reach,
        channel_epsilon=epsilon,
        position_weight=weight / weight.mean(),
        bits=bits,
        step=np.where(bits > 0, narrow * 2 * reach / np.where(bits > 0, epsilon, 1.0), 0.0),
        deviation=reach / 10,
    )


@pytest.mark.parametrize("narrow", [0.02, 1.0, 5.0])
@pytest.mark.parametrize("centre", [0.0, 20.0])
@pytest.mark.parametrize(
    "where", ["anywhere", "at the threshold", "just below it", "near it", "far out", "far in"]
)
def test_every_code_is_the_one_that_the_thresholds_give(where: str, centre: float, narrow: float) -> None:
    """Also where the random integer is a threshold itself, or so extreme that float32 cannot follow it."""
    profile = uneven("critical", centre=centre, narrow=narrow)
    rng = np.random.default_rng(2)
    spread = (profile.high - profile.low)[:, None, None]
    values = profile.centre[:, None, None] + spread * rng.normal(0, 0.4, profile.shape)
    features = FrequencyFeatures("critical", values.astype(np.float32))
    sent = np.flatnonzero(profile.sent)
    uniform = rng.integers(0, 1 << 32, (sent.size, *profile.shape[1:]), dtype=np.uint32)
    for row, channel in enumerate(sent):
        thresholds = thresholds_of(features, profile, channel)
        chosen = thresholds[rng.integers(0, thresholds.shape[0])]
        if where == "at the threshold":
            uniform[row] = chosen
        elif where == "just below it":
            uniform[row] = chosen - 1
        elif where == "near it":
            off = rng.integers(-5000, 5001, chosen.shape)
            uniform[row] = np.clip(chosen.astype(np.int64) + off, 0, (1 << 32) - 1)
    if where == "far out":
        uniform >>= rng.integers(8, 32, uniform.shape, dtype=np.uint32)
    elif where == "far in":
        uniform = ~(uniform >> rng.integers(8, 32, uniform.shape, dtype=np.uint32))
    codes = perturb(features, profile, in_halves(features, profile, uniform)).codes
    assert np.array_equal(codes, codes_of(features, profile, uniform))


def test_every_code_of_the_papers_transform_is_the_one_that_the_thresholds_give() -> None:
    profile = make_profile(transform="paper", bits=mixed_bits(3), epsilon=2.0)
    rng = np.random.default_rng(8)
    features = FrequencyFeatures("paper", rng.normal(0, 60, SHAPES["paper"]).astype(np.float32))
    codes = perturb(features, profile, recorded_randomness(6)).codes
    assert np.array_equal(codes, codes_from(features, profile, recorded_randomness(6)))


def six_channels_of_the_papers_transform(bits: int, epsilon: float, step: float) -> PrivacyProfile:
    """75,264 elements: room for each of the 65,536 upper halves that there are."""
    profile = make_profile(
        transform="paper", bits=np.where(np.arange(189) % 32 == 0, bits, 0), epsilon=epsilon
    )
    return replace(profile, step=profile.step * step)


@pytest.mark.parametrize("value", [0.7, 7.3, -33.3, 100.0])
@pytest.mark.parametrize(
    ("bits", "epsilon", "step"),
    [(4, 4.0, 0.25), (4, 40.0, 1.3), (3, 0.5, 0.01), (2, 8.0, 1.0), (1, 0.01, 1.0)],
)
def test_only_undecided_codes_depend_on_the_lower_half(
    bits: int, epsilon: float, step: float, value: float
) -> None:
    """Each upper half there is, with the least and the greatest lower half: what is not asked for changes nothing."""
    profile = six_channels_of_the_papers_transform(bits, epsilon, step)
    features = constant(value, "paper")
    upper = (np.arange(6 * 112 * 112) % 65_536).astype("<u2").reshape(6, 112, 112)
    asked = undecided(features, profile, upper)
    assert 0 < asked.ravel()[:65_536].sum() <= (1 << bits) - 1, "each threshold lies in one interval at most"
    drawn = {}
    for lower in (0, 65_535):
        uniform = upper.astype(np.uint32) << 16 | np.uint32(lower)
        drawn[lower] = perturb(features, profile, in_halves(features, profile, uniform)).codes
        assert np.array_equal(drawn[lower], codes_of(features, profile, uniform))
    assert np.array_equal((drawn[0] != drawn[65_535])[profile.sent], asked)


def test_the_lower_halves_are_read_once_for_the_undecided_alone_in_channel_order() -> None:
    profile = uneven("critical", centre=1.0, narrow=1.0)
    rng = np.random.default_rng(21)
    features = FrequencyFeatures("critical", rng.normal(0, 60, SHAPES["critical"]).astype(np.float32))
    size = int(profile.sent.sum()) * 196
    lowest = [thresholds_of(features, profile, channel)[0] for channel in np.flatnonzero(profile.sent)]
    chosen = rng.random(size) < 0.3  # lie where a threshold does
    upper = np.where(chosen, np.ravel(lowest) >> 16, rng.integers(0, 65_536, size)).astype("<u2")
    needed = int(undecided(features, profile, upper.reshape(-1, 14, 14)).sum())
    assert size / 4 < needed < size / 2
    lower = rng.integers(0, 65_536, needed).astype("<u2")
    asked = []

    def source(count: int) -> bytes:
        asked.append(count)
        return [upper, lower][len(asked) - 1].tobytes()

    codes = perturb(features, profile, source).codes
    assert asked == [2 * size, 2 * needed]
    reads = iter([upper.tobytes(), lower.tobytes()])
    assert np.array_equal(codes, codes_from(features, profile, lambda count: next(reads)))


def test_fewer_than_15_of_65536_elements_need_the_lower_half_of_their_integer() -> None:
    asked = []

    def counted(count: int) -> bytes:
        asked.append(count)
        return recorded_randomness(len(asked))(count)

    profile = make_profile(transform="paper", bits=4, epsilon=4.0)
    features = FrequencyFeatures(
        "paper", np.random.default_rng(3).normal(0, 60, SHAPES["paper"]).astype(np.float32)
    )
    perturb(features, profile, counted)
    expected = asked[0] * 15 / 65_536
    assert 0 < asked[1] < expected + 5 * 2 * (expected / 2) ** 0.5


@pytest.mark.parametrize("centre", [0.0, 1.0, 200.0])
@pytest.mark.parametrize("narrow", [0.01, 1.0, 30.0])
def test_float32_is_right_with_a_thirtieth_of_its_margin(
    centre: float, narrow: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Value and noise add up to a threshold but for some millionths of a code, and the interval has no width."""
    monkeypatch.setattr(noise, "_REACH", 0.0)
    monkeypatch.setattr(noise, "_NOISE_ERROR", noise._NOISE_ERROR / 30)
    monkeypatch.setattr(noise, "_STEP_ERROR", noise._STEP_ERROR / 30)
    profile = uneven("critical", centre=centre, narrow=narrow)
    rng = np.random.default_rng(5)
    sent = np.flatnonzero(profile.sent)
    step, middle = (of[sent][:, None, None] for of in (profile.step, profile.centre))
    levels = (1 << profile.bits[sent])[:, None, None]
    upper = rng.integers(noise._RARE, (1 << 16) - noise._RARE, (sent.size, *profile.shape[1:]))
    draws = stats.laplace(scale=profile.scale[sent]).isf((upper + 0.5) / 2**16)
    target = middle + (rng.integers(1, 16, upper.shape) % (levels - 1) + 1 - levels / 2) * step
    near = step + profile.scale[sent]
    values = np.zeros(profile.shape, np.float32)
    values[sent] = target - draws + near * rng.normal(0, 3e-6, upper.shape)
    features = FrequencyFeatures("critical", values)
    codes, row, at = noise._estimate(
        values.reshape(len(values), -1), upper.astype(np.uint16).reshape(sent.size, -1), profile
    )
    vouched = np.ones(codes.shape, np.bool_)
    vouched[row, at] = False
    exact = codes_of(features, profile, (upper << 16 | 1 << 15).astype(np.uint32))[sent].reshape(codes.shape)
    assert vouched.mean() > 0.1, "the comparison below says something"
    assert np.array_equal(codes[vouched], exact[vouched])
