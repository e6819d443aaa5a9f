"""PINs and cards: what a person shows besides a face, or instead of one.

A number in the clear exists while a request is answered and nowhere else: not in the database, not in the log, not in
an audit entry. Comparing a PIN is slow on purpose, so it is never done while a lock is held: a try is counted first, in
a transaction of its own, then compared, and a right one takes the count back together with the decision.
"""

from __future__ import annotations

import threading
import uuid
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from django.contrib.auth.hashers import check_password, make_password
from django.db import IntegrityError, transaction

import audit.services
from enrollment import crypto, sealing
from enrollment.models import Card, Person, Pin
from enrollment.pins import CARD_SHOWN, lock_after, pin_problem, read_card_number
from enrollment.services import EnrollmentRefused, audit_subject, lock_person

#: Comparisons at the same time in one process: each takes 100 MB and a core for a moment, and doors without a PIN
#: need both.
COMPARED_AT_ONCE = 2
_comparing = threading.BoundedSemaphore(COMPARED_AT_ONCE)


class PinCheck(StrEnum):
    RIGHT = "right"
    WRONG = "wrong"
    LOCKED = "locked"


@dataclass(frozen=True)
class PinTry:
    """One try, counted already. `hash` empty: there is nothing to compare with. `locks`: should it be wrong, it was
    the one that locks the PIN."""

    person_id: uuid.UUID | None
    is_locked: bool = False
    hash: str = field(default="", repr=False)
    locks: bool = False


def set_pin(*, person: Person, pin: str, actor: str, at: datetime) -> None:
    """Takes the place of an older one, locked or not. Refusals: pin_refused, person_unknown."""
    if problem := pin_problem(pin):
        raise EnrollmentRefused("pin_refused", problem)
    hashed = make_password(_keyed(pin, person.pk))
    with transaction.atomic():
        person = lock_person(person.pk)
        _, created = Pin.objects.update_or_create(
            person=person,
            defaults={"hash": hashed, "failures": 0, "locked_until": None, "set_at": at, "set_by": actor},
        )
        audit.services.record(
            kind="person.pin_set",
            actor=actor,
            at=at,
            subject=audit_subject(person.pk),
            details={"replaced_older": not created},
        )


def clear_pin(*, person: Person, actor: str, at: datetime) -> bool:
    """Whether there was one. Refusal: person_unknown."""
    with transaction.atomic():
        person = lock_person(person.pk)
        deleted, _ = Pin.objects.filter(person=person).delete()
        if deleted:
            audit.services.record(
                kind="person.pin_cleared", actor=actor, at=at, subject=audit_subject(person.pk), details={}
            )
    return bool(deleted)


def add_card(*, person: Person, number: str, actor: str, at: datetime) -> Card:
    """Refusals: card_malformed, card_taken (blocked cards too: a lost one that is found is unblocked, not added),
    person_unknown."""
    number, hashed = _read_card(number)
    with transaction.atomic():
        person = lock_person(person.pk)
        return _give_card(person, number, hashed, actor=actor, at=at)


def set_card(*, person: Person, number: str, actor: str, at: datetime) -> Card:
    """From this commit on this is the one card that works for this person: others that work are taken back. Blocked
    ones stay blocked, because whoever shows a lost card still raises an alarm. Setting the same again changes nothing.

    Refusals: card_malformed, card_taken (by anybody else), card_blocked (it is this person's, and lost),
    person_unknown.
    """
    number, hashed = _read_card(number)
    with transaction.atomic():
        person = lock_person(person.pk)
        cards = list(Card.objects.select_for_update().filter(person=person))
        same = next((card for card in cards if card.number_hash == hashed), None)
        if same is not None and same.blocked_at is not None:
            raise EnrollmentRefused("card_blocked", "this card is blocked; unblock it at the desk first")
        for card in cards:
            if card != same and card.blocked_at is None:
                _take_back(card, actor=actor, at=at)
        return same or _give_card(person, number, hashed, actor=actor, at=at)


def remove_cards(*, person: Person, actor: str, at: datetime) -> int:
    """Takes back every card of this person that works, and says how many. Blocked ones stay. Refusal:
    person_unknown."""
    with transaction.atomic():
        person = lock_person(person.pk)
        working = list(Card.objects.select_for_update().filter(person=person, blocked_at=None))
        for card in working:
            _take_back(card, actor=actor, at=at)
    return len(working)


def block_card(*, card: Card, actor: str, at: datetime) -> Card:
    """From this commit on the card opens nothing. Blocking twice changes nothing. Refusal: card_unknown."""
    with transaction.atomic():
        card = _lock_card(card.pk)
        if card.blocked_at is None:
            card.blocked_at, card.blocked_by = at, actor
            card.save(update_fields=["blocked_at", "blocked_by"])
            _record_card("person.card_blocked", card, actor=actor, at=at)
    return card


