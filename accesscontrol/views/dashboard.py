"""The live page, attempts and alarms."""

from __future__ import annotations

import uuid
from typing import Any
from zoneinfo import ZoneInfo

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe

from accesscontrol.forms import AttemptFilterForm, LiveFilterForm
from accesscontrol.models import AccessAttempt, Alarm, Site
from accesscontrol.overview import (
    ATTEMPT_KEYS,
    counts_today,
    door_states,
    filter_attempts,
    first_steps,
    newest_attempts,
    people_counts,
    trouble_first,
)
from accesscontrol.policy import Reason
from accesscontrol.roles import allows
from accesscontrol.services import acknowledge_alarm
from accesscontrol.templatetags.lintel import reason_words
from accesscontrol.views.common import PAGE_SIZE, actor_of
from audit.paging import stretch

SHOWN = 12
DOORS_SHOWN = 10
ALARMS_SHOWN = 8


@never_cache
@require_safe
def dashboard(request: HttpRequest) -> HttpResponse:
    """What happens now. `?part=live` is the part that events refresh, so that both are one template."""
    context: dict[str, Any] = {"sites": Site.objects.all()}
    now = timezone.now()
    if allows("attempts", request.user):
        form = LiveFilterForm(request.GET)
        asked = form.cleaned_data if form.is_valid() else {}
        states = trouble_first(door_states(now))
        alarms = Alarm.objects.filter(acknowledged_at=None).select_related("door", "terminal")
        context |= {
            "form": form,
            "filtered": any(asked.values()),
            "counts": counts_today(now),
            "doors": states[:DOORS_SHOWN],
            "more_doors": max(0, len(states) - DOORS_SHOWN),
            "attempts": newest_attempts(SHOWN, asked),
            "alarms": list(alarms[: ALARMS_SHOWN + 1]),
        }
        if len(context["alarms"]) > ALARMS_SHOWN:
            context["more_alarms"] = alarms.count() - ALARMS_SHOWN
            context["alarms"] = context["alarms"][:ALARMS_SHOWN]
    elif "part" in request.GET:
        raise PermissionDenied
    if request.GET.get("part") == "live":
        return render(request, "dashboard/_live.html", context)
    if allows("people", request.user):
        context["at_desk"] = not allows("attempts", request.user)
        context["people"] = people_counts(now) if context["at_desk"] else {}
    if allows("site_create", request.user):
        steps = first_steps()
        context["steps"] = steps if not all(step.done for step in steps) else []
    return render(request, "dashboard/dashboard.html", context)


@never_cache
@require_safe
def attempts(request: HttpRequest) -> HttpResponse:
    reasons = [(reason.value, reason_words(reason.value)) for reason in Reason]
    form = AttemptFilterForm(request.GET, reasons=reasons)
    asked = form.cleaned_data if form.is_valid() else {}
    rows = filter_attempts(AccessAttempt.objects.select_related("person", "door"), asked)
    found = stretch(rows, ATTEMPT_KEYS, request.GET, size=PAGE_SIZE)
    context = {"form": form, "stretch": found, "filtered": any(asked.values()), "of": asked.get("person")}
    return render(request, "attempts/list.html", context)


@require_safe
def attempt(request: HttpRequest, attempt_id: uuid.UUID) -> HttpResponse:
    rows = AccessAttempt.objects.select_related("person", "door", "door__site", "terminal")
    found = get_object_or_404(rows, pk=attempt_id)
    context: dict[str, Any] = {"attempt": found}
    if found.door is not None:
        there = found.received_at.astimezone(ZoneInfo(found.door.site.timezone))
        if there.utcoffset() != timezone.localtime(found.received_at).utcoffset():
            context["there"] = there  # the reader's clock shows another hour than the one beside the door
    return render(request, "attempts/attempt.html", context)


@require_POST
def alarm_acknowledge(request: HttpRequest, alarm_id: int) -> HttpResponse:
    acknowledge_alarm(alarm=get_object_or_404(Alarm, pk=alarm_id), actor=actor_of(request), at=timezone.now())
    messages.success(request, "The alarm is marked as seen. If its cause comes back, it is raised again.")
    return redirect("dashboard")
