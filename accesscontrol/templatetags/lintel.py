"""Times, scores and reasons as people read them."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django import template
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

register = template.Library()

REASONS: dict[str, tuple[str, str]] = {
    # code: (what happened, what to do next)
    "granted": ("Let in", ""),
    "gallery_empty": ("Nobody is enrolled yet", "Enroll a person first."),
    "no_match": ("Not recognised", "If this person is enrolled, try again closer and facing the camera."),
    "ambiguous_match": ("Two people look alike", "Enroll both again in good light."),
    "person_inactive": ("Person switched off", "Switch the person on in their profile."),
    "person_not_yet_valid": ("Not valid yet", "Check the first day of validity in the profile."),
    "person_expired": ("No longer valid", "Extend the last day of validity in the profile."),
    "consent_missing": ("No consent on record", "Record consent, or keep this person out."),
    "no_rule": ("No rule lets this person in here", "Add the person to a group that a rule names."),
    "outside_schedule": ("Outside the permitted hours", "See the schedule of the rule."),
    "holiday": ("Closed for a holiday", "See the holidays of the site."),
    "door_inactive": ("Door switched off", "Switch the door on."),
    "site_locked_down": ("Site is locked down", "Lift the lock-down when it is safe."),
    "terminal_revoked": ("Terminal revoked", "Pair the terminal again if it is yours."),
    "wrong_site": ("Terminal belongs to another site", "Check which door the terminal is assigned to."),
    "anti_passback": ("Already inside", "The person must leave the zone first."),
    "deadline_passed": ("No answer in time", "Check the recognition worker."),
    "payload_missing": ("Capture expired before it was looked at", "Check the recognition worker."),
    "payload_refused": ("Capture was not acceptable", "Check the terminal's version and profile."),
    "recognizer_fault": ("Recogniser failed", "See the log of the recognition worker."),
}


@register.simple_tag
def when(moment: datetime | None, empty: str = "never") -> SafeString | str:
    """A moment as <time>, in the reader's zone; today and yesterday by name."""
    if moment is None:
        return empty
    local = timezone.localtime(moment)
    today = timezone.localtime().date()
    clock = f"{local:%H:%M:%S}" if local.date() == today else f"{local:%H:%M}"
    if local.date() == today:
        words = f"today {clock}"
    elif local.date() == today - timedelta(days=1):
        words = f"yesterday {clock}"
    else:
        words = f"{local.day} {local:%b %Y} {clock}"
    return format_html(
        '<time datetime="{}" title="{}">{}</time>', moment.isoformat(), f"{local:%A %d %B %Y %H:%M:%S %Z}", words
    )


@register.filter
def reason_words(code: str) -> str:
    return REASONS.get(code, (code.replace("_", " ").capitalize(), ""))[0]


@register.filter
def reason_advice(code: str) -> str:
    return REASONS.get(code, ("", ""))[1]


@register.filter
def age(moment: datetime | None) -> str:
    """How long ago, in the largest unit that fits: `3 days`."""
    if moment is None:
        return "never"
    seconds = max(0, int((timezone.now() - moment).total_seconds()))
    for size, unit in ((31_536_000, "year"), (2_592_000, "month"), (86_400, "day"), (3_600, "hour"), (60, "minute")):
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
