"""Handing work over: after commit, by name, with errors that are seen."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from celery import shared_task
from celery.fixups.django import DjangoWorkerFixup
from django.db import connection, transaction
from kombu import Connection
from pytest_django import Settings

from accesscontrol import celery
from accesscontrol.celery import dispatch, run_here
from accesscontrol.housekeeping import Clock

ran: list[tuple[str, int]] = []


def wait_for_embedded_tasks() -> None:
    """The first task imports torch: minutes on a busy machine."""
    celery.wait_for_embedded_tasks(timeout_s=300)
    assert all(future.done() for future in list(celery._unfinished))  # each strikes itself off a moment later


@pytest.mark.database
@pytest.mark.django_db(transaction=True)
def test_a_worker_keeps_its_connection_from_task_to_task() -> None:
    connection.ensure_connection()
    kept = connection.connection
    DjangoWorkerFixup(celery.app).close_database()  # what Celery does before and after each task
    assert connection.connection is kept


@shared_task(name="tests.note")
def note(number: int) -> None:
    ran.append((threading.current_thread().name, number))


@shared_task(name="tests.fail")
def fail() -> None:
    raise RuntimeError("this task was made to fail")


@pytest.fixture(autouse=True)
def nothing_ran_yet() -> None:
    ran.clear()


@pytest.mark.database
@pytest.mark.django_db(transaction=True)
def test_a_task_runs_after_the_transaction_commits_and_not_before() -> None:
    with transaction.atomic():
        dispatch("tests.note", number=1)
        wait_for_embedded_tasks()
        assert ran == []
    wait_for_embedded_tasks()
    ((thread, number),) = ran
    assert number == 1
    assert thread.startswith("lintel-task")


@pytest.mark.database
@pytest.mark.django_db(transaction=True)
def test_a_task_of_a_transaction_that_rolls_back_never_runs() -> None:
    with pytest.raises(LookupError), transaction.atomic():
        dispatch("tests.note", number=1)
        raise LookupError
    wait_for_embedded_tasks()
    assert ran == []


@pytest.mark.django_db(transaction=True)
def test_a_task_that_fails_is_logged_and_the_next_one_runs(caplog: pytest.LogCaptureFixture) -> None:
    dispatch("tests.fail")
    dispatch("tests.note", number=2)
    wait_for_embedded_tasks()
    assert [number for _, number in ran] == [2]
    assert "task_failed" in caplog.text
    assert "tests.fail" in caplog.text


@pytest.mark.django_db(transaction=True)
def test_a_task_nobody_knows_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    dispatch("tests.no_such_task")
    wait_for_embedded_tasks()
    assert "task_failed" in caplog.text


@pytest.mark.django_db(transaction=True)
def test_a_task_leaves_its_connections_to_be_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []
    monkeypatch.setattr(
        celery, "close_old_connections", lambda: closed.append(threading.current_thread().name)
    )
    dispatch("tests.fail")
    wait_for_embedded_tasks()
    assert len(closed) == 1


def test_run_here_says_whether_the_task_succeeded() -> None:
    assert run_here("tests.note", {"number": 3}) is True
    assert run_here("tests.fail", {}) is False


@pytest.mark.redis
@pytest.mark.django_db(transaction=True)
def test_production_puts_ids_on_the_recognition_queue(
    settings: Settings, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.LINTEL_MODE = "production"
    with celery_at(redis_url, monkeypatch), Connection(redis_url) as broker:
        with transaction.atomic():
            dispatch("tests.note", number=4)
            assert waiting(broker) == 0
        queue = broker.SimpleQueue(celery.RECOGNITION_QUEUE)
        message = queue.get(timeout=60)
        assert message.headers["task"] == "tests.note"
        assert message.payload[1] == {"number": 4}
        message.ack()
        queue.close()
    assert ran == []


@pytest.mark.django_db(transaction=True)
def test_a_broker_that_is_gone_is_logged_at_once_and_the_commit_stands(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings.LINTEL_MODE = "production"
    with celery_at("redis://127.0.0.1:1/0", monkeypatch):
        pauses: list[float] = []
        for module in ("kombu.utils.functional", "redis.retry"):
            monkeypatch.setattr(f"{module}.sleep", pauses.append)
        with transaction.atomic():
            dispatch("tests.note", number=5)
        assert sum(pauses) <= 1, "a terminal waits while the broker is tried again"
    assert "task_not_handed_over" in caplog.text
    assert not connection.in_atomic_block


class celery_at:  # noqa: N801 (reads as a verb where it is used)
    """The application with another broker, its connection pool dropped before and after."""

    def __init__(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self._url = url
        self._monkeypatch = monkeypatch

    def __enter__(self) -> None:
        celery.app.pool.force_close_all()
        celery.app.amqp._producer_pool = None
        self._monkeypatch.setattr(celery.app.conf, "broker_url", self._url)
        celery.app._pool = None

    def __exit__(self, *exception: Any) -> None:
        celery.app.pool.force_close_all()
        celery.app._pool = None
        celery.app.amqp._producer_pool = None


def waiting(broker: Connection) -> int:
    return int(broker.default_channel.client.llen(celery.RECOGNITION_QUEUE))


def test_the_embedded_clock_runs_each_task_when_its_time_comes() -> None:
    now = 0.0
    calls: list[str] = []
    clock = Clock({"often": 2.0, "seldom": 60.0}, run=lambda name, _: calls.append(name), now=lambda: now)
    clock.run_due()
    assert calls == []
    now = 2.0
    clock.run_due()
    clock.run_due()
    assert calls == ["often"]
    now = 60.0
    clock.run_due()
    assert calls == ["often", "often", "seldom"]


def test_the_embedded_clock_stops_when_told() -> None:
    clock = Clock({})
    clock.start()
    clock.stop()
    assert not clock._thread.is_alive()
