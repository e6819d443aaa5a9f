"""What connected systems see: tokens with scopes, pages of rows, rules they may change, errors as problems."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accesscontrol import services
from accesscontrol.models import AccessRule, ApiToken, Scope
from accesscontrol.services import AccessRefused
from audit.models import Entry
from enrollment.models import Person
from tests.accesscontrol import support
from tests.accesscontrol.support import ALICE, MALLORY, Place


def system(*scopes: str, name: str = "HR") -> Client:
    _, token = services.create_api_token(name=name, scopes=scopes, actor="admin", at=timezone.now())
    return Client(headers={"Authorization": f"Bearer {token}"})


@pytest.fixture
def everything(place: Place) -> Client:
    return system(*Scope.values)


def test_a_token_is_shown_once_and_kept_as_a_hash(place: Place) -> None:
    row, token = services.create_api_token(
        name="HR", scopes=["people:read"], actor="admin", at=timezone.now()
    )
    assert token not in str(ApiToken.objects.values().get())
    assert token not in str(list(Entry.objects.values()))
    assert Entry.objects.get(kind="api_token.created").details["scopes"] == ["people:read"]
    assert row.last_used_at is None


def test_a_token_reaches_only_what_its_scopes_name(place: Place) -> None:
    client = system("doors:read")
    assert client.get("/api/v1/doors").status_code == 200
    for path in ("people", "attempts", "rules", "audit/entries"):
        response = client.get(f"/api/v1/{path}")
        assert (response.status_code, response.json()["code"]) == (403, "not_allowed")


def test_a_revoked_or_expired_token_opens_nothing(place: Place) -> None:
    now = timezone.now()
    row, token = services.create_api_token(name="A", scopes=["doors:read"], actor="admin", at=now)
    client = Client(headers={"Authorization": f"Bearer {token}"})
    assert client.get("/api/v1/doors").status_code == 200
    row.refresh_from_db()
    assert row.last_used_at is not None
    services.revoke_api_token(token=row, actor="admin", at=now)
    assert client.get("/api/v1/doors").json()["code"] == "token_invalid"
    _, old = services.create_api_token(
        name="B", scopes=["doors:read"], actor="admin", at=now, expires_at=now - timedelta(seconds=1)
    )
    response = Client(headers={"Authorization": f"Bearer {old}"}).get("/api/v1/doors")
    assert (response.status_code, response.json()["code"]) == (401, "token_invalid")
    assert response["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize("scopes", [[], ["everything"], ["people:read", "doors:open"]])
def test_a_token_without_known_scopes_is_refused(place: Place, scopes: list[str]) -> None:
    with pytest.raises(AccessRefused, match="scopes"):
        services.create_api_token(name="X", scopes=scopes, actor="admin", at=timezone.now())


def test_a_system_creates_changes_and_deletes_a_rule_and_each_is_in_the_log(
    place: Place, everything: Client
) -> None:
    body = {"name": "Cleaners", "group": place.group.pk, "doors": [str(place.door.pk)]}
    created = everything.post("/api/v1/rules", body, content_type="application/json")
    assert created.status_code == 201, created.content
    rule = f"/api/v1/rules/{created.json()['id']}"
    changed = everything.patch(rule, {"is_active": False}, content_type="application/json")
    assert (changed.status_code, changed.json()["is_active"]) == (200, False)
    assert changed.json()["doors"] == [str(place.door.pk)]
    assert everything.delete(rule).status_code == 204
    assert everything.get(rule).json()["code"] == "not_found"
    kinds = list(
        Entry.objects.filter(kind__startswith="rule.").order_by("index").values_list("kind", "actor")
    )
    assert kinds == [("rule.created", "token:HR"), ("rule.changed", "token:HR"), ("rule.deleted", "token:HR")]


def test_a_rule_that_makes_no_sense_is_refused_with_the_fields_that_are_wrong(
    place: Place, everything: Client
) -> None:
    response = everything.post(
        "/api/v1/rules", {"name": "", "group": 999, "doors": ["x"]}, content_type="application/json"
    )
    assert (response.status_code, response.json()["code"]) == (400, "invalid")
    assert set(response.json()["errors"]) == {"name", "group", "doors"}
    taken = {"name": place.rule.name, "group": place.group.pk, "doors": []}
    response = everything.post("/api/v1/rules", taken, content_type="application/json")
    assert (response.status_code, response.json()["code"]) == (409, "name_taken")
    ends = {"valid_from": "2026-12-02T00:00:00Z", "valid_until": "2026-12-01T00:00:00Z"}
    response = everything.patch(f"/api/v1/rules/{place.rule.pk}", ends, content_type="application/json")
    assert (response.status_code, response.json()["code"]) == (422, "validity_empty")
    assert AccessRule.objects.count() == 1


def test_putting_a_person_into_a_group_is_in_the_log_once(place: Place, everything: Client) -> None:
    person = support.somebody("Carol Example")
    path = f"/api/v1/groups/{place.group.pk}/members/{person.pk}"
    assert everything.put(path).status_code == 204
    assert everything.put(path).status_code == 204
    assert list(place.group.members.all()) == [person]
    assert everything.delete(path).status_code == 204
    assert not place.group.members.exists()
    assert Entry.objects.filter(kind="group.member_added").count() == 1


def test_attempts_are_listed_newest_first_and_filtered(
    place: Place, alice: Person, everything: Client, payload: Any
) -> None:
    place.device.attempt(payload(MALLORY))
    place.device.attempt(payload(ALICE))
    rows = everything.get("/api/v1/attempts").json()["results"]
    assert [row["reason"] for row in rows] == ["granted", "no_match"]
    for query, expected in (
        ("granted=true", ["granted"]),
        ("reason=no_match", ["no_match"]),
        (f"person={alice.pk}", ["granted"]),
        (f"door={place.door.pk}&state=settled&limit=1", ["granted"]),
        ("since=2199-01-01T00:00:00Z", []),
    ):
        found = everything.get(f"/api/v1/attempts?{query}").json()["results"]
        assert [row["reason"] for row in found] == expected, query
    response = everything.get("/api/v1/attempts?door=front&since=yesterday")
    assert (response.status_code, set(response.json()["errors"])) == (400, {"door", "since"})


def test_pages_have_a_limit_and_a_far_offset_is_an_empty_page(place: Place, everything: Client) -> None:
    page = everything.get("/api/v1/doors?limit=100000").json()
    assert page["count"] == 1
    assert everything.get(f"/api/v1/doors?offset={10**30}").json()["results"] == []
    assert everything.get(f"/api/v1/people?offset={10**30}").status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/api/v1/nowhere", 404, "not_found"),
        ("GET", "/api/v1/doors/00000000-0000-0000-0000-000000000000", 404, "not_found"),
        ("DELETE", "/api/v1/doors", 403, "not_allowed"),
        ("PUT", "/api/v1/terminals/pair", 405, "method_not_allowed"),
    ],
)
def test_every_refusal_is_a_problem_with_a_code(
    everything: Client, method: str, path: str, status: int, code: str
) -> None:
    response = everything.generic(method, path)
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert response["Content-Type"] == "application/problem+json"


def test_a_body_that_is_no_json_is_a_problem(everything: Client) -> None:
    response = everything.post("/api/v1/rules", "{", content_type="application/json")
    assert (response.status_code, response.json()["code"]) == (400, "malformed_request")
    response = everything.post("/api/v1/rules", "a=b", content_type="application/x-www-form-urlencoded")
    assert (response.status_code, response.json()["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize("opened", ["[", '{"a":'])
def test_json_without_a_bottom_is_a_problem_and_no_fault_here(
    client: Client, db: None, opened: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Anybody may send it: pairing asks for no proof."""
    response = client.post("/api/v1/terminals/pair", opened * 60_000, content_type="application/json")
    assert (response.status_code, response.json()["code"]) == (400, "malformed_request")
    assert "Traceback" not in caplog.text


