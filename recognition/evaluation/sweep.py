"""The front at equal training effort: train a small network for each point, measure it, write the point down, go on.

Every point is shown the same number of faces from the same start, then verified through the exact bytes of a capture
and attacked by the linear attack. A point that is done is in `points.jsonl` and is not done again; one that was
interrupted goes on from its checkpoint. Several processes may work in one folder: each takes points nobody holds.

A point is a training config, or a config and a variant of its profile: `small-critical-uniform-epsilon16+signs`.
Variants are trained on the varied codes from the start, so `+codes`, the profile unchanged, is what they compare with.
"""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recognition.backbone import UNPROTECTED
from recognition.budget import PrivacyProfile
from recognition.evaluation import front, report
from recognition.evaluation.data import DataError
from recognition.evaluation.embedding import ANY
from recognition.frequency import BLOCK
from recognition.training.config import CONFIGS, TrainingConfig
from recognition.training.data import Faces
from recognition.training.perturbation import CODE_REACH, fit_profile
from recognition.training.ship import ship
from recognition.training.train import Run

TWIN = "small-unprotected"
UNIFORM = "small-critical-uniform-epsilon16"
# The reference, four curves of two points each, and what else might move the front: the most telling first.
POINTS = (
    TWIN,
    UNIFORM,
    "small-critical-epsilon16-lambda0", "small-critical-epsilon16-lambda1",
    "small-paper-epsilon4-lambda0", "small-paper-epsilon4-lambda1",
    "small-critical-epsilon8-lambda0", "small-critical-epsilon8-lambda1",
    "small-paper-epsilon1-lambda0", "small-paper-epsilon1-lambda1",
    "small-critical-uniform-epsilon8",
    f"{UNIFORM}+codes", f"{UNIFORM}+no-low-luma", f"{UNIFORM}+signs", f"{UNIFORM}+inner-blocks", f"{UNIFORM}+subsets",
    "small-critical-dc-uniform-epsilon16",
)  # fmt: skip
LOW_LUMA = 2  # row plus column frequency up to which `no-low-luma` drops Y
OUTER_SHARE = 0.02  # of the mean budget, left to the outermost ring of blocks by `inner-blocks`
SUBSETS = 12  # profiles of `subsets`
BATCH = 32
EXACT_SHARE = 0.05  # last part of a run, on exact codes: for `paper` ten times as slow as the rest
WARMUP_STEPS = 100

Report = Callable[[str, float], None]
Evaluate = Callable[[list[str]], dict[str, Any]]  # arguments of a command of this package to its figures


