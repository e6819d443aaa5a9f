"""From a file of people to a person who is enrolled, in a real Chromium: the desk on one screen, a phone on another."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, Request, expect

from recognition.budget import load_profile
from recognition.checkpoint import model_folder
from recognition.detect import Detector
from recognition.payload import check_noise, unpack
from tests.browser.conftest import Server
from tests.browser.test_enrollment import pictures_in


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A Lintel of this module's own: whether a face is known already decides how an enrollment ends."""
    with tempfile.TemporaryDirectory(prefix="lintel-invited-", ignore_cleanup_errors=True) as folder:
        running = Server(Path(folder))
        try:
            running.start()
            yield running
        finally:
            running.stop()


def overflow(page: Page) -> int:
    return int(page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))


def test_a_row_in_a_file_becomes_a_person_who_enrolled_on_their_own_phone(server, open_page, complaints):
    desk = server.sign_in(open_page(), "enroller")
    desk.get_by_role("navigation").get_by_role("link", name="Invitations").click()
    expect(desk.get_by_role("heading", name="Nobody is invited yet")).to_be_visible()
    desk.get_by_role("main").get_by_role("link", name="Import people").first.click()

    # A mistake first: it is named with its line, and nobody is registered.
    desk.get_by_label("Or paste the rows").fill(
        "name;email\nAda Example;ada@example.org\nBo Example;nowhere\n"
    )
    desk.get_by_role("button", name="Check the rows").click()
    expect(desk.get_by_role("alert")).to_contain_text("Nobody was registered.")
    expect(desk.get_by_role("row", name=re.compile("^Line 3 email nowhere "))).to_contain_text("valid email")
    desk.get_by_text("Mend it here instead").click()
    desk.get_by_label("The rows").fill("name;email\nAda Example;ada@example.org\nBo Example;\n")
    desk.get_by_role("button", name="Check again").click()
    expect(desk.get_by_role("heading", level=1)).to_have_text("Register 2 people?")
    desk.get_by_role("button", name="Register and make the links").click()
    expect(desk.get_by_text("Shown only now.")).to_be_visible()
    with desk.expect_download() as download:
        desk.get_by_role("link", name="Download 2 links as CSV").click()
    rows = download.value.path().read_text(encoding="utf-8-sig").splitlines()
    assert rows[0] == "name,reference,contact,expires,link"
    link = next(row.rpartition(",")[2] for row in rows if row.startswith("Ada Example,"))
    assert link.startswith(f"{server.url}/invitation/#")
    token = urlsplit(link).fragment

    # The phone, in German and at night.
    phone = open_page(film="face", width=360, height=740, scheme="dark", locale="de-AT")
    sent: list[Request] = []
    phone.on("request", lambda request: sent.append(request))
    phone.goto(link)
    expect(phone.get_by_role("heading", level=1)).to_have_text("Guten Tag, Ada Example")
    assert urlsplit(phone.url).fragment == ""
    assert overflow(phone) <= 0
    phone.get_by_label("Ich habe diesen Text gelesen").check()
    phone.get_by_label("In Ihren eigenen Worten").fill("Nur werktags.")
    phone.get_by_role("button", name="Ich willige ein, weiter").click()
    expect(phone.get_by_role("heading", level=1)).to_have_text("Sehen Sie in die Kamera")
    assert overflow(phone) <= 0
    expect(phone.get_by_role("heading", name="Sie sind aufgenommen")).to_be_visible(timeout=400_000)
    assert overflow(phone) <= 0

    # What left the phone: the token once, in a body; captures; never a picture, and never the token in an address.
    bodies = [(request.url, request.post_data_buffer or b"") for request in sent]
    assert [urlsplit(url).path for url, body in bodies if token.encode() in body] == ["/invitation/open/"]
    assert [url for url, _ in bodies[1:] if token in url] == []
    captures = [body for url, body in bodies if urlsplit(url).path == "/invitation/captures/" and body]
    shipped = load_profile(model_folder("default") / "profile.json")
    assert len(captures) >= 3
    for body in captures:
        check_noise(unpack(body, {shipped.hash: shipped}), shipped)
    detector = Detector()
    assert [found for _, body in bodies if body for found in pictures_in(body, detector)] == []
    assert phone.evaluate("[localStorage.length, sessionStorage.length]") == [0, 0]

    # The link has done its work; whoever opens it again is told so, in their language.
    another = open_page(width=360, locale="en-GB")
    another.goto(link)
    expect(another.get_by_role("heading", level=1)).to_have_text("This invitation was used")
    assert "Ada" not in another.content()

    desk.goto("/invitations/")
    ada = desk.get_by_role("row", name=re.compile("Ada Example"))
    expect(ada).to_contain_text("used")
    expect(desk.get_by_role("row", name=re.compile("Bo Example"))).to_contain_text("not opened yet")
    ada.get_by_role("link", name="Ada Example").click()
    expect(desk.get_by_role("main")).to_contain_text("enrolled")
    expect(desk.get_by_role("main")).to_contain_text("Nur werktags.", use_inner_text=False)
    # 410 is the answer to a used link and 422 that to a wrong row; nothing else was wrong on any page.
    assert [text for text in complaints if "410" not in text and "422" not in text] == []


