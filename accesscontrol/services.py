"""What happens at doors: attempts, terminals, lock-down, alarms, tokens. Each service is one transaction with
its audit entry.

Who may run at the same time: anybody, in any number of processes. An attempt is settled under its row lock by whoever
comes first; everybody after finds it settled and changes nothing. Locks are taken in one order: attempt, person, audit
log.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, IntegrityError, transaction
from django.db.models import F, Q
from django.utils import timezone

import audit.services
from accesscontrol import captures, decisions, live, metrics, queries
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
from accesscontrol.policy import (
    ENOUGH,
    STEPS,
    Asked,
    CardFacts,
    Facts,
    Match,
    PersonFacts,
    PinState,
    Reason,
    RuleFacts,
    Shown,
    decide,
    rank,
    read_weekly,
    told,
)
from accesscontrol.prepared import (
    Question,
    on_a_connection_that_lives,
    together,
    transaction_around_one_asking,
)
from enrollment import payloads, proofs
from enrollment.models import Card, Person
from enrollment.services import audit_subject
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


@dataclass(frozen=True)
class Proof:
    """What was found out about the PIN or the card that an attempt showed."""

    pin: PinState | None = None
    card: CardFacts | None = None
    step_is_open: bool = True


@dataclass(frozen=True)
class Known:
    """What the database knew once the locks were held: of the place of an attempt, and of the best match or the owner
    of the card."""

    terminal_is_active: bool
    terminal_site: int | None
    door_is_active: bool
    site: int
    zone: int | None
    anti_passback: bool
    site_is_locked_down: bool
    time_zone: str
    asks_for: Asked
    person: Person | None
    has_consent: bool
    has_pin: bool
    has_card: bool
    is_somewhere: bool  # in any zone of this site
    is_inside: bool  # in the door's zone
    rules: tuple[RuleFacts, ...]


def submit_attempt(
    *, terminal: Terminal, payload: bytes, nonce: str, at: datetime, signed_at: datetime | None = None
) -> AccessAttempt:
    """Stores the attempt, puts the capture where one worker can take it, and calls a worker after commit.

    With `signed_at`, when the request was signed, the nonce is spent in the same transaction; without, it is spent
    already. A capture that is refused, or that cannot be passed on, comes back as an attempt settled as denied; so does
    one at a door that asks for no face, and nobody looks at it. Refusals: terminal_without_door, nonce_replayed.
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
    asks_for = getattr(terminal, "door_asks_for", None)  # known with a terminal that was found by its key
    if asks_for is not None and Asked(asks_for) not in STEPS and Shown.FACE not in ENOUGH[Asked(asks_for)]:
        return _refuse_at_once(attempt, Identification(), signed_at, at=at)
    try:
        attempt.profile_hash = captures.check_capture(payload).hash
    except PayloadError as error:
        return _refuse_at_once(
            attempt, Identification(fault=Reason.PAYLOAD_REFUSED, detail=error.code), signed_at, at=at
        )
    try:
        attempt.payload_key = payloads.store(
            payload,
            min(settings.LINTEL_PAYLOAD_TTL_S, settings.LINTEL_ATTEMPT_DEADLINE_MS / 1000),
            key=payload_key_of(attempt.pk),
        )
    except payloads.PayloadStoreUnavailable as error:
        return _refuse_at_once(
            attempt, Identification(fault=Reason.RECOGNIZER_FAULT, detail=error.code), signed_at, at=at
        )
    try:
        with _own_nonce(attempt, at), transaction_around_one_asking():
            newest = _insert(attempt, signed_at, queries.NEWEST_GALLERY_CHANGE.asked())[-1]
            dispatch(IDENTIFY_TASK, attempt_id=str(attempt.id), sequence=newest[0][0] if newest else 0)
    except AccessRefused:
        with suppress(payloads.PayloadStoreUnavailable):  # it forgets by itself in seconds
            payloads.discard(attempt.payload_key)
        raise
    _note_seen(terminal, at)  # while a worker is busy already
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
    capture_is_taken: bool = False,
) -> AccessAttempt:
    """Decides a pending attempt, once. A settled one comes back as it is, whatever was found since.

    `candidates` are those of a search of the whole gallery; `fault` says why there was none. `at` None takes
    the moment after the locks are held, so that time spent waiting for them counts against the deadline. Whoever took
    the capture out of its store says so; otherwise it is discarded.
    """
    identification = Identification(gallery_size, threshold, model, fault, detail)
    matches = rank(candidates)

    def settle() -> AccessAttempt:
        with transaction.atomic():
            attempt, known = _lock(attempt_id, _whom(identification, matches))
            if attempt.state == AccessAttempt.State.SETTLED:
                return attempt
            payload_key = "" if capture_is_taken else attempt.payload_key
            # The waiting request first: events and counts can wait, a person at a door should not.
            transaction.on_commit(lambda: _tell(attempt, payload_key))
            _settle(attempt, identification, matches, known, at or timezone.now())
            transaction.on_commit(lambda: _after_settling(attempt))
        return attempt

    return on_a_connection_that_lives(settle)  # whoever settles twice finds it settled


