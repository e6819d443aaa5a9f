"""From consent to the gallery, and every way in which it must not happen."""

from __future__ import annotations

import uuid
from datetime import timedelta

import numpy as np
import pytest
from django.db import IntegrityError, transaction

from enrollment import gallery, payloads, sealing, services, tasks
from enrollment.models import (
    Consent,
    DataKey,
    Enrollment,
    GalleryChange,
    PendingCapture,
    Person,
    ProtectedTemplate,
)
from enrollment.services import EnrollmentRefused
from enrollment.signals import enrollment_progress
from tests.enrollment.support import (
    CONSENT,
    DAY,
    NOW,
    begin,
    found_at_the_door,
    fresh,
    payload_of,
    probe,
    somebody,
)

pytestmark = pytest.mark.django_db

ALICES_FACE, BOBS_FACE, CARLAS_FACE = 1, 2, 3


def refused(code: str):
    return pytest.raises(EnrollmentRefused, check=lambda refusal: refusal.code == code)


def test_alice_is_found_at_the_door_after_three_captures(enroll):
    alice = somebody("Alice")
    enrollment = enroll(alice, ALICES_FACE)
    assert enrollment.state == Enrollment.State.COMPLETED
    assert found_at_the_door(ALICES_FACE) == [alice]
    assert found_at_the_door(BOBS_FACE) == []


def test_each_capture_and_their_mean_become_sealed_templates(enroll):
    enrollment = enroll(somebody(), ALICES_FACE)
    templates = enrollment.templates.all()
    assert [template.kind for template in templates] == ["capture", "capture", "capture", "fused"]
    assert all(template.active and template.model == gallery.model_id() for template in templates)
    opened = list(sealing.open_templates(templates))
    mean = np.mean([template.vector for template in opened[:3]], axis=0)
    np.testing.assert_allclose(opened[3].vector, mean / np.linalg.norm(mean), atol=1e-6)
    assert [template.quality for template in templates] == [0.9, 0.9, 0.9, None]


def test_the_mean_of_captures_is_closer_to_a_new_capture_than_a_single_one(enroll):
    """The reason why the mean is stored: the noise of three captures shrinks in it."""
    enrollment = enroll(somebody(), ALICES_FACE)
    *captures, fused = sealing.open_templates(enrollment.templates.all())
    vectors = [probe(ALICES_FACE) for _ in range(5)]
    key_id, key = sealing.settings.LINTEL_GALLERY_KEYS[0]
    turned = [gallery.protect(vector, key=key, key_id=key_id).vector for vector in vectors]
    single = np.mean([template.vector @ vector for template in captures for vector in turned])
    assert np.mean([fused.vector @ vector for vector in turned]) > single


def test_nothing_is_in_the_gallery_before_the_last_capture(capture):
    enrollment = capture(begin(somebody()), ALICES_FACE, ALICES_FACE)
    assert (enrollment.captures_accepted, enrollment.state) == (2, Enrollment.State.OPEN)
    assert not ProtectedTemplate.objects.filter(active=True).exists()
    assert services.gallery_sequence() == 0
    assert found_at_the_door(ALICES_FACE) == []


def test_a_person_without_consent_is_refused_and_the_refusal_is_on_record(recorded):
    with refused("consent_missing"):
        begin(somebody(consents=False))
    assert recorded[-1]["kind"] == "enrollment.refused"
    assert recorded[-1]["details"]["reason"] == "consent_missing"
    assert not Enrollment.objects.exists()


def test_a_person_whose_consent_was_withdrawn_is_refused(worker):
    alice = somebody()
    services.withdraw_consent(person=alice, actor="desk", at=NOW)
    with refused("consent_missing"):
        begin(alice)


def test_an_expired_person_and_an_inactive_one_are_refused():
    with refused("person_expired"):
        begin(somebody("Eve", valid_from=NOW - 2 * DAY, valid_until=NOW))
    with refused("person_inactive"):
        begin(somebody("Ivan", is_active=False))


