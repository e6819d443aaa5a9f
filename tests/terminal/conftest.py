"""A server on a real socket, a door that remembers, a paired state."""

import pytest

from recognition.detect import Detector
from recognition.fetch_models import models_folder
from recognition.quality import Quality
from terminal.capture import Capture
from terminal.client import TerminalClient
from terminal.door import Door
from tests.recognition.profiles import make_profile
from tests.terminal.server import DOOR_ID, Server


class RememberingLock:
    """A lock that knows what was done to it and can be told to fail."""

    def __init__(self):
        self.moves = []
        self.fails_on = set()

    @property
    def is_open(self):
        return bool(self.moves) and self.moves[-1] == "unlock"

    def unlock(self):
        self._move("unlock")

    def lock(self):
        self._move("lock")

    def _move(self, what):
        if what in self.fails_on:
            raise OSError(f"{what} failed")
        self.moves.append(what)


class ManualTimer:
    """Stands in for the clock that relocks: `ring` is what time would do."""

    made: list = []

    def __init__(self, seconds, action):
        self.seconds, self.action, self.state = seconds, action, "made"
        ManualTimer.made.append(self)

    def start(self):
        self.state = "started"

    def cancel(self):
        self.state = "cancelled"

    def ring(self):
        if self.state == "started":
            self.state = "rung"
            self.action()


@pytest.fixture(autouse=True)
def busy_machine(monkeypatch):
    """Locks, relays and cameras get the time that a busy machine needs to start a program or to send a frame."""
    monkeypatch.setattr("terminal.door.DRIVER_TIMEOUT_S", 120.0)
    monkeypatch.setattr("terminal.camera.FRAME_TIMEOUT_S", 60.0)
    monkeypatch.setattr("terminal.__main__.CLOCK_WARNING_S", 60)


@pytest.fixture(scope="session")
def profile():
    return make_profile()


@pytest.fixture
def server(profile):
    server = Server(profile)
    yield server
    server.stop()


@pytest.fixture
def client(server):
    with TerminalClient(server.url, server.state(), wait=lambda seconds: None) as client:
        yield client


@pytest.fixture
def lock():
    return RememberingLock()


@pytest.fixture
def timers():
    ManualTimer.made = []
    return ManualTimer.made


@pytest.fixture
def door(lock, timers):
    return Door(door_id=DOOR_ID, driver=lock, timer=ManualTimer)


@pytest.fixture
def capture():
    return Capture(b"LNTL not looked at by this server", Quality(ok=True, reason="good", score=0.9))


@pytest.fixture(scope="session")
def detector():
    return Detector(models=models_folder())
