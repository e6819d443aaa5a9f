"""A task for `batching.py` alone: what a worker does up to the embedding, and nothing of what comes after it."""

from __future__ import annotations

from functools import cache

import redis
from celery import shared_task
from django.conf import settings

from benchmarks.installation import EMBEDDED_COUNTER
from enrollment import gallery, payloads
from recognition.payload import unpack


@shared_task(name="benchmarks.embed", ignore_result=True)
def embed(payload_key: str) -> None:
    payload = payloads.take(payload_key)
    if payload is None:
        raise RuntimeError("the capture is gone")
    model = gallery.recognizer()
    model.embed_one(unpack(payload, model.recognizer.profiles))
    _counter().incr(EMBEDDED_COUNTER)


@cache
def _counter() -> redis.Redis:
    return redis.Redis.from_url(settings.LINTEL_REDIS_URL)