def test_one_person_is_enrolled_once_at_a_time_and_a_terminal_has_one_job():
    desk, alice = uuid.uuid4(), somebody("Alice")
    begin(alice, terminal_id=desk)
    with refused("enrollment_in_progress"):
        begin(alice)
    with refused("terminal_busy"):
        begin(somebody("Bob"), terminal_id=desk)
    assert services.open_enrollment_at(terminal_id=desk, at=NOW).person == alice
    assert services.open_enrollment_at(terminal_id=uuid.uuid4(), at=NOW) is None


def test_an_abandoned_enrollment_makes_way_after_its_time(capture):
    desk, alice = uuid.uuid4(), somebody("Alice")
    abandoned = capture(begin(alice, terminal_id=desk), ALICES_FACE)
    later = NOW + services.ENROLLMENT_LIFETIME
    assert services.open_enrollment_at(terminal_id=desk, at=later) is None
    services.begin_enrollment(person=somebody("Bob"), terminal_id=desk, actor="desk", at=later)
    assert fresh(abandoned).state == Enrollment.State.EXPIRED
    assert not abandoned.templates.exists()


def test_the_database_itself_keeps_the_rules():
    alice = somebody("Alice")
    begin(alice)
    with pytest.raises(IntegrityError), transaction.atomic():
        Enrollment.objects.create(person=alice, started_by="x", started_at=NOW, expires_at=NOW)
    with pytest.raises(IntegrityError), transaction.atomic():
        Consent.objects.create(person=alice, **CONSENT, given_at=NOW, recorded_by="x")
    with pytest.raises(IntegrityError), transaction.atomic():
        Person.objects.filter(pk=alice.pk).update(valid_until=NOW - DAY)


def test_a_capture_of_somebody_else_is_not_taken_for_the_same_person(capture):
    enrollment = capture(begin(somebody()), ALICES_FACE, BOBS_FACE)
    assert enrollment.last_reason == "captures_disagree"
    assert "Only one person" in services.describe_progress(enrollment)["message"]
    assert enrollment.captures_accepted == 1
    assert capture(enrollment, ALICES_FACE, ALICES_FACE).state == Enrollment.State.COMPLETED


def test_after_three_disagreeing_captures_the_first_one_is_suspected(capture):
    enrollment = capture(begin(somebody()), BOBS_FACE, ALICES_FACE, ALICES_FACE, ALICES_FACE)
    assert (enrollment.last_reason, enrollment.captures_accepted) == ("captures_restarted", 0)
    assert not enrollment.templates.exists()
    assert capture(enrollment, *[ALICES_FACE] * 3).state == Enrollment.State.COMPLETED


def test_a_face_that_is_enrolled_under_another_name_waits_for_a_decision(enroll):
    alice, second_name = somebody("Alice"), somebody("Alicia")
    enroll(alice, ALICES_FACE)
    enrollment = enroll(second_name, ALICES_FACE)
    assert enrollment.state == Enrollment.State.DUPLICATE_FOUND
    progress = services.describe_progress(enrollment)
    assert progress["duplicate_of"]["full_name"] == "Alice"
    assert progress["duplicate_of"]["score"] > 0.6
    assert found_at_the_door(ALICES_FACE) == [alice]
    with refused("duplicate_found"):
        services.complete_enrollment(enrollment=enrollment, actor="desk", at=NOW)

    with refused("reason_missing"):
        services.complete_enrollment(
            enrollment=enrollment, accept_duplicate=True, reason="  ", actor="desk", at=NOW
        )
    services.complete_enrollment(
        enrollment=enrollment, accept_duplicate=True, reason="identical twins", actor="desk", at=NOW
    )

    assert set(found_at_the_door(ALICES_FACE)) == {alice, second_name}


