"""1:N, as a door sees it: people on a gallery, people who are not, one search per picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
    strangers: tuple[str, ...]  # pictures of people not enrolled


def plan(identities: Mapping[str, str], *, enrol: int, gallery: int | None, seed: int) -> Plan:
    """Half of the people are enrolled, the other half are strangers; `gallery` keeps that many of the
    enrolled.

    A person is enrolled with `enrol` captures: of that many pictures where there is another picture left to
    search with, else of the pictures there are, photographed again. Who has one picture fills the gallery
    and never searches. People are drawn at random by the seed, those with several pictures first only as
    chance has it.
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
    templates: dict[str, tuple[Shot, ...]] = {}
    mated: list[tuple[str, str]] = []
    for person in enrolled:
        own = [str(name) for name in rng.permutation(pictures[person])]
        count = min(enrol, max(1, len(own) - 1))
        templates[person] = tuple(Shot(own[k % count], k // count) for k in range(enrol))
        mated += [(name, person) for name in own[count:]]
    if not mated or not others:
        raise DataError("nobody to search for, or nobody to keep out")
    return Plan(templates, tuple(mated), tuple(name for person in others for name in pictures[person]))


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

    def matrix(self, shots: list[Shot]) -> NDArray[np.float32]:
        """(N, D), prepared shots in order."""
        return np.stack([self._kept[self._key(shot)] for shot in shots])

    def _key(self, shot: Shot) -> Shot:
        return shot if self.embedder.noisy else Shot(shot.name, 0)


@dataclass(frozen=True)
class Searches:
    """Scores of one or more plans, see metrics.fnir_at_fpir."""

    mate: NDArray[np.float64]
    best_other: NDArray[np.float64]
    impostor_top: NDArray[np.float64]
    templates: int

    @classmethod
    def joined(cls, parts: list[Searches]) -> Searches:
        return cls(
            np.concatenate([p.mate for p in parts]),
            np.concatenate([p.best_other for p in parts]),
            np.concatenate([p.impostor_top for p in parts]),
            parts[0].templates,
        )


def shots_of(planned: Plan, captures: int) -> list[Shot]:
    """Everything a plan has to embed."""
    probes = [*(name for name, _ in planned.mated), *planned.strangers]
    return [shot for own in planned.gallery.values() for shot in own] + [
        Shot(name, k) for name in probes for k in range(captures)
    ]


def with_means(captures: NDArray[np.float32]) -> NDArray[np.float32]:
    """(people, K, D) to what a gallery holds of them, (people, K + 1, D): the captures and their mean. One
    capture is its own mean and stays alone."""
    if captures.shape[1] == 1:
        return captures
    return np.concatenate([captures, fuse(captures)[:, None]], axis=1)


def search(album: Album, planned: Plan, *, captures: int) -> Searches:
    """Every probe against the gallery; a person's score is the best of their templates, as at a door."""
    people = list(planned.gallery)
    shots = album.matrix([shot for own in planned.gallery.values() for shot in own])
    templates = with_means(shots.reshape(len(people), len(planned.gallery[people[0]]), -1))
    per_person = templates.shape[1]
    templates = templates.reshape(len(people) * per_person, -1)

    def scores(names: list[str]) -> NDArray[np.float64]:
        probes = album.matrix([Shot(name, k) for name in names for k in range(captures)])
        probes = fuse(probes.reshape(len(names), captures, -1))
        per_template = probes @ templates.T  # (N, people * per_person)
        return np.asarray(per_template.reshape(len(names), len(people), per_person).max(axis=2), np.float64)

    place = {person: k for k, person in enumerate(people)}
    mated = scores([name for name, _ in planned.mated])
    own = np.array([place[person] for _, person in planned.mated])
    rows = np.arange(len(own))
    mate = mated[rows, own].copy()
    mated[rows, own] = -np.inf
    strangers = np.concatenate(
        [
            scores(list(planned.strangers[k : k + 1024])).max(axis=1)
            for k in range(0, len(planned.strangers), 1024)
        ]
    )
    return Searches(mate, mated.max(axis=1), strangers, len(templates))


def identify(
    embedder: ProtectedEmbedder | UnprotectedEmbedder,
    images: Mapping[str, FaceCrop],
    identities: Mapping[str, str],
    *,
    enrol: int,
    fpir: float,
    gallery: int | None,
    seed: int,
    captures: int = 1,
    repeats: int = 1,
    start: Progress = lambda total: None,
    progress: Progress = lambda done: None,
) -> dict[str, Any]:
    """FNIR at FPIR over `repeats` random galleries, at the test's own threshold and at the one the model
    ships.

    Repeated galleries share pictures; their trials sharpen the estimate, they are not independent people.
    """
    unknown = [name for name in identities if name not in images]
    if unknown:
        raise DataError(f"{len(unknown)} labelled pictures are missing, the first is {unknown[0]!r}")
    plans = [plan(identities, enrol=enrol, gallery=gallery, seed=seed + k) for k in range(repeats)]
    album = Album(embedder, images)
    shots = [shot for planned in plans for shot in shots_of(planned, captures)]
    start(len(album.missing(shots)))
    album.prepare(shots, progress)
    searches = Searches.joined([search(album, planned, captures=captures) for planned in plans])
    at = metrics.fnir_at_fpir(searches.mate, searches.best_other, searches.impostor_top, fpir)
    reached = metrics.wilson(round(at.reached * at.impostor_trials), at.impostor_trials)
    figures: dict[str, Any] = {
        "fnir": at.rate,
        "fnir_interval": [at.interval.low, at.interval.high],
        "fpir": at.reached,
        "fpir_interval": [reached.low, reached.high],
        "fpir_target": fpir,
        "threshold": at.threshold,
        "mated_trials": at.trials,
        "impostor_trials": at.impostor_trials,
        "rank_one": float(np.mean(searches.mate > searches.best_other)),
        "gallery_people": len(plans[0].gallery),
        "gallery_templates": searches.templates,
        "enrol": enrol,
        "captures": captures,
        "repeats": repeats,
        "seed": seed,
        "images": len(identities),
    }
    if isinstance(embedder, ProtectedEmbedder):
        shipped = embedder.recognizer.threshold_for(
            gallery_size=searches.templates, target_fpir=fpir, profile_hash=embedder.profile.hash
        )
        figures |= at_shipped_threshold(searches, shipped)
    return figures | embedder.describe()


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
    progress: Progress = lambda done: None,
) -> NDArray[np.float32]:
    """Scores of strangers as a door computes them, for a calibration: one capture of every picture against
    all that a gallery would hold of every other person (`enrol` captures of one picture and their mean),
    the best counting.

    At most `limit` pictures, drawn evenly over people, so that a few well photographed ones do not decide a
    threshold.
    """
    rng = np.random.default_rng(seed)
    shuffled = {str(name): identities[str(name)] for name in rng.permutation(sorted(identities))}
    names = _evenly(shuffled, limit)
    album = Album(embedder, images)
    album.prepare([Shot(name, k) for name in names for k in range(enrol + 1)], progress)
    probes = album.matrix([Shot(name, 0) for name in names])
    captures = album.matrix([Shot(name, k) for name in names for k in range(1, enrol + 1)])
    gallery = with_means(captures.reshape(len(names), enrol, -1))
    owner = np.unique([identities[name] for name in names], return_inverse=True)[1]
    parts = []
    for row in range(0, len(names), 256):
        scores = np.max([probes[row : row + 256] @ gallery[:, k].T for k in range(gallery.shape[1])], axis=0)
        parts.append(scores[owner[row : row + 256, None] != owner[None, :]])
    return np.concatenate(parts)


def _evenly(identities: Mapping[str, str], limit: int) -> list[str]:
    """Up to `limit` names: the first of everybody, then the second of everybody who has one, and so on."""
    turn: dict[str, int] = {}
    order = []
    for place, (name, person) in enumerate(identities.items()):
        turn[person] = turn.get(person, -1) + 1
        order.append((turn[person], place, name))
    return [name for _, _, name in sorted(order)[:limit]]
