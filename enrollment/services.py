"""What happens to people and their templates. Every service is one transaction with its audit entry inside.

Locks are taken in one order: person, enrollment, gallery. The gallery lock makes sequence numbers visible in
their order (see `_change_gallery`). Refusals raise EnrollmentRefused with a stable code and change nothing,
except that a refused beginning is itself an audit entry.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import IntegrityError, connection, transaction
from django.db.models import Max, Q, QuerySet
from django.utils.module_loading import import_string
from numpy.typing import NDArray

import audit.services
from enrollment import crypto, payloads, sealing
from enrollment.models import (
    Consent,
    DataKey,
    Enrollment,
    ErasureCertificate,
    GalleryChange,
    NumberKey,
    PendingCapture,
    Person,
    ProtectedTemplate,
)
from enrollment.signals import enrollment_progress

EMBED_TASK = "enrollment.tasks.embed_capture"
DEFAULT_DISPATCH = "accesscontrol.celery.dispatch"

ENROLLMENT_LIFETIME = timedelta(minutes=15)
DECISION_LIFETIME = timedelta(days=7)  # how long a duplicate waits for a person to decide
MAX_CAPTURES_RECEIVED = 30  # per enrollment: repeated captures of one face average the noise away
DISAGREEMENTS_BEFORE_RESTART = 3
MAX_REASON = 500  # characters
MAX_TEMPLATES = 40  # of one person: more slow every search and tell no more
GALLERY_LOCK = 0x4C494E54454C  # an arbitrary number for pg_advisory_xact_lock: "LINTEL"
SQLITE_LEFTOVERS = "PRAGMA wal_checkpoint(TRUNCATE)"

MESSAGES: Mapping[str, str] = {
    "": "Look at the camera.",
    "capture_accepted": "Good. Hold still for the next one.",
    "captures_disagree": "This capture does not look like the ones before. Only one person may stand before "
    "the camera; look straight at it and try again.",
    "retaken": "The captures so far are discarded. Look at the camera; we begin again.",
    "captures_restarted": "The captures did not fit together and were discarded. We begin again.",
    "payload_missing": "This capture was not processed in time. Please try again.",
    "payload_refused": "The terminal sent something that is not a valid capture.",
    "recognizer_fault": "The recogniser could not read this capture. Please try again.",
    "checking": "All captures are taken. Checking that this face is not enrolled already.",
    "duplicate_found": "This face is already enrolled under another name. Somebody has to decide.",
    "completed": "Enrolled.",
    "cancelled": "The enrollment was cancelled.",
    "attached": "The captures were added to the person who was enrolled already.",
    "expired": "The enrollment took too long and was discarded. Please begin again.",
    "consent_withdrawn": "The consent was withdrawn; the captures were discarded.",
    "too_many_captures": "Too many captures without a result. Improve the light and begin again.",
    "person_expired": "This person is no longer valid.",
}


class EnrollmentRefused(Exception):
    """The request makes no sense now. `code` is stable, `message` tells a person what to do."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def audit_subject(person_id: uuid.UUID) -> str:
    """The subject of every audit entry about a person; `audit.services.forget` of it is part of erasure."""
    return f"person:{person_id}"


# People


PERSON_FIELDS = ("full_name", "external_id", "email", "kind", "is_active", "valid_from", "valid_until")


def register_person(
    *,
    full_name: str,
    actor: str,
    at: datetime,
    kind: str = Person.Kind.EMPLOYEE,
    external_id: str | None = None,
    email: str = "",
    is_active: bool = True,
    valid_from: datetime | None = None,
    valid_until: datetime | None = None,
) -> Person:
    """Refusals: person_invalid, external_id_taken."""
    person = Person(
        full_name=" ".join(full_name.split()),
        kind=kind,
        external_id=external_id or None,
        email=email,
        is_active=is_active,
        valid_from=valid_from or at,
        valid_until=valid_until,
        created_at=at,
    )
    with transaction.atomic():
        check_person(person)
        _save_person(person, force_insert=True)
        audit.services.record(
            kind="person.registered",
            actor=actor,
            at=at,
            subject=audit_subject(person.id),
            details={"kind": person.kind},
            personal={"full_name": person.full_name, "external_id": person.external_id or ""},
        )
    return person


def update_person(*, person: Person, changes: Mapping[str, Any], actor: str, at: datetime) -> Person:
    """Sets the fields in `changes` (of PERSON_FIELDS) and brings the gallery in line with the new validity.

    Refusals: person_unknown, person_invalid, external_id_taken.
    """
    unknown = set(changes) - set(PERSON_FIELDS)
    if unknown:
        raise ValueError(f"not fields of a person: {', '.join(sorted(unknown))}")
    with transaction.atomic():
        current = lock_person(person.id)
        changed = [name for name, value in changes.items() if getattr(current, name) != value]
        for name in changed:
            setattr(current, name, changes[name])
        current.external_id = current.external_id or None
        check_person(current)
        if changed:
            _save_person(current, update_fields=changed)
            _bring_gallery_in_line(current, at=at)
            audit.services.record(
                kind="person.updated",
                actor=actor,
                at=at,
                subject=audit_subject(current.id),
                details={"fields": sorted(changed)},
                personal={name: str(changes[name]) for name in changed},
            )
    return current


