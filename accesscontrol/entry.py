"""`Who may enter this door then?`: the policy of the door, asked in advance.

Each rule is asked once whether it opens. Among the ten thousand people whom an open rule names there are only a few
different sets of facts that the policy looks at: whether they agreed, are enrolled, are switched off, are within
their time. The database counts how many have each set; `policy.decide` decides each set once, and everybody on a
page again by their own facts.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta
from functools import reduce
from itertools import pairwise
from operator import or_
from typing import Any
from zoneinfo import ZoneInfo

from django.db.models import BooleanField, Case, Count, Exists, OuterRef, Q, QuerySet, Value, When

from accesscontrol import policy
from accesscontrol.models import AccessGroup, AccessRule, Door, Site
from accesscontrol.policy import Asked, CardFacts, PinState, Shown
from enrollment.models import Card, Person, Pin

#: What the policy looks at in a person, besides what their rules say.
_FACTS = ("has_consent_now", "is_enrolled_now", "is_active", "begun", "over", "has_pin_now", "has_card_now")


@dataclass(frozen=True)
class Entry:
    """One person and what the door would say, were they recognised there at that moment."""

    person: Person
    granted: bool
    reason: policy.Reason


@dataclass(frozen=True)
class RuleAnswer:
    """What one rule of the door says at a moment: GRANTED, or why it does not open."""

    rule: AccessRule
    people: int
    reason: policy.Reason

    @property
    def opens(self) -> bool:
        return self.reason == policy.Reason.GRANTED


@dataclass(frozen=True)
class RuleDay:
    """When a rule opens on one day; `holiday` names the holiday that keeps some of it shut."""

    stretches: list[tuple[str, str]]
    holiday: str = ""

    @property
    def all_day(self) -> bool:
        return self.stretches == [("00:00", "24:00")]


@dataclass(frozen=True)
class RuleWeek:
    rule: AccessRule
    days: list[RuleDay]


class EntryQuestion:
    """One door at one moment. Whom no rule names at this door is refused with `no_rule` and not listed.

    Recognition and anti-passback depend on the moment itself; assumed are a clear match, the right PIN and the own
    card of whoever has them, and a person outside.
    """

    def __init__(self, *, door: Door, at: datetime) -> None:
        self.door = door
        self.at = at
        self.holidays: frozenset[date] = holidays_around(site=door.site, at=at)
        self._rules = list(
            AccessRule.objects.filter(doors=door).select_related("schedule", "group").order_by("name")
        )
        self._facts_of = {rule.pk: rule_facts(rule) for rule in self._rules}
        self._groups: dict[policy.Reason, set[int]] = defaultdict(set)
        self._example: dict[policy.Reason, policy.RuleFacts] = {}
        for rule in self._rules:
            answer = self._answer(rule)
            self._groups[answer].add(rule.group_id)
            self._example[answer] = self._facts_of[rule.pk]

    def rules(self) -> list[RuleAnswer]:
        """Every rule of the door with what it says then, those that open first."""
        sizes = dict(
            AccessGroup.objects.filter(pk__in=[rule.group_id for rule in self._rules])
            .order_by()
            .values_list("pk")
            .annotate(Count("members"))
        )
        answers = [RuleAnswer(rule, sizes.get(rule.group_id, 0), self._answer(rule)) for rule in self._rules]
        return sorted(answers, key=lambda answer: (not answer.opens, answer.rule.name))

    def week(self, days: int) -> tuple[list[date], list[RuleWeek]]:
        """The coming days on the site's clock, and when each rule opens on them: asked of the policy itself.

        What a rule says changes at the ends of its intervals, at midnight, and where its validity begins or ends;
        in between it stays the same, so one question for each piece is enough.
        """
        zone = ZoneInfo(self.door.site.timezone)
        first = self.at.astimezone(zone).date()
        calendar = [first + timedelta(days=number) for number in range(days)]
        closed = {
            holiday.date: holiday.name
            for holiday in self.door.site.holidays.filter(
                date__range=(first - timedelta(days=1), calendar[-1])
            )
        }
        rows = [
            RuleWeek(rule, [_open_on(self._facts_of[rule.pk], day, zone, closed) for day in calendar])
            for rule in self._rules
        ]
        return calendar, rows

    def counts(self) -> tuple[int, int]:
        """How many may enter, and how many whom a rule names are refused all the same."""
        may = sum(number for facts, number in self._sets() if self._decide_set(facts).granted)
        named = AccessGroup.members.through.objects.filter(accessgroup_id__in=self._all_groups())
        return may, named.order_by().values("person_id").distinct().count() - may

    def people(self, *, granted: bool) -> QuerySet[Any]:
        """Those who may enter, or those who are refused although a rule names them, by name."""
        wanted = [Q(**dict(facts)) for facts, _ in self._sets() if self._decide_set(facts).granted]
        may = (
            self._members(self._groups[policy.Reason.GRANTED]).filter(reduce(or_, wanted)) if wanted else None
        )
        if granted:
            found = may if may is not None else Person.objects.none()
        else:
            found = self._members(self._all_groups())
            if may is not None:
                found = found.exclude(pk__in=may.order_by().values("pk"))
        return found.order_by("full_name", "id")

    def decide(self, people: Iterable[Any]) -> list[Entry]:
        """The door's answer for each of these people, who come from `people` above, in their order."""
        found = list(people)
        rules_of: dict[uuid.UUID, list[policy.RuleFacts]] = defaultdict(list)
        by_group: dict[int, list[policy.RuleFacts]] = defaultdict(list)
        for rule in self._rules:
            by_group[rule.group_id].append(self._facts_of[rule.pk])
        members = AccessGroup.members.through.objects.filter(
            person_id__in=[person.pk for person in found], accessgroup_id__in=list(by_group)
        )
        for person_id, group_id in members.values_list("person_id", "accessgroup_id"):
            rules_of[person_id] += by_group[group_id]
        have_pin, have_card = self._have_numbers(found)
        return [
            self._entry(person, rules_of[person.pk], person.pk in have_pin, person.pk in have_card)
            for person in found
        ]

    def _have_numbers(self, people: Sequence[Any]) -> tuple[set[uuid.UUID], set[uuid.UUID]]:
        """Which of them have a PIN, and which a card that works; nobody is asked where no door asks."""
        if self.door.asks_for == Asked.FACE:
            return set(), set()
        known = [person.pk for person in people]
        pins = Pin.objects.filter(person__in=known).values_list("person_id", flat=True)
        cards = Card.objects.filter(person__in=known, blocked_at=None).values_list("person_id", flat=True)
        return set(pins), set(cards)

    def _entry(self, person: Any, rules: Sequence[policy.RuleFacts], has_pin: bool, has_card: bool) -> Entry:
        facts = policy.PersonFacts(
            person_id=str(person.pk),
            is_active=person.is_active,
            valid_from=person.valid_from,
            valid_until=person.valid_until,
            has_consent=person.has_consent_now,
            has_pin=has_pin,
            has_card=has_card,
        )
        decision = self._decide(facts, is_enrolled=person.is_enrolled_now, rules=tuple(rules))
        return Entry(person, decision.granted, decision.reason)

    def _answer(self, rule: AccessRule) -> policy.Reason:
        return policy.is_open(
            self._facts_of[rule.pk], at=self.at, time_zone=self.door.site.timezone, holidays=self.holidays
        )

    def _all_groups(self) -> set[int]:
        return {rule.group_id for rule in self._rules}

    def _members(self, groups: Iterable[int]) -> QuerySet[Any]:
        """Everybody in any of these groups, with the facts that `_FACTS` lists."""

        def when(condition: Q) -> Any:
            return Case(When(condition, then=Value(True)), default=Value(False), output_field=BooleanField())

        members = AccessGroup.members.through.objects.filter(
            accessgroup_id__in=list(groups), person_id=OuterRef("pk")
        )
        people: Any = Person.objects.with_status()
        # `Exists` and not `in`: a list by name then walks the names and stops when it is long enough.
        return people.filter(Exists(members)).annotate(
            begun=when(Q(valid_from__lte=self.at)),
            over=when(Q(valid_until__lte=self.at)),
            **_numbers_of(asked=self.door.asks_for != Asked.FACE),
        )

    def _sets(self) -> list[tuple[tuple[tuple[str, bool], ...], int]]:
        """The different sets of facts among people whom a rule lets in then, and how many have each. Asked once.

        For everybody else no rule opens, whatever else is known of them.
        """
        if not self._groups[policy.Reason.GRANTED]:
            return []
        if not hasattr(self, "_counted"):
            members = self._members(self._groups[policy.Reason.GRANTED])
            rows = members.order_by().values_list(*_FACTS).annotate(Count("pk"))
            self._counted = [(tuple(zip(_FACTS, map(bool, row[:-1]), strict=True)), row[-1]) for row in rows]
        return self._counted

    def _decide_set(self, facts: tuple[tuple[str, bool], ...]) -> policy.Decision:
        """The policy's decision for anybody with these facts: moments stand for `begun` and `over`, and a rule that
        opens for all that do."""
        known = dict(facts)
        later, earlier = self.at + timedelta(days=1), self.at - timedelta(days=1)
        person = policy.PersonFacts(
            person_id="anybody",
            is_active=known["is_active"],
            valid_from=earlier if known["begun"] else later,
            valid_until=earlier if known["over"] else None,
            has_consent=known["has_consent_now"],
            has_pin=known["has_pin_now"],
            has_card=known["has_card_now"],
        )
        rules = (self._example[policy.Reason.GRANTED],)
        return self._decide(person, is_enrolled=known["is_enrolled_now"], rules=rules)

    def _decide(
        self, person: policy.PersonFacts, *, is_enrolled: bool, rules: tuple[policy.RuleFacts, ...]
    ) -> policy.Decision:
        return decide_in_advance(
            door=self.door,
            at=self.at,
            holidays=self.holidays,
            person=person,
            is_enrolled=is_enrolled,
            rules=rules,
        )


