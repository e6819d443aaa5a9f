"""What happens at doors: attempts, terminals, lock-down, alarms, tokens. Each service is one transaction with
its audit entry.

Who may run at the same time: anybody, in any number of processes. An attempt is settled under its row lock by
whoever
comes first; everybody after finds it settled and changes nothing. Locks are taken in one order: attempt,
person.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import F, Q
from django.utils import timezone

import audit.services
from accesscontrol import captures, decisions, live, metrics
from accesscontrol.celery import dispatch
from accesscontrol.models import (
    AccessAttempt,
    AccessRule,
    Alarm,
    ApiToken,
    Door,
    Holiday,
    PairingCode,
    Presence,
    Scope,
    Site,
    Terminal,
    UsedNonce,
)
from accesscontrol.policy import Facts, Match, PersonFacts, Reason, RuleFacts, decide, rank, read_weekly
from enrollment import payloads
from enrollment.models import Person
from enrollment.services import audit_subject, gallery_sequence
from recognition.payload import PayloadError
from terminal.protocol import key_id_of

log = logging.getLogger(__name__)

IDENTIFY_TASK = "accesscontrol.tasks.identify"

PAIRING_ALPHABET = "23456789ABCDEFGHJKLMNPQRSTUVWXYZ"  # 32 characters, none that reads like another
PAIRING_CODE_LENGTH = 10  # 50 bits
PAIRING_CODE_LIFETIME = timedelta(minutes=15)
PREVIOUS_KEY_GRACE = timedelta(minutes=10)
LAST_SEEN_PRECISION = timedelta(seconds=15)  # a write per request would cost more than the knowledge is worth
NONCE_KEPT = timedelta(seconds=30)  # beyond the end of the clock window

REFUSALS_BEFORE_ALARM = 5
REFUSALS_WINDOW = timedelta(minutes=2)
ALARM_REPEATS_WITHIN = timedelta(minutes=5)
TERMINAL_SILENT_AFTER = timedelta(minutes=5)
PERSON_REFUSALS = frozenset(
    {
        Reason.NO_MATCH, Reason.AMBIGUOUS_MATCH, Reason.PERSON_INACTIVE, Reason.PERSON_NOT_YET_VALID,
        Reason.PERSON_EXPIRED, Reason.CONSENT_MISSING, Reason.NO_RULE, Reason.OUTSIDE_SCHEDULE,
        Reason.HOLIDAY, Reason.ANTI_PASSBACK, Reason.PAYLOAD_REFUSED,
    }
)  # fmt: skip
TOKEN_PREFIX = "lintel_"  # noqa: S105 (what every token begins with)


class AccessRefused(Exception):
    """The request makes no sense now. `code` is stable, `message` tells a person what to do."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


# Attempts


@dataclass(frozen=True)
class Identification:
    """What a search was like apart from its candidates, or the fault that kept it from happening."""

    gallery_size: int | None = None
    threshold: float | None = None
    model: str = ""
    fault: Reason | None = None
    detail: str = ""


def submit_attempt(*, terminal: Terminal, payload: bytes, nonce: str, at: datetime) -> AccessAttempt:
    """Stores the attempt, puts the capture where one worker can take it, and calls a worker after commit.

    A capture that is refused, or that cannot be passed on, comes back as an attempt settled as denied.
    Refusals: terminal_without_door, nonce_replayed.
    """
    if terminal.door_id is None or terminal.role != Terminal.Role.DOOR:
        raise AccessRefused("terminal_without_door", "this terminal opens no door")
    attempt = AccessAttempt(
        id=uuid.uuid4(),
        terminal=terminal,
        door_id=terminal.door_id,
        nonce=nonce,
        payload_bytes=len(payload),
        received_at=at,
        deadline_at=at + timedelta(milliseconds=settings.LINTEL_ATTEMPT_DEADLINE_MS),
    )
    try:
        attempt.profile_hash = captures.check_capture(payload).hash
    except PayloadError as error:
        return _refuse_at_once(
            attempt, Identification(fault=Reason.PAYLOAD_REFUSED, detail=error.code), at=at
        )
    try:
        attempt.payload_key = payloads.store(payload, settings.LINTEL_PAYLOAD_TTL_S)
    except payloads.PayloadStoreUnavailable as error:
        return _refuse_at_once(
            attempt, Identification(fault=Reason.RECOGNIZER_FAULT, detail=error.code), at=at
        )
    with _own_nonce(), transaction.atomic():
        attempt.save(force_insert=True)
        dispatch(IDENTIFY_TASK, attempt_id=str(attempt.id), sequence=gallery_sequence())
    return attempt