def test_what_fails_inside_is_logged_and_says_nothing_to_the_caller(
    everything: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    from accesscontrol.api import integrators

    def broken(*_: Any) -> Any:
        raise RuntimeError("the secret is 42")

    monkeypatch.setattr(integrators.DoorsView, "rows", broken)
    everything.raise_request_exception = False
    response = everything.get("/api/v1/doors")
    assert (response.status_code, response.json()["code"]) == (500, "internal_error")
    assert "42" not in response.content.decode()


def test_an_attempt_costs_few_queries(place: Place, alice: Person, payload: Any) -> None:
    body = payload(ALICE)
    place.device.attempt(payload(ALICE))
    with CaptureQueriesContext(
        connection,
    ) as queries:
        assert place.device.attempt(body).json()["granted"] is True
    statements = [query["sql"] for query in queries if "SAVEPOINT" not in query["sql"]]
    assert len(statements) <= 24, "\n".join(statements)


@pytest.mark.parametrize(
    "path", ["/api/v1/doors", "/api/v1/terminals/me", "/api/v1/attempts", "/api/schema/", "/api/nowhere"]
)
def test_a_name_that_this_server_does_not_go_by_is_refused_as_a_problem(
    place: Place, everything: Client, path: str
) -> None:
    answer = everything.get(path, headers={"Host": "elsewhere.example.org"})
    assert answer.status_code == 400, answer.content
    assert answer["Content-Type"] == "application/problem+json"
    assert answer.json()["code"] == "host_unknown"


def test_a_signed_request_under_another_name_is_refused_as_a_problem(place: Place) -> None:
    headers = {
        **place.device.sign("GET", "/api/v1/attempts/" + str(place.door.pk)),
        "Host": "elsewhere.example.org",
    }
    answer = place.device.send("GET", "/api/v1/attempts/" + str(place.door.pk), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (400, "host_unknown")


def test_a_page_asked_for_under_another_name_is_refused_as_a_page(db: None, client: Client) -> None:
    answer = client.get("/sign-in/", headers={"Host": "elsewhere.example.org"})
    assert answer.status_code == 400
    assert answer["Content-Type"].startswith("text/html")


def test_what_fails_before_any_view_is_a_problem_in_the_api_and_a_page_elsewhere(
    db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Client(raise_request_exception=False)

    def fail(self: object, request: object) -> None:
        raise RuntimeError("the secret of the house")

    monkeypatch.setattr("django.middleware.common.CommonMiddleware.process_request", fail)
    answer = client.get("/api/v1/doors")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert "secret" not in answer.content.decode()
    assert client.get("/sign-in/")["Content-Type"].startswith("text/html")


def test_every_address_of_the_api_that_leads_nowhere_is_a_problem(db: None, client: Client) -> None:
    for path in ("/api/", "/api/nowhere", "/api/v2/doors", "/api/v1/nowhere"):
        answer = client.get(path)
        assert (answer.status_code, answer["Content-Type"]) == (404, "application/problem+json"), path
    assert client.get("/api/docs").status_code == 301
    assert client.get("/nowhere")["Content-Type"].startswith("text/html")
