"""1:N, as a door sees it: people on a gallery, people who are not, one search per picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recognition.checkpoint import Calibration
from recognition.evaluation import metrics
from recognition.evaluation.data import DataError
from recognition.evaluation.embedding import (
    BATCH,
    Embedder,
    Progress,
    ProtectedEmbedder,
    UnprotectedEmbedder,
    fuse,
)
from recognition.types import FaceCrop

FRESH = 1000  # captures of one picture that a plan may take before it meets the next plan's
BOOTSTRAP_ROUNDS = 200
GALLERIES_AT_MOST = 20  # of one size out of the people enrolled in one plan


@dataclass(frozen=True)
class Shot:
    """The n-th capture of a picture: what noise it carries depends on n alone."""

    name: str
    number: int


@dataclass(frozen=True)
class Plan:
    """Who is enrolled with which captures, who searches, and who is a stranger."""

    gallery: dict[str, tuple[Shot, ...]]  # identity -> its templates
    mated: tuple[tuple[str, str], ...]  # (picture, identity) of enrolled people, never a picture enrolled
    strangers: tuple[tuple[str, str], ...]  # (picture, identity) of people not enrolled
    first: int = 0  # number of a probe's first capture


def plan(
    identities: Mapping[str, str], *, enrol: int, gallery: int | None, seed: int, fresh: int = 0
) -> Plan:
    """Half of the people are enrolled, the other half are strangers; `gallery` keeps that many of the
    enrolled.

    A person is enrolled with `enrol` captures: of that many pictures where there is another picture left to
    search with, else of the pictures there are, photographed again. Who has one picture fills the gallery
    and never searches. People are drawn at random by the seed, those with several pictures first only as
    chance has it. `fresh` numbers its captures apart from those of other plans: every one carries new noise.
    """
    if enrol < 1:
        raise DataError("enrol at least one capture")
    pictures: dict[str, list[str]] = {}
    for name in sorted(identities):
        pictures.setdefault(identities[name], []).append(name)
    rng = np.random.default_rng(seed)
    people = [str(person) for person in rng.permutation(sorted(pictures))]
    enrolled, others = people[: len(people) // 2], people[len(people) // 2 :]
    if gallery is not None:
        if gallery > len(enrolled):
            raise DataError(f"half of the people are {len(enrolled)}, fewer than a gallery of {gallery}")
        enrolled = enrolled[:gallery]
    first = fresh * FRESH
    templates: dict[str, tuple[Shot, ...]] = {}
    mated: list[tuple[str, str]] = []
    for person in enrolled:
        own = [str(name) for name in rng.permutation(pictures[person])]
        count = min(enrol, max(1, len(own) - 1))
        templates[person] = tuple(Shot(own[k % count], first + k // count) for k in range(enrol))
        mated += [(name, person) for name in own[count:]]
    if not mated or not others:
        raise DataError("nobody to search for, or nobody to keep out")
    strangers = tuple((name, person) for person in others for name in pictures[person])
    return Plan(templates, tuple(mated), strangers, first)


class Album:
    """Embeddings of shots, each made once and kept, so that several plans share them."""

    def __init__(self, embedder: Embedder, images: Mapping[str, FaceCrop]) -> None:
        self.embedder, self.images = embedder, images
        self._kept: dict[Shot, NDArray[np.float32]] = {}

    def missing(self, shots: list[Shot]) -> list[Shot]:
        return [shot for shot in dict.fromkeys(map(self._key, shots)) if shot not in self._kept]

    def prepare(self, shots: list[Shot], progress: Progress = lambda done: None) -> None:
        missing = self.missing(shots)
        for start in range(0, len(missing), BATCH):
            part = missing[start : start + BATCH]
            vectors = self.embedder.embed([self.images[shot.name] for shot in part])
            self._kept |= dict(zip(part, vectors, strict=True))
            progress(len(part))

    def forget(self) -> None:
        """Keep nothing: thousands of captures of a plan that is done."""
        self._kept.clear()

    def matrix(self, shots: list[Shot]) -> NDArray[np.float32]:
        """(N, D), prepared shots in order."""
        return np.stack([self._kept[self._key(shot)] for shot in shots])

    def _key(self, shot: Shot) -> Shot:
        return shot if self.embedder.noisy else Shot(shot.name, 0)


@dataclass(frozen=True)
class Searches:
    """Scores of one or more galleries, see metrics.fnir_at_fpir, with the number of the person behind each."""

    mate: NDArray[np.float32]
    best_other: NDArray[np.float32]
    impostor_top: NDArray[np.float32]
    mated_person: NDArray[np.int64]
    stranger: NDArray[np.int64]
    templates: int

    @classmethod
    def joined(cls, parts: Sequence[Searches]) -> Searches:
        return cls(
            np.concatenate([p.mate for p in parts]),
            np.concatenate([p.best_other for p in parts]),
            np.concatenate([p.impostor_top for p in parts]),
            np.concatenate([p.mated_person for p in parts]),
            np.concatenate([p.stranger for p in parts]),
            parts[0].templates,
        )


@dataclass(frozen=True)
class Scores:
    """Of every probe with every person enrolled, so that smaller galleries are columns of it."""

    mated: NDArray[np.float32]  # (mated probes, people)
    own: NDArray[np.int64]  # (mated probes,) column of the probe's own person
    strangers: NDArray[np.float32]  # (strangers' probes, people)
    mated_person: NDArray[np.int64]
    stranger: NDArray[np.int64]
    per_person: int  # templates of one person

    def searches(self, columns: slice = slice(None)) -> Searches:
        """Searches of the gallery of these people, by their own probes and by all strangers."""
        inside = np.arange(self.mated.shape[1])[columns]
        probes = np.flatnonzero(np.isin(self.own, inside))
        scores = self.mated[probes][:, columns].copy()
        rows, own = np.arange(len(probes)), self.own[probes] - inside[0]
        mate = scores[rows, own].copy()
        scores[rows, own] = -np.inf
        return Searches(
            mate,
            scores.max(axis=1),
            self.strangers[:, columns].max(axis=1),
            self.mated_person[probes],
            self.stranger,
            inside.size * self.per_person,
        )


def shots_of(planned: Plan, captures: int) -> list[Shot]:
    """Everything a plan has to embed."""
    return [shot for own in planned.gallery.values() for shot in own] + [
        Shot(name, planned.first + k)
        for name, _ in (*planned.mated, *planned.strangers)
        for k in range(captures)
    ]


def with_means(captures: NDArray[np.float32]) -> NDArray[np.float32]:
    """(people, K, D) to what a gallery holds of them, (people, K + 1, D): the captures and their mean. One
    capture is its own mean and stays alone."""
    if captures.shape[1] == 1:
        return captures
    return np.concatenate([captures, fuse(captures)[:, None]], axis=1)


def attempts(
    probes: Sequence[tuple[str, str]], first: int, captures: int, *, different: bool
) -> list[list[Shot]]:
    """The captures that each probe (picture, identity) fuses: of that picture, each with its own noise, or of
    different pictures among the person's probes, in turn, from the start again where there are no more.

    Either way as many captures in all, and none is part of two attempts.
    """
    if not different:
        return [[Shot(name, first + k) for k in range(captures)] for name, _ in probes]
    pictures: dict[str, list[str]] = {}
    for name, person in probes:
        pictures.setdefault(person, []).append(name)
    place = {name: k for own in pictures.values() for k, name in enumerate(own)}
    return [
        [
            Shot(pictures[person][(place[name] + k) % len(pictures[person])], first + k)
            for k in range(captures)
        ]
        for name, person in probes
    ]


def score(
    album: Album,
    planned: Plan,
    *,
    captures: int,
    numbers: Mapping[str, int] | None = None,
    different: bool = False,
) -> Scores:
    """Every probe with every person; a person's score is the best of their templates, as at a door.

    numbers: the number of every identity, where several plans must agree on them. different: see `attempts`.
    """
    people = list(planned.gallery)
    shots = album.matrix([shot for own in planned.gallery.values() for shot in own])
    templates = with_means(shots.reshape(len(people), len(planned.gallery[people[0]]), -1))

    def scores(searching: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
        shots = attempts(searching, planned.first, captures, different=different)
        probes = album.matrix([shot for attempt in shots for shot in attempt])
        probes = fuse(probes.reshape(len(searching), captures, -1))
        best = np.full((len(searching), len(people)), -np.inf, np.float32)
        for k in range(templates.shape[1]):
            np.maximum(best, probes @ templates[:, k].T, out=best)
        return best

    place = {person: k for k, person in enumerate(people)}
    everybody = {*people, *(person for _, person in planned.strangers)}
    number = numbers or {person: k for k, person in enumerate(sorted(everybody))}
    own = np.array([place[person] for _, person in planned.mated], np.int64)
    return Scores(
        scores(planned.mated),
        own,
        scores(planned.strangers),
        np.array([number[person] for _, person in planned.mated], np.int64),
        np.array([number[person] for _, person in planned.strangers], np.int64),
        templates.shape[1],
    )


def search(album: Album, planned: Plan, *, captures: int) -> Searches:
    """Every probe against the whole gallery of a plan."""
    return score(album, planned, captures=captures).searches()


def identify(
    embedder: ProtectedEmbedder | UnprotectedEmbedder,
    images: Mapping[str, FaceCrop],
    identities: Mapping[str, str],
    *,
    enrol: int,
    fpir: float,
    galleries: Sequence[int | None],
    seed: int,
    captures: int = 1,
    different: bool = False,
    thresholds: Calibration | None = None,
    repeats: int = 1,
    start: Progress = lambda total: None,
    progress: Progress = lambda done: None,
) -> dict[str, Any]:
    """FNIR at FPIR for each size of gallery (None: half of all people), at the test's own threshold and at the
    one the model ships. Figures of the largest, and a row for each.

    Every repeat draws who is enrolled anew, and new noise for every capture. Out of the people enrolled in it
    come as many galleries of a size as there are apart from one another, up to a limit; every stranger searches
    each. thresholds: measured for attempts of that many captures, in place of the model's own, which are for one.
    Repeats share the set's people: their trials sharpen the estimate, they are not more people. So the
    bootstrap intervals draw people, not trials.
    """
    unknown = [name for name in identities if name not in images]
    if unknown:
        raise DataError(f"{len(unknown)} labelled pictures are missing, the first is {unknown[0]!r}")
    sizes = sorted(size for size in galleries if size is not None)
    largest = None if None in galleries or not sizes else sizes[-1]
    album = Album(embedder, images)
    plans = [
        plan(identities, enrol=enrol, gallery=largest, seed=seed + k, fresh=k if embedder.noisy else 0)
        for k in range(repeats)
    ]
    start(len(album.missing([shot for planned in plans for shot in shots_of(planned, captures)])))
    numbers = {person: k for k, person in enumerate(sorted(set(identities.values())))}
    scored = []
    for planned in plans:
        album.prepare(shots_of(planned, captures), progress)
        scored.append(score(album, planned, captures=captures, numbers=numbers, different=different))
        if embedder.noisy:
            album.forget()  # the next plan's captures are its own
    enrolled = len(plans[0].gallery)
    rows = []
    for size in dict.fromkeys([*sizes, *([enrolled] if largest is None else [])]):
        apart = min(enrolled // size, GALLERIES_AT_MOST)
        parts = [s.searches(slice(k * size, (k + 1) * size)) for s in scored for k in range(apart)]
        joined = Searches.joined(parts)  # a gallery that none of its people search still keeps strangers out
        if not joined.mate.size:
            raise DataError(f"nobody enrolled in galleries of {size} has a picture left to search with")
        row = {"gallery_people": size, "galleries": len(parts), **_figures(joined, fpir, seed)}
        if isinstance(embedder, ProtectedEmbedder):
            shipped = (
                embedder.recognizer.threshold_for(
                    gallery_size=size, target_fpir=fpir, profile_hash=embedder.profile.hash
                )
                if thresholds is None
                else thresholds.threshold_for(gallery_size=size, target_fpir=fpir)
            )
            row |= at_shipped_threshold(joined, shipped)
        rows.append(row)
    common: dict[str, Any] = {
        "fpir_target": fpir,
        "enrol": enrol,
        "captures": captures,
        "repeats": repeats,
        "fresh_noise_each_repeat": embedder.noisy,
        "seed": seed,
        "images": len(identities),
        "people": len(set(identities.values())),
    }
    if captures > 1:
        common["fused"] = "different pictures" if different else "one picture"
        enough = [
            len({shot.name for shot in attempt}) == captures
            for planned in plans
            for attempt in attempts(planned.mated, planned.first, captures, different=different)
        ]
        common["mated_attempts_of_different_pictures"] = float(np.mean(enough))
        common["thresholds_for_captures"] = 1 if thresholds is None else captures
    return rows[-1] | common | {"rows": rows} | embedder.describe()


def _figures(searches: Searches, fpir: float, seed: int) -> dict[str, Any]:
    at = metrics.fnir_at_fpir(searches.mate, searches.best_other, searches.impostor_top, fpir)
    reached = metrics.wilson(round(at.reached * at.impostor_trials), at.impostor_trials)
    again = metrics.bootstrap_fnir(
        searches.mate,
        searches.best_other,
        searches.impostor_top,
        fpir,
        np.random.default_rng(seed),
        mated_person=searches.mated_person,
        stranger=searches.stranger,
        rounds=BOOTSTRAP_ROUNDS,
    )
    return {
        "fnir": at.rate,
        "fnir_interval": [at.interval.low, at.interval.high],
        "fnir_bootstrap": [again.low, again.high],
        "fpir": at.reached,
        "fpir_interval": [reached.low, reached.high],
        "threshold": at.threshold,
        "mated_trials": at.trials,
        "impostor_trials": at.impostor_trials,
        "impostors_beyond": round(at.reached * at.impostor_trials),
        "impostor_people": len(np.unique(searches.stranger)),
        "rank_one": float(np.mean(searches.mate > searches.best_other)),
        "gallery_templates": searches.templates,
    }


def at_shipped_threshold(searches: Searches, threshold: float) -> dict[str, Any]:
    """What a door with the model's own threshold would have done with these searches."""
    misses = metrics.identification_misses(searches.mate, searches.best_other, threshold)
    wrong = int(np.sum(searches.impostor_top >= threshold))
    fnir, fpir = metrics.wilson(misses, searches.mate.size), metrics.wilson(wrong, searches.impostor_top.size)
    return {
        "shipped_threshold": threshold,
        "fnir_at_shipped_threshold": misses / searches.mate.size,
        "fnir_at_shipped_threshold_interval": [fnir.low, fnir.high],
        "fpir_at_shipped_threshold": wrong / searches.impostor_top.size,
        "fpir_at_shipped_threshold_interval": [fpir.low, fpir.high],
    }


