"""What pages show at a glance. Reads only; a door is described by the facts that the policy uses."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from typing import Any

from django.db.models import Count, F, OuterRef, Prefetch, Q, QuerySet, Subquery
from django.utils import timezone

from accesscontrol.models import AccessAttempt, AccessRule, Door, Site, Terminal
from accesscontrol.services import TERMINAL_SILENT_AFTER
from audit.paging import Key
from enrollment.models import Person, ProtectedTemplate

#: How lists of attempts are ordered, newest first.
ATTEMPT_KEYS = (
    Key("received_at", datetime.fromisoformat, datetime.isoformat),
    Key("id", uuid.UUID),
)
#: As many people with a name in common are asked for one by one; more are found faster among the newest attempts.
FEW_PEOPLE = 300
TROUBLE_FIRST = ("no", "warn", "yes")


@dataclass(frozen=True)
class DoorState:
    """A door and one word about it. `tone` is yes, warn or no."""

    door: Door
    word: str
    tone: str
    last_attempt: AccessAttempt | None


def door_states(at: datetime, doors: QuerySet[Door] | None = None) -> list[DoorState]:
    """Three queries, however many doors."""
    newest = AccessAttempt.objects.filter(door=OuterRef("pk")).order_by("-received_at").values("pk")[:1]
    rows = list(
        (Door.objects.all() if doors is None else doors)
        .select_related("site", "zone")
        .prefetch_related(Prefetch("terminals", to_attr="its_terminals"))
        .annotate(newest_attempt=Subquery(newest))
        .order_by("site__name", "name")
    )
    attempts = AccessAttempt.objects.select_related("person").in_bulk(
        [row.newest_attempt for row in rows if row.newest_attempt]
    )
    return [DoorState(row, *_word(row, at), attempts.get(row.newest_attempt)) for row in rows]


def _word(door: Any, at: datetime) -> tuple[str, str]:
    if door.site.locked_down:
        return "locked down", "no"
    if not door.is_active:
        return "switched off", "warn"
    working = [terminal for terminal in door.its_terminals if terminal.state == Terminal.State.ACTIVE]
    if not working:
        return "no terminal", "warn"
    if not any(is_heard(terminal, at) for terminal in working):
        return "terminal silent", "warn"
    return "ready", "yes"


def is_heard(terminal: Terminal, at: datetime) -> bool:
    return terminal.last_seen_at is not None and at - terminal.last_seen_at <= TERMINAL_SILENT_AFTER


def trouble_first(states: list[DoorState]) -> list[DoorState]:
    """Doors that need somebody, then those that were asked last."""
    never = datetime.min.replace(tzinfo=timezone.get_current_timezone())
    newest = sorted(
        states,
        key=lambda state: state.last_attempt.received_at if state.last_attempt else never,
        reverse=True,
    )
    return sorted(newest, key=lambda state: TROUBLE_FIRST.index(state.tone))


def counts_today(at: datetime) -> dict[str, int]:
    """Attempts since midnight of the reader's zone."""
    midnight = timezone.localtime(at).replace(hour=0, minute=0, second=0, microsecond=0)
    return AccessAttempt.objects.filter(received_at__gte=midnight).aggregate(
        asked=Count("pk"),
        let_in=Count("pk", filter=Q(granted=True)),
        refused=Count("pk", filter=Q(state=AccessAttempt.State.SETTLED, granted=False)),
    )


@dataclass(frozen=True)
class FirstStep:
    label: str
    page: str
    done: bool


def first_steps() -> list[FirstStep]:
    """What a new installation still lacks, in the order in which it makes sense."""
    enrolled = ProtectedTemplate.objects.filter(active=True).exists()
    in_force = AccessRule.objects.filter(
        is_active=True, doors__isnull=False, group__members__isnull=False
    ).exists()
    desk_or_door = Terminal.objects.filter(state=Terminal.State.ACTIVE).exists()
    return [
        FirstStep("Add a site", "site_create", Site.objects.exists()),
        FirstStep("Add a door", "door_create", Door.objects.exists()),
        FirstStep("Add and pair a terminal", "terminal_create", desk_or_door),
        FirstStep("Add a person and record consent", "person_create", Person.objects.exists()),
        FirstStep("Enroll a face", "people", enrolled),
        FirstStep("Say who may enter: a group and a rule", "rule_create", in_force),
    ]


def people_counts(at: datetime) -> dict[str, int]:
    people = Person.objects.with_status().filter(is_active=True).exclude(valid_until__lte=at)
    return people.aggregate(
        all=Count("pk"),
        enrolled=Count("pk", filter=Q(is_enrolled_now=True)),
        without_consent=Count("pk", filter=Q(has_consent_now=False)),
    )


def newest_attempts(limit: int, asked: Mapping[str, Any]) -> list[AccessAttempt]:
    rows = AccessAttempt.objects.select_related("person", "door", "door__site").annotate(
        site_name=F("door__site__name")
    )
    return list(filter_attempts(rows, asked).order_by("-received_at", "-id")[:limit])


def filter_attempts(rows: QuerySet[AccessAttempt], asked: Mapping[str, Any]) -> QuerySet[AccessAttempt]:
    """What a filter form asks: `q` (words of a name), `person` (an id), `door`, `outcome`, `reason`, `day`."""
    if asked.get("q"):
        rows = _of_people_named(rows, asked["q"])
    if asked.get("person"):
        rows = rows.filter(person=asked["person"])
    if asked.get("door"):
        rows = rows.filter(door=asked["door"])
    if asked.get("outcome") == "pending":
        rows = rows.filter(state=AccessAttempt.State.PENDING)
    elif asked.get("outcome"):
        rows = rows.filter(state=AccessAttempt.State.SETTLED, granted=asked["outcome"] == "granted")
    if asked.get("reason"):
        rows = rows.filter(reason=asked["reason"])
    if asked.get("day"):
        midnight = timezone.make_aware(datetime.combine(asked["day"], time.min))
        after = timezone.make_aware(datetime.combine(asked["day"] + timedelta(days=1), time.min))
        rows = rows.filter(received_at__gte=midnight, received_at__lt=after)
    return rows


def _of_people_named(rows: QuerySet[AccessAttempt], words: str) -> QuerySet[AccessAttempt]:
    """A rare name is looked up among people, whose attempts have an index; a frequent one among the attempts."""
    named = Q()
    for word in words.split():
        named &= Q(full_name__icontains=word)
    few = list(Person.objects.filter(named).order_by().values_list("pk", flat=True)[: FEW_PEOPLE + 1])
    if len(few) <= FEW_PEOPLE:
        return rows.filter(person__in=few)
    for word in words.split():
        rows = rows.filter(person__full_name__icontains=word)
    return rows
