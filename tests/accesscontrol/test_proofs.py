"""PINs and cards at a door: after a face, or instead of one. Every step is signed, used once, and shut when it fails.

The cast of `support`, and Carla: she declined face recognition and has a card with a PIN.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from django.conf import settings as django_settings
from django.db import IntegrityError, transaction
from django.utils import timezone

from accesscontrol import services
from accesscontrol.models import AccessAttempt, Alarm, Door
from accesscontrol.policy import Asked
from audit.models import Entry
from enrollment import proofs
from enrollment import services as enrollment
from enrollment.models import Card, NumberKey, Person, Pin
from enrollment.pins import TRIES
from tests.accesscontrol import support
from tests.accesscontrol.support import ALICE, BOB, MALLORY, Device, Place, believed, new_nonce
from tests.accesscontrol.test_nothing_stays import database, files_below, redis_dump
from tests.services import Redis

Payload = Callable[[int], bytes]
PIN, WRONG = "730519", "730518"
CARD, OTHER_CARD, LOST_CARD = "0048151623", "0048151642", "0099887766"
PROOF = "/api/v1/attempts/proof"


def ask_for(place: Place, asked: Asked) -> None:
    Door.objects.filter(pk=place.door.pk).update(asks_for=asked.value)


def shown(device: Device, payload: bytes) -> dict[str, Any]:
    nonce = new_nonce()
    return believed(device.attempt(payload, nonce=nonce), nonce=nonce)


def proven(device: Device, **what: Any) -> dict[str, Any]:
    """The believed answer to a PIN or a card; `status` is that of the reply."""
    nonce = new_nonce()
    response = device.post(PROOF, what, nonce=nonce)
    body = believed(response, nonce=nonce)
    assert response.status_code != 200 or (body["nonce"] == nonce and body["door_id"])
    return {**body, "status": response.status_code}


def first_step(place: Place, payload: Payload, reason: str = "pin_required") -> str:
    answer = shown(place.device, payload(ALICE))
    assert (answer["granted"], answer["reason"]) == (False, reason)
    return str(answer["attempt_id"])


def last() -> AccessAttempt:
    return AccessAttempt.objects.latest("received_at")


@pytest.fixture
def pin_door(place: Place, alice: Person) -> Place:
    """Alice's door asks for her face and her PIN."""
    ask_for(place, Asked.FACE_AND_PIN)
    proofs.set_pin(person=alice, pin=PIN, actor="desk", at=timezone.now())
    return place


@pytest.fixture
def carla(place: Place) -> Person:
    """A card, a PIN, no consent and no face on record."""
    person = support.somebody("Carla Example", consents=False)
    place.group.members.add(person)
    proofs.set_pin(person=person, pin=PIN, actor="desk", at=timezone.now())
    proofs.add_card(person=person, number=CARD, actor="desk", at=timezone.now())
    return person


# A PIN after a face


def test_a_face_alone_opens_no_door_that_asks_for_a_pin_too_and_face_and_pin_do(
    pin_door: Place, alice: Person, payload: Payload
) -> None:
    first = shown(pin_door.device, payload(ALICE))
    assert (first["granted"], first["reason"]) == (False, "pin_required")
    assert first["proof_until"] and "name" not in first
    answer = proven(pin_door.device, attempt_id=first["attempt_id"], pin=PIN)
    assert (answer["granted"], answer["reason"]) == (True, "granted")
    attempt = last()
    assert (attempt.shown, attempt.person, str(attempt.follows_id)) == (
        "face_and_pin",
        alice,
        first["attempt_id"],
    )
    assert answer["attempt_id"] == str(attempt.pk) != first["attempt_id"]
    assert attempt.score is not None and attempt.threshold is not None and attempt.score >= attempt.threshold
    entry = Entry.objects.filter(kind="attempt.settled").latest("index")
    assert (entry.details["shown"], entry.details["follows"]) == ("face_and_pin", first["attempt_id"])


