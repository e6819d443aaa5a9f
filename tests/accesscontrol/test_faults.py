"""What breaks, breaks shut: races, dead workers, a missing Redis, a locked database. Real commits and real
threads.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from django.db import connection, connections
from django.test import Client
from django.utils import timezone

from accesscontrol import celery, decisions, services
from accesscontrol.models import AccessAttempt, Presence, Zone
from accesscontrol.policy import Match
from accesscontrol.tasks import identify
from audit.models import Entry
from enrollment import gallery, payloads
from enrollment import services as enrollment
from enrollment.models import Person
from tests.accesscontrol import support
from tests.accesscontrol.support import ALICE, CAPTURE, Place, believed, new_nonce
from tests.services import Redis, free_port

pytestmark = [pytest.mark.database, pytest.mark.django_db(transaction=True)]

Payload = Callable[[int], bytes]


@pytest.fixture
def place(transactional_db: None, model: None, settings: Any) -> Iterator[Place]:
    settings.LINTEL_PAYLOAD_TTL_S = (
        600  # the first task imports torch, and a busy machine takes a minute for it
    )
    yield support.make_place()
    celery.wait_for_embedded_tasks()


@pytest.fixture
def alice(place: Place, payload: Payload) -> Person:
    """Enrolled by tasks on the threads of an embedded server."""
    person = support.somebody("Alice Example")
    place.group.members.add(person)
    begun = enrollment.begin_enrollment(person=person, captures_wanted=1, actor="desk", at=timezone.now())
    enrollment.submit_capture(enrollment=begun, payload=payload(ALICE), at=timezone.now())
    wait_until(lambda: person.templates.filter(active=True).exists())
    return person


@pytest.fixture
def production(settings: Any, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Payloads and decisions through a real Redis; tasks on threads, so that a test needs no other process."""
    settings.LINTEL_MODE = "production"
    settings.LINTEL_REDIS_URL = redis_url

    def hand_over(name: str, arguments: dict[str, Any]) -> None:
        threading.Thread(target=celery.run_here, args=(name, arguments)).start()

    monkeypatch.setattr(celery, "_hand_over", hand_over)
    return redis_url


def wait_until(true: Callable[[], bool], seconds: float = 400) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it never became true"
        time.sleep(0.02)


