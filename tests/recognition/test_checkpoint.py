import json
import math
import pickle
import shutil
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recognition.backbone import UNPROTECTED, build_backbone
from recognition.checkpoint import (
    MODELS,
    AcceptedProfile,
    Calibration,
    Model,
    ModelError,
    calibrate,
    load_model,
    model_folder,
    save_model,
)
from tests.tiny_model import make_tiny_model, tiny_profile

CALIBRATION = Calibration(source="test", comparisons=10_000, points=((0.1, 0.2), (0.01, 0.3), (0.001, 0.4)))


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def folder(made_once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made_once, tmp_path / "model"))


def edit(folder: Path, **changes: object) -> None:
    description = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(description | changes))


def test_a_saved_model_comes_back_whole(folder: Path, tmp_path: Path) -> None:
    model = load_model(folder)
    save_model(tmp_path / "again", name=model.name, backbone=model.backbone, accepted=model.accepted)
    again = load_model(tmp_path / "again")
    assert (again.name, again.backbone.name, again.backbone.dimension) == ("tiny", "small", 64)
    assert [one.profile.hash for one in again.accepted] == [tiny_profile().hash]
    assert again.accepted[0].calibration == model.accepted[0].calibration
    assert not again.backbone.training
    for key, value in model.backbone.state_dict().items():
        assert torch.equal(again.backbone.state_dict()[key], value)


def test_several_profiles_keep_their_order_the_default_first(folder: Path, tmp_path: Path) -> None:
    model = load_model(folder)
    strict = AcceptedProfile(tiny_profile("strict"), CALIBRATION, file="strict.json")
    save_model(tmp_path / "two", name="two", backbone=model.backbone, accepted=[*model.accepted, strict])
    assert [one.profile.name for one in load_model(tmp_path / "two").accepted] == ["tiny", "strict"]


def test_weights_that_were_exchanged_are_refused(folder: Path) -> None:
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    with pytest.raises(ModelError, match="not the file that"):
        load_model(folder)


def test_a_profile_that_was_exchanged_is_refused(folder: Path) -> None:
    (folder / "profile.json").write_text(tiny_profile("another").to_json())
    with pytest.raises(ModelError, match="not the profile that"):
        load_model(folder)


def test_a_pickle_in_place_of_the_weights_is_never_executed(folder: Path, tmp_path: Path) -> None:
    """Its hash is made to fit, so that only the format stands between the pickle and its execution."""
    traces = tmp_path / "traces"

    class LeavesTraces:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (traces,))

    weights = pickle.dumps(LeavesTraces())
    (folder / "model.safetensors").write_bytes(weights)
    edit(folder, weights_sha256=sha256(weights).hexdigest())
    with pytest.raises(ModelError, match="no usable model"):
        load_model(folder)
    assert not traces.exists()


@pytest.mark.parametrize("missing", ["model.json", "model.safetensors", "profile.json"])
def test_an_incomplete_folder_is_refused(folder: Path, missing: str) -> None:
    (folder / missing).unlink()
    with pytest.raises(ModelError, match="no usable model"):
        load_model(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 2},
        {"backbone": "vgg"},
        {"backbone": "mobilefacenet"},  # the weights are another network's
        {"dimension": 65},
        {"transform": "paper"},
        {"profiles": []},
        {"profiles": [{"file": "../model.json"}]},
        {"profiles": None},
    ],
)
def test_a_description_that_contradicts_the_folder_is_refused(
    folder: Path, changes: dict[str, object]
) -> None:
    edit(folder, **changes)
    with pytest.raises(ModelError):
        load_model(folder)


def test_an_unprotected_twin_can_be_kept_but_accepts_no_profile(tmp_path: Path) -> None:
    twin = build_backbone("small", transform=UNPROTECTED, dimension=8)
    save_model(tmp_path / "twin", name="twin", backbone=twin, accepted=[])
    assert load_model(tmp_path / "twin").accepted == ()
    with pytest.raises(ModelError, match="accepts no privacy profile"):
        Model(name="twin", backbone=twin, accepted=(AcceptedProfile(tiny_profile(), CALIBRATION),))


def test_a_name_means_a_model_of_the_package_and_a_path_means_itself(tmp_path: Path) -> None:
    assert model_folder("default").parts[-3:] == ("recognition", "models", "default")
    assert model_folder(tmp_path / "mine") == tmp_path / "mine"
    assert model_folder("models/mine") == Path("models/mine")


