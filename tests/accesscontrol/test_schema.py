"""The API as its own description says: valid OpenAPI 3.1 with examples, and no request whatever brings it down."""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Any

import jsonschema_rs
import pytest
import requests
import schemathesis
from django.core.management import call_command
from django.db import connections
from django.test import Client
from django.utils import timezone
from hypothesis import HealthCheck, Phase, given, settings

from accesscontrol import celery, services
from accesscontrol.models import Scope
from tests.accesscontrol import support

EXAMPLES_PER_OPERATION = 12
INTEGERS = {"group_id", "rule_id"}  # in addresses; the rest are UUIDs or words

schemathesis.serializer.alias(support.CAPTURE, "application/octet-stream")


@pytest.fixture(scope="module")
def schema(django_db_setup: None) -> dict[str, Any]:
    response = Client().get("/api/schema/?format=json")
    assert response.status_code == HTTPStatus.OK
    return json.loads(response.content)


def operations(schema: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def test_the_schema_is_openapi_3_1_and_names_every_operation_once(schema: dict[str, Any]) -> None:
    assert schema["openapi"].startswith("3.1")
    names = [operation["operationId"] for _, _, operation in operations(schema)]
    assert len(names) == len(set(names)) >= 25
    assert all(operation.get("summary") for _, _, operation in operations(schema))


def test_the_description_is_written_without_a_guess(django_db_setup: None) -> None:
    call_command("spectacular", "--validate", "--fail-on-warn", file=os.devnull)


@pytest.mark.parametrize("version", ["\x00", "2", "a\r\nSet-Cookie: b=c", '") ('])
def test_nothing_that_a_reader_asks_for_gets_into_the_headers_of_the_description(
    schema: dict[str, Any], version: str
) -> None:
    response = Client().get("/api/schema/", {"format": "json", "version": version})
    assert response.status_code == HTTPStatus.OK
    assert response["Content-Disposition"] == Client().get("/api/schema/?format=json")["Content-Disposition"]
    assert json.loads(response.content) == schema


def test_every_operation_names_one_kind_of_caller(schema: dict[str, Any]) -> None:
    kinds = schema["components"]["securitySchemes"]
    assert set(kinds) == {"terminalSignature", "apiToken"}
    for path, method, operation in operations(schema):
        security = [name for choice in operation.get("security", []) for name in choice]
        expected = 0 if path == "/api/v1/terminals/pair" else 1
        assert len(security) == expected, (path, method, security)


@pytest.mark.django_db
def test_the_wrong_kind_of_caller_is_refused_by_every_operation(schema: dict[str, Any]) -> None:
    _, token = services.create_api_token(name="all", scopes=Scope.values, actor="admin", at=timezone.now())
    integrator = Client(headers={"Authorization": f"Bearer {token}"})
    terminal = support.make_place().device
    asked = 0
    for path, method, operation in operations(schema):
        kinds = {name for choice in operation.get("security", []) for name in choice}
        address = re.sub(r"{(\w+)}", lambda name: "7" if name[1] in INTEGERS else str(uuid.UUID(int=7)), path)
        if kinds == {"apiToken"}:
            answer, code = terminal.send(method.upper(), address), "token_missing"
        elif kinds == {"terminalSignature"}:
            answer, code = integrator.generic(method.upper(), address), "signature_missing"
        else:
            continue
        assert (answer.status_code, answer.json()["code"]) == (401, code), (method, path)
        asked += 1
    assert asked == sum(1 for _ in operations(schema)) - 1  # pairing asks for neither


def test_every_schema_of_the_description_is_a_json_schema_and_examples_exist(schema: dict[str, Any]) -> None:
    for name, component in schema["components"]["schemas"].items():
        (
            jsonschema_rs.meta.validate(
                {"$schema": "https://json-schema.org/draft/2020-12/schema", **component}
            ),
            name,
        )


def test_every_operation_shows_what_is_sent_and_what_comes_back(schema: dict[str, Any]) -> None:
    """All but captures, whose bytes docs/protocol.md describes, and answers without a body."""
    lacking = []
    for path, method, operation in operations(schema):
        sent = {
            f"{method} {path} request": content
            for kind, content in operation.get("requestBody", {}).get("content", {}).items()
            if kind != support.CAPTURE
        }
        received = {
            f"{method} {path} {status} {kind}": content
            for status, answer in operation["responses"].items()
            for kind, content in answer.get("content", {}).items()
        }
        lacking += [name for name, content in (sent | received).items() if not content.get("examples")]
    assert not lacking


def test_every_example_of_an_answer_is_what_its_schema_says(schema: dict[str, Any]) -> None:
    wrong = []
    for path, method, operation in operations(schema):
        bodies = [operation.get("requestBody", {}), *operation["responses"].values()]
        for content in (content for body in bodies for content in body.get("content", {}).values()):
            rules = {
                "$schema": "https://json-schema.org/draft/2020-12/schema",
                "components": schema["components"],
                **content["schema"],
            }
            validator = jsonschema_rs.validator_for(rules)
            for name, example in content.get("examples", {}).items():
                wrong += [
                    f"{method} {path} {name}: {error}" for error in validator.iter_errors(example["value"])
                ]
    assert not wrong


def test_refusals_are_described_as_problems(schema: dict[str, Any]) -> None:
    refusals = [
        (path, method, set(answer.get("content", {})))
        for path, method, operation in operations(schema)
        for status, answer in operation["responses"].items()
        if status >= "400"
    ]
    assert len(refusals) > 30
    assert all(kinds == {"application/problem+json"} for _, _, kinds in refusals), refusals


@pytest.mark.django_db
def test_lists_are_described_as_the_pages_they_come_in(schema: dict[str, Any]) -> None:
    _, token = services.create_api_token(name="all", scopes=Scope.values, actor="admin", at=timezone.now())
    client = Client(headers={"Authorization": f"Bearer {token}"})
    lists = ("attempts", "doors", "groups", "people", "rules", "schedules", "sites", "terminals")
    for name in lists:
        described = schema["paths"][f"/api/v1/{name}"]["get"]["responses"]["200"]["content"][
            "application/json"
        ]
        component = described["schema"]["$ref"].rpartition("/")[2]
        properties = schema["components"]["schemas"][component]["properties"]
        assert set(client.get(f"/api/v1/{name}").json()) == set(properties), name


def test_the_documentation_is_a_page_without_anything_from_elsewhere(db: None) -> None:
    response = Client().get("/api/docs/")
    page = response.content.decode()
    assert response.status_code == HTTPStatus.OK
    assert "swagger-ui" in page
    assert "https://" not in page and "<script>" not in page


@pytest.mark.flow
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_no_request_brings_the_server_down(
    model: None, live_server: Any, schema: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every operation with data drawn from its schema and against it: with a token that may do everything, signed by a
    real terminal, and with nothing at all. Whatever comes, the answer is never a 5xx."""
    for kind in ("TokenRate", "TerminalRate", "PairingRate"):
        monkeypatch.setattr(f"accesscontrol.authentication.{kind}.rate", "1000000/min")
    place = support.make_place()
    _, token = services.create_api_token(name="all", scopes=Scope.values, actor="admin", at=timezone.now())
    support.somebody("Alice Example")
    failures: list[str] = []
    tried: set[tuple[str, str]] = set()
    api = schemathesis.openapi.from_dict(schema)
    api.config.update(base_url=live_server.url)

    def call(case: Any, sign: Callable[[requests.PreparedRequest], None]) -> None:
        prepared = _prepared(case)
        sign(prepared)
        with requests.Session() as session:
            answer = session.send(prepared, timeout=120, allow_redirects=False)
        if answer.status_code >= 500:
            failures.append(f"{prepared.method} {prepared.url} {answer.status_code} {answer.text[:300]}")

    def by_token(prepared: requests.PreparedRequest) -> None:
        prepared.headers["Authorization"] = f"Bearer {token}"

    def by_signature(prepared: requests.PreparedRequest) -> None:
        body = prepared.body or b""
        body = body.encode() if isinstance(body, str) else body
        content_type = prepared.headers.get("Content-Type", "application/octet-stream") if body else None
        headers = place.device.sign(prepared.method or "", "", body, content_type, url=str(prepared.url))
        prepared.headers.update(headers)

    def by_nothing(prepared: requests.PreparedRequest) -> None:
        prepared.headers.pop("Authorization", None)

    for result in api.get_all_operations():
        operation = result.ok()
        kinds = {name for choice in operation.definition.raw.get("security", []) for name in choice}
        sign = by_token if "apiToken" in kinds else by_signature if kinds else by_nothing

        _try(operation, [lambda case, sign=sign: call(case, sign), lambda case: call(case, by_nothing)])
        tried.add((operation.path, operation.method))
    celery.wait_for_embedded_tasks()
    connections.close_all()
    assert not failures, "\n".join(failures[:20])
    assert tried == {(path, method) for path, method, _ in operations(schema)}
    assert ("/api/v1/attempts/proof", "post") in tried


def _try(operation: Any, calls: list[Callable[[Any], None]]) -> None:
    @settings(
        max_examples=EXAMPLES_PER_OPERATION,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate],
    )
    @given(case=operation.as_strategy())
    def every_case(case: Any) -> None:
        for call in calls:
            call(case)

    every_case()


def _prepared(case: Any) -> requests.PreparedRequest:
    arguments = case.as_transport_kwargs()
    known = ("method", "url", "headers", "params", "data", "json", "cookies", "files")
    return requests.Request(**{name: arguments[name] for name in known if name in arguments}).prepare()
