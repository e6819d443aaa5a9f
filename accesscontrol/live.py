"""What happens now, as server-sent events for people who are signed in.

Events say that something happened and carry ids and codes, never names: the page fetches what its reader may
see.
One process hands events to its own readers; several share them through a Redis channel. An event that is lost
costs a
refresh: pages fetch again whenever they connect.
"""

from __future__ import annotations

import asyncio
import json
import logging
import queue
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from functools import cache
from typing import Any, Protocol

import redis
from django.conf import settings
from django.core.handlers.asgi import ASGIRequest
from django.db import connections, transaction
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, StreamingHttpResponse

from accesscontrol.roles import Role, roles_of
from enrollment.signals import enrollment_progress

log = logging.getLogger(__name__)

TOPICS: Mapping[str, frozenset[Role]] = {
    "attempt": frozenset({Role.ADMINISTRATOR, Role.GUARD, Role.AUDITOR}),
    "alarm": frozenset({Role.ADMINISTRATOR, Role.GUARD, Role.AUDITOR}),
    "terminal": frozenset({Role.ADMINISTRATOR, Role.GUARD, Role.AUDITOR}),
    "enrollment": frozenset({Role.ADMINISTRATOR, Role.ENROLLER}),
}
CHANNEL = "lintel:live"
HEARTBEAT_S = 15.0
STREAM_S = 300.0  # then the browser connects again and is asked again who it is
RETRY_MS = 2000
MAX_WAITING = 200  # events; a reader further behind loses the oldest
MAX_READERS = 64  # per process; each holds a thread where the server has threads
REDIS_TIMEOUT_S = 2.0
RECONNECT_S = 1.0


class Reader(Protocol):
    topics: frozenset[str]

    def deliver(self, text: str) -> None: ...


class Hub:
    """The readers of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._readers: set[Reader] = set()

    def join(self, reader: Reader) -> bool:
        """False when this process has as many readers as it can bear."""
        with self._lock:
            if len(self._readers) >= MAX_READERS:
                return False
            self._readers.add(reader)
        return True

    def leave(self, reader: Reader) -> None:
        with self._lock:
            self._readers.discard(reader)

    def hand_out(self, topic: str, data: str) -> None:
        text = f"event: {topic}\ndata: {data}\n\n"
        with self._lock:
            readers = [reader for reader in self._readers if topic in reader.topics]
        for reader in readers:
            reader.deliver(text)


hub = Hub()


def publish(topic: str, data: Mapping[str, Any]) -> None:
    """After the commit of the transaction around the call (at once when there is none). Never fails the
    caller."""
    if topic not in TOPICS:
        raise ValueError(f"{topic} is no topic")
    text = json.dumps(data, separators=(",", ":"))
    transaction.on_commit(lambda: _send(topic, text), robust=True)


def _send(topic: str, text: str) -> None:
    if settings.LINTEL_MODE != "production":
        hub.hand_out(topic, text)
        return
    try:
        _redis(settings.LINTEL_REDIS_URL).publish(CHANNEL, f"{topic} {text}")
    except redis.RedisError:
        log.warning("an event about %s was lost: Redis is gone", topic)


def on_enrollment_progress(sender: object, progress: Mapping[str, Any], **_: Any) -> None:
    publish(
        "enrollment",
        {"id": progress["enrollment_id"], "state": progress["state"], "reason": progress["reason"]},
    )


def connect_signals() -> None:
    """Called once, when Django is ready."""
    enrollment_progress.connect(on_enrollment_progress, dispatch_uid="accesscontrol.live")


def events(request: HttpRequest) -> HttpResponse | StreamingHttpResponse:
    """GET /events/: the topics that the reader's roles allow, or those of them named in `?topics=`."""
    if request.method != "GET":
        return HttpResponseNotAllowed(["GET"])
    allowed = allowed_topics(request.user)
    wanted = frozenset(request.GET.get("topics", "").replace(",", " ").split())
    topics = allowed & wanted if wanted else allowed
    if not topics:
        return HttpResponse("No events for you here.", status=403, content_type="text/plain; charset=utf-8")
    if settings.LINTEL_MODE == "production":
        _listen(settings.LINTEL_REDIS_URL)
    stream = _async_stream(topics) if isinstance(request, ASGIRequest) else _stream(topics)
    response = StreamingHttpResponse(stream, content_type="text/event-stream")
    response["Cache-Control"] = "no-store"
    response["X-Accel-Buffering"] = "no"
    return response