def check_person(person: Person) -> None:
    """Refusals: external_id_taken, person_invalid. Changes nothing."""
    if (
        person.external_id
        and Person.objects.filter(external_id=person.external_id).exclude(pk=person.pk).exists()
    ):
        raise EnrollmentRefused(
            "external_id_taken", f"somebody else has the external id {person.external_id}"
        )
    try:
        person.full_clean()
    except ValidationError as error:
        raise EnrollmentRefused("person_invalid", "; ".join(error.messages)) from error


def _save_person(person: Person, **how: Any) -> None:
    """Of two who take one external id at the same time the database lets one through."""
    try:
        with transaction.atomic():
            person.save(**how)
    except IntegrityError as error:
        raise EnrollmentRefused(
            "external_id_taken", f"somebody else has the external id {person.external_id}"
        ) from error


# Consent


def record_consent(
    *,
    person: Person,
    text: str,
    version: str,
    method: str,
    actor: str,
    at: datetime,
    language: str = "en",
    given_at: datetime | None = None,
) -> Consent:
    """A newer consent takes the place of the one in force. Refusals: person_unknown, consent_invalid."""
    with transaction.atomic():
        person = lock_person(person.id)
        consent = Consent(
            person=person,
            text=text,
            version=version,
            language=language,
            method=method,
            given_at=given_at or at,
            recorded_by=actor,
        )
        try:
            consent.full_clean(validate_constraints=False)
        except ValidationError as error:
            raise EnrollmentRefused("consent_invalid", "; ".join(error.messages)) from error
        if consent.given_at > at:
            raise EnrollmentRefused("consent_invalid", "a consent cannot be given in the future")
        replaced = person.consents.filter(withdrawn_at=None).update(withdrawn_at=at)
        consent.save()
        audit.services.record(
            kind="consent.recorded",
            actor=actor,
            at=at,
            subject=audit_subject(person.id),
            details={
                "version": version,
                "language": language,
                "method": method,
                "given_at": consent.given_at.isoformat(),
                "replaced_older": bool(replaced),
            },
        )
    return consent


def withdraw_consent(*, person: Person, actor: str, at: datetime) -> None:
    """Ends the consent in force: the face leaves the gallery and its templates and key are destroyed, at
    once.

    The person stays known by name, and a PIN and cards stay too: they are no features of the body, and the other way
    in for whoever is not recognised any more. Enrolling again needs a new consent. Refusals: person_unknown,
    consent_missing.
    """
    with transaction.atomic():
        person = lock_person(person.id)
        if not person.consents.filter(withdrawn_at=None).update(withdrawn_at=at):
            raise EnrollmentRefused("consent_missing", "there is no consent to withdraw")
        for enrollment in _unfinished(person):
            _finish(enrollment, state=Enrollment.State.CANCELLED, reason="consent_withdrawn", at=at)
        removed = _delete_templates(person.templates.all(), at=at)
        sealing.shred_data_key(person)
        audit.services.record(
            kind="consent.withdrawn",
            actor=actor,
            at=at,
            subject=audit_subject(person.id),
            details={"templates_deleted": removed},
        )
        transaction.on_commit(_scrub_sqlite)


# Enrollment


def begin_enrollment(
    *,
    person: Person,
    actor: str,
    at: datetime,
    terminal_id: uuid.UUID | None = None,
    captures_wanted: int = 3,
    add: bool = False,
) -> Enrollment:
    """Without a terminal a browser takes the captures. `add`: they join the templates there are, which they must look
    like, instead of taking their place.

    Refusals: person_unknown, person_inactive, person_expired, consent_missing, captures_wanted_invalid,
    enrollment_in_progress (this person), terminal_unknown, terminal_busy (another person), nothing_to_add_to,
    templates_full.
    """
    if not 1 <= captures_wanted <= 10:
        raise EnrollmentRefused("captures_wanted_invalid", "an enrollment takes 1 to 10 captures")
    with transaction.atomic():
        person = lock_person(person.id)
        refusal = _reason_not_to_begin(person, terminal_id=terminal_id, at=at)
        if refusal is None and add:
            refusal = _reason_not_to_add(person, captures_wanted=captures_wanted)
        if refusal is None:
            enrollment = Enrollment(
                person=person,
                terminal_id=terminal_id,
                captures_wanted=captures_wanted,
                duplicate_of=person if add else None,
                started_by=actor,
                started_at=at,
                expires_at=at + ENROLLMENT_LIFETIME,
            )
            try:
                with transaction.atomic():
                    enrollment.save(force_insert=True)
            except IntegrityError:  # two people began at one terminal in the same moment
                refusal = EnrollmentRefused("terminal_busy", "this terminal is enrolling somebody else")
        if refusal is None:
            _announce(enrollment)
        audit.services.record(
            kind="enrollment.begun" if refusal is None else "enrollment.refused",
            actor=actor,
            at=at,
            subject=audit_subject(person.id),
            details={"enrollment": str(enrollment.id), "terminal": str(terminal_id or ""), "adds": add}
            if refusal is None
            else {"reason": refusal.code, "terminal": str(terminal_id or "")},
        )
    if refusal is not None:
        raise refusal
    return enrollment


