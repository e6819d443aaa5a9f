"""A server that lies in every way we know, over a real socket, never opens the door."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from terminal.client import ClientError
from terminal.decision import VerifiedDecision
from tests.terminal.server import DOOR_ID, OTHER_SEED


def try_to_enter(client, door, capture):
    """What the loop does, with nothing caught."""
    return door.open(client.attempt(capture), now=client.now)


def test_an_honest_yes_opens_the_door(client, door, lock, capture):
    assert try_to_enter(client, door, capture).opened
    assert lock.is_open


def test_an_honest_no_does_not(client, door, lock, server, capture):
    server.paths["POST /api/v1/attempts"] = lambda request: (
        200,
        server.decision(request, granted=False, reason="no_match"),
    )
    opening = try_to_enter(client, door, capture)
    assert (opening.opened, opening.reason) == (False, "no_match")
    assert not lock.is_open


def lie(name):
    def decorate(function):
        LIES[name] = function
        return function

    return decorate


LIES = {}


def decide(server, **changes):
    server.paths["POST /api/v1/attempts"] = lambda request: (200, server.decision(request, **changes))


@lie("the reply is signed by another key under the pinned name")
def _(server):
    server.sign_with = {"private_key": OTHER_SEED}


@lie("the reply is signed by a key that was never pinned")
def _(server):
    server.sign_with = {"private_key": OTHER_SEED, "key_id": "server-2"}


@lie("the reply answers another nonce")
def _(server):
    server.sign_with = {"request_nonce": "A" * 24}


@lie("the body names another nonce")
def _(server):
    decide(server, nonce="A" * 24)


@lie("the decision is about another door")
def _(server):
    decide(server, door_id="11111111-52a0-4c55-9f7e-2c1f5b0e9d11")


@lie("the decision names no door")
def _(server):
    decide(server, door_id=None)


@lie("the signature has expired")
def _(server):
    created = int(datetime.now(UTC).timestamp()) - 30
    server.sign_with = {"created": created, "expires": created + 5}


@lie("the decision has expired")
def _(server):
    decide(server, expires_at=(datetime.now(UTC) - timedelta(seconds=1)).isoformat())


@lie("the decision holds for a day")
def _(server):
    decide(server, expires_at=(datetime.now(UTC) + timedelta(days=1)).isoformat())


@lie("the decision's end has no time zone")
def _(server):
    decide(server, expires_at=(datetime.now() + timedelta(seconds=5)).isoformat())  # noqa: DTZ005


@lie("the decision has no end")
def _(server):
    decide(server, expires_at=None)


@lie("granted is a word")
def _(server):
    decide(server, granted="true")


@lie("granted is a number")
def _(server):
    decide(server, granted=1)


@lie("the reply is not signed")
def _(server):
    server.tamper = lambda status, headers, body: (status, {}, body)


@lie("only the digest is left")
def _(server):
    server.tamper = lambda status, headers, body: (
        status,
        {"Content-Digest": headers["Content-Digest"]},
        body,
    )


@lie("no is turned to yes on the way")
def _(server):
    decide(server, granted=False, reason="no_match")
    server.tamper = lambda status, headers, body: (status, headers, body.replace(b"false", b"true"))


@lie("the status is changed on the way")
def _(server):
    server.tamper = lambda status, headers, body: (202, headers, body)


@lie("a plain 200")
def _(server):
    server.tamper = lambda status, headers, body: (200, {}, b"")


@lie("a web page")
def _(server):
    server.tamper = lambda status, headers, body: (200, {"Content-Type": "text/html"}, b"<h1>Welcome</h1>")


@lie("a signed list")
def _(server):
    server.paths["POST /api/v1/attempts"] = lambda request: (200, b"[true]")


@lie("a signed body that is no JSON")
def _(server):
    server.paths["POST /api/v1/attempts"] = lambda request: (200, b"granted")


@lie("a signed refusal that says granted")
def _(server):
    server.paths["POST /api/v1/attempts"] = lambda request: (403, server.decision(request))


@lie("a redirect to a friendlier server")
def _(server):
    server.tamper = lambda status, headers, body: (
        307,
        {"Location": f"{server.url}/api/v1/terminals/me"},
        b"",
    )


@lie("an endless body")
def _(server):
    server.paths["POST /api/v1/attempts"] = lambda request: (200, b" " * (5 * 1024 * 1024))


@lie("pending for ever")
def _(server):
    attempt_id = "6d1c6f0e-3c0f-4a1a-9c58-0a5f4d3f7b21"
    pending = lambda request: (  # noqa: E731
        202,
        {"attempt_id": attempt_id, "door_id": DOOR_ID, "nonce": request["nonce"]},
    )
    server.paths["POST /api/v1/attempts"] = pending
    server.paths[f"GET /api/v1/attempts/{attempt_id}"] = pending


@lie("pending under one name, granted under another")
def _(server):
    attempt_id = "6d1c6f0e-3c0f-4a1a-9c58-0a5f4d3f7b21"
    server.paths["POST /api/v1/attempts"] = lambda request: (
        202,
        {"attempt_id": attempt_id, "door_id": DOOR_ID, "nonce": request["nonce"]},
    )
    server.paths[f"GET /api/v1/attempts/{attempt_id}"] = lambda request: (200, server.decision(request))


@lie("pending with a name that is a path")
def _(server):
    server.paths["POST /api/v1/attempts"] = lambda request: (
        202,
        {"attempt_id": "../terminals/me", "door_id": DOOR_ID, "nonce": request["nonce"]},
    )


@pytest.mark.parametrize("name", LIES)
def test_the_door_stays_shut_when(name, server, client, door, lock, capture):
    LIES[name](server)
    # Patience costs the test nothing: each question moves the client's clock on by three seconds.
    asked = iter(range(10_000))
    start = datetime.now(UTC).timestamp()
    if name == "pending for ever":
        client._clock = lambda: start + next(asked) * 3.0
    with pytest.raises((ClientError, ValueError)):
        try_to_enter(client, door, capture)
    assert not lock.is_open
    assert "unlock" not in lock.moves


def test_a_recorded_yes_does_not_open_a_second_time(server, client, door, lock, capture, timers):
    recorded = {}

    def record(status, headers, body):
        recorded.setdefault("reply", (status, headers, body))
        return recorded["reply"]

    server.tamper = record
    assert try_to_enter(client, door, capture).opened
    timers[-1].ring()
    with pytest.raises(ClientError) as refusal:
        try_to_enter(client, door, capture)
    assert refusal.value.code == "unverified"
    assert lock.moves == ["lock", "unlock", "lock"]


def test_one_decision_opens_once(client, door, lock, capture, timers):
    decision = client.attempt(capture)
    assert door.open(decision, now=client.now).opened
    timers[-1].ring()
    assert door.open(decision, now=client.now).reason == "decision_used"
    assert not lock.is_open


def test_a_decision_that_expired_on_the_way_to_the_lock_opens_nothing(client, door, lock, capture):
    decision = client.attempt(capture)
    assert door.open(decision, now=decision.expires_at).reason == "decision_expired"
    assert not lock.is_open


def test_something_that_only_looks_like_a_decision_opens_nothing(client, door, lock, capture):
    class Lookalike:
        granted, door_id, expires_at = True, DOOR_ID, datetime.max.replace(tzinfo=UTC)
        attempt_id, reason, nonce, message = "a", "granted", "n", ""

    assert door.open(Lookalike(), now=client.now).reason == "not_verified"
    assert "unlock" not in lock.moves


def test_a_yes_for_the_door_next_door_opens_nothing(door, lock):
    now = datetime.now(UTC)
    decision = VerifiedDecision("a", True, "granted", "", "another", "n", now + timedelta(seconds=5))
    assert door.open(decision, now=now).reason == "wrong_door"
    assert "unlock" not in lock.moves


def test_a_reply_from_the_pinned_server_about_a_wrong_clock_is_only_a_hint(server, client, door, capture):
    client._clock = lambda: datetime.now(UTC).timestamp() - 600
    with pytest.raises(ClientError) as refusal:
        try_to_enter(client, door, capture)
    assert (refusal.value.code, refusal.value.hint) == ("unverified", "clock_skew")


def test_a_signed_refusal_is_told_from_a_forged_one(server, client, capture):
    server.paths["POST /api/v1/attempts"] = lambda request: (
        503,
        {"code": "recognition_unavailable", "detail": "No worker can be reached."},
    )
    with pytest.raises(ClientError) as refusal:
        client.attempt(capture)
    assert (refusal.value.code, refusal.value.hint) == ("refused", "recognition_unavailable")
    server.tamper = lambda status, headers, body: (status, {}, json.dumps({"code": "x" * 500}).encode())
    with pytest.raises(ClientError) as refusal:
        client.attempt(capture)
    assert (refusal.value.code, refusal.value.hint) == ("unverified", "")


def test_a_server_that_is_gone_is_unreachable(server, client, door, lock, capture):
    server.stop()
    with pytest.raises(ClientError) as refusal:
        try_to_enter(client, door, capture)
    assert refusal.value.code == "unreachable"
    assert "unlock" not in lock.moves
    server.__init__(server.profile)  # for the fixture to stop
