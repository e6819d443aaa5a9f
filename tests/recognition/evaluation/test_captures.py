"""Many captures at once are the captures a terminal would have sent."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from recognition.budget import PrivacyProfile
from recognition.evaluation import captures
from recognition.evaluation.captures import Drawer, features_of, planes_of
from recognition.frequency import to_frequency, to_planes
from recognition.noise import perturb
from recognition.types import FaceCrop, FrequencyFeatures
from tests.recognition.definition import in_halves
from tests.recognition.evaluation.faces import people
from tests.recognition.profiles import make_profile, mixed_bits
from tests.tiny_model import tiny_profile

PIXELS = np.stack([crop.pixels for crop in people(5, 1).values()])


@pytest.mark.parametrize("transform", ["critical", "paper"])
def test_features_of_many_are_the_features_of_each(transform: str) -> None:
    together = features_of(PIXELS[:2], transform)
    for row, pixels in enumerate(PIXELS[:2]):
        alone = to_frequency(FaceCrop(pixels), transform).values
        assert np.abs(together[row] - alone).max() < 1e-3, "coefficients reach 1,000: float32's rounding"
        assert np.abs(planes_of(PIXELS)[row].numpy() - to_planes(pixels)).max() < 1e-4


@pytest.mark.parametrize(
    "profile",
    [
        tiny_profile(),
        make_profile(bits=mixed_bits(), epsilon=2.0),
        make_profile(bits=4, epsilon=300.0, reach=400.0),
        make_profile(bits=1, epsilon=0.05),
    ],
    ids=["tiny", "mixed bits", "little noise", "noise alone"],
)
def test_the_same_integers_draw_the_very_codes_a_terminal_draws(profile: PrivacyProfile) -> None:
    drawer, features = Drawer(profile), features_of(PIXELS, profile.transform)
    size = drawer.bytes_per_capture
    stream = bytearray(np.random.default_rng(3).bytes(len(PIXELS) * size))
    stream[:64] = bytes(32) + b"\xff" * 32  # the ends of the range, where rounding decides
    together = drawer.codes(features, bytes(stream))
    for row in range(len(PIXELS)):
        uniform = np.frombuffer(stream, "<u4").reshape(len(PIXELS), -1, *profile.shape[1:])[row]
        one = FrequencyFeatures(profile.transform, features[row])
        alone = perturb(one, profile, in_halves(one, profile, uniform))
        assert np.array_equal(together[row], alone.codes)


def test_position_weights_and_paper_features_are_drawn_alike() -> None:
    few = np.where(np.arange(189) % 40 == 0, 2, 0)
    weight = np.linspace(0.2, 1.8, 112 * 112).reshape(112, 112)
    profile = replace(make_profile(transform="paper", bits=few, epsilon=3.0), position_weight=weight)
    drawer, features = Drawer(profile), features_of(PIXELS[:1], "paper")
    stream = np.random.default_rng(4).bytes(drawer.bytes_per_capture)
    uniform = np.frombuffer(stream, "<u4").reshape(-1, 112, 112)
    one = FrequencyFeatures("paper", features[0])
    alone = perturb(one, profile, in_halves(one, profile, uniform))
    assert np.array_equal(drawer.codes(features, stream)[0], alone.codes)


def test_a_stream_that_runs_short_draws_nothing() -> None:
    drawer = Drawer(tiny_profile())
    with pytest.raises(ValueError, match="ran short"):
        drawer.codes(features_of(PIXELS, "critical"), bytes(drawer.bytes_per_capture))


def test_work_in_parallel_keeps_its_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captures, "_chosen", [3])
    assert captures.in_parallel(lambda n: n * n, list(range(50))) == [n * n for n in range(50)]