def _reason_not_to_begin(
    person: Person, *, terminal_id: uuid.UUID | None, at: datetime
) -> EnrollmentRefused | None:
    if not person.has_consent():
        return EnrollmentRefused("consent_missing", "record this person's consent first")
    if not person.is_active:
        return EnrollmentRefused("person_inactive", "this person is switched off")
    if person.is_expired(at):
        return EnrollmentRefused("person_expired", "this person is no longer valid")
    _expire(_unfinished(person).filter(expires_at__lte=at), at=at)
    if _unfinished(person).exists():
        return EnrollmentRefused("enrollment_in_progress", "this person is being enrolled already")
    if terminal_id is not None:
        if not _may_enroll_at(terminal_id):
            return EnrollmentRefused(
                "terminal_unknown", "no terminal that is in use has this id: choose another"
            )
        at_terminal = Enrollment.objects.select_for_update().filter(
            terminal_id=terminal_id, state=Enrollment.State.OPEN
        )
        _expire(at_terminal.filter(expires_at__lte=at), at=at)
        if at_terminal.exists():
            return EnrollmentRefused("terminal_busy", "this terminal is enrolling somebody else")
    return None


def _may_enroll_at(terminal_id: uuid.UUID) -> bool:
    """Asked through the function the settings name: enrollment knows no terminals."""
    may_enroll: Callable[[uuid.UUID], bool] = import_string(settings.LINTEL_MAY_ENROLL)
    return may_enroll(terminal_id)


def _reason_not_to_add(person: Person, *, captures_wanted: int) -> EnrollmentRefused | None:
    if not person.is_enrolled():
        return EnrollmentRefused(
            "nothing_to_add_to", "this person has no templates yet; enroll the face first"
        )
    if person.templates.count() + captures_wanted + 1 > MAX_TEMPLATES:  # one more for their mean
        return EnrollmentRefused(
            "templates_full", "this person has many templates already; enroll again to replace them"
        )
    return None


def open_enrollment_at(*, terminal_id: uuid.UUID, at: datetime) -> Enrollment | None:
    """What this terminal has to do now."""
    return (
        Enrollment.objects.filter(terminal_id=terminal_id, state=Enrollment.State.OPEN, expires_at__gt=at)
        .select_related("person")
        .first()
    )


def submit_capture(
    *, enrollment: Enrollment, payload: bytes, at: datetime, quality: float | None = None
) -> Enrollment:
    """Hands perturbed features to a worker: into the payload store for seconds, by key into the task.

    Refusals: enrollment_unknown, enrollment_closed, enrollment_expired, captures_complete, too_many_captures.
    Raises payloads.PayloadStoreUnavailable with nothing written.
    """
    with transaction.atomic():
        enrollment = _lock_enrollment(enrollment.id)
        refusal = _reason_not_to_take(enrollment, at=at)
        if refusal is None:
            payload_key = payloads.store(payload, settings.LINTEL_PAYLOAD_TTL_S)
            PendingCapture.objects.create(
                payload_key=payload_key, enrollment=enrollment, quality=quality, received_at=at
            )
            enrollment.captures_received += 1
            enrollment.save(update_fields=["captures_received"])
            _dispatch(EMBED_TASK, enrollment_id=str(enrollment.id), payload_key=payload_key)
    if refusal is not None:
        raise refusal
    return enrollment


def _reason_not_to_take(enrollment: Enrollment, *, at: datetime) -> EnrollmentRefused | None:
    if enrollment.state != Enrollment.State.OPEN:
        return EnrollmentRefused("enrollment_closed", "this enrollment takes no more captures")
    if enrollment.expires_at <= at:
        _finish(enrollment, state=Enrollment.State.EXPIRED, reason="expired", at=at)
        return EnrollmentRefused("enrollment_expired", MESSAGES["expired"])
    if enrollment.captures_received >= MAX_CAPTURES_RECEIVED:
        _finish(enrollment, state=Enrollment.State.REFUSED, reason="too_many_captures", at=at)
        return EnrollmentRefused("too_many_captures", MESSAGES["too_many_captures"])
    lost_before = at - timedelta(seconds=settings.LINTEL_PAYLOAD_TTL_S)
    enrollment.pending_captures.filter(received_at__lte=lost_before).delete()  # their payloads are gone
    if enrollment.captures_accepted + enrollment.pending_captures.count() >= enrollment.captures_wanted:
        return EnrollmentRefused("captures_complete", "all captures are on their way; wait for the result")
    return None


def add_capture(
    *,
    enrollment_id: uuid.UUID,
    payload_key: str,
    vector: NDArray[np.float32],
    gallery_key_id: str,
    model: str,
    profile_hash: str,
    agreement_threshold: float,
    at: datetime,
) -> Enrollment | None:
    """A worker embedded and protected one capture: stage it, if it looks like the ones before.

    `vector`: the protected template, float32 (D,), unit length. It is compared with the normalised mean of
    the staged ones, which carries less noise than any of them. None when the capture was handled before or is
    no longer wanted (a task delivered twice, a cancelled enrollment). Two workers take turns on the
    enrollment's lock.
    """
    with transaction.atomic():
        enrollment = Enrollment.objects.select_for_update().filter(pk=enrollment_id).first()
        pending = PendingCapture.objects.filter(payload_key=payload_key, enrollment_id=enrollment_id).first()
        if enrollment is None or pending is None:
            return None
        pending.delete()
        if enrollment.state != Enrollment.State.OPEN or enrollment.has_all_captures:
            return None
        staged = list(sealing.open_templates(enrollment.templates.all()))
        if any(template.gallery_key_id != gallery_key_id for template in staged):
            _restart(enrollment, at=at)  # the gallery key was rotated between two captures
            staged = []
        known = staged or _templates_to_agree_with(enrollment, model=model, gallery_key_id=gallery_key_id)
        agrees = not known or float(vector @ fuse([t.vector for t in known])) >= agreement_threshold
        if agrees:
            sealing.seal_new_template(
                enrollment=enrollment,
                kind=ProtectedTemplate.Kind.CAPTURE,
                vector=vector,
                gallery_key_id=gallery_key_id,
                model=model,
                profile_hash=profile_hash,
                quality=pending.quality,
                at=at,
            )
            enrollment.captures_accepted += 1
            enrollment.disagreements = 0
            enrollment.last_reason = "checking" if enrollment.has_all_captures else "capture_accepted"
        elif enrollment.disagreements + 1 < DISAGREEMENTS_BEFORE_RESTART:
            enrollment.disagreements += 1
            enrollment.last_reason = "captures_disagree"
        else:
            _restart(enrollment, at=at)  # perhaps it was the first capture that was wrong
        enrollment.save(update_fields=["captures_accepted", "disagreements", "last_reason"])
        _announce(enrollment)
    return enrollment