def test_two_who_were_told_apart_are_not_asked_about_again(enroll, capture):
    twins = somebody("Alice"), somebody("Alicia")
    enroll(twins[0], ALICES_FACE)
    services.complete_enrollment(
        enrollment=enroll(twins[1], ALICES_FACE), accept_duplicate=True, reason="twins", actor="desk", at=NOW
    )
    for twin in twins:
        assert enroll(twin, ALICES_FACE).state == Enrollment.State.COMPLETED
        assert capture(begin(twin, wanted=1, add=True), ALICES_FACE).state == Enrollment.State.COMPLETED
    assert enroll(somebody("Mallory"), ALICES_FACE).state == Enrollment.State.DUPLICATE_FOUND


def test_a_duplicate_that_is_rejected_leaves_nothing(enroll):
    enroll(somebody("Alice"), ALICES_FACE)
    enrollment = enroll(somebody("Mallory"), ALICES_FACE)
    services.cancel_enrollment(enrollment=enrollment, actor="desk", at=NOW)
    assert not enrollment.templates.exists()
    assert fresh(enrollment).state == Enrollment.State.CANCELLED


def test_two_enrollments_of_one_face_that_end_together_are_not_both_completed(capture, monkeypatch):
    """The second is completed between the first one's search and its conclusion."""
    first = capture(begin(somebody("Alice")), ALICES_FACE, ALICES_FACE)
    second = capture(begin(somebody("Alicia")), ALICES_FACE, ALICES_FACE)
    search, raced = tasks._somebody_else_like, []

    def slow_search(*args, **kwargs):
        found = search(*args, **kwargs)
        if not raced:
            raced.append(True)
            capture(second, ALICES_FACE)
        return found

    monkeypatch.setattr(tasks, "_somebody_else_like", slow_search)
    capture(first, ALICES_FACE)
    states = {fresh(first).state, fresh(second).state}
    assert states == {Enrollment.State.COMPLETED, Enrollment.State.DUPLICATE_FOUND}


def test_enrolling_again_replaces_the_old_templates(enroll):
    alice = somebody()
    old = enroll(alice, ALICES_FACE)
    old_ids = set(old.templates.values_list("id", flat=True))
    found_at_the_door(ALICES_FACE)
    enroll(alice, CARLAS_FACE)
    assert found_at_the_door(CARLAS_FACE) == [alice]
    assert found_at_the_door(ALICES_FACE) == []
    assert not ProtectedTemplate.objects.filter(id__in=old_ids).exists()


def test_completing_twice_changes_nothing(enroll):
    enrollment = enroll(somebody(), ALICES_FACE)
    sequence = services.gallery_sequence()
    services.complete_enrollment(enrollment=enrollment, actor="desk", at=NOW)
    assert services.gallery_sequence() == sequence


def test_completing_before_the_captures_are_checked_is_refused(capture):
    enrollment = capture(begin(somebody()), ALICES_FACE)
    with refused("captures_missing"):
        services.complete_enrollment(enrollment=enrollment, accept_duplicate=True, actor="desk", at=NOW)


def test_a_cancelled_enrollment_discards_what_was_on_its_way(worker, settings):
    settings.LINTEL_DISPATCH = "tests.enrollment.support.never"
    enrollment = begin(somebody())
    services.submit_capture(enrollment=enrollment, payload=payload_of(ALICES_FACE), at=NOW)
    key = PendingCapture.objects.get().payload_key
    services.cancel_enrollment(enrollment=enrollment, actor="desk", at=NOW)
    assert payloads.take(key) is None
    assert not PendingCapture.objects.exists()
    with refused("enrollment_closed"):
        services.submit_capture(enrollment=enrollment, payload=b"", at=NOW)


def test_no_more_captures_than_wanted_are_on_their_way_until_lost_ones_have_timed_out(worker, settings):
    settings.LINTEL_DISPATCH = "tests.enrollment.support.never"
    enrollment = begin(somebody(), wanted=1)
    services.submit_capture(enrollment=enrollment, payload=payload_of(ALICES_FACE), at=NOW)
    with refused("captures_complete"):
        services.submit_capture(enrollment=enrollment, payload=payload_of(ALICES_FACE), at=NOW)
    later = NOW + timedelta(seconds=settings.LINTEL_PAYLOAD_TTL_S)
    services.submit_capture(enrollment=enrollment, payload=payload_of(ALICES_FACE), at=later)
    assert PendingCapture.objects.count() == 1


