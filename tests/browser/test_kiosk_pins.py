"""The kiosk at doors that ask for a PIN or a card, in a real Chromium: by touch, by keyboard, by a typing reader."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

from playwright.sync_api import Page, Route, expect

from tests.browser.axe import axe_script, grave_issues
from tests.browser.conftest import Server
from tests.browser.patience import hold_time, let_time_pass
from tests.browser.test_kiosk import (  # noqa: F401
    ada,
    gallery_with_somebody_else,
    make_terminal,
    overflow,
    pair,
    server,
    signed_by,
    signing_key,
    yes,
)

PIN, WRONG, CARD = "730519", "730518", "0048151623"


def open_to(server: Server, made: dict[str, str], person_id: str, asks_for: str) -> None:  # noqa: F811
    """The door of this terminal asks for that, and a rule names the person, who gets the PIN."""
    server.run(
        "from django.utils import timezone\n"
        "from accesscontrol.models import AccessGroup, AccessRule, Door\n"
        "from enrollment import proofs\n"
        "from enrollment.models import Person\n"
        f"Door.objects.filter(pk='{made['door']}').update(asks_for='{asks_for}')\n"
        f"person = Person.objects.get(pk='{person_id}')\n"
        "group, _ = AccessGroup.objects.get_or_create(name='Everywhere')\n"
        "group.members.add(person)\n"
        "rule, _ = AccessRule.objects.get_or_create(name='Everywhere always', defaults={'group': group})\n"
        f"rule.doors.add('{made['door']}')\n"
        f"proofs.set_pin(person=person, pin='{PIN}', actor='test', at=timezone.now())\n"
    )


def watched(page: Page) -> list[tuple[str, Any]]:
    """What goes to the API as JSON, by path."""
    sent: list[tuple[str, Any]] = []

    def note(request: Any) -> None:
        if request.method == "POST" and request.url.endswith("/attempts/proof"):
            sent.append(("proof", json.loads(request.post_data or "null")))

    page.on("request", note)
    return sent


def holds(page: Page, number: str) -> bool:
    """Whether the page holds a number anywhere a script, a reader or a person could find it."""
    seen = page.evaluate(
        """() => [document.documentElement.outerHTML, document.body.innerText, JSON.stringify(localStorage),
            JSON.stringify(sessionStorage), ...[...document.querySelectorAll("input")].map((i) => i.value)].join(" ")"""
    )
    return number in seen or " ".join([number[:4], number[4:8], number[8:]]).strip() in seen


def test_after_the_face_the_pin_is_touched_in_and_the_door_opens(
    server,  # noqa: F811
    gallery_with_somebody_else,  # noqa: F811
    open_page,
    complaints,
    ada,  # noqa: F811
):
    page = open_page(film="face", width=360, height=740, scheme="dark")
    hold_time(page)  # axe may take longer than an empty pad or an answer stays
    page.add_init_script(axe_script())
    said: list[str] = []
    page.on("console", lambda entry: said.append(entry.text))
    sent = watched(page)
    made = make_terminal(server, "Kiosk with a PIN")
    open_to(server, made, ada, "face_and_pin")
    pair(page, made)
    pad = page.get_by_role("group", name="Your PIN")
    expect(pad).to_be_visible()
    expect(page.get_by_role("heading", name="Your PIN")).to_be_focused()
    pad.get_by_role("button", name="Enter").click()
    expect(pad.get_by_role("alert")).to_have_text("Type your PIN.")
    for digit in "73":
        pad.get_by_role("button", name=digit, exact=True).click()
    pad.get_by_role("button", name="Back").click()
    pad.get_by_role("button", name="Clear").click()
    expect(page.locator("#pad .typed i")).to_have_count(0)
    for digit in PIN:
        pad.get_by_role("button", name=digit, exact=True).click()
    expect(page.locator("#pad .typed i")).to_have_count(len(PIN))
    expect(pad.get_by_role("status")).to_have_text("6 entered.")
    assert not holds(page, PIN)
    assert [str(issue) for issue in grave_issues(page, "the pad")] == []
    assert overflow(page) <= 0
    pad.get_by_role("button", name="Enter").click()
    expect(page.locator("#sentence")).to_have_text("Welcome.")
    assert not holds(page, PIN)
    assert [body["pin"] for _, body in sent] == [PIN]
    told = server.run(
        "from accesscontrol.models import AccessAttempt\n"
        f"a = AccessAttempt.objects.get(terminal='{made['terminal']}', granted=True)\n"
        "print(a.shown, a.person_id, a.follows.reason)\n"
    )
    assert told.split() == ["face_and_pin", ada, "pin_required"]
    assert not any(PIN in line for line in said)
    assert complaints == []


def test_a_wrong_pin_is_refused_kindly_and_an_empty_pad_goes_away_by_itself(
    server,  # noqa: F811
    open_page,
):
    """The server's part is played here, so that it takes no time; its signature is its own."""
    page = open_page(film="face", width=1280, height=800)
    hold_time(page)
    sent = watched(page)
    key, made = signing_key(server), make_terminal(server, "Kiosk with a wrong PIN")

    def refuse(route: Route, reason: str, **more: str) -> None:
        nonce = re.findall(r'nonce="([^"]+)"', route.request.headers["signature-input"])[0]
        body = yes(made["door"], nonce, granted=False, reason=reason, **more)
        headers = signed_by(*key, nonce=nonce, body=body)
        route.fulfill(status=200, body=body, headers={"Content-Type": "application/json", **headers})

    until = (datetime.now(UTC) + timedelta(minutes=30)).isoformat()
    page.route("**/api/v1/attempts", lambda route: refuse(route, "pin_required", proof_until=until))
    page.route("**/api/v1/attempts/proof", lambda route: refuse(route, "pin_wrong"))
    pair(page, made)
    expect(page.get_by_role("group", name="Your PIN")).to_be_visible()
    page.keyboard.type(WRONG)
    page.keyboard.press("Enter")
    expect(page.locator("#sentence")).to_have_text("This PIN is not right.")
    expect(page.locator("#next")).to_have_text("Look at the camera and try again, or ask at the desk.")
    assert [body["pin"] for _, body in sent] == [WRONG]
    let_time_pass(page)  # the answer has been read; whoever stands there is asked again, and types nothing
    expect(page.get_by_role("group", name="Your PIN")).to_be_visible()
    let_time_pass(page)
    expect(page.locator("#sentence")).to_have_text("Nothing was entered.")
    assert len(sent) == 1


