"""Who may open which door when. Pure: every fact is a value, the moment is an argument, and what is not
allowed is denied."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from enum import StrEnum
from zoneinfo import ZoneInfo

AMBIGUITY_MARGIN = 0.03  # cosine; two people above the threshold and closer than this are not told apart
DAY_MINUTES = 24 * 60


class Reason(StrEnum):
    """Why an attempt ended as it did. Stable: terminals, integrators and the audit log know these codes."""

    GRANTED = "granted"
    GALLERY_EMPTY = "gallery_empty"
    NO_MATCH = "no_match"
    AMBIGUOUS_MATCH = "ambiguous_match"
    PERSON_INACTIVE = "person_inactive"
    PERSON_NOT_YET_VALID = "person_not_yet_valid"
    PERSON_EXPIRED = "person_expired"
    CONSENT_MISSING = "consent_missing"
    NO_RULE = "no_rule"
    OUTSIDE_SCHEDULE = "outside_schedule"
    HOLIDAY = "holiday"
    DOOR_INACTIVE = "door_inactive"
    SITE_LOCKED_DOWN = "site_locked_down"
    TERMINAL_REVOKED = "terminal_revoked"
    WRONG_SITE = "wrong_site"
    ANTI_PASSBACK = "anti_passback"
    DEADLINE_PASSED = "deadline_passed"
    PAYLOAD_MISSING = "payload_missing"
    PAYLOAD_REFUSED = "payload_refused"
    RECOGNIZER_FAULT = "recognizer_fault"
    PIN_REQUIRED = "pin_required"
    CARD_REQUIRED = "card_required"
    STEP_EXPIRED = "step_expired"
    METHOD_REFUSED = "method_refused"
    PIN_MISSING = "pin_missing"
    PIN_WRONG = "pin_wrong"
    PIN_LOCKED = "pin_locked"
    CARD_MISSING = "card_missing"
    CARD_UNKNOWN = "card_unknown"
    CARD_BLOCKED = "card_blocked"
    CARD_OF_ANOTHER = "card_of_another"
    PROOF_REFUSED = "proof_refused"  # told at the door in place of a finer one, see `told`; never recorded


class Asked(StrEnum):
    """How people identify themselves at a door."""

    FACE = "face"
    FACE_AND_PIN = "face_and_pin"
    FACE_AND_CARD = "face_and_card"
    CARD_AND_PIN = "card_and_pin"
    FACE_OR_CARD_AND_PIN = "face_or_card_and_pin"


class Shown(StrEnum):
    """What one attempt showed."""

    FACE = "face"
    FACE_AND_PIN = "face_and_pin"
    FACE_AND_CARD = "face_and_card"
    CARD_AND_PIN = "card_and_pin"


class PinState(StrEnum):
    """What came of comparing a PIN with this person's. A locked one is compared with nothing."""

    RIGHT = "right"
    WRONG = "wrong"
    LOCKED = "locked"


#: What opens each kind of door. What is not listed opens nothing.
ENOUGH: Mapping[Asked, frozenset[Shown]] = {
    Asked.FACE: frozenset({Shown.FACE}),
    Asked.FACE_AND_PIN: frozenset({Shown.FACE_AND_PIN}),
    Asked.FACE_AND_CARD: frozenset({Shown.FACE_AND_CARD}),
    Asked.CARD_AND_PIN: frozenset({Shown.CARD_AND_PIN}),
    Asked.FACE_OR_CARD_AND_PIN: frozenset({Shown.FACE, Shown.CARD_AND_PIN}),
}
#: Doors that go on asking once they know the face, and with which refusal: the first of two steps.
STEPS: Mapping[Asked, Reason] = {
    Asked.FACE_AND_PIN: Reason.PIN_REQUIRED,
    Asked.FACE_AND_CARD: Reason.CARD_REQUIRED,
}
#: Told apart in the record, and never at the door: each would say which cards exist, or whose they are.
_ABOUT_A_CARD = frozenset({Reason.CARD_UNKNOWN, Reason.CARD_BLOCKED, Reason.CARD_OF_ANOTHER})
_ABOUT_A_PIN = frozenset({Reason.PIN_MISSING, Reason.PIN_WRONG, Reason.PIN_LOCKED})