def test_a_wrong_pin_spends_the_step_and_the_right_one_cannot_follow(
    pin_door: Place, payload: Payload
) -> None:
    first = first_step(pin_door, payload)
    answer = proven(pin_door.device, attempt_id=first, pin=WRONG)
    assert (answer["granted"], answer["reason"]) == (False, "pin_wrong")
    again = proven(pin_door.device, attempt_id=first, pin=PIN)
    assert (again["status"], again["code"]) == (409, "proof_used")
    assert not AccessAttempt.objects.filter(granted=True).exists()


def test_a_granted_step_opens_once(pin_door: Place, payload: Payload) -> None:
    first = first_step(pin_door, payload)
    assert proven(pin_door.device, attempt_id=first, pin=PIN)["granted"]
    assert proven(pin_door.device, attempt_id=first, pin=PIN)["code"] == "proof_used"
    assert AccessAttempt.objects.filter(granted=True).count() == 1


def test_a_recorded_proof_sent_again_is_a_replay(pin_door: Place, payload: Payload) -> None:
    first, nonce = first_step(pin_door, payload), new_nonce()
    body = f'{{"attempt_id": "{first}", "pin": "{PIN}"}}'.encode()
    headers = pin_door.device.sign("POST", PROOF, body, "application/json", nonce=nonce)
    sent = [pin_door.device.send("POST", PROOF, body, headers=headers) for _ in range(2)]
    assert [each.status_code for each in sent] == [200, 401]
    assert sent[1].json()["code"] == "nonce_replayed"
    assert Alarm.objects.filter(kind=Alarm.Kind.NONCE_REPLAYED).exists()


def test_a_pin_that_was_altered_on_its_way_is_not_believed(pin_door: Place, payload: Payload) -> None:
    first = first_step(pin_door, payload)
    body = f'{{"attempt_id": "{first}", "pin": "{WRONG}"}}'.encode()
    headers = pin_door.device.sign("POST", PROOF, body, "application/json")
    response = pin_door.device.send(
        "POST", PROOF, body.replace(WRONG.encode(), PIN.encode()), headers=headers
    )
    assert (response.status_code, response.json()["code"]) == (401, "digest_mismatch")
    assert Pin.objects.get().failures == 0


def test_another_terminal_cannot_finish_what_this_one_began(pin_door: Place, payload: Payload) -> None:
    first = first_step(pin_door, payload)
    beside = support.pair(pin_door.door)
    answer = proven(beside, attempt_id=first, pin=PIN)
    assert (answer["status"], answer["code"]) == (404, "not_found")
    assert proven(pin_door.device, attempt_id=first, pin=PIN)["granted"]


def test_a_step_ends_with_its_time_without_a_look_at_the_pin(
    pin_door: Place, payload: Payload, settings: Any
) -> None:
    first = first_step(pin_door, payload)
    past = timezone.now() - timedelta(seconds=settings.LINTEL_PROOF_TTL_S)
    AccessAttempt.objects.filter(pk=first).update(settled_at=past)
    answer = proven(pin_door.device, attempt_id=first, pin=WRONG)
    assert (answer["granted"], answer["reason"]) == (False, "step_expired")
    assert Pin.objects.get().failures == 0


def test_a_step_that_began_at_another_door_ends_there(pin_door: Place, payload: Payload) -> None:
    first = first_step(pin_door, payload)
    other = Door.objects.create(site=pin_door.site, name="Vault", asks_for=Asked.FACE_AND_PIN.value)
    pin_door.rule.doors.add(other)
    row = pin_door.device.row
    row.door = other
    row.save()
    assert proven(pin_door.device, attempt_id=first, pin=PIN)["reason"] == "step_expired"


