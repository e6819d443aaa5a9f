"""Every reason has a picture that causes it, and an ordinary portrait causes none."""

import cv2
import numpy as np
import pytest

from recognition.align import align
from recognition.detect import Detector, Face
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


def rotated(points, *, yaw=0.0, roll=0.0):
    """The five points of a head turned by so many degrees; its nose stands out by 0.6 of the distance of the eyes."""
    middle, distance = points.mean(axis=0), np.linalg.norm(points[1] - points[0])
    depth = np.array([0, 0, 0.6, 0, 0]) * distance
    angle, lean = np.radians(yaw), np.radians(roll)
    across, down = (points - middle).T
    across = across * np.cos(angle) + depth * np.sin(angle)
    leaned = np.stack(
        [across * np.cos(lean) - down * np.sin(lean), across * np.sin(lean) + down * np.cos(lean)]
    )
    return (leaned.T + middle).astype(np.float32)


@pytest.mark.parametrize(
    ("turn", "reason"),
    [({}, "good"), ({"yaw": 5}, "good"), ({"roll": 20}, "good"), ({"yaw": 45}, "turned_away"),
     ({"yaw": -45}, "turned_away"), ({"roll": 50}, "turned_away")],
    ids=["straight", "hardly turned", "leaned a little", "to one side", "to the other", "leaned over"],
)  # fmt: skip
def test_how_far_a_head_may_turn_before_the_door_asks_it_to_look(turn, reason):
    frame = faces.portrait()
    (face,) = Detector(models=models_folder()).find(frame)
    points = rotated(face.points, **turn)
    moved = Face(box=face.box, points=points, score=face.score)
    assert assess(frame, [moved], align(frame, points), QualityLimits()).reason == reason
