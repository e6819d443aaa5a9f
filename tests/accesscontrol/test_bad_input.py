"""What must never open a door, one by one: each leaves a stable reason, a settled row and an entry in the log."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from django.utils import timezone

from accesscontrol.models import AccessAttempt, Site
from audit.models import Entry
from enrollment import gallery
from enrollment.models import Consent, Person
from recognition.frequency import to_frequency
from recognition.noise import perturb
from recognition.payload import pack
from recognition.types import Embedding, PerturbedFeatures
from tests.accesscontrol.support import ALICE, MALLORY, Place, believed, new_nonce
from tests.tiny_model import synthetic_picture, tiny_profile

HEADER = 52  # magic, version, profile hash, allocation, lengths; see docs/protocol.md


def resealed(capture: bytes) -> bytes:
    """With the checksum that an attacker computes as well as anybody."""
    return capture[:-4] + struct.pack("<I", zlib.crc32(capture[:-4]))


def not_a_number(capture: bytes) -> bytes:
    """Floating-point NaN where codes should be, in an envelope that is right in every other way."""
    room = len(capture) - HEADER - 4
    nans = (struct.pack("<f", float("nan")) * (room // 4 + 1))[:room]
    return resealed(capture[:HEADER] + nans + capture[-4:])


def without_noise(capture: bytes) -> bytes:
    profile = tiny_profile()
    middle = ((1 << profile.bits) // 2 * (profile.bits > 0)).astype(np.uint8)
    codes = np.broadcast_to(middle[:, None, None], profile.shape).copy()
    return pack(PerturbedFeatures(profile.hash, codes), profile)


def of_a_picture_without_noise(capture: bytes) -> bytes:
    """Alice's own picture, each coefficient's code as it is: what a terminal sends whose noise was left out."""
    profile = tiny_profile()
    features = to_frequency(synthetic_picture(ALICE), profile.transform)
    median = perturb(features, profile, lambda count: np.full(count // 4, 1 << 31, "<u4").tobytes())
    return pack(median, profile)


def of_another_profile(capture: bytes) -> bytes:
    return resealed(capture[:8] + bytes(32) + capture[40:])


BAD_CAPTURES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "a plain JPEG": (lambda capture: b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(2000), "not_a_capture"),
    "a PNG": (lambda capture: b"\x89PNG\r\n\x1a\n" + bytes(2000), "not_a_capture"),
    "bare floats that are no numbers": (
        lambda capture: np.full(500, np.nan, "<f4").tobytes(),
        "not_a_capture",
    ),
    "a capture without noise": (without_noise, "noise_contradiction"),
    "a picture without noise": (of_a_picture_without_noise, "noise_contradiction"),
    "a capture under another profile": (of_another_profile, "unknown_profile"),
    "half a capture": (lambda capture: capture[: len(capture) // 2], "truncated"),
    "a capture and a byte": (lambda capture: capture + b"\0", "oversized"),
    "nothing but the magic": (lambda capture: capture[:4], "truncated"),
}


@pytest.mark.parametrize("name", BAD_CAPTURES)
def test_a_bad_capture_is_refused_with_a_code_and_an_entry(
    place: Place, alice: Person, payload: Callable[[int], bytes], name: str
) -> None:
    spoil, code = BAD_CAPTURES[name]
    refused(place, spoil(payload(ALICE)), reason="payload_refused")
    assert AccessAttempt.objects.get().detail == code


def test_floats_that_are_no_numbers_are_read_as_codes_and_match_nobody(
    place: Place, alice: Person, payload: Callable[[int], bytes]
) -> None:
    """The wire has no NaN: every bit pattern of the right length is a code, and these are nobody's."""
    refused(place, not_a_number(payload(ALICE)), reason="no_match")


def elsewhere(place: Place, alice: Person) -> None:
    place.door.site = Site.objects.create(name="Elsewhere")
    place.door.save()


def without_consent(place: Place, alice: Person) -> None:
    Consent.objects.filter(person=alice).update(withdrawn_at=timezone.now())


def expired(place: Place, alice: Person) -> None:
    Person.objects.filter(pk=alice.pk).update(valid_until=timezone.now() - timedelta(seconds=1))


def switched_off(place: Place, alice: Person) -> None:
    Person.objects.filter(pk=alice.pk).update(is_active=False)


WRONG_PEOPLE_AND_PLACES: dict[str, tuple[Callable[[Place, Person], None], str]] = {
    "a door of another site": (elsewhere, "wrong_site"),
    "a person without consent": (without_consent, "consent_missing"),
    "an expired person": (expired, "person_expired"),
    "a person who is switched off": (switched_off, "person_inactive"),
}


@pytest.mark.parametrize("name", WRONG_PEOPLE_AND_PLACES)
def test_a_known_face_is_not_enough(
    place: Place, alice: Person, payload: Callable[[int], bytes], name: str
) -> None:
    spoil, reason = WRONG_PEOPLE_AND_PLACES[name]
    spoil(place, alice)
    refused(place, payload(ALICE), reason=reason)


def test_an_empty_gallery_lets_nobody_in(place: Place, payload: Callable[[int], bytes]) -> None:
    refused(place, payload(MALLORY), reason="gallery_empty")


def test_a_model_that_finds_no_number_for_a_face_opens_nothing(
    place: Place, alice: Person, payload: Callable[[int], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """NaN from the recognizer, such as a damaged weight or an overflow gives."""
    model = gallery.recognizer()
    embed = model.embed_one

    def broken(features: PerturbedFeatures, **more: Any) -> Embedding:
        return Embedding(np.full_like(embed(features, **more).vector, np.nan))

    monkeypatch.setattr(model, "embed_one", broken)
    refused(place, payload(ALICE), reason="recognizer_fault")


def refused(place: Place, capture: bytes, *, reason: str) -> None:
    """One attempt that a terminal believes was refused, settled once in the database and once in the log."""
    before = Entry.objects.filter(kind="attempt.settled").count()
    nonce = new_nonce()
    answer = believed(place.device.attempt(capture, nonce=nonce), nonce=nonce)
    assert (answer["granted"], answer["reason"]) == (False, reason)
    attempt = AccessAttempt.objects.get()
    assert (attempt.state, attempt.granted, attempt.reason) == ("settled", False, reason)
    assert Entry.objects.filter(kind="attempt.settled").count() == before + 1
    entry = Entry.objects.filter(kind="attempt.settled").latest("index")
    assert (entry.details["granted"], entry.details["reason"]) == (False, reason)
