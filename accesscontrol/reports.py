"""What happened at doors, counted: by hour, by reason, by score, by door. Reads only.

A day that is over does not change any more, so it is counted once and kept in the cache; only today is counted
anew. Hours and days are those of the site a door stands at, whoever reads. A cache that is lost costs one slower
page. Two who count the same day at once keep the same numbers; the later one stays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
from django.core.cache import cache
from django.db.models import CharField, Count, F, FloatField, Func, IntegerField, Max, Min
from django.db.models.functions import Cast, Floor
from numpy.typing import NDArray

from accesscontrol.models import AccessAttempt, Door, Site, Terminal
from accesscontrol.policy import Reason
from enrollment.models import ProtectedTemplate

PERIODS = (1, 7, 30, 90)  # days, today included
CLOSED_AFTER = timedelta(hours=1)  # every attempt of a day is decided by then
LATELY_DAYS = 7  # what a terminal's scores of late are held against the rest of the period by
KEPT_DAYS = 120
CACHE_S = 7 * 24 * 3600
QUALITY_CACHE_S = 6 * 3600

#: Reasons by what has to be done about them. Whatever is neither is a refusal that a rule meant.
NOT_RECOGNISED = frozenset({Reason.NO_MATCH, Reason.AMBIGUOUS_MATCH, Reason.GALLERY_EMPTY})
TECHNICAL = frozenset(
    {
        Reason.DEADLINE_PASSED,
        Reason.PAYLOAD_MISSING,
        Reason.PAYLOAD_REFUSED,
        Reason.RECOGNIZER_FAULT,
        Reason.TERMINAL_REVOKED,
        Reason.WRONG_SITE,
    }
)
#: A door that knows the face and asks for more: what comes of it is an attempt of its own, and counted there.
HALF_WAY = (Reason.PIN_REQUIRED.value, Reason.CARD_REQUIRED.value)
REASONS = tuple(reason.value for reason in Reason)
_PLACE = {reason: place for place, reason in enumerate(REASONS)}
SCORE_BINS = 100  # of 0.02 each, from -1 to 1
QUALITY_BINS = 50  # of 0.02 each, from 0 to 1


@dataclass
class DayCounts:
    """One site, one day of its clock. Rows follow `doors`."""

    doors: list[str]
    hours: NDArray[np.int64]  # (doors, 24, 2): let in, refused
    reasons: NDArray[np.int64]  # (doors, len(REASONS))
    scores: NDArray[np.int64]  # (doors, 2, SCORE_BINS): let in, refused
    thresholds: tuple[float, float] | None = None  # lowest, highest
    #: Scores of people let in, by (door, terminal): (SCORE_BINS).
    lenses: dict[tuple[str, str], NDArray[np.int64]] = field(default_factory=dict)


@dataclass(frozen=True)
class Quantiles:
    """Lowest tenth, middle and highest tenth of one day's values."""

    day: date
    count: int
    low: float
    middle: float
    high: float


@dataclass(frozen=True)
class LensScores:
    """What one terminal's captures scored, for people let in: lately, and in the days of the period before that.

    No picture and no quality figure comes with an attempt. A lens that gets dirty or a lamp that fails shows here:
    the same people match less well than they did.
    """

    terminal: Terminal
    count: int
    middle: float
    count_before: int = 0
    middle_before: float | None = None

    @property
    def sank_by(self) -> float:
        return 0.0 if self.middle_before is None else self.middle_before - self.middle


@dataclass(frozen=True)
class DoorRate:
    door: Door
    asked: int
    let_in: int
    by_rule: int
    not_recognised: int
    technical: int

    @property
    def failures(self) -> int:
        return self.not_recognised + self.technical

    @property
    def rate(self) -> float:
        """Share of attempts that failed for another reason than a rule."""
        return self.failures / self.asked if self.asked else 0.0


@dataclass(frozen=True)
class Report:
    """All figures of one period. `by_day` and `by_hour`: (label, let in, refused)."""

    first: date
    last: date
    asked: int
    let_in: int
    by_day: list[tuple[date, int, int]]
    by_hour: list[tuple[int, int, int]]
    reasons: list[tuple[str, int]]
    scores_let_in: list[int]
    scores_refused: list[int]
    thresholds: tuple[float, float] | None
    doors: list[DoorRate]
    match_scores: list[Quantiles]
    quality: list[Quantiles] = field(default_factory=list)
    lenses: list[LensScores] = field(default_factory=list)

    @property
    def refused(self) -> int:
        return self.asked - self.let_in


