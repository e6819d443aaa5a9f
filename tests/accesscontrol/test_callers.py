"""Three kinds of proof, three kinds of caller: a person's session, a system's token, a terminal's signature. None of
them counts where another is asked for, alone or beside one another; and each caller has a rate of its own.
"""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from accesscontrol import services
from accesscontrol.authentication import PairingRate, TerminalRate, TokenRate
from accesscontrol.models import Scope, Terminal
from tests.accesscontrol.support import Place

ME = "/api/v1/terminals/me"
PAGES = ("dashboard", "people", "doors", "terminals", "rules", "attempts", "audit:entries", "events")


def token(name: str = "HR") -> str:
    _, secret = services.create_api_token(name=name, scopes=Scope.values, actor="admin", at=timezone.now())
    return secret


def system(name: str = "HR") -> Client:
    return Client(headers={"Authorization": f"Bearer {token(name)}"})


@pytest.mark.parametrize("page", PAGES)
def test_a_token_opens_no_page(place: Place, page: str) -> None:
    address = reverse(page)
    answer = system().get(address)
    assert (answer.status_code, answer["Location"]) == (302, f"/sign-in/?next={address}")


@pytest.mark.parametrize("page", PAGES)
def test_a_signature_opens_no_page(place: Place, page: str) -> None:
    address = reverse(page)
    answer = place.device.get(address)
    assert (answer.status_code, answer["Location"]) == (302, f"/sign-in/?next={address}")


def test_a_token_changes_nothing_that_a_session_may(place: Place) -> None:
    answer = system().post(reverse("lock_down", args=[place.site.pk]), {"reason": "by a machine"})
    assert (answer.status_code, answer["Location"].partition("?")[0]) == (302, "/sign-in/")
    place.site.refresh_from_db()
    assert not place.site.locked_down


def test_session_and_token_together_are_no_terminal(place: Place, admin_client: Client) -> None:
    bearer = {"Authorization": f"Bearer {token()}"}
    assert admin_client.get("/api/v1/doors", headers=bearer).status_code == 200
    for answer in (
        admin_client.get(ME, headers=bearer),
        admin_client.post(
            "/api/v1/attempts", b"x", content_type="application/vnd.lintel.capture", headers=bearer
        ),
    ):
        assert (answer.status_code, answer.json()["code"]) == (401, "signature_missing")


def test_session_and_signature_together_are_no_connected_system(place: Place, admin_client: Client) -> None:
    signed = place.device.sign("GET", "/api/v1/doors")
    answer = admin_client.get("/api/v1/doors", headers=signed)
    assert (answer.status_code, answer.json()["code"]) == (401, "token_missing")


def test_a_signature_beside_a_token_speaks_for_the_terminal_alone(place: Place) -> None:
    """The answer is bound to what was asked for: a token of every scope widens nothing that a terminal may."""
    both = {"Authorization": f"Bearer {token()}"}
    desk = "/api/v1/terminals/me/enrollment"
    assert (
        place.device.client.get(desk, headers={**place.device.sign("GET", desk), **both}).status_code == 204
    )
    services.revoke_terminal(terminal=place.device.row, actor="admin", at=timezone.now())
    answer = place.device.client.get(ME, headers={**place.device.sign("GET", ME), **both})
    assert (answer.status_code, answer.json()["code"]) == (401, "terminal_revoked")


@pytest.mark.parametrize("mode", ["embedded", pytest.param("production", marks=pytest.mark.redis)])
def test_a_terminal_that_asks_too_often_slows_down_no_other(
    place: Place, monkeypatch: pytest.MonkeyPatch, settings: Any, mode: str, request: pytest.FixtureRequest
) -> None:
    from tests.accesscontrol import support

    other = support.pair(None, role=Terminal.Role.DESK)
    if mode == "production":
        settings.LINTEL_MODE, settings.LINTEL_REDIS_URL = "production", request.getfixturevalue("redis_url")
    monkeypatch.setattr(TerminalRate, "rate", "2/hour")
    monkeypatch.setattr(TerminalRate, "timer", lambda self: 1_000_000.0)  # production counts by whole hours
    assert [place.device.get(ME).status_code for _ in range(3)] == [200, 200, 429]
    assert other.get(ME).status_code == 200


def test_a_system_that_asks_too_often_is_slowed_down_by_its_own_account_and_no_other(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TokenRate, "rate", "2/hour")
    payroll, visitors = system("Payroll"), system("Visitors")
    answers = [payroll.get("/api/v1/doors") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[2].json()["code"] == "too_many_requests"
    assert answers[2]["Content-Type"] == "application/problem+json"
    assert int(answers[2]["Retry-After"]) >= 1
    assert payroll.get("/api/v1/people").status_code == 429, "one count for every operation"
    assert visitors.get("/api/v1/doors").status_code == 200


def test_nobody_is_without_a_rate(place: Place) -> None:
    for kind in (TerminalRate, TokenRate, PairingRate):
        number, period = kind().parse_rate(kind.rate)
        assert number and period, kind
