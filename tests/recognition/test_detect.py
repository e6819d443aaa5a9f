"""The shipped detector on a portrait: near, far, dark, turned, twice, and not at all."""

import cv2
import numpy as np
import pytest

from recognition.detect import Detector, Face, FaceUnits, agree_with_yunet
from recognition.fetch_models import (
    FACE_MESH,
    PACKAGES,
    ModelsUnavailableError,
    fetch_tarball,
    find_registry,
    models_folder,
    read_model,
)
from tests.recognition import faces


@pytest.fixture(scope="module")
def detector():
    return Detector(models=models_folder())


def eyes_found(detector, frame):
    (face,) = detector.find(frame)
    return face.points[:2]


def test_a_portrait_has_one_face_with_its_eyes_where_they_are(detector):
    frame = faces.portrait()
    (face,) = detector.find(frame)
    assert face.score > 0.8
    assert np.linalg.norm(face.points[:2] - faces.EYES, axis=1).max() < 4
    left_eye, right_eye, nose, left_mouth, right_mouth = face.points
    assert left_eye[0] < nose[0] < right_eye[0]
    assert left_eye[1] < nose[1] < left_mouth[1]
    assert left_mouth[0] < right_mouth[0]


@pytest.mark.parametrize("factor", [0.6, 1.5, 3.0])
def test_the_same_points_are_found_at_any_size(detector, factor):
    found = eyes_found(detector, faces.scaled(faces.portrait(), factor)) / factor
    assert np.linalg.norm(found - faces.EYES, axis=1).max() < 5


def test_a_face_that_fills_the_frame_is_found(detector):
    (face,) = detector.find(faces.scaled(faces.head()[30:160, 25:175], 4))
    assert face.eye_distance > 120


def test_a_face_of_sixty_pixels_is_found_in_a_wide_frame(detector):
    frame = np.full((720, 1280, 3), 100, np.uint8)
    small = faces.scaled(faces.portrait(), 0.6)
    frame[300 : 300 + len(small), 100 : 100 + small.shape[1]] = small
    (face,) = detector.find(frame)
    assert np.linalg.norm(face.points[:2] - (faces.EYES * 0.6 + (100, 300)), axis=1).max() < 4


def test_a_dark_frame_still_shows_the_face(detector):
    dark = (faces.portrait() * 0.35).astype(np.uint8)
    assert np.linalg.norm(eyes_found(detector, dark) - faces.EYES, axis=1).max() < 5


def test_a_head_leaned_to_the_side_is_followed(detector):
    matrix = cv2.getRotationMatrix2D((225, 110), 20, 1.0)
    leaned = cv2.warpAffine(faces.portrait(), matrix, (512, 512), borderMode=cv2.BORDER_REFLECT)
    expected = faces.EYES @ matrix[:, :2].T + matrix[:, 2]
    assert np.linalg.norm(eyes_found(detector, leaned) - expected, axis=1).max() < 5


def test_two_people_are_two_faces_largest_first(detector):
    found = detector.find(faces.two_faces())
    assert len(found) == 2
    assert found[0].box[2] * found[0].box[3] >= found[1].box[2] * found[1].box[3]


@pytest.mark.parametrize(
    "frame",
    [faces.nobody(), np.zeros((480, 640, 3), np.uint8), np.full((10, 2000, 3), 255, np.uint8)],
    ids=["a wall", "darkness", "a strange shape"],
)
def test_nobody_is_found_where_nobody_is(detector, frame):
    assert detector.find(frame) == []


@pytest.mark.parametrize(
    "frame",
    [
        np.zeros((480, 640), np.uint8),
        np.zeros((480, 640, 4), np.uint8),
        np.zeros((4, 4, 3)),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_what_is_not_a_frame_is_refused(detector, frame):
    with pytest.raises(ValueError, match="a frame is uint8"):
        detector.find(frame)


def test_the_correction_moves_with_the_face():
    points = [*faces.EYES, (222, 131), (201, 139), (246, 142)]
    points = np.array(points, np.float64)
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    there = 3.0 * agree_with_yunet(points) @ turn.T + (40, -7)
    assert np.allclose(agree_with_yunet(3.0 * points @ turn.T + (40, -7)), there)
    units = FaceUnits.of(points)
    assert np.allclose(units.place(units.measure(points)), points)


def test_missing_networks_say_how_to_get_them(tmp_path):
    with pytest.raises(ModelsUnavailableError, match=r"recognition\.fetch_models"):
        Detector(models=tmp_path)


def test_an_altered_network_is_not_loaded(tmp_path):
    data = bytearray(read_model(FACE_MESH, models_folder()))
    data[-1] ^= 1
    (tmp_path / FACE_MESH.file).write_bytes(data)
    with pytest.raises(ModelsUnavailableError, match="not the pinned file"):
        read_model(FACE_MESH, tmp_path)


def test_a_yunet_file_that_is_not_one_says_so(tmp_path):
    with pytest.raises(ModelsUnavailableError, match="not a file"):
        Detector(environment={"LINTEL_YUNET_MODEL": str(tmp_path / "absent.onnx")})
    (tmp_path / "noise.onnx").write_bytes(b"noise")
    with pytest.raises(ModelsUnavailableError, match="not a YuNet file"):
        Detector(environment={"LINTEL_YUNET_MODEL": str(tmp_path / "noise.onnx")})


def test_the_registry_is_the_one_npm_would_use(tmp_path):
    assert (
        find_registry({"NPM_CONFIG_REGISTRY": "https://mirror.example/npm/"}) == "https://mirror.example/npm/"
    )
    (tmp_path / ".npmrc").write_text("fund=false\nregistry = https://other.example/\n")
    assert find_registry({"HOME": str(tmp_path)}) == "https://other.example/"


def test_a_package_that_its_authors_did_not_publish_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))  # no npm to fall back on
    monkeypatch.setattr("recognition.fetch_models._download", lambda url, expected, advance: b"forged")
    with pytest.raises(ModelsUnavailableError, match="not what its authors published"):
        fetch_tarball(PACKAGES[0], "https://mirror.example", lambda received, expected: None)


def test_an_offline_machine_is_told_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ModelsUnavailableError, match="If this machine is offline, copy the files"):
        fetch_tarball(PACKAGES[1], "http://127.0.0.1:9", lambda received, expected: None)


def test_the_size_of_a_face_is_the_distance_of_its_eyes():
    face = Face(
        box=(0, 0, 10, 10), points=np.array([(0, 0), (3, 4), (0, 0), (0, 0), (0, 0)], np.float32), score=1
    )
    assert face.eye_distance == 5