def _templates_to_agree_with(
    enrollment: Enrollment, *, model: str, gallery_key_id: str
) -> list[sealing.OpenTemplate]:
    """What a first capture that is to be added must look like; nothing when the person's templates are replaced."""
    if not enrollment.adds_to_templates:
        return []
    comparable = enrollment.person.templates.filter(active=True, model=model, gallery_key_id=gallery_key_id)
    return list(sealing.open_templates(comparable))


def refuse_capture(*, enrollment_id: uuid.UUID, payload_key: str, reason: str, at: datetime) -> None:
    """A worker could not use this capture; the person tries again. Does nothing when it was handled
    before."""
    with transaction.atomic():
        enrollment = Enrollment.objects.select_for_update().filter(pk=enrollment_id).first()
        deleted, _ = PendingCapture.objects.filter(
            payload_key=payload_key, enrollment_id=enrollment_id
        ).delete()
        if enrollment is None or not deleted or enrollment.state != Enrollment.State.OPEN:
            return
        enrollment.last_reason = reason
        enrollment.save(update_fields=["last_reason"])
        _announce(enrollment)


def awaiting_conclusion(*, enrollment_id: uuid.UUID) -> bool:
    """True when all captures are staged and nobody has searched for duplicates yet."""
    enrollment = Enrollment.objects.filter(pk=enrollment_id, state=Enrollment.State.OPEN).first()
    return enrollment is not None and enrollment.has_all_captures


def staged_templates(*, enrollment_id: uuid.UUID) -> list[sealing.OpenTemplate]:
    """The captures of an enrollment, opened: for the worker that fuses them and searches for duplicates."""
    return list(
        sealing.open_templates(
            ProtectedTemplate.objects.filter(
                enrollment_id=enrollment_id, active=False, kind=ProtectedTemplate.Kind.CAPTURE
            )
        )
    )


def known_to_be_others(*, person_id: uuid.UUID) -> frozenset[uuid.UUID]:
    """Whom somebody has decided about already: they look like this person and are not. Nobody is asked twice."""
    decided = Enrollment.objects.filter(state=Enrollment.State.COMPLETED, duplicate_of__isnull=False)
    pairs = decided.filter(Q(person_id=person_id) | Q(duplicate_of_id=person_id))
    found = {one for pair in pairs.values_list("person_id", "duplicate_of_id") for one in pair}
    return frozenset(found - {person_id})


