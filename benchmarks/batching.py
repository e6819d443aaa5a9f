"""Claim: embedding through Celery reaches at least 80 % of the same model called directly with the same batch size.

Directly: one process, batches as large as the worker has threads, nothing else. Through Celery: captures wait in
Redis, one worker takes each by its key, unpacks it and embeds it in shared batches. Also measured: the whole way to a
decision (search, policy, Postgres transaction, audit entry), which shares the same cores with Postgres and Redis.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import redis

from benchmarks.common import machine, record
from benchmarks.installation import EMBEDDED_COUNTER, ROOT, WORKER_THREADS, Running, django, production

LIMIT = 0.8
PATIENCE_S = 60

DIRECT = """
import os, sys, time
import cv2, numpy as np
from skimage import data
from recognition.frequency import to_frequency
from recognition.noise import perturb
from recognition.recognizer import Recognizer
from recognition.types import FaceCrop
model, batch, rounds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
recognizer = Recognizer.load(model)
profile = recognizer.default_profile
crop = FaceCrop(np.ascontiguousarray(cv2.resize(data.astronaut()[40:190, 150:300], (112, 112))))
features = to_frequency(crop, profile.transform)
captures = [perturb(features, profile, os.urandom) for _ in range(batch)]
for _ in range(2):
    recognizer.embed(captures)
started = time.perf_counter()
for _ in range(rounds):
    recognizer.embed(captures)
print(rounds * batch / (time.perf_counter() - started))
"""


def direct(running: Running, captures: int) -> float:
    """Faces a second of the model alone, in batches as large as the worker's can be."""
    rounds = max(1, captures // WORKER_THREADS)
    command = [
        sys.executable,
        "-c",
        DIRECT,
        running.environment["LINTEL_MODEL"],
        str(WORKER_THREADS),
        str(rounds),
    ]
    done = subprocess.run(
        command, cwd=ROOT, env=running.environment, capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def embedded_through_celery(running: Running, captures: int) -> float:
    """Faces a second from queue to embedding: taken from Redis by key, unpacked, embedded in shared batches."""
    counter = redis.Redis.from_url(running.environment["LINTEL_REDIS_URL"])
    counter.delete(EMBEDDED_COUNTER)
    with held(running.worker_pids[0]):
        django(running.environment, "enqueue", str(captures))
    started = time.time()
    while int(counter.get(EMBEDDED_COUNTER) or 0) < captures:
        _not_too_late(started)
        time.sleep(0.02)
    return captures / (time.time() - started)


def decided_through_celery(running: Running, captures: int) -> dict[str, Any]:
    """Attempts a second from queue to decision, audit entry included."""
    with held(running.worker_pids[0]):
        first = json.loads(django(running.environment, "submit", str(captures)))
    started = time.time()
    with psycopg.connect(running.environment["LINTEL_DATABASE_URL"], autocommit=True) as rows:
        while rows.execute(
            "SELECT 1 FROM accesscontrol_accessattempt WHERE state = 'pending' LIMIT 1"
        ).fetchone():
            _not_too_late(started)
            time.sleep(0.25)
    outcome = json.loads(django(running.environment, "settled", *first))
    return {"attempts_per_s": captures / (outcome["last"] - started), "reasons": outcome["reasons"]}


@contextmanager
def held(worker: int) -> Iterator[None]:
    """The worker stands still while work queues up, so that it competes with nobody once it goes."""
    os.kill(worker, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(worker, signal.SIGCONT)


def _not_too_late(started: float) -> None:
    if time.time() - started > PATIENCE_S:
        raise RuntimeError("the worker did not finish")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="default")
    parser.add_argument("--captures", type=int, default=320)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    before = machine()
    alone, embedded, decided = [], [], []
    with production(options.model, templates=1000) as running:
        running.pair_door().close()
        embedded_through_celery(running, 2 * WORKER_THREADS)  # warm
        decided_through_celery(running, 2 * WORKER_THREADS)
        for _ in range(options.rounds):
            alone.append(direct(running, options.captures))
            embedded.append(embedded_through_celery(running, options.captures))
            decided.append(decided_through_celery(running, options.captures))
    ratio = statistics.median(through / speed for through, speed in zip(embedded, alone, strict=True))
    whole = statistics.median(
        one["attempts_per_s"] / speed for one, speed in zip(decided, alone, strict=True)
    )
    record(
        "batching",
        title="Batching: captures through Celery beside the model alone",
        claim=f"embedding through Celery reaches at least {LIMIT:.0%} of the same model called directly with the"
        " same batch size.",
        holds=ratio >= LIMIT,
        rows=[
            ("model alone", ", ".join(f"{speed:.1f}" for speed in alone) + " faces/s"),
            ("queue to embedding", ", ".join(f"{speed:.1f}" for speed in embedded) + " faces/s"),
            ("ratio, median of rounds", f"{ratio:.2f}"),
            ("queue to decision, Postgres and Redis on the same cores",
             ", ".join(f"{one['attempts_per_s']:.1f}" for one in decided) + " attempts/s"),
            ("ratio of that, median of rounds", f"{whole:.2f}"),
            ("batch size, captures a round", f"{WORKER_THREADS}, {options.captures}"),
            ("torch threads, both", os.environ.get("OMP_NUM_THREADS", "as many as cores")),
            ("decisions", str(decided[-1]["reasons"])),
        ],
        figures={
            "direct_per_s": alone, "embedded_per_s": embedded, "decided": decided,
            "ratio": round(ratio, 3), "ratio_decided": round(whole, 3),
        },
        before=before,
    )  # fmt: skip


if __name__ == "__main__":
    main()
