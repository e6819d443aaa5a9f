"""The lock. It opens on a verified, unexpired yes about this door, once, and shuts itself again."""

from __future__ import annotations

import subprocess
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

import httpx
from rich.console import Console

from terminal.decision import VerifiedDecision

HOLD_S = 5.0
DRIVER_TIMEOUT_S = 3.0
RELOCK_RETRY_S = 1.0
REMEMBERED_DECISIONS = 256  # far more than can be unexpired at once


class DoorError(Exception):
    """The lock did not do what it was told. A person has to look at the door."""


class Driver(Protocol):
    """One lock. Both methods may be called again and again, from any thread, and raise DoorError when they
    failed."""

    def unlock(self) -> None: ...

    def lock(self) -> None: ...


@dataclass(frozen=True)
class ConsoleDriver:
    """No lock at all: says what would happen."""

    console: Console = field(default_factory=Console)

    def unlock(self) -> None:
        self.console.print("door: [bold green]unlocked[/]")

    def lock(self) -> None:
        self.console.print("door: locked")


@dataclass(frozen=True)
class CommandDriver:
    """A program per movement, for example `gpioset`: a list of words, never a shell."""

    unlock_command: Sequence[str]
    lock_command: Sequence[str]

    def unlock(self) -> None:
        self._run(self.unlock_command)

    def lock(self) -> None:
        self._run(self.lock_command)

    def _run(self, command: Sequence[str]) -> None:
        try:
            subprocess.run(
                list(command),
                check=True,
                timeout=DRIVER_TIMEOUT_S,
                stdin=subprocess.DEVNULL,
                capture_output=True,
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise DoorError(f"{command[0]} failed: {error}") from error


@dataclass(frozen=True)
class RelayDriver:
    """A network relay that switches on a POST. It must stand in a network of its own: the relay trusts
    whoever asks."""

    unlock_url: str
    lock_url: str
    transport: httpx.BaseTransport | None = None

    def unlock(self) -> None:
        self._post(self.unlock_url)

    def lock(self) -> None:
        self._post(self.lock_url)

    def _post(self, url: str) -> None:
        try:
            with httpx.Client(transport=self.transport, timeout=DRIVER_TIMEOUT_S) as client:
                client.post(url).raise_for_status()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise DoorError(f"the relay did not obey: {error}") from error


class _Timer(Protocol):
    def start(self) -> None: ...

    def cancel(self) -> None: ...


def _thread_timer(seconds: float, action: Callable[[], None]) -> _Timer:
    timer = threading.Timer(seconds, action)
    timer.daemon = True
    return timer


@dataclass(frozen=True)
class Opening:
    """What the door did. `reason` is `opened`, or why it stayed shut."""

    opened: bool
    reason: str


class Door:
    """One door. Locked when made, locked again `hold_s` after every opening, locked when closed.

    `open` may be called by one thread while the timer locks in another: a guard orders them. A relock that a
    new opening comes too late to cancel shuts the door early, never late.
    """

    def __init__(
        self,
        *,
        door_id: str | None,
        driver: Driver,
        hold_s: float = HOLD_S,
        timer: Callable[[float, Callable[[], None]], _Timer] = _thread_timer,
    ) -> None:
        if not 0 < hold_s <= 60:
            raise ValueError("a door is held open for more than 0 and at most 60 seconds")
        self._door_id = door_id
        self._driver = driver
        self._hold_s = hold_s
        self._timer = timer
        self._relock: _Timer | None = None
        self._used: deque[str] = deque(maxlen=REMEMBERED_DECISIONS)
        self._guard = threading.RLock()
        self._driver.lock()

    def open(self, decision: VerifiedDecision, *, now: datetime) -> Opening:
        """Unlock if, and only if, everything holds. That the decision answers this terminal's own request was
        proven when it was read; that it has not opened before is checked here. `now` is aware. Raises
        DoorError."""
        refusal = self._refusal(decision, now=now)
        if refusal is not None:
            return Opening(False, refusal)
        with self._guard:
            if decision.attempt_id in self._used:
                return Opening(False, "decision_used")
            self._used.append(decision.attempt_id)
            if self._relock is not None:
                self._relock.cancel()
            # The relock is under way before the lock moves: whatever fails next, the door shuts.
            self._schedule(self._hold_s)
            try:
                self._driver.unlock()
            except Exception as error:
                self.shut()
                raise DoorError(f"the door could not be unlocked: {error}") from error
        return Opening(True, "opened")

    def shut(self) -> None:
        """Lock now; if that fails, try again every second until it succeeds."""
        with self._guard:
            if self._relock is not None:
                self._relock.cancel()
                self._relock = None
            try:
                self._driver.lock()
            except Exception:
                self._schedule(RELOCK_RETRY_S)
                raise

    def _refusal(self, decision: object, *, now: datetime) -> str | None:
        if not isinstance(decision, VerifiedDecision):
            return "not_verified"
        if decision.granted is not True:
            return decision.reason
        if self._door_id is None or decision.door_id != self._door_id:
            return "wrong_door"
        if now >= decision.expires_at:
            return "decision_expired"
        return None

    def _schedule(self, seconds: float) -> None:
        self._relock = self._timer(seconds, self._lock_again)
        self._relock.start()

    def _lock_again(self) -> None:
        try:
            self.shut()
        except Exception:  # shut has scheduled the next try; a timer's thread has nobody to tell
            return
