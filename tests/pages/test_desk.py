"""Captures that a page hands in: with its session and its token, checked like a terminal's, and never a picture."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from contextlib import closing

import numpy as np
import pytest
from django.http.response import ResponseHeaders
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from PIL import Image

from accesscontrol import captures
from accesscontrol.middleware import CONTENT_SECURITY_POLICY
from audit.models import Entry
from enrollment.models import Enrollment, PendingCapture
from enrollment.services import MAX_CAPTURES_RECEIVED, begin_enrollment, record_consent
from recognition.budget import load_profile
from recognition.checkpoint import model_folder
from recognition.payload import CONTENT_TYPE, MAX_PAYLOAD_BYTES, pack
from recognition.types import PerturbedFeatures
from tests.tiny_model import capture_of, synthetic_picture

pytestmark = pytest.mark.django_db


@pytest.fixture
def capture() -> bytes:
    profile = captures.default_profile()
    return pack(capture_of(synthetic_picture(1), profile), profile)


@pytest.fixture
def enrollment(building) -> Enrollment:
    return begin_enrollment(person=building.alice, actor="enroller", at=timezone.now())


@pytest.fixture
def hand_in(signed_in, dispatched, enrollment) -> Callable[..., tuple[int, dict]]:
    """POST to the enrollment's own address; the status and the document of the answer."""
    desk = signed_in("enroller")

    def post(body: bytes, *, to=enrollment, client: Client = desk, content_type=CONTENT_TYPE, **headers: str):
        address = reverse("enrollment_captures", args=[to.pk])
        answer = client.post(address, body, content_type=content_type, **headers)
        return answer.status_code, json.loads(answer.content or b"{}")

    return post


def test_a_capture_is_taken_and_its_progress_told(hand_in, capture, enrollment, signed_in):
    status, progress = hand_in(capture, HTTP_LINTEL_CAPTURE_QUALITY="score=0.9")
    assert (status, progress["state"], progress["captures_pending"]) == (202, "open", 1)
    assert PendingCapture.objects.get().quality == 0.9
    asked = signed_in("enroller").get(reverse("enrollment_captures", args=[enrollment.pk]))
    assert asked.json() == progress


def test_without_the_pages_token_nothing_is_taken(hand_in, capture, signed_in):
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(signed_in("enroller").user, backend="django.contrib.auth.backends.ModelBackend")
    status, problem = hand_in(capture, client=strict)
    assert (status, problem["code"]) == (403, "not_allowed")
    assert not PendingCapture.objects.exists()


@pytest.mark.parametrize("role", ["guard", "auditor", "integrator", "nobody"])
def test_other_roles_hand_in_nothing(role, signed_in, enrollment, capture):
    answer = signed_in(role).post(
        reverse("enrollment_captures", args=[enrollment.pk]), capture, content_type=CONTENT_TYPE
    )
    assert answer.status_code == 403
    assert not PendingCapture.objects.exists()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP"])
@pytest.mark.parametrize("declared", ["capture", "its own"])
def test_a_picture_is_never_accepted(hand_in, kind, declared):
    picture = io.BytesIO()
    Image.fromarray(synthetic_picture(1).pixels).save(picture, kind)
    content_type = CONTENT_TYPE if declared == "capture" else f"image/{kind.lower()}"
    status, problem = hand_in(picture.getvalue(), content_type=content_type)
    assert (status, problem["code"]) in {(422, "not_a_capture"), (415, "unsupported_media_type")}
    assert not PendingCapture.objects.exists()


def test_raw_pixels_are_no_capture(hand_in):
    assert hand_in(synthetic_picture(1).pixels.tobytes())[1]["code"] == "not_a_capture"


