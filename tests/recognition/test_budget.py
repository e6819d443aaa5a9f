"""The privacy arithmetic, and a profile file that means one thing only."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from recognition.budget import PrivacyProfile, allocate_epsilon, load_profile
from tests.recognition.profiles import make_profile, mixed_bits


def test_noise_scale_is_sensitivity_over_epsilon() -> None:
    profile = make_profile(epsilon=8.0, reach=100.0)
    assert np.allclose(profile.scale, 200 / 8)


def test_epsilon_of_a_capture_is_the_sum_and_captures_add_up() -> None:
    profile = make_profile(epsilon=0.5)
    assert profile.epsilon_mean_per_coefficient == pytest.approx(0.5)
    assert profile.epsilon_per_capture == pytest.approx(0.5 * 189 * 14 * 14)
    assert profile.epsilon_after(1000) == pytest.approx(1000 * profile.epsilon_per_capture)


def test_the_papers_composition_figure_for_its_own_setting() -> None:
    """METHOD: one capture at epsilon_mean 0.5 with the paper's transform spends 1,185,408."""
    assert make_profile(transform="paper", epsilon=0.5).epsilon_per_capture == pytest.approx(1_185_408)


def test_channels_that_are_not_sent_have_infinite_noise_and_no_budget() -> None:
    bits = mixed_bits()
    profile = make_profile(bits=bits)
    assert np.isinf(profile.scale[bits == 0]).all()
    assert not profile.epsilon[bits == 0].any()
    assert not profile.gain[bits == 0].any()


@settings(max_examples=50, deadline=None)
@given(arrays(np.float64, 189, elements=st.floats(-8, 8)), st.floats(0.1, 32))
def test_learned_budgets_always_spend_the_same_total(free: np.ndarray, mean: float) -> None:
    epsilon = allocate_epsilon(free, epsilon_mean=mean)
    assert (epsilon > 0).all()
    assert epsilon.mean() == pytest.approx(mean)


def test_a_profile_survives_its_file_with_the_same_hash(tmp_path) -> None:  # type: ignore[no-untyped-def]
    profile = make_profile(bits=mixed_bits())
    path = tmp_path / "profile.json"
    path.write_text(profile.to_json())
    loaded = load_profile(path)
    assert loaded.hash == profile.hash
    assert (loaded.scale == profile.scale).all()
    assert path.stat().st_size < 1_000_000


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("bits", [5] * 189),
        ("bits", [0] * 189),
        ("low", [1e9] * 189),
        ("low", [None] * 189),
        ("step", [0.0] * 189),
        ("channel_epsilon", [-1.0] * 189),
        ("channel_epsilon", [1.0] * 188),
        ("position_weight", [[2.0] * 14] * 14),
        ("transform", "wavelet"),
        ("format", 2),
    ],
)
def test_a_contradictory_profile_is_refused(field: str, value: object) -> None:
    document = json.loads(make_profile().to_json())
    document[field] = value
    with pytest.raises(ValueError):
        PrivacyProfile.from_json(json.dumps(document))


def test_unknown_or_missing_fields_are_refused() -> None:
    document = json.loads(make_profile().to_json())
    with pytest.raises(ValueError, match="fields differ"):
        PrivacyProfile.from_json(json.dumps(document | {"extra": 1}))
    del document["step"]
    with pytest.raises(ValueError, match="fields differ"):
        PrivacyProfile.from_json(json.dumps(document))


def test_values_of_codes_are_the_middles_of_their_intervals() -> None:
    profile = make_profile(bits=2, epsilon=8.0)
    codes = np.zeros(profile.shape, np.uint8)
    codes[0, 0, :4] = [0, 1, 2, 3]
    step = profile.step[0]
    assert np.allclose(profile.values_of(codes)[0, 0, :4], np.array([-1.5, -0.5, 0.5, 1.5]) * step)
