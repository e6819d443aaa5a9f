"""Claim: at 10,000 templates a decision costs, besides the model's own time, at most 15 ms (median) and 40 ms (p95).

From the signed request to the verified reply, at the real terminal client over HTTP: connection, signature,
database, payload store, queue, search, policy, audit entry, signed answer. The model's own time is what the
recognizer measured for that very capture, less the time it waited for company, which counts as overhead.
One attempt at a time: under load attempts share batches, see batching.py.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import cv2
from skimage import data

from benchmarks.common import machine, median, p95, profile_of, record
from benchmarks.installation import Running, embedded, production
from recognition.detect import Detector
from terminal.capture import CaptureStation

MEDIAN_LIMIT_MS, P95_LIMIT_MS = 15, 40
BATCHING_WINDOW_MS = 2.0  # BatchingRecognizer's max_wait_ms: a lonely capture waits it out


def overheads(
    running: Running, station: CaptureStation, *, attempts: int, warm_up: int = 10
) -> dict[str, Any]:
    frame = cv2.resize(data.astronaut()[0:300, 70:370], (480, 480))
    overhead, totals, models = [], [], []
    reasons: dict[str, int] = {}
    processor_before = 0.0
    with running.pair_door() as door:
        for number in range(warm_up + attempts):
            capture = station.capture(frame)
            model_before = running.model_seconds()
            started = time.perf_counter()
            decision = door.attempt(capture)
            total = (time.perf_counter() - started) * 1000
            if number < warm_up:
                processor_before = running.processor_seconds()
                continue
            model = (running.model_seconds() - model_before) * 1000 - BATCHING_WINDOW_MS
            reasons[decision.reason] = reasons.get(decision.reason, 0) + 1
            totals.append(total)
            models.append(model)
            overhead.append(total - model)
        processor = (running.processor_seconds() - processor_before) * 1000 / attempts
    return {
        "processor_ms_per_attempt": round(processor, 1), "overhead_median_ms": median(overhead),
        "overhead_p95_ms": p95(overhead), "total_median_ms": median(totals),
        "model_median_ms": median(models), "reasons": reasons,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="default")
    parser.add_argument("--templates", type=int, default=10_000)
    parser.add_argument("--attempts", type=int, default=200)
    options = parser.parse_args()
    before = machine()
    station = CaptureStation(profile_of(options.model), Detector())
    figures: dict[str, Any] = {"templates": options.templates, "attempts": options.attempts}
    rows = []
    for size, start in (("embedded", embedded), ("production", production)):
        with start(options.model, templates=options.templates) as running:
            found = overheads(running, station, attempts=options.attempts)
        figures[size] = found
        rows += [
            (
                f"{size}: overhead, median / p95",
                f"{found['overhead_median_ms']} / {found['overhead_p95_ms']} ms",
            ),
            (f"{size}: request to verified reply, median", f"{found['total_median_ms']} ms"),
            (f"{size}: of that the model, median", f"{found['model_median_ms']} ms"),
            (
                f"{size}: processor time of all processes, model included",
                f"{found['processor_ms_per_attempt']} ms",
            ),
        ]
    record(
        "decision_overhead",
        title=f"Decision overhead at {options.templates:,} templates",
        claim=f"besides the model's own time a decision costs at most {MEDIAN_LIMIT_MS} ms (median) and"
        f" {P95_LIMIT_MS} ms (p95), embedded (SQLite) and with Postgres, Redis and Celery.",
        holds=all(
            figures[size]["overhead_median_ms"] <= MEDIAN_LIMIT_MS
            and figures[size]["overhead_p95_ms"] <= P95_LIMIT_MS
            for size in ("embedded", "production")
        ),
        rows=rows,
        figures=figures,
        before=before,
    )


if __name__ == "__main__":
    main()
