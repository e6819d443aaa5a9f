"""Wakes the request that waits for an attempt once it is settled. Carries no decision: who wakes reads the
database.

In one process the two meet at an event; across processes at a Redis list, which keeps the call for a waiter
who comes
late. A call that is lost costs time, never safety: the waiter looks at its deadline anyway.
"""

from __future__ import annotations

import threading
import uuid
from collections import OrderedDict
from functools import cache
from typing import Protocol

import redis
from django.conf import settings

PREFIX = "lintel:decided:"
KEPT_S = 30
MAX_EVENTS = 4096  # attempts announced to nobody, such as expired ones, push each other out
REDIS_SLACK_S = 2.0


class DecisionsUnavailableError(Exception):
    """Redis is gone: nobody can be woken. The attempt ends denied."""


class Bell(Protocol):
    def announce(self, attempt_id: uuid.UUID) -> None: ...

    def wait(self, attempt_id: uuid.UUID, timeout_s: float) -> None: ...


def announce(attempt_id: uuid.UUID) -> None:
    """Call after the commit that settled the attempt."""
    _current().announce(attempt_id)


def wait(attempt_id: uuid.UUID, *, timeout_s: float) -> None:
    """Returns when the attempt was announced, before or during the call, or when the time is over."""
    _current().wait(attempt_id, max(0.001, timeout_s))


class InProcessBell:
    """One waiter per attempt. Either side may come first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._events: OrderedDict[uuid.UUID, threading.Event] = OrderedDict()

    def announce(self, attempt_id: uuid.UUID) -> None:
        self._event(attempt_id).set()

    def wait(self, attempt_id: uuid.UUID, timeout_s: float) -> None:
        self._event(attempt_id).wait(timeout_s)
        with self._lock:
            self._events.pop(attempt_id, None)

    def _event(self, attempt_id: uuid.UUID) -> threading.Event:
        with self._lock:
            event = self._events.setdefault(attempt_id, threading.Event())
            while len(self._events) > MAX_EVENTS:
                self._events.popitem(last=False)
        return event


class RedisBell:
    """One list per attempt: LPUSH calls, BLPOP waits. Both are atomic, so no order of the two misses the
    call."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._redis = redis.Redis.from_url(
            url, socket_timeout=REDIS_SLACK_S, socket_connect_timeout=REDIS_SLACK_S
        )
        longest = settings.LINTEL_ATTEMPT_DEADLINE_MS / 1000 + REDIS_SLACK_S
        self._waiting = redis.Redis.from_url(
            url, socket_timeout=longest, socket_connect_timeout=REDIS_SLACK_S
        )

    def announce(self, attempt_id: uuid.UUID) -> None:
        key = f"{PREFIX}{attempt_id}"
        try:
            call = self._redis.pipeline()
            call.lpush(key, b"1")
            call.expire(key, KEPT_S)
            call.execute()
        except redis.RedisError as error:
            raise DecisionsUnavailableError from error

    def wait(self, attempt_id: uuid.UUID, timeout_s: float) -> None:
        try:
            self._waiting.blpop([f"{PREFIX}{attempt_id}"], timeout=timeout_s)
        except redis.RedisError as error:
            raise DecisionsUnavailableError from error


def _current() -> Bell:
    return (
        _redis_bell(settings.LINTEL_REDIS_URL) if settings.LINTEL_MODE == "production" else _in_process_bell()
    )


@cache
def _redis_bell(url: str) -> RedisBell:
    return RedisBell(url)


@cache
def _in_process_bell() -> InProcessBell:
    return InProcessBell()