def payload_key_of(attempt_id: uuid.UUID) -> str:
    """Under which key the capture of an attempt waits for a worker: as long as the attempt is pending, its
    `payload_key` too."""
    return str(attempt_id)


def deadline_of_pending(*, attempt_id: uuid.UUID) -> datetime | None:
    """Of an attempt that nobody has settled yet; None of any other."""
    rows = queries.DEADLINE_OF_PENDING.first(attempt=attempt_id)
    return rows[0][0] if rows else None


def attempt_now(*, attempt_id: uuid.UUID) -> AccessAttempt:
    """As the database has it now. Raises AccessAttempt.DoesNotExist."""
    attempt = queries.ATTEMPT(attempt=attempt_id)
    if attempt is None:
        raise AccessAttempt.DoesNotExist(f"there is no attempt {attempt_id}")
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
    attempt = attempt_now(attempt_id=attempt_id)
    if attempt.state == AccessAttempt.State.PENDING and at >= attempt.deadline_at:
        return settle_attempt(attempt_id=attempt_id, at=at)
    return attempt


def answer(attempt: AccessAttempt, *, at: datetime) -> tuple[bool, Reason]:
    """What a door is told at `at`: never "granted" at or after the deadline, even where the attempt was
    granted in time; and of cards and PINs no more than `policy.told` allows."""
    if attempt.granted and at < attempt.deadline_at:
        return True, Reason.GRANTED
    if attempt.granted:
        return False, Reason.DEADLINE_PASSED
    return False, told(Reason(attempt.reason), Shown(attempt.shown))


def step_ends_at(attempt: AccessAttempt) -> datetime | None:
    """Until when a PIN or a card may follow this attempt; None where nothing may."""
    if attempt.reason not in set(STEPS.values()) or attempt.settled_at is None:
        return None
    return attempt.settled_at + timedelta(seconds=settings.LINTEL_PROOF_TTL_S)


