"""Requests that a server must not believe, and whom each kind of proof opens what for."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from accesscontrol import services
from accesscontrol.authentication import TerminalRate
from accesscontrol.models import AccessAttempt, Alarm, Terminal, UsedNonce
from audit.models import Entry
from enrollment.models import Person
from terminal.protocol import key_id_of, public_key_of
from tests.accesscontrol import support
from tests.accesscontrol.support import ALICE, CAPTURE, Place, new_nonce

ME = "/api/v1/terminals/me"


def refused(response: object, status: int, code: str) -> None:
    body = response.json()  # type: ignore[attr-defined]
    assert (response.status_code, body["code"]) == (status, code)  # type: ignore[attr-defined]
    assert response["Content-Type"] == "application/problem+json"  # type: ignore[index]
    assert body["type"] == f"urn:lintel:problem:{code}"
    assert "Traceback" not in str(body)


def test_a_signed_request_is_believed_and_told_its_door(place: Place) -> None:
    response = place.device.get(ME)
    assert response.status_code == 200
    assert response.json()["door"]["id"] == str(place.door.pk)
    assert response.json()["server_keys"][0]["public_key"]


def test_a_request_without_a_signature_is_refused(place: Place) -> None:
    response = place.device.send("GET", ME, headers={})
    refused(response, 401, "signature_missing")
    assert response["WWW-Authenticate"].startswith("Signature")


def test_a_request_signed_with_the_wrong_key_is_refused_and_raises_an_alarm(place: Place) -> None:
    refused(place.device.get(ME, private_key=bytes(32)), 401, "signature_invalid")
    assert Alarm.objects.get().kind == "signature_refused"
    assert Entry.objects.filter(kind="alarm.raised").count() == 1


def test_a_key_that_no_terminal_has_is_refused(place: Place) -> None:
    key_id = key_id_of(public_key_of(bytes(32)))
    refused(place.device.get(ME, private_key=bytes(32), key_id=key_id), 401, "key_unknown")


@pytest.mark.parametrize("minutes", [10, -10])
def test_a_clock_that_is_ten_minutes_off_is_refused(place: Place, minutes: int) -> None:
    created = int((timezone.now() + timedelta(minutes=minutes)).timestamp())
    refused(place.device.get(ME, created=created), 401, "clock_skew")
    assert not UsedNonce.objects.exists()


def test_a_body_altered_on_its_way_is_refused(place: Place, payload: Callable[[int], bytes]) -> None:
    body = payload(ALICE)
    headers = place.device.sign("POST", "/api/v1/attempts", body, CAPTURE)
    altered = bytes([body[0]]) + bytes([body[1] ^ 1]) + body[2:]
    response = place.device.send("POST", "/api/v1/attempts", altered, headers=headers)
    refused(response, 401, "digest_mismatch")
    assert not AccessAttempt.objects.exists()


@pytest.mark.parametrize("elsewhere", ["/api/v1/profiles/" + "0" * 64, "/api/v1/terminals/me?door=1"])
def test_a_signature_for_one_address_opens_no_other(place: Place, elsewhere: str) -> None:
    headers = place.device.sign("GET", ME)
    refused(place.device.send("GET", elsewhere, headers=headers), 401, "signature_invalid")


def test_a_recorded_request_sent_again_is_refused_and_raises_an_alarm(
    place: Place, alice: Person, payload: Callable[[int], bytes]
) -> None:
    body = payload(ALICE)
    headers = place.device.sign("POST", "/api/v1/attempts", body, CAPTURE)
    assert place.device.send("POST", "/api/v1/attempts", body, headers=headers).json()["granted"] is True
    refused(place.device.send("POST", "/api/v1/attempts", body, headers=headers), 401, "nonce_replayed")
    assert AccessAttempt.objects.count() == 1
    assert Alarm.objects.get().kind == "nonce_replayed"


def test_a_request_that_is_slowed_down_has_spent_its_nonce_too(
    place: Place, alice: Person, payload: Callable[[int], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    body = payload(ALICE)
    headers = place.device.sign("POST", "/api/v1/attempts", body, CAPTURE)
    with monkeypatch.context() as patch:
        patch.setattr(TerminalRate, "rate", "1/min")
        assert place.device.get(ME).status_code == 200
        refused(
            place.device.send("POST", "/api/v1/attempts", body, headers=headers), 429, "too_many_requests"
        )
    refused(place.device.send("POST", "/api/v1/attempts", body, headers=headers), 401, "nonce_replayed")
    assert not AccessAttempt.objects.exists()


def test_a_request_of_another_content_type_has_spent_its_nonce_too(
    place: Place, alice: Person, payload: Callable[[int], bytes]
) -> None:
    body = payload(ALICE)
    headers = place.device.sign("POST", "/api/v1/attempts", body, "image/jpeg")
    refused(
        place.device.send("POST", "/api/v1/attempts", body, headers=headers), 415, "unsupported_media_type"
    )
    refused(place.device.send("POST", "/api/v1/attempts", body, headers=headers), 401, "nonce_replayed")


def test_somebody_who_sends_recorded_requests_again_does_not_use_up_the_rate_of_the_terminal(
    place: Place, alice: Person, payload: Callable[[int], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TerminalRate, "rate", "2/min")
    body = payload(ALICE)
    headers = place.device.sign("POST", "/api/v1/attempts", body, CAPTURE)
    assert place.device.send("POST", "/api/v1/attempts", body, headers=headers).status_code == 200
    for _ in range(3):
        refused(place.device.send("POST", "/api/v1/attempts", body, headers=headers), 401, "nonce_replayed")
    assert place.device.attempt(payload(ALICE)).status_code == 200


def test_a_nonce_spent_on_one_address_is_spent_on_all(place: Place) -> None:
    nonce = new_nonce()
    assert place.device.get(ME, nonce=nonce).status_code == 200
    refused(place.device.get("/api/v1/terminals/me/enrollment", nonce=nonce), 401, "nonce_replayed")


def test_a_revoked_terminal_is_refused_at_once_and_raises_an_alarm(
    place: Place, alice: Person, payload: Callable[[int], bytes]
) -> None:
    services.revoke_terminal(terminal=place.device.row, actor="admin", at=timezone.now())
    refused(place.device.attempt(payload(ALICE)), 401, "terminal_revoked")
    assert Alarm.objects.get().kind == "revoked_terminal"
    assert Entry.objects.filter(kind="terminal.revoked").exists()


def test_a_desk_terminal_may_not_ask_for_a_door(place: Place, payload: Callable[[int], bytes]) -> None:
    desk = support.pair(None, role=Terminal.Role.DESK)
    refused(desk.attempt(payload(ALICE)), 403, "not_allowed")
    assert desk.get("/api/v1/terminals/me/enrollment").status_code == 204


def test_a_terminal_reaches_nothing_of_the_integrators(place: Place) -> None:
    for path in ("/api/v1/people", "/api/v1/attempts", "/api/v1/rules", "/api/v1/doors"):
        refused(place.device.get(path), 401, "token_missing")


def test_a_token_reaches_nothing_of_the_terminals(place: Place) -> None:
    _, token = services.create_api_token(
        name="HR", scopes=["people:read", "attempts:read"], actor="admin", at=timezone.now()
    )
    client = Client(headers={"Authorization": f"Bearer {token}"})
    assert client.get("/api/v1/attempts").status_code == 200
    refused(client.get(ME), 401, "signature_missing")
    refused(client.post("/api/v1/attempts", b"x", content_type=CAPTURE), 401, "signature_missing")


def test_a_session_reaches_nothing_of_the_api(place: Place, admin_client: Client) -> None:
    refused(admin_client.get("/api/v1/people"), 401, "token_missing")
    refused(admin_client.get(ME), 401, "signature_missing")


def test_a_refusal_is_signed_too_when_the_request_was_believed(place: Place) -> None:
    nonce = new_nonce()
    response = place.device.get(f"/api/v1/profiles/{'0' * 64}", nonce=nonce)
    assert support.believed(response, nonce=nonce)["code"] == "not_found"


def test_a_profile_comes_byte_for_byte(place: Place) -> None:
    import hashlib

    profile_hash = place.device.get(ME).json()["profile_hash"]
    response = place.device.get(f"/api/v1/profiles/{profile_hash}")
    assert hashlib.sha256(response.content).hexdigest() == profile_hash


def test_a_reply_expires_within_seconds(place: Place) -> None:
    response = place.device.get(ME)
    created, expires = (
        int(response["Signature-Input"].split(f";{name}=")[1].split(";")[0])
        for name in ("created", "expires")
    )
    assert expires - created == 5


@pytest.mark.redis
def test_in_production_all_web_processes_count_a_terminal_together(
    place: Place, settings: Any, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.LINTEL_MODE, settings.LINTEL_REDIS_URL = "production", redis_url
    monkeypatch.setattr(TerminalRate, "rate", "2/min")
    monkeypatch.setattr(TerminalRate, "timer", lambda self: 1_000_045.0)  # 35 s before the end of a minute
    answers = [place.device.get(ME, created=int(timezone.now().timestamp())) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[2]["Retry-After"] == "35"


def test_a_terminal_that_asks_too_often_is_slowed_down(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TerminalRate, "rate", "2/min")
    answers = [place.device.get(ME) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[2].json()["code"] == "too_many_requests"
    assert int(answers[2]["Retry-After"]) >= 1


def test_a_request_recorded_at_one_door_opens_no_other(
    place: Place, alice: Person, payload: Callable[[int], bytes]
) -> None:
    """Sent on as the other terminal's, its signature fits no longer; sent on as it is, it is the first one's, once."""
    body = payload(ALICE)
    there = support.make_place("Mill")
    headers = place.device.sign("POST", "/api/v1/attempts", body, CAPTURE)
    moved = {name: value.replace(place.device.key_id, there.device.key_id) for name, value in headers.items()}
    assert moved != headers
    refused(there.device.send("POST", "/api/v1/attempts", body, headers=moved), 401, "signature_invalid")
    answer = there.device.send("POST", "/api/v1/attempts", body, headers=headers).json()
    assert answer["door_id"] == str(place.door.pk)
    refused(there.device.send("POST", "/api/v1/attempts", body, headers=headers), 401, "nonce_replayed")
    assert not AccessAttempt.objects.filter(door=there.door).exists()


def test_a_terminal_reads_nothing_of_another_ones_attempts(
    place: Place, alice: Person, payload: Callable[[int], bytes]
) -> None:
    attempt = place.device.attempt(payload(ALICE)).json()["attempt_id"]
    there = support.make_place("Mill")
    assert place.device.get(f"/api/v1/attempts/{attempt}").status_code == 200
    refused(there.device.get(f"/api/v1/attempts/{attempt}"), 404, "not_found")
