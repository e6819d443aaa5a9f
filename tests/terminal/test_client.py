"""The client against a real socket: pairing, keys, profiles, enrollment, waiting."""

import stat

import pytest

from recognition.quality import Quality
from terminal import protocol
from terminal.capture import Capture
from terminal.client import ClientError, TerminalClient, pair
from terminal.state import StateError, load_state, save_state
from tests.terminal.server import DOOR_ID, KEY_ID, SERVER_SEED, TERMINAL_SEED

ENROLLMENT_ID = "77e1ee53-4a54-4bd4-8f36-f1dcbd4f5b20"
TASK = {
    "enrollment_id": ENROLLMENT_ID,
    "person_name": "Ada",
    "state": "open",
    "captures_wanted": 3,
    "captures_accepted": 1,
    "captures_pending": 0,
    "reason": "capture_accepted",
    "message": "Good.",
    "expires_at": "2026-11-24T08:15:00Z",
}


def test_pairing_pins_the_servers_keys_and_learns_the_door(server):
    state = pair(server.url + "/", "7KQ2M-XH4PD", seed=TERMINAL_SEED)
    assert state.server_keys == {KEY_ID: protocol.public_key_of(SERVER_SEED)}
    assert (state.door_id, state.private_key) == (DOOR_ID, TERMINAL_SEED)
    assert state.server_url == server.url
    assert TERMINAL_SEED not in server.requests[0]["body"]


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (403, {"code": "pairing_code_invalid", "detail": "this code is not valid"}),
        (200, {}),
        (201, {"terminal_id": "x"}),
        (201, b"<h1>Welcome</h1>"),
    ],
)
def test_pairing_with_anything_but_a_whole_answer_fails(server, status, answer):
    server.paths["POST /api/v1/terminals/pair"] = lambda request: (status, answer)
    with pytest.raises(ClientError):
        pair(server.url, "code", seed=TERMINAL_SEED)


def test_pairing_with_a_server_that_names_no_key_fails(server):
    server.paths["POST /api/v1/terminals/pair"] = lambda request: (
        201,
        server.description() | {"server_keys": []},
    )
    with pytest.raises(ClientError, match="no key"):
        pair(server.url, "code", seed=TERMINAL_SEED)


def test_the_state_file_is_readable_by_its_owner_only_and_comes_back_whole(tmp_path, server):
    path = tmp_path / "deep" / "terminal.json"
    save_state(path, server.state())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_state(path) == server.state()
    assert [file.name for file in path.parent.iterdir()] == ["terminal.json"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_a_state_file_that_others_can_read_is_refused(tmp_path, server, mode):
    path = tmp_path / "terminal.json"
    save_state(path, server.state())
    path.chmod(mode)
    with pytest.raises(StateError) as refusal:
        load_state(path)
    assert refusal.value.code == "state_exposed"


def test_a_terminal_that_was_never_paired_says_so(tmp_path):
    with pytest.raises(StateError) as refusal:
        load_state(tmp_path / "terminal.json")
    assert refusal.value.code == "not_paired"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1}', '{"format": 2}'])
def test_a_damaged_state_file_is_refused(tmp_path, text):
    path = tmp_path / "terminal.json"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(StateError) as refusal:
        load_state(path)
    assert refusal.value.code == "state_malformed"


def test_keys_are_not_shown_when_a_state_is_printed(server):
    assert repr(TERMINAL_SEED) not in repr(server.state())


def test_a_profile_is_the_one_that_was_asked_for(server, client, profile):
    assert client.profile(profile.hash).hash == profile.hash
    server.paths[f"GET /api/v1/profiles/{'0' * 64}"] = lambda request: (200, profile.to_json().encode())
    with pytest.raises(ClientError, match="another profile"):
        client.profile("0" * 64)


def test_a_new_server_key_is_taken_from_the_old_ones_word_only(server, client):
    fresh = protocol.public_key_of(bytes(32))
    described = server.description()
    described["server_keys"].insert(
        0, {"key_id": "server-2", "public_key": "O2onvM62pC1io6jQKm8Nc2UyFXcd4kOmOsBIoYtZ2ik="}
    )
    server.paths["GET /api/v1/terminals/me"] = lambda request: (200, described)
    assert client.refresh().server_keys == {"server-2": fresh, KEY_ID: protocol.public_key_of(SERVER_SEED)}
    server.sign_with = {"private_key": bytes(range(9, 41))}
    with pytest.raises(ClientError):
        client.refresh()
    assert set(client.state.server_keys) == {"server-2", KEY_ID}