def submit_proof(
    *,
    terminal: Terminal,
    nonce: str,
    at: datetime,
    attempt_id: uuid.UUID | None = None,
    pin: str = "",
    card: str = "",
) -> AccessAttempt:
    """A PIN or a card after the face of `attempt_id`, or a card and its PIN without any face. Comes back settled.

    It follows the first attempt as one of its own: whoever comes second finds the place taken. A wrong PIN spends it
    too, and the person looks at the camera again. Raises AccessAttempt.DoesNotExist for an attempt of another terminal.
    Refusals: terminal_without_door, proof_incomplete, proof_not_asked, proof_used.
    """
    if terminal.door_id is None or terminal.role != Terminal.Role.DOOR:
        raise AccessRefused("terminal_without_door", "this terminal opens no door")
    first = AccessAttempt.objects.get(pk=attempt_id, terminal=terminal) if attempt_id is not None else None
    shown = _shown_by(first, pin=pin, card=card)
    found = proofs.find_card(card) if card else None
    person_id = first.person_id if first is not None else found.person_id if found is not None else None
    ends_at = step_ends_at(first) if first is not None else None
    step_is_open = first is None or (
        ends_at is not None and at < ends_at and first.door_id == terminal.door_id
    )
    attempt = AccessAttempt(
        id=uuid.uuid4(),
        terminal=terminal,
        door_id=terminal.door_id,
        nonce=nonce,
        shown=shown.value,
        follows=first,
        profile_hash=first.profile_hash if first is not None else "",
        payload_bytes=0,
        received_at=at,
        deadline_at=at + timedelta(milliseconds=settings.LINTEL_ATTEMPT_DEADLINE_MS),
    )
    tried: proofs.PinTry | None = None
    try:
        with transaction.atomic():
            attempt.save(force_insert=True)
            if pin and step_is_open:
                tried = proofs.begin_try(person_id=person_id, at=at)
    except IntegrityError as error:
        raise AccessRefused("proof_used", "this attempt was followed already; begin anew") from error
    # Slow, and outside of both transactions: nobody else's door waits for it.
    patience_s = (attempt.deadline_at - timezone.now()).total_seconds()
    is_right = proofs.compare(tried, pin, patience_s=patience_s) if tried is not None else False
    with transaction.atomic():
        attempt, known = _lock(attempt.pk, person_id)
        if attempt.state == AccessAttempt.State.SETTLED:
            return attempt  # its deadline passed meanwhile, and somebody settled it
        now = timezone.now()
        check = proofs.finish_try(tried, is_right=is_right, at=now) if tried is not None else None
        if found is not None:
            found = Card.objects.filter(pk=found.pk).first()  # blocked or taken away meanwhile
        proof = Proof(
            pin=PinState(check.value) if check is not None else None,
            card=CardFacts(str(found.person_id), found.blocked_at is not None) if found is not None else None,
            step_is_open=step_is_open,
        )
        transaction.on_commit(lambda: _after_settling(attempt))
        if check == proofs.PinCheck.WRONG and tried is not None and tried.locks:
            transaction.on_commit(lambda: _raise_about_proof(attempt, Alarm.Kind.PIN_LOCKED))
        _settle(attempt, _as_found_at(first), _match_of(first), known, now, proof)
        if attempt.reason == Reason.CARD_BLOCKED:
            transaction.on_commit(lambda: _raise_about_proof(attempt, Alarm.Kind.BLOCKED_CARD))
    return attempt


def _shown_by(first: AccessAttempt | None, *, pin: str, card: str) -> Shown:
    """Which of the ways this is. Whether the door takes it is the policy's to say."""
    if first is None:
        if pin and card:
            return Shown.CARD_AND_PIN
        raise AccessRefused("proof_incomplete", "without a face a door wants a card and its PIN")
    if first.reason not in set(STEPS.values()):
        raise AccessRefused("proof_not_asked", "this attempt asked for neither PIN nor card")
    if bool(pin) == bool(card) or bool(pin) != (first.reason == Reason.PIN_REQUIRED):
        raise AccessRefused("proof_incomplete", "send what the attempt asked for, the PIN or the card")
    return Shown.FACE_AND_PIN if pin else Shown.FACE_AND_CARD


def _as_found_at(first: AccessAttempt | None) -> Identification:
    if first is None:
        return Identification()
    return Identification(first.gallery_size, first.threshold, first.model)


def _match_of(first: AccessAttempt | None) -> tuple[Match, ...]:
    """Whom the first step made out, clearly, or it would not have asked for more."""
    if first is None or first.person_id is None or first.score is None:
        return ()
    return (Match(str(first.person_id), first.score),)


def _raise_about_proof(attempt: AccessAttempt, kind: Alarm.Kind) -> None:
    """Names nobody: an alarm is kept longer than a person may be."""
    door = Door.objects.select_related("site").get(pk=attempt.door_id)
    raise_alarm(
        kind=kind,
        message=f"{kind.label}, at {door.name}",
        at=timezone.now(),
        door=door,
        terminal=attempt.terminal,
    )


