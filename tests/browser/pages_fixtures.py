"""For the tests of pages: the building of `tests.pages`, a server on a thread of this process, and pages of a browser
in which somebody has signed in already. One browser for all of them, from the fixtures of this folder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.core.cache import cache
from django.test import Client
from playwright.sync_api import Browser, BrowserContext, Page

from tests.pages.conftest import building
from tests.pages.support import make_user

__all__ = ["building", "complaints", "fresh_counts", "signed_in_page"]

PATIENCE_MS = 240_000  # two cores that are busy with something else


@pytest.fixture
def complaints() -> list[str]:
    """What the console complained about, and every request to another origin."""
    return []


@pytest.fixture
def fresh_counts() -> Iterator[None]:
    """Days that were counted for another test's rows are forgotten."""
    cache.clear()
    yield
    cache.clear()


@pytest.fixture
def signed_in_page(
    launch: Callable[[str | None], Browser], live_server: Any, complaints: list[str]
) -> Iterator[Callable[..., Page]]:
    """`signed_in_page("guard", width=360)`: a page of a new context in which a user with this role is signed in."""
    contexts: list[BrowserContext] = []

    def open_one(
        role: str = "administrator",
        *,
        width: int = 1440,
        scheme: str = "light",
        init: str = "",
        **options: Any,
    ) -> Page:
        client = Client()
        client.force_login(
            make_user(f"the {role}", role), backend="django.contrib.auth.backends.ModelBackend"
        )
        context = launch(None).new_context(
            base_url=live_server.url,
            viewport={"width": width, "height": 900},
            color_scheme=scheme,
            reduced_motion="reduce",
            **options,
        )
        context.set_default_timeout(PATIENCE_MS)
        contexts.append(context)
        (cookie,) = [each for each in client.cookies.values() if each.key == "lintel_session"]
        context.add_cookies([{"name": cookie.key, "value": cookie.value, "url": live_server.url}])
        if init:
            context.add_init_script(init)
        page = context.new_page()
        page.on("console", lambda entry: complaints.append(entry.text) if entry.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "request",
            lambda request: (
                None
                if request.url.startswith((live_server.url, "data:", "blob:"))
                else complaints.append(f"a request to {request.url}")
            ),
        )
        return page

    yield open_one
    for context in contexts:
        context.close()