@dataclass(frozen=True)
class Explanation:
    """A reason for people: what happened, and what to do next (empty when there is nothing to do)."""

    sentence: str
    next_step: str


EXPLANATIONS: Mapping[Reason, Explanation] = {
    Reason.GRANTED: Explanation("Welcome.", ""),
    Reason.GALLERY_EMPTY: Explanation("Nobody is enrolled yet.", "Enroll at least one person."),
    Reason.NO_MATCH: Explanation(
        "You were not recognized.", "Face the camera and try again, or ask at the desk."
    ),
    Reason.AMBIGUOUS_MATCH: Explanation(
        "Two enrolled people look too alike to tell apart.",
        "Open by hand and enroll both again in good light.",
    ),
    Reason.PERSON_INACTIVE: Explanation("This person's access is switched off.", "Ask an administrator."),
    Reason.PERSON_NOT_YET_VALID: Explanation(
        "This person's access has not begun yet.", "Come back on the first day."
    ),
    Reason.PERSON_EXPIRED: Explanation(
        "This person's access has ended.", "Ask an administrator to extend it."
    ),
    Reason.CONSENT_MISSING: Explanation(
        "There is no consent on record.", "Record consent at the desk, then enroll."
    ),
    Reason.NO_RULE: Explanation(
        "No rule lets this person through this door.", "Ask an administrator for access."
    ),
    Reason.OUTSIDE_SCHEDULE: Explanation(
        "It is outside the permitted hours.", "Come back within the permitted hours."
    ),
    Reason.HOLIDAY: Explanation("The site is closed for a holiday.", "Come back after the holiday."),
    Reason.DOOR_INACTIVE: Explanation("This door is switched off.", "Use another door."),
    Reason.SITE_LOCKED_DOWN: Explanation("The site is locked down.", "Follow the guards' instructions."),
    Reason.TERMINAL_REVOKED: Explanation(
        "This terminal is no longer trusted.", "Ask an administrator to pair it again."
    ),
    Reason.WRONG_SITE: Explanation(
        "This terminal was paired for another site.", "Ask an administrator to pair it again for this door."
    ),
    Reason.ANTI_PASSBACK: Explanation(
        "This person is inside already.", "Leave through a door first; a guard can correct a mistake."
    ),
    Reason.DEADLINE_PASSED: Explanation(
        "The answer came too late.", "Try again; if it persists, check the workers."
    ),
    Reason.PAYLOAD_MISSING: Explanation("The capture was gone before it was looked at.", "Try again."),
    Reason.PAYLOAD_REFUSED: Explanation(
        "The capture was not acceptable.",
        "Try again; if it persists, update the terminal and its privacy profile.",
    ),
    Reason.RECOGNIZER_FAULT: Explanation(
        "Recognition failed.", "Try again; if it persists, check the workers."
    ),
    Reason.PIN_REQUIRED: Explanation("This door asks for a PIN as well.", "Enter the PIN."),
    Reason.CARD_REQUIRED: Explanation(
        "This door asks for a card as well.", "Hold the card to the reader, or type its number."
    ),
    Reason.STEP_EXPIRED: Explanation("The time for PIN or card was over.", "Look at the camera again."),
    Reason.METHOD_REFUSED: Explanation(
        "This door asks people to identify themselves in another way.", "Show what this door asks for."
    ),
    Reason.PIN_MISSING: Explanation("This person has no PIN.", "Set one at the desk."),
    Reason.PIN_WRONG: Explanation("The PIN is wrong.", "Try again, or ask at the desk."),
    Reason.PIN_LOCKED: Explanation(
        "The PIN is locked after too many wrong tries.", "Wait, or set a new one at the desk."
    ),
    Reason.CARD_MISSING: Explanation("This person has no card that works.", "Add one at the desk."),
    Reason.CARD_UNKNOWN: Explanation("Nobody has this card.", "Try again, or ask at the desk."),
    Reason.CARD_BLOCKED: Explanation("This card is blocked.", "Ask at the desk."),
    Reason.CARD_OF_ANOTHER: Explanation(
        "This card belongs to somebody else.", "Show the card of the person at the door."
    ),
    Reason.PROOF_REFUSED: Explanation("Card or PIN was not accepted.", "Try again, or ask at the desk."),
}


