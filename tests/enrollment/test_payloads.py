"""Features between web and worker: once, for seconds, nowhere else."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from enrollment import payloads
from enrollment.payloads import InProcessStore, PayloadStoreUnavailable, RedisStore


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(params=["in process", pytest.param("redis", marks=pytest.mark.redis)])
def store(request):
    return (
        InProcessStore()
        if request.param == "in process"
        else RedisStore(request.getfixturevalue("redis_url"))
    )


def test_a_payload_is_handed_out_once(store):
    key = store.store(b"features", 30)
    assert store.take(key) == b"features"
    assert store.take(key) is None


def test_of_many_workers_with_one_key_one_gets_the_payload(store):
    key = store.store(b"features", 30)
    with ThreadPoolExecutor(8) as workers:
        taken = list(workers.map(lambda _: store.take(key), range(32)))
    assert taken.count(b"features") == 1
    assert taken.count(None) == 31


def test_a_discarded_payload_is_gone_and_discarding_again_is_no_error(store):
    key = store.store(b"features", 30)
    store.discard(key)
    store.discard(key)
    assert store.take(key) is None


def test_keys_are_not_guessable_and_never_repeat(store):
    keys = {store.store(b"x", 30) for _ in range(100)}
    assert len(keys) == 100
    assert all(len(key) >= 32 for key in keys)


def test_after_its_time_a_payload_is_gone_from_this_process():
    clock = Clock()
    store = InProcessStore(clock=clock)
    key = store.store(b"features", 30)
    clock.now = 29.9  # the sweeper's timer knows nothing of this clock, and finds nothing when it rings
    assert len(store) == 1
    clock.now = 30
    assert store.take(key) is None
    assert len(store) == 0


def test_payloads_nobody_asks_for_are_swept_by_themselves():
    store = InProcessStore()
    store.store(b"first", 0)
    store.store(b"second", 0)
    deadline = time.monotonic() + 60
    while store._kept and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not store._kept


def test_a_full_store_refuses_and_takes_again_once_there_is_room():
    clock = Clock()
    store = InProcessStore(clock=clock, max_payloads=2)
    first = store.store(b"1", 30)
    store.store(b"2", 30)
    with pytest.raises(PayloadStoreUnavailable):
        store.store(b"3", 30)
    assert len(store) == 2
    store.take(first)
    store.store(b"3", 30)
    clock.now = 30  # or the sweeper would ring for ever
    assert len(store) == 0


def test_more_bytes_than_a_capture_has_are_not_kept(settings):
    with pytest.raises(ValueError, match="more than a capture"):
        payloads.store(bytes(payloads.MAX_PAYLOAD_BYTES + 1))


@pytest.mark.redis
def test_redis_forgets_a_payload_by_itself(redis_url):
    store = RedisStore(redis_url)
    with redis.Redis.from_url(redis_url) as client:
        assert 0 < client.ttl(payloads.PREFIX + store.store(b"features", 600)) <= 600
        key = store.store(b"features", 1)
        deadline = time.monotonic() + 60
        while client.exists(payloads.PREFIX + key) and time.monotonic() < deadline:
            time.sleep(0.05)
    assert store.take(key) is None


@pytest.mark.redis
def test_without_redis_every_call_says_so(redis_server, redis_url):
    store = RedisStore(redis_url)
    key = store.store(b"features", 30)
    redis_server.stop()
    try:
        for call in (lambda: store.store(b"x", 30), lambda: store.take(key), lambda: store.discard(key)):
            with pytest.raises(PayloadStoreUnavailable):
                call()
    finally:
        redis_server.start()
    assert store.take(key) is None  # nothing was half-written


@pytest.mark.redis
def test_production_uses_redis_and_embedded_this_process(settings, redis_url):
    settings.LINTEL_PAYLOAD_TTL_S = 30
    key = payloads.store(b"features")
    settings.LINTEL_MODE, settings.LINTEL_REDIS_URL = "production", redis_url
    assert payloads.take(key) is None
    other = payloads.store(b"features")
    settings.LINTEL_MODE = "embedded"
    assert payloads.take(other) is None
    assert payloads.take(key) == b"features"