def settle_attempt(
    *,
    attempt_id: uuid.UUID,
    candidates: Iterable[Match] = (),
    at: datetime | None = None,
    gallery_size: int | None = None,
    threshold: float | None = None,
    model: str = "",
    fault: Reason | None = None,
    detail: str = "",
) -> AccessAttempt:
    """Decides a pending attempt, once. A settled one comes back as it is, whatever was found since.

    `candidates` are those of a search of the whole gallery; `fault` says why there was none. `at` None takes
    the moment after the locks are held, so that time spent waiting for them counts against the deadline.
    """
    identification = Identification(gallery_size, threshold, model, fault, detail)
    matches = rank(candidates)
    with transaction.atomic():
        attempt = (
            AccessAttempt.objects.select_for_update(of=("self",), no_key=True)
            .select_related("terminal", "door__site", "door__zone")
            .get(pk=attempt_id)
        )
        if attempt.state == AccessAttempt.State.SETTLED:
            return attempt
        person = _lock_person(matches[0].person_id) if matches else None
        payload_key = attempt.payload_key
        _settle(attempt, identification, matches, person, at or timezone.now())
        transaction.on_commit(lambda: _after_settling(attempt, payload_key))
    return attempt


def expire_attempts(*, at: datetime, limit: int = 500) -> int:
    """Settles pending attempts past their deadline as denied; how many. Run often, from anywhere."""
    late = AccessAttempt.objects.filter(state=AccessAttempt.State.PENDING, deadline_at__lte=at)
    ids = list(late.order_by("deadline_at").values_list("pk", flat=True)[:limit])
    for attempt_id in ids:
        settle_attempt(attempt_id=attempt_id, at=at)
    return len(ids)


def read_attempt(*, attempt_id: uuid.UUID, at: datetime) -> AccessAttempt:
    """The attempt as it stands; whoever first looks after the deadline settles it. Raises
    AccessAttempt.DoesNotExist."""
    attempt = AccessAttempt.objects.get(pk=attempt_id)
    if attempt.state == AccessAttempt.State.PENDING and at >= attempt.deadline_at:
        return settle_attempt(attempt_id=attempt_id, at=at)
    return attempt


def answer(attempt: AccessAttempt, *, at: datetime) -> tuple[bool, Reason]:
    """What a door is told at `at`: never "granted" at or after the deadline, even where the attempt was
    granted in time."""
    if attempt.granted and at < attempt.deadline_at:
        return True, Reason.GRANTED
    return False, Reason.DEADLINE_PASSED if attempt.granted else Reason(attempt.reason)


