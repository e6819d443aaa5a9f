"""Who may enter, in bulk: the answer for everybody is the policy's answer for each, whatever is known of them."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from django.urls import reverse

from accesscontrol import policy
from accesscontrol.entry import EntryQuestion, doors_of, rule_facts
from accesscontrol.models import AccessGroup, AccessRule, Door, Holiday, Schedule, Site
from enrollment.models import Consent, Enrollment, Person, ProtectedTemplate
from tests.pages.conftest import administrator, signed_in  # noqa: F401

pytestmark = pytest.mark.django_db
VIENNA = ZoneInfo("Europe/Vienna")
MONDAY = datetime(2026, 11, 30, 10, tzinfo=VIENNA)


@pytest.fixture
def door() -> Door:
    site = Site.objects.create(name="Harbour House", timezone="Europe/Vienna")
    return Door.objects.create(site=site, name="Front door")


def rule(door: Door, name: str, weekly: list[dict[str, object]] | None, **more: object) -> AccessRule:
    schedule = None if weekly is None else Schedule.objects.create(name=name, weekly=weekly)
    made = AccessRule.objects.create(
        name=name, group=AccessGroup.objects.create(name=name), schedule=schedule, **more
    )
    made.doors.add(door)
    return made


def crowd(groups: list[AccessGroup]) -> None:
    """Somebody with every combination of what the policy looks at, in every set of groups."""
    now = MONDAY
    number = 0
    for consent, enrolled, active, begun, over in itertools.product((True, False), repeat=5):
        for size in range(len(groups) + 1):
            for members in itertools.combinations(groups, size):
                number += 1
                start = now - timedelta(days=20) if begun else now + timedelta(days=1)
                end = now - timedelta(days=1) if over and begun else now + timedelta(days=9)
                person = Person.objects.create(
                    full_name=f"Person {number:03d}", is_active=active, valid_from=start, valid_until=end
                )
                if consent:
                    Consent.objects.create(
                        person=person, text="x", version="1", method="signed", given_at=now, recorded_by="x"
                    )
                if enrolled:
                    done = Enrollment.objects.create(
                        person=person, state="completed", started_by="x", started_at=now, expires_at=now,
                        finished_at=now,
                    )  # fmt: skip
                    ProtectedTemplate.objects.create(
                        person=person, enrollment=done, sealed=b"s", active=True, model="m", profile_hash="p",
                        gallery_key_id="k", created_at=now,
                    )  # fmt: skip
                person.access_groups.set(members)


@pytest.mark.parametrize(
    "at", [MONDAY, MONDAY.replace(hour=23), MONDAY + timedelta(days=1), MONDAY + timedelta(days=7)]
)
def test_the_answer_for_everybody_is_the_policys_answer_for_each(door, at):
    hours = [{"day": 0, "from": "07:00", "to": "19:00"}]
    rules = [
        rule(door, "office", hours),
        rule(door, "late", [{"day": 0, "from": "22:00", "to": "02:00"}]),
        rule(
            door, "over", None, valid_from=MONDAY - timedelta(days=9), valid_until=MONDAY - timedelta(days=2)
        ),
    ]
    Holiday.objects.create(site=door.site, date=(MONDAY + timedelta(days=7)).date(), name="Feast")
    crowd([each.group for each in rules])
    question = EntryQuestion(door=door, at=at)
    slowly = {
        entry.person.pk: entry.granted
        for entry in question.decide(
            Person.objects.with_status().filter(access_groups__rules__doors=door).distinct()
        )
    }
    may = set(question.people(granted=True).values_list("pk", flat=True))
    refused = set(question.people(granted=False).values_list("pk", flat=True))
    assert may == {pk for pk, granted in slowly.items() if granted}
    assert refused == {pk for pk, granted in slowly.items() if not granted}
    assert question.counts() == (len(may), len(refused))
    assert may or at != MONDAY


def test_a_week_of_a_rule_is_what_the_policy_says_of_every_quarter_of_an_hour(door):
    rules = [
        rule(door, "office", [{"day": day, "from": "07:10", "to": "19:00"} for day in range(5)]),
        rule(door, "night", [{"day": 5, "from": "22:00", "to": "06:00"}]),
        rule(door, "always", None),
        rule(door, "ends", None, valid_until=MONDAY + timedelta(days=2)),
    ]
    Holiday.objects.create(site=door.site, date=(MONDAY + timedelta(days=1)).date(), name="Feast")
    Holiday.objects.create(site=door.site, date=(MONDAY + timedelta(days=5)).date(), name="Fair")
    holidays = frozenset(door.site.holidays.values_list("date", flat=True))
    days, week = EntryQuestion(door=door, at=MONDAY).week(7)
    assert {row.rule for row in week} == set(rules)
    for row in week:
        for day, found in zip(days, row.days, strict=True):
            for minute in range(0, 24 * 60, 5):
                at = datetime(day.year, day.month, day.day, minute // 60, minute % 60, tzinfo=VIENNA)
                answer = policy.is_open(
                    rule_facts(row.rule), at=at, time_zone="Europe/Vienna", holidays=holidays
                )
                shown = any(start <= f"{at:%H:%M}" < end for start, end in found.stretches)
                assert shown == (answer == policy.Reason.GRANTED), f"{row.rule} {at}"


def test_the_hour_is_one_of_the_clock_at_the_door_whoever_reads(administrator, door):  # noqa: F811
    far = Door.objects.create(
        site=Site.objects.create(name="Bay Office", timezone="Asia/Singapore"), name="Lobby"
    )
    made = rule(far, "mornings", [{"day": 5, "from": "07:00", "to": "08:00"}])
    person = Person.objects.create(full_name="Ada", valid_from=datetime(2020, 1, 1, tzinfo=UTC))
    made.group.members.add(person)
    for hour, opens in (("06:59", False), ("07:00", True), ("08:00", False)):
        page = administrator.get(reverse("who_may_enter"), {"door": far.pk, "at": f"2026-11-28T{hour}"})
        assert [answer.opens for answer in page.context["rules"]] == [opens], hour


def test_the_page_of_a_door_asks_back_when_the_hour_makes_no_sense(administrator, door):  # noqa: F811
    for query in ({"day": "2031-01-01", "hour": "07:00"}, {"day": "x", "hour": ""}):
        answer = administrator.get(reverse("door", args=[door.pk]), query)
        assert answer.status_code == 422
        assert "write the time as 07:00" in answer.content.decode()


def test_a_person_sees_each_door_with_the_policys_answer(door):
    other = Door.objects.create(site=door.site, name="Vault")
    rule(door, "office", [{"day": 0, "from": "07:00", "to": "19:00"}])
    rule(other, "night", [{"day": 0, "from": "22:00", "to": "23:00"}])
    groups = list(AccessGroup.objects.order_by("name"))
    crowd(groups)
    found = Person.objects.with_status().filter(
        is_active=True, has_consent_now=True, is_enrolled_now=True, valid_from__lt=MONDAY, valid_until__gt=MONDAY,
    ).filter(access_groups=groups[0]).get(access_groups=groups[1])  # fmt: skip
    answers = {answer.door.name: str(answer.reason) for answer in doors_of(person=found, at=MONDAY)}
    assert answers == {"Front door": "granted", "Vault": "outside_schedule"}