@dataclass(frozen=True)
class Interval:
    """A weekly stretch of wall-clock time that begins on `day` (Monday is 0).

    `start`, `end`: minutes after midnight, 0..1440. An end at or before the start lies on the next day.
    """

    day: int
    start: int
    end: int

    def __post_init__(self) -> None:
        if not 0 <= self.day <= 6:
            raise ValueError("a day is 0 (Monday) to 6 (Sunday)")
        if not (0 <= self.start < DAY_MINUTES and 0 < self.end <= DAY_MINUTES) or self.start == self.end:
            raise ValueError("an interval begins before 24:00, ends after 00:00, and has a length")

    def began_on(self, local: datetime) -> date | None:
        """The date on which the occurrence holding `local` began; None when no occurrence holds it."""
        minute = local.hour * 60 + local.minute
        over_midnight = self.end < self.start
        if local.weekday() == self.day and minute >= self.start and (over_midnight or minute < self.end):
            return local.date()
        yesterday = local.date() - timedelta(days=1) if local.date() > date.min else None
        if over_midnight and yesterday and yesterday.weekday() == self.day and minute < self.end:
            return yesterday
        return None


def read_weekly(document: object) -> tuple[Interval, ...]:
    """`[{"day": 0, "from": "07:00", "to": "19:00"}, ...]` as intervals. Raises ValueError on anything
    else."""
    if not isinstance(document, Sequence) or isinstance(document, str | bytes):
        raise ValueError("a weekly schedule is a list of intervals")
    intervals = []
    for entry in document:
        if not isinstance(entry, Mapping) or set(entry) != {"day", "from", "to"}:
            raise ValueError('an interval is {"day": 0, "from": "07:00", "to": "19:00"}')
        day = entry["day"]
        if isinstance(day, bool) or not isinstance(day, int):
            raise ValueError("a day is a number from 0 (Monday) to 6 (Sunday)")
        end = _minutes(entry["to"])
        intervals.append(Interval(day, _minutes(entry["from"]), DAY_MINUTES if end == 0 else end))
    return tuple(intervals)


def _minutes(text: object) -> int:
    if text == "24:00":
        return DAY_MINUTES
    if not isinstance(text, str) or len(text) != 5:
        raise ValueError(f"{text!r} is not a time such as 07:30")
    parsed = time.fromisoformat(text)
    return parsed.hour * 60 + parsed.minute


@dataclass(frozen=True)
class Match:
    """One person whom the gallery names, with the best score of that person's templates (cosine)."""

    person_id: str
    score: float


@dataclass(frozen=True)
class PersonFacts:
    """The best match, or whose card was shown, as the database knows that person now. Validity is
    `from <= moment < until`."""

    person_id: str
    is_active: bool
    valid_from: datetime | None
    valid_until: datetime | None
    has_consent: bool
    has_pin: bool = False
    has_card: bool = False


@dataclass(frozen=True)
class CardFacts:
    """The card that was shown. `person_id` None: nobody has it."""

    person_id: str | None
    is_blocked: bool = False


@dataclass(frozen=True)
class RuleFacts:
    """One rule whose group holds this person and whose doors hold this door. `weekly` None means at any
    hour."""

    is_active: bool
    valid_from: datetime | None
    valid_until: datetime | None
    weekly: tuple[Interval, ...] | None


@dataclass(frozen=True)
class Facts:
    """Everything a decision depends on but the moment. `fault` is a reason why there are no matches at
    all."""

    deadline: datetime
    terminal_is_active: bool
    terminal_site: str | None
    door_site: str
    door_is_active: bool
    site_is_locked_down: bool
    time_zone: str
    holidays: frozenset[date]
    gallery_size: int
    threshold: float
    matches: tuple[Match, ...]
    person: PersonFacts | None
    rules: tuple[RuleFacts, ...]
    anti_passback: bool
    is_inside: bool
    fault: Reason | None = None
    margin: float = AMBIGUITY_MARGIN
    asks_for: Asked = Asked.FACE
    shown: Shown = Shown.FACE
    pin: PinState | None = None
    card: CardFacts | None = None
    step_is_open: bool = True  # False: PIN or card came too late after the face, or at another door