def report(*, days: int, at: datetime, door: Door | None = None, zone: ZoneInfo | None = None) -> Report:
    """The last `days` days up to `at`, of one door or of all. `zone` is the clock of the desk, for enrollments."""
    doors = list(Door.objects.select_related("site").order_by("site__name", "name"))
    if door is not None:
        doors = [known for known in doors if known.pk == door.pk]
    row_of = {str(known.pk): row for row, known in enumerate(doors)}
    sites = {known.site_id: known.site for known in doors}
    hours = np.zeros((len(doors), 24, 2), np.int64)
    reasons = np.zeros((len(doors), len(REASONS)), np.int64)
    scores = np.zeros((2, SCORE_BINS), np.int64)
    per_day: dict[date, NDArray[np.int64]] = {}
    scores_of_day: dict[date, NDArray[np.int64]] = {}
    thresholds: list[tuple[float, float]] = []
    lenses: dict[str, NDArray[np.int64]] = {}  # terminal -> (2, SCORE_BINS): lately, before
    last = max((local_day(at, site) for site in sites.values()), default=at.date())
    for site in sites.values():
        today = local_day(at, site)
        wanted = [today - timedelta(days=back) for back in range(days)]
        for day, counts in count_days(site=site, days=wanted, at=at).items():
            rows = [row_of.get(name) for name in counts.doors]
            here = [place for place, row in enumerate(rows) if row is not None]
            there = [row for row in rows if row is not None]
            if not here:
                continue
            hours[there] += counts.hours[here]
            reasons[there] += counts.reasons[here]
            of_day = counts.scores[here].sum(axis=0)
            scores += of_day
            per_day[day] = per_day.get(day, np.zeros(2, np.int64)) + counts.hours[here].sum(axis=(0, 1))
            scores_of_day[day] = scores_of_day.get(day, np.zeros(SCORE_BINS, np.int64)) + of_day[0]
            before = int((today - day).days >= LATELY_DAYS)
            for (name, terminal), scored in counts.lenses.items():
                if name in row_of:
                    lenses.setdefault(terminal, np.zeros((2, SCORE_BINS), np.int64))[before] += scored
            if counts.thresholds is not None:
                thresholds.append(counts.thresholds)
    first = last - timedelta(days=days - 1)
    calendar = [first + timedelta(days=number) for number in range(days)]
    by_hour = hours.sum(axis=0)
    totals = hours.sum(axis=(0, 1))
    return Report(
        first=first,
        last=last,
        asked=int(totals.sum()),
        let_in=int(totals[0]),
        by_day=[(day, *_pair(per_day.get(day))) for day in calendar],
        by_hour=[(hour, int(by_hour[hour, 0]), int(by_hour[hour, 1])) for hour in range(24)],
        reasons=_ranked(reasons.sum(axis=0)),
        scores_let_in=[int(count) for count in scores[0]],
        scores_refused=[int(count) for count in scores[1]],
        thresholds=(min(low for low, _ in thresholds), max(high for _, high in thresholds))
        if thresholds
        else None,
        doors=[_rate(known, reasons[row]) for row, known in enumerate(doors)],
        match_scores=_quantiles(scores_of_day, calendar, low=-1.0, width=0.02),
        quality=_quantiles(
            count_quality(days=calendar, at=at, zone=zone or ZoneInfo("UTC")), calendar, low=0.0, width=0.02
        ),
        lenses=_lenses(lenses),
    )


def local_day(at: datetime, site: Site) -> date:
    return at.astimezone(ZoneInfo(site.timezone)).date()


def _pair(counts: NDArray[np.int64] | None) -> tuple[int, int]:
    return (0, 0) if counts is None else (int(counts[0]), int(counts[1]))


def _ranked(counts: NDArray[np.int64]) -> list[tuple[str, int]]:
    """Refusals, most frequent first; reasons that did not occur are left out."""
    found = [
        (reason, int(counts[place])) for reason, place in _PLACE.items() if reason != Reason.GRANTED.value
    ]
    return sorted((pair for pair in found if pair[1]), key=lambda pair: (-pair[1], pair[0]))


