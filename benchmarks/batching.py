"""Claim: throughput through Celery is at least 80 % of the same model called directly with the same batch size.

Both see the same captures. Directly: one process, batches of the worker's number of threads, nothing else.
Through Celery: attempts waiting in Redis and Postgres, one worker, each taken, unpacked, embedded in shared
batches, searched for, decided and audited; timed from the worker's first settled attempt to its last.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

from benchmarks.common import machine, record
from benchmarks.installation import ROOT, WORKER_THREADS, Running, django, production

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


def through_celery(running: Running, captures: int) -> dict[str, Any]:
    """The worker is held while the attempts queue up, so that it competes with nobody once it goes."""
    worker = running.worker_pids[0]
    os.kill(worker, signal.SIGSTOP)
    try:
        first = json.loads(django(running.environment, "submit", str(captures)))
    finally:
        os.kill(worker, signal.SIGCONT)
    started = time.time()
    while True:
        outcome = json.loads(django(running.environment, "settled", *first))
        if outcome["pending"] == 0:
            break
        if time.time() - started > PATIENCE_S:
            raise RuntimeError(f"the worker did not finish: {outcome}")
        time.sleep(1)
    return {"faces_per_s": captures / (outcome["last"] - started), "reasons": outcome["reasons"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="default")
    parser.add_argument("--captures", type=int, default=320)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    before = machine()
    alone, queued = [], []
    with production(options.model, templates=1000) as running:
        through_celery(running, WORKER_THREADS)  # warm
        for _ in range(options.rounds):
            alone.append(direct(running, options.captures))
            queued.append(through_celery(running, options.captures))
    ratios = [one["faces_per_s"] / speed for one, speed in zip(queued, alone, strict=True)]
    ratio = sorted(ratios)[len(ratios) // 2]
    record(
        "batching",
        title="Batching: attempts through Celery beside the model alone",
        claim=f"throughput through Celery is at least {LIMIT:.0%} of the same model called directly with the same"
        " batch size.",
        holds=ratio >= LIMIT,
        rows=[
            ("model alone", ", ".join(f"{speed:.1f}" for speed in alone) + " faces/s"),
            ("through Celery", ", ".join(f"{one['faces_per_s']:.1f}" for one in queued) + " attempts/s"),
            ("ratio, median of rounds", f"{ratio:.2f}"),
            ("batch size, captures a round", f"{WORKER_THREADS}, {options.captures}"),
            ("decisions", str(queued[-1]["reasons"])),
        ],
        figures={"direct_per_s": alone, "celery": queued, "ratios": ratios},
        before=before,
    )


if __name__ == "__main__":
    main()
