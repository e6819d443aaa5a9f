"""Fixtures for every test: real services, and tasks that run where a test can see them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings

from tests.chromium import ADVICE
from tests.services import CHROMIUM, Postgres, Redis, ServiceMissing

if TYPE_CHECKING:
    from playwright.sync_api import Playwright

# A busy machine fails no property: examples may take as long as they need.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

Server = TypeVar("Server", Redis, Postgres)


def _or_skip(start: Callable[[], Server]) -> Server:
    try:
        return start()
    except ServiceMissing as missing:
        if os.environ.get("LINTEL_NO_SKIPS") == "1":
            raise
        pytest.skip(f"SERVICE MISSING: {missing}")


@pytest.fixture(scope="session")
def redis_server() -> Redis:
    """The session's Redis, running. A test that stops it must start it again."""
    return _or_skip(Redis.shared)


@pytest.fixture
def redis_url(redis_server: Redis) -> Iterator[str]:
    """URL of an empty Redis, emptied again afterwards."""
    import redis

    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
        yield redis_server.url
        client.flushall()


@pytest.fixture(scope="session")
def postgres_server() -> Postgres:
    """The session's Postgres, running; the same one that Django uses under LINTEL_TEST_DATABASE=postgres."""
    return _or_skip(Postgres.shared)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests in a browser come last: Playwright's loop stays on this thread from the first of them to the end."""
    items.sort(key=lambda item: item.get_closest_marker("browser") is not None)


@pytest.fixture(scope="session")
def playwright() -> Iterator[Playwright]:
    """The session's Playwright. There can be one only, and beside its loop Django would refuse to touch a database."""
    from playwright.sync_api import sync_playwright

    if not CHROMIUM.exists():
        message = f"SERVICE MISSING: no Chromium at {CHROMIUM}; {ADVICE}"
        if os.environ.get("LINTEL_NO_SKIPS") == "1":
            pytest.fail(message)
        pytest.skip(message)
    with pytest.MonkeyPatch.context() as patch, sync_playwright() as running:
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "true")
        yield running


@pytest.fixture
def tasks_run_inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dispatched tasks run on the caller's thread at commit, so that a test inside a transaction sees their effect."""
    from accesscontrol import celery

    class Inline:
        def submit(self, function: Callable[..., bool], *arguments: Any) -> Future[bool]:
            done: Future[bool] = Future()
            done.set_result(function(*arguments))
            return done

    monkeypatch.setattr(celery, "_pool", Inline)
    monkeypatch.setattr(celery, "close_old_connections", lambda: None)


@pytest.fixture
def dispatched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """Collects (task name, arguments) of tasks handed over at commit, instead of running them."""
    from accesscontrol import celery

    calls: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(celery, "_hand_over", lambda name, kwargs: calls.append((name, kwargs)))
    return calls


@pytest.fixture(scope="session", autouse=True)
def _emptying_tables_lifts_the_audit_triggers() -> Iterator[None]:
    """A test with real transactions empties every table afterwards, which the audit log refuses, as it should."""
    from django.db.backends.base.operations import BaseDatabaseOperations

    from audit.triggers import dangerously_lifted

    flush = BaseDatabaseOperations.execute_sql_flush

    def flush_with_triggers_lifted(self: BaseDatabaseOperations, sql_list: list[str]) -> None:
        with dangerously_lifted(self.connection):
            flush(self, sql_list)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BaseDatabaseOperations, "execute_sql_flush", flush_with_triggers_lifted)
        yield