def unblock_card(*, card: Card, actor: str, at: datetime) -> Card:
    """A lost card was found. Refusal: card_unknown."""
    with transaction.atomic():
        card = _lock_card(card.pk)
        if card.blocked_at is not None:
            card.blocked_at, card.blocked_by = None, ""
            card.save(update_fields=["blocked_at", "blocked_by"])
            _record_card("person.card_unblocked", card, actor=actor, at=at)
    return card


def remove_card(*, card: Card, actor: str, at: datetime) -> None:
    """The card was given back and may belong to somebody else. Refusal: card_unknown."""
    with transaction.atomic():
        _take_back(_lock_card(card.pk), actor=actor, at=at)


# At the door


def find_card(number: str) -> Card | None:
    """Whose card this is; None also for what is no card number."""
    try:
        hashed = _hash_of_card(read_card_number(number))
    except ValueError:
        return None
    return Card.objects.filter(number_hash=hashed).first()


def begin_try(*, person_id: uuid.UUID | None, at: datetime) -> PinTry:
    """Counts one try. Inside the caller's transaction, which must be committed before the try is compared."""
    pin = Pin.objects.select_for_update().filter(person=person_id).first() if person_id else None
    if pin is None:
        return PinTry(person_id)
    if pin.is_locked(at):
        return PinTry(person_id, is_locked=True)
    pin.failures += 1
    lock = lock_after(pin.failures)
    pin.locked_until = at + lock if lock is not None else None
    pin.save(update_fields=["failures", "locked_until"])
    return PinTry(person_id, hash=pin.hash, locks=lock is not None)


def compare(tried: PinTry, pin: str, *, patience_s: float) -> bool:
    """Whether it is the right PIN. Slow, and as slow when there is nothing to compare with, so that the time tells
    nothing. Outside of every transaction. False as well when nobody could compare it in time."""
    if not _comparing.acquire(timeout=max(0.0, patience_s)):
        return False
    try:
        keyed = _keyed(pin, tried.person_id)
        if not tried.hash:
            make_password(keyed)
            return False
        return check_password(keyed, tried.hash)
    finally:
        _comparing.release()


def finish_try(tried: PinTry, *, is_right: bool, at: datetime) -> PinCheck:
    """Inside the transaction that decides, under the person's lock: a right PIN takes the count of wrong ones back.
    One that was changed while it was compared is wrong."""
    if tried.is_locked:
        return PinCheck.LOCKED
    if is_right and Pin.objects.filter(person=tried.person_id, hash=tried.hash).update(
        failures=0, locked_until=None
    ):
        return PinCheck.RIGHT
    if tried.locks and tried.person_id is not None:
        pin = Pin.objects.filter(person=tried.person_id).first()
        audit.services.record(
            kind="person.pin_locked",
            actor="lintel",
            at=at,
            subject=audit_subject(tried.person_id),
            details={"until": pin.locked_until.isoformat() if pin and pin.locked_until else ""},
        )
    return PinCheck.WRONG


def _keyed(pin: str, person_id: uuid.UUID | None) -> str:
    """What the slow hash is made of. A PIN has 27 bits at most: without this key, whoever holds a copy of the database
    could try them all."""
    key = sealing.number_key()
    return crypto.keyed_hash(pin, key=key, purpose="pin", owner=str(person_id or "")).hex()


def _hash_of_card(number: str) -> str:
    return crypto.keyed_hash(number, key=sealing.number_key(), purpose="card").hex()


def _read_card(number: str) -> tuple[str, str]:
    """A number as it is read everywhere, and its hash. Refusal: card_malformed."""
    try:
        number = read_card_number(number)
    except ValueError as error:
        raise EnrollmentRefused("card_malformed", str(error)) from error
    return number, _hash_of_card(number)


def _give_card(person: Person, number: str, hashed: str, *, actor: str, at: datetime) -> Card:
    """Of two who give one card at the same time the database lets one through."""
    card = Card(
        person=person, number_hash=hashed, ends_with=number[-CARD_SHOWN:], added_at=at, added_by=actor
    )
    try:
        with transaction.atomic():
            card.save(force_insert=True)
    except IntegrityError as error:
        raise EnrollmentRefused("card_taken", "this card is in use already") from error
    _record_card("person.card_added", card, actor=actor, at=at)
    return card


def _take_back(card: Card, *, actor: str, at: datetime) -> None:
    _record_card("person.card_removed", card, actor=actor, at=at)
    card.delete()


def _record_card(kind: str, card: Card, *, actor: str, at: datetime) -> None:
    audit.services.record(
        kind=kind, actor=actor, at=at, subject=audit_subject(card.person_id), details={"card": str(card.pk)}
    )


def _lock_card(card_id: uuid.UUID) -> Card:
    card = Card.objects.select_for_update(of=("self",)).filter(pk=card_id).first()
    if card is None:
        raise EnrollmentRefused("card_unknown", "there is no such card")
    return card
