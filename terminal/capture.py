"""From a frame to bytes that may leave: detect, judge, check liveness, align, transform, perturb, pack.

The aligned face and its clean frequencies exist inside one call and are overwritten before it returns. What
comes out is noise drawn fresh from the operating system, for one use.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from recognition.align import align
from recognition.budget import PrivacyProfile
from recognition.detect import Detector
from recognition.frequency import to_frequency
from recognition.noise import perturb
from recognition.payload import pack
from recognition.quality import Quality, QualityLimits, assess
from recognition.types import FaceCrop
from terminal.liveness import Liveness, NoLiveness


@dataclass(frozen=True)
class Capture:
    """`payload`: the wire format of docs/protocol.md, empty unless `quality.ok` and `live`."""

    payload: bytes = field(repr=False)
    quality: Quality
    live: bool = True

    @property
    def ok(self) -> bool:
        return bool(self.payload)

    @property
    def advice(self) -> str:
        """What to tell the person."""
        return self.quality.advice if self.live else "Please move a little: the camera sees a still picture."


class CaptureStation:
    """One camera's way to a payload. Not for two threads at once."""

    def __init__(
        self,
        profile: PrivacyProfile,
        detector: Detector,
        *,
        liveness: Liveness | None = None,
        limits: QualityLimits | None = None,
        randomness: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._profile = profile
        self._detector = detector
        self._liveness = liveness or NoLiveness()
        self._limits = limits or QualityLimits()
        self._randomness = randomness

    @property
    def profile(self) -> PrivacyProfile:
        return self._profile

    def capture(self, frame: NDArray[np.uint8]) -> Capture:
        """Take one capture of the largest face in `frame`, uint8 (H, W, 3) RGB, or say why not."""
        faces = self._detector.find(frame)
        self._liveness.observe(faces[0] if faces else None)
        crop = align(frame, faces[0].points) if faces else None
        try:
            quality = assess(frame, faces, crop, self._limits)
            if crop is None or not quality.ok:
                return Capture(b"", quality)
            if not self._liveness.is_live():
                return Capture(b"", quality, live=False)
            return Capture(self._perturbed(crop), quality)
        finally:
            if crop is not None:
                crop.pixels.fill(0)

    def _perturbed(self, crop: FaceCrop) -> bytes:
        features = to_frequency(crop, self._profile.transform, channels=self._profile.sent)
        try:
            return pack(perturb(features, self._profile, self._randomness), self._profile)
        finally:
            features.values.fill(0)