@pytest.mark.parametrize(
    "change", ["locked down", "revoked rule", "withdrawn", "switched off", "asks otherwise"]
)
def test_what_changed_between_face_and_pin_counts(
    change: str, pin_door: Place, alice: Person, payload: Payload
) -> None:
    first = first_step(pin_door, payload)
    if change == "locked down":
        services.lock_down(site=pin_door.site, reason="drill", actor="guard", at=timezone.now())
    elif change == "revoked rule":
        pin_door.rule.delete()
    elif change == "withdrawn":
        enrollment.withdraw_consent(person=alice, actor="desk", at=timezone.now())
    elif change == "switched off":
        Person.objects.filter(pk=alice.pk).update(is_active=False)
    else:
        ask_for(pin_door, Asked.FACE_AND_CARD)
    expected = {
        "locked down": "site_locked_down",
        "revoked rule": "no_rule",
        "withdrawn": "consent_missing",
        "switched off": "person_inactive",
        "asks otherwise": "method_refused",
    }
    answer = proven(pin_door.device, attempt_id=first, pin=PIN)
    assert (answer["granted"], answer["reason"]) == (False, expected[change])


def test_whoever_no_rule_names_is_not_asked_for_a_pin(pin_door: Place, bob: Person, payload: Payload) -> None:
    proofs.set_pin(person=bob, pin=PIN, actor="desk", at=timezone.now())
    assert shown(pin_door.device, payload(BOB))["reason"] == "no_rule"
    assert shown(pin_door.device, payload(MALLORY))["reason"] == "no_match"


def test_alice_without_a_pin_is_told_so_and_not_asked_in_vain(
    pin_door: Place, alice: Person, payload: Payload
) -> None:
    proofs.clear_pin(person=alice, actor="desk", at=timezone.now())
    answer = shown(pin_door.device, payload(ALICE))
    assert (answer["reason"], "proof_until" in answer) == ("pin_missing", False)
    refused = proven(pin_door.device, attempt_id=answer["attempt_id"], pin=PIN)
    assert (refused["status"], refused["code"]) == (409, "proof_not_asked")


def test_wrong_pins_in_a_row_lock_the_pin_for_a_time_and_raise_an_alarm(
    pin_door: Place, alice: Person, payload: Payload
) -> None:
    for _ in range(TRIES):
        answer = proven(pin_door.device, attempt_id=first_step(pin_door, payload), pin=WRONG)
        assert answer["reason"] == "pin_wrong"
    answer = proven(pin_door.device, attempt_id=first_step(pin_door, payload), pin=PIN)
    assert (answer["granted"], answer["reason"]) == (False, "pin_locked")
    alarm = Alarm.objects.get(kind=Alarm.Kind.PIN_LOCKED)
    assert alarm.door == pin_door.door and "Alice" not in alarm.message
    assert Entry.objects.filter(kind="person.pin_locked", subject=f"person:{alice.pk}").count() == 1
    Pin.objects.update(locked_until=timezone.now())
    assert proven(pin_door.device, attempt_id=first_step(pin_door, payload), pin=PIN)["granted"]
    assert (Pin.objects.get().failures, Pin.objects.get().locked_until) == (0, None)


def test_a_try_counts_before_it_is_compared_and_a_new_pin_meanwhile_decides(alice: Person) -> None:
    proofs.set_pin(person=alice, pin=PIN, actor="desk", at=timezone.now())
    with transaction.atomic():
        tried = proofs.begin_try(person_id=alice.pk, at=timezone.now())
    assert Pin.objects.get().failures == 1
    assert proofs.compare(tried, PIN, patience_s=60)
    proofs.set_pin(person=alice, pin="246813", actor="desk", at=timezone.now())
    assert proofs.finish_try(tried, is_right=True, at=timezone.now()) == proofs.PinCheck.WRONG


def test_nobody_is_compared_when_too_many_are_already(alice: Person) -> None:
    proofs.set_pin(person=alice, pin=PIN, actor="desk", at=timezone.now())
    tried = proofs.begin_try(person_id=alice.pk, at=timezone.now())
    for _ in range(proofs.COMPARED_AT_ONCE):
        assert proofs._comparing.acquire(timeout=0)
    try:
        assert not proofs.compare(tried, PIN, patience_s=0)
    finally:
        for _ in range(proofs.COMPARED_AT_ONCE):
            proofs._comparing.release()
    assert proofs.compare(tried, PIN, patience_s=60)


