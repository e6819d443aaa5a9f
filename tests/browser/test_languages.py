"""Languages in a real Chromium: a guest and the kiosk speak French because there is a French file, and a language from
right to left because somebody put its file into a folder."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from enrollment import languages
from tests.browser.conftest import Server
from tests.browser.patience import hold_time
from tests.browser.test_kiosk import signed_by, signing_key, yes
from tests.languages import another, spelled, written

NARROW, WIDE = {"width": 360, "height": 740}, {"width": 1440, "height": 900}
CARD, PIN = "0048151623", "730519"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A Lintel with the shipped languages and one of its own, from right to left."""
    with tempfile.TemporaryDirectory(prefix="lintel-spoken-", ignore_cleanup_errors=True) as folder:
        own = Path(folder) / "languages"
        own.mkdir()
        (own / "he.toml").write_text(written(another()), encoding="utf-8")
        running = Server(Path(folder))
        running.environment["LINTEL_LANGUAGES_DIR"] = str(own)
        try:
            running.start()
            yield running
        finally:
            running.stop()


def look(page: Page, name: str) -> None:
    """What every page must be at both widths: no wider than the screen."""
    for size in (NARROW, WIDE):
        page.set_viewport_size(size)
        wider = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wider <= 0, f"{name} at {size['width']}"


@pytest.fixture(scope="module")
def made(server: Server) -> dict[str, Any]:
    """Two invitations and two doors for cards, each with a code for its kiosk: in one go, for a process costs time."""
    return json.loads(
        server.run(
            "import json\n"
            "from datetime import timedelta\n"
            "from django.utils import timezone\n"
            "from accesscontrol.models import Door, Site, Terminal\n"
            "from accesscontrol.services import issue_pairing_code\n"
            "from enrollment import invitations, services\n"
            "now, made = timezone.now(), {}\n"
            "for name in ('elodie', 'noa'):\n"
            "    person = services.register_person(full_name=name.capitalize() + ' Exemple', actor='test', at=now)\n"
            "    issued = invitations.issue_invitation(person=person, actor='test', at=now)\n"
            "    made[name] = {'id': str(person.pk), 'link': invitations.link_to(issued, base='')}\n"
            "for name in ('french', 'hebrew'):\n"
            "    door = Door.objects.create(site=Site.objects.first(), name=name, asks_for='card_and_pin')\n"
            "    row = Terminal.objects.create(name=name, door=door)\n"
            "    code = issue_pairing_code(terminal=row, actor='test', at=now + timedelta(hours=3))\n"  # time enough
            "    made[name] = {'door': str(door.pk), 'code': code}\n"
            "print(json.dumps(made))\n"
        ).splitlines()[-1]
    )


def english_left(page: Page, *sections: str) -> list[str]:
    """Sentences of English that this page still says, though French says something else."""
    english, french = languages.reference(), languages.find("fr")
    assert french is not None
    shown = page.locator("body").inner_text()
    lines = {line.strip() for line in shown.splitlines()}
    return [
        text
        for section in sections
        for key, text in english.sections[section].items()
        if text != french.sections[section][key] and (text in lines or (len(text) > 15 and text in shown))
    ]


def test_a_guest_reads_agrees_and_is_guided_in_french(server, made, open_page, complaints):
    guest = open_page(width=360, height=740, scheme="dark", locale="fr-CA")
    guest.goto(made["elodie"]["link"])
    expect(guest.get_by_role("heading", level=1)).to_have_text("Bonjour Elodie Exemple")
    expect(guest.locator("html")).to_have_attribute("lang", "fr")
    expect(guest.locator("html")).to_have_attribute("dir", "ltr")
    expect(guest.locator("article")).to_contain_text("J’accepte que Lintel me reconnaisse à mon visage")
    names = guest.get_by_role("navigation", name="Langue").get_by_role("link").all_inner_texts()
    assert {"English", "Deutsch", "Français", spelled("English")} <= set(names)
    look(guest, "the guest's consent in French")
    guest.set_viewport_size(NARROW)
    brand = guest.locator(".brand").bounding_box()
    assert (
        brand is not None and brand["height"] < 60
    )  # a name is one line, however many languages stand beside it
    guest.get_by_role("button", name="J’accepte, continuer").click()
    expect(guest.get_by_role("alert")).to_contain_text("Veuillez cocher la case si vous acceptez.")
    assert english_left(guest, "guest", "camera") == []
    guest.get_by_label("J’ai lu ce texte").check()
    guest.get_by_role("button", name="J’accepte, continuer").click()
    expect(guest.get_by_role("heading", level=1)).to_have_text("Regardez la caméra")
    guest.get_by_role("button", name="Démarrer la caméra").click()
    expect(guest.locator("[data-guidance]")).to_contain_text("Aucune caméra trouvée.")
    look(guest, "the guest's camera in French")
    assert english_left(guest, "guest", "camera") == []
    kept = server.api("GET", f"people/{made['elodie']['id']}/consents")[0]
    french = languages.find("fr")
    assert french is not None
    assert (kept["language"], kept["version"]) == ("fr", french.consent.version)
    assert kept["text"] == french.consent.text
    assert [text for text in complaints if "422" not in text] == []

    # The desk enrolls the same person: what they read beside the camera is French, whatever the desk reads.
    begun = server.api("POST", f"people/{server.add_person('Émile Exemple', language='fr')}/enrollments", {})
    desk = server.sign_in(open_page(), "enroller")
    desk.goto(f"/people/enrollments/{begun['enrollment_id']}/")
    expect(desk.locator("#station")).to_have_attribute("lang", "fr")
    desk.get_by_role("button", name="Démarrer la caméra").click()
    expect(desk.locator("[data-guidance]")).to_contain_text("Aucune caméra trouvée.")
    expect(desk.locator("#station")).to_contain_text("L’image reste dans cette page.")


