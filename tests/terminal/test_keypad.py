"""A PIN or a card at a terminal: asked for when the server asks, sent signed, and the door shut without it."""

import json
import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from terminal.client import ClientError
from terminal.keypad import ConsoleKeypad, NoKeypad
from terminal.loop import NO_KEYPAD
from tests.terminal.test_loop import PORTRAIT, shown, world  # noqa: F401
from tests.terminal.test_main import frames, say, state_path  # noqa: F401

PIN, CARD = "730519", "0048151623"
PROOF = "POST /api/v1/attempts/proof"


class Typed:
    """A keypad on which these lines are typed; None: nobody types."""

    works = True

    def __init__(self, *lines):
        self.lines = list(lines)

    def waiting(self):
        return bool(self.lines)

    def ask(self, seconds):
        return self.lines.pop(0) if self.lines else None


@pytest.fixture
def asking(server):
    """The server asks for a PIN after the face, and lets in whoever sends one."""
    until = (datetime.now(UTC) + timedelta(seconds=45)).isoformat()
    server.paths["POST /api/v1/attempts"] = lambda request: (
        200,
        server.decision(request, granted=False, reason="pin_required", proof_until=until),
    )
    server.paths[PROOF] = lambda request: (200, server.decision(request))
    return server


def proofs(server):
    return [
        json.loads(each["body"]) for each in server.requests if f"{each['method']} {each['path']}" == PROOF
    ]


def ask_for(server, asks_for):
    described = server.description()
    described["door"]["asks_for"] = asks_for
    server.paths["GET /api/v1/terminals/me"] = lambda request: (200, described)


def test_the_pin_follows_the_face_and_opens_the_door(world, asking, lock):  # noqa: F811
    loop, _, console, _ = world
    loop.keypad = Typed(PIN)
    assert loop.step(PORTRAIT).granted and lock.is_open
    (sent,) = proofs(asking)
    assert sent["pin"] == PIN and set(sent) == {"attempt_id", "pin"}
    assert "asks for your PIN" in shown(console) and PIN not in shown(console)


@pytest.mark.parametrize("keypad", [Typed(), NoKeypad()])
def test_without_a_pin_the_door_stays_shut_and_says_why(keypad, world, asking, lock):  # noqa: F811
    loop, _, console, _ = world
    loop.keypad = keypad
    assert not loop.step(PORTRAIT).granted
    assert not lock.is_open and proofs(asking) == []
    assert (NO_KEYPAD if not keypad.works else "Nothing was entered.") in shown(console)


def test_an_unsigned_answer_to_a_pin_opens_nothing(world, asking, lock):  # noqa: F811
    loop, _, _, _ = world
    loop.keypad = Typed(PIN)
    honest = asking.tamper
    asking.tamper = lambda status, headers, body: (
        (status, {}, body) if b'"granted": true' in body else honest(status, headers, body)
    )
    assert loop.step(PORTRAIT) is None
    assert not lock.is_open and len(proofs(asking)) == 1


def test_a_card_and_its_pin_open_a_door_that_looks_at_no_face(world, asking, lock):  # noqa: F811
    loop, _, console, _ = world
    ask_for(asking, "card_and_pin")
    loop.keypad = Typed()
    assert loop.step(PORTRAIT) is None
    assert "Hold your card to the reader." in shown(console)
    loop.keypad = Typed(CARD, PIN)
    assert loop.step(PORTRAIT).granted and lock.is_open
    assert proofs(asking) == [{"card": CARD, "pin": PIN}]
    assert not any(each["path"].endswith("/attempts") for each in asking.requests)


def test_a_door_for_cards_without_a_keypad_says_what_is_missing(world, asking, lock):  # noqa: F811
    loop, _, console, _ = world
    ask_for(asking, "card_and_pin")
    assert loop.step(PORTRAIT) is None
    assert NO_KEYPAD in shown(console) and not lock.is_open


def test_a_step_is_sent_for_a_real_attempt_only(client):
    with pytest.raises(ValueError):
        client.prove(attempt_id="../me", pin=PIN)


def test_a_refused_proof_carries_the_servers_code(client, asking):
    asking.paths[PROOF] = lambda request: (409, {"code": "proof_used", "detail": "followed already"})
    with pytest.raises(ClientError) as refused:
        client.prove(card=CARD, pin=PIN)
    assert (refused.value.code, refused.value.hint) == ("refused", "proof_used")


def test_a_console_gives_whole_lines_forgets_halves_and_notices_its_end():
    reading, writing = os.pipe()
    keypad = ConsoleKeypad(reading)
    assert not keypad.waiting() and keypad.ask(0) is None
    os.write(writing, f"{CARD}\n{PIN}\n73".encode())
    assert keypad.waiting()
    assert (keypad.ask(60), keypad.ask(60)) == (CARD, PIN)
    assert keypad.ask(0) is None  # somebody went away in the middle
    os.write(writing, b"\n")
    assert keypad.ask(60) is None
    os.close(writing)
    assert keypad.ask(60) is None and not keypad.works and not keypad.waiting()
    os.close(reading)


def test_a_state_from_before_asks_for_a_face(server):
    described = server.description()
    assert server.state().with_description(described).asks_for == "face"
    described["door"]["asks_for"] = "face_and_pin"
    assert server.state().with_description(described).asks_for == "face_and_pin"
    assert replace(server.state()).asks_for == "face"


def test_simulate_sends_the_pin_that_it_was_given(asking, say, state_path, frames):  # noqa: F811
    status, text = say("--state", state_path, "simulate", "--frames", frames, "--pin", PIN)
    assert status == 0 and "1 granted" in text
    assert [each["pin"] for each in proofs(asking)] == [PIN]


def test_simulate_shows_a_card_without_any_picture(asking, say, state_path):  # noqa: F811
    status, text = say("--state", state_path, "simulate", "--card", CARD, "--pin", PIN)
    assert status == 0 and "1 granted, 0 denied" in text and PIN not in text
    assert say("--state", state_path, "simulate")[0] == 1