def _low_luma(profile: PrivacyProfile) -> NDArray[np.bool_]:
    channel, of_plane = np.arange(profile.shape[0]), profile.shape[0] // 3
    place = channel % of_plane + BLOCK * BLOCK - of_plane
    return np.asarray((channel < of_plane) & (place // BLOCK + place % BLOCK <= LOW_LUMA))


def without_low_luma(profile: PrivacyProfile) -> PrivacyProfile:
    """The coarsest luma, which shows a face best, is never sent; its budget is not given to others."""
    return _without(profile, _low_luma(profile))


def _without(profile: PrivacyProfile, dropped: NDArray[np.bool_]) -> PrivacyProfile:
    return replace(
        profile,
        bits=np.where(dropped, 0, profile.bits),
        channel_epsilon=np.where(dropped, 0.0, profile.channel_epsilon),
        step=np.where(dropped, 0.0, profile.step),
    )


def signs(profile: PrivacyProfile) -> PrivacyProfile:
    """One bit of every coefficient: randomised response on the sign of its distance from the middle."""
    scale = np.where(profile.sent, profile.scale.mean(axis=(1, 2)), 0.0)
    total = np.sqrt(profile.deviation**2 + 2 * scale**2)
    return replace(
        profile,
        bits=np.where(profile.sent, 1, 0),
        step=np.where(profile.sent, CODE_REACH[1] * total, 0.0),
    )


def inner_blocks(profile: PrivacyProfile) -> PrivacyProfile:
    """Hardly any budget for the outermost ring of blocks (hair, background, chin); the others keep what they had."""
    weight = np.full(profile.position_weight.shape, OUTER_SHARE)
    inner = weight[1:-1, 1:-1].size
    # Weights average 1, so the inner ones rise; channel budgets fall by as much.
    rise = (weight.size - (weight.size - inner) * OUTER_SHARE) / inner
    weight[1:-1, 1:-1] = rise
    return replace(profile, position_weight=weight, channel_epsilon=profile.channel_epsilon / rise)


def subsets(profile: PrivacyProfile) -> list[PrivacyProfile]:
    """Twelve profiles, each of a random two thirds of the channels sent; every capture takes one at random.

    After PartialFace (Mi et al., ICCV 2023), which trains on random subsets of channels. Four random partitions into
    thirds, each third left out once: a channel is missing from four of the twelve. Those that stay keep their budget,
    so a capture spends two thirds of the total.
    """
    random = np.random.default_rng(SUBSETS)
    sent = np.flatnonzero(profile.sent)
    thirds = [third for _ in range(SUBSETS // 3) for third in np.array_split(random.permutation(sent), 3)]
    return [_without(profile, np.isin(np.arange(profile.shape[0]), third)) for third in thirds]


VARIANTS: dict[str, Callable[[PrivacyProfile], list[PrivacyProfile]]] = {
    "codes": lambda profile: [profile],
    "no-low-luma": lambda profile: [without_low_luma(profile)],
    "signs": lambda profile: [signs(profile)],
    "inner-blocks": lambda profile: [inner_blocks(profile)],
    "subsets": subsets,
}


@dataclass(frozen=True)
class Effort:
    """What every point is given, and how it is measured. `fused`: captures of the extra rows, 0 for none."""

    passes: int
    every: int
    count: int
    steps: int
    fused: int = 0


@dataclass(frozen=True)
class Sources:
    """Arguments of the two measurements: pictures and pairs, faces to attack and a judge."""

    verification: tuple[str, ...]
    attack: tuple[str, ...]


class OutOfTime(Exception):
    """The time given to the sweep is used up; the run is saved."""


def config_of(point: str, effort: Effort) -> TrainingConfig:
    """The named config with the sweep's effort. Raises DataError for a name that is none."""
    base, _, variant = point.partition("+")
    if base not in CONFIGS or (variant and variant not in VARIANTS):
        raise DataError(f"{point}: no such config, or no such variant of one ({', '.join(VARIANTS)})")
    config = CONFIGS[base]
    protected = config.transform != UNPROTECTED
    if protected and config.epsilon_mean is None:
        raise DataError(f"{point}: a run without noise sends nothing that a capture could carry")
    if variant and config.budgets != "uniform":
        raise DataError(f"{point}: variants are of uniform budgets, which are known before training")
    changes: dict[str, Any] = {"exact_share": EXACT_SHARE} if protected else {}
    if variant:
        changes = {"exact_share": 1.0, "easy_share": 0.0}
    return replace(
        config,
        passes=effort.passes,
        batch_size=BATCH,
        warmup_steps=WARMUP_STEPS,
        other_epsilons=(),
        **changes,
    )


def train_point(
    point: str, faces: Faces, effort: Effort, folder: Path, *, deadline: float | None, told: Report
) -> Run:
    """Train, or go on training, until the passes are used up. Raises OutOfTime at the deadline (monotonic seconds)."""
    config, variant = config_of(point, effort), point.partition("+")[2]
    profiles: list[PrivacyProfile] = []
    if variant and not (folder / "state.pt").exists():
        start = Run(config, faces, folder).student.perturbation
        assert start is not None
        profiles = VARIANTS[variant](fit_profile(start, name=point))
    run = Run(config, faces, folder, profile=next(iter(profiles), None), also=tuple(profiles[1:]))

    def report_step(current: Run, parts: Mapping[str, float]) -> None:
        told(f"{point}: {current.passes:,} faces, loss {sum(parts.values()):.2f}", current.share_done())
        if deadline is not None and time.monotonic() > deadline and current.share_done() < 1:
            current.save()
            raise OutOfTime

    run.train(report_step)
    return run


def measure_point(
    point: str, run: Run, effort: Effort, folder: Path, sources: Sources, evaluate: Evaluate
) -> dict[str, Any]:
    """Ship the run into `folder`/models, verify and attack it; result files go to `folder`/results."""
    models, results = folder / "models", folder / "results"
    results.mkdir(parents=True, exist_ok=True)
    protected, family = run.profile is not None, len(run.also) + 1
    # A twin is found as <model>-unprotected, so its folder and the name it is asked for differ.
    place = models / point
    names = [point] if family == 1 else [f"{point}-{k + 1}" for k in range(family)]
    ship(run.folder, place, name=point, profiles=names if protected else [])
    asked = str(place).removesuffix("-unprotected")
    kind = ["--profile", ANY] if family > 1 else []
    trained = {"passes": run.passes, "seconds": round(run.seconds), "point": point}

    def measured(name: str, arguments: list[str]) -> dict[str, Any]:
        figures = evaluate([*arguments, "--model", asked]) | {"training": trained}
        (results / f"{point}-{name}.json").write_text(json.dumps(figures) + "\n", encoding="utf-8")
        return figures

    verify = ["verification", *sources.verification, "--every", str(effort.every)]
    verify += kind if protected else ["--unprotected"]
    attack = ["attack", "linear", *sources.attack, "--count", str(effort.count), "--steps", str(effort.steps)]
    attack += kind
    verified = measured("verification", verify)
    line = {
        "point": point, "passes": run.passes, "train_seconds": round(run.seconds), "effort": vars(effort),
        **{key: verified.get(key) for key in (
            "accuracy", "accuracy_deviation", "fnmr_at_fmr_1e-2", "pairs", "payload_bytes", "transform",
            "epsilon_mean_per_coefficient", "profile_hash")},
    }  # fmt: skip
    if not protected:
        return line
    row = measured("linear", attack)["rows"][1]
    line |= {key: row.get(key) for key in ("ssim", "psnr", "accepted", "accepted_interval", "faces")}
    if effort.fused > 1:
        more = ["--captures", str(effort.fused)]
        line["accuracy_fused"] = measured("verification-fused", [*verify, *more])["accuracy"]
        fused = measured("linear-fused", [*attack, *more])["rows"][1]
        line |= {"ssim_fused": fused["ssim"], "accepted_fused": fused.get("accepted")}
    return line


def sweep(
    points: Sequence[str],
    faces: Faces,
    effort: Effort,
    folder: Path,
    sources: Sources,
    evaluate: Evaluate,
    *,
    minutes: float | None = None,
    told: Report = lambda what, share: None,
) -> dict[str, Any]:
    """Every point that is not done and that no other process holds. What is there so far, as written down."""
    for point in points:
        config_of(point, effort)  # all names are looked at before the first hour is spent
    deadline = None if minutes is None else time.monotonic() + 60 * minutes
    folder.mkdir(parents=True, exist_ok=True)
    held_elsewhere = []
    for point in points:
        runs = folder / "runs" / f"{point}-{effort.passes}"
        with _claim(runs) as ours:
            if not ours:
                held_elsewhere.append(point)
                continue
            if _done(folder, point, effort):
                continue
            try:
                run = train_point(point, faces, effort, runs, deadline=deadline, told=told)
            except OutOfTime:
                break
            told(f"{point}: measuring", 1.0)
            line = measure_point(point, run, effort, folder, sources, evaluate)
            with (folder / "points.jsonl").open("a", encoding="utf-8") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                file.write(json.dumps(line) + "\n")
            write_front(folder, effort)
    lines = [line for line in read_lines(folder) if line["effort"] == vars(effort)]
    left = [point for point in points if not _done(folder, point, effort)]
    return {
        "points": lines,
        "done": len(lines),
        "left": left,
        "held_elsewhere": held_elsewhere,
        "passes": effort.passes,
        "every": effort.every,
    }


def read_lines(folder: Path) -> list[dict[str, Any]]:
    """The points written down so far; a line cut short by a kill is not one."""
    file = folder / "points.jsonl"
    lines = []
    for text in file.read_text(encoding="utf-8").splitlines() if file.exists() else []:
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return lines


def write_front(folder: Path, effort: Effort) -> None:
    """front.md and, where two figures meet and matplotlib is there, front.svg and front.png of what is done so far."""
    results = report.read_results(folder / "results")
    points = front.read_points(results, quick=True)
    known = front.references(results, quick=True)
    note = (
        f"Every point was shown {effort.passes:,} faces; every {effort.every}. pair, {effort.count} faces attacked"
        " with the linear attack. A small network trained for minutes: compare points with one another, not with what"
        " ships.\n\n"
    )
    (folder / "front.md").write_text(
        note + front.trade_off_table(points, known.get("unprotected twin")) if points else note,
        encoding="utf-8",
    )
    if any(point.complete for point in points):
        for kind in ("svg", "png"):
            front.plot(points, folder / f"front.{kind}", known, f"{effort.passes:,} faces each")


def _done(folder: Path, point: str, effort: Effort) -> bool:
    return any(line["point"] == point and line["effort"] == vars(effort) for line in read_lines(folder))


@contextmanager
def _claim(folder: Path) -> Iterator[bool]:
    """Whether this process may work on a point. The lock goes with the process, however it ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