def test_a_description_without_a_key_changes_nothing(server, client):
    before = client.state
    server.paths["GET /api/v1/terminals/me"] = lambda request: (
        200,
        server.description() | {"server_keys": []},
    )
    with pytest.raises(ClientError, match="no key"):
        client.refresh()
    assert client.state == before


def test_waiting_for_a_late_decision_asks_with_a_new_nonce_each_time(server, client, capture):
    attempt_id = "6d1c6f0e-3c0f-4a1a-9c58-0a5f4d3f7b21"
    answers = iter([202, 202, 200])

    def poll(request):
        status = next(answers)
        if status == 200:
            return 200, server.decision(request, attempt_id=attempt_id)
        return 202, {"attempt_id": attempt_id, "door_id": DOOR_ID, "nonce": request["nonce"]}

    server.paths["POST /api/v1/attempts"] = poll
    server.paths[f"GET /api/v1/attempts/{attempt_id}"] = poll
    assert client.attempt(capture).granted
    nonces = [request["nonce"] for request in server.requests]
    assert len(set(nonces)) == 3


def test_a_capture_is_sent_once_and_never_kept(server, client, capture):
    server.tamper = lambda status, headers, body: (status, {}, b"")
    with pytest.raises(ClientError):
        client.attempt(capture)
    assert len(server.requests) == 1


def test_a_bad_capture_is_never_sent(server, client):
    with pytest.raises(ValueError, match="too_dark"):
        client.attempt(Capture(b"", Quality(ok=False, reason="too_dark", score=0.0)))
    assert server.requests == []


def test_there_may_be_nobody_to_enroll(client):
    assert client.enrollment() is None


def test_an_enrollment_is_carried_forward_by_captures(server, client, capture):
    server.paths["GET /api/v1/terminals/me/enrollment"] = lambda request: (200, TASK)
    path = f"/api/v1/enrollments/{ENROLLMENT_ID}/captures"
    server.paths[f"POST {path}"] = lambda request: (202, TASK | {"captures_pending": 1})
    server.paths[f"GET {path}"] = lambda request: (200, TASK | {"captures_accepted": 2})
    task = client.enrollment()
    assert (task.person_name, task.captures_accepted) == ("Ada", 1)
    assert client.submit_enrollment_capture(task.enrollment_id, capture).captures_pending == 1
    assert server.requests[-1]["headers"]["Lintel-Capture-Quality"] == "score=0.900"
    assert client.enrollment_progress(task.enrollment_id).captures_accepted == 2


def test_an_enrollment_whose_name_is_a_path_is_refused(client, capture):
    with pytest.raises(ValueError, match="badly formed"):
        client.submit_enrollment_capture("../attempts", capture)


# Rolling the key


def accept_new_keys(server):
    import base64
    import json

    def roll(request):
        key = base64.b64decode(json.loads(request["body"])["public_key"])
        server.terminal_keys = [key, server.terminal_keys[0]]
        return 200, {"key_id": protocol.key_id_of(key), "previous_key_until": None}

    server.paths["POST /api/v1/terminals/me/key"] = roll


def test_a_rolled_key_is_the_only_one_kept(server, client):
    accept_new_keys(server)
    kept = []
    rolled = client.roll_key(kept.append)
    assert rolled.private_key != TERMINAL_SEED and rolled.next_private_key is None
    assert kept[0].private_key == TERMINAL_SEED and kept[0].next_private_key == rolled.private_key
    assert kept[-1] == rolled == client.state
    assert client.describe()["name"] == "Front door"


def test_a_lost_answer_to_a_roll_loses_no_key(server, client):
    accept_new_keys(server)
    server.tamper = lambda status, headers, body: (
        (status, {}, b"") if b"previous_key_until" in body else (status, headers, body)
    )
    kept = []
    assert client.roll_key(kept.append).private_key == kept[0].next_private_key


def test_a_refused_roll_keeps_the_old_key(server, client):
    server.paths["POST /api/v1/terminals/me/key"] = lambda request: (
        409,
        {"code": "key_taken", "detail": "no"},
    )
    kept = []
    assert client.roll_key(kept.append).private_key == TERMINAL_SEED
    assert kept[-1].next_private_key is None


def test_a_crash_in_the_middle_of_a_roll_is_settled_at_the_next_start(server):
    new_seed = bytes(range(7, 39))
    server.terminal_keys = [protocol.public_key_of(new_seed)]
    cut_short = server.state(next_private_key=new_seed)
    kept = []
    with TerminalClient(server.url, cut_short) as client:
        assert client.settle_key(kept.append).private_key == new_seed
    assert kept[-1].next_private_key is None
