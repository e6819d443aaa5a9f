"""Events reach those who may see them, soon, after the commit, in one process and across two."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.db import transaction
from django.test import Client, RequestFactory
from django.utils import timezone

from accesscontrol import live, services
from enrollment import services as enrollment
from tests.accesscontrol import support

EVENTS = "/events/"


@pytest.fixture(autouse=True)
def _nobody_listens_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "hub", live.Hub())


def reader(role: str) -> Any:
    user = get_user_model().objects.create_user(f"{role}-{time.monotonic_ns()}", password=None)
    user.groups.add(Group.objects.get_or_create(name=role)[0])
    return user


def stream_of(role: str, query: str = "") -> Iterator[bytes]:
    request = RequestFactory().get(EVENTS + query)
    request.user = reader(role)
    response = live.events(request)
    assert response.status_code == 200
    stream = iter(response.streaming_content)  # type: ignore[union-attr]
    assert next(stream).startswith(b"retry:")
    return stream


def test_a_guard_sees_an_attempt_and_a_lock_down_as_they_happen(place: support.Place, payload: Any) -> None:
    stream = stream_of("guard")
    place.device.attempt(payload(support.MALLORY))
    event = next(stream).decode()
    assert event.startswith("event: attempt\n")
    assert '"reason":"gallery_empty"' in event
    services.lock_down(site=place.site, reason="drill", actor="guard", at=timezone.now())
    assert next(stream).decode().startswith("event: alarm\n")


def test_an_enroller_sees_enrollments_and_never_attempts(place: support.Place, payload: Any) -> None:
    stream = stream_of("enroller")
    place.device.attempt(payload(support.MALLORY))
    enrollment.begin_enrollment(person=support.somebody("Alice"), actor="desk", at=timezone.now())
    event = next(stream).decode()
    assert event.startswith("event: enrollment\n")
    assert "Alice" not in event  # events carry no names


def test_a_reader_may_ask_for_fewer_topics_and_never_for_more(db: None) -> None:
    request = RequestFactory().get(EVENTS + "?topics=attempt,enrollment")
    request.user = reader("guard")
    assert live.allowed_topics(request.user) == {"attempt", "alarm", "terminal"}
    request = RequestFactory().get(EVENTS + "?topics=enrollment")
    request.user = reader("guard")
    assert live.events(request).status_code == 403


def test_nobody_without_a_session_reads_events(db: None) -> None:
    response = Client().get(EVENTS)
    assert response.status_code == 302
    assert response["Location"].startswith("/sign-in/")


def test_an_event_is_sent_after_the_commit_and_not_at_all_when_it_never_comes(server: None) -> None:
    stream = stream_of("guard")
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        live.publish("alarm", {"id": 1})
        _ = 1 / 0
    with transaction.atomic():
        live.publish("alarm", {"id": 2})
        assert all(reader.waiting.empty() for reader in live.hub._readers)  # type: ignore[attr-defined]
    assert '"id":2' in next(stream).decode()


def test_a_silent_stream_shows_that_it_lives(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "HEARTBEAT_S", 0.05)
    assert next(stream_of("guard")) == b": here\n\n"


def test_a_stream_ends_so_that_its_reader_is_asked_again_who_it_is(
    db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "STREAM_S", 0.0)
    assert list(stream_of("guard")) == []


def test_a_reader_who_falls_behind_loses_the_oldest_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "MAX_WAITING", 2)
    slow = live._ThreadReader(frozenset({"alarm"}))
    for number in range(3):
        slow.deliver(str(number))
    assert [slow.waiting.get_nowait(), slow.waiting.get_nowait()] == ["1", "2"]


@pytest.mark.redis
def test_an_event_of_another_process_arrives_through_redis(
    server: None, settings: Any, redis_url: str
) -> None:
    settings.LINTEL_MODE, settings.LINTEL_REDIS_URL = "production", redis_url
    stream = stream_of("guard")
    arrived: list[bytes] = []
    reading = threading.Thread(target=lambda: arrived.append(next(stream)))
    reading.start()
    for _ in range(1000):  # the other thread subscribes in its own time
        live._send("alarm", '{"id":3}')
        reading.join(0.1)
        if arrived:
            break
    assert arrived[0] == b'event: alarm\ndata: {"id":3}\n\n'
    live.log.disabled = True  # the listening thread outlives the test, and Redis does not
