"""Users with their roles, tokens for connected systems, and what this system is and does not promise."""

from __future__ import annotations

import secrets
import uuid
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.contrib.auth import get_user_model
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_safe

from accesscontrol.about import model_facts
from accesscontrol.configuration import save_configuration
from accesscontrol.forms import TokenForm, UserForm
from accesscontrol.models import ApiToken, Scope
from accesscontrol.roles import ROLE_EXPLANATIONS, Role, roles_for, roles_of
from accesscontrol.services import AccessRefused, create_api_token, revoke_api_token
from accesscontrol.views.common import actor_of, confirm, edit, sentence
from audit.services import record

FORM_METHODS = ["GET", "POST"]
#: What a role can do, in words, and the page that the gate asks about.
ABILITIES = (
    ("Watch doors live, read attempts and reports", "attempts"),
    ("Mark alarms as seen, lock a site down and lift it", "lock_down"),
    ("Read people", "people"),
    ("Register and enroll people, record consent, fill groups", "enrollment_begin"),
    ("Erase people, apply the retention rules", "person_erase"),
    ("Read doors and rules", "doors"),
    ("Change doors, terminals and rules", "door_edit"),
    ("Read, verify and export the audit log", "audit:entries"),
    ("Read models, thresholds and the state of keys", "settings"),
    ("Make API tokens", "tokens"),
    ("Change users and roles", "users"),
)


@require_safe
def users(request: HttpRequest) -> HttpResponse:
    rows = get_user_model().objects.prefetch_related("groups").order_by("username")
    listed = [(row, [role.value for role in Role if role in roles_of(row)]) for row in rows]
    context = {
        "users": listed,
        "roles": ROLE_EXPLANATIONS.items(),
        "role_names": [role.value for role in Role],
        "abilities": [(words, [role in roles_for(page) for role in Role]) for words, page in ABILITIES],
    }
    return render(request, "users/list.html", context)


@never_cache
@require_http_methods(FORM_METHODS)
def user_create(request: HttpRequest) -> HttpResponse:
    form = UserForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        password = _new_password()
        form.instance.set_password(password)
        created = save_configuration(form=form, noun="user", actor=actor_of(request), at=timezone.now())
        return render(request, "users/password.html", {"person": created, "password": password, "new": True})
    context = {
        "form": form,
        "title": "Add a user",
        "explanation": "Users sign in to these pages. People who only walk through doors need no user.",
        "back": reverse("users"),
        "verb": "Add and show the first password",
    }
    return render(request, "form.html", context, status=422 if form.is_bound else 200)


@require_http_methods(FORM_METHODS)
def user_edit(request: HttpRequest, user_id: int) -> HttpResponse:
    found = get_object_or_404(get_user_model(), pk=user_id)
    return edit(
        request,
        UserForm(request.POST or None, instance=found),
        noun="user",
        title=f"Edit {found.get_username()}",
        back=reverse("users"),
        done="{} is saved. The roles hold from the next click on.",
        template="users/form.html",
        subject=found,
    )


@never_cache
@require_http_methods(FORM_METHODS)
def user_password(request: HttpRequest, user_id: int) -> HttpResponse:
    """A new first password for somebody who lost theirs; signs them out everywhere."""
    found = get_object_or_404(get_user_model(), pk=user_id)
    if request.method == "POST":
        password = _new_password()
        with transaction.atomic():
            found.set_password(password)
            found.save(update_fields=["password"])
            record(
                kind="user.password_reset",
                actor=actor_of(request),
                at=timezone.now(),
                subject=f"user:{found.pk}",
            )
        return render(request, "users/password.html", {"person": found, "password": password, "new": False})
    return confirm(
        request,
        title=f"New password for {found.get_username()}?",
        explanation="The old password stops working, and every session ends. A second step stays on.",
        verb="Make a new password",
        back=reverse("users"),
    )


def _new_password() -> str:
    return "-".join(secrets.token_hex(3) for _ in range(4))


@require_safe
def tokens(request: HttpRequest) -> HttpResponse:
    return render(request, "users/tokens.html", {"tokens": _visible(request), "now": timezone.now()})


def _visible(request: HttpRequest) -> Any:
    """An integrator sees the tokens they made; an administrator sees all."""
    if Role.ADMINISTRATOR in roles_of(request.user):
        return ApiToken.objects.all()
    return ApiToken.objects.filter(created_by=actor_of(request))


def _grantable(request: HttpRequest) -> list[tuple[str, str]]:
    """Erasing people and reading the audit log are for administrators to hand out."""
    if Role.ADMINISTRATOR in roles_of(request.user):
        return [(scope.value, f"{scope.label}") for scope in Scope]
    kept = {Scope.PEOPLE_ERASE, Scope.AUDIT_READ, Scope.RULES_WRITE}
    return [(scope.value, f"{scope.label}") for scope in Scope if scope not in kept]


@never_cache
@require_http_methods(FORM_METHODS)
def token_create(request: HttpRequest) -> HttpResponse:
    form = TokenForm(request.POST or None, scopes=_grantable(request))
    if request.method == "POST" and form.is_valid():
        try:
            token, secret = create_api_token(
                name=form.cleaned_data["name"],
                scopes=form.cleaned_data["scopes"],
                actor=actor_of(request),
                at=timezone.now(),
            )
        except AccessRefused as refusal:
            form.add_error("name" if refusal.code == "name_taken" else "scopes", sentence(refusal.message))
        else:
            return render(request, "users/token.html", {"token": token, "secret": secret})
    context = {
        "form": form,
        "title": "Make an API token",
        "explanation": "A token lets another system speak to Lintel's API within the limits you tick.",
        "back": reverse("tokens"),
        "verb": "Make and show the token",
    }
    return render(request, "form.html", context, status=422 if form.is_bound else 200)


@require_http_methods(FORM_METHODS)
def token_revoke(request: HttpRequest, token_id: uuid.UUID) -> HttpResponse:
    token = get_object_or_404(_visible(request), pk=token_id)
    if request.method == "POST":
        revoke_api_token(token=token, actor=actor_of(request), at=timezone.now())
        messages.success(request, f"“{token.name}” is revoked. Whoever uses it is refused from now on.")
        return redirect("tokens")
    return confirm(
        request,
        title=f"Revoke “{token.name}”?",
        explanation="The system that uses it is refused at once. A revoked token cannot be brought back.",
        verb="Revoke",
        back=reverse("tokens"),
    )


@require_safe
def about(request: HttpRequest) -> HttpResponse:
    """The model and its privacy profiles in numbers, and what is not protected in words."""
    return render(request, "about.html", {"facts": model_facts(), "aim": settings.LINTEL_TARGET_FPIR})
