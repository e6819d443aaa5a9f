"""What is left of a person after erasure, and what leaves by itself."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from django.core.management import call_command
from django.db import connection

import audit.services
from enrollment import gallery, payloads, sealing, services
from enrollment.models import (
    DataKey,
    Enrollment,
    ErasureCertificate,
    PendingCapture,
    Person,
    ProtectedTemplate,
)
from enrollment.services import EnrollmentRefused
from tests.enrollment.support import DAY, NOW, begin, found_at_the_door, payload_of, somebody

NAME, EMAIL, NUMBER = "Zebulon Quillfeather", "zebulon@quillfeather.example", "EXT-4711-ZQ"


@pytest.fixture
def desk(worker, settings):
    """Enrolls for real: commits happen, tasks run at once."""

    def enroll(person: Person, picture: int) -> Enrollment:
        enrollment = begin(person)
        for _ in range(3):
            services.submit_capture(enrollment=enrollment, payload=payload_of(picture), quality=0.9, at=NOW)
        enrollment.refresh_from_db()
        assert enrollment.state == Enrollment.State.COMPLETED
        return enrollment

    return enroll


def every_stored_byte() -> bytes:
    """All tables through the database, and on SQLite all its files as they lie on the disk."""
    found = []
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names(cursor):
            cursor.execute(f'SELECT * FROM "{table}"')
            for row in cursor.fetchall():
                found += [bytes(v) if isinstance(v, (bytes, memoryview)) else str(v).encode() for v in row]
    if connection.vendor == "sqlite":
        name = Path(connection.settings_dict["NAME"])
        found += [file.read_bytes() for file in name.parent.glob(name.name + "*")]
    return b"\n".join(found)


@pytest.mark.django_db(transaction=True)
@pytest.mark.database
def test_erasure_leaves_nothing_of_a_person(desk, settings, monkeypatch):
    secrets: dict[str, bytes] = {}
    protect, embed = gallery.protect, gallery.recognizer().embed_one
    embeddings, vectors, captures = [], [], []

    def watch_embedding(features):
        embeddings.append(embed(features))
        return embeddings[-1]

    def watch_protection(embedding, **how):
        vectors.append(protect(embedding, **how))
        return vectors[-1]

    def watch_payload(data, ttl_s=None, *, store=payloads.store):
        captures.append(data)
        return store(data, ttl_s)

    monkeypatch.setattr(gallery.recognizer(), "embed_one", watch_embedding)
    monkeypatch.setattr("enrollment.tasks.protect", watch_protection)
    monkeypatch.setattr(payloads, "store", watch_payload)
    person = somebody(NAME, email=EMAIL, external_id=NUMBER)
    desk(person, 1)
    fused = [t.vector for t in sealing.open_templates(person.templates.filter(kind="fused"))]

    # Never stored in the clear, before erasure either.
    secrets |= {f"embedding {n}": e.vector.tobytes()[:64] for n, e in enumerate(embeddings)}
    secrets |= {f"template {n}": t.vector.tobytes()[:64] for n, t in enumerate(vectors)}
    secrets |= {f"capture {n}": capture[52:116] for n, capture in enumerate(captures)}
    secrets["fused"] = fused[0].tobytes()[:64]
    assert len(secrets) == 10
    stored = every_stored_byte()
    assert [name for name, secret in secrets.items() if secret in stored] == []
    assert NAME.encode() in stored

    # Stored sealed, and gone afterwards.
    for template in person.templates.all():
        secrets[f"sealed template {template.id}"] = bytes(template.sealed)[:64]
    secrets["wrapped key"] = bytes(DataKey.objects.get().wrapped)
    secrets |= {"name": NAME.encode(), "email": EMAIL.encode(), "number": NUMBER.encode()}
    assert secrets["wrapped key"] in stored

    settings.LINTEL_DISPATCH = "tests.enrollment.support.never"
    again = begin(person)
    services.submit_capture(enrollment=again, payload=payload_of(1), at=NOW)
    waiting = PendingCapture.objects.get().payload_key

    services.erase_person(person_id=person.id, actor="admin", at=NOW)

    stored = every_stored_byte()
    if connection.vendor == "postgresql":  # old row versions lie in the heap until VACUUM; tables are clean
        assert not Person.objects.exists()
    assert [name for name, secret in secrets.items() if secret in stored] == []
    assert payloads.take(waiting) is None
    assert found_at_the_door(1) == []
    assert not any(
        model.objects.exists() for model in (Person, DataKey, Enrollment, ProtectedTemplate, PendingCapture)
    )


@pytest.mark.django_db
def test_the_certificate_is_proven_by_the_audit_log_and_names_nobody(enroll):
    person = somebody(NAME, email=EMAIL)
    enroll(person, 1)
    certificate = services.erase_person(person_id=person.id, actor="admin", at=NOW)
    assert json.loads(json.dumps(certificate)) == certificate
    assert (certificate["templates_deleted"], certificate["data_key_shredded"]) == (4, True)
    assert certificate["proof"]["entry"]["kind"] == "person.erased"
    assert certificate["proof"]["entry"]["subject"] == services.audit_subject(person.id)
    assert NAME not in json.dumps(certificate)
    assert ErasureCertificate.objects.get(pk=person.id).certificate == certificate
    report = audit.services.verify_all()
    assert report.ok, report


@pytest.mark.django_db
def test_audit_entries_stay_and_their_personal_fields_do_not(enroll):
    person = somebody(NAME)
    subject = services.audit_subject(person.id)
    entries = list(audit.services.find_entries(subject=subject))
    assert any(NAME in str(audit.services.open_personal(entry)) for entry in entries)
    services.erase_person(person_id=person.id, actor="admin", at=NOW)
    kept = list(audit.services.find_entries(subject=subject))
    assert [entry.kind for entry in kept] == [*(entry.kind for entry in entries), "person.erased"]
    assert not any(audit.services.open_personal(entry) for entry in kept)
    assert audit.services.verify_all().ok


@pytest.mark.django_db
def test_erasing_again_returns_the_same_certificate_and_changes_nothing(worker):
    person = somebody(NAME)
    first = services.erase_person(person_id=person.id, actor="admin", at=NOW)
    sequence = services.gallery_sequence()
    assert services.erase_person(person_id=person.id, actor="somebody else", at=NOW + DAY) == first
    assert services.gallery_sequence() == sequence


@pytest.mark.django_db
def test_nobody_cannot_be_erased():
    with pytest.raises(EnrollmentRefused) as refusal:
        services.erase_person(
            person_id=ErasureCertificate().person_id or somebody_unknown(), actor="a", at=NOW
        )
    assert refusal.value.code == "person_unknown"


def somebody_unknown():
    return Person().id


@pytest.mark.django_db
def test_an_erasure_that_cannot_be_recorded_does_not_happen(enroll, monkeypatch):
    person = somebody()
    enroll(person, 1)

    def full(**entry):
        raise RuntimeError("disk full")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="disk full"):
        patch.setattr(audit.services, "record", full)
        services.erase_person(person_id=person.id, actor="admin", at=NOW)
    assert person.templates.count() == 4
    assert found_at_the_door(1) == [person]


@pytest.mark.django_db
def test_erasing_somebody_leaves_the_decision_about_their_double_to_a_person(enroll):
    alice, double = somebody("Alice"), somebody("Double")
    enroll(alice, 1)
    enrollment = enroll(double, 1)
    services.erase_person(person_id=alice.id, actor="admin", at=NOW)
    enrollment.refresh_from_db()
    assert (enrollment.state, enrollment.duplicate_of) == ("duplicate_found", None)
    services.complete_enrollment(
        enrollment=enrollment, accept_duplicate=True, reason="twins", actor="desk", at=NOW
    )
    assert found_at_the_door(1) == [double]


@pytest.mark.django_db
def test_payloads_that_cannot_be_discarded_do_not_hold_up_erasure(worker, settings, monkeypatch):
    def gone(key):
        raise payloads.PayloadStoreUnavailable("gone")

    settings.LINTEL_DISPATCH = "tests.enrollment.support.never"
    person = somebody()
    services.submit_capture(enrollment=begin(person), payload=payload_of(1), at=NOW)
    monkeypatch.setattr(payloads, "discard", gone)
    certificate = services.erase_person(person_id=person.id, actor="admin", at=NOW)
    assert not PendingCapture.objects.exists()
    assert any(re.search(r"within \d+ seconds", limit) for limit in certificate["limits"])


@pytest.fixture
def a_house_with_a_past(enroll, monkeypatch):
    """Leaver's time was over 40 days ago, Late's yesterday; Stale began an enrollment and never finished."""
    monkeypatch.setattr("django.utils.timezone.now", lambda: NOW)  # the workers' clock, whatever day it is
    leaver = somebody("Leaver", valid_from=NOW - 90 * DAY, valid_until=NOW + DAY)
    late = somebody("Late", valid_until=NOW + 40 * DAY)
    stale = somebody("Stale")
    enroll(leaver, 1)
    enroll(late, 2)
    services.cancel_enrollment(enrollment=begin(stale), actor="desk", at=NOW)
    begin(stale)
    return leaver, late, stale


@pytest.mark.django_db
def test_retention_erases_leavers_expires_the_late_and_forgets_old_enrollments(a_house_with_a_past):
    leaver, late, stale = a_house_with_a_past
    when = NOW + 41 * DAY
    terms = {"actor": "retention", "keep_people_days": 30, "keep_enrollments_days": 35}

    foreseen = services.apply_retention(at=when, **terms, dry_run=True)
    assert Person.objects.count() == 3
    assert Enrollment.objects.filter(state="open").count() == 1

    report = services.apply_retention(at=when, **terms)

    assert foreseen.people_erased == report.people_erased == [leaver.id]
    assert (report.people_expired, report.enrollments_expired, report.enrollments_deleted) == (1, 1, 1)
    assert set(Person.objects.all()) == {late, stale}
    assert found_at_the_door(1) == found_at_the_door(2) == []
    assert late.templates.count() == 4  # sealed, out of the gallery, until their own thirty days are over
    assert [enrollment.state for enrollment in stale.enrollments.all()] == ["expired"]
    assert late.enrollments.count() == 1


@pytest.mark.django_db
def test_the_retention_command_says_what_it_would_do(a_house_with_a_past, capsys, monkeypatch):
    monkeypatch.setattr("django.utils.timezone.now", lambda: NOW + 41 * DAY)
    call_command("apply_retention", "--dry-run")
    said = capsys.readouterr().out
    assert f"would be erased: {a_house_with_a_past[0].id}" in said
    assert Person.objects.count() == 3
    call_command("apply_retention")
    assert "1 people erased" in capsys.readouterr().out
    assert Person.objects.count() == 2
