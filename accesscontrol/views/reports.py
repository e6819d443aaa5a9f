"""Reports: what happened at doors in a period, as charts and as tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from zoneinfo import ZoneInfo

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from accesscontrol import charts
from accesscontrol.forms import ReportForm
from accesscontrol.models import AccessAttempt
from accesscontrol.reports import (
    LATELY_DAYS,
    SCORE_BINS,
    DoorRate,
    LensScores,
    Quantiles,
    Report,
    report,
)
from accesscontrol.templatetags.lintel import percent, reason_words

LET_IN_REFUSED = ("let in", "refused")
DEFAULT_DAYS = 7
FEW = 50  # attempts; below, shares say little
DOORS_DRAWN = 8


@never_cache
@require_safe
def reports(request: HttpRequest) -> HttpResponse:
    asked = bool(request.GET)
    form = ReportForm(request.GET if asked else None, initial={"days": DEFAULT_DAYS})
    valid = asked and form.is_valid()
    days = int(form.cleaned_data["days"]) if valid else DEFAULT_DAYS
    door = form.cleaned_data["door"] if valid else None
    found = report(days=days, at=timezone.now(), door=door, zone=_clock())
    drawn = [
        *([_by_day(found)] if days > 1 else []),
        _by_hour(found, days),
        _reasons(found),
        _scores(found),
        _match_scores(found),
        _lenses(found, days),
        _quality(found),
        _doors(found),
    ]
    context = {
        "form": form,
        "report": found,
        "door": door,
        "ever": found.asked > 0 or AccessAttempt.objects.exists(),
        "failure_rate": percent(sum(rate.failures for rate in found.doors) / max(1, found.asked)),
        "quality_known": bool(found.quality),
        "charts": drawn,
    }
    return render(request, "reports/reports.html", context, status=422 if asked and not valid else 200)


def _clock() -> ZoneInfo:
    """The reader's clock, for enrollments, which happen at no door."""
    zone = timezone.get_current_timezone()
    return zone if isinstance(zone, ZoneInfo) else ZoneInfo("UTC")


def _with(chart: charts.Chart, summary: str) -> charts.Chart:
    """The chart with the sentence that somebody hears who does not see it."""
    return replace(chart, summary=summary)


def _by_day(found: Report) -> charts.Chart:
    busiest = max(found.by_day, key=lambda row: row[1] + row[2])
    return _with(
        charts.columns(
            name="by-day",
            title="Attempts by day",
            description="How many asked, day by day.",
            heading="Day",
            series=LET_IN_REFUSED,
            labels=[_day(day) for day, _, _ in found.by_day],
            values=[(let_in, refused) for _, let_in, refused in found.by_day],
            empty="No attempt in this time.",
        ),
        f"The busiest day was {_day(busiest[0])} with {busiest[1] + busiest[2]:,} attempts.",
    )


def _by_hour(found: Report, days: int) -> charts.Chart:
    busiest = max(found.by_hour, key=lambda row: row[1] + row[2])
    return _with(
        charts.columns(
            name="by-hour",
            title="Attempts by hour",
            description="Of the day, on the door's own clock"
            + (f", all {days} days together." if days > 1 else "."),
            heading="Hour",
            series=LET_IN_REFUSED,
            labels=[f"{hour:02d}:00 to {hour:02d}:59" for hour, _, _ in found.by_hour],
            short=[f"{hour}:00" for hour, _, _ in found.by_hour],
            values=[(let_in, refused) for _, let_in, refused in found.by_hour],
            empty="No attempt in this time.",
        ),
        f"The busiest hour begins at {busiest[0]:02d}:00 with {busiest[1] + busiest[2]:,} attempts.",
    )