def gather_facts(
    *,
    attempt: AccessAttempt,
    known: Known,
    matches: tuple[Match, ...],
    identification: Identification,
    at: datetime,
    proof: Proof = Proof(),
) -> Facts:
    """Everything the policy needs."""
    holidays: frozenset[date] = frozenset()
    if any(rule.weekly is not None for rule in known.rules):
        holidays = holidays_around(site_id=known.site, time_zone=known.time_zone, at=at)
    return Facts(
        deadline=attempt.deadline_at,
        terminal_is_active=known.terminal_is_active,
        terminal_site=str(known.terminal_site) if known.terminal_site is not None else None,
        door_site=str(known.site),
        door_is_active=known.door_is_active,
        site_is_locked_down=known.site_is_locked_down,
        time_zone=known.time_zone,
        holidays=holidays,
        gallery_size=identification.gallery_size or 0,
        threshold=identification.threshold if identification.threshold is not None else float("inf"),
        matches=matches,
        person=None if known.person is None else person_facts(known.person, known),
        rules=known.rules,
        anti_passback=known.anti_passback,
        is_inside=known.anti_passback and known.is_inside,
        fault=identification.fault,
        asks_for=known.asks_for,
        shown=Shown(attempt.shown),
        pin=proof.pin,
        card=proof.card,
        step_is_open=proof.step_is_open,
    )


def person_facts(person: Person, known: Known) -> PersonFacts:
    return PersonFacts(
        person_id=str(person.pk),
        is_active=person.is_active,
        valid_from=person.valid_from,
        valid_until=person.valid_until,
        has_consent=known.has_consent,
        has_pin=known.has_pin,
        has_card=known.has_card,
    )


def holidays_around(*, site_id: int, time_zone: str, at: datetime) -> frozenset[date]:
    """The holidays that can matter at `at`: today on the site's clock, and yesterday for nights that run
    on."""
    today = at.astimezone(ZoneInfo(time_zone)).date()
    dates = Holiday.objects.filter(site=site_id, date__range=(today - timedelta(days=1), today))
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


def _refuse_at_once(
    attempt: AccessAttempt, identification: Identification, signed_at: datetime | None, *, at: datetime
) -> AccessAttempt:
    with _own_nonce(attempt, at), transaction.atomic():
        _insert(attempt, signed_at)
        _note_seen(attempt.terminal, at)
        _settle(attempt, identification, (), _lock(attempt.pk, None)[1], at)
        transaction.on_commit(lambda: _after_settling(attempt))
    return attempt


@contextmanager
def _own_nonce(attempt: AccessAttempt, at: datetime) -> Iterator[None]:
    """Copies of one request that race are decided by the database's constraints: the first one counts, every
    other raises an alarm."""
    try:
        yield
    except IntegrityError as error:
        report_replay(terminal=attempt.terminal, at=at)
        raise AccessRefused("nonce_replayed", REPLAYED) from error


def _insert(attempt: AccessAttempt, signed_at: datetime | None, *others: Question[Any]) -> list[Any]:
    """The row and, where it is unspent, its nonce; the answers to whatever else is to be asked on this occasion."""
    questions = [queries.INSERT_ATTEMPT.of(attempt), *others]
    if signed_at is not None:
        questions.insert(0, _spending(attempt.terminal, attempt.nonce, signed_at))
    answers = together(*questions)
    attempt._state.adding, attempt._state.db = False, DEFAULT_DB_ALIAS
    return answers


def _whom(identification: Identification, matches: tuple[Match, ...]) -> uuid.UUID | None:
    """The best match. Below the threshold the policy asks nobody who it was, so nobody is locked."""
    threshold = identification.threshold
    if not matches or threshold is None or matches[0].score < threshold:
        return None
    return uuid.UUID(matches[0].person_id)


