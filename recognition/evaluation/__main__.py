"""python -m recognition.evaluation verification|identification|calibrate|ijb|attack|labels|report ...

Progress goes to stderr; the last line on stdout is one JSON object of figures. docs/evaluation.md has the
commands.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from recognition.budget import PrivacyProfile, load_profile
from recognition.checkpoint import Calibration, ModelError, calibrate, load_model, model_folder, save_model
from recognition.evaluation import captures, data, front, identification, rate, report, sweep, verification
from recognition.evaluation.attacks import resnet34, runs
from recognition.evaluation.attacks.averaging import CAPTURES
from recognition.evaluation.attacks.judge import Judge
from recognition.evaluation.attacks.learned import Training
from recognition.evaluation.attacks.linkage import Distillation
from recognition.evaluation.attacks.observation import AnyOf, Coded, FloatNoise, Protection
from recognition.evaluation.embedding import ANY, embed_all, fuse, open_embedder
from recognition.training.data import join, read_pack
from recognition.training.research import open_model
from recognition.types import FaceCrop

PAIR_COUNTS = (256, 1024, 4096, 10_000)
EPSILONS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)  # epsilon_mean of the rows of uniform budgets
RANGE_FACES = 400  # that clip ranges are measured on

# What an attack does unless told otherwise, and two settings: one to try, one to report.
DEFAULTS: dict[str, Any] = {
    "count": 100,
    "float": False,
    "uniform": (),
    "baselines": False,
    "steps": 150,
    "captures": (1,),
    "learned": False,
    "people": 20,
    "pairs": PAIR_COUNTS,
    "inverted": 40,
    "train_count": 10_000,
    "passes": 20_000,
}
WRITERS = ("report", "front", "table")  # their --out is what they write, not the figures
BOTH = ("critical", "paper")
SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    "small": {
        "every": {"count": 16, "train_count": 2000},
        "linear": {"steps": 80, "baselines": True, "uniform": (4.0, 16.0), "transforms": BOTH},
        "learned": {
            "passes": 3000, "further": 600, "baselines": True, "uniform": (4.0, 16.0),
            "transforms": ("critical",),
        },
        "averaging": {"captures": (1, 4, 16), "steps": 80, "people": 6},
        "linkage": {"count": 50, "pairs": (256, 1024), "passes": 8000},
        "template": {"count": 50, "steps": 60, "inverted": 8},
        "sweep": {"passes": 640, "every": 60, "count": 4, "steps": 40},
    },
    "medium": {
        "every": {"count": 50, "train_count": 6000},
        "linear": {"steps": 100, "baselines": True, "uniform": (4.0, 8.0, 16.0), "transforms": BOTH},
        "learned": {
            "passes": 8000, "further": 2000, "baselines": True, "uniform": (8.0, 16.0),
            "transforms": ("critical",),
        },
        "averaging": {
            "count": 24, "captures": CAPTURES, "steps": 100, "learned": True, "passes": 3000, "people": 12,
        },
        "linkage": {"count": 200, "pairs": PAIR_COUNTS, "passes": 10_000, "train_count": 10_000},
        "template": {"count": 250, "steps": 100, "inverted": 20, "train_count": 1500},
        "sweep": {"passes": 12_000, "every": 15, "count": 16, "steps": 80},
    },
    "full": {
        "linear": {"baselines": True, "float": True, "uniform": EPSILONS, "transforms": BOTH},
        "learned": {
            "passes": 20_000, "further": 2000, "baselines": True, "uniform": EPSILONS, "transforms": BOTH,
        },
        "averaging": {"count": 30, "captures": CAPTURES, "learned": True, "passes": 8000, "people": 15},
        "linkage": {"count": 200, "passes": 30_000},
        "template": {"count": 250, "steps": 120, "inverted": 30, "train_count": 2000},
        "sweep": {"passes": 500_000, "every": 1, "count": 100, "steps": 150},
    },
}  # fmt: skip


class Bar:
    """One progress bar on stderr: a description, a count, the time that is left."""

    def __init__(self, progress: Progress, what: str) -> None:
        self._progress, self._task = progress, progress.add_task(what, total=None)

    def start(self, total: int) -> None:
        self._progress.update(self._task, total=total)

    def advance(self, done: int) -> None:
        self._progress.advance(self._task, done)

    def report(self, what: str, share: float) -> None:
        self._progress.update(self._task, description=what, total=1000, completed=round(1000 * share))


@contextmanager
def bar(what: str) -> Iterator[Bar]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield Bar(progress, what)


# --- commands ---------------------------------------------------------------------------------------------


def verification_command(options: argparse.Namespace) -> dict[str, Any]:
    if options.pairs is None and options.images.suffix == ".bin":
        images, pairs = data.read_bin(options.images)
    elif options.pairs is None and options.images.suffix == ".npz":
        images = data.open_images(options.images, leave_out=options.leave_out)
        identities = data.pack_identities(options.images, leave_out=options.leave_out)
        pairs = data.draw_pairs(identities, seed=options.seed)
    elif options.pairs is None:
        raise data.DataError("--pairs is needed with anything but a .bin set or a labelled npz pack")
    else:
        images = data.open_images(options.images, leave_out=options.leave_out)
        pairs = data.read_pairs(options.pairs)
    if options.every > 1:
        pairs = pairs.every(options.every)
    different = None
    if options.different_pictures:
        if options.labels is None:
            raise data.DataError("--different-pictures needs --labels: whose pictures belong together")
        different = data.read_identities(options.labels)
    embedder = _embedder(options)
    with bar("embedding") as shown:
        shown.start(len(pairs.names()))
        figures, scores, vectors = verification.verify(
            embedder,
            images,
            pairs,
            captures=options.captures,
            different=different,
            seed=options.seed,
            progress=shown.advance,
        )
    if options.every > 1:
        figures["every"] = options.every
    if options.labels:
        identities = data.read_identities(options.labels)
        figures |= verification.dense_figures(scores, pairs, vectors, identities)
    if options.groups:
        labels = data.read_labels(options.groups)
        threshold = figures["accuracy_threshold"]
        figures["groups"] = {
            column: verification.by_group(scores, pairs, labels, column, threshold)
            for column in options.by.split(",")
        }
    return figures


def identification_command(options: argparse.Namespace) -> dict[str, Any]:
    images, identities = _labelled(options)
    embedder = _embedder(options)
    thresholds = _thresholds(options) if options.thresholds else None
    with bar("embedding") as shown:
        return identification.identify(
            embedder,
            images,
            identities,
            enrol=options.enrol,
            fpir=options.fpir,
            galleries=options.gallery or [None],
            seed=options.seed,
            captures=options.captures,
            different=options.different_pictures,
            thresholds=thresholds,
            repeats=options.repeats,
            start=shown.start,
            progress=shown.advance,
        )


def _thresholds(options: argparse.Namespace) -> Calibration:
    """The thresholds that `calibrate --captures K --out FILE` measured for the profile asked for."""
    found = json.loads(options.thresholds.read_text(encoding="utf-8"))
    if found.get("command") != "calibrate" or found.get("captures") != options.captures:
        raise data.DataError(f"{options.thresholds} is no calibration of {options.captures} captures fused")
    embedder = _embedder(options)
    wanted = embedder.describe().get("profile")
    for row in found["profiles"]:
        if row["profile"] == wanted:
            points = tuple(zip(row["fmr"], row["threshold"], strict=True))
            return Calibration(found["source"], row["impostor_comparisons"], points)
    raise data.DataError(f"{options.thresholds} has no thresholds for profile {wanted}")


def calibrate_command(options: argparse.Namespace) -> dict[str, Any]:
    """Measure impostor scores for every profile a model accepts and write its thresholds."""
    if options.captures > 1 and not options.dry_run:
        raise data.DataError("a model ships thresholds for one capture: --captures goes with --dry-run")
    images, identities = _labelled(options)
    folder = model_folder(options.model)
    model = load_model(folder)
    accepted, figures = [], []
    for one in model.accepted:
        embedder = open_embedder(
            options.model, profile=one.profile.hash, unprotected=False, seed=options.seed
        )
        with bar(f"embedding, {one.profile.name}") as shown:
            probes = options.captures * min(options.limit, len(identities))
            shown.start(probes + options.enrol * len(set(identities.values())))
            scores = identification.impostor_scores(
                embedder,
                images,
                identities,
                limit=options.limit,
                enrol=options.enrol,
                seed=options.seed,
                captures=options.captures,
                progress=shown.advance,
            )
        calibration = calibrate(scores, source=options.source)
        accepted.append(replace(one, calibration=calibration))
        figures.append(
            {
                "profile": one.profile.name,
                "impostor_comparisons": calibration.comparisons,
                "fmr": [rate for rate, _ in calibration.points],
                "threshold": [threshold for _, threshold in calibration.points],
                "threshold_for_gallery": {
                    str(size): calibration.threshold_for(gallery_size=size, target_fpir=options.fpir)
                    for size in (1, 10, 100, 300, 1000, 3000, 10_000)
                },
            }
        )
    if not options.dry_run:
        save_model(folder, name=model.name, backbone=model.backbone, accepted=accepted)
    return {
        "model": model.name,
        "written": not options.dry_run,
        "captures": options.captures,
        "source": options.source,
        "fpir_target": options.fpir,
        "profiles": figures,
    }


def ijb_command(options: argparse.Namespace) -> dict[str, Any]:
    protocol = data.read_ijb(options.media, options.pairs)
    images = data.open_images(options.images)
    crops: Mapping[str, FaceCrop] = images
    if options.landmarks:
        crops = _Aligned(images, data.read_landmarks(options.landmarks))
    embedder = _embedder(options)
    names = list(dict.fromkeys(protocol.names))
    with bar("embedding") as shown:
        shown.start(len(names))
        vectors = embed_all(embedder, crops, names, captures=1, progress=shown.advance)
    matrix = np.stack([vectors[name][0] for name in protocol.names])
    return verification.verify_templates(matrix, protocol) | embedder.describe()


class _Aligned(dict[str, FaceCrop]):
    """Loose crops of IJB, aligned when asked for and not kept."""

    def __init__(self, images: data.Images, landmarks: Mapping[str, NDArray[np.float64]]) -> None:
        super().__init__()
        self._images, self._landmarks = images, landmarks

    def __missing__(self, name: str) -> FaceCrop:
        if name not in self._landmarks:
            raise data.DataError(f"there are no landmarks for {name!r}")
        return data.align_loose(self._images, name, self._landmarks[name])


def labels_command(options: argparse.Namespace) -> dict[str, Any]:
    """`file,identity` from the names of a set: the first group of the pattern is the person."""
    images = data.open_images(options.images)
    pattern = re.compile(options.pattern)
    rows = []
    for name in sorted(images):
        match = pattern.fullmatch(name)
        if match is None:
            raise data.DataError(f"{name!r} does not fit the pattern {options.pattern}")
        rows.append((name, match.group(1)))
    with options.csv.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("file", "identity"))
        writer.writerows(rows)
    return {"images": len(rows), "identities": len({identity for _, identity in rows})}


def attack_command(options: argparse.Namespace) -> dict[str, Any]:
    began = time.monotonic()
    _settle(options)
    images, identities = _labelled(options)
    victims = runs.choose_victims(images, identities, options.count)
    judge = _judge(options, images, identities)
    # What is done is in FILE.partial while the attack goes on, should it not come to its end.
    unfinished = options.out and options.out.with_name(f"{options.out.name}.partial")
    options.notebook = runs.Notebook(unfinished, options.within)
    with bar(options.attack) as shown:
        figures = ATTACKS[options.attack](options, images, identities, victims, judge, shown)
    options.notebook.close()
    if options.notebook.left_out:
        figures |= {"within_minutes": options.within, "left_out": options.notebook.left_out}
    figures |= {"attack": options.attack, "faces": len(victims.crops), "seed": options.seed}
    figures |= {"setting": options.setting, "minutes": round((time.monotonic() - began) / 60, 1)}
    if judge is not None:
        figures |= {
            "judge": judge.name,
            "judge_threshold": judge.threshold,
            "judge_impostor_comparisons": judge.comparisons,
        }
    return figures


def _linear(
    options: argparse.Namespace,
    images: data.Images,
    identities: Mapping[str, str],
    victims: runs.Victims,
    judge: Judge | None,
    shown: Bar,
) -> dict[str, Any]:
    rows = runs.run_linear(
        _protections(options, lambda: _range_crops(options, images, identities, victims)),
        victims,
        judge,
        captures=options.captures,
        steps=options.steps,
        seed=options.seed,
        closed_form=options.closed_form,
        notebook=options.notebook,
        report=shown.report,
    )
    return _headline(rows) | {"steps": options.steps, "rows": rows}


def _learned(
    options: argparse.Namespace,
    images: data.Images,
    identities: Mapping[str, str],
    victims: runs.Victims,
    judge: Judge | None,
    shown: Bar,
) -> dict[str, Any]:
    crops = _training_crops(options, images, identities, victims)
    rows = runs.run_learned(
        _protections(options, lambda: crops[:RANGE_FACES]),
        victims,
        judge,
        crops,
        training=Training(passes=options.passes, captures=tuple(options.captures), seed=options.seed),
        checkpoints=options.checkpoints,
        minutes=options.minutes,
        further=options.further,
        captures=options.captures,
        seed=options.seed + 1,
        notebook=options.notebook,
        report=shown.report,
    )
    return _headline(rows) | {"rows": rows}


def _averaging(
    options: argparse.Namespace,
    images: data.Images,
    identities: Mapping[str, str],
    victims: runs.Victims,
    judge: Judge | None,
    shown: Bar,
) -> dict[str, Any]:
    protections = _protections(options, lambda: _range_crops(options, images, identities, victims))
    networks = {}
    if options.learned:
        crops = _training_crops(options, images, identities, victims)
        training = Training(passes=options.passes, captures=tuple(options.captures), seed=options.seed)
        networks = {
            p.name: runs.trained(
                p, crops, training, options.checkpoints, minutes=options.minutes, report=shown.report
            )
            for p in protections
        }
    people: dict[str, list[str]] = {}
    for name in sorted(identities):
        people.setdefault(identities[name], []).append(name)
    most = max(options.captures) + 1  # the last is kept to judge by
    several = sorted(person for person, names in people.items() if len(names) >= most)[: options.people]
    crops_by_person = {
        person: np.stack([images[name].pixels for name in people[person][:most]]) for person in several
    }
    rows = runs.run_averaging(
        protections,
        victims,
        judge,
        people=crops_by_person,
        captures=options.captures,
        steps=options.steps,
        seed=options.seed,
        networks=networks,
        notebook=options.notebook,
        report=shown.report,
    )
    return _headline(rows) | {"rows": rows, "people": len(several)}


def _linkage(
    options: argparse.Namespace,
    images: data.Images,
    identities: Mapping[str, str],
    victims: runs.Victims,
    judge: Judge | None,
    shown: Bar,
) -> dict[str, Any]:
    if judge is None:
        raise data.DataError("linkage needs --judge: the recogniser that the attacker distils")
    _captures_only(options)
    rows = runs.run_linkage(
        _profiles(options),
        judge,
        _training_crops(options, images, identities, victims),
        victims,
        pairs=options.pairs,
        distillation=Distillation(passes=options.passes, seed=options.seed),
        model=load_model(model_folder(options.model)),
        minutes=options.minutes,
        seed=options.seed + 1,
        notebook=options.notebook,
        report=shown.report,
    )
    # rows[0] is the ceiling; of the first profile attacked, the attacker with most pairs.
    most = [row for row in rows if row["protection"] == rows[min(1, len(rows) - 1)]["protection"]][-1]
    keys = ("protection", "payload_bytes", "linked", "linked_at_fmr_1e-3", "pairs", "gallery_people")
    return {key: most[key] for key in keys if key in most} | {"rows": rows}


def _template(
    options: argparse.Namespace,
    images: data.Images,
    identities: Mapping[str, str],
    victims: runs.Victims,
    judge: Judge | None,
    shown: Bar,
) -> dict[str, Any]:
    _captures_only(options)
    model = load_model(model_folder(options.model))
    if not model.accepted:
        raise ModelError(f"model {model.name} accepts no privacy profile")
    wanted = options.profile[0] if options.profile else model.accepted[0].profile.hash
    profile = _accepted(options.model, wanted)
    figures, rows = runs.run_template(
        model,
        profile,
        victims,
        judge,
        _training_crops(options, images, identities, victims),
        keys=(secrets.token_bytes(32), secrets.token_bytes(32)),
        steps=options.steps,
        inverted=options.inverted,
        seed=options.seed,
        notebook=options.notebook,
        report=shown.report,
    )
    by_knowledge = {row["knowledge"]: row for row in rows}
    headline = {
        f"{figure}_{name.replace(' ', '_')}": by_knowledge[name][figure]
        for name in ("key known", "key secret")
        if name in by_knowledge
        for figure in ("accepted_by_system", "accepted", "ssim", "psnr")
        if figure in by_knowledge[name]
    }
    # What an attack is asked for first: the attacker who knows most.
    known = by_knowledge.get("key known", {})
    headline |= {key: known[key] for key in ("ssim", "psnr", "accepted") if key in known}
    sent = runs.describe(Coded(profile))["payload_bytes"]
    return (
        figures
        | headline
        | {"model": model.name, "profile": profile.name, "payload_bytes": sent, "rows": rows}
    )


def _captures_only(options: argparse.Namespace) -> None:
    if options.baselines or options.uniform or options.float:
        raise data.DataError(
            f"{options.attack} attacks what a terminal sends: --baselines, --uniform and --float are for the others"
        )


def _judge(options: argparse.Namespace, images: data.Images, identities: Mapping[str, str]) -> Judge | None:
    """The judge asked for, its threshold set on --judge-images where given, else on the people attacked."""
    if str(options.judge) == "none":
        return None
    if options.judge_images is None:
        return Judge.open(options.judge, images, identities)
    strangers = data.pack_identities(options.judge_images)
    return Judge.open(options.judge, data.open_images(options.judge_images), strangers, limit=1500)


ATTACKS = {
    "linear": _linear,
    "learned": _learned,
    "averaging": _averaging,
    "linkage": _linkage,
    "template": _template,
}


def report_command(options: argparse.Namespace) -> dict[str, Any]:
    """docs/attacks.md from results; with --pictures also the portrait under every protection of these
    options."""
    results = report.read_results(*options.results)
    picture = None
    if options.pictures:
        picture = options.out.with_name("attacks.jpg")
        with bar("pictures") as shown:
            protections = _protections(options, _no_ranges)
            sheet = report.portrait_sheet(protections, steps=options.steps, told=shown.report)
        cv2.imwrite(str(picture), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
    text = report.page(results, picture.name if picture else None, options.note)
    options.out.write_text(text, encoding="utf-8")
    return {"written": str(options.out), "results": len(results)}


def _no_ranges() -> NDArray[np.uint8]:
    raise data.DataError(
        "uniform budgets of a transform without a profile need faces to measure its ranges on"
    )


def front_command(options: argparse.Namespace) -> dict[str, Any]:
    """The plot of accuracy against recovery, from result files."""
    results = report.read_results(*options.results)
    points = front.read_points(results, quick=options.quick)
    known = front.references(results, quick=options.quick)
    count = front.plot(points, options.out, known, options.title)
    rows = [{"model": p.model, "profile": p.profile, "series": p.series, "accuracy": p.accuracy,
             "ssim": p.linear_ssim, "accepted": p.linear_accepted} for p in points]  # fmt: skip
    return {"written": str(options.out), "points": count, "references": known, "rows": rows}


def table_command(options: argparse.Namespace) -> dict[str, Any]:
    """The Markdown table behind the plot: on stdout before the figures, or in --out."""
    results = report.read_results(*options.results)
    points = front.read_points(results, quick=options.quick)
    known = front.references(results, quick=options.quick)
    text = front.trade_off_table(points, known.get("unprotected twin"))
    if options.out is None:
        print(text)
    else:
        options.out.write_text(text, encoding="utf-8")
    return {"written": None if options.out is None else str(options.out), "points": len(points)}


def sweep_command(options: argparse.Namespace) -> dict[str, Any]:
    """Train and measure the points of the front, one after the other; resumes, and shares the work with others."""
    _settle(options)
    teachers = options.teacher or [None] * len(options.pack)
    if len(teachers) != len(options.pack):
        raise data.DataError("give one --teacher for each --pack, in the same order")
    if options.teacher is None:
        raise data.DataError(
            "--teacher is needed: the configs of the front learn from a teacher's embeddings"
        )
    faces = join(
        read_pack(pack, teacher=teacher, leave_out=options.leave_out)
        for pack, teacher in zip(options.pack, teachers, strict=True)
    )
    common = ["--seed", str(options.seed), *(["--threads", str(options.threads)] if options.threads else [])]
    attack = ["--images", str(options.attack_images), "--judge", str(options.judge), *common]
    if options.judge_images:
        attack += ["--judge-images", str(options.judge_images)]
    with bar("sweep") as shown:
        return sweep.sweep(
            options.points or sweep.POINTS,
            faces,
            sweep.Effort(options.passes, options.every, options.count, options.steps, options.fused),
            options.folder,
            sweep.Sources(
                ("--images", str(options.images), "--pairs", str(options.pairs), *common), tuple(attack)
            ),
            _figures_of,
            minutes=options.minutes,
            told=shown.report,
        )


def rate_command(options: argparse.Namespace) -> dict[str, Any]:
    """Accuracy through codes of 1 to 4 bits and through floats: one model, never trained again."""
    images = data.open_images(options.images)
    pairs = data.read_pairs(options.pairs)
    pairs = pairs.every(options.every) if options.every > 1 else pairs
    model = load_model(model_folder(options.model))
    if not model.accepted:
        raise ModelError(f"model {model.name} accepts no privacy profile")
    profile = _accepted(options.model, options.profile or model.accepted[0].profile.hash)
    with bar("embedding") as shown:
        shown.start((2 + len(options.bits)) * len(pairs.names()))
        rows = rate.rate_rows(
            model, profile, images, pairs, widths=options.bits, seed=options.seed, progress=shown.advance
        )
    return {"model": model.name, "profile": profile.name, "profile_hash": profile.hash, "every": options.every,
            "retrained": False, "captures": 1, "accuracy": rows[0]["accuracy"],
            "payload_bytes": rows[0]["payload_bytes"], "rows": rows}  # fmt: skip


def groups_command(options: argparse.Namespace) -> dict[str, Any]:
    """FNMR and FMR by group at one threshold, over all pairs of labelled pictures."""
    images, identities = _labelled(options)
    labels: dict[str, dict[str, str]] = {name: {} for name in identities}
    if options.groups:
        for name, columns in data.read_labels(options.groups).items():
            labels.setdefault(name, {}).update(columns)
    if options.images.suffix == ".npz":
        for column, values in data.pack_columns(options.images, options.by).items():
            for name, value in values.items():
                if name in labels:
                    labels[name][column] = value
    names = verification.evenly(identities, options.most, seed=options.seed)
    embedder = _embedder(options)
    with bar("embedding") as shown:
        shown.start(len(names))
        vectors = embed_all(embedder, images, names, captures=options.captures, progress=shown.advance)
    fused = {name: fuse(v) for name, v in vectors.items()}
    figures = verification.all_pairs_by_group(fused, identities, labels, options.by.split(","), options.fmr)
    return figures | {"images": len(names), "captures": options.captures} | embedder.describe()


def judge_command(options: argparse.Namespace) -> dict[str, Any]:
    """How well a judge recognises clean pictures: accuracy on pairs, and its errors at the threshold attacks use."""
    images, pairs = data.open_images(options.images), data.read_pairs(options.pairs)
    strangers = data.pack_identities(options.judge_images)
    judge = Judge.open(options.judge, data.open_images(options.judge_images), strangers, limit=1500)
    names = pairs.names()
    vectors: dict[str, NDArray[np.float32]] = {}
    with bar("judging") as shown:
        shown.start(len(names))
        for start in range(0, len(names), 128):
            part = names[start : start + 128]
            found = judge.embed(np.stack([images[name].pixels for name in part]))
            vectors |= dict(zip(part, found, strict=True))
            shown.advance(len(part))
    scores = np.array(
        [judge.scores(vectors[a][None], vectors[b][None])[0, 0]
         for a, b in zip(pairs.first, pairs.second, strict=True)]
    )  # fmt: skip
    return verification.figures_of(scores, pairs, seed=options.seed) | {
        "judge": judge.name,
        "judge_threshold": judge.threshold,
        "judge_impostor_comparisons": judge.comparisons,
        "fnmr_at_judge_threshold": float(np.mean(scores[pairs.same] < judge.threshold)),
        "fmr_at_judge_threshold": float(np.mean(scores[~pairs.same] >= judge.threshold)),
    }


# --- options ----------------------------------------------------------------------------------------------


def _embedder(options: argparse.Namespace) -> Any:
    return open_embedder(
        options.model,
        profile=options.profile,
        unprotected=options.unprotected,
        seed=options.seed,
        device=options.device,
    )


def _labelled(options: argparse.Namespace) -> tuple[data.Images, dict[str, str]]:
    """The images, and the identity of each: from --labels, or from the labels inside an npz pack."""
    images = data.open_images(options.images, leave_out=options.leave_out)
    if options.labels:
        identities = data.read_identities(options.labels)
    elif options.images.suffix == ".npz":
        identities = data.pack_identities(options.images, leave_out=options.leave_out)
    else:
        raise data.DataError("--labels is needed: this set does not say who is in its pictures")
    return images, identities


def _accepted(model: str, name: str) -> PrivacyProfile:
    for one in open_model(model).accepted:
        if name in (one.profile.name, one.profile.hash):
            return one.profile
    raise ModelError(f"model {model} does not accept a profile {name}")


def _protections(options: argparse.Namespace, ranges: Callable[[], NDArray[np.uint8]]) -> list[Protection]:
    """The profiles asked for (by default all that the model accepts), then their float twins, the rows without
    protection, and uniform budgets from little noise to much. ranges: faces that give clip ranges where no profile
    of a transform does."""
    profiles = _profiles(options)
    coded = tuple(Coded(profile) for profile in profiles)
    protections: list[Protection] = [AnyOf(coded)] if options.profile == [ANY] else list(coded)
    if options.float:
        protections += [FloatNoise(profile) for profile in profiles]
    transforms = options.transforms or [profiles[0].transform]
    if options.baselines:
        protections += runs.baselines(options.transforms or ("paper", "critical"))
    if options.uniform:
        known = {profile.transform: profile for profile in reversed(profiles)}
        for transform in transforms:
            base = known.get(transform) or runs.measured_profile(transform, ranges())
            protections += [runs.uniform(base, epsilon) for epsilon in sorted(options.uniform, reverse=True)]
    return protections


def _profiles(options: argparse.Namespace) -> list[PrivacyProfile]:
    """Those asked for, by default all that the model accepts."""
    if options.profile and options.profile != [ANY]:
        profiles = [
            load_profile(name) if Path(name).suffix == ".json" else _accepted(options.model, name)
            for name in options.profile
        ]
    else:
        profiles = [one.profile for one in open_model(options.model).accepted]
    if not profiles:
        raise ModelError("there is no privacy profile to attack")
    return profiles


def _range_crops(
    options: argparse.Namespace, images: data.Images, identities: Mapping[str, str], victims: runs.Victims
) -> NDArray[np.uint8]:
    """Faces of people who are not attacked, to measure clip ranges on."""
    return runs.crops_of(images, identities, without=victims.identities, limit=RANGE_FACES)


def _training_crops(
    options: argparse.Namespace, images: data.Images, identities: Mapping[str, str], victims: runs.Victims
) -> NDArray[np.uint8]:
    """Faces the attacker trains on: of --train-images, else of the people in --images who are not
    attacked."""
    if options.train_images is None:
        return runs.crops_of(images, identities, without=victims.identities, limit=options.train_count)
    others = data.open_images(options.train_images)
    names = np.random.default_rng(options.seed).permutation(sorted(others))[: options.train_count]
    return np.stack([others[str(name)].pixels for name in names])


def _headline(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of the first profile attacked; rows[0] is the flat picture."""
    first = rows[1]
    keys = ("protection", "ssim", "psnr", "accepted", "accepted_other", "payload_bytes", "captures")
    return {key: first[key] for key in keys if key in first}


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m recognition.evaluation", description="Measure and attack a model."
    )
    commands = top.add_subparsers(dest="command", required=True)

    def command(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run)
        _common(sub)
        return sub

    sub = command("verification", verification_command, "1:1 accuracy and FNMR at FMR")
    _images(sub)
    _model(sub)
    sub.add_argument(
        "--pairs",
        type=Path,
        metavar="CSV",
        help="fold,img1,img2,same; not needed with a .bin set; drawn from the labels of an npz pack",
    )
    sub.add_argument("--leave-out", metavar="MASK", help="name of an npz pack's mask of pictures not to use")
    sub.add_argument("--captures", type=int, default=1, help="captures fused per picture")
    sub.add_argument(
        "--different-pictures",
        action="store_true",
        help="with --captures and --labels: the first side of a pair fuses different pictures of its person",
    )
    sub.add_argument("--every", type=int, default=1, metavar="N", help="every N-th pair only: a quick look")
    sub.add_argument(
        "--labels", type=Path, metavar="CSV", help="file,identity: adds FNMR at dense impostor scores"
    )
    sub.add_argument(
        "--groups", type=Path, metavar="CSV", help="file and group columns: adds figures by group"
    )
    sub.add_argument("--by", default="gender", help="group columns, separated by commas")

    sub = command(
        "identification", identification_command, "1:N: FNIR at FPIR, people enrolled and strangers"
    )
    _images(sub)
    _labels(sub)
    _model(sub)
    sub.add_argument("--enrol", type=int, default=3, help="captures enrolled per person")
    sub.add_argument("--fpir", type=float, default=0.01)
    sub.add_argument(
        "--gallery",
        type=int,
        nargs="+",
        metavar="N",
        help="people enrolled, several sizes; default: half of all",
    )
    sub.add_argument("--captures", type=int, default=1, help="captures fused per attempt")
    sub.add_argument(
        "--different-pictures", action="store_true", help="fuse captures of different pictures of a person"
    )
    sub.add_argument(
        "--thresholds", type=Path, metavar="FILE", help="of calibrate --captures K --out FILE, for K fused"
    )
    sub.add_argument("--repeats", type=int, default=1, help="times that half of the people are drawn anew")

    sub = command("calibrate", calibrate_command, "write a model's thresholds from impostor scores")
    _images(sub)
    _labels(sub)
    sub.add_argument("--model", default="default")
    sub.add_argument("--limit", type=int, default=1500, help="pictures at most, evenly over people")
    sub.add_argument("--enrol", type=int, default=3, help="captures that a gallery holds of a person")
    sub.add_argument("--fpir", type=float, default=0.01, help="for the table of thresholds in the output")
    sub.add_argument(
        "--source", required=True, help="whose scores these are, for model.json; never a test set"
    )
    sub.add_argument("--captures", type=int, default=1, help="captures fused per attempt; with --dry-run")
    sub.add_argument("--dry-run", action="store_true", help="measure, write nothing")

    sub = command("ijb", ijb_command, "IJB-B or IJB-C 1:1 verification of templates")
    _images(sub)
    _model(sub)
    sub.add_argument("--media", type=Path, required=True, help="ijbX_face_tid_mid.txt")
    sub.add_argument("--pairs", type=Path, required=True, help="ijbX_template_pair_label.txt")
    sub.add_argument(
        "--landmarks", type=Path, help="ijbX_name_5pts_score.txt, when the crops are not aligned yet"
    )

    sub = command("labels", labels_command, "write file,identity from the names of a set")
    _images(sub)
    sub.add_argument("--pattern", default=r"(?:.*/)?(.+)_\d+", help="its first group is the person")
    sub.add_argument("--csv", type=Path, required=True, help="file to write")

    sub = command("groups", groups_command, "FNMR and FMR by group, over all pairs of labelled pictures")
    _images(sub)
    _labels(sub)
    _model(sub)
    sub.add_argument("--groups", type=Path, metavar="CSV", help="file and group columns")
    sub.add_argument("--by", default="source", help="columns of the csv or the pack, separated by commas")
    sub.add_argument("--most", type=int, default=20, help="pictures of a person at most")
    sub.add_argument("--fmr", type=float, default=1e-3, help="of everybody, sets the one threshold")
    sub.add_argument("--captures", type=int, default=1, help="captures fused per picture")

    sub = command("rate", rate_command, "accuracy against bits of a code, without training again")
    _images(sub)
    sub.add_argument("--pairs", type=Path, metavar="CSV", required=True, help="fold,img1,img2,same")
    sub.add_argument("--model", default="default")
    sub.add_argument("--profile", help="name of a privacy profile the model accepts; default: its first")
    sub.add_argument("--bits", type=int, nargs="+", choices=rate.WIDTHS, default=list(rate.WIDTHS))
    sub.add_argument("--every", type=int, default=1, metavar="N", help="every N-th pair only: a quick look")

    sub = command("judge", judge_command, "how well the judge of attacks recognises clean pictures")
    _images(sub)
    sub.add_argument("--pairs", type=Path, metavar="CSV", required=True, help="fold,img1,img2,same")
    sub.add_argument("--judge", default=resnet34.NAME, metavar="face-api|FILE")
    sub.add_argument(
        "--judge-images", type=Path, required=True, help="labelled npz pack that sets its threshold"
    )

    sub = command("front", front_command, "plot accuracy against recovery, from result files")
    _results(sub)
    sub.add_argument("--out", type=Path, required=True, help="png, svg or pdf to write")
    sub.add_argument("--title", default="")

    sub = command("table", table_command, "the trade-off table in Markdown, with the commands of every row")
    _results(sub)
    sub.add_argument("--out", type=Path, help="page to write; default: stdout, before the figures")

    sub = command("sweep", sweep_command, "train and measure the points of the front at equal effort")
    sub.add_argument(
        "--folder", type=Path, required=True, help="of runs, models and results; resumes from it"
    )
    sub.add_argument("--pack", type=Path, action="append", required=True, help="npz pack to train on; repeat")
    sub.add_argument("--teacher", type=Path, action="append", help="embeddings, one per --pack, in order")
    sub.add_argument("--leave-out", metavar="MASK", help="boolean mask in the packs: pictures not to use")
    _images(sub)
    sub.add_argument("--pairs", type=Path, metavar="CSV", required=True, help="fold,img1,img2,same")
    sub.add_argument("--attack-images", type=Path, required=True, help="labelled npz pack of faces to attack")
    sub.add_argument("--judge", default=resnet34.NAME, metavar="face-api|FILE|none")
    sub.add_argument("--judge-images", type=Path, help="labelled npz pack that sets the judge's threshold")
    sub.add_argument(
        "--points",
        nargs="+",
        metavar="CONFIG[+VARIANT]",
        help="default: the four curves and what else was tried",
    )
    sub.add_argument("--setting", choices=tuple(SETTINGS), default="medium", help="effort where not given")
    sub.add_argument("--passes", type=int, help="faces shown to every point")
    sub.add_argument("--every", type=int, metavar="N", help="every N-th pair")
    sub.add_argument("--count", type=int, help="people attacked")
    sub.add_argument("--steps", type=int, help="of the linear attack")
    sub.add_argument("--fused", type=int, default=0, metavar="K", help="also K captures fused, and attacked")
    sub.add_argument("--minutes", type=float, help="stop after this long, in the middle of a run if need be")

    attacks = commands.add_parser("attack", help="attack what leaves a terminal, or a template")
    kinds = attacks.add_subparsers(dest="attack", required=True)
    for name in ATTACKS:
        sub = kinds.add_parser(name)
        sub.set_defaults(run=attack_command)
        _common(sub)
        _attack(sub, name)

    sub = command("report", report_command, "write the page of attacks from result files")
    _results(sub)
    sub.add_argument("--out", type=Path, required=True, dest="out", help="page to write")
    sub.add_argument(
        "--note", default="", help="what a reader must know about these results, after the introduction"
    )
    sub.add_argument("--pictures", action="store_true", help="also recover the public-domain portrait")
    sub.set_defaults(uniform=())
    _protection_options(sub)
    sub.add_argument("--steps", type=int, default=150)
    return top