def _rate(door: Door, counts: NDArray[np.int64]) -> DoorRate:
    asked, let_in = int(counts.sum()), int(counts[_PLACE[Reason.GRANTED.value]])
    not_recognised = sum(int(counts[_PLACE[reason.value]]) for reason in NOT_RECOGNISED)
    technical = sum(int(counts[_PLACE[reason.value]]) for reason in TECHNICAL)
    by_rule = asked - let_in - not_recognised - technical
    return DoorRate(door, asked, let_in, by_rule, not_recognised, technical)


def _lenses(scored: Mapping[str, NDArray[np.int64]]) -> list[LensScores]:
    """Those whose scores sank most first. A terminal at which nobody was let in lately is left out."""
    found = []
    for terminal in Terminal.objects.filter(pk__in=list(scored)).select_related("door__site"):
        lately, before = scored[str(terminal.pk)]
        if not lately.sum():
            continue
        earlier = (int(before.sum()), _middle(before)) if before.sum() else (0, None)
        found.append(LensScores(terminal, int(lately.sum()), _middle(lately), *earlier))
    return sorted(found, key=lambda each: (-round(each.sank_by, 6), each.terminal.name))


def _middle(histogram: NDArray[np.int64]) -> float:
    cumulative = np.cumsum(histogram)
    return -1.0 + (int(np.searchsorted(cumulative, 0.5 * cumulative[-1], side="left")) + 0.5) * 0.02


def _quantiles(
    histograms: Mapping[date, NDArray[np.int64]], calendar: Sequence[date], *, low: float, width: float
) -> list[Quantiles]:
    """Of each day that has values, read from its histogram: exact to half a bin."""
    found = []
    for day in calendar:
        histogram = histograms.get(day)
        if histogram is None or not (count := int(histogram.sum())):
            continue
        cumulative = np.cumsum(histogram)
        at = [int(np.searchsorted(cumulative, share * count, side="left")) for share in (0.1, 0.5, 0.9)]
        values = [low + (place + 0.5) * width for place in at]
        found.append(Quantiles(day, count, *values))
    return found


# Counting days


def count_days(*, site: Site, days: Sequence[date], at: datetime) -> dict[date, DayCounts]:
    """Counts of each of these days on the site's clock; days without an attempt too."""
    key = f"lintel.reports.by-lens.{site.pk}.{site.timezone}.{len(REASONS)}"
    kept: dict[date, DayCounts] = cache.get(key) or {}
    open_since = local_day(at - CLOSED_AFTER, site)  # this day, and any after it, may still change
    missing = [day for day in days if day not in kept or day >= open_since]
    if not missing:
        return {day: kept[day] for day in days}
    counted = _count(site, min(missing), max(missing))
    closed = {day: counts for day, counts in counted.items() if day < open_since}
    if closed.keys() - kept.keys():
        oldest = local_day(at, site) - timedelta(days=KEPT_DAYS)
        cache.set(key, {day: counts for day, counts in (kept | closed).items() if day >= oldest}, CACHE_S)
    return {day: counted.get(day) or kept[day] for day in days}


def _count(site: Site, first: date, last: date) -> dict[date, DayCounts]:
    """Reads the attempts of these days, in groups as large as the database can make without knowing time zones."""
    zone = ZoneInfo(site.timezone)
    doors = list(Door.objects.filter(site=site).values_list("pk", flat=True))
    row_of = {door: row for row, door in enumerate(doors)}
    names = [str(door) for door in doors]
    counted = {
        first + timedelta(days=number): DayCounts(
            doors=names,
            hours=np.zeros((len(doors), 24, 2), np.int64),
            reasons=np.zeros((len(doors), len(REASONS)), np.int64),
            scores=np.zeros((len(doors), 2, SCORE_BINS), np.int64),
        )
        for number in range((last - first).days + 1)
    }
    attempts = AccessAttempt.objects.filter(
        received_at__gte=datetime.combine(first, time.min, zone),
        received_at__lt=datetime.combine(last + timedelta(days=1), time.min, zone),
        door__in=doors,
        state=AccessAttempt.State.SETTLED,
    ).exclude(reason__in=HALF_WAY)
    groups = (
        attempts.order_by()
        .annotate(quarter=QuarterHour(F("received_at")), bin=_score_bin())
        .values_list("quarter", "door_id", "terminal_id", "reason", "bin")
        .annotate(Count("pk"), Min("threshold"), Max("threshold"))
    )
    when: dict[str, tuple[date, int]] = {}
    for quarter, door, terminal, reason, score, number, lowest, highest in groups:
        if quarter not in when:
            local = _moment(quarter).astimezone(zone)
            when[quarter] = (local.date(), local.hour)
        day, hour = when[quarter]
        counts, row = counted[day], row_of[door]
        outcome = 0 if reason == Reason.GRANTED.value else 1
        counts.hours[row, hour, outcome] += number
        counts.reasons[row, _PLACE[reason]] += number
        if score is not None:
            place = min(SCORE_BINS - 1, max(0, int(score)))
            counts.scores[row, outcome, place] += number
            if outcome == 0 and terminal is not None:
                lens = (str(door), str(terminal))
                counts.lenses.setdefault(lens, np.zeros(SCORE_BINS, np.int64))[place] += number
        if lowest is not None:
            low, high = counts.thresholds or (lowest, highest)
            counts.thresholds = (min(low, lowest), max(high, highest))
    return counted


