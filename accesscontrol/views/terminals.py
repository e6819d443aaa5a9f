"""Terminals: what they are, when they were heard, how they are paired, and how one is shut out."""

from __future__ import annotations

import uuid

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_safe

from accesscontrol.configuration import save_configuration
from accesscontrol.forms import TerminalForm
from accesscontrol.models import Terminal
from accesscontrol.overview import is_heard
from accesscontrol.services import PAIRING_CODE_LIFETIME, issue_pairing_code, revoke_terminal
from accesscontrol.views.common import actor_of, confirm, edit

FORM_METHODS = ["GET", "POST"]


@require_safe
def terminals(request: HttpRequest) -> HttpResponse:
    now = timezone.now()
    rows = Terminal.objects.select_related("door", "door__site").order_by("name")
    return render(request, "terminals/list.html", {"terminals": [(row, is_heard(row, now)) for row in rows]})


@require_safe
def terminal(request: HttpRequest, terminal_id: uuid.UUID) -> HttpResponse:
    found = get_object_or_404(Terminal.objects.select_related("door", "site"), pk=terminal_id)
    code = found.pairing_codes.filter(used_at=None, expires_at__gt=timezone.now()).first()
    context = {
        "terminal": found,
        "heard": is_heard(found, timezone.now()),
        "open_code": code,
        # Asked by its door, whose attempts have an index: what it sent from an earlier door stands in their history.
        "attempts": found.attempts.filter(door=found.door).select_related("person", "door")[:10],
    }
    return render(request, "terminals/terminal.html", context)


@never_cache
@require_http_methods(FORM_METHODS)
def terminal_create(request: HttpRequest) -> HttpResponse:
    """Adds a terminal and shows its pairing code, which exists in readable form in this one answer only."""
    form = TerminalForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        created = save_configuration(form=form, noun="terminal", actor=actor_of(request), at=timezone.now())
        return _show_code(request, created)
    context = {
        "form": form,
        "title": "Add a terminal",
        "explanation": "A terminal is a device with a camera, at a door or at the enrollment desk.",
        "back": reverse("terminals"),
        "verb": "Add and make a pairing code",
    }
    return render(request, "form.html", context, status=422 if form.is_bound else 200)


@require_http_methods(FORM_METHODS)
def terminal_edit(request: HttpRequest, terminal_id: uuid.UUID) -> HttpResponse:
    found = get_object_or_404(Terminal, pk=terminal_id)
    return edit(
        request,
        TerminalForm(request.POST or None, instance=found),
        noun="terminal",
        title=f"Edit {found.name}",
        back=reverse("terminal", args=[terminal_id]),
        done="{} is saved.",
    )


@never_cache
@require_http_methods(FORM_METHODS)
def terminal_code(request: HttpRequest, terminal_id: uuid.UUID) -> HttpResponse:
    """A new code: to pair a new terminal, to give one a new key, or to bring a revoked one back."""
    found = get_object_or_404(Terminal, pk=terminal_id)
    if request.method == "POST":
        return _show_code(request, found)
    explanation = {
        Terminal.State.PENDING: "Whoever has the code makes a device speak for this terminal, once.",
        Terminal.State.ACTIVE: "Pairing again gives it a new key. Until then the present key works on.",
        Terminal.State.REVOKED: "It was revoked. Pairing makes it trusted again, with a new key.",
    }[Terminal.State(found.state)]
    return confirm(
        request,
        title=f"Make a pairing code for {found.name}",
        explanation=explanation,
        consequences=[
            "The code is shown once and works for a short time. An earlier unused code stops working."
        ],
        verb="Make the code",
        back=reverse("terminal", args=[terminal_id]),
        danger=found.state == Terminal.State.REVOKED,
    )


@require_http_methods(FORM_METHODS)
def terminal_revoke(request: HttpRequest, terminal_id: uuid.UUID) -> HttpResponse:
    found = get_object_or_404(Terminal, pk=terminal_id)
    back = reverse("terminal", args=[terminal_id])
    if request.method == "POST":
        revoke_terminal(terminal=found, actor=actor_of(request), at=timezone.now())
        messages.success(request, f"{found.name} is revoked. Lintel answers it no more.")
        return redirect(back)
    door = (
        f"{found.door.name} opens through it no more."
        if found.door
        else "Nobody can be enrolled at it any more."
    )
    return confirm(
        request,
        title=f"Revoke {found.name}?",
        explanation="Do this when the device is lost, replaced or not trusted. It takes effect at once.",
        consequences=[door, "To use it again you need a new pairing code."],
        verb="Revoke",
        back=back,
    )


def _show_code(request: HttpRequest, terminal: Terminal) -> HttpResponse:
    now = timezone.now()
    context = {
        "terminal": terminal,
        "code": issue_pairing_code(terminal=terminal, actor=actor_of(request), at=now),
        "expires_at": now + PAIRING_CODE_LIFETIME,
        "server": _origin(request),
    }
    return render(request, "terminals/code.html", context)


def _origin(request: HttpRequest) -> str:
    """Where a terminal reaches this server: as the administrator does."""
    return f"{request.scheme}://{request.get_host()}"