def at_once(*actions: Callable[[], Any]) -> list[Any]:
    """Runs the actions on threads that start together; their results, or the errors they raised, in order."""
    start = threading.Barrier(len(actions))
    results: list[Any] = [None] * len(actions)

    def run(number: int, action: Callable[[], Any]) -> None:
        try:
            start.wait(60)
            results[number] = action()
        except Exception as error:
            results[number] = error
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(actions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    return results


def pending(place: Place, **changes: Any) -> AccessAttempt:
    now = timezone.now()
    values = {"terminal": place.device.row, "door": place.door, "nonce": new_nonce(), "payload_bytes": 1,
              "received_at": now, "deadline_at": now + timedelta(seconds=30)}  # fmt: skip
    return AccessAttempt.objects.create(**(values | changes))


def test_the_door_opens_while_the_task_runs_on_another_thread(
    place: Place, alice: Person, payload: Payload
) -> None:
    nonce = new_nonce()
    assert believed(place.device.attempt(payload(ALICE), nonce=nonce), nonce=nonce)["granted"] is True


@pytest.mark.redis
def test_the_door_opens_through_redis_and_no_capture_stays_there(
    place: Place, alice: Person, payload: Payload, production: str
) -> None:
    nonce = new_nonce()
    assert believed(place.device.attempt(payload(ALICE), nonce=nonce), nonce=nonce)["granted"] is True
    with redis.Redis.from_url(production) as client:
        assert client.keys("lintel:payload:*") == []


def test_of_two_simultaneous_attempts_of_alice_one_opens_where_she_may_enter_once(
    place: Place, alice: Person
) -> None:
    place.door.zone = Zone.objects.create(site=place.site, name="Laboratory", anti_passback=True)
    place.door.save()
    second = support.make_place(zone=place.door.zone)
    place.rule.doors.add(second.door)
    found = {"candidates": [Match(str(alice.pk), 0.9)], "gallery_size": 1, "threshold": 0.5}
    for _ in range(3):
        attempts = [pending(place), pending(second)]
        results = at_once(
            *(
                lambda attempt=attempt: services.settle_attempt(attempt_id=attempt.pk, **found)
                for attempt in attempts
            )
        )
        assert sorted(result.reason for result in results) == ["anti_passback", "granted"], results
        Presence.objects.all().delete()


def test_two_workers_settle_one_attempt_once(place: Place, alice: Person) -> None:
    attempt = pending(place)
    before = Entry.objects.filter(kind="attempt.settled").count()
    found = {"candidates": [Match(str(alice.pk), 0.9)], "gallery_size": 1, "threshold": 0.5}
    results = at_once(
        lambda: services.settle_attempt(attempt_id=attempt.pk, **found),
        lambda: services.settle_attempt(attempt_id=attempt.pk),
        lambda: services.settle_attempt(attempt_id=attempt.pk, **found),
    )
    assert len({(result.granted, result.reason) for result in results}) == 1, results
    assert Entry.objects.filter(kind="attempt.settled").count() == before + 1


def test_of_one_request_sent_twice_at_the_same_time_one_is_answered(
    place: Place, alice: Person, payload: Payload
) -> None:
    body = payload(ALICE)
    headers = place.device.sign("POST", "/api/v1/attempts", body, CAPTURE)

    def send() -> Any:
        others = dict(headers)
        content_type = others.pop("Content-Type")
        return Client().generic("POST", "/api/v1/attempts", body, content_type=content_type, headers=others)

    results = at_once(send, send, send)
    assert sorted(result.status_code for result in results) == [200, 401, 401]
    assert AccessAttempt.objects.count() == 1


def test_a_capture_that_a_dead_worker_took_away_ends_denied(
    place: Place, alice: Person, payload: Payload, dispatched: list[Any], settings: Any
) -> None:
    settings.LINTEL_ATTEMPT_DEADLINE_MS = 30_000
    attempt = services.submit_attempt(
        terminal=place.device.row, payload=payload(ALICE), nonce=new_nonce(), at=timezone.now()
    )
    assert payloads.take(attempt.payload_key) is not None  # and here the worker is killed
    ((_, arguments),) = dispatched
    identify(**arguments)  # delivered again
    attempt.refresh_from_db()
    assert (attempt.state, attempt.granted, attempt.reason) == ("settled", False, "payload_missing")
    identify(**arguments)  # and again
    assert Entry.objects.filter(kind="attempt.settled").count() == 1


@pytest.mark.flow
@pytest.mark.redis
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_worker_killed_between_search_and_decision_leaves_the_door_shut_and_the_attempt_denied(
    place: Place, alice: Person, payload: Payload, settings: Any, redis_url: str, tiny_model: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """kill -9 of the process that holds the capture. Celery delivers the task again; the capture is gone."""
    settings.LINTEL_MODE, settings.LINTEL_REDIS_URL = "production", redis_url
    settings.LINTEL_ATTEMPT_DEADLINE_MS, settings.LINTEL_PAYLOAD_TTL_S = 300_000, 300
    monkeypatch.setattr(celery.app.conf, "broker_url", redis_url)
    celery.app.set_default()
    marker = tmp_path / "died"
    environment = os.environ | {
        "LINTEL_TEST_DATABASE_NAME": str(connection.settings_dict["NAME"]),
        "LINTEL_TEST_REDIS_URL": redis_url,
        "LINTEL_TEST_MODEL": str(tiny_model),
        "LINTEL_TEST_MARKER": str(marker),
    }
    with (tmp_path / "worker.log").open("wb") as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", "celery", "--app", "tests.accesscontrol.dying_worker", "worker"]
            + ["--queues", "recognition", "--concurrency", "1", "--pool", "prefork", "--without-gossip"],
            env=environment,
            stdout=log,
            stderr=log,
        )
    try:
        with celery.Celery(broker=redis_url) as broker:
            monkeypatch.setattr(
                celery, "_hand_over",
                lambda name, arguments: broker.send_task(name, kwargs=arguments, queue="recognition"),
            )  # fmt: skip
            attempt = services.submit_attempt(
                terminal=place.device.row, payload=payload(ALICE), nonce=new_nonce(), at=timezone.now()
            )

        def settled() -> bool:
            assert worker.poll() is None, (tmp_path / "worker.log").read_text()
            attempt.refresh_from_db()
            return attempt.state == "settled"

        wait_until(settled, seconds=240)
    finally:
        worker.terminate()
        try:
            worker.wait(120)
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()
    assert marker.exists()
    assert (attempt.granted, attempt.reason) == (False, "payload_missing")
    assert Entry.objects.filter(kind="attempt.settled").count() == 1


def test_without_redis_the_door_stays_shut_and_the_refusal_is_in_the_log(
    place: Place, alice: Person, payload: Payload, settings: Any
) -> None:
    settings.LINTEL_MODE, settings.LINTEL_REDIS_URL = "production", f"redis://127.0.0.1:{free_port()}/0"
    nonce = new_nonce()
    response = place.device.attempt(payload(ALICE), nonce=nonce)
    body = believed(response, nonce=nonce)
    assert (response.status_code, body["code"], body["granted"]) == (503, "recognition_unavailable", False)
    assert response["Content-Type"] == "application/problem+json"
    attempt = AccessAttempt.objects.get()
    assert (attempt.reason, attempt.detail) == ("recognizer_fault", "payload_store_unavailable")
    assert Entry.objects.filter(kind="attempt.settled").latest("index").details["granted"] is False


@pytest.mark.redis
def test_redis_dying_while_a_request_waits_leaves_the_door_shut(
    place: Place,
    alice: Person,
    payload: Payload,
    production: str,
    redis_server: Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(celery, "_hand_over", lambda name, arguments: redis_server.stop())
    try:
        response = place.device.attempt(payload(ALICE))
        assert (response.status_code, response.json()["code"]) == (503, "recognition_unavailable")
    finally:
        redis_server.start()
    attempt = AccessAttempt.objects.get()
    assert services.expire_attempts(at=attempt.deadline_at) == 1
    attempt.refresh_from_db()
    assert (attempt.granted, attempt.reason) == (False, "deadline_passed")


@pytest.mark.redis
@pytest.mark.parametrize("whose", ["nobody's", "another attempt's", "no call at all"])
def test_a_call_that_no_process_of_ours_made_about_this_attempt_opens_nothing(
    place: Place,
    alice: Person,
    payload: Payload,
    production: str,
    monkeypatch: pytest.MonkeyPatch,
    whose: str,
) -> None:
    """Whoever writes into Redis, without our secret, or repeats what was said about another attempt."""
    text = f"1 granted {timezone.now().isoformat()}"
    made_up = {
        "nobody's": f"{text} {64 * '0'}",
        "another attempt's": f"{text} {decisions._proof(uuid.uuid4(), text)}",
        "no call at all": "\N{SNOWMAN}",
    }[whose]

    def forge(name: str, arguments: dict[str, Any]) -> None:
        with redis.Redis.from_url(production) as client:
            client.lpush(f"{decisions.PREFIX}{arguments['attempt_id']}", made_up)

    monkeypatch.setattr(celery, "_hand_over", forge)
    nonce = new_nonce()
    response = place.device.attempt(payload(ALICE), nonce=nonce)
    body = believed(response, nonce=nonce)
    assert response.status_code == 202
    assert "granted" not in body
    assert AccessAttempt.objects.get().state == "pending"


@pytest.mark.redis
def test_a_call_of_ours_is_believed_and_says_what_was_committed(
    place: Place, alice: Person, payload: Payload, production: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "attempt_now", lambda **_: pytest.fail("the database was asked again"))
    nonce = new_nonce()
    body = believed(place.device.attempt(payload(ALICE), nonce=nonce), nonce=nonce)
    attempt = AccessAttempt.objects.get()
    assert attempt.settled_at is not None
    assert (body["granted"], body["reason"], body["decided_at"]) == (
        True, "granted", attempt.settled_at.isoformat(),
    )  # fmt: skip


@pytest.mark.redis
def test_a_capture_waits_for_a_worker_no_longer_than_its_attempt_may(
    place: Place, payload: Payload, production: str, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.LINTEL_ATTEMPT_DEADLINE_MS, settings.LINTEL_PAYLOAD_TTL_S = 300_000, 600
    monkeypatch.setattr(celery, "_hand_over", lambda name, arguments: None)
    attempt = services.submit_attempt(
        terminal=place.device.row, payload=payload(ALICE), nonce=new_nonce(), at=timezone.now()
    )
    with redis.Redis.from_url(production) as client:
        assert 0 < client.pttl(payloads.PREFIX + services.payload_key_of(attempt.pk)) <= 300_000


def test_a_locked_database_is_a_clear_refusal_and_not_a_crash(
    place: Place, alice: Person, payload: Payload, monkeypatch: pytest.MonkeyPatch
) -> None:
    with support.locked_database(monkeypatch):
        response = place.device.attempt(payload(ALICE))
        assert (response.status_code, response.json()["code"]) == (503, "database_unavailable")
        assert response["Retry-After"]
    assert not AccessAttempt.objects.exists()
    assert place.device.attempt(payload(ALICE)).json()["granted"] is True


def test_a_recogniser_that_fails_leaves_the_door_shut_and_says_so(
    place: Place, alice: Person, payload: Payload, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> Any:
        raise RuntimeError("the model is made to fail")

    monkeypatch.setattr(gallery, "gallery", broken)
    body = place.device.attempt(payload(ALICE)).json()
    assert (body["granted"], body["reason"]) == (False, "recognizer_fault")


def test_a_worker_behind_the_gallery_never_answers_from_an_old_one(
    place: Place, alice: Person, payload: Payload, dispatched: list[Any]
) -> None:
    attempt = services.submit_attempt(
        terminal=place.device.row, payload=payload(ALICE), nonce=new_nonce(), at=timezone.now()
    )
    identify(str(attempt.pk), sequence=10_000)
    attempt.refresh_from_db()
    assert (attempt.granted, attempt.reason, attempt.detail) == (False, "recognizer_fault", "gallery_behind")