def test_a_reader_types_a_card_where_no_face_is_asked_for_and_no_camera_is_needed(
    server,  # noqa: F811
    open_page,
    complaints,
):
    carla = server.add_person("Carla Example", language=None)
    server.run(
        "from django.utils import timezone\n"
        "from enrollment import proofs\n"
        "from enrollment.models import Person\n"
        f"proofs.add_card(person=Person.objects.get(pk='{carla}'), number='{CARD}', actor='test', at=timezone.now())\n"
    )
    page = open_page(width=1440, height=900)  # a browser without any camera
    hold_time(page)
    page.add_init_script(axe_script())
    sent = watched(page)
    made = make_terminal(server, "Kiosk for cards")
    open_to(server, made, carla, "card_and_pin")
    pair(page, made)
    expect(page.locator("#prompt")).to_have_text("Hold your card to the reader, or touch below.")
    assert [str(issue) for issue in grave_issues(page, "the idle page of a door for cards")] == []
    page.keyboard.type(CARD)
    expect(page.locator("#pad .typed")).to_have_text("0048 1516 23")
    assert [str(issue) for issue in grave_issues(page, "the pad with a card's number")] == []
    page.keyboard.press("Enter")
    expect(page.get_by_role("group", name="Your PIN")).to_be_visible()
    assert not holds(page, CARD)
    page.keyboard.type(WRONG)
    page.keyboard.press("Enter")
    expect(page.locator("#sentence")).to_have_text("Card or PIN was not accepted.")
    page.get_by_role("button", name="Try again").click()
    page.get_by_role("button", name="Type the card number").click()
    expect(page.get_by_role("group", name="Your card")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#prompt")).to_be_visible()
    page.get_by_role("button", name="Type the card number").click()
    expect(page.get_by_role("group", name="Your card")).to_be_visible()
    page.keyboard.type(CARD)
    page.keyboard.press("Enter")
    expect(page.get_by_role("group", name="Your PIN")).to_be_visible()
    page.keyboard.type(PIN)
    page.keyboard.press("Enter")
    expect(page.locator("#sentence")).to_have_text("Welcome.")
    assert [body for _, body in sent] == [{"pin": WRONG, "card": CARD}, {"pin": PIN, "card": CARD}]
    assert not holds(page, PIN) and not holds(page, CARD)
    assert overflow(page) <= 0
    assert complaints == []
    server.run(
        "from django.utils import timezone\n"
        "from enrollment import services\n"
        f"services.erase_person(person_id='{carla}', actor='test', at=timezone.now())\n"
    )


def test_a_door_with_a_broken_camera_still_takes_a_card_and_its_pin(
    server,  # noqa: F811
    open_page,
):
    dora = server.add_person("Dora Example", language=None)
    number = "0048151699"
    server.run(
        "from django.utils import timezone\n"
        "from enrollment import proofs\n"
        "from enrollment.models import Person\n"
        f"dora = Person.objects.get(pk='{dora}')\n"
        f"proofs.add_card(person=dora, number='{number}', actor='test', at=timezone.now())\n"
    )
    page = open_page(width=360, height=740)  # a browser without any camera
    hold_time(page)
    page.add_init_script(axe_script())
    made = make_terminal(server, "Kiosk with a broken camera")
    open_to(server, made, dora, "face_or_card_and_pin")
    pair(page, made)
    expect(page.locator("#camera")).to_be_visible()
    instead = page.locator("#camera").get_by_role("button", name="Card and PIN instead")
    expect(instead).to_be_visible()
    assert [str(issue) for issue in grave_issues(page, "a broken camera at a door that takes cards")] == []
    assert overflow(page) <= 0
    page.keyboard.type(number)  # a reader types without a touch
    expect(page.locator("#pad .typed")).to_have_text("0048 1516 99")
    page.keyboard.press("Escape")
    expect(page.locator("#camera")).to_be_visible()
    instead.click()
    expect(page.get_by_role("group", name="Your card")).to_be_visible()
    page.keyboard.type(number)
    page.keyboard.press("Enter")
    expect(page.get_by_role("group", name="Your PIN")).to_be_visible()
    page.keyboard.type(PIN)
    page.keyboard.press("Enter")
    expect(page.locator("#sentence")).to_have_text("Welcome.")
    server.run(
        "from django.utils import timezone\n"
        "from enrollment import services\n"
        f"services.erase_person(person_id='{dora}', actor='test', at=timezone.now())\n"
    )