def gather_facts(
    *,
    attempt: AccessAttempt,
    matches: tuple[Match, ...],
    person: Person | None,
    identification: Identification,
    at: datetime,
) -> Facts:
    """Everything the policy needs, read now. `person` is the best match, locked."""
    door, site = attempt.door, attempt.door.site
    rules: tuple[RuleFacts, ...] = ()
    holidays: frozenset[object] = frozenset()
    if person is not None:
        rules = rules_for(person_id=person.pk, door=door)
        if any(rule.weekly is not None for rule in rules):
            holidays = holidays_around(site=site, at=at)
    guarded = door.zone is not None and door.zone.anti_passback
    inside = (
        guarded
        and person is not None
        and Presence.objects.filter(person_id=person.pk, site=site, zone=door.zone).exists()
    )
    return Facts(
        deadline=attempt.deadline_at,
        terminal_is_active=attempt.terminal.state == Terminal.State.ACTIVE,
        terminal_site=str(attempt.terminal.site_id) if attempt.terminal.site_id is not None else None,
        door_site=str(site.pk),
        door_is_active=door.is_active,
        site_is_locked_down=site.locked_down,
        time_zone=site.timezone,
        holidays=holidays,  # type: ignore[arg-type]
        gallery_size=identification.gallery_size or 0,
        threshold=identification.threshold if identification.threshold is not None else float("inf"),
        matches=matches,
        person=None if person is None else person_facts(person),
        rules=rules,
        anti_passback=guarded,
        is_inside=inside,
        fault=identification.fault,
    )


def person_facts(person: Person) -> PersonFacts:
    return PersonFacts(
        person_id=str(person.pk),
        is_active=person.is_active,
        valid_from=person.valid_from,
        valid_until=person.valid_until,
        has_consent=person.has_consent(),
    )


def rules_for(*, person_id: uuid.UUID, door: Door) -> tuple[RuleFacts, ...]:
    """The rules that name this person, through a group, and this door."""
    rules = AccessRule.objects.filter(is_active=True, doors=door, group__members=person_id).order_by()
    rows = rules.values_list("is_active", "valid_from", "valid_until", "schedule_id", "schedule__weekly")
    return tuple(
        RuleFacts(is_active, valid_from, valid_until, None if schedule is None else read_weekly(weekly))
        for is_active, valid_from, valid_until, schedule, weekly in rows
    )


def holidays_around(*, site: Site, at: datetime) -> frozenset[date]:
    """The holidays that can matter at `at`: today on the site's clock, and yesterday for nights that run
    on."""
    today = at.astimezone(ZoneInfo(site.timezone)).date()
    dates = Holiday.objects.filter(site=site, date__range=(today - timedelta(days=1), today))
    return frozenset(dates.values_list("date", flat=True))


def forgive_presence(*, person: Person, site: Site, actor: str, at: datetime) -> bool:
    """A guard corrects the record: the person is outside. Whether there was anything to correct."""
    with transaction.atomic():
        deleted, _ = Presence.objects.filter(person=person, site=site).delete()
        if deleted:
            audit.services.record(
                kind="presence.forgiven",
                actor=actor,
                at=at,
                subject=audit_subject(person.pk),
                details={"site": site.name},
            )
    return bool(deleted)


def _refuse_at_once(attempt: AccessAttempt, identification: Identification, *, at: datetime) -> AccessAttempt:
    with _own_nonce(), transaction.atomic():
        attempt.door = Door.objects.select_related("site", "zone").get(pk=attempt.door_id)
        attempt.save(force_insert=True)
        _settle(attempt, identification, (), None, at)
        transaction.on_commit(lambda: _after_settling(attempt, ""))
    return attempt


@contextmanager
def _own_nonce() -> Iterator[None]:
    """A second attempt with a spent nonce is refused by the constraint, should it ever get this far."""
    try:
        yield
    except IntegrityError as error:
        raise AccessRefused("nonce_replayed", "this request was sent before") from error


def _lock_person(person_id: str) -> Person | None:
    """Holds the person still until the decision is committed: erasure, withdrawal of consent and a second
    door wait."""
    try:
        return Person.objects.select_for_update(no_key=True).get(pk=person_id)
    except Person.DoesNotExist:
        return None