def test_equal_pins_of_two_people_look_different_and_fit_nobody_else(alice: Person, carla: Person) -> None:
    proofs.set_pin(person=alice, pin=PIN, actor="desk", at=timezone.now())
    ours, theirs = (Pin.objects.get(person=person) for person in (alice, carla))
    assert ours.hash != theirs.hash
    swapped = proofs.PinTry(alice.pk, hash=theirs.hash)
    assert not proofs.compare(swapped, PIN, patience_s=60)


# A card after a face


def test_a_face_and_its_own_card_open_and_another_card_does_not(
    place: Place, alice: Person, carla: Person, payload: Payload
) -> None:
    ask_for(place, Asked.FACE_AND_CARD)
    assert shown(place.device, payload(ALICE))["reason"] == "card_missing"
    card = proofs.add_card(person=alice, number=OTHER_CARD, actor="desk", at=timezone.now())

    def with_card(number: str) -> dict[str, Any]:
        return proven(place.device, attempt_id=first_step(place, payload, "card_required"), card=number)

    assert with_card(OTHER_CARD)["granted"]
    refusals = {CARD: "card_of_another", LOST_CARD: "card_unknown"}
    for number, recorded in refusals.items():
        answer = with_card(number)
        assert (answer["granted"], answer["reason"], last().reason) == (False, "proof_refused", recorded)
    step = first_step(place, payload, "card_required")
    proofs.block_card(card=card, actor="guard", at=timezone.now())
    answer = proven(place.device, attempt_id=step, card=OTHER_CARD)
    assert (answer["reason"], last().reason) == ("proof_refused", "card_blocked")
    assert Alarm.objects.filter(kind=Alarm.Kind.BLOCKED_CARD, door=place.door).exists()


# A card and its PIN, without a face


@pytest.mark.parametrize("asked", [Asked.CARD_AND_PIN, Asked.FACE_OR_CARD_AND_PIN])
def test_carla_who_agreed_to_no_recognition_comes_in_with_card_and_pin(
    asked: Asked, place: Place, carla: Person
) -> None:
    ask_for(place, asked)
    answer = proven(place.device, card=" 0048-151 623", pin=PIN)
    assert (answer["granted"], answer["reason"]) == (True, "granted")
    attempt = last()
    assert (attempt.person, attempt.shown, attempt.score, attempt.payload_bytes) == (
        carla, "card_and_pin", None, 0,
    )  # fmt: skip


def test_of_a_card_that_is_not_accepted_a_door_says_always_the_same(
    place: Place, carla: Person, alice: Person
) -> None:
    ask_for(place, Asked.CARD_AND_PIN)
    proofs.add_card(person=alice, number=OTHER_CARD, actor="desk", at=timezone.now())
    lost = proofs.add_card(person=carla, number=LOST_CARD, actor="desk", at=timezone.now())
    proofs.block_card(card=lost, actor="guard", at=timezone.now())
    told = []
    for number, pin, recorded in (
        ("7777777777", PIN, "card_unknown"),
        (LOST_CARD, PIN, "card_blocked"),
        (CARD, WRONG, "pin_wrong"),
        (OTHER_CARD, PIN, "pin_missing"),
    ):
        answer = proven(place.device, card=number, pin=pin)
        assert last().reason == recorded
        told.append({name: answer[name] for name in ("granted", "reason", "message", "next_step", "status")})
        read = place.device.get(f"/api/v1/attempts/{answer['attempt_id']}").json()
        assert read["reason"] == "proof_refused"
    assert told == [told[0]] * 4
    Pin.objects.filter(person=carla).update(locked_until=timezone.now() + timedelta(minutes=5))
    answer = proven(place.device, card=CARD, pin=PIN)
    assert (answer["reason"], last().reason) == ("proof_refused", "pin_locked")