def fuse(vectors: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """The normalised mean of unit vectors, float32 (D,). Protection is a rotation, so the mean of
    protected templates is the protected mean of the embeddings; the noise of k captures shrinks with the
    square root of k."""
    mean = np.mean(np.stack(vectors), axis=0, dtype=np.float64)
    return np.asarray(mean / np.linalg.norm(mean), dtype=np.float32)


def conclude_captures(
    *,
    enrollment_id: uuid.UUID,
    fused: NDArray[np.float32],
    duplicate: tuple[uuid.UUID, float] | None,
    searched_at_sequence: int,
    at: datetime,
) -> bool:
    """All captures are staged and the gallery was searched: complete, or wait for a person when a duplicate
    was found.

    `duplicate`: who else has this face, and the score. False when templates were added to the gallery after
    `searched_at_sequence`: search again, or two enrollments of one face that end together would both be
    completed.
    """
    with transaction.atomic():
        owner = Enrollment.objects.filter(pk=enrollment_id).values_list("person_id", flat=True).first()
        if owner is None:
            return True
        person = Person.objects.select_for_update().filter(pk=owner).first()
        enrollment = Enrollment.objects.select_for_update().filter(pk=enrollment_id).first()
        if person is None or enrollment is None or enrollment.state != Enrollment.State.OPEN:
            return True
        if not enrollment.has_all_captures:
            return True
        _lock_gallery()
        if GalleryChange.objects.filter(
            sequence__gt=searched_at_sequence, kind=GalleryChange.Kind.ADD
        ).exists():
            return False
        _store_fused(enrollment, fused=fused, at=at)
        if duplicate is None:
            _complete(enrollment, actor=enrollment.started_by, at=at, details={})
            return True
        other_id, score = duplicate
        enrollment.duplicate_of = Person.objects.filter(pk=other_id).first()
        enrollment.duplicate_score = score
        enrollment.state = Enrollment.State.DUPLICATE_FOUND
        enrollment.last_reason = "duplicate_found"
        enrollment.expires_at = at + DECISION_LIFETIME
        enrollment.save()
        audit.services.record(
            kind="enrollment.duplicate_found",
            actor=enrollment.started_by,
            at=at,
            subject=audit_subject(enrollment.person_id),
            details={
                "enrollment": str(enrollment.id),
                "duplicate_of": str(other_id),
                "score": round(score, 4),
            },
        )
        _announce(enrollment)
    return True


def _store_fused(enrollment: Enrollment, *, fused: NDArray[np.float32], at: datetime) -> None:
    first = enrollment.templates.filter(kind=ProtectedTemplate.Kind.CAPTURE).order_by("id")[0]
    sealing.seal_new_template(
        enrollment=enrollment,
        kind=ProtectedTemplate.Kind.FUSED,
        vector=fused,
        gallery_key_id=first.gallery_key_id,
        model=first.model,
        profile_hash=first.profile_hash,
        quality=None,
        at=at,
    )


def retake_captures(*, enrollment: Enrollment, actor: str, at: datetime) -> Enrollment:
    """Discards the captures so far and takes them again. What was received stays counted: see MAX_CAPTURES_RECEIVED.

    Refusals: enrollment_unknown, enrollment_closed, enrollment_expired, too_many_captures.
    """
    with transaction.atomic():
        enrollment = _lock_enrollment(enrollment.id)
        if enrollment.state != Enrollment.State.OPEN:
            raise EnrollmentRefused("enrollment_closed", "this enrollment takes no more captures")
        if enrollment.expires_at <= at:
            raise EnrollmentRefused("enrollment_expired", MESSAGES["expired"])
        if enrollment.captures_received + enrollment.captures_wanted > MAX_CAPTURES_RECEIVED:
            raise EnrollmentRefused("too_many_captures", MESSAGES["too_many_captures"])
        discarded = enrollment.captures_accepted
        _discard_payloads(enrollment)
        _restart(enrollment, at=at)
        enrollment.last_reason = "retaken"
        enrollment.save(update_fields=["captures_accepted", "disagreements", "last_reason"])
        audit.services.record(
            kind="enrollment.retaken",
            actor=actor,
            at=at,
            subject=audit_subject(enrollment.person_id),
            details={"enrollment": str(enrollment.id), "captures_discarded": discarded},
        )
        _announce(enrollment)
    return enrollment


def attach_to_duplicate(*, enrollment: Enrollment, actor: str, at: datetime) -> Enrollment:
    """A person decided that the duplicate is the same person: the captures join the templates of whom they look like.

    The person who was being enrolled stays without a face. Refusals: enrollment_unknown, enrollment_closed,
    duplicate_missing, enrollment_expired, consent_missing, person_expired, templates_full.
    """
    with transaction.atomic():
        found = Enrollment.objects.filter(pk=enrollment.pk).first()
        wanted = [found.person_id, found.duplicate_of_id] if found else []
        # People before enrollments, as everywhere, and in the order of their ids: two decisions cannot meet crosswise.
        people = {pk: lock_person(pk) for pk in sorted(filter(None, wanted))}
        enrollment = _lock_enrollment(enrollment.id)
        if enrollment.state != Enrollment.State.DUPLICATE_FOUND:
            raise EnrollmentRefused(
                "enrollment_closed", f"this enrollment is {enrollment.get_state_display().lower()}"
            )
        other = people.get(enrollment.duplicate_of_id) if enrollment.duplicate_of_id else None
        if other is None:
            raise EnrollmentRefused("duplicate_missing", "whom this face looked like has been erased since")
        if enrollment.expires_at <= at:
            raise EnrollmentRefused("enrollment_expired", MESSAGES["expired"])
        if not other.has_consent():
            raise EnrollmentRefused("consent_missing", f"there is no consent of {other.full_name} in force")
        if other.is_expired(at):
            raise EnrollmentRefused("person_expired", MESSAGES["person_expired"])
        if other.templates.count() + enrollment.templates.count() > MAX_TEMPLATES:
            raise EnrollmentRefused(
                "templates_full", f"{other.full_name} has many templates already; cancel this enrollment"
            )
        mistaken_for = people[enrollment.person_id]
        sealing.move_templates(enrollment.templates.all(), to=other)
        if not mistaken_for.templates.exists():
            sealing.shred_data_key(mistaken_for)
        enrollment.person = (
            other  # saved with its new state below: the other may be in an enrollment of their own
        )
        audit.services.record(
            kind="enrollment.attached",
            actor=actor,
            at=at,
            subject=audit_subject(mistaken_for.id),
            details={
                "enrollment": str(enrollment.id),
                "attached_to": str(other.id),
                "score": round(enrollment.duplicate_score or 0.0, 4),
            },
        )
        _complete(enrollment, actor=actor, at=at, details={"attached_from": str(mistaken_for.id)})
        transaction.on_commit(_scrub_sqlite)
    return enrollment


def complete_enrollment(
    *, enrollment: Enrollment, actor: str, at: datetime, accept_duplicate: bool = False, reason: str = ""
) -> Enrollment:
    """Puts the staged templates into the gallery. Completing a completed enrollment changes nothing.

    Without a duplicate the worker completes by itself; a person calls this to decide that a duplicate is another
    person, and says why. Refusals: enrollment_unknown, enrollment_closed, captures_missing, duplicate_found,
    reason_missing, enrollment_expired, consent_missing, person_expired.
    """
    reason = " ".join(reason.split())[:MAX_REASON]
    with transaction.atomic():
        person = lock_person(enrollment.person_id)
        enrollment = _lock_enrollment(enrollment.id)
        if enrollment.state == Enrollment.State.COMPLETED:
            return enrollment
        if not enrollment.is_unfinished:
            raise EnrollmentRefused(
                "enrollment_closed", f"this enrollment is {enrollment.get_state_display().lower()}"
            )
        if enrollment.state == Enrollment.State.OPEN:
            raise EnrollmentRefused("captures_missing", "the captures are not complete and checked yet")
        if not accept_duplicate:
            raise EnrollmentRefused("duplicate_found", MESSAGES["duplicate_found"])
        if not reason:
            raise EnrollmentRefused("reason_missing", "say why these are two different people")
        if enrollment.expires_at <= at:
            raise EnrollmentRefused("enrollment_expired", MESSAGES["expired"])
        if not person.has_consent():
            raise EnrollmentRefused("consent_missing", "record this person's consent first")
        if person.is_expired(at):
            raise EnrollmentRefused("person_expired", MESSAGES["person_expired"])
        accepted = {
            "accepted_duplicate_of": str(enrollment.duplicate_of_id),
            "score": enrollment.duplicate_score,
        }
        _complete(enrollment, actor=actor, at=at, details=accepted, personal={"reason": reason})
    return enrollment


def _complete(
    enrollment: Enrollment,
    *,
    actor: str,
    at: datetime,
    details: Mapping[str, Any],
    personal: Mapping[str, str] | None = None,
) -> None:
    """Activates the templates; they replace those of earlier enrollments or join them. Under the locks of person and
    enrollment."""
    person = enrollment.person
    replaced = 0
    if not enrollment.adds_to_templates:
        replaced = _delete_templates(person.templates.exclude(enrollment=enrollment), at=at)
    enrollment.state = Enrollment.State.COMPLETED
    enrollment.last_reason = "completed"
    enrollment.finished_at = at
    enrollment.save()
    added = _bring_gallery_in_line(person, at=at)
    audit.services.record(
        kind="enrollment.completed",
        actor=actor,
        at=at,
        subject=audit_subject(person.id),
        details={
            "enrollment": str(enrollment.id),
            "templates_added": added,
            "templates_replaced": replaced,
            "captures_received": enrollment.captures_received,
            **details,
        },
        personal=personal or {},
    )
    _announce(enrollment)


def cancel_enrollment(*, enrollment: Enrollment, actor: str, at: datetime) -> Enrollment:
    """Discards the captures. Cancelling a cancelled one changes nothing. Refusals: enrollment_unknown,
    enrollment_closed."""
    with transaction.atomic():
        enrollment = _lock_enrollment(enrollment.id)
        if enrollment.state == Enrollment.State.CANCELLED:
            return enrollment
        if not enrollment.is_unfinished:
            raise EnrollmentRefused(
                "enrollment_closed", f"this enrollment is {enrollment.get_state_display().lower()}"
            )
        _finish(enrollment, state=Enrollment.State.CANCELLED, reason="cancelled", at=at)
        audit.services.record(
            kind="enrollment.cancelled",
            actor=actor,
            at=at,
            subject=audit_subject(enrollment.person_id),
            details={"enrollment": str(enrollment.id)},
        )
    return enrollment


def describe_progress(enrollment: Enrollment) -> dict[str, Any]:
    """What the desk sees, by page, API and event alike. JSON-ready."""
    duplicate = None if enrollment.adds_to_templates else enrollment.duplicate_of
    return {
        "enrollment_id": str(enrollment.id),
        "person_id": str(enrollment.person_id),
        "person_name": enrollment.person.full_name,
        "terminal_id": str(enrollment.terminal_id) if enrollment.terminal_id else None,
        "state": str(enrollment.state),
        "captures_wanted": enrollment.captures_wanted,
        "captures_accepted": enrollment.captures_accepted,
        "captures_pending": enrollment.pending_captures.count(),
        "reason": enrollment.last_reason,
        "message": MESSAGES.get(enrollment.last_reason, enrollment.last_reason),
        "duplicate_of": duplicate
        and {
            "person_id": str(duplicate.id),
            "full_name": duplicate.full_name,
            "score": enrollment.duplicate_score,
        },
        "expires_at": enrollment.expires_at.isoformat(),
    }


def _announce(enrollment: Enrollment) -> None:
    progress = describe_progress(enrollment)
    transaction.on_commit(lambda: enrollment_progress.send_robust(sender=Enrollment, progress=progress))


def _unfinished(person: Person) -> QuerySet[Enrollment]:
    return person.enrollments.select_for_update().filter(state__in=Enrollment.UNFINISHED)


def _expire(enrollments: QuerySet[Enrollment], *, at: datetime) -> int:
    late = list(enrollments)
    for enrollment in late:
        _finish(enrollment, state=Enrollment.State.EXPIRED, reason="expired", at=at)
    return len(late)


def _finish(enrollment: Enrollment, *, state: str, reason: str, at: datetime) -> None:
    """Ends an enrollment that comes to nothing: staged templates, waiting captures and their features go."""
    _discard_payloads(enrollment)
    _delete_templates(enrollment.templates.all(), at=at)
    enrollment.state = state
    enrollment.last_reason = reason
    enrollment.finished_at = at
    enrollment.save()
    _announce(enrollment)


def _restart(enrollment: Enrollment, *, at: datetime) -> None:
    _delete_templates(enrollment.templates.all(), at=at)
    enrollment.captures_accepted = 0
    enrollment.disagreements = 0
    enrollment.last_reason = "captures_restarted"


def _discard_payloads(enrollment: Enrollment) -> int:
    """Forgets features that no worker took yet. When the store is away they end by themselves, within the
    TTL."""
    pending = list(enrollment.pending_captures.all())
    for capture in pending:
        try:
            payloads.discard(capture.payload_key)
        except payloads.PayloadStoreUnavailable:
            continue
    enrollment.pending_captures.all().delete()
    return len(pending)


def _dispatch(task_name: str, **arguments: str) -> None:
    """By name and after commit, through the function the settings name: enrollment knows no task queue."""
    dispatch: Callable[..., None] = import_string(getattr(settings, "LINTEL_DISPATCH", DEFAULT_DISPATCH))
    dispatch(task_name, **arguments)


# The gallery


def gallery_sequence() -> int:
    """The number a worker must have reached before it may answer a request made now."""
    return GalleryChange.objects.aggregate(last=Max("sequence"))["last"] or 0


def request_gallery_reload(*, actor: str, at: datetime) -> int:
    """Every worker throws its index away and loads again before its next search. Returns the change's
    number."""
    with transaction.atomic():
        _lock_gallery()
        change = GalleryChange.objects.create(kind=GalleryChange.Kind.RELOAD, at=at)
        audit.services.record(
            kind="gallery.reload_requested", actor=actor, at=at, details={"sequence": change.sequence}
        )
    return change.sequence


def replace_vectors(*, vectors: Mapping[int, NDArray[np.float32]], gallery_key_id: str, at: datetime) -> int:
    """Reseals templates, by id, with vectors under another gallery key; workers are told of those in the
    gallery."""
    with transaction.atomic():
        templates = list(
            ProtectedTemplate.objects.select_for_update(of=("self",))
            .filter(id__in=vectors)
            .exclude(gallery_key_id=gallery_key_id)
            .select_related("person__data_key")
        )
        for template in templates:
            template.gallery_key_id = gallery_key_id
            sealing.reseal(template, vector=vectors[template.id], data_key=template.person.data_key)
        _lock_gallery()
        GalleryChange.objects.bulk_create(
            GalleryChange(
                kind=GalleryChange.Kind.ADD, template_id=template.id, person_id=template.person_id, at=at
            )
            for template in templates
            if template.active
        )
    return len(templates)


def record_key_rotation(
    *, data_keys: int, personal_fields: int, templates: int, actor: str, at: datetime
) -> dict[str, list[str]]:
    """The audit entry of a rotation. Returns, by setting, the older key ids that something still needs."""
    used = {
        "LINTEL_KEY_ENCRYPTION_KEYS": DataKey.objects.order_by()
        .values_list("kek_id", flat=True)
        .union(NumberKey.objects.order_by().values_list("kek_id", flat=True)),
        "LINTEL_GALLERY_KEYS": ProtectedTemplate.objects.order_by()
        .values_list("gallery_key_id", flat=True)
        .distinct(),
    }
    left = {
        name: sorted(set(ids) - {crypto.newest(getattr(settings, name))[0]}) for name, ids in used.items()
    }
    audit.services.record(
        kind="keys.rotated",
        actor=actor,
        at=at,
        details={
            "data_keys": data_keys,
            "personal_fields": personal_fields,
            "templates": templates,
            "older_keys_in_use": left,
        },
    )
    return left


def _bring_gallery_in_line(person: Person, *, at: datetime) -> int:
    """In the gallery are the templates of completed enrollments of people who consent and whose time is not
    over.

    An inactive or not yet valid person stays in: the door then says why it stays shut. Returns how many
    changed.
    """
    finished = person.templates.filter(enrollment__state=Enrollment.State.COMPLETED)
    if person.has_consent() and not person.is_expired(at):
        return _change_gallery(GalleryChange.Kind.ADD, finished.filter(active=False), at=at)
    return _change_gallery(GalleryChange.Kind.REMOVE, finished.filter(active=True), at=at)


def _change_gallery(kind: GalleryChange.Kind, templates: QuerySet[ProtectedTemplate], *, at: datetime) -> int:
    """Flips `active` and writes one change per template, in one transaction with whatever is the reason
    for it."""
    touched = list(templates.values_list("id", "person_id"))
    if touched:
        _lock_gallery()
        ProtectedTemplate.objects.filter(id__in=[template_id for template_id, _ in touched]).update(
            active=kind == GalleryChange.Kind.ADD
        )
        GalleryChange.objects.bulk_create(
            GalleryChange(kind=kind, template_id=template_id, person_id=person_id, at=at)
            for template_id, person_id in touched
        )
    return len(touched)


def _delete_templates(templates: QuerySet[ProtectedTemplate], *, at: datetime) -> int:
    _change_gallery(GalleryChange.Kind.REMOVE, templates.filter(active=True), at=at)
    deleted, _ = templates.delete()
    return deleted


def _lock_gallery() -> None:
    """One writer of gallery changes at a time, until commit.

    PostgreSQL hands out sequence numbers before commit: without this a transaction with number 5 could commit
    after number 6 was seen, and a worker that stands at 6 would miss it for ever. SQLite has one writer
    anyway.
    """
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [GALLERY_LOCK])