def test_what_ships_is_small_has_a_card_and_its_default_can_open_doors_while_the_twin_cannot() -> None:
    assert sum(file.stat().st_size for file in MODELS.rglob("*") if file.is_file()) <= 8_000_000
    shipped = {folder.name: load_model(folder) for folder in MODELS.iterdir() if folder.is_dir()}
    assert all((MODELS / name / "CARD.md").exists() for name in shipped)
    assert [one.profile.name for one in shipped["default"].accepted] == ["balanced", "strict"]
    assert all(one.calibration.comparisons > 1_000_000 for one in shipped["default"].accepted)
    twin = shipped["default-unprotected"]
    assert twin.backbone.transform == UNPROTECTED and not twin.accepted


def test_one_template_at_a_measured_rate_takes_the_measured_threshold() -> None:
    assert CALIBRATION.threshold_for(gallery_size=1, target_fpir=0.01) == pytest.approx(0.3)
    assert CALIBRATION.threshold_for(gallery_size=1, target_fpir=10**-2.5) == pytest.approx(0.35)


def test_a_hundred_templates_need_a_hundredfold_rarer_match() -> None:
    """FPIR = 1 - (1 - FMR)^100, solved the other way round."""
    fpir = 1 - (1 - 0.001) ** 100
    assert CALIBRATION.threshold_for(gallery_size=100, target_fpir=fpir) == pytest.approx(0.4)


def test_beyond_the_measured_rates_the_last_decade_goes_on_and_ends_at_one() -> None:
    assert CALIBRATION.threshold_for(gallery_size=1, target_fpir=1e-4) == pytest.approx(0.5)
    assert CALIBRATION.threshold_for(gallery_size=1_000_000, target_fpir=1e-6) == 1.0


@given(
    sizes=st.tuples(st.integers(1, 10**7), st.integers(1, 10**7)),
    rates=st.tuples(st.floats(1e-6, 0.5), st.floats(1e-6, 0.5)),
)
def test_more_templates_or_a_rarer_mistake_never_lower_the_threshold(
    sizes: tuple[int, int], rates: tuple[float, float]
) -> None:
    lax = CALIBRATION.threshold_for(gallery_size=min(sizes), target_fpir=max(rates))
    strict = CALIBRATION.threshold_for(gallery_size=max(sizes), target_fpir=min(rates))
    assert lax <= strict <= 1


@pytest.mark.parametrize(("gallery_size", "target_fpir"), [(0, 0.01), (1, 0.0), (1, 1.0), (1, math.nan)])
def test_a_threshold_for_nothing_is_an_error(gallery_size: int, target_fpir: float) -> None:
    with pytest.raises(ValueError, match="must"):
        CALIBRATION.threshold_for(gallery_size=gallery_size, target_fpir=target_fpir)


def test_calibrated_thresholds_let_at_most_the_stated_share_of_impostors_match() -> None:
    scores = np.random.default_rng(3).normal(0.1, 0.1, size=20_000)
    calibration = calibrate(scores, source="normal scores")
    assert calibration.comparisons == 20_000
    assert calibration.points[0][0] == pytest.approx(0.1)
    assert calibration.points[-1][0] * 20_000 >= 10
    for rate, threshold in calibration.points:
        assert np.mean(scores >= threshold) <= rate
        assert np.mean(scores >= threshold) > 0.8 * rate


def test_the_line_beyond_the_measured_rates_errs_on_the_strict_side_for_normal_scores() -> None:
    random = np.random.default_rng(4)
    calibration = calibrate(random.normal(0, 0.1, size=20_000), source="normal scores")
    threshold = calibration.threshold_for(gallery_size=1, target_fpir=1e-6)
    assert 0.5 * math.erfc(threshold / 0.1 / math.sqrt(2)) <= 1e-6


def test_too_few_scores_calibrate_nothing() -> None:
    with pytest.raises(ModelError, match="two points"):
        calibrate(np.zeros(50), source="too few")


@pytest.mark.parametrize(
    "points",
    [
        (),
        ((0.1, 0.2),),
        ((0.1, 0.3), (0.01, 0.2)),
        ((0.01, 0.2), (0.1, 0.3)),
        ((0.1, 0.2), (0.1, 0.3)),
        ((1.5, 0.2), (0.1, 0.3)),
        ((0.1, 0.2), (0.0, 0.3)),
        ((0.1, 0.2), (0.01, 1.2)),
        ((0.1, math.nan), (0.01, 0.5)),
    ],
)
def test_a_calibration_that_makes_no_sense_is_refused(points: tuple[tuple[float, float], ...]) -> None:
    with pytest.raises(ModelError):
        replace(CALIBRATION, points=points)