def test_an_unknown_card_costs_the_time_of_a_comparison(
    place: Place, carla: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask_for(place, Asked.CARD_AND_PIN)
    hashed: list[str] = []

    def watched(keyed: str) -> str:
        hashed.append(keyed)
        return keyed

    monkeypatch.setattr(proofs, "make_password", watched)
    proven(place.device, card="7777777777", pin=PIN)
    assert len(hashed) == 1


def test_hours_and_rules_are_told_to_the_owner_of_card_and_pin_alone(place: Place, carla: Person) -> None:
    ask_for(place, Asked.CARD_AND_PIN)
    place.rule.delete()
    assert proven(place.device, card=CARD, pin=WRONG)["reason"] == "proof_refused"
    assert proven(place.device, card=CARD, pin=PIN)["reason"] == "no_rule"


def test_a_door_that_asks_for_no_face_looks_at_none(
    place: Place, alice: Person, payload: Payload, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask_for(place, Asked.CARD_AND_PIN)
    monkeypatch.setattr("enrollment.payloads.store", lambda *_: pytest.fail("a capture was kept"))
    assert shown(place.device, payload(ALICE))["reason"] == "method_refused"
    assert (last().score, last().person, last().profile_hash) == (None, None, "")


@pytest.mark.parametrize("asked", [Asked.FACE, Asked.FACE_AND_PIN, Asked.FACE_AND_CARD])
def test_card_and_pin_open_no_door_that_wants_a_face(asked: Asked, place: Place, carla: Person) -> None:
    ask_for(place, asked)
    answer = proven(place.device, card=CARD, pin=PIN)
    assert (answer["granted"], answer["reason"]) == (False, "method_refused")


def test_a_face_alone_still_opens_where_a_card_is_the_other_way(
    place: Place, alice: Person, payload: Payload
) -> None:
    ask_for(place, Asked.FACE_OR_CARD_AND_PIN)
    assert shown(place.device, payload(ALICE))["granted"]


# Bad requests, and rates


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({}, 422, "proof_incomplete"),
        ({"pin": PIN}, 422, "proof_incomplete"),
        ({"card": CARD}, 422, "proof_incomplete"),
        ({"pin": "12a4", "card": CARD}, 400, "invalid"),
        ({"pin": 1234, "card": ["1"]}, 400, "invalid"),
        ({"attempt_id": "7", "pin": PIN}, 400, "invalid"),
    ],
)
def test_half_a_proof_is_refused_and_repeats_nothing(
    place: Place, body: dict[str, Any], status: int, code: str
) -> None:
    answer = proven(place.device, **body)
    assert (answer["status"], answer["code"]) == (status, code)
    assert PIN not in str(answer) and CARD not in str(answer)
    assert not AccessAttempt.objects.exists()


