"""The gallery in this process's memory: an index that follows the rows, and the recogniser beside it.

Imported by tasks and commands only: it loads torch and FAISS. The database is the truth. Every change has a
number, and an index never answers a request that was made at a number it has not reached.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import NamedTuple
from uuid import UUID

from django.conf import settings

from enrollment import crypto, services
from enrollment.models import GalleryChange, ProtectedTemplate, templates_in_gallery
from enrollment.sealing import OpenTemplate, open_templates
from recognition import types
from recognition.checkpoint import DESCRIPTION, model_folder
from recognition.index import FaissIndex
from recognition.protection import protect, rekey
from recognition.recognizer import BatchingRecognizer, Recognizer

log = logging.getLogger(__name__)

REKEYED_PER_TRANSACTION = 200
CHANGES_BEFORE_LOADING_AGAIN = 10_000


class GalleryBehind(Exception):
    """This process has not seen the change the request was made at. Never answer; try again or deny."""


class Match(NamedTuple):
    person_id: UUID
    template_id: int
    score: float


class Gallery:
    """Thread-safe. One thread reads changes at a time; searches and the moment of change exclude one another.

    Templates under several gallery keys live side by side, each key in an index of its own, so rotating the
    key never leaves a moment without a gallery.
    """

    def __init__(self, *, dimension: int, model: str, keys: crypto.KeyRing) -> None:
        self.dimension = dimension
        self.model = model
        self._keys = keys
        self._reading = threading.Lock()
        self._lock = threading.Lock()
        self._contents = _Contents(dimension)
        self._position: int | None = None  # None: never loaded

    @property
    def position(self) -> int:
        """The last change in here."""
        return self._position or 0

    def __len__(self) -> int:
        """Templates, which is what a search compares with."""
        with self._lock:
            return len(self._contents.person_of)

    @property
    def people(self) -> int:
        """Everybody who has a template in here."""
        return self.people_among(None)

    def people_among(self, permitted: Collection[UUID] | None) -> int:
        """With how many different people a search among `permitted` compares. None is everybody, as in `search`."""
        with self._lock:
            known = self._contents.templates_of
            return len(known) if permitted is None else len(known.keys() & set(permitted))

    def catch_up(self, sequence: int) -> None:
        """Afterwards every change up to `sequence` is in here, or GalleryBehind was raised. Loads at first
        use."""
        if self._position is not None and self._position >= sequence:
            return
        with self._reading:
            if self._position is None:
                self._load()
            elif self._position < sequence:
                self._follow(self._position)
            if self.position < sequence:
                raise GalleryBehind(f"change {sequence} was asked for, the database shows {self.position}")

    def rebuild(self) -> None:
        """Throws everything away and loads again. Searches see the old contents until the new are
        complete."""
        with self._reading:
            self._load()

    def search(
        self,
        embedding: types.Embedding,
        k: int,
        permitted: Collection[UUID] | None = None,
        *,
        at_sequence: int = 0,
    ) -> list[Match]:
        """At most `k` people, best first, each with their best template. `permitted` None is everybody, empty
        nobody.

        Raises GalleryBehind when `at_sequence` was not reached by `catch_up`.
        """
        key_id, key = crypto.newest(self._keys)
        return self.search_template(
            protect(embedding, key=key, key_id=key_id), k, permitted, at_sequence=at_sequence
        )

    def search_template(
        self,
        probe: types.ProtectedTemplate,
        k: int,
        permitted: Collection[UUID] | None = None,
        *,
        at_sequence: int = 0,
    ) -> list[Match]:
        """As `search`, for a probe that is protected already, under any key of the ring."""
        if k < 1:
            raise ValueError(f"k must be positive, not {k}")
        with self._lock:
            if self._position is None or self._position < at_sequence:
                raise GalleryBehind(f"change {at_sequence} was not reached")
            contents = self._contents
            allowed = None if permitted is None else contents.ids_of(permitted)
            best: dict[UUID, Match] = {}
            for key_id, index in contents.indexes.items():
                turned = self._under(probe, key_id)
                for candidate in index.search(turned, k * contents.most_per_person, allowed):
                    person_id = contents.person_of[candidate.id]
                    if person_id not in best or candidate.score > best[person_id].score:
                        best[person_id] = Match(person_id, candidate.id, candidate.score)
        return sorted(best.values(), key=lambda match: (-match.score, match.template_id))[:k]

    def _under(self, probe: types.ProtectedTemplate, key_id: str) -> types.ProtectedTemplate:
        if probe.key_id == key_id:
            return probe
        old, new = crypto.find(self._keys, probe.key_id), crypto.find(self._keys, key_id)
        return rekey(probe, old=old, new=new, new_key_id=key_id)

    # Below, the caller holds `_reading`.

    def _load(self) -> None:
        """The number first, then the rows: a change in between is applied again later, which changes
        nothing."""
        position = services.gallery_sequence()
        contents = _Contents(self.dimension)
        contents.add(self._usable(open_templates(templates_in_gallery(self.model))))
        with self._lock:
            self._contents, self._position = contents, position
        log.info(
            "gallery loaded: %d templates of %d people at %d", len(contents.person_of), self.people, position
        )

    def _follow(self, position: int) -> None:
        changes = list(GalleryChange.objects.filter(sequence__gt=position).order_by("sequence"))
        reload = any(change.kind == GalleryChange.Kind.RELOAD for change in changes)
        if reload or len(changes) > CHANGES_BEFORE_LOADING_AGAIN:
            self._load()
            return
        touched = {change.template_id for change in changes if change.template_id is not None}
        # What a row says now is at least as new as the last change about it.
        present = templates_in_gallery(self.model).filter(id__in=touched)
        opened = self._usable(open_templates(present))
        with self._lock:
            self._contents.remove(touched)
            self._contents.add(opened)
            if changes:
                self._position = changes[-1].sequence

    def _usable(self, templates: Iterable[OpenTemplate]) -> list[OpenTemplate]:
        known = {key_id for key_id, _ in self._keys}
        usable = []
        for template in templates:
            if template.gallery_key_id not in known or template.vector.shape != (self.dimension,):
                log.error(
                    "template %s is of no known gallery key or of another model and is left out", template.id
                )
                continue
            usable.append(template)
        return usable


class _Contents:
    """What a gallery holds at one position. Not thread-safe: Gallery's lock guards it."""

    def __init__(self, dimension: int) -> None:
        self._dimension = dimension
        self.indexes: dict[str, FaissIndex] = {}  # by gallery key
        self.person_of: dict[int, UUID] = {}
        self.templates_of: dict[UUID, set[int]] = {}
        self.most_per_person = 1  # an upper bound: so many results hold `k` people for sure

    def add(self, templates: Sequence[OpenTemplate]) -> None:
        by_key: dict[str, list[OpenTemplate]] = {}
        for template in templates:
            by_key.setdefault(template.gallery_key_id, []).append(template)
            self.person_of[template.id] = template.person_id
            siblings = self.templates_of.setdefault(template.person_id, set())
            siblings.add(template.id)
            self.most_per_person = max(self.most_per_person, len(siblings))
        for key_id, group in by_key.items():
            index = self.indexes.setdefault(key_id, FaissIndex(self._dimension))
            index.add([t.id for t in group], [types.ProtectedTemplate(t.vector, key_id) for t in group])

    def remove(self, ids: Collection[int]) -> None:
        for index in self.indexes.values():
            index.remove(ids)
        self.indexes = {key_id: index for key_id, index in self.indexes.items() if len(index)}
        for template_id in ids:
            person_id = self.person_of.pop(template_id, None)
            if person_id is None:
                continue
            self.templates_of[person_id].discard(template_id)
            if not self.templates_of[person_id]:
                del self.templates_of[person_id]

    def ids_of(self, people: Collection[UUID]) -> set[int]:
        return {template_id for person_id in people for template_id in self.templates_of.get(person_id, ())}


