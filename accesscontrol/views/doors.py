"""Sites, zones, doors, holidays, and the switch that shuts a site."""

from __future__ import annotations

import uuid
from typing import Any
from zoneinfo import ZoneInfo

from django.contrib import messages
from django.db.models import Count
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_safe

from accesscontrol.entry import EntryQuestion
from accesscontrol.forms import DoorForm, DoorHourForm, HolidayForm, ReasonForm, SiteForm, ZoneForm
from accesscontrol.models import AccessAttempt, Door, Holiday, Site, Zone
from accesscontrol.overview import door_states
from accesscontrol.roles import allows
from accesscontrol.services import lift_lock_down as lift
from accesscontrol.services import lock_down as lock
from accesscontrol.views.common import actor_of, confirm, delete, edit
from audit.sentences import sentence_for
from audit.services import find_entries

FORM_METHODS = ["GET", "POST"]
DAYS_AHEAD = 14
HISTORY = 15  # attempts
CHANGES = 6
PEOPLE_SHOWN = 12
#: One click more locks the site, with one of these as the reason; others are typed.
LOCK_DOWN_REASONS = ("Intruder", "Threat", "Fire or smoke", "Drill")


@require_safe
def doors(request: HttpRequest) -> HttpResponse:
    return render(
        request, "doors/list.html", {"doors": door_states(timezone.now()), "sites": Site.objects.count()}
    )


@require_safe
def door(request: HttpRequest, door_id: uuid.UUID) -> HttpResponse:
    door = get_object_or_404(Door.objects.select_related("site", "zone"), pk=door_id)
    now, zone = timezone.now(), ZoneInfo(door.site.timezone)
    form = DoorHourForm(
        request.GET if "day" in request.GET else None, first=now.astimezone(zone).date(), days=DAYS_AHEAD
    )
    asked = form.is_valid()
    at = form.moment(zone) if asked else now.astimezone(zone).replace(second=0, microsecond=0)
    if not asked and not form.is_bound:
        form.initial = {"day": at.date().isoformat(), "hour": f"{at:%H:%M}"}
    question = EntryQuestion(door=door, at=at)
    may, refused = question.counts()
    days, week = (EntryQuestion(door=door, at=now) if asked else question).week(7)
    context: dict[str, Any] = {
        "door": door,
        "state": next(iter(door_states(now, Door.objects.filter(pk=door_id)))),
        "attempts": AccessAttempt.objects.filter(door=door).select_related("person", "door")[:HISTORY],
        "form": form,
        "asked": asked,
        "at": at,
        "at_text": at.strftime("%Y-%m-%dT%H:%M"),
        "answers": question.rules(),
        "may_count": may,
        "refused_count": refused,
        "people": list(question.people(granted=True).values("pk", "full_name")[:PEOPLE_SHOWN]),
        "more_people": max(0, may - PEOPLE_SHOWN),
        "days": days,
        "week": week,
        "terminals": door.terminals.all(),
    }
    if allows("audit:entries", request.user):
        context["changes"] = [
            (entry, sentence_for(kind=entry.kind, actor=entry.actor, subject=entry.subject, details=entry.details,
                                 personal={}))
            for entry in find_entries(subject=f"door:{door.pk}").order_by("-index")[:CHANGES]
        ]  # fmt: skip
    return render(request, "doors/door.html", context, status=422 if form.is_bound and not asked else 200)


@require_http_methods(FORM_METHODS)
def door_create(request: HttpRequest) -> HttpResponse:
    if not Site.objects.exists():
        messages.warning(request, "A door stands at a site, and there is none yet. Add the site first.")
        return redirect("site_create")
    only = Site.objects.first() if Site.objects.count() == 1 else None
    form = DoorForm(
        request.POST or None, initial={"is_active": True, "site": request.GET.get("site") or only}
    )
    return edit(
        request,
        form,
        noun="door",
        title="Add a door",
        back=reverse("doors"),
        done="{} is added. It opens for nobody until a rule names it.",
        then=lambda door: reverse("door", args=[door.pk]),
    )


@require_http_methods(FORM_METHODS)
def door_edit(request: HttpRequest, door_id: uuid.UUID) -> HttpResponse:
    door = get_object_or_404(Door, pk=door_id)
    form = DoorForm(request.POST or None, instance=door)
    return edit(
        request,
        form,
        noun="door",
        title=f"Edit {door.name}",
        back=reverse("door", args=[door_id]),
        done="{} is saved.",
    )


@require_safe
def sites(request: HttpRequest) -> HttpResponse:
    rows = Site.objects.annotate(
        door_count=Count("doors", distinct=True), zone_count=Count("zones", distinct=True)
    ).order_by("name")
    return render(request, "doors/sites.html", {"sites": rows})


@require_safe
def site(request: HttpRequest, site_id: int) -> HttpResponse:
    site = get_object_or_404(Site, pk=site_id)
    return render(
        request,
        "doors/site.html",
        {
            "site": site,
            "zones": site.zones.annotate(door_count=Count("doors")),
            "doors": door_states(timezone.now(), site.doors.all()),
            "holidays": site.holidays.filter(date__gte=timezone.localdate()),
        },
    )


