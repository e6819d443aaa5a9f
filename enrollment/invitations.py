"""Invitations: a link with which a person agrees and enrolls on a phone of their own, once.

The link carries 256 random bits behind its `#`, where browsers keep them: no log of a server or a proxy ever sees them.
The database keeps a hash. Locks are taken in one order: person, invitation, and then what the other services take.
Each service is one transaction with its audit entry; refusals are EnrollmentRefused with a stable code.
"""

from __future__ import annotations

import hashlib
import secrets
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import Q, QuerySet
from django.urls import reverse
from django.utils import timezone

import audit.services
from enrollment import services
from enrollment.languages import ConsentText
from enrollment.models import Consent, Enrollment, Invitation, Person
from enrollment.services import EnrollmentRefused, audit_subject, lock_person

LIFETIME = timedelta(days=14)
LONGEST_LIFETIME = timedelta(days=90)
TOKEN_BYTES = 32
MAX_BEGINNINGS = (
    6  # enrollments that one invitation may begin: each takes captures, and captures average the noise away
)
MAX_OWN_WORDS = 1000  # characters

#: Why a link does not open, by the invitation's state.
REFUSALS: Mapping[str, tuple[str, str]] = {
    Invitation.State.USED: ("invitation_used", "this invitation was used"),
    Invitation.State.DECLINED: ("invitation_declined", "this invitation was declined"),
    Invitation.State.REVOKED: ("invitation_revoked", "this invitation was taken back"),
    Invitation.State.EXPIRED: ("invitation_expired", "this invitation has expired"),
}


@dataclass(frozen=True)
class Issued:
    """A new invitation and the token that opens it, which nobody can read again."""

    invitation: Invitation
    token: str


# At the desk


def issue_invitation(
    *,
    person: Person,
    actor: str,
    at: datetime,
    contact: str = "",
    lifetime: timedelta = LIFETIME,
) -> Issued:
    """A link for this person. An earlier one that is still open stops working: sending again is issuing again.

    Refusals: person_unknown, person_inactive, person_expired, lifetime_invalid.
    """
    if not timedelta(hours=1) <= lifetime <= LONGEST_LIFETIME:
        raise EnrollmentRefused("lifetime_invalid", "an invitation lives for an hour to 90 days")
    token = secrets.token_urlsafe(TOKEN_BYTES)
    with transaction.atomic():
        person = lock_person(person.id)
        if not person.is_active:
            raise EnrollmentRefused("person_inactive", "this person is switched off")
        if person.is_expired(at):
            raise EnrollmentRefused("person_expired", "this person is no longer valid")
        earlier = [_revoke(invitation, at=at) for invitation in _unended(person)]
        invitation = Invitation.objects.create(
            person=person,
            token_hash=_hash(token),
            contact=contact or (earlier[0].contact if earlier else "") or person.email,
            created_by=actor,
            created_at=at,
            expires_at=at + lifetime,
        )
        _record("invitation.created", invitation, actor=actor, at=at, replaced=len(earlier))
    return Issued(invitation, token)


def link_to(issued: Issued, *, base: str) -> str:
    """What the person opens. `base`: the server as people reach it, https://doors.example.org."""
    return f"{base.rstrip('/')}{reverse('invitation')}#{issued.token}"


def revoke_invitation(*, invitation: Invitation, actor: str, at: datetime) -> Invitation:
    """From this commit on the link opens nothing, and captures taken through it are discarded. Revoking one that has
    ended changes nothing."""
    with transaction.atomic():
        invitation = _lock(invitation)
        if invitation.state_at(at) in REFUSALS and invitation.state_at(at) != Invitation.State.EXPIRED:
            return invitation
        _revoke(invitation, at=at)
        _record("invitation.revoked", invitation, actor=actor, at=at)
    return invitation


def in_state(invitations: QuerySet[Invitation], state: str, at: datetime) -> QuerySet[Invitation]:
    """Those of `invitations` that are in this state now; the same rules as Invitation.state_at, for the database."""
    unended = Q(used_at=None, declined_at=None, revoked_at=None)
    rules = {
        Invitation.State.USED: Q(used_at__isnull=False),
        Invitation.State.DECLINED: Q(used_at=None, declined_at__isnull=False),
        Invitation.State.REVOKED: Q(used_at=None, declined_at=None, revoked_at__isnull=False),
        Invitation.State.EXPIRED: unended & Q(expires_at__lte=at),
        Invitation.State.OPENED: unended & Q(expires_at__gt=at, opened_at__isnull=False),
        Invitation.State.SENT: unended & Q(expires_at__gt=at, opened_at=None),
    }
    return invitations.filter(rules[Invitation.State(state)])


# On the invited person's phone


def open_invitation(*, token: str, at: datetime) -> Invitation:
    """The invitation that this token opens.

    Refusals: invitation_unknown, invitation_used, invitation_declined, invitation_revoked, invitation_expired. Only
    whoever has the link learns the last four: the token cannot be guessed.
    """
    invitation = Invitation.objects.filter(token_hash=_hash(token)).select_related("person").first()
    if invitation is None:
        raise EnrollmentRefused("invitation_unknown", "there is no such invitation")
    with transaction.atomic():
        invitation = _lock(invitation)
        _require_open(invitation, at=at)
        if invitation.opened_at is None:
            invitation.opened_at = at
            invitation.save(update_fields=["opened_at"])
            _record("invitation.opened", invitation, actor=actor_of(invitation), at=at)
    return invitation