def count_quality(*, days: Sequence[date], at: datetime, zone: ZoneInfo) -> dict[date, NDArray[np.int64]]:
    """Histograms of the quality of captures by the day they were enrolled, for captures in the gallery.

    Days that are over are kept for some hours: an erasure takes captures of past days away, and shows then.
    """
    if not days:
        return {}
    today = at.astimezone(zone).date()
    key = f"lintel.reports.quality.{zone.key}"
    kept: tuple[date, dict[date, NDArray[np.int64]]] | None = cache.get(key)
    first = today - timedelta(days=max(PERIODS) - 1)
    if kept is None or kept[0] != today:
        kept = (today, _count_quality(first, today, zone))
        cache.set(key, kept, QUALITY_CACHE_S)
    found = kept[1] | _count_quality(today, today + timedelta(days=1), zone)
    return {day: found[day] for day in days if day in found}


def _count_quality(first: date, end: date, zone: ZoneInfo) -> dict[date, NDArray[np.int64]]:
    """`end` is exclusive."""
    groups = (
        ProtectedTemplate.objects.filter(
            kind=ProtectedTemplate.Kind.CAPTURE,
            quality__isnull=False,
            created_at__gte=datetime.combine(first, time.min, zone),
            created_at__lt=datetime.combine(end, time.min, zone),
        )
        .order_by()
        .annotate(quarter=QuarterHour(F("created_at")), bin=Cast(F("quality") * QUALITY_BINS, IntegerField()))
        .values_list("quarter", "bin")
        .annotate(Count("pk"))
    )
    found: dict[date, NDArray[np.int64]] = {}
    for quarter, place, number in groups:
        day = _moment(quarter).astimezone(zone).date()
        histogram = found.setdefault(day, np.zeros(QUALITY_BINS, np.int64))
        histogram[min(QUALITY_BINS - 1, max(0, int(place)))] += number
    return found


class QuarterHour(Func):
    """The quarter of an hour, in UTC, in which a moment lies: `2026-11-25 08|2` is 08:30 to 08:45.

    Every zone's offset is a number of whole quarters, so groups of quarters can be told apart by any clock later.
    Written for each database, because Django's own truncation calls Python for every row of SQLite.
    """

    output_field = CharField()
    arity = 1

    def as_sqlite(self, compiler: Any, connection: Any, **context: Any) -> Any:
        template = (
            "SUBSTR(%(expressions)s, 1, 13) || '|' || (CAST(SUBSTR(%(expressions)s, 15, 2) AS INTEGER) / 15)"
        )
        sql, parameters = self.as_sql(compiler, connection, template=template, **context)
        return sql, tuple(parameters) * 2

    def as_postgresql(self, compiler: Any, connection: Any, **context: Any) -> Any:
        template = (
            "TO_CHAR(%(expressions)s AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24') || '|' ||"
            " (EXTRACT(MINUTE FROM %(expressions)s)::integer / 15)"
        )
        sql, parameters = self.as_sql(compiler, connection, template=template, **context)
        return sql, tuple(parameters) * 2


def _moment(quarter: str) -> datetime:
    hour, _, number = quarter.partition("|")
    return datetime.fromisoformat(f"{hour}:{int(number) * 15:02d}").replace(tzinfo=UTC)


def _score_bin() -> Any:
    """Which of the SCORE_BINS a score falls into, -1 being the first; None without a score."""
    return Cast(Floor((F("score") + 1.0) * (SCORE_BINS / 2), output_field=FloatField()), IntegerField())