@dataclass(frozen=True)
class Decision:
    """`person_id` names whom the door took the visitor for, also when refused; None when nobody was made
    out."""

    granted: bool
    reason: Reason
    person_id: str | None = None
    score: float | None = None


def decide(facts: Facts, at: datetime) -> Decision:
    """Grant or refuse, at the aware moment `at`.

    The order goes from what concerns everybody to what concerns one person, so that a refusal says as little
    about a
    person as it must: too late, the terminal, the door, the site, the capture, the match, the person, the
    rules, and at last the PIN or card that a door wants besides a face. Without a face, card and PIN come before
    everything about their owner.
    """
    refusal = _refuse_anybody(facts, at)
    if refusal is not None:
        return Decision(False, refusal)
    if facts.shown == Shown.CARD_AND_PIN:
        return _decide_without_face(facts, at)
    ranked = rank(facts.matches)
    best = ranked[0] if ranked else None
    refusal = _refuse_match(facts, ranked)
    if refusal is not None or best is None:
        score = best.score if best is not None and math.isfinite(best.score) else None
        return Decision(False, refusal or Reason.NO_MATCH, None, score)
    person = facts.person
    if person is None or person.person_id != best.person_id:
        refusal = Reason.PERSON_INACTIVE  # erased since the search: the database is the truth
    elif not person.has_consent:
        refusal = Reason.CONSENT_MISSING
    else:
        refusal = _refuse_passage(facts, person, at) or _refuse_rest(facts, person)
    if refusal is not None:
        return Decision(False, refusal, best.person_id, best.score)
    return Decision(True, Reason.GRANTED, best.person_id, best.score)


def told(reason: Reason, shown: Shown) -> Reason:
    """What the door says where the record knows more. A face that was recognised may hear about its own PIN; whoever
    shows a card and nothing else learns neither that the card exists nor which of the two was wrong."""
    if reason in _ABOUT_A_CARD or (shown == Shown.CARD_AND_PIN and reason in _ABOUT_A_PIN):
        return Reason.PROOF_REFUSED
    return reason


def rank(matches: Iterable[Match]) -> tuple[Match, ...]:
    """One match per person, the best score each, best first; equal scores by person so that order is no
    accident."""
    best: dict[str, Match] = {}
    for match in matches:
        known = best.get(match.person_id)
        if known is None or match.score > known.score:
            best[match.person_id] = match
    return tuple(sorted(best.values(), key=lambda match: (-match.score, match.person_id)))


def is_open(rule: RuleFacts, *, at: datetime, time_zone: str, holidays: frozenset[date]) -> Reason:
    """GRANTED when this rule opens at `at`, otherwise why not: NO_RULE, HOLIDAY or OUTSIDE_SCHEDULE.

    Hours are wall-clock hours of the site: in the hour that the clock repeats in autumn an interval holds
    twice. A
    holiday closes the occurrences that begin on it; a night that began the day before runs to its end.
    """
    if not rule.is_active or not _within(rule.valid_from, rule.valid_until, at):
        return Reason.NO_RULE
    if rule.weekly is None:
        return Reason.GRANTED
    local = at.astimezone(ZoneInfo(time_zone))
    begun = [day for interval in rule.weekly if (day := interval.began_on(local)) is not None]
    if any(day not in holidays for day in begun):
        return Reason.GRANTED
    return Reason.HOLIDAY if begun else Reason.OUTSIDE_SCHEDULE


def _refuse_anybody(facts: Facts, at: datetime) -> Reason | None:
    if at >= facts.deadline:
        return Reason.DEADLINE_PASSED
    if not facts.terminal_is_active:
        return Reason.TERMINAL_REVOKED
    if facts.terminal_site is None or facts.terminal_site != facts.door_site:
        return Reason.WRONG_SITE
    if not facts.door_is_active:
        return Reason.DOOR_INACTIVE
    if facts.site_is_locked_down:
        return Reason.SITE_LOCKED_DOWN
    first_of_two = facts.shown == Shown.FACE and facts.asks_for in STEPS
    if facts.shown not in ENOUGH[facts.asks_for] and not first_of_two:
        return Reason.METHOD_REFUSED
    if not facts.step_is_open:
        return Reason.STEP_EXPIRED
    return facts.fault


