"""Perturbed features on their way to a worker: kept for seconds, handed out once, never in the database or a
broker.

Production keeps them in Redis, which forgets them itself; the embedded mode keeps them in this process.
Whoever holds the key may take the bytes once: two workers with the same key cannot both have them.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from functools import cache
from typing import Protocol

import redis
from django.conf import settings

MAX_PAYLOAD_BYTES = 300_000  # the wire format's own limit, again: this store trusts no caller
MAX_PAYLOADS_IN_PROCESS = 256  # at most 77 MB
SWEEP_SLACK_S = 0.1
REDIS_TIMEOUT_S = 2.0
PREFIX = "lintel:payload:"


class PayloadStoreUnavailable(Exception):
    """The store is gone or full. Nothing was kept; the caller refuses and the terminal tries again."""

    code = "payload_store_unavailable"


class PayloadStore(Protocol):
    def store(self, data: bytes, ttl_s: float, key: str = "") -> str: ...

    def take(self, key: str) -> bytes | None: ...

    def discard(self, key: str) -> None: ...


def store(data: bytes, ttl_s: float | None = None, *, key: str = "") -> str:
    """Keeps `data` for `ttl_s` seconds (LINTEL_PAYLOAD_TTL_S when None) and returns the only key to it: a new one, or
    `key`, which nobody can guess and which is used once."""
    if len(data) > MAX_PAYLOAD_BYTES:
        raise ValueError(f"{len(data)} bytes are more than a capture has")
    return _current().store(data, settings.LINTEL_PAYLOAD_TTL_S if ttl_s is None else ttl_s, key)


def take(key: str) -> bytes | None:
    """The bytes, to the first who asks; None to everybody after, and to all once the time is over."""
    return _current().take(key)


def discard(key: str) -> None:
    """Forgets the bytes. A key nobody knows is not an error."""
    _current().discard(key)


class InProcessStore:
    """For one process. `clock` in seconds, monotonic."""

    def __init__(
        self, *, clock: Callable[[], float] = time.monotonic, max_payloads: int = MAX_PAYLOADS_IN_PROCESS
    ) -> None:
        self._clock = clock
        self._max_payloads = max_payloads
        self._lock = threading.Lock()
        self._kept: dict[str, tuple[float, bytes]] = {}  # key -> (expires, data)
        self._sweeper: threading.Timer | None = None

    def __len__(self) -> int:
        with self._lock:
            self._sweep()
            return len(self._kept)

    def store(self, data: bytes, ttl_s: float, key: str = "") -> str:
        key = key or _new_key()
        with self._lock:
            self._sweep()
            if len(self._kept) >= self._max_payloads:
                raise PayloadStoreUnavailable("too many captures are waiting for a worker")
            self._kept[key] = (self._clock() + ttl_s, data)
            self._sweep_later()
        return key

    def take(self, key: str) -> bytes | None:
        with self._lock:
            self._sweep()
            found = self._kept.pop(key, None)
        return found[1] if found else None

    def discard(self, key: str) -> None:
        with self._lock:
            self._kept.pop(key, None)

    def sweep(self) -> None:
        """Nobody may ever ask again for a payload, and it must go all the same: runs by itself once its
        time is over."""
        with self._lock:
            self._sweeper = None
            self._sweep()
            self._sweep_later()

    # Everything below runs under the lock.

    def _sweep_later(self) -> None:
        if self._sweeper is not None or not self._kept:
            return
        first = min(expires for expires, _ in self._kept.values())
        self._sweeper = threading.Timer(max(first - self._clock(), 0) + SWEEP_SLACK_S, self.sweep)
        self._sweeper.daemon = True
        self._sweeper.start()

    def _sweep(self) -> None:
        now = self._clock()
        for key in [key for key, (expires, _) in self._kept.items() if expires <= now]:
            del self._kept[key]


class RedisStore:
    """For several processes. SET with PX is one command, so no payload is ever without an end; GETDEL is
    atomic."""

    def __init__(self, url: str) -> None:
        self._redis = redis.Redis.from_url(
            url, socket_timeout=REDIS_TIMEOUT_S, socket_connect_timeout=REDIS_TIMEOUT_S
        )

    def store(self, data: bytes, ttl_s: float, key: str = "") -> str:
        key = key or _new_key()
        try:
            self._redis.set(PREFIX + key, data, px=max(1, round(ttl_s * 1000)), nx=True)
        except redis.RedisError as error:
            raise PayloadStoreUnavailable("captures cannot be passed on just now") from error
        return key

    def take(self, key: str) -> bytes | None:
        try:
            return self._redis.getdel(PREFIX + key)  # type: ignore[return-value]
        except redis.RedisError as error:
            raise PayloadStoreUnavailable("captures cannot be fetched just now") from error

    def discard(self, key: str) -> None:
        try:
            self._redis.delete(PREFIX + key)
        except redis.RedisError as error:
            raise PayloadStoreUnavailable("captures cannot be discarded just now") from error


def _current() -> PayloadStore:
    return (
        _redis_store(settings.LINTEL_REDIS_URL)
        if settings.LINTEL_MODE == "production"
        else _in_process_store()
    )


@cache
def _redis_store(url: str) -> RedisStore:
    return RedisStore(url)


@cache
def _in_process_store() -> InProcessStore:
    return InProcessStore()


def _new_key() -> str:
    return secrets.token_urlsafe(24)