# One recogniser and one gallery per process


_loading = threading.Lock()


def recognizer() -> BatchingRecognizer:
    """The model of LINTEL_MODEL, loaded at first use, shared by all threads."""
    with _loading:
        return _recognizer(str(settings.LINTEL_MODEL))


def gallery() -> Gallery:
    """This process's gallery. Empty and at no position until `catch_up`."""
    model = recognizer()
    with _loading:
        return _gallery(str(settings.LINTEL_MODEL), model.recognizer.dimension)


def model_id() -> str:
    """Name and weights: templates of a retrained model of the same name are not comparable with older
    ones."""
    return _model_id(str(settings.LINTEL_MODEL))


def match_threshold(profile_hash: str | None = None, *, permitted: Collection[UUID] | None = None) -> float:
    """The least score that counts as a match in a search of this gallery among `permitted` (None: everybody).

    A model's thresholds are calibrated on the best score of each person's templates, so what counts is how many people
    have templates in the search, and not how many templates these are: the several of one person are not as many
    independent chances of a stranger.
    """
    return recognizer().recognizer.threshold_for(
        gallery_size=max(1, gallery().people_among(permitted)),
        target_fpir=settings.LINTEL_TARGET_FPIR,
        profile_hash=profile_hash,
    )


def forget() -> None:
    """Drops this process's gallery; the next use loads it again. For a database that was replaced
    underneath."""
    with _loading:
        _gallery.cache_clear()


@cache
def _recognizer(name: str) -> BatchingRecognizer:
    """Nobody is kept waiting for company: what arrives while a batch is computed is the next batch, so batches grow
    with the queue, and a lone person at a door is not slowed down for it."""
    return BatchingRecognizer(Recognizer.load(name, device=settings.LINTEL_DEVICE), max_wait_ms=0)


@cache
def _gallery(name: str, dimension: int) -> Gallery:
    return Gallery(dimension=dimension, model=_model_id(name), keys=settings.LINTEL_GALLERY_KEYS)


@cache
def _model_id(name: str) -> str:
    description: Mapping[str, str] = json.loads(
        (model_folder(name) / DESCRIPTION).read_text(encoding="utf-8")
    )
    return f"{description['name']}@{description['weights_sha256'][:16]}"


# Renewing the gallery key


def rotate_gallery_key(*, at: datetime) -> int:
    """Turns every template to the newest gallery key, without faces, while doors keep working. Returns how
    many.

    Workers follow by gallery changes. May be interrupted and started again; the old key may leave the ring
    only when nothing is left under it.
    """
    keys: crypto.KeyRing = settings.LINTEL_GALLERY_KEYS
    new_id, new = crypto.newest(keys)
    turned = 0
    last = 0
    while True:
        batch = ProtectedTemplate.objects.exclude(gallery_key_id=new_id).filter(id__gt=last)
        ids = list(batch.order_by("id").values_list("id", flat=True)[:REKEYED_PER_TRANSACTION])
        if not ids:
            return turned
        last = ids[-1]
        vectors = {}
        for template in open_templates(ProtectedTemplate.objects.filter(id__in=ids)):
            old = types.ProtectedTemplate(template.vector, template.gallery_key_id)
            key = crypto.find(keys, template.gallery_key_id)
            vectors[template.id] = rekey(old, old=key, new=new, new_key_id=new_id).vector
        turned += services.replace_vectors(vectors=vectors, gallery_key_id=new_id, at=at)