def test_the_kiosk_its_card_entry_and_its_pin_pad_speak_french(server, made, open_page, complaints):
    door, key = made["french"], signing_key(server)
    page = open_page(**NARROW, locale="fr-FR")  # without any camera: this door needs none
    hold_time(page)

    def refuse(route: Route) -> None:
        nonce = re.findall(r'nonce="([^"]+)"', route.request.headers["signature-input"])[0]
        body = yes(door["door"], nonce, granted=False, reason="pin_wrong")
        headers = signed_by(*key, nonce=nonce, body=body)
        route.fulfill(status=200, body=body, headers={"Content-Type": "application/json", **headers})

    page.route("**/api/v1/attempts/proof", refuse)
    page.goto("/kiosk/")
    expect(page.get_by_role("heading", level=1)).to_have_text("Associer cette tablette à une porte")
    expect(page.locator("html")).to_have_attribute("lang", "fr")
    page.get_by_role("button", name="Associer", exact=True).click()
    expect(page.get_by_role("alert")).to_have_text("Saisissez le code que Lintel affiche.")
    look(page, "pairing in French")
    page.get_by_label("Code d’association").fill(door["code"])
    page.get_by_role("button", name="Associer", exact=True).click()
    page.get_by_role("button", name=re.compile("^C’est pareil")).click()
    expect(page.locator("#prompt")).to_contain_text("Approchez votre carte du lecteur")
    look(page, "the idle kiosk in French")
    assert english_left(page, "kiosk") == []
    page.get_by_role("button", name="Saisir le numéro de carte").click()
    expect(page.get_by_role("group", name="Votre carte")).to_be_visible()
    page.keyboard.type(CARD)
    look(page, "card entry in French")
    page.get_by_role("button", name="Valider").click()
    expect(page.get_by_role("group", name="Votre code PIN")).to_be_visible()
    page.get_by_role("button", name="Valider").click()
    expect(page.locator("#pad").get_by_role("alert")).to_have_text("Saisissez votre code PIN.")
    assert english_left(page, "kiosk") == []
    page.keyboard.type(PIN)
    look(page, "the PIN pad in French")
    page.keyboard.press("Enter")
    expect(page.locator("#sentence")).to_have_text("Ce code PIN n’est pas le bon.")
    look(page, "a refusal in French")
    assert english_left(page, "kiosk") == []

    # The choice is made from the files: every language is offered by its own name, and what was chosen stays.
    page.get_by_role("button", name=re.compile("^Langue")).click()
    offered = page.locator("#languages").get_by_role("button")
    expect(offered).to_have_count(len(languages.known()) + 1)
    expect(page.get_by_role("button", name="Français", exact=True)).to_have_attribute("aria-pressed", "true")
    look(page, "the choice of languages")
    page.get_by_role("button", name="Deutsch", exact=True).click()
    expect(page.locator("html")).to_have_attribute("lang", "de")
    page.reload()
    expect(page.locator("#prompt")).to_contain_text("Halten Sie Ihre Karte an den Leser")
    assert complaints == []


def test_a_language_from_right_to_left_turns_the_pages_and_leaves_numbers_alone(made, open_page):
    guest = open_page(**NARROW, locale="he-IL")
    guest.goto(made["noa"]["link"])
    expect(guest.locator("html")).to_have_attribute("dir", "rtl")
    expect(guest.locator("html")).to_have_attribute("lang", "he")
    expect(guest.get_by_role("heading", level=1)).to_have_text(f"{spelled('Hello')} \u2068Noa Exemple\u2069")
    look(guest, "the guest's consent from right to left")
    brand, choice = guest.locator(".brand").bounding_box(), guest.locator(".languages").bounding_box()
    assert brand is not None and choice is not None and brand["x"] > choice["x"]

    page = open_page(**NARROW, locale="he-IL", scheme="dark")
    hold_time(page)
    page.goto("/kiosk/")
    expect(page.locator("html")).to_have_attribute("dir", "rtl")
    page.locator("#code").fill(made["hebrew"]["code"])
    page.locator("#code").press("Enter")
    page.locator("#begin").click()
    page.locator("#idle [data-card]").click()
    expect(page.locator("#pad")).to_be_visible()
    page.keyboard.type(CARD)
    expect(page.locator("#pad .typed")).to_have_text("0048 1516 23")
    look(page, "card entry from right to left")
    one, three = (page.locator(f"#pad button[value='{digit}']").bounding_box() for digit in "13")
    assert one is not None and three is not None and one["x"] < three["x"]
    place, tools = page.locator(".place").bounding_box(), page.locator(".tools").bounding_box()
    assert place is not None and tools is not None and place["x"] > tools["x"]
