"""The views as accesscontrol routes to them, over real requests. Who may call is tested there."""

from __future__ import annotations

import json
import uuid
from types import SimpleNamespace

import pytest
from django.utils import timezone
from rest_framework.authentication import BaseAuthentication
from rest_framework.permissions import AllowAny
from rest_framework.test import APIRequestFactory

from enrollment import api, payloads, services
from enrollment.models import Enrollment, Person
from recognition.payload import CONTENT_TYPE, PayloadError
from tests.enrollment.support import CONSENT, payload_of, somebody

pytestmark = pytest.mark.django_db
DESK = uuid.uuid4()


class Known(BaseAuthentication):
    """Whoever calls is the terminal DESK and the integrator `hr` at once: proof is tested elsewhere."""

    def authenticate(self, request):
        return "token:hr", SimpleNamespace(id=DESK)


def call(view, method="get", body=None, *, content_type="application/json", headers=None, query="", **path):
    """Status and document of one request to one view."""
    data = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
    extra = {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in (headers or {}).items()}
    request = APIRequestFactory().generic(
        method.upper(), "/" + query, b"" if method == "get" else data, content_type=content_type, **extra
    )
    options = {"authentication_classes": [Known], "permission_classes": [AllowAny]}
    if view is api.TerminalCapturesView:
        options["check_capture"] = check
    response = view.as_view(**options)(request, **path)
    response.render()
    return response.status_code, json.loads(response.content or b"null")


def check(payload: bytes) -> None:
    if not payload.startswith(b"LNTL"):
        raise PayloadError("not_a_capture", "pictures of faces are never accepted")


@pytest.mark.parametrize(
    "view",
    [
        api.PeopleView,
        api.PersonView,
        api.PersonConsentsView,
        api.PersonEnrollmentsView,
        api.EnrollmentDetailView,
        api.TerminalEnrollmentView,
        api.TerminalCapturesView,
    ],
)
def test_a_view_that_was_given_nobody_answers_nobody(view):
    response = view.as_view()(APIRequestFactory().get("/"), person_id=uuid.uuid4())
    assert response.status_code in (401, 403)


def test_a_person_is_registered_found_changed_and_erased():
    status, alice = call(api.PeopleView, "post", {"full_name": "Alice Example", "external_id": "E-7"})
    assert (status, alice["has_consent"], alice["is_enrolled"]) == (201, False, False)
    status, page = call(api.PeopleView, query="?q=exam&limit=1")
    assert (status, page["count"], page["results"][0]["id"]) == (200, 1, alice["id"])
    assert call(api.PeopleView, query="?external_id=E-8")[1]["count"] == 0
    status, changed = call(api.PersonView, "patch", {"email": "a@example.org"}, person_id=alice["id"])
    assert (status, changed["email"], changed["full_name"]) == (200, "a@example.org", "Alice Example")
    status, certificate = call(api.PersonEraseView, "post", person_id=uuid.UUID(alice["id"]))
    assert (status, certificate["erased_by"]) == (200, "token:hr")
    assert call(api.PersonEraseView, "post", person_id=uuid.UUID(alice["id"])) == (200, certificate)
    assert call(api.PersonView, person_id=alice["id"])[0] == 404


@pytest.mark.parametrize(
    ("body", "expected"),
    [({}, 400), ({"full_name": ""}, 400), ({"full_name": "A", "kind": "robot"}, 400), ([], 400), (b"{", 400)],
)
def test_a_malformed_person_is_refused(body, expected):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    assert call(api.PeopleView, "post", data)[0] == expected


def test_refusals_carry_the_code_of_the_service():
    somebody("Alice", external_id="7")
    status, problem = call(api.PeopleView, "post", {"full_name": "Bob", "external_id": "7"})
    assert (status, problem["code"]) == (409, "external_id_taken")
    status, problem = call(
        api.PeopleView,
        "post",
        {"full_name": "Bob", "valid_from": "2026-01-02T00:00:00Z", "valid_until": "2026-01-01T00:00:00Z"},
    )
    assert (status, problem["code"]) == (422, "person_invalid")


@pytest.mark.parametrize("query", ["?q=%00", "?external_id=a%00b", "?q=" + "x" * 201])
def test_a_search_no_database_could_run_is_refused(query):
    assert call(api.PeopleView, query=query)[0] == 400


def test_a_page_beyond_the_end_is_empty():
    assert call(api.PeopleView, query="?offset=99999999999999999999")[1]["results"] == []


def test_consent_is_recorded_listed_and_withdrawn():
    alice = somebody(consents=False)
    status, problem = call(api.PersonEnrollmentsView, "post", person_id=alice.id)
    assert (status, problem["code"]) == (409, "consent_missing")
    status, consent = call(api.PersonConsentsView, "post", CONSENT, person_id=alice.id)
    assert (status, consent["recorded_by"], consent["withdrawn_at"]) == (201, "token:hr", None)
    assert len(call(api.PersonConsentsView, person_id=alice.id)[1]) == 1
    assert call(api.PersonConsentsView, "delete", person_id=alice.id)[0] == 204
    status, problem = call(api.PersonConsentsView, "delete", person_id=alice.id)
    assert (status, problem["code"]) == (409, "consent_missing")


