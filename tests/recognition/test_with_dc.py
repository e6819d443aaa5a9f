"""Features that keep DC: the others and the mean of every block; measured like the others, refused by doors."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from accesscontrol.captures import ProfilesMissingError, _profiles_of
from recognition.backbone import PLANES_SCALE, build_backbone
from recognition.budget import PrivacyProfile, load_profile
from recognition.checkpoint import AcceptedProfile, ModelError, load_model, save_model
from recognition.evaluation.attacks.operator import Operator, planes_from_crops
from recognition.evaluation.captures import features_of
from recognition.evaluation.embedding import open_embedder
from recognition.frequency import RESEARCH_SHAPES, SHAPES, to_frequency
from recognition.noise import perturb
from recognition.payload import PayloadError, pack, unpack
from recognition.recognizer import Recognizer
from recognition.training.collapsed import CollapsedStem
from recognition.training.config import CONFIGS
from recognition.training.perturbation import Transform
from recognition.training.research import ResearchProfile, open_model
from recognition.training.ship import UNCALIBRATED
from recognition.types import FrequencyFeatures, PerturbedFeatures
from tests.tiny_model import synthetic_picture

PIXELS = np.stack([synthetic_picture(seed).pixels for seed in range(3)])
WITH_DC = sorted(set(RESEARCH_SHAPES) - set(SHAPES))


def profile_of(transform: str = "critical-dc", bits: int = 2) -> ResearchProfile:
    channels, height, width = RESEARCH_SHAPES[transform]
    every = np.full(channels, 200.0)
    return ResearchProfile(
        name="with DC", transform=transform, low=-every, high=every, channel_epsilon=every / 25,
        position_weight=np.ones((height, width)), bits=np.full(channels, bits), step=every / 4, deviation=every / 10,
    )  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("models") / "dc"
    backbone = build_backbone("small", transform="critical-dc", dimension=32).eval()
    save_model(folder, name="dc", backbone=backbone, accepted=[AcceptedProfile(profile_of(), UNCALIBRATED)])
    yield folder


def test_the_transforms_with_dc_are_those_without_and_the_mean_of_every_block() -> None:
    for transform in WITH_DC:
        kept, plain = features_of(PIXELS[:1], transform), features_of(PIXELS[:1], transform[:-3])
        by_plane = kept.reshape(1, 3, 64, *kept.shape[2:])
        assert np.allclose(by_plane[:, :, 1:].reshape(plain.shape), plain, atol=1e-3)
        pixels = torch.from_numpy(PIXELS[:1]).permute(0, 3, 1, 2).float()
        assert np.allclose(Transform(transform)(pixels).numpy(), kept, atol=2e-3)
        attackers = Operator.named(transform).forward(planes_from_crops(PIXELS[:1]))
        assert np.allclose(attackers.numpy(), kept, atol=2e-3)
    blocks = planes_from_crops(PIXELS[:1]).reshape(3, 14, 8, 14, 8).mean((2, 4)).numpy()
    of_dc = features_of(PIXELS[:1], "critical-dc").reshape(3, 64, 14, 14)[:, 0]
    assert np.allclose(of_dc, 8 * blocks, atol=1e-3)


def test_the_receiver_of_critical_features_with_dc_gets_the_picture_back() -> None:
    backbone = build_backbone("small", transform="critical-dc", dimension=8)
    received = backbone.receiver(torch.from_numpy(features_of(PIXELS, "critical-dc")))
    assert torch.allclose(received / PLANES_SCALE, planes_from_crops(PIXELS), atol=1e-2)


def test_the_collapsed_stem_mixes_dc_too() -> None:
    torch.manual_seed(0)
    pixels = torch.from_numpy(PIXELS[:1]).permute(0, 3, 1, 2).float()
    mix, stem = torch.randn(3, 192), CollapsedStem()
    literal = torch.einsum("kc,bchw->bkhw", mix, Transform("paper-dc")(pixels))
    found = stem.signal(stem.planes(pixels), mix)
    assert torch.allclose(found, literal, atol=1e-4 * float(literal.abs().max()), rtol=1e-4)
    assert CollapsedStem.fits(build_backbone("small", transform="paper-dc", dimension=8))


def test_captures_with_dc_are_measured_through_their_exact_bytes(model: Path) -> None:
    profile = profile_of()
    assert ResearchProfile.from_json(profile.to_json()).hash == profile.hash
    features = features_of(PIXELS[:1], "critical-dc")[0]
    codes = perturb(FrequencyFeatures("critical-dc", features), profile, os.urandom).codes
    assert codes.shape == (192, 14, 14)
    sent = pack(PerturbedFeatures(profile.hash, codes), profile)
    assert len(sent) == 52 + 2 * 192 * 14 * 14 // 8 + 4
    assert np.array_equal(unpack(sent, {profile.hash: profile}).codes, codes)
    embedder = open_embedder(str(model), profile=None, unprotected=False, seed=1)
    assert embedder.embed([synthetic_picture(0)]).shape == (1, 32)
    assert embedder.describe()["payload_bytes"] == len(sent)


@pytest.mark.parametrize("transform", WITH_DC)
def test_no_profile_with_dc_is_a_profile_of_production(transform: str, tmp_path: Path) -> None:
    text = profile_of(transform).to_json()
    (tmp_path / "profile.json").write_text(text)
    with pytest.raises(ValueError, match="unknown transform"):
        PrivacyProfile.from_json(text)  # what a terminal makes of a profile that it is given
    with pytest.raises(ValueError, match="unknown transform"):
        load_profile(tmp_path / "profile.json")  # what a server knows its profiles by
    with pytest.raises(KeyError):
        to_frequency(synthetic_picture(0), transform)


def test_no_door_is_opened_by_a_model_of_features_with_dc(model: Path) -> None:
    assert open_model(model).accepted[0].profile.transform == "critical-dc"
    for load in (load_model, Recognizer.load):
        with pytest.raises(ModelError, match="unknown transform"):
            load(model)
    with pytest.raises(ProfilesMissingError, match="unknown transform"):
        _profiles_of(str(model))
    profile = profile_of()
    sent = pack(PerturbedFeatures(profile.hash, np.zeros(profile.shape, np.uint8)), profile)
    with pytest.raises(PayloadError) as refused:
        unpack(sent, _profiles_of("default"))
    assert refused.value.code == "unknown_profile"


def test_the_ablation_is_a_config() -> None:
    paper = CONFIGS["paper-with-dc"]
    assert (paper.transform, paper.backbone) == ("paper-dc", "ir50")
    assert CONFIGS["small-critical-dc-uniform-epsilon16"].transform == "critical-dc"
    assert CONFIGS["small-paper-dc-epsilon4-lambda1"].attacker_weight == 1.0
