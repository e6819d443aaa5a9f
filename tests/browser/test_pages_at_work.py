"""What people who run doors do with these pages, in a real browser: watch, lock down, ask, report, verify, tidy up."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from django.db import connection
from django.urls import reverse
from django.utils import timezone
from playwright.sync_api import Page, expect

import audit.services
from accesscontrol import live
from accesscontrol.models import AccessRule, Door, Schedule, Site
from audit import triggers, views
from audit.models import Entry
from enrollment.models import Person
from tests.browser.pages_fixtures import building, complaints, fresh_counts, signed_in_page  # noqa: F401
from tests.pages.support import make_attempt

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("fresh_counts")]
SignedIn = Callable[..., Page]


def test_a_guard_narrows_the_live_page_and_it_stays_narrow_while_attempts_arrive(
    building: SimpleNamespace,  # noqa: F811
    signed_in_page: SignedIn,  # noqa: F811
    complaints: list[str],  # noqa: F811
) -> None:
    back = Door.objects.create(site=building.site, name="Back door")
    page = signed_in_page("guard")
    page.goto("/")
    expect(page.locator("[data-live-state]")).to_have_text("Live")
    page.get_by_label("Door", exact=True).select_option("Back door (Harbour House)")
    expect(page.get_by_text("No attempt matches these filters")).to_be_visible()
    expect(page).to_have_url(re.compile(f"door={back.pk}"))
    elsewhere = make_attempt(building.terminal, person=building.alice)
    fits = make_attempt(building.terminal, person=building.alice, door=back)
    live.publish("attempt", {"id": str(fits.pk)})
    expect(page.locator(f"#attempt-{fits.pk}")).to_be_visible()
    expect(page.locator(f"#attempt-{elsewhere.pk}")).to_have_count(0)
    page.get_by_label("Person", exact=True).fill("bob")
    expect(page.locator(f"#attempt-{fits.pk}")).to_have_count(0)
    page.get_by_label("Person", exact=True).fill("ali")
    expect(page.locator(f"#attempt-{fits.pk}")).to_be_visible()
    page.get_by_label("Decision", exact=True).select_option("refused")
    expect(page.locator(f"#attempt-{fits.pk}")).to_have_count(0)
    assert complaints == []


def test_a_guard_locks_down_with_two_clicks_and_releases_with_two(
    building: SimpleNamespace,  # noqa: F811
    signed_in_page: SignedIn,  # noqa: F811
    complaints: list[str],  # noqa: F811
) -> None:
    page = signed_in_page("guard", width=360)
    page.goto("/")
    page.get_by_role("link", name="Lock down Harbour House").click()
    page.get_by_role("button", name="Lock down: Fire or smoke").click()
    expect(page.get_by_role("alert")).to_contain_text("Harbour House is locked down")
    site = Site.objects.get(pk=building.site.pk)
    assert (site.locked_down, site.locked_down_reason, site.locked_down_by) == (
        True,
        "Fire or smoke",
        "the guard",
    )
    page.get_by_role("link", name="Lift the lock-down").click()
    page.get_by_role("button", name="Lift the lock-down").click()
    expect(page.get_by_role("status").first).to_contain_text("is lifted")
    assert not Site.objects.get(pk=building.site.pk).locked_down
    assert complaints == []


def test_enter_in_the_reason_locks_down_with_the_words_that_were_typed(
    building: SimpleNamespace,  # noqa: F811
    signed_in_page: SignedIn,  # noqa: F811
) -> None:
    page = signed_in_page("guard")
    page.goto(reverse("lock_down", args=[building.site.pk]))
    expect(page.get_by_label("Reason")).to_be_focused()
    page.keyboard.type("a dog in the hall")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("a dog in the hall")


def test_the_page_of_a_door_says_who_may_enter_on_saturday_at_seven(
    building: SimpleNamespace,  # noqa: F811
    signed_in_page: SignedIn,  # noqa: F811
    complaints: list[str],  # noqa: F811
) -> None:
    building.rule.schedule = building.schedule  # Mondays, 07:00 to 19:00
    building.rule.save()
    page = signed_in_page("guard", timezone_id="Asia/Tokyo")  # the clock that counts hangs at the door
    page.goto(reverse("door", args=[building.door.pk]))
    days = page.get_by_label("Day", exact=True).locator("option").all_inner_texts()
    for day, hour, words in (
        ("Saturday", "07:00", "nobody may enter"),
        ("Monday", "06:59", "nobody may enter"),
        ("Monday", "07:00", "1 person may enter"),
    ):
        page.get_by_label("Day", exact=True).select_option(next(label for label in days if day in label))
        page.get_by_label("Time", exact=True).fill(hour)
        page.get_by_role("button", name="Ask").click()
        expect(page.locator(".answer")).to_contain_text(f"{hour}: {words}")
        expect(page.locator(".answer")).to_contain_text(day)
    expect(page.locator(".question").get_by_role("link", name="Alice Example")).to_be_visible()
    assert complaints == []


def test_a_chart_names_itself_and_opens_its_figures_with_the_keyboard(
    building: SimpleNamespace,  # noqa: F811
    signed_in_page: SignedIn,  # noqa: F811
    complaints: list[str],  # noqa: F811
) -> None:
    make_attempt(building.terminal, reason="no_match", score=0.1)
    page = signed_in_page("auditor", width=360)
    page.goto(reverse("reports"))
    reasons = page.locator("#chart-reasons")
    expect(page.get_by_role("img", name="Refusals by reason")).to_be_visible()
    summary = reasons.locator("summary")
    expect(reasons.get_by_role("row", name="not recognised 1 100 %")).to_be_hidden()
    summary.focus()
    page.keyboard.press("Enter")
    expect(reasons.get_by_role("row", name="not recognised 1 100 %")).to_be_visible()
    page.get_by_label("Period", exact=True).select_option("today")
    page.get_by_role("button", name="Show").click()
    expect(page.locator("#chart-by-day")).to_have_count(0)
    expect(page.locator("#chart-by-hour")).to_be_visible()
    assert complaints == []


def test_the_log_is_verified_in_the_page_with_its_progress_and_names_what_was_edited(
    building: SimpleNamespace,  # noqa: F811
    signed_in_page: SignedIn,  # noqa: F811
    complaints: list[str],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(views, "PROGRESS_EVERY", 2)
    page = signed_in_page("auditor")
    page.goto(reverse("audit:entries"))
    with page.expect_response(re.compile("/audit/verify/")) as caught:
        page.get_by_role("button", name="Verify the whole log").click()
    expect(page.get_by_role("heading", name="The log is whole")).to_be_visible()
    assert caught.value.headers["content-type"] == views.PROGRESS_TYPE
    expect(page).to_have_url(re.compile("/audit/$"))
    expect(page.locator("progress")).to_be_hidden()
    with triggers.dangerously_lifted(connection):
        Entry.objects.filter(index=1).update(actor="somebody else")
    page.get_by_role("button", name="Verify the whole log").click()
    expect(page.get_by_role("alert")).to_contain_text("entry 1 was edited")
    expect(page.get_by_role("link", name="Look at entry 1")).to_be_visible()
    assert complaints == []


def test_an_auditor_follows_one_person_and_one_door_through_the_log(
    building: SimpleNamespace,  # noqa: F811
    signed_in_page: SignedIn,  # noqa: F811
) -> None:
    audit.services.record(
        kind="attempt.settled",
        actor="terminal:x",
        at=timezone.now(),
        subject=f"person:{building.alice.pk}",
        details={"door": str(building.door.pk), "granted": True, "reason": "granted"},
    )
    audit.services.record(
        kind="door.changed",
        actor="ada",
        at=timezone.now(),
        subject=f"door:{building.door.pk}",
        details={"name": "Front door"},
    )
    page = signed_in_page("auditor")
    page.goto(reverse("person", args=[building.alice.pk]))
    page.get_by_role("link", name="Follow in the audit log").click()
    expect(page.locator(".following")).to_contain_text("Following Alice Example")
    expect(page.locator("main")).to_contain_text("Let in at a door (Front door)")
    page.goto(reverse("door", args=[building.door.pk]))
    page.get_by_role("link", name="Follow in the audit log").click()
    expect(page.locator(".following")).to_contain_text("Following Front door")
    expect(page.locator("tbody tr")).to_have_count(2)


def test_a_search_of_a_long_log_goes_on_by_itself_and_ends_with_what_it_found_or_says_so(
    building: SimpleNamespace,  # noqa: F811
    signed_in_page: SignedIn,  # noqa: F811
    complaints: list[str],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(views, "SEARCHED_AT_ONCE", 3)
    for number in range(12):
        audit.services.record(
            kind="door.changed",
            actor="ada",
            at=timezone.now(),
            subject="door:1",
            details={"name": "Needle" if number in {1, 7} else "Hay"},
        )
    page = signed_in_page("auditor")
    page.goto(reverse("audit:entries") + "?text=needle")
    expect(page.locator("[data-searched]")).to_have_text("2 entries on this page")
    expect(page.locator("#entries tbody tr")).to_have_count(2)
    expect(page.locator("[data-further]")).to_have_count(0)
    page.goto(reverse("audit:entries") + "?text=nowhere")
    expect(page.get_by_role("heading", name="Nothing fits")).to_be_visible()
    expect(page.get_by_role("button", name="Stop searching")).to_have_count(0)
    assert complaints == []


def test_a_search_of_a_long_log_stops_when_told_and_can_be_taken_up_again(
    building: SimpleNamespace,  # noqa: F811
    signed_in_page: SignedIn,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(views, "SEARCHED_AT_ONCE", 2)
    for _ in range(6):
        audit.services.record(kind="door.changed", actor="ada", at=timezone.now(), subject="door:1")
    page = signed_in_page("auditor")
    kept: list[Any] = []
    page.route(re.compile(r"before="), lambda route: kept.append(route))  # no answer until it is let through
    page.goto(reverse("audit:entries") + "?text=nowhere")
    page.get_by_role("button", name="Stop searching").click()
    further = page.get_by_role("link", name="Search further back")
    expect(further).to_be_focused()
    page.unroute(re.compile(r"before="))
    further.press("Enter")
    expect(page.get_by_role("heading", name="Nothing fits")).to_be_visible()


def test_retention_is_rehearsed_can_be_cancelled_and_is_applied_after_a_question(
    building: SimpleNamespace,  # noqa: F811
    signed_in_page: SignedIn,  # noqa: F811
    complaints: list[str],  # noqa: F811
) -> None:
    now = timezone.now()
    Person.objects.filter(pk=building.bob.pk).update(
        valid_from=now - timedelta(days=90), valid_until=now - timedelta(days=40)
    )
    page = signed_in_page()
    page.goto(reverse("settings_retention"))
    page.get_by_role("button", name="Show what would go").click()
    expect(page.locator("main")).to_contain_text("People erased")
    page.get_by_role("link", name="Apply these rules now").click()
    expect(page.locator("main")).to_contain_text("1 person is erased: Bob Example.")
    page.get_by_role("link", name="Cancel").click()
    expect(page.get_by_role("button", name="Show what would go")).to_be_visible()
    assert Person.objects.filter(pk=building.bob.pk).exists()
    page.get_by_role("link", name="Apply these rules now").click()
    page.get_by_role("button", name="Erase and delete now").click()
    expect(page.get_by_role("status").first).to_contain_text("1 people erased")
    assert not Person.objects.filter(pk=building.bob.pk).exists()
    assert Person.objects.filter(pk=building.alice.pk).exists()
    assert complaints == []


def test_an_erasure_by_keyboard_says_what_it_does_can_be_cancelled_and_wants_the_name(
    building: SimpleNamespace,  # noqa: F811
    signed_in_page: SignedIn,  # noqa: F811
) -> None:
    bob = Person.objects.get(pk=building.bob.pk)
    page = signed_in_page()
    page.goto(reverse("person", args=[bob.pk]))
    erase = page.get_by_role("link", name="Erase this person")
    erase.press("Enter")
    question = page.get_by_role("heading", level=1, name="Erase Bob Example?")
    expect(question).to_be_focused()  # what is read aloud first; the field comes next
    expect(page.locator("main")).to_contain_text("Nobody can bring it back")
    page.keyboard.press("Tab")
    expect(page.get_by_label("full name to confirm")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Erase for good")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Cancel")).to_be_focused()
    page.keyboard.press("Enter")
    expect(erase).to_be_visible()
    assert Person.objects.filter(pk=bob.pk).exists()

    erase.press("Enter")
    expect(question).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.type("Alice Example")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_be_focused()
    assert Person.objects.filter(pk=bob.pk).exists()
    page.keyboard.press("Tab")
    page.keyboard.press("Control+A")
    page.keyboard.type("Bob Example")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Erased")
    assert not Person.objects.filter(pk=bob.pk).exists()


def test_a_lock_down_by_keyboard_can_be_cancelled(
    building: SimpleNamespace,  # noqa: F811
    signed_in_page: SignedIn,  # noqa: F811
) -> None:
    page = signed_in_page("guard")
    page.goto("/")
    begin = page.get_by_role("link", name="Lock down Harbour House")
    begin.press("Enter")
    expect(page.get_by_label("Reason")).to_be_focused()
    expect(page.locator("main")).to_contain_text("refuses everybody, at once")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Cancel")).to_be_focused()
    page.keyboard.press("Enter")
    expect(begin).to_be_visible()
    assert not Site.objects.get(pk=building.site.pk).locked_down


def test_the_desk_works_with_the_keyboard_alone(
    building: SimpleNamespace,  # noqa: F811
    signed_in_page: SignedIn,  # noqa: F811
) -> None:
    bob = Person.objects.get(pk=building.bob.pk)
    page = signed_in_page("enroller")
    page.goto(reverse("enrollment_begin", args=[bob.pk]))  # consent comes first
    page.get_by_label("I have read this text").press("Space")
    page.get_by_role("button", name="Record consent and go on").press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Enroll Bob Example")
    page.get_by_role("button", name="Start", exact=True).press("Enter")
    expect(page.locator("#station")).to_be_visible()
    page.get_by_role("button", name="Cancel this enrollment").press("Enter")
    expect(page.locator("#enrollment[data-state=cancelled]")).to_be_visible()
    assert bob.has_consent() and bob.enrollments.get().state == "cancelled"


def test_the_hours_of_monday_are_copied_until_friday_with_one_key_and_saved(
    building: SimpleNamespace,  # noqa: F811
    signed_in_page: SignedIn,  # noqa: F811
    complaints: list[str],  # noqa: F811
) -> None:
    page = signed_in_page(width=360)
    page.goto(reverse("schedule_create"))
    page.get_by_label("Name").fill("Early shift")
    page.get_by_label("Monday, stretch 1, from").fill("06:00")
    page.get_by_label("Monday, stretch 1, until").fill("14:00")
    page.get_by_label("Wednesday, stretch 2, from").fill(
        "20:00"
    )  # it is Monday's day that counts, empty parts too
    page.get_by_role("button", name="The same until Friday").press("Enter")
    expect(page.locator("[data-same-said]")).to_contain_text("Tuesday to Friday")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("heading", name="Early shift")).to_be_visible()
    shift = {"from": "06:00", "to": "14:00"}
    assert Schedule.objects.get(name="Early shift").weekly == [{"day": day, **shift} for day in range(5)]
    assert complaints == []


def test_a_rule_is_written_with_the_keyboard_alone_and_opens_its_door(
    building: SimpleNamespace,  # noqa: F811
    signed_in_page: SignedIn,  # noqa: F811
    complaints: list[str],  # noqa: F811
) -> None:
    back = Door.objects.create(site=building.site, name="Back door")
    page = signed_in_page()
    page.goto(reverse("rules"))
    page.get_by_role("link", name="Add a rule").press("Enter")
    page.get_by_label("Name").focus()
    expect(page.get_by_label("Name")).to_be_focused()
    page.keyboard.type("Staff at the back")
    page.keyboard.press("Tab")
    expect(page.get_by_label("Who")).to_be_focused()
    page.keyboard.type("Staff")
    page.keyboard.press("Tab")
    expect(page.get_by_label("Back door (Harbour House)")).to_be_focused()
    page.keyboard.press("Space")
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_contain_text("Staff at the back")
    rule = AccessRule.objects.get(name="Staff at the back")
    assert (rule.group, list(rule.doors.all())) == (building.group, [back])
    page.goto(reverse("door", args=[back.pk]))
    expect(page.locator(".answer")).to_contain_text("1 person may enter")
    assert complaints == []