def test_a_late_capture_ends_the_enrollment(worker):
    enrollment = begin(somebody())
    with refused("enrollment_expired"):
        services.submit_capture(enrollment=enrollment, payload=b"", at=NOW + services.ENROLLMENT_LIFETIME)
    assert fresh(enrollment).state == Enrollment.State.EXPIRED


def test_captures_without_end_are_refused(worker):
    enrollment = begin(somebody())
    Enrollment.objects.update(captures_received=services.MAX_CAPTURES_RECEIVED)
    with refused("too_many_captures"):
        services.submit_capture(enrollment=enrollment, payload=b"", at=NOW)
    assert fresh(enrollment).state == Enrollment.State.REFUSED


def test_a_payload_that_went_missing_is_said_to_the_person(worker):
    enrollment = begin(somebody())
    PendingCapture.objects.create(payload_key="gone", enrollment=enrollment, received_at=NOW)
    tasks.embed_capture(str(enrollment.pk), "gone")
    assert fresh(enrollment).last_reason == "payload_missing"
    assert not PendingCapture.objects.exists()


def test_bytes_that_are_no_capture_are_refused_by_the_worker(worker, django_capture_on_commit_callbacks):
    enrollment = begin(somebody())
    with django_capture_on_commit_callbacks(execute=True):
        services.submit_capture(enrollment=enrollment, payload=b"\xff\xd8\xff\xe0 JFIF", at=NOW)
    assert fresh(enrollment).last_reason == "payload_refused"


def test_a_recogniser_that_fails_costs_one_capture_and_says_so(capture, monkeypatch):
    def broken(features):
        raise RuntimeError("out of memory")

    enrollment = begin(somebody())
    payload_of(ALICES_FACE)
    with monkeypatch.context() as patch:
        patch.setattr(gallery.recognizer(), "embed_one", broken)
        assert capture(enrollment, ALICES_FACE).last_reason == "recognizer_fault"
    assert capture(enrollment, *[ALICES_FACE] * 3).state == Enrollment.State.COMPLETED


def test_a_task_delivered_twice_counts_once(worker, settings, django_capture_on_commit_callbacks):
    settings.LINTEL_DISPATCH = "tests.enrollment.support.never"
    enrollment = begin(somebody())
    services.submit_capture(enrollment=enrollment, payload=payload_of(ALICES_FACE), at=NOW)
    key = PendingCapture.objects.get().payload_key
    for _ in range(2):
        tasks.embed_capture(str(enrollment.pk), key)
    assert fresh(enrollment).captures_accepted == 1
    assert fresh(enrollment).last_reason == "capture_accepted"


def test_a_worker_killed_before_the_conclusion_is_made_up_for_by_the_redelivered_task(capture, monkeypatch):
    class Killed(BaseException):
        pass

    def killed(enrollment_id):
        raise Killed

    enrollment = capture(begin(somebody()), ALICES_FACE, ALICES_FACE)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(tasks, "conclude", killed)
        capture(enrollment, ALICES_FACE)
    assert fresh(enrollment).state == Enrollment.State.OPEN
    tasks.embed_capture(str(enrollment.pk), "taken already")
    assert fresh(enrollment).state == Enrollment.State.COMPLETED


def test_without_the_payload_store_nothing_is_half_written(worker, monkeypatch):
    def gone(data, ttl_s=None):
        raise payloads.PayloadStoreUnavailable("gone")

    enrollment = begin(somebody())
    monkeypatch.setattr(payloads, "store", gone)
    with pytest.raises(payloads.PayloadStoreUnavailable):
        services.submit_capture(enrollment=enrollment, payload=b"x", at=NOW)
    assert fresh(enrollment).captures_received == 0
    assert not PendingCapture.objects.exists()


