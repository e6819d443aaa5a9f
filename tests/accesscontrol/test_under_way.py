"""What happens while an attempt is under way: the gallery changes during the search, the database is locked when the
worker decides, one person stands at two doors. Real commits and real threads.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

import audit.services
from accesscontrol import celery, services
from accesscontrol.models import AccessAttempt, Zone
from audit.models import Entry
from enrollment import gallery
from enrollment import services as enrollment
from enrollment.models import Person
from tests.accesscontrol import support
from tests.accesscontrol.support import ALICE, BOB, CAPTURE, Place, believed, new_nonce
from tests.accesscontrol.test_faults import Payload, alice, at_once, place, wait_until

__all__ = ["alice", "place"]
pytestmark = [pytest.mark.database, pytest.mark.django_db(transaction=True)]


def withdrawn(person: Person) -> None:
    enrollment.withdraw_consent(person=person, actor="desk", at=timezone.now())


def erased(person: Person) -> None:
    enrollment.erase_person(person_id=person.pk, actor="admin", at=timezone.now())


def expired(person: Person) -> None:
    enrollment.update_person(
        person=person,
        changes={"valid_until": timezone.now() - timedelta(seconds=1)},
        actor="desk",
        at=timezone.now(),
    )


def during_the_search(monkeypatch: pytest.MonkeyPatch, change: Callable[[], None]) -> None:
    """Once: the index has answered, and before the worker does anything with it, the gallery changes."""
    search = gallery.Gallery.search
    changed: list[bool] = []

    def searched(self: Any, *arguments: Any, **named: Any) -> Any:
        found = search(self, *arguments, **named)
        if not changed:
            changed.append(True)
            change()
        return found

    monkeypatch.setattr(gallery.Gallery, "search", searched)


def the_entry() -> dict[str, Any]:
    (entry,) = Entry.objects.filter(kind="attempt.settled")
    return entry.details


@pytest.mark.parametrize(
    ("change", "reason"),
    [(withdrawn, "consent_missing"), (erased, "person_inactive"), (expired, "person_expired")],
    ids=["withdrawn", "erased", "expired"],
)
def test_whoever_leaves_the_gallery_during_the_search_is_not_let_in_by_what_it_found(
    place: Place, alice: Person, payload: Payload, monkeypatch: pytest.MonkeyPatch, change: Any, reason: str
) -> None:
    during_the_search(monkeypatch, lambda: change(alice))
    nonce = new_nonce()
    answer = believed(place.device.attempt(payload(ALICE), nonce=nonce), nonce=nonce)
    assert (answer["granted"], answer["reason"]) == (False, reason)
    assert (the_entry()["granted"], the_entry()["reason"]) == (False, reason)
    assert place.device.attempt(payload(ALICE)).json()["reason"] == "gallery_empty"
    assert audit.services.verify_all().ok


def test_whoever_joins_the_gallery_during_the_search_is_found_from_the_next_one_on(
    place: Place, alice: Person, payload: Payload, monkeypatch: pytest.MonkeyPatch
) -> None:
    bob = support.somebody("Bob Example")
    place.group.members.add(bob)
    begun = enrollment.begin_enrollment(person=bob, captures_wanted=1, actor="desk", at=timezone.now())

    def join() -> None:
        enrollment.submit_capture(enrollment=begun, payload=payload(BOB), at=timezone.now())
        wait_until(lambda: bob.templates.filter(active=True).exists())

    during_the_search(monkeypatch, join)
    assert place.device.attempt(payload(BOB)).json()["reason"] == "no_match"
    assert place.device.attempt(payload(BOB)).json()["granted"] is True


def test_a_database_that_is_locked_when_a_worker_decides_opens_nothing_and_loses_nothing(
    place: Place,
    alice: Person,
    payload: Payload,
    dispatched: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    attempt = services.submit_attempt(
        terminal=place.device.row, payload=payload(ALICE), nonce=new_nonce(), at=timezone.now()
    )
    ((name, arguments),) = dispatched
    with support.locked_database(monkeypatch):
        assert celery.run_here(name, arguments) is False
    assert "task_failed" in caplog.text
    attempt.refresh_from_db()
    assert (attempt.state, attempt.granted) == ("pending", False)
    assert not Entry.objects.filter(kind="attempt.settled").exists()

    assert services.expire_attempts(at=attempt.deadline_at) == 1
    attempt.refresh_from_db()
    assert (attempt.state, attempt.granted, attempt.reason) == ("settled", False, "deadline_passed")
    celery.run_here(name, arguments)  # delivered again, too late
    assert the_entry()["reason"] == "deadline_passed"
    assert audit.services.verify_all().ok


def test_alice_at_two_doors_at_once_is_let_in_by_one_where_she_may_enter_once(
    place: Place, alice: Person, payload: Payload
) -> None:
    place.door.zone = Zone.objects.create(site=place.site, name="Laboratory", anti_passback=True)
    place.door.save()
    second = support.make_place(zone=place.door.zone)
    place.rule.doors.add(second.door)
    assert sorted(reasons_at_once(place, second, payload)) == ["anti_passback", "granted"]


def test_alice_at_two_doors_at_once_is_let_in_by_both_where_she_may_enter_often(
    place: Place, alice: Person, payload: Payload
) -> None:
    second = support.make_place()
    place.rule.doors.add(second.door)
    assert reasons_at_once(place, second, payload) == ["granted", "granted"]


def reasons_at_once(first: Place, second: Place, payload: Payload) -> list[str]:
    """Both attempts through the API; each is settled once in the database and once in the log."""

    def send(place: Place) -> str:
        body, nonce = payload(ALICE), new_nonce()
        headers = place.device.sign("POST", "/api/v1/attempts", body, CAPTURE, nonce=nonce)
        content_type = headers.pop("Content-Type")
        answer = Client().generic(
            "POST", "/api/v1/attempts", body, content_type=content_type, headers=headers
        )
        return str(believed(answer, nonce=nonce)["reason"])

    reasons = at_once(lambda: send(first), lambda: send(second))
    assert all(isinstance(reason, str) for reason in reasons), reasons
    settled = AccessAttempt.objects.filter(state="settled").values_list("id", "reason")
    entries = [entry.details for entry in Entry.objects.filter(kind="attempt.settled")]
    assert sorted((entry["attempt"], entry["reason"]) for entry in entries) == sorted(
        (str(identity), reason) for identity, reason in settled
    )
    assert len(entries) == 2
    assert audit.services.verify_all().ok
    return reasons
