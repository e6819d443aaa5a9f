"""The commands, as a person would type them."""

import json
import os
import stat
import subprocess
import sys

import cv2
import pytest
from rich.console import Console

from terminal.__main__ import main
from terminal.state import load_state, save_state
from tests.recognition import faces


@pytest.fixture
def say():
    """Runs a command and gives (exit status, what it wrote)."""

    def say(*words):
        console = Console(record=True, width=200, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
        try:
            return main([str(word) for word in words], console), console.export_text()
        finally:
            console.file.close()

    return say


@pytest.fixture
def state_path(tmp_path, server):
    path = tmp_path / "state" / "terminal.json"
    save_state(path, server.state())
    return path


@pytest.fixture
def frames(tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    for name, frame in (("eileen_1", faces.portrait()), ("wall_1", faces.nobody())):
        cv2.imwrite(str(folder / f"{name}.png"), cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    return folder


def test_pair_writes_a_secret_file_and_shows_what_to_compare(say, server, tmp_path):
    path = tmp_path / "terminal.json"
    status, text = say("--state", path, "pair", server.url, "--code", "7KQ2M-XH4PD")
    assert status == 0
    state = load_state(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert state.key_id in text and "Compare" in text
    assert json.loads(server.requests[0]["body"])["code"] == "7KQ2M-XH4PD"


def test_pair_does_not_forget_a_pairing_by_accident(say, server, state_path):
    before = state_path.read_bytes()
    status, text = say("--state", state_path, "pair", server.url, "--code", "x")
    assert status == 1 and "--again" in text
    assert state_path.read_bytes() == before


def test_pair_with_a_spent_code_says_why_and_writes_nothing(say, server, tmp_path):
    server.paths["POST /api/v1/terminals/pair"] = lambda request: (
        403,
        {"code": "pairing_code_invalid", "detail": "this code is not valid; ask for a new one"},
    )
    status, text = say("--state", tmp_path / "t.json", "pair", server.url, "--code", "x")
    assert status == 1 and "ask for a new one" in text
    assert not (tmp_path / "t.json").exists()


def test_simulate_prints_one_line_per_picture(say, server, state_path, frames):
    status, text = say("--state", state_path, "simulate", "--frames", frames)
    lines = text.splitlines()
    assert status == 0
    assert lines[0].startswith("eileen_1") and "granted" in lines[0]
    assert lines[1].startswith("wall_1") and "no_face" in lines[1]
    assert lines[-1] == "1 granted, 0 denied, 1 not sent"


def test_run_watches_a_folder_opens_and_locks_by_command(say, state_path, frames, tmp_path):
    log = tmp_path / "lock.log"
    script = f"import sys; open({str(log)!r}, 'a').write(sys.argv[1] + ' ')"
    words = [f'{sys.executable} -c "{script}" {move}' for move in ("unlock", "lock")]
    status, text = say(
        "--state",
        state_path,
        "run",
        "--source",
        frames,
        "--driver",
        "command",
        "--unlock",
        words[0],
        "--lock",
        words[1],
    )
    assert status == 0
    assert "Welcome." in text
    # Locked from the start and at the end; once more where the run took longer than the door is held open.
    moves = log.read_text().split()
    assert moves[:2] == ["lock", "unlock"] and set(moves[2:]) == {"lock"}


def test_run_uses_a_kept_profile_and_replaces_a_damaged_one(say, server, state_path, frames, profile):
    kept = state_path.parent / "profiles" / f"{profile.hash}.json"
    say("--state", state_path, "simulate", "--frames", frames)
    assert kept.read_text() == profile.to_json()
    kept.write_text("{}")
    assert say("--state", state_path, "simulate", "--frames", frames)[0] == 0
    assert kept.read_text() == profile.to_json()


def test_selftest_of_a_sound_terminal_says_that_all_parts_work(say, state_path, frames):
    status, text = say("--state", state_path, "selftest", "--source", frames)
    assert status == 0
    assert "All parts work." in text
    assert "clocks agree" in text and "1 face(s) in view" in text


def test_selftest_names_each_broken_part_and_what_to_do(say, server, state_path):
    server.tamper = lambda status, headers, body: (status, {}, body)
    state_path.chmod(0o644)
    status, text = say("--state", state_path, "selftest", "--source", "/no/camera")
    assert status == 1
    assert "python -m terminal pair" in text and "check cable" in text
    state_path.chmod(0o600)
    status, text = say("--state", state_path, "selftest", "--source", "/no/camera")
    assert status == 1 and "something answers that is not your server" in text


def test_commands_need_a_pairing(say, tmp_path, frames):
    for words in (("run",), ("simulate", "--frames", frames), ("roll-key",)):
        status, text = say("--state", tmp_path / "absent.json", *words)
        assert status == 1 and "python -m terminal pair" in text


def test_roll_key_replaces_the_key_in_the_file(say, server, state_path):
    from tests.terminal.test_client import accept_new_keys

    accept_new_keys(server)
    before = load_state(state_path)
    status, text = say("--state", state_path, "roll-key")
    after = load_state(state_path)
    assert status == 0 and after.key_id in text
    assert after.private_key != before.private_key and after.next_private_key is None


def test_a_terminal_loads_neither_django_nor_torch_and_stays_below_200_mb(state_path, frames):
    program = (
        "import re, sys\n"
        "from terminal.__main__ import main\n"
        f"status = main(['--state', {str(state_path)!r}, 'simulate', '--frames', {str(frames)!r}])\n"
        "heavy = {'django', 'torch', 'celery', 'faiss', 'rest_framework'} & set(sys.modules)\n"
        "peak = re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())\n"  # ours, not our parent's
        "print('RESULT', status, sorted(heavy), int(peak[1]) // 1024)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    result = next(line for line in done.stdout.splitlines() if line.startswith("RESULT"))
    _, status, heavy, megabytes = result.split()
    assert (status, heavy) == ("0", "[]"), done.stderr
    assert int(megabytes) < 200