def test_withdrawn_consent_takes_the_face_out_at_once_and_destroys_its_key(enroll):
    alice = somebody()
    enroll(alice, ALICES_FACE)
    assert found_at_the_door(ALICES_FACE) == [alice]
    services.withdraw_consent(person=alice, actor="desk", at=NOW)
    assert found_at_the_door(ALICES_FACE) == []
    assert not alice.templates.exists()
    assert not DataKey.objects.exists()
    with refused("consent_missing"):
        services.withdraw_consent(person=alice, actor="desk", at=NOW)


def test_consent_withdrawn_during_an_enrollment_ends_it(capture):
    alice = somebody()
    enrollment = capture(begin(alice), ALICES_FACE)
    services.withdraw_consent(person=alice, actor="desk", at=NOW)
    assert (fresh(enrollment).state, fresh(enrollment).last_reason) == ("cancelled", "consent_withdrawn")


def test_an_expired_person_leaves_the_gallery_and_comes_back_when_extended(enroll):
    alice = somebody()
    enroll(alice, ALICES_FACE)  # by a worker, on the clock on the wall
    Person.objects.filter(pk=alice.pk).update(valid_until=NOW + DAY)
    assert services.expire_people(at=NOW) == 0
    assert services.expire_people(at=NOW + DAY) == 1
    assert found_at_the_door(ALICES_FACE) == []
    services.update_person(person=alice, changes={"valid_until": NOW + 3 * DAY}, actor="desk", at=NOW + DAY)
    assert found_at_the_door(ALICES_FACE) == [alice]


def test_setting_the_end_of_validity_to_the_past_takes_effect_at_once(enroll):
    alice = somebody(valid_from=NOW - 2 * DAY)
    enroll(alice, ALICES_FACE)
    services.update_person(person=alice, changes={"valid_until": NOW - DAY}, actor="desk", at=NOW)
    assert found_at_the_door(ALICES_FACE) == []


def test_an_inactive_person_stays_recognisable_so_that_the_door_can_say_why(enroll):
    alice = somebody()
    enroll(alice, ALICES_FACE)
    services.update_person(person=alice, changes={"is_active": False}, actor="desk", at=NOW)
    assert found_at_the_door(ALICES_FACE) == [alice]


def test_gallery_changes_and_audit_entry_share_the_transaction(capture, monkeypatch):
    """When the entry cannot be written the templates are not in the gallery either."""
    enrollment = capture(begin(somebody()), ALICES_FACE, ALICES_FACE)

    def full(**entry):
        raise RuntimeError("disk full")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="disk full"):
        patch.setattr(services.audit.services, "record", full)
        capture(enrollment, ALICES_FACE)
    assert not GalleryChange.objects.exists()
    assert not ProtectedTemplate.objects.filter(active=True).exists()


def test_the_desk_follows_the_progress(capture):
    seen = []

    def listen(sender, progress, **_):
        seen.append((progress["state"], progress["captures_accepted"], progress["reason"]))

    enrollment = begin(somebody(), wanted=2)
    enrollment_progress.connect(listen)
    try:
        capture(enrollment, ALICES_FACE, ALICES_FACE)
    finally:
        enrollment_progress.disconnect(listen)
    assert seen == [("open", 1, "capture_accepted"), ("open", 2, "checking"), ("completed", 2, "completed")]


def test_embeddings_and_features_appear_in_no_log(enroll, caplog):
    with caplog.at_level("DEBUG"):
        enroll(somebody(), ALICES_FACE)
    assert "array(" not in caplog.text
    assert "LNTL" not in caplog.text


def test_captures_are_retaken_from_the_first_and_what_was_received_stays_counted(capture):
    enrollment = capture(begin(somebody()), ALICES_FACE, ALICES_FACE)
    services.retake_captures(enrollment=enrollment, actor="desk", at=NOW)
    again = fresh(enrollment)
    assert (again.captures_accepted, again.captures_received, again.last_reason) == (0, 2, "retaken")
    assert not again.templates.exists()
    assert capture(enrollment, *[ALICES_FACE] * 3).state == Enrollment.State.COMPLETED


