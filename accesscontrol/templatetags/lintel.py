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

from accesscontrol.entry import doors_of
from accesscontrol.models import AccessAttempt
from accesscontrol.policy import Reason
from accesscontrol.shelf import model_in_use, shelf

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
    Reason.PIN_REQUIRED: "asked for the PIN",
    Reason.CARD_REQUIRED: "asked for the card",
    Reason.STEP_EXPIRED: "PIN or card too late",
    Reason.METHOD_REFUSED: "not what the door asks for",
    Reason.PIN_MISSING: "no PIN",
    Reason.PIN_WRONG: "wrong PIN",
    Reason.PIN_LOCKED: "PIN locked",
    Reason.CARD_MISSING: "no card",
    Reason.CARD_UNKNOWN: "unknown card",
    Reason.CARD_BLOCKED: "blocked card",
    Reason.CARD_OF_ANOTHER: "somebody else's card",
    Reason.PROOF_REFUSED: "card or PIN not accepted",
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


@register.simple_tag(takes_context=True)
def may_open(context: dict[str, Any], page: str) -> bool:
    """`may` for pages of other apps, whose names have a colon that a template cannot say."""
    may = context.get("may", {})
    return bool(may and may[page])


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


@register.inclusion_tag("people/_where.html", takes_context=True)
def person_where(context: dict[str, Any], person: Any) -> dict[str, Any]:
    """Where a person (from `with_status`) may go now, by the policy, and where they were let in last.

    Doors of one site that say the same for the same rules share a row.
    """
    together: dict[tuple[Any, ...], dict[str, Any]] = {}
    for answer in doors_of(person=person, at=timezone.now()):
        alike = (answer.reason, answer.door.site_id, tuple(rule.pk for rule in answer.rules))
        row = {"answer": answer, "site": answer.door.site, "rules": answer.rules, "doors": []}
        together.setdefault(alike, row)["doors"].append(answer.door)
    may = context.get("may", {})
    let_in = AccessAttempt.objects.filter(person=person, granted=True).select_related("door")
    return {
        "rows": list(together.values()),
        "last": let_in.first() if may and may["attempts"] else None,
        "may": may,
    }


@register.filter
def profile_name(profile_hash: str) -> str:
    """What the models on this machine call the profile of this hash; empty for one that none of them has."""
    for model in shelf():
        for entry in model.profiles:
            if entry.profile.hash == profile_hash:
                return entry.profile.name
    return ""


@register.filter
def model_name(identity: str) -> str:
    return identity.partition("@")[0]


@register.filter
def is_of_another_model(identity: str) -> bool:
    """Whether a template was made by another model than the one in use, so that it matches nothing."""
    return "@" in identity and identity != model_in_use().identity


@register.inclusion_tag("_field.html")
def field(bound: Any) -> dict[str, Any]:
    """One labelled form field with hint and errors tied to it for screen readers."""
    return {"field": bound}
