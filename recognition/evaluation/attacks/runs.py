"""The attacks as experiments: each takes faces and protections, and returns figures ready to be written
down."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recognition.budget import PrivacyProfile
from recognition.checkpoint import Model
from recognition.evaluation import metrics
from recognition.evaluation.attacks import averaging, linear, linkage, recovery, template
from recognition.evaluation.attacks.judge import Judge, one_each
from recognition.evaluation.attacks.learned import LearnedAttack, Training
from recognition.evaluation.attacks.observation import (
    PUBLIC_CODE_EPSILON_MEAN,
    AnyOf,
    Coded,
    FloatNoise,
    Nothing,
    Protection,
    PublicCode,
)
from recognition.evaluation.captures import features_of, hash_of_family, in_parallel
from recognition.evaluation.data import DataError
from recognition.evaluation.embedding import Embedder, ProtectedEmbedder, randomness
from recognition.frequency import SHAPES
from recognition.payload import pack
from recognition.recognizer import Recognizer
from recognition.types import FaceCrop, PerturbedFeatures

Report = Callable[[str, float], None]  # what is being done, and the share of it that is done


def silent(what: str, share: float) -> None:
    """For callers without a progress bar."""


class Notebook:
    """Rows as they end, also in a file that outlives the process, and whether there is time for another one.

    minutes: of the whole attack; a row that has begun is ended. At least one row beside the flat picture is made.
    """

    def __init__(self, file: Path | None = None, minutes: float | None = None) -> None:
        self.rows: list[dict[str, Any]] = []
        self.left_out: list[str] = []  # rows there was no time for
        self._file = file
        self._deadline = None if minutes is None else time.monotonic() + 60 * minutes
        if file is not None:
            file.write_text("", encoding="utf-8")

    def append(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        if self._file is not None:
            with self._file.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(row) + "\n")

    def no_time_for(self, what: str) -> bool:
        """True, and noted, when the time is used up."""
        late = self._deadline is not None and time.monotonic() > self._deadline and len(self.rows) > 1
        if late:
            self.left_out.append(what)
        return late

    def close(self) -> None:
        """The whole result is written elsewhere now."""
        if self._file is not None:
            self._file.unlink(missing_ok=True)


@dataclass(frozen=True)
class Victims:
    """Faces to attack: crops uint8 (N, 112, 112, 3) of N people, and another picture of each where all have
    one."""

    crops: NDArray[np.uint8]
    others: NDArray[np.uint8] | None
    identities: tuple[str, ...]


def choose_victims(images: Mapping[str, FaceCrop], identities: Mapping[str, str], count: int) -> Victims:
    """One picture of each of `count` people, people with a second picture before others; the same every
    time."""
    pictures: dict[str, list[str]] = {}
    for name in sorted(identities):
        pictures.setdefault(identities[name], []).append(name)
    people = sorted(pictures, key=lambda person: (len(pictures[person]) < 2, person))[:count]
    if not people:
        raise DataError("there are no labelled faces to attack")
    crops = np.stack([images[pictures[person][0]].pixels for person in people])
    several = all(len(pictures[person]) > 1 for person in people)
    others = np.stack([images[pictures[person][1]].pixels for person in people]) if several else None
    return Victims(crops, others, tuple(people))


CLIP_QUANTILE = 0.0005  # of a channel's values at either end, as training has it
LIVE = 0.02  # coefficient units; a channel with a smaller range has nothing in it
VALUES_A_CHANNEL = 200_000


def measured_profile(transform: str, crops: NDArray[np.uint8], *, seed: int = 0) -> PrivacyProfile:
    """Clip ranges and deviations of a transform over crops uint8 (N, 112, 112, 3), with one budget for every channel:
    what rows of uniform budgets are made from where no profile of that transform is at hand."""
    rng = np.random.default_rng(seed)
    places = SHAPES[transform][1] * SHAPES[transform][2]
    each = max(1, min(places, VALUES_A_CHANNEL // len(crops)))

    def values(start: int) -> NDArray[np.float32]:
        found = features_of(crops[start : start + 4], transform)
        return (
            found.reshape(len(found), len(found[0]), -1)[:, :, chosen]
            .swapaxes(0, 1)
            .reshape(len(found[0]), -1)
        )

    chosen = rng.choice(places, each, replace=False)
    seen = np.concatenate(in_parallel(values, range(0, len(crops), 4)), axis=1)
    low, high = np.quantile(seen, [CLIP_QUANTILE, 1 - CLIP_QUANTILE], axis=1).astype(np.float64)
    live = high - low > LIVE
    return PrivacyProfile(
        name=f"ranges of {transform}",
        transform=transform,
        low=low,
        high=high,
        channel_epsilon=np.where(live, 1.0, 0.0),
        position_weight=np.ones(SHAPES[transform][1:]),
        bits=np.where(live, 4, 0),
        step=np.where(live, 1.0, 0.0),
        deviation=seen.std(axis=1, dtype=np.float64),
    )


def uniform(profile: PrivacyProfile, epsilon: float) -> FloatNoise:
    """The same ranges with one budget for every live coefficient, epsilon on average over all, as floats: a row to
    compare with."""
    live = profile.high - profile.low > LIVE
    name = f"uniform, epsilon_mean {epsilon:g} ({profile.transform}), float"
    even = replace(
        profile,
        name=name,
        channel_epsilon=np.where(live, epsilon * live.size / live.sum(), 0.0),
        position_weight=np.ones_like(profile.position_weight),
        bits=np.where(live, 4, 0),
        step=np.where(live, 1.0, 0.0),
    )
    return FloatNoise(even, name)


def baselines(transforms: Sequence[str] = ("paper", "critical")) -> list[Protection]:
    """What a picture is worth without noise, and under the noise of the method's public code."""
    return [
        *(Nothing(transform) for transform in transforms),
        *([PublicCode()] if "paper" in transforms else []),
    ]