def _results(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--results", type=Path, nargs="+", required=True, help="folders of JSON results written with --out"
    )
    if sub.prog.split()[-1] != "report":
        sub.add_argument(
            "--quick", action="store_true", help="also results of every N-th pair and of captures fused"
        )


def _common(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--threads", type=int, help="threads to compute in; default: the cores there are")
    if sub.prog.split()[-1] not in WRITERS:
        sub.add_argument("--out", type=Path, help="also write the figures to this file")


def _images(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--images", type=Path, required=True, help="folder, tar, npz pack or .bin of aligned crops"
    )


def _labels(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--labels", type=Path, metavar="CSV", help="file,identity; not needed with a labelled npz pack"
    )
    sub.add_argument("--leave-out", metavar="MASK", help="name of an npz pack's mask of pictures not to use")


def _model(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--model", default="default", help="a model's name, or the path of its folder")
    sub.add_argument("--profile", help="name of a privacy profile the model accepts; default: its first")
    sub.add_argument(
        "--unprotected",
        action="store_true",
        help="the twin that sees the picture, <model>-unprotected",
    )
    sub.add_argument("--device", default="cpu")


def _protection_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--model", default="default")
    sub.add_argument(
        "--profile", action="append", metavar="NAME|FILE.json", help="profile to attack; repeat; default: all"
    )
    sub.add_argument(
        "--float", action=argparse.BooleanOptionalAction, help="also the profiles' noise before quantisation"
    )
    sub.add_argument("--uniform", type=float, nargs="*", metavar="EPSILON", help="also uniform budgets")
    sub.add_argument(
        "--transforms", nargs="+", choices=("critical", "paper"), help="of the rows to compare with"
    )
    sub.add_argument(
        "--baselines",
        action=argparse.BooleanOptionalAction,
        help="also no protection, and the public code's noise",
    )


def _attack(sub: argparse.ArgumentParser, name: str) -> None:
    """Options whose default is None are filled by `_settle`: from --setting, else from DEFAULTS."""
    _images(sub)
    _labels(sub)
    _protection_options(sub)
    sub.add_argument(
        "--setting", choices=tuple(SETTINGS), help="small: to try; medium: an hour of two cores; full"
    )
    sub.add_argument("--count", type=int, help="people attacked")
    sub.add_argument(
        "--judge",
        default=resnet34.NAME,
        metavar="face-api|FILE|none",
        help="recogniser that has nothing to do with the model: face-api, or a TorchScript file",
    )
    sub.add_argument("--judge-images", type=Path, help="labelled npz pack that sets the judge's threshold")
    sub.add_argument(
        "--within",
        type=float,
        metavar="MINUTES",
        help="begin no further row after so long; the result names the rows left out",
    )
    if name in ("linear", "averaging", "template"):
        sub.add_argument("--steps", type=int)
    if name == "linear":
        sub.add_argument("--captures", type=int, default=1)
        sub.add_argument("--closed-form", action="store_true", help="Wiener estimate (critical only)")
    if name in ("learned", "averaging"):
        sub.add_argument("--captures", type=int, nargs="+", help="captures averaged")
        sub.add_argument("--checkpoints", type=Path, help="folder of networks; training resumes from it")
    if name == "learned":
        sub.add_argument(
            "--further",
            type=int,
            metavar="PASSES",
            help="networks after the first start from the one before, and are shown this many faces",
        )
    if name == "averaging":
        sub.add_argument(
            "--learned", action=argparse.BooleanOptionalAction, help="also by a U-Net trained on averages"
        )
        sub.add_argument("--people", type=int, help="people whose different crops are averaged")
    if name == "linkage":
        sub.add_argument("--pairs", type=int, nargs="+")
    if name == "template":
        sub.add_argument("--inverted", type=int, help="templates that pictures are made from")
    if name != "linear":
        sub.add_argument(
            "--train-images", type=Path, help="faces the attacker trains on; default: people not attacked"
        )
        sub.add_argument("--train-count", type=int)
    if name in ("learned", "averaging", "linkage"):
        sub.add_argument("--passes", type=int, help="faces shown in training, for each row")
        sub.add_argument("--minutes", type=float, help="stop each training after this long")


def _settle(options: argparse.Namespace) -> None:
    """Fill in what was not asked for: by the setting, else by the defaults of the attack."""
    chosen = {**DEFAULTS, **SETTINGS.get(options.setting, {}).get("every", {})}
    chosen |= SETTINGS.get(options.setting, {}).get(getattr(options, "attack", options.command), {})
    for name, value in chosen.items():
        if getattr(options, name, 0) is None:
            setattr(options, name, value)


def _figures_of(arguments: list[str]) -> dict[str, Any]:
    """What a command prints, as a result file holds it."""
    options = parser().parse_args(arguments)
    captures.set_workers(options.threads or captures.workers())
    given = front.plain_arguments(arguments)
    return {"command": options.command, "arguments": given} | options.run(options)


def main(arguments: list[str] | None = None) -> int:
    given = sys.argv[1:] if arguments is None else arguments
    options = parser().parse_args(given)  # a mistake in the arguments ends here, with a line on how to use it
    try:
        figures = _figures_of(given)
    except (data.DataError, ModelError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    line = json.dumps(figures)
    if getattr(options, "out", None) and options.command not in WRITERS:
        options.out.write_text(line + "\n", encoding="utf-8")
    print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
