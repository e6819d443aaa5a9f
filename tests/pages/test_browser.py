"""The pages in a real Chromium: live, under the Content-Security-Policy, narrow and wide, and without script."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest
from django.urls import reverse
from django.utils import timezone
from playwright.sync_api import Browser, Page, Playwright, expect

from accesscontrol import live
from accesscontrol.models import Site
from accesscontrol.roles import PUBLIC
from enrollment.models import Enrollment, Person
from enrollment.services import begin_enrollment
from tests.pages.support import PASSWORD, make_attempt, make_user
from tests.pages.test_roles import NO_GET, OWN_PAGES, POST_ONLY, address
from tests.services import CHROMIUM

FLAGS = ["--no-sandbox", "--headless=new", "--disable-gpu", "--disable-background-networking"]
PATIENCE_MS = 240_000  # two cores that are busy with something else
#: Parts of pages, documents for scripts, and files.
NO_PAGES = {"enrollment_progress", "enrollment_profile", "enrollment_captures", "people_import_example"}

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


@pytest.fixture(scope="module")
def chromium(playwright: Playwright) -> Iterator[Browser]:
    expect.set_options(timeout=PATIENCE_MS)
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS, timeout=3 * PATIENCE_MS)
    yield browser
    browser.close()


@pytest.fixture
def complaints() -> list[str]:
    """What the browser's console complained about: policy violations, failed loads, errors of scripts."""
    return []


@pytest.fixture
def open_page(chromium: Browser, live_server, complaints: list[str]) -> Iterator[Callable[..., Page]]:
    contexts = []

    def open_one(*, width: int = 1440, scheme: str = "light", script: bool = True) -> Page:
        context = chromium.new_context(
            base_url=live_server.url,
            viewport={"width": width, "height": 900},
            color_scheme=scheme,
            java_script_enabled=script,
            reduced_motion="reduce",
        )
        context.set_default_timeout(PATIENCE_MS)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda entry: complaints.append(entry.text) if entry.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "request",
            lambda request: (
                None
                if request.url.startswith((live_server.url, "data:"))
                else complaints.append(f"a request to {request.url}")
            ),
        )
        return page

    yield open_one
    for context in contexts:
        context.close()


def sign_in(page: Page, name: str = "alma") -> Page:
    page.goto("/sign-in/")
    page.get_by_label("User name").fill(name)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_label("Password").press("Enter")
    expect(page).to_have_title("Now · Lintel", timeout=PATIENCE_MS)
    page.wait_for_load_state()  # scripts included: a title comes before them
    return page


def test_a_person_is_added_and_seen_at_the_door_on_the_live_page(building, open_page, complaints):
    make_user("alma", "administrator")
    page = sign_in(open_page())
    page.get_by_role("navigation").get_by_role("link", name="People", exact=True).click()
    page.get_by_role("link", name="Add a person").click()
    page.get_by_label("Full name").fill("Carla Example")
    page.get_by_role("button", name="Add").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Carla Example", timeout=PATIENCE_MS)

    page.goto("/")
    expect(page.locator("[data-live-state]")).to_have_text("Live", timeout=PATIENCE_MS)
    carla = Person.objects.get(full_name="Carla Example")
    attempt = make_attempt(building.terminal, person=carla)
    live.publish("attempt", {"id": str(attempt.pk)})
    row = page.locator(f"#attempt-{attempt.pk}")
    expect(row).to_contain_text("Carla Example", timeout=PATIENCE_MS)
    expect(row).to_contain_text("let in")
    expect(page.locator("[data-speaker]")).to_have_text("Front door: Carla Example let in")
    assert complaints == []


def test_the_live_page_says_when_it_lost_the_stream_and_catches_up_afterwards(building, open_page):
    make_user("alma", "administrator")
    page = open_page()
    page.route("**/events/", lambda route: route.abort())
    sign_in(page)
    state = page.locator("[data-live-state]")
    expect(state).to_have_text("Reconnecting", timeout=PATIENCE_MS)
    missed = make_attempt(building.terminal, person=building.alice)
    page.unroute("**/events/")
    expect(state).to_have_text("Live", timeout=PATIENCE_MS)
    expect(page.locator(f"#attempt-{missed.pk}")).to_be_visible(timeout=PATIENCE_MS)


def test_a_guard_locks_down_in_two_clicks_and_a_reason(building, open_page, complaints):
    make_user("alma", "guard")
    page = sign_in(open_page())
    page.get_by_role("link", name="Lock down Harbour House").click()
    page.get_by_label("Reason").fill("drill")
    page.get_by_role("button", name="Lock down now").click()
    expect(page.get_by_role("alert")).to_contain_text("Harbour House is locked down", timeout=PATIENCE_MS)
    assert Site.objects.get(pk=building.site.pk).locked_down
    assert complaints == []