def describe(protection: Protection) -> dict[str, Any]:
    """Name, transform, epsilon with its units, bytes of a capture."""
    row: dict[str, Any] = {"protection": protection.name}
    if isinstance(protection, Nothing):
        return row | {"transform": protection.transform, "epsilon_mean_per_coefficient": None, "coded": False}
    if isinstance(protection, PublicCode):
        return row | {
            "transform": "paper",
            "epsilon_mean_per_coefficient": PUBLIC_CODE_EPSILON_MEAN,
            "epsilon_note": "as that code counts it, with a sensitivity of 1 that its features do not have",
            "coded": False,
        }
    if isinstance(protection, AnyOf):
        every = [describe(one) for one in protection.each]
        row |= {key: every[0][key] for key in ("transform", "coded")}
        for key in ("epsilon_mean_per_coefficient", "epsilon_per_capture"):
            row[key] = float(np.mean([one[key] for one in every]))
        row["payload_bytes"] = max(one["payload_bytes"] for one in every)
        return row | {"profile_hash": hash_of_family([one.profile for one in protection.each])}
    profile = protection.profile  # type: ignore[attr-defined]
    row |= {
        "transform": profile.transform,
        "epsilon_mean_per_coefficient": profile.epsilon_mean_per_coefficient,
        "epsilon_per_capture": profile.epsilon_per_capture,
        "coded": isinstance(protection, Coded),
    }
    if isinstance(protection, Coded):
        nothing = PerturbedFeatures(profile.hash, np.zeros(profile.shape, np.uint8))
        row |= {"profile_hash": profile.hash, "payload_bytes": len(pack(nothing, profile))}
    return row


def flat_row(victims: Victims, judge: Judge | None) -> dict[str, Any]:
    """The figures of a picture of one colour: a recovery is worth what it has above these."""
    figures = recovery.figures_of(recovery.flat(victims.crops), victims.crops, judge, victims.others)
    return {"protection": "mean colour alone", "transform": None, "captures": 0} | figures


