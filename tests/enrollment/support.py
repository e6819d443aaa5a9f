"""A desk for tests: people, captures of synthetic pictures, and a dispatch that runs the task at once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import transaction

from enrollment import gallery, services, tasks
from enrollment.models import Enrollment, Person
from recognition.payload import pack
from tests.tiny_model import capture_of, synthetic_picture

NOW = datetime(2026, 11, 24, 9, 0, tzinfo=UTC)
DAY = timedelta(days=1)
CONSENT = {"text": "I agree to be recognised at doors.", "version": "2026-11", "method": "signed"}


def run_now(task_name: str, **arguments: str) -> None:
    """LINTEL_DISPATCH of these tests: the named task, on this thread, at commit."""
    task = {"enrollment.tasks.embed_capture": tasks.embed_capture}[task_name]
    transaction.on_commit(lambda: task(**arguments))


def never(task_name: str, **arguments: str) -> None:
    """LINTEL_DISPATCH without workers."""


def everywhere(terminal_id: object) -> bool:
    """LINTEL_MAY_ENROLL where no terminal has a row."""
    return True


def somebody(name: str = "Alice Example", *, consents: bool = True, **more: Any) -> Person:
    person = services.register_person(full_name=name, actor="desk", at=NOW, **more)
    if consents:
        services.record_consent(person=person, **CONSENT, actor="desk", at=NOW)
    return person


def payload_of(picture: int) -> bytes:
    """A fresh capture of a synthetic picture, in the wire format."""
    profile = gallery.recognizer().recognizer.default_profile
    return pack(capture_of(synthetic_picture(picture), profile), profile)


def begin(person: Person, *, wanted: int = 3, **more: Any) -> Enrollment:
    return services.begin_enrollment(person=person, captures_wanted=wanted, actor="desk", at=NOW, **more)


def fresh(enrollment: Enrollment) -> Enrollment:
    return Enrollment.objects.get(pk=enrollment.pk)


def probe(picture: int) -> Any:
    """The embedding of a fresh capture, as a worker has it at a door."""
    profile = gallery.recognizer().recognizer.default_profile
    return gallery.recognizer().embed_one(capture_of(synthetic_picture(picture), profile))


def found_at_the_door(picture: int) -> list[Person]:
    """Who this process's gallery names for a fresh capture, best first, above the threshold."""
    people = gallery.gallery()
    sequence = services.gallery_sequence()
    people.catch_up(sequence)
    matches = people.search(probe(picture), 3, at_sequence=sequence)
    return [
        Person.objects.get(pk=match.person_id)
        for match in matches
        if match.score >= gallery.match_threshold()
    ]
