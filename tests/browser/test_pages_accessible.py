"""Every page, narrow and wide, light and dark: axe finds nothing serious, and nothing scrolls sideways."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from types import SimpleNamespace

import pytest
from django.urls import reverse
from django.utils import timezone
from playwright.sync_api import Error as PlaywrightError
from playwright.sync_api import Page

import audit.services
from accesscontrol.roles import PUBLIC
from tests.browser.axe import Issue, axe_script, grave_issues
from tests.browser.pages_fixtures import building, complaints, fresh_counts, signed_in_page  # noqa: F401
from tests.pages.support import make_attempt
from tests.pages.test_roles import NO_GET, OWN_PAGES, POST_ONLY, address

PARTS = 6  # of all pages: each part is a test of its own, so that a slow machine has time for it
NARROW, WIDE = {"width": 360, "height": 900}, {"width": 1440, "height": 900}
SIDEWAYS = "document.documentElement.scrollWidth - window.innerWidth"

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("fresh_counts")]


def looked_at(page: Page, path: str, *, both_schemes: bool = True) -> tuple[list[Issue], list[str]]:
    """Grave issues and sideways scrolling of one page, at both widths and in both schemes."""
    page.emulate_media(color_scheme="light")
    page.set_viewport_size(WIDE)
    try:
        answer = page.goto(path)
    except PlaywrightError as error:
        if "Download is starting" not in error.message:
            raise
        return [], []  # a file, not a page
    assert answer is not None
    if "html" not in (answer.headers.get("content-type") or ""):
        return [], []
    issues, sideways = grave_issues(page, f"{path} at 1440"), []
    page.set_viewport_size(NARROW)
    issues += grave_issues(page, f"{path} at 360")
    if page.evaluate(SIDEWAYS) > 0:
        sideways.append(path)
    if both_schemes:
        page.emulate_media(color_scheme="dark")
        issues += grave_issues(page, f"{path} in the dark", rules=["color-contrast"])
    return issues, sideways


def addresses(house: SimpleNamespace) -> list[str]:
    """Everything an administrator can look at, with something in it, and the pages one meets before that."""
    skipped = NO_GET | POST_ONLY | {"healthz", "readyz", "enrollment_progress", "retention_apply"}
    own = [address(name, house) for name in OWN_PAGES if name not in skipped and name not in PUBLIC]
    door = house.door.pk
    return [
        *own,
        reverse("audit:entries"),
        reverse("audit:entry", args=[0]),
        reverse("audit:checkpoints"),
        reverse("audit:entries") + f"?door={door}",
        reverse("audit:entries") + "?actor=nobody",
        reverse("attempts") + "?reason=holiday",
        reverse("reports") + f"?days=30&door={door}",
        reverse("who_may_enter") + f"?door={door}&at=2026-11-28T07:00",
        reverse("door", args=[door]) + "?day=yesterday&hour=x",
        reverse("settings_retention") + "?people_days=0&enrollments_days=0",
        reverse("retention_apply") + "?people_days=0&enrollments_days=0",
        "/no/such/page/",
        "/sign-in/",
    ]


def enliven(house: SimpleNamespace) -> None:
    """More to look at: refusals of several kinds, some days ago, a person whose time is over, and a log to verify."""
    now = timezone.now()
    for days, reason in enumerate(("no_match", "outside_schedule", "payload_refused", "granted", "no_rule")):
        at = now - timedelta(days=days, hours=3)
        make_attempt(
            house.terminal,
            person=house.alice if reason in {"granted", "outside_schedule"} else None,
            reason=reason,
            score=0.2 if reason == "no_match" else 0.6,
            received_at=at,
            deadline_at=at + timedelta(seconds=3),
            settled_at=at + timedelta(milliseconds=200),
        )
    house.bob.valid_from, house.bob.valid_until = now - timedelta(days=9), now - timedelta(days=2)
    house.bob.save()
    audit.services.record(
        kind="door.changed",
        actor="ada",
        at=now,
        subject=f"door:{house.door.pk}",
        details={"name": "Front door"},
    )
    audit.services.checkpoint(now)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_no_page_has_a_grave_issue_or_scrolls_sideways(
    part: int,
    building: SimpleNamespace,  # noqa: F811
    signed_in_page: Callable[..., Page],  # noqa: F811
    complaints: list[str],  # noqa: F811
) -> None:
    enliven(building)
    page = signed_in_page(init=axe_script())
    issues, sideways = [], []
    for path in addresses(building)[part::PARTS]:
        found, wide = looked_at(page, path)
        issues += found
        sideways += wide
    assert [str(issue) for issue in issues] == []
    assert sideways == []
    assert [text for text in complaints if "404" not in text and "422" not in text] == []


def test_pages_of_an_empty_house_teach_and_have_no_grave_issue(
    db: None,
    signed_in_page: Callable[..., Page],  # noqa: F811
    complaints: list[str],  # noqa: F811
) -> None:
    page = signed_in_page(init=axe_script())
    teaching = {
        "dashboard": "First steps",
        "attempts": "No attempt yet",
        "people": "Nobody here yet",
        "groups": "No group yet",
        "doors": "No door yet",
        "sites": "No site yet",
        "terminals": "No terminal yet",
        "rules": "No rule, so every door stays shut",
        "schedules": "No schedule yet",
        "tokens": "No token yet",
        "reports": "The first attempt starts them",
        "audit:entries": "Nothing has happened yet",
        "audit:checkpoints": "No checkpoint yet",
        "settings_thresholds": "After some days of use",
        "settings_keys": "No terminal is paired yet",
        "settings_retention": "Nothing was rehearsed yet",
    }
    issues, untaught = [], []
    for name, words in teaching.items():
        found, _ = looked_at(page, reverse(name), both_schemes=False)
        issues += found
        if words not in page.locator("main").inner_text():
            untaught.append(name)
    assert [str(issue) for issue in issues] == []
    assert untaught == []
    assert complaints == []
