"""When the server cannot be reached: the door stays shut, the screen says so, and no capture is kept for
later.

A queued capture would be a stored face of somebody who has long gone, and a late answer would open for
whoever stands there then. So nothing is queued.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 60.0


@dataclass
class Connection:
    """Whether the server answers, and when to try again. Time is passed in, in seconds of a steady clock.

    `chance` gives numbers in 0..1: full jitter, so that doors do not all return in the same second.
    """

    chance: Callable[[], float]
    failures: int = 0
    retry_at: float = 0.0

    @property
    def online(self) -> bool:
        return self.failures == 0

    def may_try(self, now: float) -> bool:
        return self.online or now >= self.retry_at

    def succeeded(self) -> None:
        self.failures = 0
        self.retry_at = 0.0

    def failed(self, now: float) -> float:
        """Note a failure and return the wait in seconds, at least a tenth of FIRST_WAIT_S."""
        self.failures += 1
        ceiling = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(self.failures - 1, 10))
        wait = max(FIRST_WAIT_S / 10, ceiling * self.chance())
        self.retry_at = now + wait
        return wait
