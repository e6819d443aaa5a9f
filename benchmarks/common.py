"""What every benchmark shares: the machine in words, fair timing, and a dated result to keep."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from recognition.budget import PrivacyProfile, load_profile
from recognition.checkpoint import DEFAULT_PROFILE, model_folder

RESULTS = Path(__file__).parent / "results"
VERSIONS = ("numpy", "torch", "faiss-cpu", "django", "celery", "gunicorn")


def machine() -> dict[str, Any]:
    """Processor, cores, memory, versions, and how busy the machine was: without these a time means nothing."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    models = {line.partition(":")[2].strip() for line in info.splitlines() if line.startswith("model name")}
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    versions = {}
    for name in VERSIONS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "processor": ", ".join(sorted(models - {"unknown", ""})) or platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(pages / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": versions,
        "load_average_at_start": round(os.getloadavg()[0], 2),
        "scheduling": scheduling(),
    }


def calibration_ms() -> float:
    """The best of ten rounds of a fixed loop, in processor time: how fast one core was just now, for comparison."""
    best = float("inf")
    for _ in range(10):
        started, total = time.thread_time(), 0
        for number in range(200_000):
            total += number * number % 7
        best = min(best, (time.thread_time() - started) * 1000)
    return round(best, 1)


def scheduling() -> str:
    """How the kernel was asked to treat this process and its children: figures under a real-time policy are those of
    a machine that does nothing else."""
    policy = os.sched_getscheduler(0) if hasattr(os, "sched_getscheduler") else 0
    if policy in (getattr(os, "SCHED_FIFO", -1), getattr(os, "SCHED_RR", -1)):
        return f"real-time, priority {os.sched_getparam(0).sched_priority}"
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    return "ordinary" if nice == 0 else f"nice {nice}"


def interleaved(
    actions: Mapping[str, Callable[[], object]], *, rounds: int, warm_up: int = 3
) -> dict[str, list[float]]:
    """Milliseconds of every action in every round. Taking turns gives each the same share of any disturbance."""
    times: dict[str, list[float]] = {name: [] for name in actions}
    for number in range(warm_up + rounds):
        for name, action in actions.items():
            started = time.perf_counter()
            action()
            if number >= warm_up:
                times[name].append((time.perf_counter() - started) * 1000)
    return times


def median(times: Sequence[float]) -> float:
    return round(statistics.median(times), 2)


def p95(times: Sequence[float]) -> float:
    """Nearest rank."""
    return round(sorted(times)[max(0, -(-95 * len(times) // 100) - 1)], 2)


def profile_of(model: str) -> PrivacyProfile:
    """The default profile of a model, by name or folder."""
    return load_profile(model_folder(model) / DEFAULT_PROFILE)


def record(
    name: str,
    *,
    title: str,
    claim: str,
    holds: bool | None,
    rows: Sequence[tuple[str, str]],
    figures: Mapping[str, Any],
    before: Mapping[str, Any],
    again: str = "",
) -> None:
    """Print the result and keep it as results/<date>_<name>.json and .md. `before`: `machine()` at the start;
    `again`: the module and options that repeat it, where these are not the name alone."""
    date = datetime.now(UTC).date().isoformat()
    verdict = {True: "holds", False: "does not hold", None: "no limit is set"}[holds]
    RESULTS.mkdir(exist_ok=True)
    stem = RESULTS / f"{date}_{name}"
    document = {
        "benchmark": name, "date": date, "claim": claim, "holds": holds, "figures": figures, "machine": before,
    }  # fmt: skip
    stem.with_suffix(".json").write_text(json.dumps(document, indent=2) + "\n")
    versions = ", ".join(f"{package} {version}" for package, version in before["versions"].items())
    text = "\n".join(
        [
            f"# {title}",
            "",
            f"{date}. Claim: {claim} **{verdict.capitalize()}.**",
            "",
            "| what | figure |",
            "|---|---|",
            *(f"| {what} | {figure} |" for what, figure in rows),
            "",
            f"Machine: {before['processor']}, {before['cores']} cores, {before['memory_gib']} GiB,"
            f" {before['system']}, Python {before['python']}, {versions}."
            f" Load average at the start: {before['load_average_at_start']}."
            f" Scheduling: {before['scheduling']}.",
            "",
            f"Again: `python -m benchmarks.{again or name}`",
            "",
        ]
    )
    stem.with_suffix(".md").write_text(text)
    print(text)
