"""Whether a door says the name of whom it lets in: only where the installation wants it, and only with a yes."""

from __future__ import annotations

import pytest

from tests.accesscontrol.support import ALICE, BOB, MALLORY, new_nonce

pytestmark = pytest.mark.django_db


def reply(place, payload: bytes) -> dict:
    nonce = new_nonce()
    answer = place.device.attempt(payload, nonce=nonce)
    assert answer.status_code == 200
    return answer.json()


def test_a_door_names_nobody_unless_it_is_told_to(place, alice, payload):
    answer = reply(place, payload(ALICE))
    assert answer["granted"] is True
    assert "name" not in answer and "Alice" not in str(answer)


def test_a_door_that_greets_names_whom_it_lets_in(settings, place, alice, payload):
    settings.LINTEL_GREET_BY_NAME = True
    assert reply(place, payload(ALICE))["name"] == "Alice Example"


def test_a_door_that_greets_names_nobody_whom_it_keeps_out(settings, place, alice, bob, payload):
    """Bob is recognised and has no rule: a screen that named him would tell everybody that he tried."""
    settings.LINTEL_GREET_BY_NAME = True
    for picture in (BOB, MALLORY):
        answer = reply(place, payload(picture))
        assert answer["granted"] is False
        assert "name" not in answer and "Example" not in str(answer)