def _lock(attempt_id: uuid.UUID, person_id: uuid.UUID | None) -> tuple[AccessAttempt, Known]:
    """Holds the attempt and the person still until the decision is committed: another worker, erasure, withdrawal of
    consent and a second door wait. What is known is read after both locks are held, so whoever was revoked or locked
    down while this attempt waited for them is seen. Raises AccessAttempt.DoesNotExist."""
    asked = [queries.LOCK_ATTEMPT.asked(attempt=attempt_id)]
    if person_id is not None:
        asked.append(queries.LOCK_PERSON.asked(person=person_id))  # type: ignore[arg-type]
    asked.append(queries.FACTS.asked(attempt=attempt_id, person=person_id))  # type: ignore[arg-type]
    if person_id is not None:
        asked.append(queries.RULES.asked(attempt=attempt_id, person=person_id))  # type: ignore[arg-type]
    attempt, *answers = together(*asked)
    if attempt is None:
        raise AccessAttempt.DoesNotExist(f"there is no attempt {attempt_id}")
    person, ((facts,), *rules) = (answers[0], answers[1:]) if person_id is not None else (None, answers)
    state, terminal_site, door_is_active, site, zone, anti_passback, locked_down, time_zone, *rest = facts
    asks_for, has_consent, has_pin, has_card, is_somewhere, is_inside = rest
    return attempt, Known(
        terminal_is_active=state == Terminal.State.ACTIVE,
        terminal_site=terminal_site,
        door_is_active=door_is_active,
        site=site,
        zone=zone,
        anti_passback=bool(anti_passback),
        site_is_locked_down=locked_down,
        time_zone=time_zone,
        asks_for=Asked(asks_for),
        person=person,
        has_consent=has_consent,
        has_pin=has_pin,
        has_card=has_card,
        is_somewhere=is_somewhere,
        is_inside=is_inside,
        rules=_rules(rules[0]) if rules and person is not None else (),
    )


def _rules(rows: Iterable[tuple[Any, ...]]) -> tuple[RuleFacts, ...]:
    return tuple(
        RuleFacts(is_active, valid_from, valid_until, None if schedule is None else read_weekly(weekly))
        for is_active, valid_from, valid_until, schedule, weekly in rows
    )


def _settle(
    attempt: AccessAttempt,
    identification: Identification,
    matches: tuple[Match, ...],
    known: Known,
    at: datetime,
    proof: Proof = Proof(),
) -> None:
    """Inside the transaction that holds the locks: decide, write, remember where the person is, leave an
    audit entry."""
    person = known.person
    facts = gather_facts(
        attempt=attempt, known=known, matches=matches, identification=identification, at=at, proof=proof
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
    if decision.granted and person is not None:
        _remember_presence(person, known, at)
    audit.services.record(
        effect=queries.SETTLE.bound(
            attempt=attempt.pk, granted=attempt.granted, reason=attempt.reason, detail=attempt.detail,
            person=attempt.person_id, score=attempt.score, threshold=attempt.threshold,
            gallery_size=attempt.gallery_size, model=attempt.model, settled_at=at,
        ),
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
            "shown": attempt.shown,
            **({"follows": str(attempt.follows_id)} if attempt.follows_id is not None else {}),
            "score": None if decision.score is None else round(decision.score, 4),
            "threshold": None if attempt.threshold is None else round(attempt.threshold, 4),
            "gallery_size": attempt.gallery_size,
            "model": attempt.model,
            "profile": attempt.profile_hash,
            "received_at": attempt.received_at.isoformat(),
        },
    )  # fmt: skip
    live.publish(
        "attempt", {"id": str(attempt.pk), "granted": decision.granted, "reason": decision.reason.value}
    )


def _remember_presence(person: Person, known: Known, at: datetime) -> None:
    """Under the person's lock. Only zones with anti-passback are remembered; any other door of the site leads
    out of them."""
    if known.anti_passback and known.zone is not None:
        Presence.objects.update_or_create(
            person=person, site_id=known.site, defaults={"zone_id": known.zone, "since": at}
        )
    elif known.is_somewhere:
        Presence.objects.filter(person=person, site_id=known.site).delete()


def _tell(attempt: AccessAttempt, payload_key: str) -> None:
    """The decision stands. What fails here costs a terminal its answer in time, or leaves a capture to its
    expiry."""
    try:
        if attempt.settled_at is not None:
            decisions.announce(
                attempt.pk, decisions.Outcome(attempt.granted, attempt.reason, attempt.settled_at)
            )
        if payload_key:
            payloads.discard(payload_key)
    except (decisions.DecisionsUnavailableError, payloads.PayloadStoreUnavailable):
        log.exception("attempt %s is settled, but nobody could be told", attempt.pk)


def _after_settling(attempt: AccessAttempt) -> None:
    """Last, and outside the decision's transaction: nobody at a door waits while refusals are counted, nor for the
    row of an alarm. A process that dies right here leaves the alarm to the next refusal, which counts them all."""
    seconds = (attempt.settled_at - attempt.received_at).total_seconds() if attempt.settled_at else 0.0
    metrics.observe_attempt(granted=attempt.granted, reason=attempt.reason, seconds=seconds)
    if attempt.reason in queries.PERSON_REFUSALS and attempt.settled_at is not None:
        _watch_refusals(attempt, attempt.settled_at)


