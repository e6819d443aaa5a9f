"""What a terminal is wired to, for real: a network camera that speaks RTSP, and a relay that listens to HTTP."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import pytest
from rich.console import Console

from terminal.__main__ import main
from terminal.camera import CameraError, LiveSource, open_source
from terminal.door import ConsoleDriver, Door, DoorError, RelayDriver
from terminal.state import save_state
from tests.recognition import faces
from tests.services import free_port
from tests.terminal.conftest import ManualTimer
from tests.terminal.rtsp import SIDE, NetworkCamera
from tests.terminal.server import DOOR_ID
from tests.terminal.test_door import NOW, yes

FRAMES = 2000  # looked at before giving up: a busy machine shows many of an old grey


@pytest.fixture
def network_camera() -> Iterator[NetworkCamera]:
    camera = NetworkCamera()
    yield camera
    camera.stop()


def test_a_network_camera_shows_what_it_sees_now_and_its_end_is_noticed(network_camera):
    source = open_source(network_camera.address)
    try:
        assert isinstance(source, LiveSource)
        frames = iter(source)
        first = next(frames)
        assert first.pixels.shape == (SIDE, SIDE, 3)
        assert abs(first.pixels.mean() - 60) < 4
        network_camera.shade = 200
        assert any(abs(next(frames).pixels.mean() - 200) < 4 for _ in range(FRAMES))
        assert network_camera.asked[-1] == "PLAY"
        network_camera.stop()
        with pytest.raises(CameraError, match=r"gave no frame|stopped giving frames"):
            for _ in range(FRAMES):
                next(frames)
    finally:
        source.close()


def test_a_network_camera_that_is_not_there_is_a_sentence_without_its_password():
    with pytest.raises(CameraError, match="cannot be opened") as refusal:
        open_source(f"rtsp://ann:secret@127.0.0.1:{free_port()}/door")
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize("text", ["63", "camera:63"])
def test_a_camera_that_is_not_plugged_in_is_a_sentence_and_nothing_else(text, capfd):
    with pytest.raises(CameraError, match="camera 63 cannot be opened"):
        open_source(text)
    assert capfd.readouterr() == ("", "")


class Relay:
    """Remembers how it was switched, and can be told not to obey."""

    def __init__(self) -> None:
        self.switched: list[str] = []
        self.status = 200
        relay = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                relay.switched.append(self.path)
                self.send_response(relay.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def do_GET(self) -> None:
                self.send_error(405)

            def log_message(self, *arguments: object) -> None:
                """Quiet."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = False
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def stop(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


@pytest.fixture
def relay() -> Iterator[Relay]:
    relay = Relay()
    yield relay
    relay.stop()


def test_a_relay_opens_and_locks_the_door(relay):
    door = Door(door_id=DOOR_ID, driver=RelayDriver(f"{relay.url}/on", f"{relay.url}/off"), timer=ManualTimer)
    ManualTimer.made = []
    assert door.open(yes(), now=NOW).opened
    ManualTimer.made[-1].ring()
    assert relay.switched == ["/off", "/on", "/off"]


def test_a_relay_that_does_not_obey_leaves_the_door_told_to_lock(relay):
    door = Door(door_id=DOOR_ID, driver=RelayDriver(f"{relay.url}/on", f"{relay.url}/off"), timer=ManualTimer)
    relay.status = 500
    with pytest.raises(DoorError):
        door.open(yes(), now=NOW)
    assert relay.switched[-2:] == ["/on", "/off"]


def test_a_relay_that_is_gone_is_a_door_error():
    with pytest.raises(DoorError, match="did not obey"):
        RelayDriver(f"http://127.0.0.1:{free_port()}/on", "").unlock()


def test_run_opens_by_relay_and_leaves_the_door_locked(relay, server, tmp_path):
    state, frames = tmp_path / "terminal.json", tmp_path / "frames"
    save_state(state, server.state())
    frames.mkdir()
    cv2.imwrite(str(frames / "eileen_1.png"), cv2.cvtColor(faces.portrait(), cv2.COLOR_RGB2BGR))
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123
        words = ["--state", state, "run", "--source", frames, "--driver", "relay"]
        words += ["--unlock", f"{relay.url}/on", "--lock", f"{relay.url}/off"]
        status = main([str(word) for word in words], Console(file=nowhere))
    assert status == 0
    assert relay.switched[0] == relay.switched[-1] == "/off"
    assert relay.switched.count("/on") == 1


def test_the_console_shows_what_a_lock_would_do(capsys):
    driver = ConsoleDriver(Console(width=120))
    driver.unlock()
    unlocked = capsys.readouterr().out
    driver.lock()
    locked = capsys.readouterr().out
    assert unlocked and locked and unlocked != locked