def run_linear(
    protections: Sequence[Protection],
    victims: Victims,
    judge: Judge | None,
    *,
    captures: int = 1,
    steps: int = 150,
    seed: int = 0,
    closed_form: bool = False,
    notebook: Notebook | None = None,
    report: Report = silent,
) -> list[dict[str, Any]]:
    """One row for each protection, after the row of a flat picture."""
    rows = notebook or Notebook()
    rows.append(flat_row(victims, judge))
    for k, protection in enumerate(protections):
        if rows.no_time_for(protection.name):
            continue
        report(protection.name, k / len(protections))
        recovered = linear.attack(
            protection, victims.crops, captures=captures, steps=steps, seed=seed, closed_form=closed_form
        )
        rows.append(
            describe(protection)
            | {"captures": captures}
            | recovery.figures_of(recovered, victims.crops, judge, victims.others)
        )
    report("done", 1.0)
    return rows.rows


def run_learned(
    protections: Sequence[Protection],
    victims: Victims,
    judge: Judge | None,
    training_crops: NDArray[np.uint8],
    *,
    training: Training,
    checkpoints: Path | None = None,
    minutes: float | None = None,
    further: int | None = None,
    captures: Sequence[int] = (1,),
    seed: int = 1,
    notebook: Notebook | None = None,
    report: Report = silent,
) -> list[dict[str, Any]]:
    """Train a U-Net for each protection (or resume it), then attack with each number of captures.

    further: faces shown to every network after the first, which starts from the one before it (what goes in are
    pictures, whatever the transform); None: every network starts from nothing and sees all of training.passes.
    """
    rows = notebook or Notebook()
    rows.append(flat_row(victims, judge))
    before: LearnedAttack | None = None
    for protection in protections:
        if rows.no_time_for(protection.name):
            continue
        start = before if further is not None else None
        plan = training if start is None or further is None else replace(training, passes=further)
        attack = trained(
            protection, training_crops, plan, checkpoints, minutes=minutes, start=start, report=report
        )
        before = attack
        for k in captures:
            recovered = attack.attack(victims.crops, captures=k, seed=seed)
            rows.append(
                describe(protection)
                | {"captures": k, "training_faces": len(training_crops), "training_passes": attack.passes}
                | ({} if start is None else {"started_from": start.protection.name})
                | recovery.figures_of(recovered, victims.crops, judge, victims.others)
            )
    return rows.rows


def trained(
    protection: Protection,
    crops: NDArray[np.uint8],
    training: Training,
    checkpoints: Path | None,
    *,
    minutes: float | None = None,
    start: LearnedAttack | None = None,
    report: Report = silent,
) -> LearnedAttack:
    """A U-Net for a protection: resumed from its file under `checkpoints` when there is one, else started from
    another, and trained to the end."""
    file = None
    if checkpoints is not None:
        checkpoints.mkdir(parents=True, exist_ok=True)
        plain = "".join(c if c.isalnum() else "-" for c in protection.name)
        file = checkpoints / f"{plain}-{'-'.join(map(str, training.captures))}.pt"
    attack = LearnedAttack(protection, training, file, start=start)

    def told(passes: int, loss: float) -> None:
        report(f"{protection.name}: loss {loss:.3f}", passes / training.passes)

    attack.train(crops, minutes=minutes, progress=told)
    return attack


def run_averaging(
    protections: Sequence[Protection],
    victims: Victims,
    judge: Judge | None,
    *,
    people: Mapping[str, NDArray[np.uint8]],
    captures: Sequence[int] = averaging.CAPTURES,
    steps: int = 150,
    seed: int = 0,
    networks: Mapping[str, LearnedAttack] | None = None,
    notebook: Notebook | None = None,
    report: Report = silent,
) -> list[dict[str, Any]]:
    """k captures of one crop, by the linear attack and by networks given (by protection name); then one
    capture of each of k crops of a person. people: identity -> crops, the last of which is kept to judge
    the result by."""
    rows = notebook or Notebook()
    rows.append(flat_row(victims, judge))
    networks = networks or {}
    for protection in protections:
        for k in captures:
            if rows.no_time_for(f"{protection.name}, {k} captures of one crop"):
                continue
            report(f"{protection.name}, {k} captures", captures.index(k) / len(captures))
            recovered = {
                "linear": linear.attack(protection, victims.crops, captures=k, steps=steps, seed=seed)
            }
            if protection.name in networks:
                recovered["learned"] = networks[protection.name].attack(victims.crops, captures=k, seed=seed)
            for attacker, pictures in recovered.items():
                rows.append(
                    describe(protection)
                    | {"attacker": attacker, "of": "one crop", "captures": k}
                    | recovery.figures_of(pictures, victims.crops, judge, victims.others)
                )
        for k in captures:
            several = {person: crops for person, crops in people.items() if len(crops) > k}
            if k > 1 and several and not rows.no_time_for(f"{protection.name}, {k} different crops"):
                report(f"{protection.name}, {k} crops", captures.index(k) / len(captures))
                rows.append(
                    describe(protection)
                    | {"attacker": "linear", "of": "different crops", "captures": k}
                    | _different_crops(protection, several, k, judge, steps=steps, seed=seed)
                )
    report("done", 1.0)
    return rows.rows


