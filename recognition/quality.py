"""Is this capture worth sending, and if not, what should the person do? Thresholds are in one place and have
units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from recognition.detect import Face
from recognition.types import FaceCrop

ADVICE = {
    "good": "Hold still.",
    "no_face": "Look at the camera.",
    "several_faces": "One person at a time, please.",
    "too_small": "Come closer.",
    "too_dark": "More light on your face, please.",
    "too_bright": "Too much light on your face: turn away from it.",
    "blurred": "Hold still.",
    "turned_away": "Look straight at the camera.",
    "not_centred": "Move to the middle.",
}


@dataclass(frozen=True)
class QualityLimits:
    """Where a capture stops being good enough. Defaults: benchmarks/landmarks.py passes ordinary portraits
    with these."""

    bystander: float = (
        0.4  # second face's eye distance, of the first's: smaller ones are people in the background
    )
    eye_distance: float = (
        24.0  # pixels; about a face of 60 px. The template has 35: below 24 a crop is mostly guesswork
    )
    darkest: float = 45.0  # mean luma of the face, 0..255
    brightest: float = 225.0
    contrast: float = 12.0  # standard deviation of luma within the face
    sharpness: float = 15.0  # variance of the Laplacian of the 112x112 crop's luma
    yaw: float = (
        0.45  # nose tip's distance from the middle between the eyes, along the eyes, in eye distances
    )
    pitch_low: float = 0.30  # nose tip's place on the way from the eyes (0) to the mouth (1)
    pitch_high: float = 0.85
    roll: float = 35.0  # degrees
    margin: float = 0.02  # of the frame's sides: every point of the face must be at least this far inside


@dataclass(frozen=True)
class Quality:
    """`reason` is a key of ADVICE; `score` is 0..1, and 0 unless ok."""

    ok: bool
    reason: str
    score: float
    measures: dict[str, float] = field(default_factory=dict)

    @property
    def advice(self) -> str:
        """One sentence to show to the person at the door."""
        return ADVICE[self.reason]


def assess(
    frame: NDArray[np.uint8],
    faces: Sequence[Face],
    crop: FaceCrop | None,
    limits: QualityLimits = QualityLimits(),
) -> Quality:
    """Judge one capture: the frame it came from, all faces found in it (largest first), and the largest one's
    crop.

    The first failing check names the reason; they are ordered by what a person should put right first.
    """
    if not faces or crop is None:
        return Quality(ok=False, reason="no_face", score=0.0)
    face = faces[0]
    measures = _measure(frame, faces, crop)
    checks = (
        ("several_faces", measures["bystander"] < limits.bystander),
        ("too_small", measures["eye_distance"] >= limits.eye_distance),
        ("not_centred", _inside(face, frame, limits.margin)),
        ("too_dark", measures["brightness"] >= limits.darkest),
        ("too_bright", measures["brightness"] <= limits.brightest),
        ("turned_away", measures["yaw"] <= limits.yaw),
        ("turned_away", limits.pitch_low <= measures["pitch"] <= limits.pitch_high),
        ("turned_away", measures["roll"] <= limits.roll),
        ("blurred", measures["sharpness"] >= limits.sharpness and measures["contrast"] >= limits.contrast),
    )
    for reason, passed in checks:
        if not passed:
            return Quality(ok=False, reason=reason, score=0.0, measures=measures)
    return Quality(ok=True, reason="good", score=_score(measures, limits), measures=measures)


def _measure(frame: NDArray[np.uint8], faces: Sequence[Face], crop: FaceCrop) -> dict[str, float]:
    points = faces[0].points.astype(np.float64)
    left_eye, right_eye, nose = points[0], points[1], points[2]
    eyes, mouth = (left_eye + right_eye) / 2, (points[3] + points[4]) / 2
    along = right_eye - left_eye
    eye_distance = float(np.linalg.norm(along))
    down = mouth - eyes
    # A turned face draws its eyes together, so distances are taken relative to the larger of width and
    # height.
    face_scale = max(eye_distance, float(np.linalg.norm(down)), 1e-6)
    unit = along / max(eye_distance, 1e-6)
    luma = cv2.cvtColor(crop.pixels, cv2.COLOR_RGB2GRAY)
    face_luma = luma[30:104, 22:90]  # eyebrows to chin, without background at the sides
    return {
        "bystander": max((other.eye_distance for other in faces[1:]), default=0.0) / max(eye_distance, 1e-6),
        "eye_distance": eye_distance,
        "brightness": float(face_luma.mean()),
        "contrast": float(face_luma.std()),
        "sharpness": float(cv2.Laplacian(luma, cv2.CV_64F)[30:104, 22:90].var()),
        "yaw": abs(float((nose - (eyes + mouth) / 2) @ unit)) / face_scale,
        "pitch": float((nose - eyes) @ down) / max(float(down @ down), 1e-6),
        "roll": abs(float(np.degrees(np.arctan2(along[1], along[0])))),
    }


def _inside(face: Face, frame: NDArray[np.uint8], margin: float) -> bool:
    height, width = frame.shape[:2]
    low = np.array([width, height]) * margin
    high = np.array([width, height]) * (1 - margin)
    return bool((face.points >= low).all() and (face.points <= high).all())


def _score(measures: dict[str, float], limits: QualityLimits) -> float:
    """The weakest of the graded measures, each 0 at its limit and 1 where more would not help recognition."""
    grades = (
        (measures["eye_distance"] - limits.eye_distance) / (48.0 - limits.eye_distance),
        (measures["brightness"] - limits.darkest) / (90.0 - limits.darkest),
        (limits.brightest - measures["brightness"]) / (limits.brightest - 190.0),
        (measures["sharpness"] - limits.sharpness) / (120.0 - limits.sharpness),
        (limits.yaw - measures["yaw"]) / (limits.yaw - 0.1),
    )
    return round(float(np.clip(min(grades), 0.0, 1.0)), 3)
