"""Sources of frames."""

import cv2
import numpy as np
import pytest

from terminal.camera import CameraError, FolderSource, LiveSource, open_source, read_picture, without_password
from tests.recognition import faces


def write(path, frame):
    cv2.imwrite(str(path), cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))


def test_a_folder_gives_its_pictures_by_name_in_rgb(tmp_path):
    red = np.zeros((20, 30, 3), np.uint8)
    red[..., 0] = 255
    write(tmp_path / "b.png", red)
    write(tmp_path / "a.png", faces.portrait())
    (tmp_path / "notes.txt").write_text("not a picture")
    frames = list(open_source(str(tmp_path)))
    assert [frame.name for frame in frames] == ["a", "b"]
    assert np.array_equal(frames[0].pixels, faces.portrait())
    assert frames[1].pixels[0, 0].tolist() == [255, 0, 0]


def test_a_film_gives_its_frames_and_ends(tmp_path):
    path = tmp_path / "film.avi"
    film = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for shade in (0, 100, 200):
        film.write(np.full((48, 64, 3), shade, np.uint8))
    film.release()
    source = open_source(str(path))
    shades = [frame.pixels.mean() for frame in source]
    source.close()
    assert np.allclose(shades, [0, 100, 200], atol=4)


@pytest.mark.parametrize("address", ["/no/such/place", "gopher://camera", ""])
def test_what_is_no_source_is_refused(address):
    with pytest.raises(CameraError):
        open_source(address)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(CameraError, match="no pictures"):
        open_source(str(tmp_path))


@pytest.mark.parametrize("data", [b"", b"GIF89a nothing"])
def test_a_file_that_is_no_picture_is_refused(tmp_path, data):
    (tmp_path / "x.jpg").write_bytes(data)
    with pytest.raises(CameraError, match="not a picture"):
        read_picture(tmp_path / "x.jpg")


def test_a_cameras_password_is_not_shown():
    assert without_password("rtsp://ann:secret@cam.local:554/live?x=1") == "rtsp://***@cam.local:554/live?x=1"
    assert without_password("rtsp://cam.local/live") == "rtsp://cam.local/live"
    with pytest.raises(CameraError) as refusal:
        open_source("rtsp2://ann:secret@cam.local/live")
    assert "secret" not in str(refusal.value)


class FakeVideo:
    """Counts frames like a camera that never waits."""

    def __init__(self, last):
        self.count, self.last = 0, last

    def isOpened(self):
        return True

    def read(self):
        if self.count >= self.last:
            return False, None
        self.count += 1
        return True, np.full((2, 2, 3), self.count, np.uint8)

    def release(self):
        self.count = -1


def test_a_live_source_drops_old_frames_and_reports_its_end(monkeypatch):
    monkeypatch.setattr("terminal.camera._open_video", lambda device: FakeVideo(last=50))
    source = LiveSource(0, "camera 0")
    source._reader.join(timeout=60)
    frames = iter(source)
    assert next(frames).pixels[0, 0, 0] == 50
    with pytest.raises(CameraError, match="stopped giving frames"):
        next(frames)
    source.close()


def test_a_folder_that_is_not_there_or_empty_is_said_in_a_sentence(tmp_path):
    with pytest.raises(CameraError, match="there is no folder"):
        FolderSource(tmp_path / "nowhere")
    with pytest.raises(CameraError, match="holds no pictures"):
        FolderSource(tmp_path)