def test_captures_cannot_be_retaken_without_end_nor_after_the_end(capture, enroll):
    enrollment = capture(begin(somebody()), ALICES_FACE)
    Enrollment.objects.filter(pk=enrollment.pk).update(captures_received=services.MAX_CAPTURES_RECEIVED - 2)
    with refused("too_many_captures"):
        services.retake_captures(enrollment=enrollment, actor="desk", at=NOW)
    with refused("enrollment_closed"):
        services.retake_captures(enrollment=enroll(somebody("Bob"), BOBS_FACE), actor="desk", at=NOW)


def test_added_captures_join_the_templates_and_must_look_like_them(capture, enroll):
    alice = somebody()
    old = set(enroll(alice, ALICES_FACE).templates.values_list("id", flat=True))
    adding = begin(alice, wanted=2, add=True)
    assert capture(adding, BOBS_FACE).last_reason == "captures_disagree"
    done = capture(adding, ALICES_FACE, ALICES_FACE)
    assert done.state == Enrollment.State.COMPLETED
    assert services.describe_progress(done)["duplicate_of"] is None
    active = set(alice.templates.filter(active=True).values_list("id", flat=True))
    assert old < active
    assert len(active) == len(old) + 3  # two captures and their mean
    assert found_at_the_door(ALICES_FACE) == [alice]


def test_nothing_can_be_added_to_nothing_nor_beyond_the_most_templates(enroll, monkeypatch):
    alice = somebody()
    with refused("nothing_to_add_to"):
        begin(alice, add=True)
    enroll(alice, ALICES_FACE)
    monkeypatch.setattr(services, "MAX_TEMPLATES", 7)
    with refused("templates_full"):
        begin(alice, wanted=4, add=True)


def test_a_duplicate_that_is_the_same_person_gives_them_its_captures(enroll, recorded):
    alice, second_name = somebody("Alice"), somebody("Alicia")
    old = enroll(alice, ALICES_FACE).templates.count()
    enrollment = enroll(second_name, ALICES_FACE)
    services.attach_to_duplicate(enrollment=enrollment, actor="desk", at=NOW)
    done = fresh(enrollment)
    assert (done.state, done.person) == (Enrollment.State.COMPLETED, alice)
    assert alice.templates.filter(active=True).count() == 2 * old
    assert found_at_the_door(ALICES_FACE) == [alice]
    assert not second_name.is_enrolled()
    assert not DataKey.objects.filter(person=second_name).exists()
    assert [entry["kind"] for entry in recorded][-2:] == ["enrollment.attached", "enrollment.completed"]
    # The second name can be erased without touching what was added, and Alice with all of it.
    services.erase_person(person_id=second_name.pk, actor="desk", at=NOW)
    assert found_at_the_door(ALICES_FACE) == [alice]
    services.erase_person(person_id=alice.pk, actor="desk", at=NOW)
    assert found_at_the_door(ALICES_FACE) == []


def test_captures_are_not_given_to_somebody_without_consent_nor_to_an_erased_person(enroll):
    alice = somebody("Alice")
    enroll(alice, ALICES_FACE)
    enrollment = enroll(somebody("Alicia"), ALICES_FACE)
    services.withdraw_consent(person=alice, actor="desk", at=NOW)
    with refused("consent_missing"):
        services.attach_to_duplicate(enrollment=enrollment, actor="desk", at=NOW)
    services.erase_person(person_id=alice.pk, actor="desk", at=NOW)
    with refused("duplicate_missing"):
        services.attach_to_duplicate(enrollment=fresh(enrollment), actor="desk", at=NOW)
    assert fresh(enrollment).state == Enrollment.State.DUPLICATE_FOUND


def test_only_a_duplicate_that_waits_can_be_given_away(capture):
    enrollment = capture(begin(somebody()), ALICES_FACE)
    with refused("enrollment_closed"):
        services.attach_to_duplicate(enrollment=enrollment, actor="desk", at=NOW)
