"""Every reason has a picture that causes it, and an ordinary portrait causes none."""

import cv2
import numpy as np
import pytest

from recognition.align import align
from recognition.detect import Detector
from recognition.fetch_models import models_folder
from recognition.quality import ADVICE, QualityLimits, assess
from tests.recognition import faces


@pytest.fixture(scope="module")
def judge():
    detector = Detector(models=models_folder())

    def judge(frame, limits=None):
        found = detector.find(frame)
        return assess(
            frame, found, align(frame, found[0].points) if found else None, limits or QualityLimits()
        )

    return judge


def washed_out(frame):
    return np.clip(frame * 0.25 + 205, 0, 255).astype(np.uint8)


def at_the_edge(frame):
    return np.ascontiguousarray(frame[95:, :])


def test_an_ordinary_portrait_is_good(judge):
    quality = judge(faces.portrait())
    assert quality.ok and quality.reason == "good"
    assert 0.3 < quality.score <= 1


@pytest.mark.parametrize(
    ("reason", "frame"),
    [
        ("no_face", faces.nobody()),
        ("several_faces", faces.two_faces()),
        ("too_small", faces.scaled(faces.portrait(), 0.4)),
        ("too_dark", (faces.portrait() * 0.22).astype(np.uint8)),
        ("too_bright", washed_out(faces.portrait())),
        ("blurred", cv2.GaussianBlur(faces.portrait(), (0, 0), 3)),
        ("not_centred", at_the_edge(faces.portrait())),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bad_capture_is_refused_for_its_own_reason(judge, reason, frame):
    quality = judge(frame)
    assert (quality.ok, quality.reason, quality.score) == (False, reason, 0.0)
    assert quality.advice == ADVICE[reason]


def test_somebody_far_behind_does_not_stop_the_one_in_front(judge):
    frame = np.full((700, 1000, 3), 120, np.uint8)
    near, far = faces.scaled(faces.portrait(), 1.3), faces.scaled(faces.portrait(), 0.35)
    frame[: len(near), : near.shape[1]] = near
    frame[50 : 50 + len(far), 780 : 780 + far.shape[1]] = far
    assert judge(frame).reason == "good"


def test_a_stricter_door_asks_people_to_come_closer(judge):
    assert judge(faces.portrait(), QualityLimits(eye_distance=60)).reason == "too_small"


def test_a_face_turned_away_is_told_to_look_at_the_camera(judge):
    detector_sees = judge(faces.portrait())
    assert detector_sees.measures["yaw"] < 0.1
    assert judge(faces.portrait(), QualityLimits(yaw=0.0)).reason == "turned_away"
