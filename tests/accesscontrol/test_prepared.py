"""Queries that are compiled once answer as the ORM does, on both databases, whatever happened to the connection."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import IntegrityError, OperationalError, connection, models, transaction
from django.db.models import F
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accesscontrol import queries, services
from accesscontrol.models import AccessAttempt, Terminal, UsedNonce
from accesscontrol.policy import Match
from accesscontrol.prepared import (
    Given,
    PreparedGet,
    PreparedRows,
    PreparedUpdate,
    on_a_connection_that_lives,
    together,
    transaction_around_one_asking,
)
from audit.models import Entry
from enrollment.models import Person
from tests.accesscontrol import support
from tests.accesscontrol.support import Place, new_nonce

pytestmark = pytest.mark.database


def by_name() -> PreparedGet[Terminal]:
    """A new one each time: nothing is compiled yet."""
    return PreparedGet(
        Terminal, lambda: Terminal.objects.filter(name=Given("name", models.CharField())).order_by()
    )


def attempt_at(place: Place) -> AccessAttempt:
    now = timezone.now()
    return AccessAttempt(
        terminal=place.device.row, door=place.door, nonce=new_nonce(), payload_bytes=7, received_at=now,
        deadline_at=now + timedelta(seconds=30),
    )  # fmt: skip


@pytest.mark.django_db
def test_a_row_is_the_one_that_the_orm_reads() -> None:
    place = support.make_place()
    expected = place.device.row
    found = by_name()(name=expected.name)
    assert found == expected
    for field in Terminal._meta.concrete_fields:
        assert getattr(found, field.attname) == getattr(expected, field.attname), field.name
    assert by_name()(name="nobody") is None


@pytest.mark.django_db
def test_the_same_question_asked_again_sees_what_was_changed_meanwhile() -> None:
    row, ask = support.make_place().device.row, by_name()
    assert ask(name=row.name).state == Terminal.State.ACTIVE  # type: ignore[union-attr]
    services.revoke_terminal(terminal=row, actor="admin", at=timezone.now())
    assert ask(name=row.name).state == Terminal.State.REVOKED  # type: ignore[union-attr]


@pytest.mark.django_db
def test_a_new_row_is_stored_whole_and_questions_asked_together_see_those_before_them() -> None:
    attempt = attempt_at(support.make_place())
    count = PreparedRows(lambda: AccessAttempt.objects.order_by().values_list("payload_bytes"))
    before, _, after = together(count.asked(), queries.INSERT_ATTEMPT.of(attempt), count.asked())
    assert (before, after) == ([], [(7,)])
    stored = AccessAttempt.objects.get()
    for field in AccessAttempt._meta.concrete_fields:
        assert getattr(stored, field.attname) == getattr(attempt, field.attname), field.name


@pytest.mark.django_db(transaction=True)
def test_questions_asked_at_once_leave_nothing_when_one_of_them_fails() -> None:
    row = support.make_place().device.row

    def spend(*nonces: str) -> None:
        rows = [UsedNonce(terminal=row, nonce=nonce, expires_at=timezone.now()) for nonce in nonces]
        with transaction_around_one_asking():
            together(*(queries.INSERT_NONCE.of(one) for one in rows))

    spend("once")
    with pytest.raises(IntegrityError):
        spend("other", "once")
    assert [used.nonce for used in UsedNonce.objects.all()] == ["once"]
    spend("other")
    assert UsedNonce.objects.count() == 2


@pytest.mark.django_db
def test_an_update_counts_its_rows_and_may_look_at_the_old_value() -> None:
    row = support.make_place().device.row
    nonce = UsedNonce.objects.create(terminal=row, nonce="first", expires_at=timezone.now())
    later = PreparedUpdate(
        lambda: UsedNonce.objects.filter(terminal=Given("terminal", models.UUIDField())),
        lambda: {"nonce": Given("nonce", models.CharField()), "expires_at": F("expires_at")},
    )
    assert later(terminal=row.pk, nonce="second") == 1
    assert UsedNonce.objects.get().nonce == "second"
    nonce.delete()
    assert later(terminal=row.pk, nonce="third") == 0


@pytest.mark.django_db(transaction=True)
def test_a_question_first_asked_in_a_transaction_that_rolled_back_can_be_asked_again() -> None:
    name, ask = support.make_place().device.row.name, by_name()
    with pytest.raises(LookupError), transaction.atomic():
        assert ask(name=name) is not None
        raise LookupError
    assert ask(name=name) is not None


@pytest.mark.django_db(transaction=True)
def test_the_first_question_of_a_request_opens_a_broken_connection_anew() -> None:
    name, ask = support.make_place().device.row.name, by_name()
    assert ask.first(name=name) is not None
    break_the_connection()
    assert ask.first(name=name) is not None


def break_the_connection() -> None:
    if connection.vendor != "postgresql":
        connection.close()
        return
    other = connection.copy()
    with connection.cursor() as mine, other.cursor() as theirs:
        mine.execute("SELECT pg_backend_pid()")
        theirs.execute("SELECT pg_terminate_backend(%s, 10000)", mine.fetchone())
    other.close()


@pytest.mark.django_db(transaction=True)
def test_a_worker_whose_connection_broke_settles_on_a_new_one_once() -> None:
    attempt = attempt_at(support.make_place())
    attempt.save()
    entries = Entry.objects.filter(kind="attempt.settled")
    break_the_connection()
    settled = services.settle_attempt(attempt_id=attempt.pk, gallery_size=1, threshold=0.5)
    assert (settled.state, settled.granted, settled.reason) == ("settled", False, "no_match")
    assert entries.count() == 1


@pytest.mark.django_db(transaction=True)
def test_on_a_connection_that_lives_a_failure_is_a_failure_and_nothing_is_tried_again() -> None:
    tried = []

    def act() -> None:
        tried.append(1)
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        raise OperationalError("a lock that nobody lets go")

    with pytest.raises(OperationalError):
        on_a_connection_that_lives(act)
    assert tried == [1]


@pytest.mark.django_db
def test_a_decision_asks_the_database_a_handful_of_questions(place: Place, alice: Person) -> None:
    attempt = attempt_at(place)
    attempt.save()
    found: dict[str, Any] = {"candidates": [Match(str(alice.pk), 0.9)], "gallery_size": 1, "threshold": 0.5}
    services.settle_attempt(attempt_id=attempt.pk, **found)  # compiles what was not asked before
    again = attempt_at(place)
    again.save()
    with CaptureQueriesContext(connection) as asked:
        assert services.settle_attempt(attempt_id=again.pk, **found).granted
    questions = [one["sql"] for one in asked if "SAVEPOINT" not in one["sql"]]
    assert len(questions) <= 8, questions