def _settle(
    attempt: AccessAttempt,
    identification: Identification,
    matches: tuple[Match, ...],
    person: Person | None,
    at: datetime,
) -> None:
    """Inside the transaction that holds the locks: decide, write, remember where the person is, leave an
    audit entry."""
    facts = gather_facts(
        attempt=attempt, matches=matches, person=person, identification=identification, at=at
    )
    decision = decide(facts, at)
    attempt.state = AccessAttempt.State.SETTLED
    attempt.granted = decision.granted
    attempt.reason = decision.reason
    attempt.detail = identification.detail if decision.reason == identification.fault else ""
    attempt.person = person if decision.person_id is not None else None
    attempt.score = decision.score
    attempt.threshold = identification.threshold
    attempt.gallery_size = identification.gallery_size
    attempt.model = identification.model
    attempt.payload_key = ""
    attempt.settled_at = at
    attempt.save(
        update_fields=[
            "state", "granted", "reason", "detail", "person", "score", "threshold", "gallery_size", "model",
            "payload_key", "settled_at",
        ]
    )  # fmt: skip
    if decision.granted and person is not None:
        _remember_presence(person, attempt.door, at)
    audit.services.record(
        kind="attempt.settled",
        actor=f"terminal:{attempt.terminal_id}",
        at=at,
        subject=audit_subject(person.pk) if attempt.person is not None and person is not None else "",
        details={
            "attempt": str(attempt.pk),
            "door": str(attempt.door_id),
            "granted": decision.granted,
            "reason": decision.reason.value,
            "detail": attempt.detail,
            "score": None if decision.score is None else round(decision.score, 4),
            "threshold": None if attempt.threshold is None else round(attempt.threshold, 4),
            "gallery_size": attempt.gallery_size,
            "model": attempt.model,
            "profile": attempt.profile_hash,
            "received_at": attempt.received_at.isoformat(),
        },
    )
    live.publish(
        "attempt", {"id": str(attempt.pk), "granted": decision.granted, "reason": decision.reason.value}
    )


def _remember_presence(person: Person, door: Door, at: datetime) -> None:
    """Under the person's lock. Only zones with anti-passback are remembered; any other door of the site leads
    out of them."""
    if door.zone is not None and door.zone.anti_passback:
        Presence.objects.update_or_create(
            person=person, site_id=door.site_id, defaults={"zone": door.zone, "since": at}
        )
    else:
        Presence.objects.filter(person=person, site_id=door.site_id).delete()


def _after_settling(attempt: AccessAttempt, payload_key: str) -> None:
    """The decision stands. What fails here costs a terminal its answer in time, or leaves a capture to its
    expiry."""
    seconds = (attempt.settled_at - attempt.received_at).total_seconds() if attempt.settled_at else 0.0
    metrics.observe_attempt(granted=attempt.granted, reason=attempt.reason, seconds=seconds)
    try:
        decisions.announce(attempt.pk)
        if payload_key:
            payloads.discard(payload_key)
    except (decisions.DecisionsUnavailableError, payloads.PayloadStoreUnavailable):
        log.exception("attempt %s is settled, but nobody could be told", attempt.pk)
    # Last, and outside the decision's transaction: nobody at a door waits while refusals are counted, nor for the
    # row of an alarm. A process that dies right here leaves the alarm to the next refusal, which counts them all.
    if attempt.reason in PERSON_REFUSALS and attempt.settled_at is not None:
        _watch_refusals(attempt, attempt.settled_at)