# Erasure and retention


def erase_person(*, person_id: uuid.UUID, actor: str, at: datetime) -> dict[str, Any]:
    """Destroys everything about a person and returns the certificate. Erasing again returns the same
    certificate.

    Key shredded, templates and rows deleted, gallery changes written for every worker, waiting payloads
    discarded, the personal fields of audit entries made unreadable. Refusal: person_unknown.
    """
    with transaction.atomic():
        person = Person.objects.select_for_update().filter(pk=person_id).first()
        if person is None:
            earlier = ErasureCertificate.objects.filter(pk=person_id).first()
            if earlier is None:
                raise EnrollmentRefused("person_unknown", "there is no such person")
            return dict(earlier.certificate)
        enrollments = list(person.enrollments.select_for_update())
        counts = {
            "payloads_discarded": sum(_discard_payloads(enrollment) for enrollment in enrollments),
            "templates_deleted": _delete_templates(person.templates.all(), at=at),
            "data_key_shredded": sealing.shred_data_key(person),
            "consents_deleted": person.consents.count(),
            "pins_deleted": int(hasattr(person, "pin")),
            "cards_deleted": person.cards.count(),
            "enrollments_deleted": len(enrollments),
        }
        sequence = gallery_sequence()
        person.enrollments.all().delete()
        person.delete()
        audit.services.forget(audit_subject(person_id))
        entry = audit.services.record(
            kind="person.erased",
            actor=actor,
            at=at,
            subject=audit_subject(person_id),
            details={**counts, "gallery_sequence": sequence},
        )
        certificate = {
            "format": 1,
            "person_id": str(person_id),
            "erased_at": at.astimezone(UTC).isoformat(),
            "erased_by": actor,
            **counts,
            "gallery_sequence": sequence,
            "kept": [
                "audit entries, with their personal fields unreadable",
                "this certificate",
                "gallery change numbers",
            ],
            "limits": [
                f"Captures on their way to a worker end within {settings.LINTEL_PAYLOAD_TTL_S} seconds.",
                "A worker drops the templates before its next search.",
                "Backups made earlier hold the wrapped key: until they are deleted, or the key-encryption "
                "key they need is destroyed.",
            ],
            "proof": audit.services.prove_inclusion(entry),
        }
        ErasureCertificate.objects.create(person_id=person_id, erased_at=at, certificate=certificate)
        transaction.on_commit(_scrub_sqlite)
    return certificate


