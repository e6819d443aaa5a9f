"""Pages where life is not tidy: names of eighty letters, a crowd at the doors while somebody clicks and tabs."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from django.urls import reverse
from django.utils import timezone
from playwright.sync_api import Page, expect

import audit.services
from accesscontrol import live
from accesscontrol.models import AccessAttempt, Alarm
from tests.browser.pages_fixtures import building, complaints, fresh_counts, signed_in_page  # noqa: F401
from tests.browser.patience import hold_time
from tests.pages.support import make_attempt

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("fresh_counts")]
SignedIn = Callable[..., Page]

LONG = "Wolfeschlegelsteinhausenbergerdorffwelchevoralternwarengewissenhaftschaferswesse"
SIDEWAYS = "document.documentElement.scrollWidth - window.innerWidth"
#: Elements whose text is cut off or runs out of them, unless a reader can scroll there.
CLIPPED = """() => [...document.querySelectorAll("main *")].filter((node) => {
    const style = getComputedStyle(node);
    const hidden = node.closest(".visually-hidden, .table-wrap[tabindex], select, input, svg, thead") !== null;
    return !hidden && node.clientWidth > 1 && style.display !== "inline"
        && node.scrollWidth > node.clientWidth + 1;
}).map((node) => `${node.tagName} ${node.className} ${node.textContent.trim().slice(0, 40)}`)"""


@pytest.fixture
def long_house(building: SimpleNamespace) -> SimpleNamespace:  # noqa: F811
    """Everything that has a name has one of eighty letters."""
    for thing in (
        building.site,
        building.zone,
        building.door,
        building.terminal,
        building.group,
        building.rule,
    ):
        thing.name = LONG
        thing.save()
    building.schedule.name = LONG
    building.schedule.save()
    building.rule.schedule = building.schedule
    building.rule.save()
    building.alice.full_name, building.alice.external_id = LONG, "X" * 100
    building.alice.email = f"{'a' * 60}@{'b' * 60}.example.org"
    building.alice.save()
    Alarm.objects.update(message=f"5 refusals at {LONG} within 5 minutes")
    make_attempt(building.terminal, person=building.alice, reason="outside_schedule")
    audit.services.record(
        kind="door.changed",
        actor=LONG,
        at=timezone.now(),
        subject=f"door:{building.door.pk}",
        details={"name": LONG},
    )
    return building


@pytest.mark.parametrize("width", [360, 1440])
def test_a_name_of_eighty_letters_breaks_and_nothing_scrolls_sideways(
    width: int,
    long_house: SimpleNamespace,
    signed_in_page: SignedIn,  # noqa: F811
) -> None:
    house = long_house
    page = signed_in_page(width=width)
    wide, clipped = [], []
    for path in (
        "/",
        reverse("attempts"),
        reverse("attempt", args=[AccessAttempt.objects.latest("received_at").pk]),
        reverse("people"),
        reverse("person", args=[house.alice.pk]),
        reverse("doors"),
        reverse("door", args=[house.door.pk]),
        reverse("site", args=[house.site.pk]),
        reverse("terminals"),
        reverse("terminal", args=[house.terminal.pk]),
        reverse("rules"),
        reverse("rule_edit", args=[house.rule.pk]),
        reverse("group", args=[house.group.pk]),
        reverse("schedules"),
        reverse("lock_down", args=[house.site.pk]),
        reverse("reports"),
        reverse("audit:entries"),
        reverse("audit:entries") + f"?door={house.door.pk}",
    ):
        page.goto(path)
        if page.evaluate(SIDEWAYS) > 0:
            wide.append(path)
        clipped += [f"{path}: {what}" for what in page.evaluate(CLIPPED)]
    assert wide == []
    assert clipped == []


@pytest.mark.parametrize("width", [1000, 1440])
def test_the_score_of_an_attempt_is_seen_without_scrolling(
    width: int,
    building: SimpleNamespace,  # noqa: F811
    signed_in_page: SignedIn,  # noqa: F811
) -> None:
    make_attempt(building.terminal, person=building.alice, reason="outside_schedule")
    page = signed_in_page("administrator", width=width)
    for path in (
        "/",
        reverse("terminal", args=[building.terminal.pk]),
        reverse("door", args=[building.door.pk]),
    ):
        page.goto(path)
        tables = "[...document.querySelectorAll('.table-wrap:has(.attempts)')]"
        cut = f"{tables}.filter((node) => node.scrollWidth > node.clientWidth + 1)"
        assert page.evaluate(f"{cut}.map((node) => node.innerText)") == [], path


def arrive(house: SimpleNamespace) -> AccessAttempt:
    """One more attempt, as the live page hears of it."""
    made = make_attempt(house.terminal, person=house.alice)
    live.publish("attempt", {"id": str(made.pk)})
    return made


def live_page(signed_in_page: SignedIn) -> Page:  # noqa: F811
    """Live, with the first part behind it: what is fetched from here on is fetched because of an event. A finger may
    stay down for as long as the test takes; the page itself takes three seconds for tired."""
    page = signed_in_page("guard")
    hold_time(page, at_least_ms=3000)
    with page.expect_response(re.compile("part=live")):
        page.goto("/")
    expect(page.locator("[data-live-state]")).to_have_text("Live")
    return page


def arrive_under_a_finger(page: Page, house: SimpleNamespace) -> AccessAttempt:
    """The page hears of an attempt, and does not show it while the finger is down."""
    page.mouse.down()
    with page.expect_response(re.compile("part=live")):
        waiting = arrive(house)
    expect(page.locator(f"#attempt-{waiting.pk}")).to_have_count(0)
    return waiting


def test_an_alarm_is_marked_as_seen_although_attempts_arrive_under_the_finger(
    building: SimpleNamespace,  # noqa: F811
    signed_in_page: SignedIn,  # noqa: F811
    complaints: list[str],  # noqa: F811
) -> None:
    page = live_page(signed_in_page)
    page.get_by_role("button", name="Seen").hover()
    arrive_under_a_finger(page, building)
    page.mouse.up()
    expect(page.locator(".message")).to_contain_text("The alarm is marked as seen")
    building.alarm.refresh_from_db()
    assert building.alarm.acknowledged_by == "the guard"
    assert complaints == []


def test_what_waited_for_a_finger_is_shown_when_it_is_gone(
    building: SimpleNamespace,  # noqa: F811
    signed_in_page: SignedIn,  # noqa: F811
) -> None:
    page = live_page(signed_in_page)
    page.get_by_role("heading", name="Newest attempts").hover()
    waiting = arrive_under_a_finger(page, building)
    page.mouse.up()
    expect(page.locator(f"#attempt-{waiting.pk}")).to_be_visible()


def test_the_focus_and_what_is_selected_stay_while_attempts_arrive(
    building: SimpleNamespace,  # noqa: F811
    signed_in_page: SignedIn,  # noqa: F811
) -> None:
    page = live_page(signed_in_page)
    row = page.locator(f"#attempt-{building.attempt.pk}")
    row.locator(".a-who").evaluate("node => getSelection().selectAllChildren(node)")
    # The first part that a page fetches begins otherwise than the page did, with less white space.
    page.evaluate("document.querySelector('[data-live]').prepend('\\n')")
    for focused in (page.locator(".door-states a").first, row.get_by_role("link").first):
        focused.focus()
        newest = arrive(building)
        expect(page.locator(f"#attempt-{newest.pk}")).to_be_visible()
        expect(focused).to_be_focused()
    assert page.evaluate("getSelection().toString().trim()") == "Alice Example"
    expect(page.locator("tbody tr").first).to_have_attribute("id", f"attempt-{newest.pk}")
    expect(page.locator("[data-fresh]")).to_have_count(2)


def test_the_live_page_becomes_what_the_server_says_whatever_was_there_before(
    building: SimpleNamespace,  # noqa: F811
    signed_in_page: SignedIn,  # noqa: F811
) -> None:
    """Alarms come and go, the site is locked: merged into the page, it is the page that one gets anew."""
    page = live_page(signed_in_page)
    Alarm.objects.update(acknowledged_at=timezone.now(), acknowledged_by="test")
    building.site.locked_down, building.site.locked_down_reason = True, "Drill"
    building.site.locked_down_at, building.site.locked_down_by = timezone.now(), "test"
    building.site.save()
    newest = arrive(building)
    expect(page.locator(f"#attempt-{newest.pk}")).to_be_visible()
    expect(page.get_by_role("heading", name="Alarms")).to_have_count(0)
    expect(page.get_by_role("alert")).to_contain_text("is locked down")
    parts = "[...document.querySelectorAll('[data-live] :is(section, tr, li, .notice)')].map((node) => node.innerText)"
    anew = page.context.new_page()
    anew.goto("/")
    # The part that brought the row may have asked for the doors just before; the event brings another part.
    page.wait_for_function(
        f"wanted => JSON.stringify({parts}) === JSON.stringify(wanted)", arg=anew.evaluate(parts)
    )


@pytest.mark.parametrize(("path", "label"), [("/", "Person"), ("/audit/", "By")])
def test_filters_fold_away_on_a_phone_until_somebody_wants_them_or_uses_them(
    path: str,
    label: str,
    building: SimpleNamespace,  # noqa: F811
    signed_in_page: SignedIn,  # noqa: F811
) -> None:
    page = signed_in_page(width=360)
    page.goto(path)
    field = page.get_by_label(label, exact=True)
    expect(field).to_be_hidden()
    page.locator("details.fold summary").press("Enter")
    field.fill("alice")
    field.press("Enter")
    expect(page).to_have_url(re.compile("=alice"))
    page.reload()
    expect(field).to_be_visible()
    page.goto(path)
    expect(field).to_be_hidden()
    page.set_viewport_size({"width": 1440, "height": 900})
    expect(field).to_be_visible()
    expect(page.locator("details.fold summary")).to_be_hidden()