def _different_crops(
    protection: Protection,
    people: Mapping[str, NDArray[np.uint8]],
    k: int,
    judge: Judge | None,
    *,
    steps: int,
    seed: int,
) -> dict[str, Any]:
    def recovered_of(numbered: tuple[int, NDArray[np.uint8]]) -> NDArray[np.uint8]:
        n, crops = numbered
        return averaging.recover_person(
            protection, crops[:k], seed=seed + n, solver=lambda o, c: linear.recover(o, c, steps=steps)
        )

    recovered = np.stack(in_parallel(recovered_of, list(enumerate(people.values()))))
    first = np.stack([crops[0] for crops in people.values()])
    held_out = np.stack([crops[-1] for crops in people.values()])
    return recovery.figures_of(recovered, first, judge, held_out)


def run_linkage(
    profiles: Sequence[PrivacyProfile],
    judge: Judge,
    training_crops: NDArray[np.uint8],
    victims: Victims,
    *,
    pairs: Sequence[int],
    distillation: linkage.Distillation,
    model: Model | None = None,
    minutes: float | None = None,
    seed: int = 0,
    notebook: Notebook | None = None,
    report: Report = silent,
) -> list[dict[str, Any]]:
    """Linkage at each n. The judge is the attacker's recogniser; probes are captures of the victims' crops,
    the gallery is their other pictures. The attacker of n pairs starts from that of fewer, whose pairs are among the n,
    and trains on: every row has trained as long as those before it together. First the ceiling, the attacker's
    recogniser on unprotected probes; then, with no pair at all, the model under attack where it is given: it is
    public, and reads captures by trade."""
    if victims.others is None:
        raise DataError("linkage needs a second picture of everybody, for the gallery")
    if max(pairs) > len(training_crops):
        raise DataError(f"{max(pairs)} pairs were asked for, there are {len(training_crops)} training faces")
    targets = judge.embed(training_crops[: max(pairs)])
    mean = targets.mean(
        axis=0
    )  # a recogniser's vectors may share most of their direction: compare what they do not
    gallery = linkage.centred(judge.embed(victims.others), mean)
    ceiling = linkage.linkage_figures(linkage.centred(judge.embed(victims.crops), mean), gallery)
    rows = notebook or Notebook()
    rows.append({"protection": "none: the attacker's recogniser on pictures", "pairs": None} | ceiling)
    targets = linkage.centred(targets, mean)
    for profile in profiles:
        if model is not None and profile.hash in {one.profile.hash for one in model.accepted}:
            embedder = ProtectedEmbedder(Recognizer(model), profile, randomness(seed))
            own = linkage.linkage_figures(_embed(embedder, victims.crops), _embed(embedder, victims.others))
            rows.append(describe(Coded(profile)) | {"attacker": "the public model", "pairs": 0} | own)
        before: linkage.Linker | None = None
        for n in sorted(pairs):
            if rows.no_time_for(f"{profile.name}, {n} pairs"):
                continue

            plan = replace(distillation, passes=min(distillation.passes, n * linkage.MOST_EPOCHS))

            def told(
                passes: int, loss: float, n: int = n, name: str = profile.name, total: int = plan.passes
            ) -> None:
                report(f"{name}, {n} pairs: loss {loss:.3f}", passes / total)

            linker = linkage.Linker(profile, targets.shape[1], plan, start=before)
            linker.distil(training_crops[:n], targets[:n], minutes=minutes, progress=told)
            before = linker
            figures = linkage.linkage_figures(linker.read(victims.crops, seed=seed), gallery)
            rows.append(
                describe(Coded(profile))
                | {"attacker": "distilled", "pairs": n, "training_passes": linker.passes}
                | figures
            )
    return rows.rows