def _open_on(rule: policy.RuleFacts, day: date, zone: ZoneInfo, holidays: Mapping[date, str]) -> RuleDay:
    minutes = {0, policy.DAY_MINUTES}
    for interval in rule.weekly or ():
        minutes |= {interval.start, interval.end}
    for moment in (rule.valid_from, rule.valid_until):
        if moment is not None and (local := moment.astimezone(zone)).date() == day:
            minutes.add(local.hour * 60 + local.minute)
    edges = sorted(minutes)
    stretches: list[tuple[int, int]] = []
    shut = ""
    for start, end in pairwise(edges):
        at = datetime.combine(day, time(start // 60, start % 60), zone)
        answer = policy.is_open(rule, at=at, time_zone=zone.key, holidays=frozenset(holidays))
        if answer == policy.Reason.HOLIDAY:
            shut = holidays.get(day) or holidays.get(day - timedelta(days=1), "")
        elif answer == policy.Reason.GRANTED:
            if stretches and stretches[-1][1] == start:
                start = stretches.pop()[0]
            stretches.append((start, end))
    return RuleDay([(_clock(start), _clock(end)) for start, end in stretches], shut)


def _clock(minute: int) -> str:
    return f"{minute // 60:02d}:{minute % 60:02d}"


def decide_in_advance(
    *,
    door: Door,
    at: datetime,
    holidays: frozenset[date],
    person: policy.PersonFacts,
    is_enrolled: bool,
    rules: tuple[policy.RuleFacts, ...],
) -> policy.Decision:
    """`policy.decide` for a clear match at a door whose terminal works, with the right PIN and the own card of whoever
    has them. Where a door takes a face or else a card, either is enough."""
    facts = policy.Facts(
        deadline=at + timedelta(seconds=1),
        terminal_is_active=True,
        terminal_site=str(door.site_id),
        door_site=str(door.site_id),
        door_is_active=door.is_active,
        site_is_locked_down=door.site.locked_down,
        time_zone=door.site.timezone,
        holidays=holidays,
        gallery_size=1,
        threshold=0.0,
        matches=(policy.Match(person.person_id, 1.0),) if is_enrolled else (),
        person=person,
        rules=rules,
        anti_passback=False,
        is_inside=False,
        asks_for=Asked(door.asks_for),
        pin=PinState.RIGHT if person.has_pin else None,
        card=CardFacts(person.person_id) if person.has_card else None,
    )
    ways = [shown for shown in Shown if shown in policy.ENOUGH[facts.asks_for]]
    decisions = [policy.decide(replace(facts, shown=shown), at) for shown in ways]
    # The way that somebody is set up for says why not: a card's owner without a face is not told about a face.
    ready = decisions[-1] if person.has_card and not is_enrolled else decisions[0]
    decision = next((one for one in decisions if one.granted), ready)
    if decision.reason == policy.Reason.CARD_UNKNOWN:  # nothing was shown: there is none
        return replace(decision, reason=policy.Reason.CARD_MISSING, person_id=person.person_id)
    return decision


def _numbers_of(*, asked: bool) -> dict[str, Any]:
    """Whether people have a PIN and a card that works; no question to the database where no door asks for them."""
    if not asked:
        return {name: Value(False, BooleanField()) for name in ("has_pin_now", "has_card_now")}
    return {
        "has_pin_now": Exists(Pin.objects.filter(person=OuterRef("pk"))),
        "has_card_now": Exists(Card.objects.filter(person=OuterRef("pk"), blocked_at=None)),
    }


def holidays_around(*, site: Site, at: datetime) -> frozenset[date]:
    """Those that can matter at a moment: today on the site's clock, and yesterday for nights that run on."""
    today = at.astimezone(ZoneInfo(site.timezone)).date()
    dates = site.holidays.filter(date__range=(today - timedelta(days=1), today))
    return frozenset(dates.values_list("date", flat=True))


def rule_facts(rule: AccessRule) -> policy.RuleFacts:
    return policy.RuleFacts(
        is_active=rule.is_active,
        valid_from=rule.valid_from,
        valid_until=rule.valid_until,
        weekly=policy.read_weekly(rule.schedule.weekly) if rule.schedule else None,
    )


@dataclass(frozen=True)
class DoorAnswer:
    """One door and what it would say to one person at a moment."""

    door: Door
    granted: bool
    reason: policy.Reason
    rules: list[AccessRule]


def doors_of(*, person: Any, at: datetime) -> list[DoorAnswer]:
    """Every door that a rule names for this person, with its answer now. `person` comes from `with_status`."""
    rules = (
        AccessRule.objects.filter(group__members=person.pk, doors__isnull=False)
        .select_related("schedule", "group")
        .prefetch_related("doors__site")
        .distinct()
        .order_by("name")
    )
    rules_of: dict[Door, list[AccessRule]] = defaultdict(list)
    for rule in rules:
        for door in rule.doors.all():
            rules_of[door].append(rule)
    holidays = {door.site_id: holidays_around(site=door.site, at=at) for door in rules_of}
    facts = policy.PersonFacts(
        person_id=str(person.pk),
        is_active=person.is_active,
        valid_from=person.valid_from,
        valid_until=person.valid_until,
        has_consent=person.has_consent_now,
    )
    if any(door.asks_for != Asked.FACE for door in rules_of):
        has_pin = Pin.objects.filter(person=person.pk).exists()
        has_card = Card.objects.filter(person=person.pk, blocked_at=None).exists()
        facts = replace(facts, has_pin=has_pin, has_card=has_card)
    answers = []
    for door, its_rules in rules_of.items():
        decision = decide_in_advance(
            door=door,
            at=at,
            holidays=holidays[door.site_id],
            person=facts,
            is_enrolled=person.is_enrolled_now,
            rules=tuple(rule_facts(rule) for rule in its_rules),
        )
        answers.append(DoorAnswer(door, decision.granted, decision.reason, its_rules))
    return sorted(answers, key=lambda answer: (not answer.granted, answer.door.site.name, answer.door.name))


def who_may_enter(*, door: Door, at: datetime) -> list[Entry]:
    """Everybody whom a rule names, those who may come first. For small groups; pages ask `EntryQuestion`."""
    question = EntryQuestion(door=door, at=at)
    return [
        *question.decide(question.people(granted=True)),
        *question.decide(question.people(granted=False)),
    ]
