"""Signing in and out, and what people change about themselves: password, second step, time zone."""

from __future__ import annotations

import hashlib
import secrets
import zoneinfo
from base64 import b64encode
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

import qrcode
import qrcode.image.svg
from axes.helpers import get_cool_off
from django.conf import settings
from django.contrib import messages
from django.contrib.auth import get_user_model, login, logout, update_session_auth_hash
from django.contrib.auth.forms import AuthenticationForm, PasswordChangeForm
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.crypto import salted_hmac
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods, require_POST
from django_otp import match_token, user_has_device
from django_otp.plugins.otp_static.models import StaticDevice, StaticToken
from django_otp.plugins.otp_totp.models import TOTPDevice

from accesscontrol.forms import CodeForm, TimeZoneForm
from accesscontrol.gate import TIME_ZONE_COOKIE
from accesscontrol.roles import ROLE_EXPLANATIONS, Role, roles_of
from audit.services import record

PENDING = "sign_in_pending"
PENDING_SECONDS = 300
RECOVERY_CODES = 8
WRONG_CODE = "That code is not right or was used before. Wait for the next one and try again."


@never_cache
@sensitive_post_parameters("password")
@require_http_methods(["GET", "POST"])
def sign_in(request: HttpRequest) -> HttpResponse:
    """First step: name and password. A user with a second step is not signed in until that succeeds too."""
    if request.user.is_authenticated:
        return redirect(_next(request))
    form = AuthenticationForm(request, data=request.POST or None)
    if request.method == "POST" and form.is_valid():
        user = form.get_user()
        if user_has_device(user):
            request.session.cycle_key()
            request.session[PENDING] = {
                "user": user.pk,
                "backend": user.backend,
                "at": timezone.now().timestamp(),
            }
            return redirect(_with_next("/sign-in/code/", request))
        return _signed_in(request, user)
    if form.is_bound and not getattr(request, "axes_locked_out", False):
        name = form.cleaned_data.get("username", "")
        _record_failure(get_user_model().objects.filter(username=name).first() if name else None)
    status = 422 if form.is_bound else 200
    return render(request, "account/sign_in.html", {"form": form, "next": _next(request)}, status=status)


@never_cache
@require_http_methods(["GET", "POST"])
def sign_in_code(request: HttpRequest) -> HttpResponse:
    """Second step: a code from the authenticator, or a recovery code, which works once."""
    pending = request.session.get(PENDING) or {}
    if timezone.now().timestamp() - float(pending.get("at", 0)) > PENDING_SECONDS:
        request.session.pop(PENDING, None)
        return redirect(_with_next("/sign-in/", request))
    user: Any = get_user_model().objects.filter(pk=pending["user"], is_active=True).first()
    if user is None:
        request.session.pop(PENDING, None)
        return redirect("sign_in")
    form = CodeForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        device = _match(user, form.cleaned_data["code"])
        if device is not None:
            user.backend = pending["backend"]
            user.otp_device = device
            request.session.pop(PENDING, None)
            return _signed_in(request, user)
        _record_failure(user, second_step=True)
        form.add_error("code", WRONG_CODE)
    status = 422 if form.is_bound else 200
    return render(request, "account/sign_in_code.html", {"form": form, "next": _next(request)}, status=status)


@require_POST
def sign_out(request: HttpRequest) -> HttpResponse:
    record(kind="user.signed_out", actor=_name(request.user), at=timezone.now())
    logout(request)
    messages.success(request, "You are signed out.")
    return redirect("sign_in")


def locked_out(request: HttpRequest, *arguments: Any, **credentials: Any) -> HttpResponse:
    """What django-axes answers while a name or an address is locked out."""
    cool_off = get_cool_off(request)
    minutes = max(1, round(cool_off.total_seconds() / 60)) if cool_off else None
    response = render(request, "account/locked_out.html", {"minutes": minutes}, status=429)
    if cool_off:
        response["Retry-After"] = str(int(cool_off.total_seconds()))
    return response


def account(request: HttpRequest) -> HttpResponse:
    roles = [(role, ROLE_EXPLANATIONS[role]) for role in Role if role in roles_of(request.user)]
    return render(
        request,
        "account/account.html",
        {
            "roles": roles,
            "two_step": user_has_device(request.user),
            "codes_left": StaticToken.objects.filter(device__user=request.user).count(),
            "zone_form": TimeZoneForm(initial={"zone": request.COOKIES.get(TIME_ZONE_COOKIE, "")}),
            "zone": timezone.get_current_timezone_name(),
        },
    )


@sensitive_post_parameters()
@require_http_methods(["GET", "POST"])
def password_change(request: HttpRequest) -> HttpResponse:
    form = PasswordChangeForm(request.user, request.POST or None)  # type: ignore[arg-type]
    if request.method == "POST" and form.is_valid():
        with transaction.atomic():
            form.save()
            record(kind="user.password_changed", actor=_name(request.user), at=timezone.now())
        update_session_auth_hash(request, form.user)
        messages.success(request, "Your password is changed. Other sessions of yours are signed out.")
        return redirect("account")
    context = {
        "form": form,
        "title": "Change password",
        "back": reverse("account"),
        "back_label": "Your account",
    }
    return render(request, "form.html", context, status=422 if form.is_bound else 200)