def allowed_topics(user: Any) -> frozenset[str]:
    roles = roles_of(user)
    return frozenset(topic for topic, readers in TOPICS.items() if readers & roles)


class _ThreadReader:
    def __init__(self, topics: frozenset[str]) -> None:
        self.topics = topics
        self.waiting: queue.Queue[str] = queue.Queue(MAX_WAITING)

    def deliver(self, text: str) -> None:
        while True:
            try:
                return self.waiting.put_nowait(text)
            except queue.Full:
                try:
                    self.waiting.get_nowait()
                except queue.Empty:
                    continue


class _LoopReader:
    def __init__(self, topics: frozenset[str], loop: asyncio.AbstractEventLoop) -> None:
        self.topics = topics
        self.waiting: asyncio.Queue[str] = asyncio.Queue(MAX_WAITING)
        self._loop = loop

    def deliver(self, text: str) -> None:
        try:
            self._loop.call_soon_threadsafe(self._put, text)
        except RuntimeError:  # the loop is closed: so is the stream
            hub.leave(self)

    def _put(self, text: str) -> None:
        if self.waiting.full():
            self.waiting.get_nowait()
        self.waiting.put_nowait(text)


def _stream(topics: frozenset[str]) -> Iterator[str]:
    _give_connections_back()
    reader = _ThreadReader(topics)
    if not hub.join(reader):
        yield "retry: 30000\n\n"
        return
    try:
        yield f"retry: {RETRY_MS}\n\n"
        until = time.monotonic() + STREAM_S
        while time.monotonic() < until:
            try:
                yield reader.waiting.get(timeout=HEARTBEAT_S)
            except queue.Empty:
                yield ": here\n\n"
    finally:
        hub.leave(reader)


def _give_connections_back() -> None:
    """A stream lives for minutes and reads no rows; who it is for was decided before it began."""
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:
            connection.close()


async def _async_stream(topics: frozenset[str]) -> AsyncIterator[str]:
    reader = _LoopReader(topics, asyncio.get_running_loop())
    if not hub.join(reader):
        yield "retry: 30000\n\n"
        return
    try:
        yield f"retry: {RETRY_MS}\n\n"
        until = time.monotonic() + STREAM_S
        while time.monotonic() < until:
            try:
                yield await asyncio.wait_for(reader.waiting.get(), HEARTBEAT_S)
            except TimeoutError:
                yield ": here\n\n"
    finally:
        hub.leave(reader)


@cache
def _redis(url: str) -> redis.Redis:
    return redis.Redis.from_url(url, socket_timeout=REDIS_TIMEOUT_S, socket_connect_timeout=REDIS_TIMEOUT_S)


@cache
def _listen(url: str) -> threading.Thread:
    """One thread per process brings events from the other processes; it starts with the first reader."""
    thread = threading.Thread(target=_bring, args=(url,), name="live", daemon=True)
    thread.start()
    return thread


def _bring(url: str) -> None:
    while True:
        try:
            channel = redis.Redis.from_url(url, socket_connect_timeout=REDIS_TIMEOUT_S).pubsub()
            channel.subscribe(CHANNEL)
            for message in channel.listen():
                if message["type"] == "message":
                    topic, _, data = message["data"].decode().partition(" ")
                    hub.hand_out(topic, data)
        except redis.RedisError:
            log.warning("no events from other processes: Redis is gone")
            time.sleep(RECONNECT_S)
