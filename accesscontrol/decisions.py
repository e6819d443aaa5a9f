"""Wakes the request that waits for an attempt once it is settled, and tells it what was committed.

In one process the two meet at an event; across processes at a Redis list, which keeps the call for a waiter who comes
late. A call that is lost costs time, never safety: the waiter looks at its deadline anyway. Redis only carries the
call: what it says is bound to its attempt by a key that this installation's processes share, and whoever hears
anything else reads the database.
"""

from __future__ import annotations

import threading
import uuid
from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Any, Protocol

import redis
from django.conf import settings
from django.utils.crypto import constant_time_compare, salted_hmac

PREFIX = "lintel:decided:"
KEPT_S = 30
MAX_EVENTS = 4096  # attempts announced to nobody, such as expired ones, push each other out
REDIS_SLACK_S = 2.0


class DecisionsUnavailableError(Exception):
    """Redis is gone: nobody can be woken. The attempt ends denied."""


@dataclass(frozen=True)
class Outcome:
    """Of a settled attempt, as it was committed. Names nobody."""

    granted: bool
    reason: str
    settled_at: datetime


class Bell(Protocol):
    def announce(self, attempt_id: uuid.UUID, call: bytes) -> None: ...

    def wait(self, attempt_id: uuid.UUID, timeout_s: float) -> bytes: ...


def announce(attempt_id: uuid.UUID, outcome: Outcome) -> None:
    """Call after the commit that settled the attempt."""
    text = f"{outcome.granted:d} {outcome.reason} {outcome.settled_at.isoformat()}"
    _current().announce(attempt_id, f"{text} {_proof(attempt_id, text)}".encode())


def wait(attempt_id: uuid.UUID, *, timeout_s: float) -> Outcome | None:
    """Returns when the attempt was announced, before or during the call, or when the time is over. None where the
    outcome is the database's to say: the time is over, or the call was not ours."""
    call = _current().wait(attempt_id, max(0.001, timeout_s)).decode(errors="replace")
    text, _, proof = call.rpartition(" ")
    if not constant_time_compare(proof, _proof(attempt_id, text)):
        return None
    granted, reason, settled_at = text.split(" ")
    return Outcome(granted == "1", reason, datetime.fromisoformat(settled_at))


def _proof(attempt_id: uuid.UUID, text: str) -> str:
    return salted_hmac("lintel.decided", f"{attempt_id} {text}", algorithm="sha256").hexdigest()


@dataclass
class _Call:
    made: threading.Event = field(default_factory=threading.Event)
    words: bytes = b""


class InProcessBell:
    """One waiter per attempt. Either side may come first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: OrderedDict[uuid.UUID, _Call] = OrderedDict()

    def announce(self, attempt_id: uuid.UUID, call: bytes) -> None:
        found = self._call(attempt_id)
        found.words = call
        found.made.set()

    def wait(self, attempt_id: uuid.UUID, timeout_s: float) -> bytes:
        call = self._call(attempt_id)
        call.made.wait(timeout_s)
        with self._lock:
            self._calls.pop(attempt_id, None)
        return call.words

    def _call(self, attempt_id: uuid.UUID) -> _Call:
        with self._lock:
            call = self._calls.setdefault(attempt_id, _Call())
            while len(self._calls) > MAX_EVENTS:
                self._calls.popitem(last=False)
        return call


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

    def announce(self, attempt_id: uuid.UUID, call: bytes) -> None:
        key = f"{PREFIX}{attempt_id}"
        try:
            both = self._redis.pipeline(transaction=False)
            both.lpush(key, call)
            both.expire(key, KEPT_S)
            both.execute()
        except redis.RedisError as error:
            raise DecisionsUnavailableError from error

    def wait(self, attempt_id: uuid.UUID, timeout_s: float) -> bytes:
        try:
            heard: Any = self._waiting.blpop([f"{PREFIX}{attempt_id}"], timeout=timeout_s)
        except redis.RedisError as error:
            raise DecisionsUnavailableError from error
        return bytes(heard[1]) if heard is not None else b""


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
