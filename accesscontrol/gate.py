"""The gate in front of every page, and what each page is told about its reader."""

from __future__ import annotations

import zoneinfo
from collections.abc import Callable
from functools import cache
from typing import Any

from django.conf import settings
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.urls import NoReverseMatch, reverse
from django.utils import timezone

from accesscontrol.models import Site
from accesscontrol.roles import PUBLIC, Role, allows, roles_of

#: URL prefixes whose callers prove themselves otherwise (signatures, tokens) or carry no data.
OTHER_DOORS = ("/api/", "/static/", "/metrics", "/healthz", "/readyz")
TIME_ZONE_COOKIE = "lintel_time_zone"


class RoleGate:
    """Opens a page only for a role that `accesscontrol.roles.PAGES` names. Must run after authentication."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self.get_response(request)

    def process_view(
        self, request: HttpRequest, view: Callable[..., HttpResponse], args: Any, kwargs: Any
    ) -> HttpResponse | None:
        match = request.resolver_match
        page = match.view_name if match else ""
        if request.path.startswith(OTHER_DOORS) or page in PUBLIC:
            return None
        if not request.user.is_authenticated:
            return redirect_to_login(request.get_full_path(), reverse("sign_in"))
        if not allows(page, request.user):
            raise PermissionDenied
        return None


class TimeZone:
    """Shows times in the zone the reader chose, else the first site's, else the server's."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if request.path.startswith(OTHER_DOORS):
            return self.get_response(request)
        with timezone.override(zone_of(request)):
            return self.get_response(request)


@cache
def known_time_zones() -> frozenset[str]:
    """Asked with every page; finding them means reading a folder of hundreds of files."""
    return frozenset(zoneinfo.available_timezones())


def zone_of(request: HttpRequest) -> zoneinfo.ZoneInfo:
    chosen = request.COOKIES.get(TIME_ZONE_COOKIE, "")
    if not chosen or chosen not in known_time_zones():
        chosen = Site.objects.order_by("pk").values_list("timezone", flat=True).first() or settings.TIME_ZONE
    try:
        return zoneinfo.ZoneInfo(chosen)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError):
        return zoneinfo.ZoneInfo("UTC")


NAVIGATION: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    ("", (("dashboard", "Now"), ("attempts", "Attempts"))),
    ("People", (("people", "People"), ("invitations", "Invitations"), ("groups", "Groups"))),
    ("Doors", (("doors", "Doors"), ("sites", "Sites and zones"), ("terminals", "Terminals"))),
    ("Rules", (("rules", "Rules"), ("who_may_enter", "Who may enter?"), ("schedules", "Schedules"))),
    ("Record", (("reports", "Reports"), ("audit:entries", "Audit log"))),
    (
        "System",
        (
            ("settings", "Settings"),
            ("users", "Users and roles"),
            ("tokens", "API tokens"),
            ("about", "About and privacy"),
        ),
    ),
)


class _May:
    """`{% if may.door_create %}` in a template: whether this reader's role opens that page."""

    def __init__(self, user: Any) -> None:
        self._user = user

    def __getitem__(self, page: str) -> bool:
        return allows(page, self._user)


def page_context(request: HttpRequest) -> dict[str, Any]:
    """Navigation and permissions for templates, from the same table that the gate enforces."""
    user = getattr(request, "user", None)
    if user is None or not user.is_authenticated:
        return {"navigation": [], "may": {}}
    here = request.path
    sections = []
    for title, pages in NAVIGATION:
        items = []
        for page, label in pages:
            if not allows(page, user):
                continue
            try:
                url = reverse(page)
            except NoReverseMatch:  # the audit app may name its list otherwise or be absent
                continue
            current = here == url or (url != "/" and here.startswith(url) and not _better(here, url))
            items.append({"url": url, "label": label, "current": current})
        if items:
            sections.append({"title": title, "items": items})
    names = [role.value for role in Role if role in roles_of(user)]
    return {"navigation": sections, "may": _May(user), "role_name": ", ".join(names)}


def _better(here: str, url: str) -> bool:
    """Whether another entry of the navigation matches `here` more closely than `url` does."""
    others = (reverse(page) for _, pages in NAVIGATION for page, _ in pages if ":" not in page)
    return any(other != url and here.startswith(other) and len(other) > len(url) for other in others)
