"""Numbers for Prometheus. No label ever names a person, and none has unbounded values."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

ATTEMPTS = Counter(
    "lintel_attempts", "Attempts settled, by outcome and stable reason code.", ["outcome", "reason"]
)
LATENCY = Histogram(
    "lintel_attempt_seconds",
    "Seconds from an attempt's arrival to its decision.",
    ["outcome"],
    buckets=(0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.0, 2.0, 3.0, 5.0, 10.0),
)
REQUESTS_REFUSED = Counter(
    "lintel_terminal_requests_refused",
    "Requests of terminals refused before an attempt existed, by code.",
    ["code"],
)
MODEL = Histogram(
    "lintel_model_seconds",
    "Seconds of one capture in the model, waiting for company in its batch included.",
    buckets=(0.002, 0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.0),
)

STAGE = Histogram(
    "lintel_attempt_stage_seconds",
    "Seconds of an attempt in one stage: authenticate, accept and wait in a web process; take, search and settle in a"
    " worker, whose fourth is lintel_model_seconds.",
    ["stage"],
    buckets=(0.0005, 0.001, 0.002, 0.004, 0.008, 0.015, 0.03, 0.06, 0.15, 0.5, 2.0),
)
_STAGES = {
    name: STAGE.labels(stage=name) for name in ("authenticate", "accept", "wait", "take", "search", "settle")
}


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Times what runs inside, whether it ends well or not."""
    started = time.perf_counter()
    try:
        yield
    finally:
        _STAGES[name].observe(time.perf_counter() - started)


def observe_attempt(*, granted: bool, reason: str, seconds: float) -> None:
    """Count one settled attempt. Call after its transaction has committed, once."""
    outcome = "granted" if granted else "denied"
    ATTEMPTS.labels(outcome=outcome, reason=reason).inc()
    LATENCY.labels(outcome=outcome).observe(max(0.0, seconds))


def observe_refused_request(*, code: str) -> None:
    REQUESTS_REFUSED.labels(code=code).inc()


def observe_model(*, seconds: float) -> None:
    MODEL.observe(seconds)


def exposition() -> bytes:
    """All numbers of this process, or of all web processes where PROMETHEUS_MULTIPROC_DIR is shared."""
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)
    return generate_latest(REGISTRY)
