"""What every attempt asks the database, in the order in which it does: compiled once, see `accesscontrol.prepared`."""

from __future__ import annotations

from typing import Any

from django.db import models
from django.db.models import Count, Exists, F, OuterRef, Value

from accesscontrol.models import AccessAttempt, AccessRule, Alarm, Presence, Terminal, UsedNonce
from accesscontrol.policy import Reason
from accesscontrol.prepared import Given, PreparedGet, PreparedInsert, PreparedRows, PreparedUpdate
from enrollment.models import Card, Consent, GalleryChange, Person, Pin

_UUID, _TEXT, _TIME, _FLAG = (
    models.UUIDField(),
    models.CharField(),
    models.DateTimeField(),
    models.BooleanField(),
)
_NUMBER, _COUNT = models.FloatField(), models.IntegerField()


def _terminals_by(column: str) -> PreparedGet[Terminal]:
    """Also says, as `nonce_is_spent`, whether this terminal sent the nonce before, and as `door_asks_for` how people
    identify themselves at its door."""
    spent = UsedNonce.objects.filter(terminal=OuterRef("pk"), nonce=Given("nonce", _TEXT))
    return PreparedGet(
        Terminal,
        lambda: (
            Terminal.objects.filter(**{column: Given("key_id", _TEXT)})
            .annotate(nonce_is_spent=Exists(spent), door_asks_for=F("door__asks_for"))
            .order_by()
        ),
    )


TERMINALS = (_terminals_by("key_id"), _terminals_by("previous_key_id"))
INSERT_NONCE, INSERT_ATTEMPT = PreparedInsert(UsedNonce), PreparedInsert(AccessAttempt)
NEWEST_GALLERY_CHANGE = PreparedRows(
    lambda: GalleryChange.objects.order_by("-sequence").values_list("sequence")[:1]
)
ATTEMPT = PreparedGet(
    AccessAttempt, lambda: AccessAttempt.objects.filter(pk=Given("attempt", _UUID)).order_by()
)
DEADLINE_OF_PENDING = PreparedRows(
    lambda: (
        AccessAttempt.objects.filter(pk=Given("attempt", _UUID), state=AccessAttempt.State.PENDING)
        .order_by()
        .values_list("deadline_at")
    )
)
LOCK_ATTEMPT = PreparedGet(
    AccessAttempt,
    lambda: (
        AccessAttempt.objects.select_for_update(no_key=True).filter(pk=Given("attempt", _UUID)).order_by()
    ),
)
LOCK_PERSON = PreparedGet(
    Person, lambda: Person.objects.select_for_update(no_key=True).filter(pk=Given("person", _UUID)).order_by()
)


def _build_facts() -> models.QuerySet[AccessAttempt, tuple[Any, ...]]:
    consents = Consent.objects.filter(person=Given("person", _UUID), withdrawn_at=None)
    known_here = Presence.objects.filter(person=Given("person", _UUID), site=OuterRef("door__site"))
    return (
        AccessAttempt.objects.filter(pk=Given("attempt", _UUID))
        .annotate(
            has_consent=Exists(consents),
            has_pin=Exists(Pin.objects.filter(person=Given("person", _UUID))),
            has_card=Exists(Card.objects.filter(person=Given("person", _UUID), blocked_at=None)),
            is_somewhere=Exists(known_here),
            is_inside=Exists(known_here.filter(zone=OuterRef("door__zone"))),
        )
        .order_by()
        .values_list(
            "terminal__state", "terminal__site_id", "door__is_active", "door__site_id", "door__zone_id",
            "door__zone__anti_passback", "door__site__locked_down", "door__site__timezone", "door__asks_for",
            "has_consent", "has_pin", "has_card", "is_somewhere", "is_inside",
        )
    )  # fmt: skip


FACTS = PreparedRows(_build_facts)
RULES = PreparedRows(
    lambda: (
        AccessRule.objects.filter(
            is_active=True, doors__attempts=Given("attempt", _UUID), group__members=Given("person", _UUID)
        )
        .order_by()
        .values_list("is_active", "valid_from", "valid_until", "schedule_id", "schedule__weekly")
    )
)
SETTLE = PreparedUpdate(
    lambda: AccessAttempt.objects.filter(pk=Given("attempt", _UUID)),
    lambda: {
        "state": Value(AccessAttempt.State.SETTLED.value), "payload_key": Value(""),
        "granted": Given("granted", _FLAG), "reason": Given("reason", _TEXT), "detail": Given("detail", _TEXT),
        "person": Given("person", _UUID), "score": Given("score", _NUMBER),
        "threshold": Given("threshold", _NUMBER), "gallery_size": Given("gallery_size", _COUNT),
        "model": Given("model", _TEXT), "settled_at": Given("settled_at", _TIME),
    },
)  # fmt: skip
PERSON_REFUSALS = frozenset(
    {
        Reason.NO_MATCH, Reason.AMBIGUOUS_MATCH, Reason.PERSON_INACTIVE, Reason.PERSON_NOT_YET_VALID,
        Reason.PERSON_EXPIRED, Reason.CONSENT_MISSING, Reason.NO_RULE, Reason.OUTSIDE_SCHEDULE,
        Reason.HOLIDAY, Reason.ANTI_PASSBACK, Reason.PAYLOAD_REFUSED, Reason.PIN_MISSING, Reason.PIN_WRONG,
        Reason.PIN_LOCKED, Reason.CARD_MISSING, Reason.CARD_UNKNOWN, Reason.CARD_BLOCKED,
        Reason.CARD_OF_ANOTHER,
    }
)  # fmt: skip
REFUSALS = PreparedRows(
    lambda: (
        AccessAttempt.objects.filter(
            door=Given("door", _UUID),
            received_at__gt=Given("since", _TIME),
            state=AccessAttempt.State.SETTLED,
            reason__in=sorted(PERSON_REFUSALS),
        )
        .order_by()
        .values("door__name")
        .annotate(refused=Count("pk"))
        .values_list("refused", "door__name")
    )
)
COUNT_ALARM_UP = PreparedUpdate(
    lambda: Alarm.objects.filter(
        kind=Alarm.Kind.REPEATED_REFUSALS, door=Given("door", _UUID), terminal=Given("terminal", _UUID),
        acknowledged_at=None, last_at__gt=Given("since", _TIME),
    ),
    lambda: {
        "count": F("count") + 1, "last_at": Given("last_at", _TIME), "message": Given("message", _TEXT),
    },
)  # fmt: skip
