"""Claim: a web process stays under 150 MB, because it loads neither torch nor faiss.

Measured in production's gunicorn worker after it served pages, health checks, the API's schema and captures.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import httpx
from skimage import data

from benchmarks.common import machine, profile_of, record
from benchmarks.installation import production
from recognition.detect import Detector
from terminal.capture import CaptureStation

LIMIT_MB = 150
REQUESTS = 100
FORBIDDEN = ("torch", "faiss")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="default")
    options = parser.parse_args()
    before = machine()
    station = CaptureStation(profile_of(options.model), Detector())
    frame = cv2.resize(data.astronaut()[0:300, 70:370], (480, 480))
    with production(options.model, templates=0) as running:
        https = {"X-Forwarded-Proto": "https", "Host": "doors.example.org"}
        with (
            httpx.Client(base_url=running.url, timeout=60, headers=https) as browser,
            running.pair_door() as door,
        ):
            browser.get("/api/schema/").raise_for_status()
            for _ in range(REQUESTS):
                browser.get("/sign-in/").raise_for_status()
                door.attempt(station.capture(frame))
        process = Path(f"/proc/{running.web_pid}")
        status = (process / "status").read_text()
        loaded = [name for name in FORBIDDEN if f"/{name}" in (process / "maps").read_text()]
    now, peak = (int(status.partition(f"{name}:")[2].split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))
    record(
        "web_memory",
        title="Memory of a web process",
        claim=f"a web process stays under {LIMIT_MB} MB and loads neither torch nor faiss.",
        holds=peak < LIMIT_MB and not loaded,
        rows=[
            ("resident, peak", f"{peak:.0f} MB"),
            ("resident, at the end", f"{now:.0f} MB"),
            ("torch or faiss mapped", ", ".join(loaded) or "no"),
            ("served before", f"{REQUESTS} pages, {REQUESTS} attempts, the API's schema"),
        ],
        figures={"peak_mb": round(peak, 1), "resident_mb": round(now, 1), "mapped": loaded},
        before=before,
    )


if __name__ == "__main__":
    main()
