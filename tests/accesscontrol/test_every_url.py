"""Every address that the server knows, asked as every role and as a stranger: the gate decides before any view runs.

Unlike `tests/pages/test_roles.py` this needs no rows: ids are made up, so whoever may pass the gate finds nothing,
and whoever may not is refused all the same, by a POST, which would do the most. Audit pages, Django's own tables and
the API are among the addresses.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator

import pytest
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver, reverse

from accesscontrol.roles import PUBLIC, Role, roles_for
from tests.pages.conftest import signed_in  # noqa: F401
from tests.pages.test_roles import every_page

pytestmark = pytest.mark.django_db
MADE_UP = {"uuid": str(uuid.UUID(int=7)), "int": "7", "str": "nothing", "slug": "nothing", "path": "nothing"}
#: Of Django's own tables the lists stand for the rest: one decision opens them all.
ONE_OF_MANY = re.compile(r"admin:.*_(add|change|delete|history)")
#: Streams for as long as somebody listens.
ENDLESS = {"events"}


def filled(route: str) -> str | None:
    """A route with made-up values; None for the regular expressions of Django's own pages that need more."""
    path = re.sub(r"<(?:(\w+):)?\w+>", lambda match: MADE_UP[match[1] or "str"], route)
    return None if any(sign in path for sign in "^$(?") else f"/{path}"


def pages() -> list[tuple[str, str]]:
    found = [(name, filled(route)) for name, route in every_page()]
    return sorted({(name, path) for name, path in found if path and _is_walked(name)})


def _is_walked(name: str) -> bool:
    return name not in ENDLESS and not ONE_OF_MANY.fullmatch(name)


def test_the_walk_finds_the_pages_of_every_app():
    names = {name for name, _ in pages()}
    assert {
        "dashboard",
        "reports",
        "settings_keys",
        "retention_apply",
        "people",
        "audit:export",
        "admin:index",
    } <= names
    assert len(names) > 80


@pytest.mark.parametrize("role", [*(role.value for role in Role), "nobody"])
def test_each_role_passes_the_gate_of_its_pages_and_of_no_other(role, signed_in):  # noqa: F811
    client = signed_in(role)
    wrong = []
    for name, path in pages():
        if name in PUBLIC:
            continue
        allowed = role in {known.value for known in roles_for(name)}
        asked = [client.get(path)] if allowed else [client.get(path), client.post(path)]
        wrong += [
            f"{name} {path}: {each.status_code}" for each in asked if (each.status_code == 403) == allowed
        ]
    assert wrong == []


def test_a_stranger_is_sent_to_sign_in_from_everywhere(db):
    client = Client()
    for name, path in pages():
        if name in PUBLIC:
            continue
        answer = client.get(path)
        assert answer.status_code == 302, name
        assert answer["Location"].startswith(reverse("sign_in")), name


def api(patterns=None, prefix: str = "") -> Iterator[str]:
    for pattern in get_resolver().url_patterns if patterns is None else patterns:
        route = prefix + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            yield from api(pattern.url_patterns, route)
        elif isinstance(pattern, URLPattern) and route.startswith("api/v1/"):
            path = filled(route)
            if path is not None:
                yield path


def test_a_signed_in_administrator_is_nobody_to_the_api(signed_in):  # noqa: F811
    """A session is no token: a page elsewhere cannot make the browser of an administrator call operations."""
    client = signed_in("administrator")
    paths = list(api())
    assert len(paths) > 20
    for path in paths:
        for answer in (client.get(path), client.post(path, {}, content_type="application/json")):
            assert answer.status_code in {400, 401, 403, 404, 405, 415}, f"{path}: {answer.status_code}"
