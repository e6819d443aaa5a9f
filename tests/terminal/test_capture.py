"""From a picture to bytes, and nothing of the picture after."""

import numpy as np
import pytest

from recognition.payload import unpack
from terminal.capture import CaptureStation
from terminal.liveness import MotionLiveness, make_liveness
from tests.recognition import faces


@pytest.fixture
def station(profile, detector):
    return CaptureStation(profile, detector)


def test_a_portrait_becomes_a_payload_of_its_profile(station, profile):
    capture = station.capture(faces.portrait())
    assert capture.ok and capture.quality.reason == "good"
    assert unpack(capture.payload, {profile.hash: profile}).codes.shape == profile.shape


def test_the_same_picture_never_gives_the_same_bytes_twice(station):
    first, second = (station.capture(faces.portrait()).payload for _ in range(2))
    assert first != second


@pytest.mark.parametrize(
    ("frame", "reason"), [(faces.nobody(), "no_face"), (faces.two_faces(), "several_faces")]
)
def test_a_bad_capture_holds_no_bytes_and_says_what_to_do(station, frame, reason):
    capture = station.capture(frame)
    assert (capture.payload, capture.quality.reason, capture.ok) == (b"", reason, False)
    assert capture.advice


def test_a_capture_does_not_show_its_bytes_when_printed(station):
    capture = station.capture(faces.portrait())
    assert "payload" not in repr(capture)


def test_crop_and_frequencies_are_overwritten_before_the_call_returns(profile, detector, monkeypatch):
    seen = []
    from terminal import capture as module

    for name in ("align", "to_frequency"):
        original = getattr(module, name)

        def spy(*arguments, original=original, **named):
            result = original(*arguments, **named)
            seen.append(result)
            return result

        monkeypatch.setattr(module, name, spy)
    assert CaptureStation(profile, detector).capture(faces.portrait()).ok
    crop, features = seen
    assert not crop.pixels.any() and not features.values.any()


def test_a_fault_in_the_transform_leaves_no_crop_behind(profile, detector, monkeypatch):
    crops = []
    from terminal import capture as module

    def failing(crop, transform, **named):
        crops.append(crop)
        raise RuntimeError("transform")

    monkeypatch.setattr(module, "to_frequency", failing)
    with pytest.raises(RuntimeError):
        CaptureStation(profile, detector).capture(faces.portrait())
    assert not crops[0].pixels.any()


def test_randomness_that_runs_short_sends_nothing(profile, detector):
    with pytest.raises(ValueError, match="ran short"):
        CaptureStation(profile, detector, randomness=lambda count: b"").capture(faces.portrait())


def test_a_still_picture_is_refused_under_the_motion_policy(profile, detector):
    station = CaptureStation(profile, detector, liveness=make_liveness("motion"))
    captures = [station.capture(faces.portrait()) for _ in range(6)]
    assert not any(capture.ok or capture.live for capture in captures)
    assert "move" in captures[-1].advice


def test_a_person_who_moves_passes_the_motion_policy(profile, detector):
    station = CaptureStation(profile, detector, liveness=MotionLiveness(frames=3))
    captures = [station.capture(np.roll(faces.portrait(), 2 * step, axis=1)) for step in range(4)]
    assert not captures[0].ok and captures[-1].ok


def test_motion_is_forgotten_when_the_face_leaves(profile, detector):
    station = CaptureStation(profile, detector, liveness=MotionLiveness(frames=2))
    station.capture(faces.portrait())
    station.capture(faces.nobody())
    assert not station.capture(np.roll(faces.portrait(), 9, axis=1)).ok


def test_a_misspelt_liveness_policy_does_not_mean_none():
    with pytest.raises(ValueError, match="liveness is one of"):
        make_liveness("moton")
