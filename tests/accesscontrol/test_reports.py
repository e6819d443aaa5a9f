"""Reports count what happened: on the clock of each door's site, each day once, against an obvious slow count."""

from __future__ import annotations

import uuid
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from django.core.cache import cache
from django.urls import reverse
from django.utils import timezone

from accesscontrol.models import AccessAttempt, Door, Site, Terminal
from accesscontrol.policy import Reason
from accesscontrol.reports import HALF_WAY, NOT_RECOGNISED, TECHNICAL, report
from enrollment.models import Enrollment, ProtectedTemplate
from enrollment.services import register_person
from tests.pages.conftest import signed_in  # noqa: F401
from tests.pages.support import make_attempt

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def fresh_counts():
    cache.clear()
    yield
    cache.clear()


def door_at(zone: str, name: str = "Front") -> Terminal:
    site, _ = Site.objects.get_or_create(name=zone, defaults={"timezone": zone})
    door = Door.objects.create(site=site, name=name)
    return Terminal.objects.create(
        name=f"{zone} {name}",
        door=door,
        site=site,
        state="active",
        key_id=uuid.uuid4().hex,
        public_key=b"k" * 32,
    )


def attempt(terminal: Terminal, at: datetime, reason: str = "granted", **more):
    later = {"deadline_at": at + timedelta(seconds=3), "settled_at": at + timedelta(seconds=1)}
    return make_attempt(terminal, reason=reason, received_at=at, **{**later, **more})


def test_figures_are_those_of_a_slow_count():
    terminals = [door_at("Europe/Vienna"), door_at("Europe/Vienna", "Back"), door_at("Asia/Kolkata")]
    reasons = [reason.value for reason in Reason]
    for number in range(240):
        at = NOW - timedelta(minutes=97 * number + 1)
        attempt(terminals[number % 3], at, reasons[number % len(reasons)], score=0.5 + number / 1000)
    found = report(days=7, at=NOW)
    zone_of = {terminal.door_id: ZoneInfo(terminal.site.timezone) for terminal in terminals}
    whole = AccessAttempt.objects.exclude(reason__in=HALF_WAY)  # what follows a half is counted, not the half
    local = [(row, row.received_at.astimezone(zone_of[row.door_id])) for row in whole]
    today = {door: NOW.astimezone(zone).date() for door, zone in zone_of.items()}
    rows = [(row, at) for row, at in local if (today[row.door_id] - at.date()).days < 7]
    assert found.asked == len(rows)
    assert dict(found.reasons) == Counter(row.reason for row, _ in rows if not row.granted)
    by_hour = Counter((at.hour, row.granted) for row, at in rows)
    assert found.by_hour == [(hour, by_hour[hour, True], by_hour[hour, False]) for hour in range(24)]
    by_day = Counter((at.date(), row.granted) for row, at in rows)
    assert found.by_day == [(day, by_day[day, True], by_day[day, False]) for day, _, _ in found.by_day]
    assert sum(found.scores_let_in) + sum(found.scores_refused) == len(rows)
    for rate in found.doors:
        here = [Reason(row.reason) for row, _ in rows if row.door_id == rate.door.pk]
        assert rate.asked == len(here)
        assert rate.not_recognised == sum(reason in NOT_RECOGNISED for reason in here)
        assert rate.technical == sum(reason in TECHNICAL for reason in here)
        assert rate.let_in + rate.by_rule + rate.failures == rate.asked


@pytest.mark.parametrize(
    ("zone", "moment", "hour", "day"),
    [
        ("Europe/Vienna", datetime(2026, 11, 24, 23, 30, tzinfo=UTC), 0, date(2026, 11, 25)),
        ("Asia/Kathmandu", datetime(2026, 11, 24, 18, 14, tzinfo=UTC), 23, date(2026, 11, 24)),  # 5:45 ahead
        ("Asia/Kathmandu", datetime(2026, 11, 24, 18, 15, tzinfo=UTC), 0, date(2026, 11, 25)),
        (
            "America/St_Johns",
            datetime(2026, 11, 25, 3, 29, tzinfo=UTC),
            23,
            date(2026, 11, 24),
        ),  # 3:30 behind
        ("America/St_Johns", datetime(2026, 11, 25, 3, 30, tzinfo=UTC), 0, date(2026, 11, 25)),
        ("Europe/Vienna", datetime(2026, 10, 25, 0, 30, tzinfo=UTC), 2, date(2026, 10, 25)),  # 2:30, twice
        ("Europe/Vienna", datetime(2026, 10, 25, 1, 30, tzinfo=UTC), 2, date(2026, 10, 25)),
    ],
)
def test_an_attempt_counts_in_the_hour_and_on_the_day_of_the_clock_at_its_door(zone, moment, hour, day):
    attempt(door_at(zone), moment)
    found = report(days=90, at=NOW)
    assert [each[0] for each in found.by_hour if each[1]] == [hour]
    assert [each[0] for each in found.by_day if each[1]] == [day]


