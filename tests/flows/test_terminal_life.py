"""The life of a terminal between the real terminal code and the real server: paired, asking, its key rolled, revoked,
paired anew. Each side alone is tested elsewhere, against a stand-in for the other.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from accesscontrol import celery, services
from accesscontrol.models import Terminal
from audit.models import Entry
from recognition.payload import pack
from recognition.quality import Quality
from terminal.capture import Capture
from terminal.client import ClientError, TerminalClient, pair
from terminal.state import load_state, save_state
from tests.accesscontrol import conftest as doors
from tests.accesscontrol import support
from tests.tiny_model import capture_of, synthetic_picture, tiny_profile

tiny_model, model = doors.tiny_model, doors.model
pytestmark = [pytest.mark.flow, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def house(transactional_db: None, model: None, live_server: Any) -> Iterator[support.Place]:
    yield support.make_place()
    celery.wait_for_embedded_tasks()


def capture() -> Capture:
    profile = tiny_profile()
    payload = pack(capture_of(synthetic_picture(1), profile), profile)
    return Capture(payload, Quality(ok=True, reason="good", score=0.9))


def code_for(terminal: Terminal) -> str:
    return services.issue_pairing_code(terminal=terminal, actor="admin", at=timezone.now())


def refused(client: TerminalClient) -> str:
    """The server's code for not answering this terminal at all."""
    with pytest.raises(ClientError) as refusal:
        client.attempt(capture())
    assert refusal.value.code == "unverified", (
        "a terminal believes no refusal that is not signed, and stays shut"
    )
    return refusal.value.hint


def test_a_terminal_is_paired_asks_rolls_its_key_is_revoked_and_paired_anew(
    house: support.Place, live_server: Any, tmp_path: Path
) -> None:
    terminal = Terminal.objects.create(name="Back door", role=Terminal.Role.DOOR, door=house.door)
    path = tmp_path / "terminal.json"
    code = code_for(terminal)
    save_state(path, pair(live_server.url, code, seed=os.urandom(32)))
    with pytest.raises(ClientError) as spent:
        pair(live_server.url, code, seed=os.urandom(32))
    assert spent.value.hint == "pairing_code_invalid"

    first = load_state(path)
    with TerminalClient(first.server_url, first) as client:
        assert client.profile(first.profile_hash).hash == tiny_profile().hash
        decision = client.attempt(capture())
        assert (decision.granted, decision.reason, decision.door_id) == (
            False,
            "gallery_empty",
            str(house.door.pk),
        )
        rolled = client.roll_key(lambda state: save_state(path, state))
        assert rolled.key_id != first.key_id and load_state(path) == rolled
        assert client.attempt(capture()).reason == "gallery_empty"
    with TerminalClient(first.server_url, first) as old:
        assert old.attempt(capture()).reason == "gallery_empty", "the old key works for some minutes more"
        Terminal.objects.filter(pk=terminal.pk).update(previous_key_until=timezone.now())
        assert refused(old) == "key_unknown"

    with TerminalClient(rolled.server_url, rolled) as client:
        services.revoke_terminal(
            terminal=Terminal.objects.get(pk=terminal.pk), actor="admin", at=timezone.now()
        )
        assert refused(client) == "terminal_revoked"
        with pytest.raises(ClientError):
            client.roll_key(lambda state: save_state(tmp_path / "elsewhere.json", state))

    again = pair(live_server.url, code_for(terminal), seed=os.urandom(32))
    with TerminalClient(again.server_url, again) as client:
        assert client.attempt(capture()).reason == "gallery_empty"
    kinds = list(
        Entry.objects.filter(subject=f"terminal:{terminal.pk}")
        .order_by("index")
        .values_list("kind", flat=True)
    )
    expected = ["terminal.paired", "terminal.key_rolled", "terminal.revoked", "terminal.paired"]
    assert [kind for kind in kinds if kind in expected] == expected