def _decide_without_face(facts: Facts, at: datetime) -> Decision:
    """Card and PIN. What they open needs no consent to face recognition: they are for people who did not give it."""
    person = facts.person
    owner = facts.card.person_id if facts.card is not None else None
    if owner is None or person is None or person.person_id != owner:
        return Decision(False, Reason.CARD_UNKNOWN)
    refusal = _refuse_card(facts, person) or _refuse_pin(facts, person) or _refuse_passage(facts, person, at)
    return Decision(refusal is None, refusal or Reason.GRANTED, owner)


def _refuse_rest(facts: Facts, person: PersonFacts) -> Reason | None:
    """What a door wants besides a face."""
    if facts.asks_for == Asked.FACE_AND_PIN:
        return _refuse_pin(facts, person)
    if facts.asks_for == Asked.FACE_AND_CARD:
        return _refuse_card(facts, person)
    return None


def _refuse_pin(facts: Facts, person: PersonFacts) -> Reason | None:
    if not person.has_pin:
        return Reason.PIN_MISSING
    if facts.shown == Shown.FACE:
        return Reason.PIN_REQUIRED
    if facts.pin == PinState.LOCKED:
        return Reason.PIN_LOCKED
    return None if facts.pin == PinState.RIGHT else Reason.PIN_WRONG


def _refuse_card(facts: Facts, person: PersonFacts) -> Reason | None:
    if facts.shown == Shown.FACE:
        return Reason.CARD_REQUIRED if person.has_card else Reason.CARD_MISSING
    if facts.card is None or facts.card.person_id is None:
        return Reason.CARD_UNKNOWN
    if facts.card.person_id != person.person_id:
        return Reason.CARD_OF_ANOTHER
    return Reason.CARD_BLOCKED if facts.card.is_blocked else None


def _refuse_match(facts: Facts, ranked: tuple[Match, ...]) -> Reason | None:
    if facts.gallery_size <= 0:
        return Reason.GALLERY_EMPTY
    if not math.isfinite(facts.threshold) or not all(math.isfinite(match.score) for match in facts.matches):
        return Reason.RECOGNIZER_FAULT
    if not ranked or ranked[0].score < facts.threshold:
        return Reason.NO_MATCH
    if (
        len(ranked) > 1
        and ranked[1].score >= facts.threshold
        and not ranked[0].score - ranked[1].score >= facts.margin
    ):
        return Reason.AMBIGUOUS_MATCH
    return None


def _refuse_passage(facts: Facts, person: PersonFacts, at: datetime) -> Reason | None:
    """What keeps this person out of this door now, whoever they proved to be and however."""
    refusal = _refuse_person(person, at) or _refuse_hour(facts, at)
    if refusal is None and facts.anti_passback and facts.is_inside:
        return Reason.ANTI_PASSBACK
    return refusal


def _refuse_person(person: PersonFacts, at: datetime) -> Reason | None:
    if not person.is_active:
        return Reason.PERSON_INACTIVE
    if person.valid_from is not None and at < person.valid_from:
        return Reason.PERSON_NOT_YET_VALID
    if person.valid_until is not None and at >= person.valid_until:
        return Reason.PERSON_EXPIRED
    return None


def _refuse_hour(facts: Facts, at: datetime) -> Reason | None:
    answers = {
        is_open(rule, at=at, time_zone=facts.time_zone, holidays=facts.holidays) for rule in facts.rules
    }
    if Reason.GRANTED in answers:
        return None
    for reason in (Reason.HOLIDAY, Reason.OUTSIDE_SCHEDULE):
        if reason in answers:
            return reason
    return Reason.NO_RULE


def _within(start: datetime | None, end: datetime | None, at: datetime) -> bool:
    return (start is None or start <= at) and (end is None or at < end)