def impostor_scores(
    embedder: Embedder,
    images: Mapping[str, FaceCrop],
    identities: Mapping[str, str],
    *,
    limit: int,
    enrol: int,
    seed: int,
    captures: int = 1,
    progress: Progress = lambda done: None,
) -> NDArray[np.float32]:
    """Scores of strangers as a door computes them, for a calibration: one capture of every picture (or several, fused)
    against all that a gallery would hold of every other person (`enrol` captures and their mean), the best counting.

    As at a desk, the captures enrolled are of different pictures where a person has that many: the best of several
    pictures is more like a stranger than the best of one picture is. At most `limit` probes, drawn evenly over people,
    so that a few well photographed ones do not decide a threshold.
    """
    rng = np.random.default_rng(seed)
    shuffled = {str(name): identities[str(name)] for name in rng.permutation(sorted(identities))}
    names = _evenly(shuffled, limit)
    people = sorted({identities[name] for name in names})
    pictures: dict[str, list[str]] = {person: [] for person in people}
    for name, person in shuffled.items():
        if person in pictures:
            pictures[person].append(name)
    # Capture 0 of a picture is the probe, with those from FRESH on; a gallery never holds these.
    asked = [[Shot(name, k and FRESH + k) for k in range(captures)] for name in names]
    probing = [shot for attempt in asked for shot in attempt]
    enrolled = [
        Shot(pictures[person][k % len(pictures[person])], 1 + k // len(pictures[person]))
        for person in people
        for k in range(enrol)
    ]
    album = Album(embedder, images)
    album.prepare([*probing, *enrolled], progress)
    probes = fuse(album.matrix(probing).reshape(len(names), captures, -1))
    gallery = with_means(album.matrix(enrolled).reshape(len(people), enrol, -1))
    owner = np.searchsorted(people, [identities[name] for name in names])
    parts = []
    for row in range(0, len(names), 256):
        scores = np.max([probes[row : row + 256] @ gallery[:, k].T for k in range(gallery.shape[1])], axis=0)
        parts.append(scores[owner[row : row + 256, None] != np.arange(len(people))[None, :]])
    return np.concatenate(parts)


def _evenly(identities: Mapping[str, str], limit: int) -> list[str]:
    """Up to `limit` names: the first of everybody, then the second of everybody who has one, and so on."""
    turn: dict[str, int] = {}
    order = []
    for place, (name, person) in enumerate(identities.items()):
        turn[person] = turn.get(person, -1) + 1
        order.append((turn[person], place, name))
    return [name for _, _, name in sorted(order)[:limit]]