@require_http_methods(FORM_METHODS)
def site_create(request: HttpRequest) -> HttpResponse:
    return edit(
        request,
        SiteForm(request.POST or None),
        noun="site",
        title="Add a site",
        explanation="A site is a place with one clock, one calendar of holidays and one lock-down switch.",
        back=reverse("sites"),
        done="{} is added.",
        then=lambda site: reverse("site", args=[site.pk]),
    )


@require_http_methods(FORM_METHODS)
def site_edit(request: HttpRequest, site_id: int) -> HttpResponse:
    site = get_object_or_404(Site, pk=site_id)
    form = SiteForm(request.POST or None, instance=site)
    return edit(
        request,
        form,
        noun="site",
        title=f"Edit {site.name}",
        back=reverse("site", args=[site_id]),
        done="{} is saved.",
    )


@require_http_methods(FORM_METHODS)
def zone_create(request: HttpRequest, site_id: int) -> HttpResponse:
    site = get_object_or_404(Site, pk=site_id)
    return edit(
        request,
        ZoneForm(request.POST or None, instance=Zone(site=site)),
        noun="zone",
        title=f"Add a zone to {site.name}",
        explanation="A zone is what lies behind doors: a floor, a laboratory, a car park.",
        back=reverse("site", args=[site_id]),
        done="{} is added.",
    )


@require_http_methods(FORM_METHODS)
def zone_edit(request: HttpRequest, zone_id: int) -> HttpResponse:
    zone = get_object_or_404(Zone, pk=zone_id)
    back = reverse("site", args=[zone.site_id])
    form = ZoneForm(request.POST or None, instance=zone)
    return edit(request, form, noun="zone", title=f"Edit {zone.name}", back=back, done="{} is saved.")


@require_http_methods(FORM_METHODS)
def zone_delete(request: HttpRequest, zone_id: int) -> HttpResponse:
    zone = get_object_or_404(Zone, pk=zone_id)
    back = reverse("site", args=[zone.site_id])
    if zone.doors.exists():
        names = ", ".join(zone.doors.values_list("name", flat=True))
        messages.error(request, f"Doors still lead into {zone.name}: {names}. Give them another zone first.")
        return redirect(back)
    return delete(
        request, zone, noun="zone", back=back, explanation="Nobody is counted as inside it any more."
    )


@require_http_methods(FORM_METHODS)
def holiday_create(request: HttpRequest, site_id: int) -> HttpResponse:
    site = get_object_or_404(Site, pk=site_id)
    return edit(
        request,
        HolidayForm(request.POST or None, instance=Holiday(site=site)),
        noun="holiday",
        title=f"Add a holiday to {site.name}",
        explanation="On a holiday every rule with a schedule is closed. Rules without one still hold.",
        back=reverse("site", args=[site_id]),
        done="{} is added.",
    )


@require_http_methods(FORM_METHODS)
def holiday_delete(request: HttpRequest, holiday_id: int) -> HttpResponse:
    holiday = get_object_or_404(Holiday, pk=holiday_id)
    back = reverse("site", args=[holiday.site_id])
    return delete(
        request, holiday, noun="holiday", back=back, explanation="Schedules hold on that day as on any other."
    )


@require_http_methods(FORM_METHODS)
def lock_down(request: HttpRequest, site_id: int) -> HttpResponse:
    """First click: this page. Second click: the site is shut, with a reason for the log."""
    site = get_object_or_404(Site, pk=site_id)
    if site.locked_down:
        messages.warning(request, f"{site.name} is locked down already.")
        return redirect("dashboard")
    data: Any = request.POST.copy()
    if data.get("preset") in LOCK_DOWN_REASONS:
        data["reason"] = data["preset"]
    form = ReasonForm(data if request.method == "POST" else None)
    if request.method == "POST" and form.is_valid():
        lock(site=site, reason=form.cleaned_data["reason"], actor=actor_of(request), at=timezone.now())
        messages.warning(
            request, f"{site.name} is locked down. No door of it opens for anybody until you lift it."
        )
        return redirect("dashboard")
    context = {
        "site": site,
        "form": form,
        "presets": LOCK_DOWN_REASONS,
        "doors": site.doors.filter(is_active=True).count(),
        "back": reverse("dashboard"),
    }
    return render(request, "doors/lock_down.html", context, status=422 if form.errors else 200)


@require_http_methods(FORM_METHODS)
def lift_lock_down(request: HttpRequest, site_id: int) -> HttpResponse:
    site = get_object_or_404(Site, pk=site_id)
    if not site.locked_down:
        messages.success(request, f"{site.name} is not locked down.")
        return redirect("dashboard")
    if request.method == "POST":
        lift(site=site, actor=actor_of(request), at=timezone.now())
        messages.success(request, f"The lock-down of {site.name} is lifted. Its rules hold again.")
        return redirect("dashboard")
    return confirm(
        request,
        title=f"Lift the lock-down of {site.name}?",
        explanation=f"{site.locked_down_by} locked it: “{site.locked_down_reason}”. Its rules will hold.",
        verb="Lift the lock-down",
        back=reverse("dashboard"),
        danger=False,
    )
