"""The live page, attempts, alarms, and what this system is and does not promise."""

from __future__ import annotations

import uuid
from datetime import datetime, time, timedelta
from typing import Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe

from accesscontrol.forms import AttemptFilterForm
from accesscontrol.models import AccessAttempt, Alarm, Site
from accesscontrol.overview import counts_today, door_states, first_steps, newest_attempts, people_counts
from accesscontrol.policy import Reason
from accesscontrol.roles import allows
from accesscontrol.services import acknowledge_alarm
from accesscontrol.templatetags.lintel import reason_words
from accesscontrol.views.common import actor_of, page_of

SHOWN = 12


@never_cache
@require_safe
def dashboard(request: HttpRequest) -> HttpResponse:
    """What happens now. `?part=live` is the part that events refresh, so that both are one template."""
    context: dict[str, Any] = {"sites": Site.objects.all()}
    now = timezone.now()
    if allows("attempts", request.user):
        context |= {
            "counts": counts_today(now),
            "doors": door_states(now),
            "attempts": newest_attempts(SHOWN),
            "alarms": Alarm.objects.filter(acknowledged_at=None).select_related("door", "terminal")[:8],
        }
    elif "part" in request.GET:
        raise PermissionDenied
    if request.GET.get("part") == "live":
        return render(request, "dashboard/_live.html", context)
    if allows("people", request.user):
        context["people"] = people_counts(now)
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
    rows = _filtered(AccessAttempt.objects.select_related("person", "door"), asked)
    context = {"form": form, "page": page_of(request, rows), "filtered": any(asked.values())}
    return render(request, "attempts/list.html", context)


def _filtered(rows: QuerySet[AccessAttempt], asked: dict[str, Any]) -> QuerySet[AccessAttempt]:
    for word in (asked.get("q") or "").split():
        rows = rows.filter(person__full_name__icontains=word)
    if asked.get("door"):
        rows = rows.filter(door=asked["door"])
    if asked.get("outcome") == "pending":
        rows = rows.filter(state=AccessAttempt.State.PENDING)
    elif asked.get("outcome"):
        rows = rows.filter(state=AccessAttempt.State.SETTLED, granted=asked["outcome"] == "granted")
    if asked.get("reason"):
        rows = rows.filter(reason=asked["reason"])
    if asked.get("day"):
        midnight = timezone.make_aware(datetime.combine(asked["day"], time.min))
        rows = rows.filter(received_at__gte=midnight, received_at__lt=midnight + timedelta(days=1))
    return rows


@require_safe
def attempt(request: HttpRequest, attempt_id: uuid.UUID) -> HttpResponse:
    rows = AccessAttempt.objects.select_related("person", "door", "door__site", "terminal")
    return render(request, "attempts/attempt.html", {"attempt": get_object_or_404(rows, pk=attempt_id)})


@require_POST
def alarm_acknowledge(request: HttpRequest, alarm_id: int) -> HttpResponse:
    acknowledge_alarm(alarm=get_object_or_404(Alarm, pk=alarm_id), actor=actor_of(request), at=timezone.now())
    messages.success(request, "The alarm is marked as seen. If its cause comes back, it is raised again.")
    return redirect("dashboard")