def run_template(
    model: Model,
    profile: PrivacyProfile,
    victims: Victims,
    judge: Judge | None,
    public_crops: NDArray[np.uint8],
    *,
    keys: tuple[bytes, bytes],
    steps: int = 200,
    known_pairs: Sequence[int] = (64, 256, 1024),
    inverted: int = 40,
    seed: int = 0,
    notebook: Notebook | None = None,
    report: Report = silent,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Unlinkability across keys, and inversion of the first `inverted` templates under three kinds of knowledge.

    accepted_by_system: the recovered picture, shown to a terminal, is matched with the template it came
    from at the threshold for a gallery of one at FPIR 1e-3. accepted: the judge sees the person in it.
    """
    recognizer = Recognizer(model)
    embedder = ProtectedEmbedder(recognizer, profile, randomness(seed))
    enrolled = _embed(embedder, victims.crops)
    second = _embed(embedder, victims.crops if victims.others is None else victims.others)
    figures = template.unlinkability_figures(enrolled, second, keys=keys)
    figures["same_person_shown_twice"] = "one picture" if victims.others is None else "two pictures"
    enrolled = enrolled[:inverted]
    stored = template.protected(enrolled, keys[0])
    known = {"key known": template.unrotated(stored, keys[0]), "key secret": stored}
    usable = [n for n in known_pairs if n <= len(public_crops)]
    if usable:
        public = _embed(embedder, public_crops[: max(usable)])
        for n in usable:
            solved = template.solved_rotation(public[:n], template.protected(public[:n], keys[0]))
            known[f"key secret, {n} embeddings known"] = np.asarray(stored @ solved, np.float32)
    threshold = recognizer.threshold_for(gallery_size=1, target_fpir=1e-3, profile_hash=profile.hash)
    mean_face = public_crops.mean(axis=0).round().astype(np.uint8)
    rows = notebook or Notebook()
    for name, vectors in known.items():
        if rows.no_time_for(name):
            continue
        steps_done = [0]

        def told(done: int, name: str = name, so_far: list[int] = steps_done) -> None:
            so_far[0] += done
            report(name, so_far[0] / (steps * len(enrolled)))

        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        pictures = template.invert(
            unit.astype(np.float32), model.backbone, profile, mean_face, steps=steps, progress=told
        )
        scores = (_embed(embedder, pictures) * enrolled).sum(axis=1)  # the picture, held up to a terminal
        hits = int(np.sum(scores >= threshold))
        interval = metrics.wilson(hits, len(scores))
        rows.append(
            {"knowledge": name, "embedding_cosine": float((unit * enrolled).sum(axis=1).mean())}
            | {
                "system_score": float(scores.mean()),
                "accepted_by_system": hits / len(scores),
                "accepted_by_system_interval": [interval.low, interval.high],
            }
            | recovery.figures_of(
                pictures,
                victims.crops[:inverted],
                judge,
                None if victims.others is None else victims.others[:inverted],
            )
        )
    return figures | {"system_threshold": threshold}, rows.rows


def _embed(embedder: Embedder, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.concatenate(
        [embedder.embed([FaceCrop(c) for c in crops[k : k + 64]]) for k in range(0, len(crops), 64)]
    )


def crops_of(
    images: Mapping[str, FaceCrop], identities: Mapping[str, str], *, without: Sequence[str], limit: int
) -> NDArray[np.uint8]:
    """Up to `limit` crops of people other than those named, evenly over people: what an attacker trains
    on."""
    left = {name: person for name, person in identities.items() if person not in set(without)}
    names = one_each(left, limit)
    if not names:
        raise DataError("nobody is left to train on")
    return np.stack([images[name].pixels for name in names])
