"""PINs and cards at the desk: set and never shown, given, blocked, taken back, each by the roles that may."""

from __future__ import annotations

import pytest
from django.urls import reverse

from accesscontrol.models import Door
from accesscontrol.policy import Asked
from audit.models import Entry
from enrollment.models import Card, Pin

PIN, NUMBER = "730519", "0048151642"


@pytest.fixture
def desk(building, signed_in):
    return signed_in("enroller")


def page_of(client, person) -> str:
    return client.get(reverse("person", args=[person.pk])).content.decode()


def test_a_pin_is_set_and_shown_nowhere_again(desk, building):
    address = reverse("pin_set", args=[building.bob.pk])
    answer = desk.post(address, {"pin": PIN, "again": PIN}, follow=True)
    html = answer.content.decode()
    assert "Bob Example has a new PIN." in html and PIN not in html
    assert PIN not in Pin.objects.get(person=building.bob).hash
    entry = Entry.objects.get(kind="person.pin_set", actor="enroller")
    assert PIN not in entry.details_json and entry.subject == f"person:{building.bob.pk}"
    assert desk.get(address)["Cache-Control"].count("no-store")


@pytest.mark.parametrize(
    ("pin", "again", "words"),
    [
        ("1234", "1234", "among the first that anybody would guess"),
        ("1999", "1999", "among the first that anybody would guess"),
        ("123", "123", "A PIN has 4 to 8 digits."),
        ("12a456", "12a456", "A PIN has 4 to 8 digits."),
        (PIN, "730518", "The two are not the same."),
    ],
)
def test_a_pin_that_will_not_do_is_refused_in_words_and_not_repeated(desk, building, pin, again, words):
    answer = desk.post(reverse("pin_set", args=[building.bob.pk]), {"pin": pin, "again": again})
    html = answer.content.decode()
    assert answer.status_code == 422 and words in html
    assert f'value="{pin}"' not in html
    assert not Pin.objects.filter(person=building.bob).exists()


def test_a_pin_is_taken_away_after_a_question(desk, building):
    address = reverse("pin_clear", args=[building.alice.pk])
    assert "Take the PIN of Alice Example away?" in desk.get(address).content.decode()
    assert Pin.objects.exists()
    desk.post(address)
    assert not Pin.objects.exists()
    assert "No PIN." in page_of(desk, building.alice)


def test_a_card_is_given_by_its_number_and_shows_its_end_alone(desk, building):
    answer = desk.post(reverse("card_add", args=[building.bob.pk]), {"number": "0048-1516 42"}, follow=True)
    html = answer.content.decode()
    assert "1642" in html and NUMBER not in html
    card = Card.objects.get(person=building.bob)
    assert NUMBER not in (card.number_hash, card.ends_with)
    again = desk.post(reverse("card_add", args=[building.alice.pk]), {"number": NUMBER})
    assert again.status_code == 422 and "This card is in use already." in again.content.decode()
    short = desk.post(reverse("card_add", args=[building.alice.pk]), {"number": "1234"})
    assert short.status_code == 422 and "A card number has 8 to 32" in short.content.decode()


def test_a_guard_blocks_a_lost_card_and_only_the_desk_unblocks_it(desk, building, signed_in):
    guard = signed_in("guard")
    html = page_of(guard, building.alice)
    block, unblock = (reverse(name, args=[building.card.pk]) for name in ("card_block", "card_unblock"))
    assert block in html
    for name in ("pin_set", "pin_clear", "card_add"):
        assert reverse(name, args=[building.alice.pk]) not in html
        assert guard.post(reverse(name, args=[building.alice.pk])).status_code == 403
    guard.post(block)
    assert Card.objects.get().blocked_by == "guard"
    assert unblock not in page_of(guard, building.alice)
    assert guard.post(unblock).status_code == 403
    assert unblock in page_of(desk, building.alice)
    desk.post(unblock)
    assert Card.objects.get().blocked_at is None
    desk.post(reverse("card_remove", args=[building.card.pk]))
    assert not Card.objects.exists()
    kinds = set(Entry.objects.values_list("kind", flat=True))
    assert {"person.card_blocked", "person.card_unblocked", "person.card_removed"} <= kinds


def test_an_auditor_sees_that_there_is_a_pin_and_changes_nothing(building, signed_in):
    html = page_of(signed_in("auditor"), building.alice)
    assert "PIN and cards" in html
    assert not any(word in html for word in ("/pin/", "/cards/"))


def test_the_door_says_what_it_asks_for_and_the_desk_who_lacks_it(desk, building, signed_in, administrator):
    form = administrator.get(reverse("door_edit", args=[building.door.pk])).content.decode()
    assert "How people identify themselves" in form
    data = {
        "name": building.door.name,
        "site": building.site.pk,
        "zone": "",
        "is_active": "on",
        "asks_for": Asked.FACE_AND_PIN.value,
    }
    administrator.post(reverse("door_edit", args=[building.door.pk]), data)
    assert Door.objects.get().asks_for == "face_and_pin"
    assert "A face and a PIN" in administrator.get(reverse("door", args=[building.door.pk])).content.decode()
    assert "for a PIN, and Alice Example has none" not in page_of(desk, building.alice)
    Pin.objects.all().delete()
    hint = "Front door asks for a PIN, and Alice Example has none."
    assert hint in page_of(desk, building.alice)
    desk_page = desk.get(reverse("enrollment_begin", args=[building.alice.pk])).content.decode()
    assert "asks for a PIN as well" in desk_page


@pytest.mark.parametrize(
    ("asked", "pin", "card", "face", "may"),
    [
        (Asked.FACE, False, False, True, True),
        (Asked.FACE_AND_PIN, False, True, True, False),
        (Asked.FACE_AND_PIN, True, False, True, True),
        (Asked.FACE_AND_CARD, True, False, True, False),
        (Asked.FACE_AND_CARD, False, True, True, True),
        (Asked.CARD_AND_PIN, True, True, False, True),
        (Asked.CARD_AND_PIN, False, True, True, False),
        (Asked.FACE_OR_CARD_AND_PIN, False, False, True, True),
        (Asked.FACE_OR_CARD_AND_PIN, True, True, False, True),
        (Asked.FACE_OR_CARD_AND_PIN, True, False, False, False),
    ],
)
def test_who_may_enter_depends_on_what_the_door_asks_for_and_what_people_have(
    building, administrator, asked, pin, card, face, may
):
    Door.objects.update(asks_for=asked.value)
    if not pin:
        Pin.objects.all().delete()
    if not card:
        Card.objects.all().delete()
    if not face:
        building.alice.templates.all().delete()
        building.alice.consents.all().delete()
    shown = administrator.get(reverse("door", args=[building.door.pk])).context
    assert (shown["may_count"], [person["full_name"] for person in shown["people"]]) == (
        (1, ["Alice Example"]) if may else (0, [])
    )