def test_pins_of_one_terminal_are_slowed_down(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accesscontrol.authentication.ProofRate.rate", "2/min")
    answers = [proven(place.device, card=CARD, pin=PIN)["status"] for _ in range(3)]
    assert answers == [200, 200, 429]


def test_the_terminal_learns_what_its_door_asks_for(place: Place) -> None:
    ask_for(place, Asked.FACE_AND_PIN)
    assert place.device.get("/api/v1/terminals/me").json()["door"]["asks_for"] == "face_and_pin"


# The database has the last word


def test_the_database_refuses_a_yes_without_what_it_takes(place: Place) -> None:
    now = timezone.now()
    row = {
        "terminal": place.device.row, "door": place.door, "payload_bytes": 0, "received_at": now,
        "deadline_at": now + timedelta(seconds=3), "settled_at": now, "state": "settled", "granted": True,
        "reason": "granted",
    }  # fmt: skip
    impossible = [
        {"shown": "face", "score": None, "threshold": None},
        {"shown": "face", "score": 0.9, "threshold": None},
        {"shown": "face_and_pin", "score": 0.9, "threshold": 0.5},  # follows nothing
        {"shown": "card_and_pin", "score": 0.9, "threshold": 0.5},
    ]
    for change in impossible:
        with pytest.raises(IntegrityError), transaction.atomic():
            AccessAttempt.objects.create(nonce=new_nonce(), **row, **change)
    AccessAttempt.objects.create(nonce=new_nonce(), **row, shown="card_and_pin")
    with pytest.raises(IntegrityError), transaction.atomic():
        Door.objects.filter(pk=place.door.pk).update(asks_for="nothing")


# Erasure, and what stays in the clear


def test_erasure_takes_pin_and_cards_and_says_so_and_withdrawal_leaves_the_other_way_in(
    place: Place, alice: Person
) -> None:
    ask_for(place, Asked.FACE_OR_CARD_AND_PIN)
    proofs.set_pin(person=alice, pin=PIN, actor="desk", at=timezone.now())
    proofs.add_card(person=alice, number=CARD, actor="desk", at=timezone.now())
    enrollment.withdraw_consent(person=alice, actor="desk", at=timezone.now())
    assert proven(place.device, card=CARD, pin=PIN)["granted"]
    certificate = enrollment.erase_person(person_id=alice.pk, actor="admin", at=timezone.now())
    assert (certificate["pins_deleted"], certificate["cards_deleted"]) == (1, 1)
    assert not Pin.objects.exists() and not Card.objects.exists()
    assert proven(place.device, card=CARD, pin=PIN)["reason"] == "proof_refused"


@pytest.mark.database
@pytest.mark.redis
@pytest.mark.django_db(transaction=True)
def test_no_pin_and_no_card_number_is_ever_written_down(
    model: None, tasks_run_inline: None, redis_server: Redis, redis_url: str, settings: Any, tmp_path: Path,
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, logger="django")
    place = support.make_place()
    ask_for(place, Asked.CARD_AND_PIN)
    person = support.somebody("Carla Example", consents=False)
    place.group.members.add(person)
    proofs.set_pin(person=person, pin=PIN, actor="desk", at=timezone.now())
    card = proofs.add_card(person=person, number=CARD, actor="desk", at=timezone.now())
    assert proven(place.device, card=CARD, pin=PIN)["granted"]
    assert not proven(place.device, card=CARD, pin=WRONG)["granted"]
    assert not proven(place.device, card=OTHER_CARD, pin=PIN)["granted"]
    proven(place.device, card=CARD)  # half a proof
    proofs.block_card(card=card, actor="guard", at=timezone.now())
    places = {
        "database": database(),
        "redis": redis_dump(redis_server, redis_url),
        "log": caplog.text.encode(),
        "output": "".join(capfd.readouterr()).encode(),
        "data": files_below(Path(django_settings.LINTEL_DATA_DIR)),
    }
    needles = {number: number.encode() for number in (PIN, WRONG, CARD, OTHER_CARD)}
    left = {
        where: [name for name, needle in needles.items() if needle in kept] for where, kept in places.items()
    }
    assert not any(left.values()), left
    assert CARD[-4:].encode() in places["database"], "the search finds what is kept for the eye"
    with redis.Redis.from_url(redis_url) as client:
        assert client.ping()


@pytest.mark.django_db
def test_a_new_key_encryption_key_leaves_pins_and_cards_as_they_are(settings: Any) -> None:
    from enrollment import sealing

    person = support.somebody("Carla Example")
    proofs.set_pin(person=person, pin=PIN, actor="desk", at=timezone.now())
    card = proofs.add_card(person=person, number=CARD, actor="desk", at=timezone.now())
    older = settings.LINTEL_KEY_ENCRYPTION_KEYS
    settings.LINTEL_KEY_ENCRYPTION_KEYS = [("newer", bytes(range(32))), *older]
    assert sealing.rotate_data_keys() >= 1
    settings.LINTEL_KEY_ENCRYPTION_KEYS = settings.LINTEL_KEY_ENCRYPTION_KEYS[:1]
    assert NumberKey.objects.get().kek_id == "newer"
    assert proofs.find_card(CARD) == card
    tried = proofs.begin_try(person_id=person.pk, at=timezone.now())
    assert proofs.compare(tried, PIN, patience_s=60)
