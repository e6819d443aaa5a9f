"""Locks, drivers and the relock: every failure ends with the door shut."""

import sys
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from terminal.decision import VerifiedDecision
from terminal.door import CommandDriver, Door, DoorError, RelayDriver, _thread_timer
from tests.terminal.conftest import ManualTimer
from tests.terminal.server import DOOR_ID

NOW = datetime(2026, 11, 24, 8, 0, tzinfo=UTC)


def yes(name="attempt-1"):
    return VerifiedDecision(name, True, "granted", "", DOOR_ID, "nonce", NOW + timedelta(seconds=5))


def test_a_door_is_locked_from_its_first_moment(door, lock):
    assert lock.moves == ["lock"]


def test_a_door_locks_itself_again(door, lock, timers):
    assert door.open(yes(), now=NOW).opened
    assert timers[-1].seconds == 5.0
    timers[-1].ring()
    assert lock.moves == ["lock", "unlock", "lock"]


def test_a_second_person_holds_the_door_open_for_the_whole_time_again(door, lock, timers):
    door.open(yes("first"), now=NOW)
    door.open(yes("second"), now=NOW)
    assert [timer.state for timer in timers] == ["cancelled", "started"]
    timers[0].ring()
    assert lock.is_open
    timers[1].ring()
    assert not lock.is_open


def test_a_lock_that_fails_to_open_is_told_to_lock(door, lock):
    lock.fails_on = {"unlock"}
    with pytest.raises(DoorError):
        door.open(yes(), now=NOW)
    assert lock.moves == ["lock", "lock"]


def test_a_lock_that_fails_to_lock_is_told_again_until_it_does(door, lock, timers):
    door.open(yes(), now=NOW)
    lock.fails_on = {"lock"}
    timers[-1].ring()
    assert lock.is_open and timers[-1].seconds == 1.0
    timers[-1].ring()
    lock.fails_on = set()
    timers[-1].ring()
    assert not lock.is_open


def test_a_desk_opens_nothing(lock, timers):
    desk = Door(door_id=None, driver=lock, timer=ManualTimer)
    assert desk.open(yes(), now=NOW).reason == "wrong_door"
    assert "unlock" not in lock.moves


@pytest.mark.parametrize("hold_s", [0, -1, 61, float("nan")])
def test_a_door_cannot_be_told_to_stay_open(lock, hold_s):
    with pytest.raises(ValueError, match="held open"):
        Door(door_id=DOOR_ID, driver=lock, hold_s=hold_s)


def test_the_real_timer_locks_the_door(lock):
    started = []

    def remembered(seconds, action):
        started.append(_thread_timer(seconds, action))
        return started[-1]

    door = Door(door_id=DOOR_ID, driver=lock, hold_s=0.05, timer=remembered)
    door.open(yes(), now=NOW)
    started[0].join(timeout=60)
    assert lock.moves == ["lock", "unlock", "lock"]


def test_a_command_gets_its_words_and_no_shell(tmp_path):
    mark = tmp_path / "opened; touch injected"
    write = "import sys, pathlib; pathlib.Path(sys.argv[1]).write_text('x')"
    driver = CommandDriver([sys.executable, "-c", write, str(mark)], [sys.executable, "-c", ""])
    driver.unlock()
    driver.lock()
    assert [path.name for path in tmp_path.iterdir()] == [mark.name]


@pytest.mark.parametrize("command", [["/no/such/program"], [sys.executable, "-c", "raise SystemExit(1)"]])
def test_a_command_that_fails_is_a_door_error(command):
    with pytest.raises(DoorError, match="failed"):
        CommandDriver(command, command).unlock()


def test_a_relay_is_switched_by_post():
    asked = []

    def relay(request):
        asked.append((request.method, str(request.url)))
        return httpx.Response(200)

    driver = RelayDriver("http://relay/on", "http://relay/off", transport=httpx.MockTransport(relay))
    driver.unlock()
    driver.lock()
    assert asked == [("POST", "http://relay/on"), ("POST", "http://relay/off")]


def test_a_relay_that_does_not_obey_is_a_door_error():
    refusing = httpx.MockTransport(lambda request: httpx.Response(500))
    with pytest.raises(DoorError, match="did not obey"):
        RelayDriver("http://relay/on", "http://relay/off", transport=refusing).unlock()
