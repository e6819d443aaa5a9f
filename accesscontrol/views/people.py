"""The two pages that join people with doors: a person's profile, and the start of an enrollment."""

from __future__ import annotations

import uuid
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_safe

from accesscontrol.forms import EnrollmentForm
from accesscontrol.models import AccessAttempt, AccessGroup, Terminal
from accesscontrol.views.common import actor_of, sentence
from enrollment.models import Enrollment, Person
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
        "open_enrollment": found.enrollments.filter(state__in=Enrollment.UNFINISHED).first(),
        "groups": groups,
        "other_groups": AccessGroup.objects.exclude(members=found).order_by("name"),
        "attempts": AccessAttempt.objects.filter(person=found).select_related("door", "person")[
            :LAST_ATTEMPTS
        ],
    }
    return render(request, "people/profile.html", context)


@require_http_methods(["GET", "POST"])
def enrollment_begin(request: HttpRequest, person_id: uuid.UUID) -> HttpResponse:
    """Choose the terminal the person stands at. The browser's own camera joins this choice later."""
    found = get_object_or_404(Person, pk=person_id)
    form = EnrollmentForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        try:
            enrollment = begin_enrollment(
                person=found,
                terminal_id=form.cleaned_data["terminal"].pk,
                captures_wanted=form.cleaned_data["captures_wanted"],
                actor=actor_of(request),
                at=timezone.now(),
            )
        except EnrollmentRefused as refusal:
            form.add_error(None, sentence(refusal.message))
        else:
            return redirect("enrollment", enrollment.pk)
    status = 422 if form.is_bound else 200
    context = {
        "form": form,
        "person": found,
        "any_terminal": Terminal.objects.filter(state=Terminal.State.ACTIVE).exists(),
    }
    return render(request, "people/enroll.html", context, status=status)