def test_errors_of_a_file_are_walked_with_the_keyboard_and_taken_along_as_a_file(
    server, open_page, complaints
):
    taken = server.add_person("Fay Example", language=None)
    server.api("PUT", f"people/{taken}/cards", {"number": "0048151600"})
    desk = server.sign_in(open_page(width=360, height=740), "enroller")
    desk.goto("/people/import/")
    rows = [
        "name;Card number;email",
        "Gus Example;0048-151601;",
        "Hal Example;0048 151601;",
        "Ida Example;12;nowhere",
    ]
    rows.append("Jo Example;0048151600;")
    desk.get_by_label("Or paste the rows").fill("\n".join(rows))
    desk.get_by_role("button", name="Check the rows").click()
    expect(desk.get_by_role("heading", level=1)).to_have_text("3 lines need a change")
    desk.wait_for_load_state()  # without its scripts an error leads to the rows, and not to its line
    # The first error has the focus, and says itself whole.
    first = desk.get_by_role("link", name="Line 3")
    expect(first).to_be_focused()
    expect(first).to_have_accessible_description(
        "Line 3, column Card number: this card stands in line 2 already."
    )
    assert overflow(desk) <= 0
    assert first.evaluate("(link) => link.getBoundingClientRect().top + scrollY") < 740  # within one screen
    sentences = desk.locator("#errors td[data-label=Problem]")
    expect(sentences).to_have_text(
        [
            "Line 3, column Card number: this card stands in line 2 already.",
            "Line 4, column Card number: a card number has 8 to 32 digits or letters, and this one has 2.",
            "Line 4, column email: enter a valid email address.",
            "Line 5, column Card number: this card is in use already.",
        ]
    )
    # Enter leads to the line in the rows, marked, so that typing mends it.
    desk.keyboard.press("Enter")
    text = desk.get_by_label("The rows")
    expect(text).to_be_focused()
    marked = "(rows) => rows.value.slice(rows.selectionStart, rows.selectionEnd)"
    assert text.evaluate(marked) == rows[2]
    with desk.expect_download() as download:
        desk.get_by_role("link", name="Download 4 errors as CSV").click()
    lines = download.value.path().read_text(encoding="utf-8-sig").splitlines()
    assert lines[0] == "line,column,value,problem"
    assert lines[1].startswith("3,Card number,…1601,") and len(lines) == 5
    desk.set_viewport_size({"width": 1440, "height": 900})
    assert overflow(desk) <= 0
    text.fill("\n".join([*rows[:2], "Hal Example;0048151602;"]))
    desk.get_by_role("button", name="Check again").click()
    expect(desk.get_by_role("heading", level=1)).to_have_text("Register 2 people?")
    expect(desk.get_by_role("row", name=re.compile("Hal Example"))).to_contain_text("…1602")
    desk.get_by_role("button", name="Register").click()
    expect(desk.get_by_text("Shown only now.")).to_be_visible()
    found = server.api("GET", "people?q=Hal")["results"]
    assert [card["ends_with"] for card in server.api("GET", f"people/{found[0]['id']}/cards")] == ["1602"]
    assert [text for text in complaints if "422" not in text] == []


def test_a_new_link_ends_the_old_one_and_a_link_taken_back_ends_for_good(server, open_page):
    person = server.add_person("Cy Example", language=None)
    desk = server.sign_in(open_page(width=360, height=740), "enroller")
    links = []
    for _ in range(2):
        desk.goto(f"/people/{person}/")
        desk.get_by_role("link", name="Invite by link").click()
        desk.get_by_role("button", name=re.compile("Make .* link")).click()
        expect(desk.get_by_role("img", name="QR code of the link below")).to_be_visible()
        links.append(desk.locator("code.once").inner_text().strip())
        assert overflow(desk) <= 0
    guest = open_page(width=360, locale="en-GB")
    guest.goto(links[0])
    expect(guest.get_by_role("heading", level=1)).to_have_text("This link was replaced or taken back")
    guest.goto(links[1])
    expect(guest.get_by_role("heading", level=1)).to_have_text("Hello Cy Example")
    desk.goto("/invitations/")
    assert overflow(desk) <= 0
    desk.get_by_role("link", name="Take back the link of Cy Example").click()
    desk.get_by_role("button", name="Take it back").click()
    expect(desk.get_by_role("status")).to_contain_text("The link of Cy Example opens nothing any more.")
    guest.get_by_label("I have read this text").check()
    guest.get_by_role("button", name="I agree, go on").click()
    expect(guest.get_by_role("heading", level=1)).to_have_text("This link was replaced or taken back")


def test_somebody_without_a_camera_is_told_what_to_do_and_may_say_no(server, open_page):
    person = server.add_person("Di Example", language=None)
    link = server.run(
        "from django.utils import timezone\n"
        "from enrollment import invitations\n"
        "from enrollment.models import Person\n"
        f"person = Person.objects.get(pk='{person}')\n"
        "issued = invitations.issue_invitation(person=person, actor='test', at=timezone.now())\n"
        "print(invitations.link_to(issued, base=''))\n"
    ).split()[-1]
    guest = open_page(width=360, height=740, locale="en-GB")
    guest.goto(link)
    expect(guest.get_by_role("heading", level=1)).to_have_text("Hello Di Example")
    guest.keyboard.press("Tab")
    expect(guest.get_by_role("link", name="Skip to the content")).to_be_focused()
    guest.get_by_role("button", name="I agree, go on").press("Enter")
    expect(guest.get_by_role("alert")).to_contain_text("Please tick the box")
    guest.get_by_label("I have read this text").press("Space")
    guest.get_by_role("button", name="I agree, go on").press("Enter")
    guest.get_by_role("button", name="Start the camera").click()
    expect(guest.locator("[data-guidance]")).to_contain_text("No camera was found.")
    guest.get_by_role("button", name="I changed my mind").click()
    expect(guest.get_by_role("heading", level=1)).to_have_text("You declined")
    state = server.run(
        "from enrollment.models import Person\n"
        f"person = Person.objects.get(pk='{person}')\n"
        "print(person.has_consent(), person.enrollments.get().state, bool(person.invitations.get().declined_at))\n"
    )
    assert state.split()[-3:] == ["False", "cancelled", "True"]
