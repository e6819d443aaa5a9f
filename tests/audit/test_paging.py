"""Long lists in stretches: every row once, in order, whichever way one walks, and whatever arrives meanwhile."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from audit import services
from audit.models import Entry
from audit.paging import Key, search, stretch
from audit.views import names_of

AT = datetime(2026, 11, 24, 9, tzinfo=UTC)
BY_INDEX = (Key("index", int),)
BY_TIME = (Key("at", datetime.fromisoformat, datetime.isoformat), Key("index", int))

pytestmark = pytest.mark.django_db


@pytest.fixture
def log() -> None:
    for number in range(11):  # three of each moment, so that one key alone is not enough
        services.record(
            kind="door.changed", actor="ada", at=AT + timedelta(hours=number // 3), subject="door:1"
        )


def indexes(found: Any) -> list[int]:
    return [entry.index for entry in found.rows]


@pytest.mark.parametrize("keys", [BY_INDEX, BY_TIME])
@pytest.mark.parametrize("size", [1, 3, 4, 10, 11, 12])
def test_a_walk_to_the_oldest_and_back_meets_every_row_once(
    log: None, keys: tuple[Key, ...], size: int
) -> None:
    rows = Entry.objects.all()
    found = stretch(rows, keys, {}, size=size)
    assert found.newer == ""
    there, pages = indexes(found), [indexes(found)]
    while found.older:
        found = stretch(rows, keys, {"before": found.older}, size=size)
        there += indexes(found)
        pages.append(indexes(found))
    assert there == list(range(10, -1, -1))
    back = []
    while found.newer:
        found = stretch(rows, keys, {"after": found.newer}, size=size)
        back.append(indexes(found))
    assert found.newer == ""
    assert (back[-1] if back else pages[0]) == pages[0]  # the newest page is always a full one


@pytest.mark.parametrize("at_once", [1, 2, 4, 5, 11, 50])
@pytest.mark.parametrize("size", [1, 2, 20])
def test_a_search_meets_every_row_that_fits_once_and_reads_only_so_many_at_once(
    log: None, size: int, at_once: int
) -> None:
    rows = Entry.objects.filter(index__in=[0, 3, 4, 10])
    met, asked, pages = [], {}, 0
    while True:
        found = search(rows, BY_INDEX[0], asked, newest=10, size=size, at_once=at_once)
        met += indexes(found)
        pages += 1
        start = int(asked.get("before", 11))
        assert all(start - at_once <= index < start for index in indexes(found))
        assert found.paused_at is None or int(found.older) == found.paused_at
        if not found.older:
            break
        asked = {"before": found.older}
    assert met == [10, 4, 3, 0]
    assert pages >= 11 / at_once


@pytest.mark.parametrize("cursor", ["", "x", "-5", "99999999999999999999", "4~5"])
def test_a_search_from_a_cursor_that_makes_no_sense_stays_within_the_log(log: None, cursor: str) -> None:
    found = search(Entry.objects.all(), BY_INDEX[0], {"before": cursor}, newest=10, size=20, at_once=50)
    assert indexes(found) == ([] if cursor == "-5" else list(range(10, -1, -1)))
    assert (found.older, found.paused_at) == ("", None)


def test_an_empty_log_has_nothing_to_search_and_no_kinds() -> None:
    found = search(Entry.objects.all(), BY_INDEX[0], {}, newest=-1, size=20, at_once=50)
    assert (found.rows, found.older) == ([], "")
    assert services.kinds_present() == []


def test_the_kinds_of_the_log_are_each_named_once_in_order(log: None) -> None:
    for kind in ("person.erased", "audit.exported", "zone.created", "person.erased"):
        services.record(kind=kind, actor="ada", at=AT)
    assert services.kinds_present() == ["audit.exported", "door.changed", "person.erased", "zone.created"]


def test_rows_that_arrive_push_nothing_to_another_page(log: None) -> None:
    first = stretch(Entry.objects.all(), BY_INDEX, {}, size=4)
    services.record(kind="door.changed", actor="ada", at=AT, subject="door:1")
    second = stretch(Entry.objects.all(), BY_INDEX, {"before": first.older}, size=4)
    assert indexes(first) + indexes(second) == [10, 9, 8, 7, 6, 5, 4, 3]
    assert second.newer


@pytest.mark.parametrize("cursor", ["", "x", "1~2", "9" * 40, "2026-11-24T09:00:00+00:00", "~"])
def test_a_cursor_that_makes_no_sense_counts_as_none(log: None, cursor: str) -> None:
    for side in ("before", "after"):
        assert indexes(stretch(Entry.objects.all(), BY_TIME, {side: cursor}, size=3)) == [10, 9, 8]


def test_what_the_log_calls_things_is_the_newest_name_and_an_erased_person_has_none(db: None) -> None:
    door, bob = f"door:{uuid.uuid4()}", f"person:{uuid.uuid4()}"
    for name in ("Front", "Front door"):
        services.record(kind="door.changed", actor="ada", at=AT, subject=door, details={"name": name})
    services.record(
        kind="person.registered", actor="ada", at=AT, subject=bob, personal={"full_name": "Bob Rose"}
    )
    services.record(
        kind="attempt.settled", actor="terminal:1", at=AT, subject=bob, details={"name": "no name"}
    )
    assert names_of([door, bob, "", "ada", "door:unknown"]) == {door: "Front door", bob: "Bob Rose"}
    services.forget(bob)
    assert names_of([bob]) == {}