def _scrub_sqlite() -> None:
    """SQLite keeps overwritten pages in its write-ahead log until they are checkpointed."""
    if connection.vendor == "sqlite" and not connection.in_atomic_block:
        with connection.cursor() as cursor:
            cursor.execute(SQLITE_LEFTOVERS)


def expire_enrollments(*, at: datetime) -> int:
    """Ends enrollments nobody finished. May run anywhere, any number of times."""
    with transaction.atomic():
        late = Enrollment.objects.select_for_update(
            skip_locked=connection.features.has_select_for_update_skip_locked
        )
        return _expire(late.filter(state__in=Enrollment.UNFINISHED, expires_at__lte=at), at=at)


def expire_people(*, at: datetime) -> int:
    """Takes people whose time is over out of the gallery and returns how many; their templates stay
    sealed."""
    late = Person.objects.expired(at).filter(templates__active=True).distinct().values_list("id", flat=True)
    expired = 0
    for person_id in list(late):
        with transaction.atomic():
            person = Person.objects.select_for_update().filter(pk=person_id).first()
            if person is None or not person.is_expired(at):
                continue  # erased or extended meanwhile
            removed = _bring_gallery_in_line(person, at=at)
            audit.services.record(
                kind="person.expired",
                actor="system",
                at=at,
                subject=audit_subject(person_id),
                details={"templates_removed": removed},
            )
            expired += 1
    return expired


