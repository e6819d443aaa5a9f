"""Headers of every response."""

from __future__ import annotations

import pytest
from django.contrib.staticfiles import finders
from django.test import Client


def policy_of(response: object) -> dict[str, list[str]]:
    header = response["Content-Security-Policy"]  # type: ignore[index]
    return {words[0]: words[1:] for words in (part.split() for part in header.split(";"))}


@pytest.mark.django_db
@pytest.mark.parametrize(
    "path", ["/healthz", "/sign-in/", "/api/docs/", "/nowhere", "/api/v1/nowhere", "/admin/"]
)
def test_every_answer_carries_a_strict_policy(client: Client, path: str) -> None:
    response = client.get(path)
    policy = policy_of(response)
    assert policy["default-src"] == ["'none'"]
    assert policy["script-src"] == ["'self'"]
    assert policy["style-src"] == ["'self'"]
    assert policy["frame-ancestors"] == ["'none'"]
    assert not any("unsafe" in word for words in policy.values() for word in words)
    assert "camera=()" in response["Permissions-Policy"]
    assert response["X-Content-Type-Options"] == "nosniff"


@pytest.mark.django_db  # its end looks at the connections that other tests left open
def test_a_static_file_carries_the_policy_too(client: Client) -> None:
    assert finders.find("lintel/lintel.css")
    response = client.get("/static/lintel/lintel.css")
    assert response.status_code == 200
    assert "unsafe" not in response["Content-Security-Policy"]
    response.close()


@pytest.mark.django_db
def test_the_api_documentation_needs_no_inline_script_or_style(client: Client) -> None:
    page = client.get("/api/docs/").content.decode()
    assert "<style" not in page
    assert "style=" not in page
    assert page.count("<script") == page.count("<script src=") == 3
    assert "//cdn" not in page
