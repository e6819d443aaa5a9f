"""The pages that join people with doors: a person's profile, and an enrollment's start and captures."""

from __future__ import annotations

import uuid
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_safe
from rest_framework.authentication import SessionAuthentication
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request

from accesscontrol import captures
from accesscontrol.entry import doors_of
from accesscontrol.forms import EnrollmentForm
from accesscontrol.models import AccessAttempt, AccessGroup, Presence, Site
from accesscontrol.policy import Reason
from accesscontrol.services import forgive_presence
from accesscontrol.views.common import actor_of, confirm, sentence
from enrollment.api import BrowserCapturesView
from enrollment.models import Enrollment, Person, Pin
from enrollment.services import EnrollmentRefused, begin_enrollment

LAST_ATTEMPTS = 8


@require_safe
def person(request: HttpRequest, person_id: uuid.UUID) -> HttpResponse:
    found: Any = get_object_or_404(Person.objects.with_status(), pk=person_id)
    found.expired_now = found.is_expired(timezone.now())
    groups = found.access_groups.order_by("name")
    context = {
        "person": found,
        "consent": found.consents.filter(withdrawn_at=None).first(),
        "withdrawn": found.consents.exclude(withdrawn_at=None).order_by("-withdrawn_at").first(),
        "templates": found.templates.filter(active=True),
        "pin": Pin.objects.filter(person=found).first(),
        "pin_is_locked": Pin.objects.filter(person=found, locked_until__gt=timezone.now()).exists(),
        "cards": found.cards.all(),
        "lacks": _lacks(found),
        "open_enrollment": found.enrollments.filter(state__in=Enrollment.UNFINISHED).first(),
        "groups": groups,
        "presences": Presence.objects.filter(person=found)
        .select_related("site", "zone")
        .order_by("site__name"),
        "other_groups": AccessGroup.objects.exclude(members=found).order_by("name"),
        "attempts": AccessAttempt.objects.filter(person=found).select_related("door", "person")[
            :LAST_ATTEMPTS
        ],
    }
    return render(request, "people/profile.html", context)


def _lacks(person: Any) -> dict[str, list[str]]:
    """The doors that would refuse this person for want of a PIN or a card: what the desk should see to."""
    answers = doors_of(person=person, at=timezone.now())
    wanted = {"PIN": Reason.PIN_MISSING, "card": Reason.CARD_MISSING}
    lacking = {
        what: [answer.door.name for answer in answers if answer.reason == reason]
        for what, reason in wanted.items()
    }
    return {what: doors for what, doors in lacking.items() if doors}


@require_http_methods(["GET", "POST"])
def presence_forgive(request: HttpRequest, person_id: uuid.UUID, site_id: int) -> HttpResponse:
    """Somebody left without a door seeing it: the record is corrected, so that anti-passback lets them in again."""
    found = get_object_or_404(Person, pk=person_id)
    site = get_object_or_404(Site, pk=site_id)
    back = reverse("person", args=[person_id])
    if request.method == "POST":
        if forgive_presence(person=found, site=site, actor=actor_of(request), at=timezone.now()):
            messages.success(request, f"{found.full_name} counts as outside {site} now.")
        else:
            messages.info(request, f"{found.full_name} counted as outside {site} already.")
        return redirect(back)
    presence = Presence.objects.filter(person=found, site=site).select_related("zone").first()
    if presence is None:
        messages.info(request, f"{found.full_name} counts as outside {site} already.")
        return redirect(back)
    return confirm(
        request,
        title=f"Count {found.full_name} as outside?",
        explanation=f"The doors of {site} last let {found.full_name} into {presence.zone.name}.",
        consequences=[
            "Only do this when you know that they left.",
            "A door that lets nobody in twice opens for them again.",
            "The audit log says that you did this.",
        ],
        verb="Count as outside",
        back=back,
    )


@require_http_methods(["GET", "POST"])
def enrollment_begin(request: HttpRequest, person_id: uuid.UUID) -> HttpResponse:
    """Choose who takes the captures: this browser, or a terminal the person stands at. Consent comes first."""
    found = get_object_or_404(Person, pk=person_id)
    if not found.has_consent():
        return redirect(f"{reverse('consent_create', args=[person_id])}?then=enroll")
    under_way = found.enrollments.filter(
        state__in=Enrollment.UNFINISHED, expires_at__gt=timezone.now()
    ).first()
    if under_way is not None:
        return redirect("enrollment", under_way.pk)
    enrolled = found.is_enrolled()
    form = EnrollmentForm(request.POST or None, enrolled=enrolled)
    if request.method == "POST" and form.is_valid():
        try:
            enrollment = begin_enrollment(
                person=found,
                terminal_id=form.terminal_id,
                captures_wanted=form.cleaned_data["captures_wanted"],
                add=form.adds,
                actor=actor_of(request),
                at=timezone.now(),
            )
        except EnrollmentRefused as refusal:
            form.add_error(None, sentence(refusal.message))
        else:
            return redirect("enrollment", enrollment.pk)
    status = 422 if form.is_bound else 200
    status_now: Any = Person.objects.with_status().get(pk=person_id)
    context = {"form": form, "person": found, "enrolled": enrolled, "lacks": _lacks(status_now)}
    return render(request, "people/enroll.html", context, status=status)


@require_safe
def enrollment_profile(request: HttpRequest) -> HttpResponse:
    """The privacy profile that captures of this browser are drawn under, letter by letter as its hash was taken."""
    text = captures.default_profile().to_json()
    response = HttpResponse(text, content_type="application/json")
    response["Cache-Control"] = "no-cache"
    return response


class DeskSession(SessionAuthentication):
    """The session of the page, with its CSRF token. Which roles may call is the gate's: `accesscontrol.roles.PAGES`."""

    def authenticate_header(self, request: Request) -> str:
        return 'Session realm="lintel"'


enrollment_captures = BrowserCapturesView.as_view(
    authentication_classes=[DeskSession],
    permission_classes=[IsAuthenticated],
    check_capture=captures.check_capture,
)
