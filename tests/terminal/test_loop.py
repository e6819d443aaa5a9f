"""The terminal at work: it obeys, shows, recovers, and shuts on everything unforeseen."""

import pytest
from rich.console import Console

from terminal.camera import Frame
from terminal.capture import Capture, CaptureStation
from terminal.client import EnrollmentTask
from terminal.loop import TerminalLoop
from terminal.offline import LONGEST_WAIT_S, Connection
from terminal.screen import Screen
from tests.recognition import faces
from tests.terminal.test_client import ENROLLMENT_ID, TASK

PORTRAIT = Frame(faces.portrait())


class SteadyClock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def world(client, door, profile, detector):
    clock = SteadyClock()
    console = Console(record=True, width=200, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    kept = []
    loop = TerminalLoop(
        client=client,
        station=CaptureStation(profile, detector),
        door=door,
        screen=Screen(console),
        connection=Connection(chance=lambda: 1.0),
        steady=clock,
        keep_state=kept.append,
        make_station=lambda profile_hash: CaptureStation(client.profile(profile_hash), detector),
    )
    yield loop, clock, console, kept
    console.file.close()


def shown(console):
    return console.export_text(clear=False)


def test_a_known_face_opens_the_door_and_is_greeted(world, lock):
    loop, _, console, _ = world
    decision = loop.step(PORTRAIT)
    assert decision.granted and lock.is_open
    assert "Welcome." in shown(console)


def test_the_same_person_is_not_asked_about_again_at_once(world, server):
    loop, clock, _, _ = world
    attempts = lambda: sum(request["path"].endswith("/attempts") for request in server.requests)  # noqa: E731
    loop.step(PORTRAIT)
    loop.step(PORTRAIT)
    assert attempts() == 1
    clock.now = 2.5
    loop.step(PORTRAIT)
    assert attempts() == 2


def test_nobody_before_the_camera_sends_nothing(world, server, lock):
    loop, _, _, _ = world
    loop.step(Frame(faces.nobody()))
    assert not any(request["path"].endswith("/attempts") for request in server.requests)
    assert not lock.is_open


def test_without_a_server_the_door_is_shut_and_the_screen_says_so(world, server, lock):
    loop, clock, console, _ = world
    loop.step(PORTRAIT)
    server.stop()
    clock.now = 10
    loop.step(PORTRAIT)
    assert not lock.is_open
    assert "No connection: the door stays shut." in shown(console)
    server.__init__(server.profile)


def test_an_offline_terminal_waits_before_it_asks_again_and_recovers(world, server):
    loop, clock, console, _ = world
    honest = server.tamper
    server.tamper = lambda status, headers, body: (status, {}, body)
    loop.step(PORTRAIT)
    before = len(server.requests)
    loop.step(PORTRAIT)
    assert len(server.requests) == before
    server.tamper = honest
    clock.now = 2.0
    assert loop.step(PORTRAIT).granted
    assert "The server answers again." in shown(console)


@pytest.mark.parametrize("fault", [RuntimeError("x"), MemoryError(), ValueError("y"), KeyError("z")])
def test_whatever_goes_wrong_inside_locks_the_door_and_the_loop_goes_on(world, lock, monkeypatch, fault):
    loop, clock, console, _ = world
    loop.step(PORTRAIT)
    assert lock.is_open

    def broken(self, frame):
        raise fault

    monkeypatch.setattr(CaptureStation, "capture", broken)
    clock.now = 2.5
    assert loop.step(PORTRAIT) is None
    assert not lock.is_open
    assert "Internal fault" in shown(console)
    monkeypatch.undo()
    clock.now = 5
    assert loop.step(PORTRAIT).granted


def test_a_lock_that_does_not_obey_is_shown(world, lock):
    loop, _, console, _ = world
    lock.fails_on = {"unlock"}
    loop.step(PORTRAIT)
    assert "The lock does not obey" in shown(console)
    assert not lock.is_open


def test_a_revoked_terminal_says_what_to_do(world, server, lock):
    loop, _, console, _ = world
    revoked = b'{"code": "terminal_revoked", "detail": "revoked"}'
    server.tamper = lambda status, headers, body: (401, {}, revoked)
    loop.step(PORTRAIT)
    assert "revoked: ask an administrator" in shown(console)
    assert not lock.is_open


def test_what_the_server_says_about_the_terminal_is_kept(world, server):
    loop, _, _, kept = world
    server.paths["GET /api/v1/terminals/me"] = lambda request: (
        200,
        server.description() | {"name": "Back door"},
    )
    loop.step(PORTRAIT)
    assert [state.name for state in kept] == ["Back door"]


def test_an_enrollment_is_served_before_the_door(world, server, lock):
    loop, clock, console, _ = world
    path = f"/api/v1/enrollments/{ENROLLMENT_ID}/captures"
    progress = iter(
        [
            TASK | {"captures_accepted": 3},
            TASK | {"captures_accepted": 3, "state": "completed", "message": "Done."},
        ]
    )
    server.paths["GET /api/v1/terminals/me/enrollment"] = lambda request: (200, TASK)
    server.paths[f"POST {path}"] = lambda request: (202, TASK | {"captures_pending": 1})
    server.paths[f"GET {path}"] = lambda request: (200, next(progress))
    for second in range(1, 9):
        clock.now = second * 1.1
        if second == 3:
            server.paths["GET /api/v1/terminals/me/enrollment"] = lambda request: (204, b"")
        loop.step(PORTRAIT)
        if any(request["path"] == path and request["method"] == "POST" for request in server.requests):
            break
    assert "Ada: capture 2 of 3" in shown(console)
    assert not lock.is_open


def test_an_enrollment_that_has_ended_frees_the_terminal(world):
    loop, _, console, _ = world
    done = EnrollmentTask(ENROLLMENT_ID, "Ada", "completed", 3, 3, 0, "completed", "Done.")
    loop._enroll(PORTRAIT, done, 0.0)
    assert loop._task is None
    assert "Ada: Done." in shown(console)


def test_waiting_grows_with_each_failure_and_has_an_end():
    connection = Connection(chance=lambda: 1.0)
    waits = [connection.failed(0.0) for _ in range(12)]
    assert waits[:4] == [1.0, 2.0, 4.0, 8.0]
    assert waits[-1] == LONGEST_WAIT_S
    assert not connection.may_try(59.9) and connection.may_try(60.0)
    connection.succeeded()
    assert connection.may_try(0.0)


def test_jitter_never_asks_in_the_same_instant_again():
    assert Connection(chance=lambda: 0.0).failed(0.0) == pytest.approx(0.1)


def test_a_screen_says_each_thing_once(world):
    loop, _, console, _ = world
    loop.step(Frame(faces.two_faces()))
    loop.step(Frame(faces.two_faces()))
    assert shown(console).count("One person at a time") == 1


def test_a_capture_that_may_not_leave_is_not_ok():
    from recognition.quality import Quality

    assert not Capture(b"", Quality(ok=True, reason="good", score=1.0), live=False).ok
