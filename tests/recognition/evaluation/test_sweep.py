"""The front from one command: points trained alike, written down as they end, gone on with after an interruption."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recognition.checkpoint import load_model
from recognition.evaluation import rate, sweep
from recognition.evaluation.__main__ import main
from recognition.evaluation.data import DataError
from recognition.training.perturbation import fit_profile
from recognition.training.train import Run
from tests.recognition.evaluation.faces import people, write_judge, write_pack, write_tar
from tests.recognition.profiles import make_profile
from tests.tiny_model import make_tiny_model, tiny_profile

SIGNS = "small-critical-uniform-epsilon16+signs"
LEARNED = "small-critical-epsilon16-lambda1"
SUBSETS = f"{sweep.UNIFORM}+subsets"
WITH_DC = "small-critical-dc-uniform-epsilon16"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    images = people(160, 1)
    write_pack(folder / "faces.npz", images)
    teacher = np.random.default_rng(0).normal(size=(160, 256)).astype(np.float32)
    np.savez(folder / "teacher.npz", embeddings=teacher)
    write_tar(folder / "faces.tar", people(8, 2))
    write_judge(folder / "judge.pt")
    rows = ["fold,img1,img2,same"]
    for n in range(7):
        rows += [f"{n % 2},p{n:03d}_0,p{n:03d}_1,1", f"{n % 2},p{n:03d}_0,p{n + 1:03d}_1,0"]
    (folder / "pairs.csv").write_text("\n".join(rows) + "\n")
    make_tiny_model(folder / "tiny")
    return folder


def run(place: Path, capsys: pytest.CaptureFixture[str], folder: Path, *more: str) -> dict[str, Any]:
    arguments = [
        "sweep", "--folder", folder, "--pack", place / "faces.npz", "--teacher", place / "teacher.npz",
        "--images", place / "faces.tar", "--pairs", place / "pairs.csv", "--attack-images", place / "faces.npz",
        "--judge", place / "judge.pt", "--passes", "64", "--every", "1", "--count", "2", "--steps", "3",
    ]  # fmt: skip
    assert main([str(a) for a in arguments] + list(more)) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    return result


def test_points_are_written_as_they_end_and_never_done_twice(
    place: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, points = tmp_path / "front", ["--points", sweep.TWIN, SIGNS, LEARNED]
    stopped = run(place, capsys, folder, *points, "--minutes", "0")
    assert stopped["done"] == 0 and stopped["left"] == points[1:]
    assert not (folder / "points.jsonl").exists(), "a run cut short is no figure"
    assert (folder / "runs" / f"{sweep.TWIN}-64" / "state.pt").exists(), "it goes on from here"

    result = run(place, capsys, folder, *points, "--fused", "2")
    assert result["left"] == [] and result["done"] == 3
    lines = {line["point"]: line for line in sweep.read_lines(folder)}
    assert list(lines) == points[1:]
    for name in (SIGNS, LEARNED):
        assert lines[name]["passes"] == 64 and lines[name]["pairs"] == 14
        assert 0 <= lines[name]["accuracy"] <= 1 and -1 <= lines[name]["ssim"] <= 1
        assert {"accepted", "psnr", "accuracy_fused", "ssim_fused"} <= set(lines[name])
    assert lines[SIGNS]["payload_bytes"] < lines[LEARNED]["payload_bytes"], "a bit each"
    assert set(load_model(folder / "models" / SIGNS).accepted[0].profile.bits) <= {0, 1}
    text = (folder / "front.md").read_text()
    assert "critical" in text and f"sweep --points {LEARNED} --passes 64" in text
    assert (folder / "front.svg").read_text().count("critical + attacker, 2 captures") == 1
    assert (folder / "front.png").read_bytes().startswith(b"\x89PNG")

    monkeypatch.setattr(sweep, "train_point", lambda *a, **k: pytest.fail("this point was done"))
    again = run(place, capsys, folder, *points, "--fused", "2")
    assert again["points"] == result["points"]


def test_random_subsets_and_features_with_dc_are_points_like_others(
    place: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    result = run(place, capsys, tmp_path, "--points", SUBSETS, WITH_DC, "--fused", "2")
    assert result["left"] == [] and result["done"] == 2
    lines = {line["point"]: line for line in sweep.read_lines(tmp_path)}
    assert {line["pairs"] for line in lines.values()} == {14}
    assert lines[WITH_DC]["transform"] == "critical-dc"
    accepted = load_model(tmp_path / "models" / SUBSETS).accepted
    assert len(accepted) == sweep.SUBSETS
    epsilons = [one.profile.epsilon_mean_per_coefficient for one in accepted]
    assert lines[SUBSETS]["epsilon_mean_per_coefficient"] == pytest.approx(np.mean(epsilons))
    assert {"ssim", "accepted", "ssim_fused", "accuracy_fused"} <= set(lines[SUBSETS]) & set(lines[WITH_DC])
    text = (tmp_path / "front.md").read_text()
    assert f"| {SUBSETS}, any of 12 |" in text, "accuracy and recovery meet in one row"
    assert (tmp_path / "front.svg").read_text().count("critical, uniform, subsets, 2 captures") == 1


def test_a_point_that_another_process_holds_is_left_to_it(
    place: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with sweep._claim(tmp_path / "runs" / f"{SIGNS}-64") as ours:
        assert ours
        result = run(place, capsys, tmp_path, "--points", SIGNS)
    assert result["held_elsewhere"] == [SIGNS] and result["done"] == 0


def test_a_name_that_is_no_point_is_refused_before_anything_is_trained(
    place: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name in ("nonsense", "small-critical-no-noise", f"{LEARNED}+signs", SIGNS + "s"):
        with pytest.raises(DataError, match=r"small-critical|nonsense"):
            sweep.config_of(name, sweep.Effort(64, 1, 1, 1))
    assert {name for name in sweep.POINTS if sweep.config_of(name, sweep.Effort(64, 1, 1, 1))} == set(
        sweep.POINTS
    )


def test_variants_change_what_they_say_and_nothing_else() -> None:
    base = make_profile(bits=3, epsilon=16.0)
    inner = sweep.inner_blocks(base)
    assert np.allclose(inner.epsilon[:, 1:-1, 1:-1], 16.0)
    assert inner.epsilon[:, 0].max() < 0.5 and inner.epsilon[:, :, -1].max() < 0.5
    coarse = sweep.without_low_luma(base)
    assert (coarse.bits == 0).sum() == 5, "(0,1) (0,2) (1,0) (1,1) (2,0) of Y"
    assert (coarse.bits[63:] == 3).all() and np.allclose(coarse.epsilon[coarse.sent], 16.0)
    family = sweep.subsets(base)
    left_out = np.stack([profile.bits == 0 for profile in family])
    assert (left_out.sum(axis=1) == 63).all() and (left_out.sum(axis=0) == 4).all()
    assert len({profile.hash for profile in family}) == 12
    assert all(np.allclose(p.epsilon[p.sent], 16.0) for p in family)
    one = sweep.signs(base)
    assert (one.bits == 1).all() and np.allclose(one.scale, base.scale)


def test_a_lines_cut_short_by_a_kill_is_no_point(tmp_path: Path) -> None:
    (tmp_path / "points.jsonl").write_text('{"point": "a"}\n{"point": "b", "accu')
    assert sweep.read_lines(tmp_path) == [{"point": "a"}]


# --- accuracy against bits --------------------------------------------------------------------------------


def test_rate_reads_the_same_noise_through_coarser_codes(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rate", "--images", str(place / "faces.tar"), "--pairs", str(place / "pairs.csv"),
                 "--model", str(place / "tiny")]) == 0  # fmt: skip
    result = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    rows = {row["codes"]: row for row in result["rows"]}
    assert list(rows) == ["as shipped", "1 bits", "2 bits", "3 bits", "4 bits", "float"]
    sizes = [rows[f"{width} bits"]["payload_bytes"] for width in (1, 2, 3, 4)]
    assert sizes == sorted(sizes) and rows["float"]["payload_bytes"] > sizes[-1]
    assert all(row["pairs"] == 14 and row["accuracy"] > 0.5 for row in rows.values())
    assert rows["float"]["accuracy"] == 1.0, "almost without noise, every picture matches its like"
    assert result["retrained"] is False


def test_the_float_twin_carries_the_profiles_noise() -> None:
    profile = tiny_profile()
    finer = rate.with_bits(profile, 4)
    assert np.allclose(finer.scale[finer.sent], profile.scale[profile.sent])
    assert (finer.bits == np.where(profile.sent, 4, 0)).all()
    assert finer.hash != profile.hash


def test_a_frozen_profile_of_a_point_is_fitted_to_the_faces(place: Path, tmp_path: Path) -> None:
    from recognition.training.data import read_pack

    faces = read_pack(place / "faces.npz", teacher=place / "teacher.npz")
    config = sweep.config_of(SIGNS, sweep.Effort(64, 1, 1, 1))
    start = Run(config, faces, tmp_path).student.perturbation
    assert start is not None
    assert fit_profile(start, name="x").epsilon_mean_per_coefficient == pytest.approx(16.0, rel=0.2)
