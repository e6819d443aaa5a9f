"""The life of a terminal: created, paired once, its key rolled, revoked, paired anew."""

from __future__ import annotations

import base64
import os
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from accesscontrol import services
from accesscontrol.models import PairingCode, Terminal
from accesscontrol.services import AccessRefused
from audit.models import Entry
from terminal.protocol import public_key_of
from tests.accesscontrol import support
from tests.accesscontrol.support import Device, Place

PAIR = "/api/v1/terminals/pair"
ME = "/api/v1/terminals/me"


@pytest.fixture
def terminal(place: Place) -> Terminal:
    return Terminal.objects.create(name="Back door", role=Terminal.Role.DOOR, door=place.door)


def code_for(terminal: Terminal, at: Any = None) -> str:
    return services.issue_pairing_code(terminal=terminal, actor="admin", at=at or timezone.now())


def pair(code: str, seed: bytes, **more: Any) -> Any:
    body = {"code": code, "public_key": base64.b64encode(public_key_of(seed)).decode(), **more}
    return Client().post(PAIR, body, content_type="application/json")


def test_a_code_makes_a_terminal_of_an_unknown_device_once(terminal: Terminal) -> None:
    code, seed = code_for(terminal), os.urandom(32)
    response = pair(f"{code[:5].lower()}-{code[5:]} ", seed, software="lintel 1.0")
    assert response.status_code == 201, response.content
    assert response.json()["terminal_id"] == str(terminal.pk)
    assert Device(terminal.pk, seed).get(ME).status_code == 200
    again = pair(code, os.urandom(32))
    assert (again.status_code, again.json()["code"]) == (403, "pairing_code_invalid")
    assert (
        Entry.objects.filter(kind="terminal.paired").count() == 2
    )  # the one of the fixture's place, and this one


def test_a_code_is_kept_as_a_hash_only(terminal: Terminal) -> None:
    code = code_for(terminal)
    assert len(code) == 10
    row = PairingCode.objects.get(used_at=None)
    assert code not in str(vars(row))
    assert not Entry.objects.filter(details_json__contains=code).exists()


def test_a_code_is_worth_nothing_after_fifteen_minutes(terminal: Terminal) -> None:
    code = code_for(terminal, at=timezone.now() - timedelta(minutes=15, seconds=1))
    assert pair(code, os.urandom(32)).json()["code"] == "pairing_code_invalid"


def test_a_new_code_takes_the_place_of_the_old_one(terminal: Terminal) -> None:
    old, new = code_for(terminal), code_for(terminal)
    assert pair(old, os.urandom(32)).status_code == 403
    assert pair(new, os.urandom(32)).status_code == 201


def test_guessing_codes_is_slowed_down(terminal: Terminal) -> None:
    answers = [pair("A" * 10, os.urandom(32)).status_code for _ in range(11)]
    assert answers == [403] * 10 + [429]


@pytest.mark.parametrize("key", ["", "not base64!", base64.b64encode(bytes(31)).decode()])
def test_a_key_that_is_none_is_refused_and_the_code_is_not_spent(terminal: Terminal, key: str) -> None:
    code = code_for(terminal)
    response = Client().post(PAIR, {"code": code, "public_key": key}, content_type="application/json")
    assert (response.status_code, response.json()["code"]) == (400, "invalid")
    assert "public_key" in response.json()["errors"]
    assert PairingCode.objects.filter(terminal=terminal, used_at=None).exists()


def test_two_terminals_cannot_share_a_key(terminal: Terminal, place: Place) -> None:
    response = pair(code_for(terminal), place.device.seed)
    assert (response.status_code, response.json()["code"]) == (409, "key_taken")


def test_a_terminal_rolls_its_key_and_the_old_one_works_for_ten_more_minutes(place: Place) -> None:
    new = Device(place.device.terminal_id, os.urandom(32))
    body = {"public_key": base64.b64encode(public_key_of(new.seed)).decode()}
    response = place.device.post("/api/v1/terminals/me/key", body)
    assert (response.status_code, response.json()["key_id"]) == (200, new.key_id)
    assert new.get(ME).status_code == 200
    assert place.device.get(ME).status_code == 200
    Terminal.objects.filter(pk=new.terminal_id).update(previous_key_until=timezone.now())
    assert place.device.get(ME).json()["code"] == "key_unknown"
    assert new.get(ME).status_code == 200
    assert Entry.objects.filter(kind="terminal.key_rolled").exists()


def test_rolling_to_the_same_key_again_changes_nothing(place: Place) -> None:
    seed = os.urandom(32)
    for _ in range(2):
        services.roll_terminal_key(
            terminal=place.device.row, public_key=public_key_of(seed), at=timezone.now()
        )
    row = place.device.row
    assert row.previous_key_id == place.device.key_id
    assert Entry.objects.filter(kind="terminal.key_rolled").count() == 1


def test_a_revoked_terminal_cannot_roll_its_key_and_comes_back_only_through_a_new_code(place: Place) -> None:
    services.revoke_terminal(terminal=place.device.row, actor="admin", at=timezone.now())
    with pytest.raises(AccessRefused, match="not in use"):
        services.roll_terminal_key(
            terminal=place.device.row, public_key=public_key_of(os.urandom(32)), at=timezone.now()
        )
    assert place.device.get(ME).json()["code"] == "terminal_revoked"
    seed = os.urandom(32)
    assert pair(code_for(place.device.row), seed).status_code == 201
    assert Device(place.device.terminal_id, seed).get(ME).status_code == 200
    assert place.device.get(ME).json()["code"] == "key_unknown"


def test_pairing_binds_a_terminal_to_the_site_of_its_door(place: Place) -> None:
    assert place.device.row.site == place.site
    desk = support.pair(None, role=Terminal.Role.DESK)
    assert desk.row.site is None
