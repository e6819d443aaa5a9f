"""Is a person there, or a picture of one? What a plain camera can and cannot say about it.

Passive checks on single frames are fragile: a published detector called 14 % of honest photographs fake when
we measured it, and a good screen fools it. So Lintel ships two honest policies and no claim:

- `none`: every face is taken for a person. Put a guard, a second factor or a depth camera beside the door.
- `motion`: a face that does not move at all between frames is refused: a photograph on a stand, a frozen
  camera, one picture fed in a loop. It does NOT stop a photograph held by a hand, a mask, or a film on a
  screen.

A camera with depth or infra-red, or a vendor's detector, plugs in as another `Liveness`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from recognition.detect import Face

POLICIES = ("none", "motion")


class Liveness(Protocol):
    """Told of each frame's face in order of time; asked before a capture leaves."""

    def observe(self, face: Face | None) -> None: ...

    def is_live(self) -> bool: ...


class NoLiveness:
    """Policy `none`."""

    def observe(self, face: Face | None) -> None:
        """Nothing is kept."""

    def is_live(self) -> bool:
        return True


@dataclass
class MotionLiveness:
    """Policy `motion`: over the last `frames` frames some point of the face moved by `least_motion` eye
    distances.

    The points of a picture at rest jitter by sensor noise alone, well below 0.01; a standing person sways by
    more within half a second. Losing the face starts again.
    """

    frames: int = 4
    least_motion: float = 0.01
    _seen: deque[NDArray[np.float64]] = field(default_factory=deque, repr=False)

    def observe(self, face: Face | None) -> None:
        if face is None:
            self._seen.clear()
            return
        self._seen.append(face.points.astype(np.float64))
        while len(self._seen) > self.frames:
            self._seen.popleft()

    def is_live(self) -> bool:
        if len(self._seen) < self.frames:
            return False
        points = np.stack(self._seen)  # (frames, 5, 2)
        eye_distance = float(np.linalg.norm(points[0, 1] - points[0, 0]))
        travelled = np.linalg.norm(points.max(axis=0) - points.min(axis=0), axis=1).max()
        return bool(eye_distance > 0 and travelled / eye_distance >= self.least_motion)


def make_liveness(policy: str) -> Liveness:
    """Raises ValueError for a policy that does not exist: a misspelt policy must not mean none."""
    if policy == "none":
        return NoLiveness()
    if policy == "motion":
        return MotionLiveness()
    raise ValueError(f"liveness is one of {', '.join(POLICIES)}, not {policy!r}")
