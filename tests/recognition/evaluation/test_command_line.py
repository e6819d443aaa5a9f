"""The commands researchers type: progress on stderr, one JSON object as the last line of stdout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recognition.checkpoint import load_model
from recognition.evaluation import front, report
from recognition.evaluation.__main__ import _settle, main, parser
from recognition.recognizer import Recognizer
from tests.recognition.evaluation.faces import people, write_judge, write_labels, write_pack, write_tar
from tests.tiny_model import make_tiny_model


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, a tar of 160 synthetic people with two pictures each, labels, pairs, a judge."""
    folder = tmp_path_factory.mktemp("evaluation")
    make_tiny_model(folder / "tiny")
    images = people(160, 2)
    write_tar(folder / "faces.tar", images)
    write_labels(folder / "labels.csv", images)
    write_judge(folder / "judge.pt")
    rows = ["fold,img1,img2,same"]
    for n in range(8):
        rows += [f"{n % 2},p{n:03d}_0,p{n:03d}_1,1", f"{n % 2},p{n:03d}_0,p{n + 1:03d}_1,0"]
    (folder / "pairs.csv").write_text("\n".join(rows) + "\n")
    return folder


def figures(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> dict[str, Any]:
    assert main([str(argument) for argument in arguments]) == 0
    captured = capsys.readouterr()
    lines = captured.out.strip().splitlines()
    assert len(lines) == 1, "progress belongs on stderr"
    result: dict[str, Any] = json.loads(lines[-1])
    return result


def test_verification_prints_its_figures_and_can_keep_them(
    place: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    result = figures(
        capsys, "verification", "--images", place / "faces.tar", "--pairs", place / "pairs.csv",
        "--model", place / "tiny", "--labels", place / "labels.csv", "--groups", place / "labels.csv",
        "--by", "gender,age", "--captures", "2", "--out", tmp_path / "verification.json",
    )  # fmt: skip
    assert result["accuracy"] == 1.0
    assert {"fnmr_at_fmr_1e-3", "fnmr_at_fmr_1e-3_interval", "impostor_trials", "payload_bytes"} <= set(
        result
    )
    assert result["captures"] == 2
    assert set(result["groups"]) == {"gender", "age"} and set(result["groups"]["age"]) == {"30-44"}
    assert json.loads((tmp_path / "verification.json").read_text()) == result


def test_identification_prints_fnir_fpir_and_trials(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = figures(
        capsys, "identification", "--images", place / "faces.tar", "--labels", place / "labels.csv",
        "--model", place / "tiny", "--enrol", "3", "--fpir", "0.05", "--gallery", "10", "--seed", "4",
    )  # fmt: skip
    assert {"fnir", "fpir", "impostor_trials", "fnir_at_shipped_threshold"} <= set(result)
    assert result["gallery_people"] == 10 and result["impostor_trials"] == 160


def test_calibration_writes_thresholds_that_the_recognizer_uses(
    place: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = make_tiny_model(tmp_path / "tiny")
    before = load_model(folder)
    result = figures(
        capsys, "calibrate", "--images", place / "faces.tar", "--labels", place / "labels.csv",
        "--model", folder, "--limit", "60", "--source", "synthetic people",
    )  # fmt: skip
    after = load_model(folder)
    written = after.accepted[0].calibration
    assert (
        written.source == "synthetic people"
        and written.comparisons == result["profiles"][0]["impostor_comparisons"]
    )
    assert written != before.accepted[0].calibration
    assert after.accepted[0].profile.hash == before.accepted[0].profile.hash
    thresholds = result["profiles"][0]["threshold_for_gallery"]
    assert thresholds["1"] <= thresholds["100"] <= thresholds["10000"], (
        "a larger gallery needs a stricter threshold"
    )
    assert Recognizer.load(folder).threshold_for(gallery_size=100, target_fpir=0.01) == thresholds["100"]


def test_ijb_prints_tpr_at_fpr(place: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    media, pairs = tmp_path / "face_tid_mid.txt", tmp_path / "template_pair_label.txt"
    media.write_text(
        "".join(f"p{n:03d}_{k}.png {2 * n + k} {2 * n + k}\n" for n in range(6) for k in range(2))
    )
    pairs.write_text("".join(f"{2 * n} {2 * m + 1} {int(n == m)}\n" for n in range(6) for m in range(6)))
    result = figures(
        capsys,
        "ijb",
        "--images",
        place / "faces.tar",
        "--media",
        media,
        "--pairs",
        pairs,
        "--model",
        place / "tiny",
    )
    assert result["tpr_at_fpr_1e-4"] == 1.0
    assert (result["genuine_trials"], result["impostor_trials"]) == (6, 30)


def test_labels_are_written_from_names(
    place: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    result = figures(capsys, "labels", "--images", place / "faces.tar", "--csv", tmp_path / "l.csv")
    assert (result["images"], result["identities"]) == (320, 160)
    assert (tmp_path / "l.csv").read_text().splitlines()[1] == "p000_0,p000"


def attack_arguments(place: Path, kind: str, count: int) -> list[str | Path]:
    return ["attack", kind, "--images", place / "faces.tar", "--labels", place / "labels.csv",
            "--model", place / "tiny", "--count", str(count), "--judge", place / "judge.pt"]  # fmt: skip


def test_every_attack_prints_its_figures_and_the_page_shows_them(
    place: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    results = tmp_path / "results"
    results.mkdir()
    page = tmp_path / "attacks.md"
    assert figures(capsys, "report", "--results", results, "--out", page)["results"] == 0
    assert page.read_text().count(report.NOT_RUN) == 5, "an attack that was not run is said not to have been"

    more = {
        "linear": ["--steps", "20", "--uniform", "8", "--float"],
        "learned": ["--passes", "32", "--train-count", "8", "--checkpoints", tmp_path / "nets"],
        "averaging": ["--steps", "10", "--captures", "1", "2"],
        "linkage": ["--passes", "64", "--pairs", "16", "--train-count", "16"],
        "template": ["--steps", "5", "--train-count", "8"],
    }
    for kind, arguments in more.items():
        result = figures(
            capsys, *attack_arguments(place, kind, 3), *arguments, "--out", results / f"{kind}.json"
        )
        assert (result["attack"], result["faces"]) == (kind, 3)
        assert result["judge_impostor_comparisons"] >= 10_000
        if kind in ("linear", "learned", "averaging"):
            assert {"ssim", "psnr", "accepted", "payload_bytes"} <= set(result)
            assert result["rows"][0]["protection"] == "mean colour alone"
        elif kind == "template":
            assert {"ssim", "psnr", "accepted"} <= set(result), "of the attacker who has the key"
            assert result["ssim"] == result["rows"][0]["ssim"]
        else:
            assert {"linked", "pairs", "gallery_people"} <= set(result)
        assert result["payload_bytes"] > 0
    assert (tmp_path / "nets").exists()

    figures(capsys, "report", "--results", results, "--out", page)
    text = page.read_text()
    assert report.NOT_RUN not in text
    linear = json.loads((results / "linear.json").read_text())
    assert f"{linear['ssim']:.3f}" in text and f"{linear['psnr']:.2f}" in text
    assert "uniform, epsilon_mean 8 (critical), float" in text


@pytest.mark.parametrize(
    ("ssim", "accepted", "verdict"),
    [(0.35, 0.05, "meets both"), (0.36, 0.05, "misses the first"), (0.2, 0.06, "misses the second"),
     (0.5, 0.4, "misses both")],
)  # fmt: skip
def test_the_page_says_whether_what_ships_keeps_to_the_aims(
    ssim: float, accepted: float, verdict: str
) -> None:
    one = {"protection": "balanced", "coded": True, "captures": 1, "ssim": ssim, "accepted": accepted}
    others = [one | {"captures": 4, "ssim": 1.0}, one | {"coded": False, "ssim": 1.0}]
    said = report.aims({"rows": [*others, one]})
    assert said.endswith(f"`balanced` {verdict}.") and said.count("`balanced`") == 1
    assert report.aims({"rows": others}) == ""


def test_what_cannot_be_done_is_said_on_stderr_with_status_2(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, complaint in (
        (["verification", "--images", place / "faces.tar"], "--pairs is needed"),
        (["identification", "--images", place / "faces.tar"], "--labels is needed"),
        (["attack", "linkage", "--images", place / "faces.tar", "--labels", place / "labels.csv",
          "--model", place / "tiny", "--count", "2", "--judge", "none"], "needs --judge"),
        (["attack", "template", "--images", place / "faces.tar", "--labels", place / "labels.csv",
          "--model", place / "tiny", "--count", "2", "--judge", "none", "--uniform", "8"], "what a terminal sends"),
        (["verification", "--images", place / "faces.tar", "--pairs", place / "pairs.csv",
          "--model", "/nowhere/model"], "no usable model"),
    ):  # fmt: skip
        assert main([str(a) for a in arguments]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert complaint in captured.err


def test_the_portrait_sheet_shows_the_crop_beside_its_recoveries() -> None:
    from recognition.evaluation.attacks.observation import Nothing

    sheet = report.portrait_sheet([Nothing("critical")], steps=5)
    assert sheet.shape == (264, 464, 3) and sheet.dtype == np.uint8


def test_groups_share_one_threshold_and_come_from_labels(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = figures(
        capsys, "groups", "--images", place / "faces.tar", "--labels", place / "labels.csv",
        "--groups", place / "labels.csv", "--by", "gender,age", "--model", place / "tiny", "--fmr", "0.01",
    )  # fmt: skip
    gender = result["groups"]["gender"]
    assert {group: row["people"] for group, row in gender.items()} == {"f": 80, "m": 80}
    assert gender["f"]["fnmr_trials"] == 80, "one pair of two pictures for everybody"
    assert gender["f"]["fmr_trials"] == 160 * 158 / 2
    assert gender["m"]["fmr"] < 0.05 and 0 <= gender["m"]["fnmr"] <= 1
    assert set(result["groups"]["age"]) == {"30-44"}
    assert main(["groups", "--images", str(place / "faces.tar"), "--labels", str(place / "labels.csv"),
                 "--by", "skin_tone", "--model", str(place / "tiny")]) == 2  # fmt: skip
    assert "no picture has a label 'skin_tone'" in capsys.readouterr().err


def test_the_judge_is_measured_on_clean_pictures(
    place: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pack = write_pack(tmp_path / "strangers.npz", people(160, 1))
    result = figures(
        capsys, "judge", "--images", place / "faces.tar", "--pairs", place / "pairs.csv",
        "--judge", place / "judge.pt", "--judge-images", pack,
    )  # fmt: skip
    assert result["accuracy"] == 1.0
    assert result["judge"] == "judge.pt" and result["judge_impostor_comparisons"] == 160 * 159 / 2
    assert {"fnmr_at_judge_threshold", "fmr_at_judge_threshold"} <= set(result)


def test_front_and_table_join_accuracy_and_recovery_by_profile(
    place: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    results = tmp_path / "results"
    results.mkdir()
    assert main(["table", "--results", str(results)]) == 2
    figures(
        capsys, "verification", "--images", place / "faces.tar", "--pairs", place / "pairs.csv",
        "--model", place / "tiny", "--out", results / "v.json",
    )  # fmt: skip
    capsys.readouterr()
    assert main(["front", "--results", str(results), "--out", str(tmp_path / "f.png")]) == 2
    assert "both a verification and a linear attack" in capsys.readouterr().err
    linear = figures(
        capsys, *attack_arguments(place, "linear", 3), "--steps", "3", "--out", results / "l.json"
    )
    drawn = figures(capsys, "front", "--results", results, "--out", tmp_path / "front.png")
    assert drawn["points"] == 1 and (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")
    assert drawn["rows"][0]["ssim"] == linear["ssim"] and drawn["rows"][0]["accuracy"] == 1.0
    assert drawn["references"]["mean colour alone"] == linear["rows"][0]["ssim"]
    figures(capsys, "table", "--results", results, "--out", tmp_path / "table.md")
    text = (tmp_path / "table.md").read_text()
    assert "| 1 | tiny, tiny | critical |" in text and "100.00 %" in text
    assert "python -m recognition.evaluation verification --images faces.tar --pairs pairs.csv" in text
    assert str(place) not in text, "folders of this machine are nobody's business"


def test_a_config_names_its_training_command() -> None:
    result = {
        "command": "verification", "protected": True, "captures": 1, "accuracy": 0.9, "profile_hash": "0" * 64,
        "model": "small-critical-epsilon16-lambda3", "profile": "balanced", "transform": "critical",
        "epsilon_mean_per_coefficient": 16.0, "fnmr_at_fmr_1e-3": 0.2, "pairs": 6000,
    }  # fmt: skip
    (point,) = front.read_points([result])
    assert point.series == "critical + attacker" and point.config is not None
    text = front.trade_off_table([point], twin=0.95)
    assert "python -m recognition.training --config small-critical-epsilon16-lambda3" in text
    assert "learned, attacker's weight 3" in text and "5.00 points" in text


@pytest.mark.parametrize("setting", ["small", "medium", "full"])
@pytest.mark.parametrize("kind", ["linear", "learned", "averaging", "linkage", "template"])
def test_a_setting_fills_in_only_what_was_not_asked_for(setting: str, kind: str) -> None:
    options = parser().parse_args(["attack", kind, "--images", "x.npz", "--setting", setting, "--count", "7"])
    _settle(options)
    assert options.count == 7
    assert options.uniform is not None and options.baselines is not None and options.float is not None
    assert all(getattr(options, name, 0) is not None for name in ("steps", "captures", "passes", "pairs"))
    if kind == "linear":
        assert set(options.transforms) == {"critical", "paper"}
        assert len(options.uniform) == {"small": 2, "medium": 3, "full": 7}[setting]
