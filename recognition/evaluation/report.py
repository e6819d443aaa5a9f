"""The page of attacks, written from result files: every number on it was printed by a run, none by hand."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from recognition.evaluation.attacks import linear
from recognition.evaluation.attacks.observation import Protection
from recognition.evaluation.data import DataError

# The astronaut Eileen Collins, NASA, public domain, as scikit-image carries it: its five points, found with
# YuNet, in image-left eye, image-right eye, nose tip, image-left and image-right mouth corner.
PORTRAIT_POINTS = np.array(
    [(203.4, 103.6), (247.5, 104.4), (224.1, 127.7), (204.0, 143.1), (242.9, 143.7)], np.float64
)

NOT_RUN = "not run yet"
# What a profile that ships should give away at most to the linear and the learned attack on one capture.
AIM_SSIM, AIM_ACCEPTED = 0.35, 0.05

Row = Mapping[str, Any]


def read_results(*folders: Path) -> list[dict[str, Any]]:
    """Every JSON result in the folders, in the order of their names. Raises DataError."""
    results = []
    for file in (file for folder in folders for file in sorted(folder.glob("*.json"))):
        try:
            result = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataError(f"{file} is not a result: {error}") from error
        if isinstance(result, dict) and "command" in result:
            results.append(result | {"file": file.name})
    return results


def percent(value: float | None, digits: int = 1) -> str:
    return "" if value is None else f"{100 * value:.{digits}f} %"


def number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def recovery_table(rows: Sequence[Row], *, attacker: bool = False) -> str:
    """Rows of a recovery attack: likeness, and faces accepted with the 95 % interval."""
    header = ["protection", "ε per coefficient", "captures", "SSIM", "PSNR", "accepted", "95 % interval"]
    if any("accepted_other" in row for row in rows):
        header.append("accepted as another picture")
    if attacker:
        header[2:2] = ["attacker", "captures of"]
    trained = any("training_passes" in row for row in rows)
    if trained:
        header.append("faces shown in training")
    lines = []
    for row in rows:
        epsilon = row.get("epsilon_mean_per_coefficient")
        interval = row.get("accepted_interval")
        line = [
            str(row["protection"]),
            "" if epsilon is None else f"{epsilon:.3g}",
            str(row.get("captures", "")),
            number(row.get("ssim"), 3),
            number(row.get("psnr"), 2),
            percent(row.get("accepted")),
            "" if interval is None else f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}",
        ]
        if "accepted as another picture" in header:
            line.append(percent(row.get("accepted_other")))
        if attacker:
            line[2:2] = [str(row.get("attacker", "")), str(row.get("of", ""))]
        if trained:
            shown = row.get("training_passes")
            before = f", after the row {row['started_from']}" if row.get("started_from") else ""
            line.append("" if shown is None else f"{shown:,}{before}")
        lines.append(line)
    return table(header, lines)


def linkage_table(rows: Sequence[Row]) -> str:
    return table(
        [
            "protection",
            "attacker",
            "pairs",
            "linked, rank 1",
            "95 % interval",
            "linked at FMR 1e-3",
            "AUC",
            "people in the gallery",
        ],
        [
            [
                str(row["protection"]),
                str(row.get("attacker", "")),
                "" if row.get("pairs") is None else f"{row['pairs']:,}",
                percent(row["linked"]),
                f"{100 * row['linked_interval'][0]:.1f} to {100 * row['linked_interval'][1]:.1f}",
                percent(row["linked_at_fmr_1e-3"]),
                number(row["auc"], 3),
                str(row["gallery_people"]),
            ]
            for row in rows
        ],
    )


def template_table(rows: Sequence[Row]) -> str:
    return table(
        [
            "attacker's knowledge",
            "cosine to the embedding",
            "score at a terminal",
            "accepted by the system",
            "SSIM",
            "PSNR",
            "accepted by judge",
        ],
        [
            [
                str(row["knowledge"]),
                number(row["embedding_cosine"], 3),
                number(row.get("system_score"), 3),
                percent(row["accepted_by_system"]),
                number(row["ssim"], 3),
                number(row["psnr"], 2),
                percent(row.get("accepted")),
            ]
            for row in rows
        ],
    )


def _faces(result: Row) -> str:
    judge = ""
    if "judge_threshold" in result:
        judge = (
            f" Judge `{result.get('judge', 'not named')}`, threshold {result['judge_threshold']:.3f}, FMR 1e-3 over"
            f" {result['judge_impostor_comparisons']:,} comparisons of different people."
        )
    took = f" {result['minutes']:g} minutes." if result.get("minutes") else ""
    again = ""
    if result.get("arguments"):
        again = f"\n\n```sh\npython -m recognition.evaluation {shlex.join(result['arguments'])}\n```"
    return f"{result['faces']} people, seed {result['seed']}.{judge}{took} Result file `{result['file']}`.{again}"


def aims(result: Row) -> str:
    """Whether every profile attacked through one capture keeps to the aims, in words; empty where none was."""
    said = []
    for row in result["rows"]:
        if not row.get("coded") or row.get("captures") != 1 or row.get("accepted") is None:
            continue
        missed = [row["ssim"] > AIM_SSIM, row["accepted"] > AIM_ACCEPTED]
        verdict = {0: "meets both", 1: f"misses the {'first' if missed[0] else 'second'}", 2: "misses both"}
        said.append(f"`{row['protection']}` {verdict[sum(missed)]}")
    if not said:
        return ""
    return (
        f"The aim for what ships is an SSIM of at most {AIM_SSIM:.2f}, and at most {100 * AIM_ACCEPTED:.0f} % accepted,"
        f" on one capture. {', '.join(said)}."
    )


SECTIONS: tuple[tuple[str, str, str], ...] = (
    (
        "linear",
        "1. Linear, knowing operator and noise",
        "Weighted least squares with a total-variation prior. Given: the transform, the profile, the mean"
        " colour. Rows called *uniform* give every coefficient the same budget, as floats, on the clip ranges of the"
        " shipped profile or, for a transform that has none, ranges measured on people who are not attacked.",
    ),
    (
        "learned",
        "2. Learned",
        "A U-Net trained on pairs, given the linear attack's sufficient statistics and the mean colour. A row that"
        " names another started from that row's network: a shorter training, so a floor for what such an attacker"
        " gets.",
    ),
    (
        "averaging",
        "3. Averaging captures",
        "k captures of one crop, then one capture of each of k different crops of a person. In the second the"
        " SSIM is against the first crop, and the last column is against a picture that was not used.",
    ),
    (
        "linkage",
        "4. Linkage",
        "Whose capture is it, among that many people known by a photograph? By a recogniser distilled onto protected"
        " features with n pairs, and by the public model itself, which needs none: the attacker takes the"
        " photographs through the public transform.",
    ),
    (
        "template",
        "5. Templates",
        "Unlinkability across keys (D_sys: 0 unlinkable, 1 linked; the floor is what the estimator says of no"
        " difference at all), and pictures made from templates by ascent through the public model. The gallery key is a"
        " rotation: whoever has it, or enough embeddings beside their templates, undoes it.",
    ),
)


def page(results: Sequence[Row], picture: str | None, note: str = "") -> str:
    """docs/attacks.md. A section whose attack has no result says so; the note follows the introduction."""
    parts = [
        "# Attacks on ourselves",
        "Written by `python -m recognition.evaluation report` from result files; docs/evaluation.md has the"
        " commands. SSIM and PSNR are against the crop attacked; *accepted* is the share of recovered"
        " pictures that another recogniser, the judge, calls the same person as that crop; *accepted as another"
        " picture* compares with another picture of that person. A recovery is worth what it has above the row *mean"
        " colour alone*, which is what the attackers are given: a flat picture of the right colour already has that"
        " SSIM. The judge `face-api` is dlib's ResNet, trained by others on other pictures and not related to our"
        " model; `python -m recognition.evaluation judge` says how well it recognises clean pictures.",
    ]
    if note:
        parts.append(note)
    if picture:
        parts.append(
            f"![The portrait, and what the linear attack recovers of it from one capture]({picture})\n\n"
            "The portrait is NASA's of Eileen Collins, in the public domain. Linear attack, one capture."
        )
    for attack, title, text in SECTIONS:
        parts.append(f"## {title}\n\n{text}")
        found = [result for result in results if result.get("attack") == attack]
        if not found:
            parts.append(f"*{NOT_RUN}*")
        for result in found:
            parts += [_faces(result), _section(attack, result)]
            verdict = aims(result) if attack in ("linear", "learned") else ""
            parts += [verdict] if verdict else []
    return "\n\n".join(parts) + "\n"


def _section(attack: str, result: Row) -> str:
    if attack == "linkage":
        return linkage_table(result["rows"])
    if attack == "template":
        keys = ("d_sys_key_secret", "d_sys_key_known", "d_sys_floor")
        sys_table = table(
            ["D_sys, keys secret", "D_sys, keys known", "the estimator's floor", "mated scores"],
            [[*(number(result[key], 3) for key in keys), str(result["mated_scores"])]],
        )
        return sys_table + "\n\n" + template_table(result["rows"])
    return recovery_table(result["rows"], attacker=attack == "averaging")


def portrait() -> NDArray[np.uint8]:
    """The public-domain portrait as an aligned crop, uint8 (112, 112, 3). Needs scikit-image."""
    from skimage.data import astronaut

    from recognition.align import align

    return align(np.asarray(astronaut(), np.uint8), PORTRAIT_POINTS).pixels


def portrait_sheet(
    protections: Sequence[Protection],
    *,
    steps: int,
    told: Callable[[str, float], None] = lambda what, share: None,
) -> NDArray[np.uint8]:
    """The portrait beside what the linear attack recovers of it under each protection, with names beneath,
    RGB."""
    crop = portrait()
    tiles = [_tile(crop, "the crop")]
    for k, protection in enumerate(protections):
        told(protection.name, k / len(protections))
        tiles.append(_tile(linear.attack(protection, crop[None], steps=steps)[0], protection.name))
    return np.concatenate(tiles, axis=1)


def _tile(crop: NDArray[np.uint8], name: str) -> NDArray[np.uint8]:
    large = cv2.resize(crop, (224, 224), interpolation=cv2.INTER_CUBIC)
    tile = np.full((264, 232, 3), 255, np.uint8)
    tile[4:228, 4:228] = large
    cv2.putText(tile, name[:30], (6, 250), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (30, 30, 30), 1, cv2.LINE_AA)
    return tile