def test_a_day_that_is_over_is_counted_once_and_today_every_time(django_assert_num_queries):
    terminal = door_at("Europe/Vienna")
    attempt(terminal, NOW - timedelta(days=2))
    assert report(days=7, at=NOW).asked == 1
    attempt(
        terminal, NOW - timedelta(days=2, minutes=5)
    )  # nothing in Lintel writes into the past: the day is closed
    attempt(terminal, NOW - timedelta(minutes=5))
    assert report(days=7, at=NOW).asked == 2
    cache.clear()
    assert report(days=7, at=NOW).asked == 3


def test_yesterday_stays_open_until_every_attempt_of_it_is_decided():
    terminal = door_at("UTC")
    shortly = datetime(2026, 11, 25, 0, 10, tzinfo=UTC)
    assert report(days=2, at=shortly).asked == 0
    attempt(terminal, shortly - timedelta(minutes=11))
    assert report(days=2, at=shortly).asked == 1


def test_a_report_of_one_door_counts_no_other():
    front, back = door_at("Europe/Vienna"), door_at("Europe/Vienna", "Back")
    attempt(front, NOW - timedelta(hours=2))
    attempt(back, NOW - timedelta(hours=2), "no_match", score=0.1)
    found = report(days=7, at=NOW, door=back.door)
    assert (found.asked, found.let_in, found.reasons) == (1, 0, [("no_match", 1)])
    assert [rate.door for rate in found.doors] == [back.door]


def test_attempts_that_are_still_decided_are_not_counted():
    attempt(
        door_at("UTC"),
        NOW - timedelta(seconds=1),
        "",
        state="pending",
        settled_at=None,
        granted=False,
        score=None,
    )
    assert report(days=1, at=NOW).asked == 0


def test_quality_is_that_of_captures_by_the_day_of_their_enrollment():
    person = register_person(full_name="Alice Example", actor="test", at=NOW)
    at = NOW - timedelta(days=1)
    enrollment = Enrollment.objects.create(
        person=person, state="completed", started_by="x", started_at=at, expires_at=at, finished_at=at
    )
    for kind, quality in (("capture", 0.51), ("capture", 0.71), ("capture", 0.91), ("fused", 0.01)):
        ProtectedTemplate.objects.create(
            person=person, enrollment=enrollment, kind=kind, sealed=b"s", active=True, model="m", profile_hash="p",
            gallery_key_id="k", quality=quality, created_at=at,
        )  # fmt: skip
    (day,) = report(days=7, at=NOW).quality
    assert (day.day, day.count) == (at.date(), 3)
    assert (day.low, day.middle, day.high) == (
        pytest.approx(0.51, abs=0.011),
        pytest.approx(0.71, abs=0.011),
        pytest.approx(0.91, abs=0.011),
    )


def test_a_terminal_whose_scores_sank_comes_first_and_others_are_compared_with_themselves():
    clear, dirty, young = (door_at("Europe/Vienna", name) for name in ("Clear", "Dirty", "Young"))
    for days in range(20):
        at = NOW - timedelta(days=days)
        attempt(clear, at, score=0.6)
        attempt(dirty, at, score=0.45 if days < 7 else 0.71)
        attempt(dirty, at, "no_match", score=0.1)  # a stranger says nothing about a lens
    attempt(young, NOW - timedelta(days=1), score=0.5)
    found = report(days=30, at=NOW).lenses
    assert [each.terminal.pk for each in found] == [dirty.pk, clear.pk, young.pk]
    worst, steady, new = found
    assert (worst.count, worst.count_before) == (7, 13)
    assert worst.middle == pytest.approx(0.45, abs=0.011)
    assert worst.middle_before == pytest.approx(0.71, abs=0.011)
    assert steady.sank_by == 0
    assert (new.middle_before, new.sank_by) == (None, 0)
    assert [each.terminal.pk for each in report(days=30, at=NOW, door=clear.door).lenses] == [clear.pk]


def test_the_page_draws_charts_with_names_and_tables(signed_in):  # noqa: F811
    terminal = door_at("Europe/Vienna")
    now = timezone.now()
    attempt(terminal, now - timedelta(minutes=1))
    attempt(terminal, now - timedelta(minutes=1), "no_match", score=0.1)
    html = signed_in("auditor").get(reverse("reports"), {"days": "30"}).content.decode()
    for name in ("by-day", "by-hour", "reasons", "scores", "match-scores", "lenses", "quality", "doors"):
        assert f'id="chart-{name}"' in html
    assert html.count("<title id=") == html.count("<desc id=") == html.count('role="img"') == 7
    scores = html[html.index('id="chart-scores"') :]
    scores = scores[: scores.index("</figure>")]
    assert '<line class="mark"' in scores and "threshold" in scores  # the scores lie before and behind it
    assert "No capture with a measured quality was enrolled" in html
    assert "not recognised" in html


@pytest.mark.parametrize("query", [{"days": "31"}, {"days": "x"}, {"days": "7", "door": "not-a-door"}])
def test_a_period_or_door_that_makes_no_sense_is_said(signed_in, query):  # noqa: F811
    assert signed_in("auditor").get(reverse("reports"), query).status_code == 422


def test_nobody_but_readers_of_attempts_sees_reports(signed_in):  # noqa: F811
    assert signed_in("enroller").get(reverse("reports")).status_code == 403
    assert signed_in("integrator").get(reverse("reports")).status_code == 403