@dataclass(frozen=True)
class RetentionReport:
    people_erased: list[uuid.UUID]
    people_expired: int
    enrollments_expired: int
    enrollments_deleted: int


def apply_retention(
    *, actor: str, at: datetime, keep_people_days: int, keep_enrollments_days: int, dry_run: bool = False
) -> RetentionReport:
    """Erases people whose validity ended `keep_people_days` ago and deletes records of finished enrollments.

    An enrollment whose templates are in use stays as long as they. With `dry_run` nothing changes.
    """
    people = list(
        Person.objects.expired(at - timedelta(days=keep_people_days))
        .order_by("valid_until")
        .values_list("id", flat=True)
    )
    old = Enrollment.objects.filter(
        finished_at__lte=at - timedelta(days=keep_enrollments_days), templates=None
    ).exclude(person__in=people)
    if dry_run:
        return RetentionReport(
            people_erased=people,
            people_expired=Person.objects.expired(at).filter(templates__active=True).distinct().count(),
            enrollments_expired=Enrollment.objects.filter(
                state__in=Enrollment.UNFINISHED, expires_at__lte=at
            ).count(),
            enrollments_deleted=old.count(),
        )
    for person_id in people:
        erase_person(person_id=person_id, actor=actor, at=at)
    enrollments_expired, people_expired = expire_enrollments(at=at), expire_people(at=at)
    with transaction.atomic():
        deleted = old.count()
        old.delete()
        audit.services.record(
            kind="retention.applied",
            actor=actor,
            at=at,
            details={
                "people_erased": len(people),
                "people_expired": people_expired,
                "enrollments_deleted": deleted,
            },
        )
    return RetentionReport(people, people_expired, enrollments_expired, deleted)


# Rows under lock


def lock_person(person_id: uuid.UUID) -> Person:
    """Inside a transaction. Refusal: person_unknown."""
    person = Person.objects.select_for_update().filter(pk=person_id).first()
    if person is None:
        raise EnrollmentRefused("person_unknown", "there is no such person")
    return person


def _lock_enrollment(enrollment_id: uuid.UUID) -> Enrollment:
    enrollment = Enrollment.objects.select_for_update().filter(pk=enrollment_id).first()
    if enrollment is None:
        raise EnrollmentRefused("enrollment_unknown", "there is no such enrollment")
    return enrollment