@pytest.fixture
def at_the_desk(worker):
    """Alice's enrollment waits at the terminal that `call` speaks for; the clock is the real one."""
    alice = services.register_person(full_name="Alice", actor="desk", at=timezone.now())
    services.record_consent(person=alice, **CONSENT, actor="desk", at=timezone.now())
    status, progress = call(api.PersonEnrollmentsView, "post", {"terminal_id": str(DESK)}, person_id=alice.id)
    assert status == 201
    return Enrollment.objects.get(pk=progress["enrollment_id"])


def submit(enrollment, body, **more):
    return call(
        api.TerminalCapturesView, "post", body, content_type=CONTENT_TYPE, enrollment_id=enrollment.pk, **more
    )


def test_a_terminal_takes_a_person_through_enrollment(at_the_desk, django_capture_on_commit_callbacks):
    status, job = call(api.TerminalEnrollmentView)
    assert (status, job["enrollment_id"], job["person_name"]) == (200, str(at_the_desk.pk), "Alice")
    assert "duplicate_of" not in job
    for _ in range(3):
        with django_capture_on_commit_callbacks(execute=True):
            status, job = submit(at_the_desk, payload_of(1), headers={"Lintel-Capture-Quality": "score=0.87"})
        assert (status, job["captures_pending"]) == (202, 1)
    status, job = call(api.TerminalCapturesView, enrollment_id=at_the_desk.pk)
    assert (status, job["state"], job["captures_accepted"]) == (200, "completed", 3)
    assert call(api.TerminalEnrollmentView) == (204, None)
    assert [t.quality for t in at_the_desk.templates.all()] == [0.87, 0.87, 0.87, None]
    assert call(api.EnrollmentDetailView, enrollment_id=at_the_desk.pk)[1]["state"] == "completed"
    assert call(api.EnrollmentCompleteView, "post", enrollment_id=at_the_desk.pk)[0] == 200
    status, problem = call(api.EnrollmentCancelView, "post", enrollment_id=at_the_desk.pk)
    assert (status, problem["code"]) == (409, "enrollment_closed")


def test_a_picture_is_refused_at_once(at_the_desk):
    status, problem = submit(at_the_desk, b"\xff\xd8\xff\xe0\x00\x10JFIF")
    assert (status, problem["code"]) == (422, "not_a_capture")
    assert Enrollment.objects.get().captures_received == 0
    status, _ = call(
        api.TerminalCapturesView, "post", b"\xff", content_type="image/jpeg", enrollment_id=at_the_desk.pk
    )
    assert status == 415


def test_another_terminals_enrollment_does_not_exist(at_the_desk):
    Enrollment.objects.update(terminal_id=uuid.uuid4())
    assert submit(at_the_desk, payload_of(1))[0] == 404
    assert call(api.TerminalEnrollmentView) == (204, None)


@pytest.mark.parametrize("header", ["0.87", "score=2", "score=nan", "score=-1", "quality=1"])
def test_a_quality_that_is_none_is_refused(at_the_desk, header):
    assert submit(at_the_desk, payload_of(1), headers={"Lintel-Capture-Quality": header})[0] == 400


def test_without_the_payload_store_the_terminal_is_told_to_try_again(at_the_desk, monkeypatch):
    def gone(data, ttl_s=None):
        raise payloads.PayloadStoreUnavailable("gone")

    payload = payload_of(1)
    monkeypatch.setattr(payloads, "store", gone)
    status, problem = submit(at_the_desk, payload)
    assert (status, problem["code"]) == (503, "payload_store_unavailable")
    assert Enrollment.objects.get().captures_received == 0


def test_a_decision_about_a_duplicate_is_made_over_the_api(enroll):
    enroll(somebody("Alice"), 1)
    enrollment = enroll(somebody("Alicia"), 1)
    status, progress = call(api.EnrollmentDetailView, enrollment_id=enrollment.pk)
    assert (status, progress["duplicate_of"]["full_name"]) == (200, "Alice")
    Enrollment.objects.update(expires_at=timezone.now() + services.DECISION_LIFETIME)
    status, problem = call(api.EnrollmentCompleteView, "post", enrollment_id=enrollment.pk)
    assert (status, problem["code"]) == (409, "duplicate_found")
    decision = {"accept_duplicate": True}
    status, problem = call(api.EnrollmentCompleteView, "post", decision, enrollment_id=enrollment.pk)
    assert (status, problem["code"]) == (409, "reason_missing")
    decision["reason"] = "twins"
    status, progress = call(api.EnrollmentCompleteView, "post", decision, enrollment_id=enrollment.pk)
    assert (status, progress["state"]) == (200, "completed")
    assert len(call(api.PersonEnrollmentsView, person_id=enrollment.person_id)[1]) == 1


def test_people_are_listed_in_a_fixed_number_of_queries(django_assert_num_queries):
    for n in range(5):
        somebody(f"person {n}")
    with django_assert_num_queries(2):
        call(api.PeopleView)
    assert Person.objects.count() == 5
