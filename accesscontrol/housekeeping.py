"""The clock of an embedded server: runs on a thread what Celery's beat would hand to workers in production.

One process, so nobody else runs the same task at the same time, and a task that is late is not run twice.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from django.conf import settings

from accesscontrol.celery import run_here

TICK_S = 0.5


class Clock:
    """Runs each task of `schedule` (task name -> seconds) whenever its time has come, on one thread of its own."""

    def __init__(
        self,
        schedule: Mapping[str, float],
        *,
        run: Callable[[str, dict[str, Any]], object] = run_here,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._schedule = schedule
        self._run = run
        self._now = now
        self._due = {name: now() + every for name, every in schedule.items()}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="lintel-clock", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_s: float = 1.0) -> None:
        """Start nothing more, and wait for what runs. Cutting it short is safe: each task is one transaction."""
        self._stopping.set()
        self._thread.join(timeout_s)

    def run_due(self) -> None:
        """Run what is due now. The next time counts from the end, so a slow task never piles up."""
        for name, due in self._due.items():
            if self._now() >= due:
                self._run(name, {})
                self._due[name] = self._now() + self._schedule[name]

    def _loop(self) -> None:
        while not self._stopping.wait(TICK_S):
            self.run_due()


def start_embedded_clock() -> Clock:
    clock = Clock(settings.LINTEL_PERIODIC_TASKS)
    clock.start()
    return clock