def _watch_refusals(attempt: AccessAttempt, at: datetime) -> None:
    counted = queries.REFUSALS(door=attempt.door_id, since=at - REFUSALS_WINDOW)
    refused, door_name = counted[0] if counted else (0, "")
    if refused < REFUSALS_BEFORE_ALARM:
        return
    minutes = int(REFUSALS_WINDOW.total_seconds() // 60)
    message = f"{refused} refusals at {door_name} within {minutes} minutes"
    if queries.COUNT_ALARM_UP(
        door=attempt.door_id,
        terminal=attempt.terminal_id,
        since=at - ALARM_REPEATS_WITHIN,
        last_at=at,
        message=message,
    ):
        return
    with transaction.atomic():
        Door.objects.select_for_update(no_key=True).get(pk=attempt.door_id)  # two at once raise one alarm
        raise_alarm(
            kind=Alarm.Kind.REPEATED_REFUSALS,
            message=message,
            at=at,
            door=attempt.door,
            terminal=attempt.terminal,
        )


# Terminals


def issue_pairing_code(*, terminal: Terminal, actor: str, at: datetime) -> str:
    """A new one-time code; it takes the place of an unused one. Returned once, kept as a hash. Revoked terminals too:
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
    """Spends a code: the key becomes this terminal's key, at the site of its door. Two devices with one code race for
    its row lock; the second finds it used.

    Refusals: pairing_code_invalid (unknown, used and expired alike, so that guessing learns nothing),
    key_malformed, key_taken.
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
    """A new key for a terminal in use. The old one still signs for PREVIOUS_KEY_GRACE, in case the answer is lost.

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


REPLAYED = "this request was sent before"


@dataclass(frozen=True)
class Claimant:
    """The terminal that a request names, and whether that terminal has spent the request's nonce already."""

    terminal: Terminal
    nonce_is_spent: bool


def find_terminal(*, key_id: str, nonce: str) -> Claimant | None:
    """By its present key or its previous one. Read fresh each time: a cache would keep a revoked terminal
    alive."""
    for ask in queries.TERMINALS:
        terminal = ask.first(key_id=key_id, nonce=nonce)
        if terminal is not None:
            return Claimant(terminal, bool(terminal.nonce_is_spent))  # type: ignore[attr-defined]
    return None


def spend_nonce(*, terminal: Terminal, nonce: str, created: datetime, at: datetime) -> None:
    """Refuses a nonce seen before. Copies of one request that race are decided by the database's constraint.

    Refusals: nonce_replayed, which also raises an alarm.
    """
    try:
        with transaction.atomic():
            together(_spending(terminal, nonce, created))
            _note_seen(terminal, at)
    except IntegrityError as error:
        report_replay(terminal=terminal, at=at)
        raise AccessRefused("nonce_replayed", REPLAYED) from error


def report_replay(*, terminal: Terminal, at: datetime) -> None:
    report_misuse(
        kind=Alarm.Kind.NONCE_REPLAYED,
        message=f"A recorded request of {terminal} was sent again",
        terminal=terminal,
        at=at,
        code="nonce_replayed",
    )


def _spending(terminal: Terminal, nonce: str, signed_at: datetime) -> Question[None]:
    """Ask it inside a transaction. IntegrityError says that the nonce was spent before."""
    expires = signed_at + timedelta(seconds=settings.LINTEL_CLOCK_WINDOW_S) + NONCE_KEPT
    return queries.INSERT_NONCE.of(UsedNonce(terminal=terminal, nonce=nonce, expires_at=expires))


def _note_seen(terminal: Terminal, at: datetime) -> None:
    if terminal.last_seen_at is None or at - terminal.last_seen_at >= LAST_SEEN_PRECISION:
        Terminal.objects.filter(pk=terminal.pk).update(last_seen_at=at)


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
    """Raises an alarm, or counts up the same one of the last minutes. Only a new one leaves an audit entry, so that
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