def test_an_altered_a_foreign_an_oversized_and_a_noiseless_capture_are_refused(hand_in, capture, monkeypatch):
    altered = bytearray(capture)
    altered[100] ^= 1
    assert hand_in(bytes(altered))[1]["code"] == "bad_checksum"
    assert hand_in(bytes(MAX_PAYLOAD_BYTES + 1))[0] == 413
    other = load_profile(model_folder("default") / "profile.json")
    known = captures.known_profiles()
    monkeypatch.setattr(captures, "known_profiles", dict)
    assert hand_in(capture)[1]["code"] == "unknown_profile"
    monkeypatch.setattr(captures, "known_profiles", lambda: {**known, other.hash: other})
    middle = np.where(other.bits > 0, (1 << other.bits) // 2, 0).astype(np.uint8)
    still = np.ascontiguousarray(np.broadcast_to(middle[:, None, None], other.shape))
    status, problem = hand_in(pack(PerturbedFeatures(other.hash, still), other))
    assert (status, problem["code"]) == (422, "noise_contradiction")


def test_an_enrollment_at_a_terminal_takes_nothing_from_a_browser(hand_in, capture, building):
    record_consent(
        person=building.bob, text="x", version="1", method="signed", actor="desk", at=timezone.now()
    )
    there = begin_enrollment(
        person=building.bob, terminal_id=building.terminal.pk, actor="desk", at=timezone.now()
    )
    assert hand_in(capture, to=there)[0] == 404


def test_a_browser_cannot_average_the_noise_away(hand_in, capture, enrollment):
    Enrollment.objects.filter(pk=enrollment.pk).update(captures_received=MAX_CAPTURES_RECEIVED)
    status, problem = hand_in(capture)
    assert (status, problem["code"]) == (409, "too_many_captures")


def test_the_profile_is_served_letter_by_letter_as_it_was_hashed(signed_in):
    answer = signed_in("enroller").get(reverse("enrollment_profile"))
    assert answer.content.decode() == captures.default_profile().to_json()


def test_only_the_page_that_captures_may_open_a_camera_and_compile_webassembly(signed_in, enrollment):
    desk = signed_in("enroller")
    page = desk.get(reverse("enrollment", args=[enrollment.pk]))
    assert "script-src 'self' 'wasm-unsafe-eval'" in page["Content-Security-Policy"]
    assert "worker-src 'self'" in page["Content-Security-Policy"]
    assert "'unsafe-eval'" not in page["Content-Security-Policy"]
    assert "camera=(self)" in page["Permissions-Policy"]
    over = Enrollment.objects.filter(pk=enrollment.pk)
    over.update(state=Enrollment.State.CANCELLED, finished_at=timezone.now())
    answer = desk.get(reverse("enrollment", args=[enrollment.pk]))
    assert answer["Content-Security-Policy"] == CONTENT_SECURITY_POLICY
    for other in ("people", "dashboard", "enrollment_profile"):
        answer = desk.get(reverse(other))
        assert answer["Content-Security-Policy"] == CONTENT_SECURITY_POLICY
        assert "camera=()" in answer["Permissions-Policy"]


def static(client: Client, path: str) -> ResponseHeaders:
    with closing(client.get(f"/static/enrollment/{path}")) as answer:
        assert answer.status_code == 200
        return answer.headers


def test_the_worker_may_compile_webassembly_and_other_scripts_may_not(client):
    worker = static(client, "capture-worker.js")
    assert "'wasm-unsafe-eval'" in worker["Content-Security-Policy"]
    assert "camera=()" in worker["Permissions-Policy"]
    assert static(client, "capture.js")["Content-Security-Policy"] == CONTENT_SECURITY_POLICY


def test_networks_and_runtime_come_from_this_server(client):
    static(client, "networks/face_landmark.tflite")
    static(client, "networks/litert_wasm_compat_internal.js")
    runtime = static(client, "networks/litert_wasm_compat_internal.wasm")
    assert runtime["Content-Type"] == "application/wasm"


@pytest.fixture
def duplicate(building, enrollment) -> Enrollment:
    record_consent(
        person=building.bob, text="x", version="1", method="signed", actor="desk", at=timezone.now()
    )
    found = begin_enrollment(person=building.bob, actor="desk", at=timezone.now())
    Enrollment.objects.filter(pk=found.pk).update(
        state=Enrollment.State.DUPLICATE_FOUND, duplicate_of=building.alice, duplicate_score=0.8
    )
    return found


def test_the_desk_says_same_person_and_an_administrator_alone_says_different(signed_in, duplicate, building):
    html = signed_in("enroller").get(reverse("enrollment", args=[duplicate.pk])).content.decode()
    assert reverse("enrollment_attach", args=[duplicate.pk]) in html
    assert reverse("enrollment_complete", args=[duplicate.pk]) not in html
    assert "An administrator decides this" in html
    administrator = signed_in("administrator")
    assert "anyway" in administrator.get(reverse("enrollment", args=[duplicate.pk])).content.decode()
    page = reverse("enrollment_complete", args=[duplicate.pk])
    answer = administrator.post(page, {"reason": ""})
    assert answer.status_code == 422
    assert "Without a reason" in answer.content.decode()
    administrator.post(page, {"reason": "Identical twins"})
    duplicate.refresh_from_db()
    assert duplicate.state == Enrollment.State.COMPLETED
    entry = Entry.objects.get(kind="enrollment.completed")
    assert (
        "Identical twins" not in entry.details_json
    )  # a reason may name somebody: sealed, and gone with the person
    assert "reason" in entry.commitments_json


def test_the_same_person_gets_the_captures(signed_in, duplicate, building):
    answer = signed_in("enroller").post(reverse("enrollment_attach", args=[duplicate.pk]))
    assert answer["Location"] == reverse("person", args=[building.alice.pk])
    duplicate.refresh_from_db()
    assert (duplicate.person, duplicate.state) == (building.alice, Enrollment.State.COMPLETED)


def test_retaking_discards_what_was_taken(signed_in, enrollment):
    Enrollment.objects.filter(pk=enrollment.pk).update(captures_accepted=2, captures_received=2)
    answer = signed_in("enroller").post(reverse("enrollment_retake", args=[enrollment.pk]), follow=True)
    assert "0 of 3 captures accepted" in answer.content.decode()
