"""`Who may enter this door then?`: the policy of the door, asked in advance."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from accesscontrol import policy
from accesscontrol.models import AccessRule, Door
from accesscontrol.services import holidays_around, person_facts
from enrollment.models import Person


@dataclass(frozen=True)
class Entry:
    """One person and what the door would say, were they recognised there at that moment."""

    person: Person
    granted: bool
    reason: policy.Reason


def who_may_enter(*, door: Door, at: datetime) -> list[Entry]:
    """Those who may come first. Whom no rule names at this door is refused with `no_rule` and not listed.

    Recognition and anti-passback depend on the moment itself; assumed are a clear match and a person outside.
    """
    rules = (
        AccessRule.objects.filter(doors=door).select_related("schedule").prefetch_related("group__members")
    )
    rules_of: dict[Person, list[policy.RuleFacts]] = defaultdict(list)
    for rule in rules:
        facts = policy.RuleFacts(
            is_active=rule.is_active,
            valid_from=rule.valid_from,
            valid_until=rule.valid_until,
            weekly=policy.read_weekly(rule.schedule.weekly) if rule.schedule else None,
        )
        for person in rule.group.members.all():
            rules_of[person].append(facts)
    enrolled = Person.objects.with_status().in_bulk([person.pk for person in rules_of])
    holidays = holidays_around(site=door.site, at=at)
    entries = []
    for person, person_rules in rules_of.items():
        known: Any = enrolled[person.pk]
        decision = policy.decide(
            policy.Facts(
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
                matches=(policy.Match(str(person.pk), 1.0),) if known.is_enrolled_now else (),
                person=person_facts(known),
                rules=tuple(person_rules),
                anti_passback=False,
                is_inside=False,
            ),
            at,
        )
        entries.append(Entry(known, decision.granted, decision.reason))
    return sorted(entries, key=lambda entry: (not entry.granted, entry.person.full_name.casefold()))