def _watch_refusals(attempt: AccessAttempt, at: datetime) -> None:
    recent = AccessAttempt.objects.filter(
        door_id=attempt.door_id,
        received_at__gt=at - REFUSALS_WINDOW,
        state=AccessAttempt.State.SETTLED,
        reason__in=PERSON_REFUSALS,
    )
    refused = recent.count()
    if refused >= REFUSALS_BEFORE_ALARM:
        minutes = int(REFUSALS_WINDOW.total_seconds() // 60)
        with transaction.atomic():
            Door.objects.select_for_update(no_key=True).get(pk=attempt.door_id)  # two at once raise one alarm
            raise_alarm(
                kind=Alarm.Kind.REPEATED_REFUSALS,
                message=f"{refused} refusals at {attempt.door} within {minutes} minutes",
                at=at,
                door=attempt.door,
                terminal=attempt.terminal,
            )


# Terminals


def issue_pairing_code(*, terminal: Terminal, actor: str, at: datetime) -> str:
    """A new one-time code; it takes the place of an unused one. Returned once, kept as a hash. Revoked
    terminals too:
    pairing again gives them a new key."""
    code = "".join(secrets.choice(PAIRING_ALPHABET) for _ in range(PAIRING_CODE_LENGTH))
    with transaction.atomic():
        Terminal.objects.select_for_update().get(pk=terminal.pk)
        PairingCode.objects.filter(terminal=terminal, used_at=None).delete()
        PairingCode.objects.create(
            terminal=terminal,
            code_hash=_hash_pairing_code(code),
            issued_by=actor,
            issued_at=at,
            expires_at=at + PAIRING_CODE_LIFETIME,
        )
        audit.services.record(
            kind="terminal.pairing_code_issued", actor=actor, at=at, subject=f"terminal:{terminal.pk}",
            details={"name": terminal.name},
        )  # fmt: skip
    return code


def pair_terminal(*, code: str, public_key: bytes, at: datetime, software: str = "") -> Terminal:
    """Spends a code: the key becomes this terminal's key, at the site of its door. Two devices with one code
    race for
    its row lock; the second finds it used.

    Refusals: pairing_code_invalid (unknown, used and expired alike, so that guessing learns nothing),
    key_malformed,
    key_taken.
    """
    key_id = _require_key(public_key)
    with transaction.atomic():
        found = (
            PairingCode.objects.select_for_update(of=("self",))
            .filter(code_hash=_hash_pairing_code(code), used_at=None, expires_at__gt=at)
            .first()
        )
        if found is None:
            raise AccessRefused(
                "pairing_code_invalid", "this code is not valid; ask an administrator for a new one"
            )
        _require_free_key(key_id)
        terminal = (
            Terminal.objects.select_for_update(of=("self",)).select_related("door").get(pk=found.terminal_id)
        )
        found.used_at = at
        found.save(update_fields=["used_at"])
        terminal.site_id = terminal.door.site_id if terminal.door is not None else None
        terminal.state = Terminal.State.ACTIVE
        terminal.key_id, terminal.public_key = key_id, public_key
        terminal.previous_key_id = terminal.previous_public_key = terminal.previous_key_until = None
        terminal.paired_at = terminal.last_seen_at = at
        terminal.revoked_at = None
        terminal.software = software[:100]
        terminal.save()
        audit.services.record(
            kind="terminal.paired", actor=f"terminal:{terminal.pk}", at=at, subject=f"terminal:{terminal.pk}",
            details={"name": terminal.name, "key_id": key_id, "door": str(terminal.door_id or "")},
        )  # fmt: skip
        live.publish("terminal", {"id": str(terminal.pk), "state": terminal.state})
    return terminal


def roll_terminal_key(*, terminal: Terminal, public_key: bytes, at: datetime) -> Terminal:
    """A new key for a terminal in use. The old one still signs for PREVIOUS_KEY_GRACE, in case the answer is
    lost.

    Refusals: terminal_revoked, key_malformed, key_taken.
    """
    key_id = _require_key(public_key)
    with transaction.atomic():
        terminal = Terminal.objects.select_for_update(of=("self",)).get(pk=terminal.pk)
        if terminal.state != Terminal.State.ACTIVE:
            raise AccessRefused("terminal_revoked", "this terminal is not in use")
        if key_id == terminal.key_id:
            return terminal  # the answer to the first request was lost; the terminal asks again
        _require_free_key(key_id)
        terminal.previous_key_id, terminal.previous_public_key = terminal.key_id, terminal.public_key
        terminal.previous_key_until = at + PREVIOUS_KEY_GRACE
        terminal.key_id, terminal.public_key = key_id, public_key
        terminal.save()
        audit.services.record(
            kind="terminal.key_rolled", actor=f"terminal:{terminal.pk}", at=at,
            subject=f"terminal:{terminal.pk}",
            details={"key_id": key_id, "previous_key_id": terminal.previous_key_id},
        )  # fmt: skip
    return terminal


def revoke_terminal(*, terminal: Terminal, actor: str, at: datetime) -> Terminal:
    """From this commit on nothing signed by this terminal is obeyed, and its attempts under way are
    refused."""
    with transaction.atomic():
        terminal = Terminal.objects.select_for_update(of=("self",)).get(pk=terminal.pk)
        if terminal.state == Terminal.State.REVOKED:
            return terminal
        terminal.state = Terminal.State.REVOKED
        terminal.revoked_at = at
        terminal.previous_key_id = terminal.previous_public_key = terminal.previous_key_until = None
        terminal.save()
        PairingCode.objects.filter(terminal=terminal, used_at=None).delete()
        audit.services.record(
            kind="terminal.revoked", actor=actor, at=at, subject=f"terminal:{terminal.pk}",
            details={"name": terminal.name, "key_id": terminal.key_id or ""},
        )  # fmt: skip
        live.publish("terminal", {"id": str(terminal.pk), "state": terminal.state})
    return terminal


def spend_nonce(*, terminal: Terminal, nonce: str, created: datetime, at: datetime) -> None:
    """Refuses a nonce seen before. Copies of one request that race are decided by the database's constraint.

    Refusals: nonce_replayed, which also raises an alarm.
    """
    expires = created + timedelta(seconds=settings.LINTEL_CLOCK_WINDOW_S) + NONCE_KEPT
    try:
        with transaction.atomic():
            UsedNonce.objects.create(terminal=terminal, nonce=nonce, expires_at=expires)
            if terminal.last_seen_at is None or at - terminal.last_seen_at >= LAST_SEEN_PRECISION:
                Terminal.objects.filter(pk=terminal.pk).update(last_seen_at=at)
    except IntegrityError as error:
        report_misuse(
            kind=Alarm.Kind.NONCE_REPLAYED,
            message=f"A recorded request of {terminal} was sent again",
            terminal=terminal,
            at=at,
            code="nonce_replayed",
        )
        raise AccessRefused("nonce_replayed", "this request was sent before") from error


def forget_nonces(*, at: datetime) -> int:
    """Deletes nonces that the clock window refuses by itself; how many."""
    deleted, _ = UsedNonce.objects.filter(expires_at__lte=at).delete()
    return deleted


def _require_key(public_key: bytes) -> str:
    if len(public_key) != 32:
        raise AccessRefused("key_malformed", "an Ed25519 public key has 32 bytes")
    return key_id_of(public_key)


def _require_free_key(key_id: str) -> None:
    if Terminal.objects.filter(Q(key_id=key_id) | Q(previous_key_id=key_id)).exists():
        raise AccessRefused("key_taken", "this key belongs to a terminal already; make a new one")


def _hash_pairing_code(code: str) -> str:
    """Codes are read aloud and typed: case, spaces and dashes do not matter."""
    plain = "".join(code.upper().split()).replace("-", "")
    return hashlib.sha256(b"lintel pairing code\0" + plain.encode()).hexdigest()


# Lock-down


def lock_down(*, site: Site, reason: str, actor: str, at: datetime) -> Site:
    """Shuts every door of the site, attempts under way included. Locking a locked site changes nothing.

    Refusals: reason_missing.
    """
    if not reason.strip():
        raise AccessRefused("reason_missing", "say why, in a few words")
    with transaction.atomic():
        site = Site.objects.select_for_update().get(pk=site.pk)
        if site.locked_down:
            return site
        site.locked_down, site.locked_down_reason = True, reason.strip()[:200]
        site.locked_down_at, site.locked_down_by = at, actor
        site.save()
        audit.services.record(
            kind="site.locked_down", actor=actor, at=at, subject=f"site:{site.pk}",
            details={"name": site.name, "reason": site.locked_down_reason},
        )  # fmt: skip
        live.publish("alarm", {"site": site.pk, "locked_down": True})
    return site


def lift_lock_down(*, site: Site, actor: str, at: datetime) -> Site:
    """The rules hold again. Lifting what is not locked changes nothing."""
    with transaction.atomic():
        site = Site.objects.select_for_update().get(pk=site.pk)
        if not site.locked_down:
            return site
        details = {
            "name": site.name,
            "reason": site.locked_down_reason,
            "locked_down_by": site.locked_down_by,
        }
        site.locked_down, site.locked_down_reason, site.locked_down_at, site.locked_down_by = (
            False,
            "",
            None,
            "",
        )
        site.save()
        audit.services.record(
            kind="site.lock_down_lifted", actor=actor, at=at, subject=f"site:{site.pk}", details=details
        )
        live.publish("alarm", {"site": site.pk, "locked_down": False})
    return site


# Alarms


def raise_alarm(
    *,
    kind: str,
    message: str,
    at: datetime,
    door: Door | None = None,
    terminal: Terminal | None = None,
    site: Site | None = None,
    details: dict[str, str] | None = None,
) -> Alarm:
    """Raises an alarm, or counts up the same one of the last minutes. Only a new one leaves an audit entry,
    so that
    whoever provokes alarms cannot fill the log."""
    with transaction.atomic():
        same = Alarm.objects.filter(kind=kind, door=door, terminal=terminal, acknowledged_at=None)
        recent = same.filter(last_at__gt=at - ALARM_REPEATS_WITHIN).order_by("-last_at").first()
        if recent is not None:
            Alarm.objects.filter(pk=recent.pk).update(count=F("count") + 1, last_at=at, message=message)
            recent.refresh_from_db()
            return recent
        alarm = Alarm.objects.create(
            kind=kind, message=message, raised_at=at, last_at=at, door=door, terminal=terminal,
            site=site or (door.site if door is not None else None),
        )  # fmt: skip
        audit.services.record(
            kind="alarm.raised", actor="lintel", at=at, subject=f"alarm:{alarm.pk}",
            details={"kind": kind, "message": message, **(details or {})},
        )  # fmt: skip
        live.publish("alarm", {"id": alarm.pk, "kind": kind})
    return alarm


def acknowledge_alarm(*, alarm: Alarm, actor: str, at: datetime) -> Alarm:
    """Somebody saw it. The first one counts."""
    with transaction.atomic():
        alarm = Alarm.objects.select_for_update(of=("self",)).get(pk=alarm.pk)
        if alarm.acknowledged_at is None:
            alarm.acknowledged_at, alarm.acknowledged_by = at, actor
            alarm.save(update_fields=["acknowledged_at", "acknowledged_by"])
            audit.services.record(
                kind="alarm.acknowledged", actor=actor, at=at, subject=f"alarm:{alarm.pk}",
                details={"kind": alarm.kind, "count": alarm.count},
            )  # fmt: skip
            live.publish("alarm", {"id": alarm.pk, "kind": alarm.kind})
    return alarm


def report_misuse(*, kind: str, message: str, terminal: Terminal, at: datetime, code: str) -> Alarm:
    """Somebody speaks in the name of a terminal we know and is not believed."""
    return raise_alarm(
        kind=kind, message=message, at=at, terminal=terminal, door=terminal.door,
        details={"terminal": str(terminal.pk), "code": code},
    )  # fmt: skip


def watch_terminals(*, at: datetime) -> int:
    """Raises an alarm for every terminal in use that fell silent; how many were new. Each silence counts
    once."""
    raised = 0
    silent = Terminal.objects.filter(
        state=Terminal.State.ACTIVE, last_seen_at__lte=at - TERMINAL_SILENT_AFTER
    )
    for terminal in silent.select_related("door__site"):
        known = Alarm.objects.filter(
            kind=Alarm.Kind.TERMINAL_SILENT, terminal=terminal, raised_at__gte=terminal.last_seen_at
        )
        if known.exists():
            continue
        raise_alarm(
            kind=Alarm.Kind.TERMINAL_SILENT,
            message=f"{terminal} is silent",
            at=at,
            terminal=terminal,
            door=terminal.door,
        )
        raised += 1
    return raised


def report_broken_audit(*, message: str, at: datetime) -> Alarm:
    return raise_alarm(kind=Alarm.Kind.AUDIT_BROKEN, message=message[:300], at=at)


# Tokens of integrators


def create_api_token(
    *, name: str, scopes: Sequence[str], actor: str, at: datetime, expires_at: datetime | None = None
) -> tuple[ApiToken, str]:
    """The row, and the token itself, which is shown once and kept as a hash. Refusals: scopes_invalid,
    name_taken."""
    wanted = sorted(set(scopes))
    if not wanted or not set(wanted) <= set(Scope.values):
        raise AccessRefused("scopes_invalid", "choose at least one of the known scopes")
    token = TOKEN_PREFIX + secrets.token_urlsafe(32)
    with transaction.atomic():
        if ApiToken.objects.filter(name=name).exists():
            raise AccessRefused("name_taken", "another token has this name")
        row = ApiToken.objects.create(
            name=name,
            token_hash=hash_token(token),
            scopes=wanted,
            created_by=actor,
            created_at=at,
            expires_at=expires_at,
        )
        audit.services.record(
            kind="api_token.created", actor=actor, at=at, subject=f"api_token:{row.pk}",
            details={"name": name, "scopes": wanted},
        )  # fmt: skip
    return row, token


def revoke_api_token(*, token: ApiToken, actor: str, at: datetime) -> ApiToken:
    """From this commit on the token opens nothing. Revoking twice changes nothing."""
    with transaction.atomic():
        token = ApiToken.objects.select_for_update().get(pk=token.pk)
        if token.revoked_at is None:
            token.revoked_at = at
            token.save(update_fields=["revoked_at"])
            audit.services.record(
                kind="api_token.revoked",
                actor=actor,
                at=at,
                subject=f"api_token:{token.pk}",
                details={"name": token.name},
            )
    return token


def find_api_token(*, token: str, at: datetime) -> ApiToken | None:
    """The valid token, its last use noted to the minute."""
    row = ApiToken.objects.filter(token_hash=hash_token(token)).first()
    if row is None or not row.is_valid(at):
        return None
    if row.last_used_at is None or at - row.last_used_at >= timedelta(minutes=1):
        ApiToken.objects.filter(pk=row.pk).update(last_used_at=at)
    return row


def hash_token(token: str) -> str:
    """A token has 256 random bits: nothing to guess, so a fast hash is enough."""
    return hashlib.sha256(token.encode()).hexdigest()


# Rules of integrators


def save_rule(*, rule: AccessRule, doors: Iterable[Door], actor: str, at: datetime) -> AccessRule:
    """Creates or changes a rule together with its doors."""
    with transaction.atomic():
        kind = "rule.created" if rule._state.adding else "rule.changed"
        rule.save()
        rule.doors.set(doors)
        audit.services.record(
            kind=kind, actor=actor, at=at, subject=str(rule.pk),
            details={
                "name": rule.name,
                "values": {
                    "group": rule.group.name,
                    "doors": sorted(str(door) for door in rule.doors.values_list("pk", flat=True)),
                    "schedule": rule.schedule.name if rule.schedule else None,
                    "is_active": rule.is_active,
                    "valid_from": rule.valid_from.isoformat() if rule.valid_from else None,
                    "valid_until": rule.valid_until.isoformat() if rule.valid_until else None,
                },
            },
        )  # fmt: skip
    return rule


def delete_rule(*, rule: AccessRule, actor: str, at: datetime) -> None:
    with transaction.atomic():
        audit.services.record(
            kind="rule.deleted", actor=actor, at=at, subject=str(rule.pk), details={"name": rule.name}
        )
        rule.delete()