def _reasons(found: Report) -> charts.Chart:
    total = max(1, sum(count for _, count in found.reasons))
    words = [reason_words(reason) for reason, _ in found.reasons]
    shares = [percent(count / total) for _, count in found.reasons]
    chart = charts.bars(
        name="reasons",
        title="Refusals by reason",
        description="Why doors stayed shut, the most frequent reason first.",
        headings=("Reason", "Refusals", "Share"),
        series=("refusals",),
        labels=words,
        values=[(count,) for _, count in found.reasons],
        words=[f"{count:,} · {share}" for (_, count), share in zip(found.reasons, shares, strict=True)],
        rows=[
            (word, f"{count:,}", share)
            for word, (_, count), share in zip(words, found.reasons, shares, strict=True)
        ],
        empty="Nobody was refused in this time.",
        first_series=1,
    )
    summary = f"The most frequent reason is “{words[0]}”: {shares[0]} of refusals." if words else ""
    return _with(chart, summary)


def _scores(found: Report) -> charts.Chart:
    """From just below the lowest score to just above the highest, the threshold among them."""
    used = [
        place
        for place, pair in enumerate(zip(found.scores_let_in, found.scores_refused, strict=True))
        if any(pair)
    ]
    low, high = (min(used), max(used) + 1) if used else (SCORE_BINS // 2, SCORE_BINS)
    if found.thresholds is not None:
        low = min(low, int((found.thresholds[0] + 1) * SCORE_BINS / 2) - 2)
        high = max(high, int((found.thresholds[1] + 1) * SCORE_BINS / 2) + 3)
    low, high = max(0, low - 1), min(SCORE_BINS, high + 1)
    edges = [round(place * 2 / SCORE_BINS - 1, 2) for place in range(low, high + 1)]
    near = ""
    label = ""
    if found.thresholds is not None:
        lowest, highest = found.thresholds
        label = f"threshold {lowest:.2f}" + (f" to {highest:.2f}" if highest - lowest >= 0.005 else "")
        near = f" The threshold lies at {lowest:.3f} to {highest:.3f}; it rises with the number of people enrolled."
    chart = charts.histogram(
        name="scores",
        title="Match scores against the threshold",
        description="How alike capture and template were (cosine). Being let in takes the threshold and a rule.",
        heading="Score",
        series=LET_IN_REFUSED,
        edges=edges,
        values=list(zip(found.scores_let_in[low:high], found.scores_refused[low:high], strict=True)),
        mark=found.thresholds,
        mark_label=label,
        empty="No attempt was searched in this time, so there is no score.",
    )
    return _with(chart, f"{sum(found.scores_let_in):,} scores of people let in.{near}")


def _match_scores(found: Report) -> charts.Chart:
    return _over_time(
        found,
        found.match_scores,
        name="match-scores",
        title="Match scores over time",
        description="Scores of people let in. A line that sinks says that templates age or cameras need care; the "
        "next chart says which camera.",
        span=(0.0, 1.0),
        empty="Nobody was let in in this time.",
    )


def _lenses(found: Report, days: int) -> charts.Chart:
    compared = days > LATELY_DAYS
    drawn = found.lenses[:DOORS_DRAWN]
    several = len({each.terminal.site_id for each in found.lenses}) > 1

    def place(each: LensScores) -> str:
        door = each.terminal.door
        return "" if door is None else f"{door.name}, {door.site.name}" if several else door.name

    def was(each: LensScores) -> str:
        return "" if each.middle_before is None else f"{each.middle_before:.2f}"

    chart = charts.bars(
        name="lenses",
        title="Match scores by terminal",
        description=(
            f"The middle score of people let in, the last {LATELY_DAYS} days against the days before; what sank most "
            "comes first. "
            if compared
            else "The middle score of people let in. A longer period shows which terminal's sank. "
        )
        + "An attempt sends no picture and no quality figure, so this is what shows a dirty lens or poor light.",
        headings=("Terminal", "Door", "Let in lately", "Middle score", "Before", "Sank by"),
        series=("score",),
        labels=[each.terminal.name for each in drawn],
        values=[(max(0.0, each.middle),) for each in drawn],
        words=[f"{each.middle:.2f}" + (f", was {was(each)}" if was(each) else "") for each in drawn],
        more=[("", ", too few to say" if each.count < FEW else "") for each in drawn],
        rows=[
            (
                each.terminal.name, place(each), f"{each.count:,}", f"{each.middle:.2f}", was(each) or "none",
                f"{each.sank_by:.2f}" if was(each) else "",
            )
            for each in found.lenses
        ],
        empty="Nobody was let in in this time.",
    )  # fmt: skip
    worst = found.lenses[0] if found.lenses else None
    if worst is None:
        return chart
    if worst.sank_by > 0:
        return _with(
            chart, f"{worst.terminal.name} sank most, from {was(worst)} to {worst.middle:.2f} in the middle."
        )
    return _with(chart, "No terminal's scores sank." if compared else f"{len(found.lenses)} terminals.")


def _quality(found: Report) -> charts.Chart:
    return _over_time(
        found,
        found.quality,
        name="quality",
        title="Quality of enrolled captures over time",
        description="By the day of enrollment, all desks; 1 is best. Low days point to a desk's light or camera.",
        span=(0.0, 1.0),
        empty="No capture with a measured quality was enrolled in this time.",
    )


def _over_time(
    found: Report,
    quantiles: Sequence[Quantiles],
    *,
    name: str,
    title: str,
    description: str,
    span: tuple[float, float],
    empty: str,
) -> charts.Chart:
    known = {each.day: each for each in quantiles}
    days = [day for day, _, _ in found.by_day]
    chart = charts.band(
        name=name,
        title=title,
        description=description,
        headings=("Day", "Count", "Lowest tenth", "Middle", "Highest tenth"),
        labels=[_day(day) for day in days],
        values=[
            (known[day].low, known[day].middle, known[day].high) if day in known else None for day in days
        ],
        rows=[
            (_day(each.day), f"{each.count:,}", f"{each.low:.2f}", f"{each.middle:.2f}", f"{each.high:.2f}")
            for each in quantiles
        ],
        span=span,
        empty=empty,
    )
    if not quantiles:
        return chart
    first, last = quantiles[0], quantiles[-1]
    words = (
        f"The middle was {first.middle:.2f} on {_day(first.day)} and {last.middle:.2f} on {_day(last.day)}."
    )
    return _with(chart, words)


def _doors(found: Report) -> charts.Chart:
    rates = sorted(
        (rate for rate in found.doors if rate.asked), key=lambda rate: (-rate.rate, rate.door.name)
    )
    several = len({rate.door.site_id for rate in rates}) > 1
    worst = [rate for rate in rates if rate.failures][:DOORS_DRAWN]
    chart = charts.bars(
        name="doors",
        title="Failures by door",
        description="Share of attempts that failed; the doors where most do. The table has every door.",
        headings=("Door", "Attempts", "Let in", "Refused by a rule", "Not recognised", "Technical", "Failed"),
        series=("not recognised", "technical"),
        labels=[rate.door.name for rate in worst],
        values=[
            (rate.not_recognised / rate.asked, rate.technical / rate.asked) for rate in worst
        ],
        words=[percent(rate.rate) for rate in worst],
        more=[
            (
                f", {rate.door.site.name}" if several else "",
                f" of {rate.asked:,}" + (", too few to say" if rate.asked < FEW else ""),
            )
            for rate in worst
        ],
        rows=[
            (
                _door(rate, several), f"{rate.asked:,}", f"{rate.let_in:,}", f"{rate.by_rule:,}",
                f"{rate.not_recognised:,}", f"{rate.technical:,}", percent(rate.rate),
            )
            for rate in rates
        ],
        empty="No attempt failed in this time.",
        first_series=1,
    )  # fmt: skip
    return _with(chart, f"{_door(rates[0], several)} fails most: {percent(rates[0].rate)}." if rates else "")


def _door(rate: DoorRate, several_sites: bool) -> str:
    return f"{rate.door.name}, {rate.door.site.name}" if several_sites else rate.door.name


def _day(day: date) -> str:
    return f"{day.day} {day:%b}"
