"""Claim: at 10,000 templates a decision costs, besides the model's own time, at most 15 ms (median) and 40 ms (p95).

From the signed request to the verified reply, at the real terminal client over HTTP: connection, signature,
database, payload store, queue, search, policy, audit entry, signed answer. The model's own time is what the
recognizer measured for that very capture. Measured for an enrolled person, whom the door lets in, and for a stranger,
one attempt at a time: under load attempts share batches, see batching.py.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import cv2
import httpx
from skimage import data

from benchmarks.common import calibration_ms, machine, median, p95, profile_of, record
from benchmarks.installation import Running, django, embedded, production
from recognition.detect import Detector
from recognition.frequency import to_frequency
from recognition.noise import perturb
from recognition.payload import pack
from terminal.capture import Capture, CaptureStation
from terminal.client import TerminalClient
from tests.tiny_model import synthetic_picture

MEDIAN_LIMIT_MS, P95_LIMIT_MS = 15, 40
WARM_UP = 20
ENROLLED_FROM = 3  # captures
WEB_STAGES, WORKER_STAGES = ("authenticate", "accept", "wait"), ("take", "search", "settle")
Start = Callable[..., AbstractContextManager[Running]]


class Gauge:
    """Reads the counters of a running Lintel over connections that stay open."""

    def __init__(self, running: Running) -> None:
        self._http = httpx.Client(timeout=30, verify=False)
        self._urls = {f"{running.url}/metrics", running.metrics_url}

    def seconds(self) -> dict[str, float]:
        """Sums since the start: by stage, and `model`."""
        found: dict[str, float] = {}
        for url in self._urls:
            for line in self._http.get(url).text.splitlines():
                name, _, value = line.rpartition(" ")
                if name == "lintel_model_seconds_sum":
                    found["model"] = found.get("model", 0.0) + float(value)
                elif name.startswith('lintel_attempt_stage_seconds_sum{stage="'):
                    stage = name.split('"')[1]
                    found[stage] = found.get(stage, 0.0) + float(value)
        return found


def portraits(station: CaptureStation, count: int) -> list[Capture]:
    """Captures of one public-domain portrait, each with noise of its own."""
    frame = cv2.resize(data.astronaut()[0:300, 70:370], (480, 480))
    return [station.capture(frame) for _ in range(count)]


def strangers(station: CaptureStation, like: Capture, count: int) -> list[Capture]:
    """Captures of pictures that are nobody's."""
    profile = station.profile
    features = [to_frequency(synthetic_picture(seed), profile.transform) for seed in range(16)]
    return [
        replace(like, payload=pack(perturb(features[n % len(features)], profile, os.urandom), profile))
        for n in range(count)
    ]