@never_cache
@require_http_methods(["GET", "POST"])
def two_step(request: HttpRequest) -> HttpResponse:
    """Set up an authenticator: the secret becomes a second step only after a code from it was entered."""
    if user_has_device(request.user):
        return redirect("account")
    device, _ = TOTPDevice.objects.get_or_create(
        user=request.user, confirmed=False, defaults={"name": "authenticator"}
    )
    form = CodeForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        if device.verify_token(form.cleaned_data["code"]):
            with transaction.atomic():
                device.confirmed = True
                device.save()
                codes = _new_recovery_codes(request.user)
                record(kind="user.two_step_enabled", actor=_name(request.user), at=timezone.now())
            return render(request, "account/recovery_codes.html", {"codes": codes, "first": True})
        form.add_error(
            "code", "That code does not fit this key. Check the clock of your phone and try the next code."
        )
    image = qrcode.make(device.config_url, image_factory=qrcode.image.svg.SvgPathFillImage, border=2)
    return render(
        request,
        "account/two_step.html",
        {
            "form": form,
            "qr": f"data:image/svg+xml;base64,{b64encode(image.to_string()).decode()}",
            "secret": device.config_url.split("secret=")[1].split("&")[0],
        },
        status=422 if form.is_bound else 200,
    )


@never_cache
@require_http_methods(["GET", "POST"])
def two_step_codes(request: HttpRequest) -> HttpResponse:
    """Replaces the recovery codes; the old ones stop working. Asks for a code: each new one is a second step, and with
    one of them an unattended screen could turn the second step off."""
    if not user_has_device(request.user):
        return redirect("two_step")
    form = CodeForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        if _match(request.user, form.cleaned_data["code"]) is not None:
            with transaction.atomic():
                codes = _new_recovery_codes(request.user)
                record(kind="user.recovery_codes_replaced", actor=_name(request.user), at=timezone.now())
            return render(request, "account/recovery_codes.html", {"codes": codes, "first": False})
        form.add_error("code", WRONG_CODE)
    return render(
        request, "account/two_step_codes.html", {"form": form}, status=422 if form.is_bound else 200
    )


@require_http_methods(["GET", "POST"])
def two_step_off(request: HttpRequest) -> HttpResponse:
    """Takes the second step away; asks for a code, so that an unattended screen is not enough."""
    if not user_has_device(request.user):
        return redirect("account")
    form = CodeForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        if _match(request.user, form.cleaned_data["code"]) is not None:
            with transaction.atomic():
                TOTPDevice.objects.filter(user=request.user).delete()
                StaticDevice.objects.filter(user=request.user).delete()
                record(kind="user.two_step_disabled", actor=_name(request.user), at=timezone.now())
            messages.success(request, "Two-step sign-in is off. Your password alone signs you in now.")
            return redirect("account")
        form.add_error("code", WRONG_CODE)
    return render(request, "account/two_step_off.html", {"form": form}, status=422 if form.is_bound else 200)


@require_POST
def time_zone(request: HttpRequest) -> HttpResponse:
    form = TimeZoneForm(request.POST)
    response = redirect("account")
    if not form.is_valid():
        messages.error(request, "That time zone is not known. Choose one from the list.")
        return response
    zone = form.cleaned_data["zone"]
    if zone in zoneinfo.available_timezones():
        response.set_cookie(
            TIME_ZONE_COOKIE, zone, max_age=31_536_000, samesite="Lax", httponly=True,
            secure=settings.SESSION_COOKIE_SECURE,
        )  # fmt: skip
        messages.success(request, f"Times are shown in {zone} in this browser.")
    else:
        response.delete_cookie(TIME_ZONE_COOKIE)
        messages.success(request, "Times are shown in the zone of the site.")
    return response


def _signed_in(request: HttpRequest, user: Any) -> HttpResponse:
    destination = _next(request)
    login(request, user, backend=getattr(user, "backend", None))
    record(kind="user.signed_in", actor=_name(user), at=timezone.now())
    return redirect(destination)


def _new_recovery_codes(user: Any) -> list[str]:
    device, _ = StaticDevice.objects.get_or_create(user=user, defaults={"name": "recovery codes"})
    device.token_set.all().delete()
    codes = [f"{secrets.token_hex(3)}-{secrets.token_hex(3)}" for _ in range(RECOVERY_CODES)]
    StaticToken.objects.bulk_create(StaticToken(device=device, token=_stored(code)) for code in codes)
    return codes


def _match(user: Any, code: str) -> Any:
    """The device that accepts `code`. Throttled by django-otp after each wrong one."""
    return match_token(user, _stored(code) if "-" in code else code)


def _stored(recovery_code: str) -> str:
    """Recovery codes are 48 random bits, so a plain digest hides them in the database."""
    return hashlib.sha256(recovery_code.encode()).hexdigest()[:16]


def _record_failure(user: Any, *, second_step: bool = False) -> None:
    """A name that nobody has is not kept: it may be a password in the wrong box, or a person whom no erasure would find
    here. The name of an account lies sealed under its subject, and goes with the account."""
    record(
        kind="user.sign_in_failed",
        actor="anonymous",
        at=timezone.now(),
        subject=f"user:{user.pk}" if user else "",
        details={"known_name": user is not None} | ({"second_step": True} if second_step else {}),
        personal={"username": _name(user)} if user else {},
    )


def name_to_count(request: HttpRequest, credentials: Mapping[str, Any] | None) -> str:
    """What django-axes counts failures under, and keeps in its table: a keyed hash, never what somebody typed."""
    typed = (credentials or request.POST).get("username") or ""
    return salted_hmac("lintel sign-in failures", str(typed), algorithm="sha256").hexdigest()


def _name(user: Any) -> str:
    return str(user.get_username())


def _next(request: HttpRequest) -> str:
    """Where to go after signing in: only ever a page of this server."""
    target = request.POST.get("next") or request.GET.get("next") or ""
    safe = url_has_allowed_host_and_scheme(
        target, allowed_hosts={request.get_host()}, require_https=request.is_secure()
    )
    return target if safe and not target.startswith("/sign-in") else "/"


def _with_next(url: str, request: HttpRequest) -> str:
    target = _next(request)
    return url if target == "/" else f"{url}?{urlencode({'next': target})}"