def agree(*, invitation: Invitation, text: ConsentText, own_words: str = "", at: datetime) -> Consent:
    """The person's consent: the text they read, and what they added in their own words.

    Refusals: those of an invitation that ended, own_words_too_long, consent_invalid.
    """
    added = own_words.replace("\x00", "").strip()
    if len(added) > MAX_OWN_WORDS:
        raise EnrollmentRefused(
            "own_words_too_long", f"your own words have at most {MAX_OWN_WORDS} characters"
        )
    with transaction.atomic():
        invitation = _lock(invitation)
        _require_open(invitation, at=at)
        return services.record_consent(
            person=invitation.person,
            text=f"{text.text}\n\n* * *\n\n{added}" if added else text.text,
            version=text.version,
            language=text.language,
            method=Consent.Method.ONLINE,
            actor=actor_of(invitation),
            at=at,
        )


def decline(*, invitation: Invitation, at: datetime) -> Invitation:
    """The person would rather not. A consent given a moment ago through this invitation is withdrawn with it."""
    with transaction.atomic():
        invitation = _lock(invitation)
        _require_open(invitation, at=at)
        person = invitation.person
        if person.consents.filter(withdrawn_at=None, recorded_by=actor_of(invitation)).exists():
            services.withdraw_consent(person=person, actor=actor_of(invitation), at=at)
        invitation.declined_at = at
        invitation.save(update_fields=["declined_at"])
        _record("invitation.declined", invitation, actor=actor_of(invitation), at=at)
    return invitation


def begin(*, invitation: Invitation, at: datetime) -> Enrollment:
    """The enrollment that this invitation's phone takes captures for: the one under way, or a new one.

    Refusals: those of an invitation that ended, too_many_tries, and those of services.begin_enrollment.
    """
    with transaction.atomic():
        invitation = _lock(invitation)
        _require_open(invitation, at=at)
        current = invitation.enrollment
        if current is not None and current.state == Enrollment.State.OPEN and current.expires_at > at:
            return current
        if Enrollment.objects.filter(started_by=actor_of(invitation)).count() >= MAX_BEGINNINGS:
            raise EnrollmentRefused("too_many_tries", "this invitation was tried too often")
        refusal: EnrollmentRefused | None = None
        try:
            invitation.enrollment = services.begin_enrollment(
                person=invitation.person, actor=actor_of(invitation), at=at
            )
            invitation.save(update_fields=["enrollment"])
        except EnrollmentRefused as error:  # its audit entry stays
            refusal = error
    if refusal is not None:
        raise refusal
    assert invitation.enrollment is not None
    return invitation.enrollment


def take_capture(
    *, invitation: Invitation, payload: bytes, quality: float | None, at: datetime
) -> Enrollment:
    """One capture from the phone. Refusals: those of an invitation that ended, enrollment_unknown, and those of
    services.submit_capture."""
    with transaction.atomic():
        invitation = _lock(invitation)
        _require_open(invitation, at=at)
        if invitation.enrollment is None:
            raise EnrollmentRefused("enrollment_unknown", "no enrollment was begun")
    return services.submit_capture(enrollment=invitation.enrollment, payload=payload, quality=quality, at=at)


def mark_used(*, enrollment_id: uuid.UUID, at: datetime) -> bool:
    """The captures are in: the link has done its work. Whoever notices first marks it; whether it was this call."""
    with transaction.atomic():
        found = Invitation.objects.filter(enrollment_id=enrollment_id).first()
        if found is None:
            return False
        invitation = _lock(found)
        if invitation.used_at is not None or invitation.enrollment_id != enrollment_id:
            return False
        invitation.used_at = at
        invitation.save(update_fields=["used_at"])
        _record("invitation.used", invitation, actor=actor_of(invitation), at=at)
    return True


def on_enrollment_progress(sender: object, progress: Mapping[str, Any], **_: Any) -> None:
    """Wherever an enrollment ends, in a worker or at the desk, its invitation is used from then on."""
    if progress["state"] in (Enrollment.State.COMPLETED, Enrollment.State.DUPLICATE_FOUND):
        mark_used(enrollment_id=uuid.UUID(progress["enrollment_id"]), at=timezone.now())


def actor_of(invitation: Invitation) -> str:
    """How the audit log names whoever holds the link."""
    return f"invitation:{invitation.id}"


def _hash(token: str) -> str:
    """Of 256 random bits: nothing to guess, so nothing to slow down."""
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


def _unended(person: Person) -> QuerySet[Invitation]:
    return person.invitations.select_for_update().filter(used_at=None, declined_at=None, revoked_at=None)


def _revoke(invitation: Invitation, *, at: datetime) -> Invitation:
    invitation.revoked_at = at
    invitation.save(update_fields=["revoked_at"])
    current = invitation.enrollment
    if current is not None and current.is_unfinished and current.started_by == actor_of(invitation):
        services.cancel_enrollment(enrollment=current, actor=actor_of(invitation), at=at)
    return invitation


def _require_open(invitation: Invitation, *, at: datetime) -> None:
    refusal = REFUSALS.get(invitation.state_at(at))
    if refusal is not None:
        raise EnrollmentRefused(*refusal)


def _lock(invitation: Invitation) -> Invitation:
    """The person's row first: erasure, consent and enrollment take it first too."""
    person = Person.objects.select_for_update().filter(pk=invitation.person_id).first()
    locked = Invitation.objects.select_for_update().filter(pk=invitation.pk).first()
    if person is None or locked is None:
        raise EnrollmentRefused("invitation_unknown", "there is no such invitation")
    locked.person = person
    return locked


def _record(kind: str, invitation: Invitation, *, actor: str, at: datetime, **details: Any) -> None:
    audit.services.record(
        kind=kind,
        actor=actor,
        at=at,
        subject=audit_subject(invitation.person_id),
        details={
            "invitation": str(invitation.id),
            "expires_at": invitation.expires_at.isoformat(),
            **details,
        },
    )