def enroll(running: Running, captures: Sequence[Capture]) -> None:
    """One more person, through the services, from these captures; the door's rule names this person too."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump([base64.b64encode(capture.payload).decode("ascii") for capture in captures], file)
        file.flush()
        django(running.environment, "enroll", file.name)


def overheads(running: Running, door: TerminalClient, captures: Sequence[Capture]) -> dict[str, Any]:
    """One attempt after the other; the first WARM_UP are not counted."""
    gauge = Gauge(running)
    overhead, totals, models = [], [], []
    reasons: dict[str, int] = {}
    processor_before, first = 0.0, gauge.seconds()
    for number, capture in enumerate(captures):
        before = gauge.seconds()
        if number == WARM_UP:
            processor_before, first = running.processor_seconds(), before
        started = time.perf_counter()
        decision = door.attempt(capture)
        total = (time.perf_counter() - started) * 1000
        if number < WARM_UP:
            continue
        model = (gauge.seconds()["model"] - before["model"]) * 1000
        reasons[decision.reason] = reasons.get(decision.reason, 0) + 1
        totals.append(total)
        models.append(model)
        overhead.append(total - model)
    counted = len(overhead)
    last = gauge.seconds()
    processor = (running.processor_seconds() - processor_before) * 1000 / counted
    mean = {
        name: (last[name] - first[name]) * 1000 / counted for name in (*WEB_STAGES, *WORKER_STAGES, "model")
    }
    mean["queue_and_waking"] = mean["wait"] - sum(mean[name] for name in (*WORKER_STAGES, "model"))
    mean["http_and_terminal"] = sum(totals) / counted - sum(mean[name] for name in WEB_STAGES)
    return {
        "overhead_median_ms": median(overhead), "overhead_p95_ms": p95(overhead),
        "total_median_ms": median(totals), "model_median_ms": median(models),
        "processor_ms_per_attempt": round(processor, 1), "reasons": reasons, "attempts": counted,
        "mean_ms": {name: round(value, 2) for name, value in mean.items()},
    }  # fmt: skip


def measure(start: Start, station: CaptureStation, options: argparse.Namespace) -> dict[str, Any]:
    faces = portraits(station, ENROLLED_FROM + WARM_UP + options.attempts)
    nobody = strangers(station, faces[0], WARM_UP + options.attempts)
    with start(options.model, templates=options.templates) as running:
        enroll(running, faces[:ENROLLED_FROM])
        with running.pair_door() as door:
            return {
                "enrolled": overheads(running, door, faces[ENROLLED_FROM:]),
                "stranger": overheads(running, door, nobody),
            }


def rows_of(size: str, who: str, found: dict[str, Any]) -> list[tuple[str, str]]:
    mean = found["mean_ms"]
    reasons = ", ".join(f"{count} {reason}" for reason, count in found["reasons"].items())
    stages = (
        f"HTTP, terminal, signing the reply {mean['http_and_terminal']}; authenticate {mean['authenticate']};"
        f" accept {mean['accept']}; queue and waking {mean['queue_and_waking']}; take {mean['take']};"
        f" search {mean['search']}; settle {mean['settle']}"
    )
    return [
        (f"{size}, {who}: overhead, median / p95",
         f"{found['overhead_median_ms']} / {found['overhead_p95_ms']} ms"),
        (f"{size}, {who}: request to verified reply, and of that the model, medians",
         f"{found['total_median_ms']}, {found['model_median_ms']} ms"),
        (f"{size}, {who}: where it goes, means in ms", stages),
        (f"{size}, {who}: processor time of web and worker, model included",
         f"{found['processor_ms_per_attempt']} ms"),
        (f"{size}, {who}: decisions", reasons),
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="default")
    parser.add_argument("--templates", type=int, default=10_000)
    parser.add_argument("--attempts", type=int, default=200, help="of each kind")
    parser.add_argument("--only", choices=("embedded", "production"))
    options = parser.parse_args()
    before = machine()
    station = CaptureStation(profile_of(options.model), Detector())
    sizes: dict[str, Start] = {"embedded": embedded, "production": production}
    figures: dict[str, Any] = {"templates": options.templates, "calibration_ms": [calibration_ms()]}
    rows, holds = [], True
    for size, start in sizes.items():
        if options.only not in (None, size):
            continue
        figures[size] = measure(start, station, options)
        figures["calibration_ms"].append(calibration_ms())
        for who, found in figures[size].items():
            rows += rows_of(size, who, found)
            holds = holds and found["overhead_median_ms"] <= MEDIAN_LIMIT_MS
            holds = holds and found["overhead_p95_ms"] <= P95_LIMIT_MS
    rows.append(
        ("calibration loop before, between and after", f"{', '.join(map(str, figures['calibration_ms']))} ms")
    )
    if options.only:
        for row in rows:
            print(*row, sep=": ")
        return
    record(
        "decision_overhead",
        title=f"Decision overhead at {options.templates:,} templates",
        claim=f"besides the model's own time a decision costs at most {MEDIAN_LIMIT_MS} ms (median) and"
        f" {P95_LIMIT_MS} ms (p95), embedded (SQLite) and with Postgres, Redis and Celery, for an enrolled person and"
        " for a stranger.",
        holds=holds,
        rows=rows,
        figures=figures,
        before=before,
    )


if __name__ == "__main__":
    main()