def test_the_progress_of_an_enrollment_appears_without_a_reload(building, open_page, complaints):
    make_user("alma", "enroller")
    enrollment = begin_enrollment(
        person=building.alice, terminal_id=building.terminal.pk, actor="alma", at=timezone.now()
    )
    page = sign_in(open_page())
    page.goto(reverse("enrollment", args=[enrollment.pk]))
    expect(page.locator("#enrollment")).to_contain_text("0 of 3 captures accepted")
    Enrollment.objects.filter(pk=enrollment.pk).update(
        captures_accepted=1, captures_received=1, last_reason="capture_accepted"
    )
    live.publish("enrollment", {"id": str(enrollment.pk)})
    expect(page.locator("#enrollment")).to_contain_text("1 of 3 captures accepted", timeout=PATIENCE_MS)
    assert complaints == []


def test_what_has_the_focus_keeps_it_while_an_enrollment_goes_on_and_the_end_is_shown(
    building, open_page, complaints
):
    make_user("alma", "enroller")
    enrollment = begin_enrollment(
        person=building.alice, terminal_id=building.terminal.pk, actor="alma", at=timezone.now()
    )
    page = sign_in(open_page())
    page.goto(reverse("enrollment", args=[enrollment.pk]))
    cancel = page.get_by_role("button", name="Cancel this enrollment")
    cancel.focus()
    node = cancel.element_handle()
    Enrollment.objects.filter(pk=enrollment.pk).update(
        captures_accepted=1, captures_received=1, last_reason="capture_accepted"
    )
    expect(page.locator("#enrollment")).to_contain_text("1 of 3 captures accepted", timeout=PATIENCE_MS)
    expect(page.get_by_role("button", name="Retake from the first")).to_be_visible()
    expect(cancel).to_be_focused()
    assert node.evaluate("(button) => button.isConnected"), "a finger on it presses it"
    Enrollment.objects.filter(pk=enrollment.pk).update(
        state="completed", captures_accepted=3, finished_at=timezone.now()
    )
    expect(page.locator("#enrollment")).to_contain_text("Alice Example is enrolled", timeout=PATIENCE_MS)
    expect(cancel).to_have_count(0)
    assert complaints == []


def test_the_search_narrows_the_list_while_one_types(building, open_page, complaints):
    make_user("alma", "enroller")
    page = sign_in(open_page())
    page.goto(reverse("people"))
    page.get_by_label("Search").press_sequentially("bob")
    expect(page.get_by_role("link", name="Alice Example")).to_have_count(0, timeout=PATIENCE_MS)
    expect(page.get_by_role("link", name="Bob Example")).to_be_visible()
    expect(page).to_have_url(re.compile("q=bob"))
    assert complaints == []


def test_the_schedule_editor_is_written_with_the_keyboard_alone(building, open_page, complaints):
    make_user("alma", "administrator")
    page = sign_in(open_page())
    page.goto(reverse("schedule_create"))
    page.get_by_label("Name").focus()
    page.keyboard.type("Early shift")
    page.keyboard.press("Tab")
    page.keyboard.type("0600AM")
    page.get_by_label("Monday, stretch 1, until").focus()
    page.keyboard.type("0200PM")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Early shift")).to_be_visible(timeout=PATIENCE_MS)
    expect(page.get_by_text("06:00 to 14:00")).to_be_visible()
    assert complaints == []


def test_the_menu_of_a_narrow_screen_opens_and_closes_with_the_keyboard(building, open_page):
    make_user("alma", "administrator")
    page = sign_in(open_page(width=360))
    menu = page.locator("details.menu")
    menu.locator("summary").press("Enter")
    expect(menu.get_by_role("link", name="Doors")).to_be_visible()
    page.keyboard.press("Escape")
    expect(menu.get_by_role("link", name="Doors")).to_be_hidden()
    expect(menu.locator("summary")).to_be_focused()


def test_without_script_the_pages_show_and_change_the_same(building, open_page):
    make_user("alma", "administrator")
    page = sign_in(open_page(script=False))
    expect(page.locator(f"#attempt-{building.attempt.pk}")).to_contain_text("Alice Example")
    page.goto(reverse("people") + "?q=bob")
    page.get_by_role("link", name="Bob Example").click()
    page.get_by_role("link", name="Record consent").first.click()
    page.get_by_label("How it was given").select_option("signed")
    page.get_by_label("I agree").check()
    page.get_by_role("button", name="Record consent").click()
    expect(page.get_by_role("status")).to_contain_text(
        "consent of Bob Example is recorded", timeout=PATIENCE_MS
    )


@pytest.mark.slow
def test_no_page_breaks_the_policy_or_scrolls_sideways_on_a_phone(building, open_page, complaints):
    alma = make_user("alma", "administrator")
    building.terminal.name = "A terminal with a name that is longer than most of them are"
    building.terminal.save()
    page = sign_in(open_page(width=360, scheme="dark"))
    for name in OWN_PAGES:
        if name in PUBLIC | NO_GET | POST_ONLY | NO_PAGES:
            continue
        answer = page.goto(address(name, building).replace("/users/1/", f"/users/{alma.pk}/"))
        assert answer.status == 200, name
        overflow = page.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        assert overflow <= 0, f"{name} is {overflow} px too wide"
        assert complaints == [], name
