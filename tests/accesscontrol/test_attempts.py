"""An attempt from the signed request to the signed reply, and everything that must keep the door shut."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from django.db import IntegrityError, connection
from django.test import Client
from django.utils import timezone

from accesscontrol import services
from accesscontrol.models import AccessAttempt, Alarm, Presence, Schedule, Site, Terminal, UsedNonce, Zone
from accesscontrol.policy import Match, Reason
from accesscontrol.tasks import verify_audit
from audit.models import Entry
from audit.triggers import dangerously_lifted
from enrollment import payloads
from enrollment import services as enrollment
from enrollment.models import Person
from recognition.payload import pack
from recognition.types import PerturbedFeatures
from tests.accesscontrol import support
from tests.accesscontrol.support import ALICE, BOB, MALLORY, Device, Place, believed, new_nonce
from tests.tiny_model import tiny_profile

Payload = Callable[[int], bytes]


def asked(device: Device, payload: bytes) -> dict[str, Any]:
    """The believed answer to an attempt."""
    nonce = new_nonce()
    response = device.attempt(payload, nonce=nonce)
    assert response.status_code == 200, response.content
    body = believed(response, nonce=nonce)
    assert body["nonce"] == nonce
    return body


def the_attempt() -> AccessAttempt:
    return AccessAttempt.objects.get()


def last_entry() -> Any:
    return Entry.objects.filter(kind="attempt.settled").latest("index")


# The door opens, and stays shut


def test_the_door_opens_for_alice_and_the_reply_is_bound_to_request_and_door(
    place: Place, alice: Person, payload: Payload
) -> None:
    answer = asked(place.device, payload(ALICE))
    assert (answer["granted"], answer["reason"]) == (True, "granted")
    assert answer["door_id"] == str(place.door.pk)
    attempt = the_attempt()
    assert (attempt.granted, attempt.person, attempt.gallery_size) == (True, alice, 1 + 1)
    assert attempt.score is not None and attempt.threshold is not None and attempt.score >= attempt.threshold
    assert attempt.payload_key == ""
    entry = last_entry()
    assert entry.details["granted"] is True
    assert entry.subject == f"person:{alice.pk}"


def test_a_stranger_is_refused_and_the_refusal_is_in_the_log(
    place: Place, alice: Person, payload: Payload
) -> None:
    answer = asked(place.device, payload(MALLORY))
    assert (answer["granted"], answer["reason"]) == (False, "no_match")
    assert answer["message"] and answer["next_step"]
    assert the_attempt().person is None
    assert last_entry().details["reason"] == "no_match"


def test_bob_is_recognized_and_refused_because_no_rule_names_him(
    place: Place, alice: Person, bob: Person, payload: Payload
) -> None:
    assert asked(place.device, payload(BOB))["reason"] == "no_rule"
    assert the_attempt().person == bob


def test_nobody_comes_in_while_nobody_is_enrolled(place: Place, payload: Payload) -> None:
    assert asked(place.device, payload(ALICE))["reason"] == "gallery_empty"


def test_alice_is_refused_after_her_pass_expires(place: Place, alice: Person, payload: Payload) -> None:
    Person.objects.filter(pk=alice.pk).update(valid_until=timezone.now())
    assert asked(place.device, payload(ALICE))["reason"] == "person_expired"


def test_alice_is_refused_once_she_is_switched_off(place: Place, alice: Person, payload: Payload) -> None:
    Person.objects.filter(pk=alice.pk).update(is_active=False)
    assert asked(place.device, payload(ALICE))["reason"] == "person_inactive"


def test_a_face_in_the_gallery_without_consent_opens_nothing(
    place: Place, alice: Person, payload: Payload
) -> None:
    alice.consents.update(withdrawn_at=timezone.now())  # as if the gallery had not followed yet
    assert asked(place.device, payload(ALICE))["reason"] == "consent_missing"


def test_withdrawing_consent_takes_the_face_out_of_the_gallery(
    place: Place, alice: Person, bob: Person, payload: Payload
) -> None:
    enrollment.withdraw_consent(person=alice, actor="desk", at=timezone.now())
    assert asked(place.device, payload(ALICE))["reason"] == "no_match"


def test_a_door_that_is_switched_off_opens_for_nobody(place: Place, alice: Person, payload: Payload) -> None:
    place.door.is_active = False
    place.door.save()
    assert asked(place.device, payload(ALICE))["reason"] == "door_inactive"


def test_a_locked_down_site_opens_for_nobody_until_the_lock_down_is_lifted(
    place: Place, alice: Person, payload: Payload
) -> None:
    services.lock_down(site=place.site, reason="smoke", actor="guard", at=timezone.now())
    assert asked(place.device, payload(ALICE))["reason"] == "site_locked_down"
    services.lift_lock_down(site=place.site, actor="guard", at=timezone.now())
    assert asked(place.device, payload(ALICE))["granted"] is True
    kinds = Entry.objects.filter(kind__startswith="site.").order_by("index").values_list("kind", flat=True)
    assert list(kinds) == ["site.locked_down", "site.lock_down_lifted"]


def test_a_terminal_whose_door_moved_to_another_site_opens_nothing_until_it_is_paired_again(
    place: Place, alice: Person, payload: Payload
) -> None:
    place.door.site = Site.objects.create(name="Elsewhere")
    place.door.save()
    assert asked(place.device, payload(ALICE))["reason"] == "wrong_site"


def test_outside_its_hours_a_rule_opens_nothing(place: Place, alice: Person, payload: Payload) -> None:
    tomorrow = (timezone.now() + timedelta(days=2)).weekday()
    schedule = Schedule.objects.create(
        name="Two days ahead", weekly=[{"day": tomorrow, "from": "08:00", "to": "09:00"}]
    )
    place.rule.schedule = schedule
    place.rule.save()
    assert asked(place.device, payload(ALICE))["reason"] == "outside_schedule"


def test_alice_cannot_enter_twice_without_leaving_and_a_guard_can_correct_the_record(
    place: Place, alice: Person, payload: Payload
) -> None:
    place.door.zone = Zone.objects.create(site=place.site, name="Laboratory", anti_passback=True)
    place.door.save()
    assert asked(place.device, payload(ALICE))["granted"] is True
    assert asked(place.device, payload(ALICE))["reason"] == "anti_passback"
    assert services.forgive_presence(person=alice, site=place.site, actor="guard", at=timezone.now())
    assert asked(place.device, payload(ALICE))["granted"] is True


def test_leaving_through_a_door_without_a_zone_lets_alice_in_again(
    place: Place, alice: Person, payload: Payload
) -> None:
    place.door.zone = Zone.objects.create(site=place.site, name="Laboratory", anti_passback=True)
    place.door.save()
    way_out = support.make_place()
    place.rule.doors.add(way_out.door)
    assert asked(place.device, payload(ALICE))["granted"] is True
    assert asked(way_out.device, payload(ALICE))["granted"] is True
    assert not Presence.objects.exists()
    assert asked(place.device, payload(ALICE))["granted"] is True


def test_two_people_who_look_alike_open_nothing(place: Place, alice: Person, bob: Person) -> None:
    attempt = pending(place)
    settled = services.settle_attempt(
        attempt_id=attempt.pk,
        candidates=[Match(str(alice.pk), 0.91), Match(str(bob.pk), 0.90)],
        gallery_size=2,
        threshold=0.5,
    )
    assert (settled.granted, settled.reason, settled.person) == (False, "ambiguous_match", None)


# Bad captures


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(2000), "not_a_capture"),
        (b"not even close", "not_a_capture"),
        (b"LNTL\x01\x00\x00\x00", "truncated"),
    ],
    ids=["a plain JPEG", "some text", "a header cut short"],
)
def test_what_is_not_a_capture_is_refused_with_a_decision_in_the_log(
    place: Place, alice: Person, body: bytes, code: str
) -> None:
    answer = asked(place.device, body)
    assert (answer["granted"], answer["reason"]) == (False, "payload_refused")
    assert the_attempt().detail == code
    assert last_entry().details["detail"] == code


def test_a_truncated_an_altered_and_a_foreign_capture_are_refused(
    place: Place, alice: Person, payload: Payload
) -> None:
    good = payload(ALICE)
    altered = bytearray(good)
    altered[60] ^= 1
    foreign = bytearray(good)
    foreign[8:40] = bytes(32)
    foreign[-4:] = struct.pack("<I", zlib.crc32(bytes(foreign[:-4])))
    for body, code in (
        (good[:-9], "truncated"),
        (bytes(altered), "bad_checksum"),
        (bytes(foreign), "unknown_profile"),
    ):
        assert asked(place.device, body)["reason"] == "payload_refused"
        assert AccessAttempt.objects.latest("received_at").detail == code


def test_a_capture_drawn_without_noise_is_refused(place: Place, alice: Person) -> None:
    profile = tiny_profile()
    middle = ((1 << profile.bits) // 2 * (profile.bits > 0)).astype(np.uint8)
    codes = np.broadcast_to(middle[:, None, None], profile.shape).copy()
    answer = asked(place.device, pack(PerturbedFeatures(profile.hash, codes), profile))
    assert answer["reason"] == "payload_refused"
    assert the_attempt().detail == "noise_contradiction"


def test_an_oversized_body_is_refused_before_it_is_read(place: Place) -> None:
    response = place.device.attempt(bytes(300_001))
    assert (response.status_code, response.json()["code"]) == (413, "oversized")
    assert not AccessAttempt.objects.exists()


def test_a_capture_under_another_content_type_is_refused(place: Place, payload: Payload) -> None:
    response = place.device.send("POST", "/api/v1/attempts", payload(ALICE), content_type="image/jpeg")
    assert (response.status_code, response.json()["code"]) == (415, "unsupported_media_type")
    assert response["Content-Type"] == "application/problem+json"


# Deadlines, and deciding once


def pending(place: Place, **changes: Any) -> AccessAttempt:
    now = timezone.now()
    values = {
        "terminal": place.device.row,
        "door": place.door,
        "nonce": new_nonce(),
        "payload_bytes": 1,
        "received_at": now,
        "deadline_at": now + timedelta(minutes=1),
    }
    return AccessAttempt.objects.create(**(values | changes))


def test_an_attempt_that_nobody_answers_is_denied_after_its_deadline(
    place: Place, alice: Person, payload: Payload, settings: Any, dispatched: list[Any]
) -> None:
    settings.LINTEL_ATTEMPT_DEADLINE_MS = 150
    nonce = new_nonce()
    response = place.device.attempt(payload(ALICE), nonce=nonce)
    body = believed(response, nonce=nonce)
    assert response.status_code == 202
    ((name, arguments),) = dispatched
    assert (name, set(arguments)) == ("accesscontrol.tasks.identify", {"attempt_id", "sequence"})
    key = the_attempt().payload_key
    polled = place.device.get(body["poll"])
    assert (polled.status_code, polled.json()["granted"], polled.json()["reason"]) == (
        200,
        False,
        "deadline_passed",
    )
    assert last_entry().details["reason"] == "deadline_passed"
    assert payloads.take(key) is None


def test_a_worker_that_comes_after_the_deadline_grants_nothing(place: Place, alice: Person) -> None:
    now = timezone.now()
    late = pending(place, received_at=now - timedelta(seconds=9), deadline_at=now - timedelta(seconds=6))
    settled = services.settle_attempt(
        attempt_id=late.pk, candidates=[Match(str(alice.pk), 0.99)], gallery_size=1, threshold=0.5
    )
    assert (settled.granted, settled.reason) == (False, "deadline_passed")


def test_a_settled_attempt_is_never_settled_again(place: Place, alice: Person) -> None:
    attempt = pending(place)
    first = services.settle_attempt(attempt_id=attempt.pk, fault=Reason.PAYLOAD_MISSING)
    entries = Entry.objects.count()
    second = services.settle_attempt(
        attempt_id=attempt.pk, candidates=[Match(str(alice.pk), 0.99)], gallery_size=1, threshold=0.5
    )
    assert (first.reason, second.reason, second.granted) == ("payload_missing", "payload_missing", False)
    assert Entry.objects.count() == entries


def test_a_decision_made_in_time_is_not_told_after_the_deadline(
    place: Place, alice: Person, payload: Payload
) -> None:
    asked(place.device, payload(ALICE))
    attempt = the_attempt()
    assert services.answer(attempt, at=attempt.deadline_at - timedelta(milliseconds=1)) == (
        True,
        Reason.GRANTED,
    )
    assert services.answer(attempt, at=attempt.deadline_at) == (False, Reason.DEADLINE_PASSED)


def test_the_sweeper_denies_what_nobody_answered(place: Place) -> None:
    late = timezone.now() - timedelta(minutes=1)
    attempts = [pending(place, received_at=late, deadline_at=late + timedelta(seconds=3)) for _ in range(3)]
    young = pending(place)
    assert services.expire_attempts(at=timezone.now()) == 3
    for attempt in attempts:
        attempt.refresh_from_db()
        assert attempt.reason == "deadline_passed"
    young.refresh_from_db()
    assert young.state == "pending"


def test_a_terminal_cannot_read_the_attempt_of_another(place: Place, alice: Person, payload: Payload) -> None:
    asked(place.device, payload(ALICE))
    other = support.make_place()
    response = other.device.get(f"/api/v1/attempts/{the_attempt().pk}")
    assert response.status_code == 404


def test_a_person_erased_between_search_and_decision_opens_nothing(place: Place, alice: Person) -> None:
    attempt = pending(place)
    gone = str(alice.pk)
    enrollment.erase_person(person_id=alice.pk, actor="admin", at=timezone.now())
    settled = services.settle_attempt(
        attempt_id=attempt.pk, candidates=[Match(gone, 0.99)], gallery_size=1, threshold=0.5
    )
    assert (settled.granted, settled.reason) == (False, "person_inactive")


def test_a_terminal_revoked_while_its_attempt_is_under_way_opens_nothing(place: Place, alice: Person) -> None:
    attempt = pending(place)
    services.revoke_terminal(terminal=place.device.row, actor="admin", at=timezone.now())
    settled = services.settle_attempt(
        attempt_id=attempt.pk, candidates=[Match(str(alice.pk), 0.99)], gallery_size=1, threshold=0.5
    )
    assert settled.reason == "terminal_revoked"


def test_the_database_itself_refuses_a_grant_below_the_threshold(place: Place) -> None:
    attempt = pending(place)
    with pytest.raises(IntegrityError, match="granted_above_threshold"):
        AccessAttempt.objects.filter(pk=attempt.pk).update(
            state="settled",
            granted=True,
            reason="granted",
            score=0.3,
            threshold=0.5,
            settled_at=timezone.now(),
        )


# Alarms


def test_five_refusals_within_two_minutes_raise_one_alarm(
    place: Place, alice: Person, payload: Payload
) -> None:
    for _ in range(6):
        asked(place.device, payload(MALLORY))
    alarm = Alarm.objects.get()
    assert (alarm.kind, alarm.count, alarm.door) == ("repeated_refusals", 2, place.door)
    assert Entry.objects.filter(kind="alarm.raised").count() == 1


def test_a_silent_terminal_raises_one_alarm_for_each_silence(place: Place) -> None:
    now, hour = timezone.now(), timedelta(hours=1)
    assert services.watch_terminals(at=now + timedelta(minutes=4)) == 0
    assert services.watch_terminals(at=now + timedelta(minutes=6)) == 1
    assert services.watch_terminals(at=now + hour) == 0
    Terminal.objects.update(last_seen_at=now + 2 * hour)
    assert services.watch_terminals(at=now + 3 * hour) == 1


def test_spent_nonces_are_forgotten_only_after_the_clock_window(place: Place) -> None:
    place.device.get("/api/v1/terminals/me")
    assert services.forget_nonces(at=timezone.now() + timedelta(seconds=60)) == 0
    assert UsedNonce.objects.count() == 1
    assert services.forget_nonces(at=timezone.now() + timedelta(seconds=120)) == 1


def test_a_log_that_was_tampered_with_raises_an_alarm(place: Place) -> None:
    verify_audit()
    assert not Alarm.objects.exists()
    with dangerously_lifted(connection):
        Entry.objects.filter(index=0).update(actor="somebody else")
    verify_audit()
    assert Alarm.objects.get().kind == "audit_broken"


def test_a_server_without_a_model_refuses_instead_of_failing(
    place: Place, alice: Person, payload: Payload, settings: Any
) -> None:
    body = payload(ALICE)
    settings.LINTEL_MODEL = "no such model"
    response = place.device.attempt(body)
    assert (response.status_code, response.json()["code"]) == (503, "recognition_unavailable")


def test_rows_can_be_looked_at_in_the_admin_and_never_changed_past_the_log(
    place: Place, admin_client: Client
) -> None:
    for name in ("accessattempt", "terminal", "alarm", "apitoken", "pairingcode", "site", "accessrule"):
        assert admin_client.get(f"/admin/accesscontrol/{name}/").status_code == 200
        assert admin_client.get(f"/admin/accesscontrol/{name}/add/").status_code == 403
    page = admin_client.get(f"/admin/accesscontrol/terminal/{place.device.terminal_id}/change/")
    assert page.status_code == 200
    assert b'name="_save"' not in page.content
