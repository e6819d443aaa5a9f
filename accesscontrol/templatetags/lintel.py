"""Times, scores and reasons as people read them."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from django import template
from django.utils import dateformat as date_format
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from accesscontrol.policy import Reason

register = template.Library()

#: What happened, short enough for a list. The full sentence and the next step are the policy's own.
TITLES: dict[Reason, str] = {
    Reason.GRANTED: "let in",
    Reason.GALLERY_EMPTY: "nobody enrolled",
    Reason.NO_MATCH: "not recognised",
    Reason.AMBIGUOUS_MATCH: "two people look alike",
    Reason.PERSON_INACTIVE: "person switched off",
    Reason.PERSON_NOT_YET_VALID: "not valid yet",
    Reason.PERSON_EXPIRED: "no longer valid",
    Reason.CONSENT_MISSING: "no consent",
    Reason.NO_RULE: "no rule for this door",
    Reason.OUTSIDE_SCHEDULE: "outside the hours",
    Reason.HOLIDAY: "holiday",
    Reason.DOOR_INACTIVE: "door switched off",
    Reason.SITE_LOCKED_DOWN: "site locked down",
    Reason.TERMINAL_REVOKED: "terminal revoked",
    Reason.WRONG_SITE: "terminal of another site",
    Reason.ANTI_PASSBACK: "already inside",
    Reason.DEADLINE_PASSED: "no answer in time",
    Reason.PAYLOAD_MISSING: "capture expired",
    Reason.PAYLOAD_REFUSED: "capture not acceptable",
    Reason.RECOGNIZER_FAULT: "recogniser failed",
}


@register.simple_tag
def when(moment: datetime | None, empty: str = "never", brief: bool = False) -> SafeString | str:
    """A moment as <time>, in the reader's zone; today and yesterday by name (`brief`: today by the clock alone)."""
    if moment is None:
        return empty
    local = timezone.localtime(moment)
    today = timezone.localtime().date()
    clock = f"{local:%H:%M:%S}" if local.date() == today else f"{local:%H:%M}"
    if local.date() == today:
        words = clock if brief else f"today {clock}"
    elif local.date() == today - timedelta(days=1):
        words = f"yesterday {clock}"
    else:
        words = f"{local.day} {local:%b %Y} {clock}"
    return format_html(
        '<time datetime="{}" title="{}">{}</time>',
        moment.isoformat(),
        f"{local:%A %d %B %Y %H:%M:%S %Z}",
        words,
    )


@register.filter
def reason_words(code: str) -> str:
    """A reason code in a few words; an unknown code as it is, so that nothing is hidden."""
    return TITLES[Reason(code)] if code in set(Reason) else code.replace("_", " ")


@register.filter
def wall(moment: datetime, form: str) -> str:
    """A moment on the clock of its own zone, not the reader's: for hours at a door."""
    return date_format.format(moment, form)


@register.filter
def rule_words(reason: str) -> str:
    """Why one rule does not open at a moment: never that there is no rule, for this is one."""
    return "not in force" if reason == Reason.NO_RULE else reason_words(reason)


@register.filter
def percent(rate: float) -> str:
    """0.001 as `0.1 %`, three digits, never rounded to zero and never in powers of ten."""
    shown = f"{100 * rate:.3g}"
    return f"{Decimal(shown):f} %"


@register.filter
def age(moment: datetime | None) -> str:
    """How long ago, in the largest unit that fits: `3 days`."""
    if moment is None:
        return "never"
    seconds = max(0, int((timezone.now() - moment).total_seconds()))
    for size, unit in (
        (31_536_000, "year"),
        (2_592_000, "month"),
        (86_400, "day"),
        (3_600, "hour"),
        (60, "minute"),
    ):
        if seconds >= size:
            count = seconds // size
            return f"{count} {unit}{'' if count == 1 else 's'}"
    return "moments"


@register.inclusion_tag("_score.html")
def score_bar(score: float | None, threshold: float | None) -> dict[str, Any]:
    """Score against threshold, both cosines; the bar runs from 0 to 1."""
    if score is None or threshold is None:
        return {"score": None}
    width = round(100 * min(1.0, max(0.0, score)), 1)
    mark = round(100 * min(1.0, max(0.0, threshold)), 1)
    return {"score": score, "threshold": threshold, "width": width, "mark": mark, "below": score < threshold}


@register.inclusion_tag("_field.html")
def field(bound: Any) -> dict[str, Any]:
    """One labelled form field with hint and errors tied to it for screen readers."""
    return {"field": bound}
