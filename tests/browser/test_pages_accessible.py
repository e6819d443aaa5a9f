"""Every page, narrow and wide, light and dark: axe finds nothing serious, and nothing scrolls sideways."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from django.urls import reverse
from django.utils import timezone
from playwright.sync_api import Browser, Page, Route, expect
from playwright.sync_api import Error as PlaywrightError

import audit.services
from accesscontrol.roles import PUBLIC
from enrollment import invitations, languages
from enrollment.models import Enrollment
from tests.browser.axe import Issue, axe_script, grave_issues
from tests.browser.conftest import Server
from tests.browser.pages_fixtures import (  # noqa: F401
    PATIENCE_MS,
    building,
    complaints,
    fresh_counts,
    signed_in_page,
)
from tests.browser.patience import hold_time
from tests.browser.test_kiosk import answer_attempts, make_terminal, pair, signed_by, signing_key, yes
from tests.pages.support import make_attempt
from tests.pages.test_roles import NO_GET, OWN_PAGES, POST_ONLY, address

PARTS = 6  # of all pages: each part is a test of its own, so that a slow machine has time for it
NARROW, WIDE = {"width": 360, "height": 900}, {"width": 1440, "height": 900}
BETWEEN = (480, 640, 704, 768, 991, 992, 1200)  # at every width at which the pages change their shape
NOWHERE = "/no/such/page/"
SIDEWAYS = "document.documentElement.scrollWidth - window.innerWidth"

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("fresh_counts")]


def looked_at(page: Page, path: str, *, both_schemes: bool = True) -> tuple[list[Issue], list[str]]:
    """Grave issues and sideways scrolling of one page, at both widths and in both schemes."""
    try:
        answer = page.goto(path)
    except PlaywrightError as error:
        if "Download is starting" not in error.message:
            raise
        return [], []  # a file, not a page
    assert answer is not None
    assert (answer.status == 404) == (path == NOWHERE), f"{path} answers {answer.status}"
    if "html" not in (answer.headers.get("content-type") or ""):
        return [], []
    return seen(page, path, both_schemes=both_schemes)


def seen(page: Page, where: str, *, both_schemes: bool = True) -> tuple[list[Issue], list[str]]:
    """The same of a page as it stands, whatever led there."""
    page.emulate_media(color_scheme="light")
    page.set_viewport_size(WIDE)
    issues, sideways = grave_issues(page, f"{where} at 1440"), []
    page.set_viewport_size(NARROW)
    issues += grave_issues(page, f"{where} at 360")
    for width in (NARROW["width"], *BETWEEN, WIDE["width"]):
        page.set_viewport_size({"width": width, "height": 900})
        if page.evaluate(SIDEWAYS) > 0:
            sideways.append(f"{where} at {width}")
    page.set_viewport_size(NARROW)
    if both_schemes:
        page.emulate_media(color_scheme="dark")
        issues += grave_issues(page, f"{where} at 360 in the dark", rules=["color-contrast"])
        page.set_viewport_size(WIDE)
        issues += grave_issues(page, f"{where} at 1440 in the dark", rules=["color-contrast"])
    return issues, sideways


class Walk:
    """What was found wherever somebody looked on their way through some pages."""

    def __init__(self) -> None:
        self.issues: list[str] = []
        self.sideways: list[str] = []

    def look(self, page: Page, where: str) -> None:
        issues, sideways = seen(page, where)
        self.issues += [str(issue) for issue in issues]
        self.sideways += sideways


@pytest.fixture
def open_guest(
    launch: Callable[[str | None], Browser],
    live_server: Any,
    complaints: list[str],  # noqa: F811
) -> Iterator[Callable[[str], Page]]:
    """A page of somebody who never signed in, on a phone that speaks this language and has no camera."""
    contexts = []

    def open_one(language: str) -> Page:
        context = launch(None).new_context(base_url=live_server.url, locale=language, reduced_motion="reduce")
        contexts.append(context)
        context.set_default_timeout(PATIENCE_MS)
        context.add_init_script(axe_script())
        page = context.new_page()
        page.on("console", lambda entry: complaints.append(entry.text) if entry.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        return page

    yield open_one
    for context in contexts:
        context.close()


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
        NOWHERE,
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


# Before anybody signs in: the guest's own pages, and the kiosk


@pytest.mark.slow
@pytest.mark.parametrize("language", [language.tag for language in languages.known()])
def test_a_guest_finds_no_grave_issue_from_the_link_to_the_end(
    language: str,
    building: SimpleNamespace,  # noqa: F811
    live_server: Any,
    open_guest: Callable[..., Page],
    complaints: list[str],  # noqa: F811
) -> None:
    walk, page = Walk(), open_guest(language)
    issued = invitations.issue_invitation(person=building.bob, actor="test", at=timezone.now())

    page.goto("/invitation/")
    walk.look(page, "the invitation without a link")
    page.goto(f"{live_server.url}/invitation/#{'A' * 43}")
    expect(page.locator("[data-code=invitation_unknown]")).to_be_visible()
    walk.look(page, "a link that nobody made")
    page.goto("about:blank")  # a link that is only another fragment loads nothing
    page.goto(invitations.link_to(issued, base=live_server.url))
    expect(page.get_by_role("heading", level=1)).to_contain_text("Bob Example")
    walk.look(page, "the guest's consent")
    page.locator("button[value=yes]").click()
    expect(page.get_by_role("alert")).to_be_focused()
    walk.look(page, "consent without the tick")
    page.locator("#agreed").check()
    page.locator("button[value=yes]").click()
    expect(page.locator("#station")).to_be_visible()
    walk.look(page, "the guest's camera")
    page.locator("[data-start]").click()
    expect(page.locator("#station")).not_to_have_attribute("data-state", "idle")
    walk.look(page, "the guest's camera that is not there")

    enrollment = Enrollment.objects.get(invitations=issued.invitation)
    for state in (Enrollment.State.DUPLICATE_FOUND, Enrollment.State.COMPLETED):
        enrollment.state = state
        enrollment.finished_at = timezone.now() if state == Enrollment.State.COMPLETED else None
        enrollment.save()
        page.goto("/invitation/")
        expect(page.locator(f"#enrollment[data-state={state.value}]")).to_be_visible()
        walk.look(page, f"the guest's end: {state.value}")
    assert walk.issues == []
    assert walk.sideways == []
    assert [text for text in complaints if "404" not in text and "422" not in text] == []


@pytest.mark.slow
def test_the_kiosk_has_no_grave_issue_from_pairing_to_a_door_that_opens(
    server: Server, open_page: Callable[..., Page]
) -> None:
    walk, key = Walk(), signing_key(server)
    made = make_terminal(server, "Kiosk under a magnifier")
    reply = {"granted": True, "reason": "granted", "name": "Ada"}
    page = open_page(film="face", width=1280, height=800)
    page.add_init_script(axe_script())
    hold_time(page)  # an answer stays until it has been looked at

    def answer(route: Route, nonce: str) -> None:
        if not reply:
            route.abort()
            return
        body = yes(made["door"], nonce, **reply)
        headers = signed_by(*key, nonce=nonce, body=body)
        route.fulfill(status=200, body=body, headers={"Content-Type": "application/json", **headers})

    answer_attempts(page, answer)
    page.goto("/kiosk/")
    expect(page.locator("#pair")).to_be_visible()
    walk.look(page, "the kiosk before it is paired")
    page.locator("#code").fill("no such code")
    page.locator("#code").press("Enter")
    expect(page.locator("#pair-error")).not_to_be_empty()
    walk.look(page, "the kiosk after a wrong code")
    page.locator("#code").fill(made["code"])
    page.locator("#code").press("Enter")
    expect(page.locator("#paired")).to_be_visible()
    walk.look(page, "the kiosk that is paired")
    page.locator("#begin").click()
    expect(page.locator("body[data-tone=yes] #sentence")).to_be_visible()
    walk.look(page, "the kiosk that lets somebody in")
    reply.update(granted=False, reason="no_match")
    reply.pop("name")
    page.reload()
    expect(page.locator("body[data-tone=no] #sentence")).to_be_visible()
    walk.look(page, "the kiosk that refuses")
    reply["reason"] = "pin_required"
    reply["proof_until"] = (timezone.now() + timedelta(minutes=5)).isoformat()
    page.reload()
    expect(page.locator("#pad")).to_be_visible()
    walk.look(page, "the kiosk that asks for a PIN")
    reply.clear()
    page.reload()
    expect(page.locator("#notice")).to_be_visible()
    walk.look(page, "the kiosk without a network")

    idle = open_page(film="empty", width=1280, height=800)
    idle.add_init_script(axe_script())
    pair(idle, make_terminal(server, "Kiosk that waits"))
    expect(idle.locator("#prompt")).to_be_visible()
    walk.look(idle, "the kiosk that waits")
    blind = open_page(width=1280, height=800)
    blind.add_init_script(axe_script())
    pair(blind, make_terminal(server, "Kiosk without a camera"))
    expect(blind.locator("#camera")).to_be_visible()
    walk.look(blind, "the kiosk without a camera")
    assert walk.issues == []
    assert walk.sideways == []
