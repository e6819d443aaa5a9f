"""A window onto the rows, for looking only: what changes anything goes through services, which leave audit entries."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest

from accesscontrol.models import (
    AccessAttempt,
    AccessGroup,
    AccessRule,
    Alarm,
    ApiToken,
    Door,
    Holiday,
    PairingCode,
    Presence,
    Schedule,
    Site,
    Terminal,
    Zone,
)


class ForLooking(admin.ModelAdmin[Any]):
    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(AccessAttempt)
class AttemptAdmin(ForLooking):
    list_display = ("received_at", "door", "terminal", "state", "granted", "reason", "person")
    list_filter = ("granted", "reason", "door")
    date_hierarchy = "received_at"
    exclude = ("payload_key",)


@admin.register(Terminal)
class TerminalAdmin(ForLooking):
    list_display = ("name", "role", "door", "state", "last_seen_at")
    list_filter = ("state", "role")


@admin.register(Alarm)
class AlarmAdmin(ForLooking):
    list_display = ("last_at", "kind", "message", "count", "acknowledged_by")
    list_filter = ("kind",)


@admin.register(ApiToken)
class ApiTokenAdmin(ForLooking):
    list_display = ("name", "scopes", "created_by", "last_used_at", "expires_at", "revoked_at")
    exclude = ("token_hash",)


@admin.register(PairingCode)
class PairingCodeAdmin(ForLooking):
    list_display = ("terminal", "issued_by", "issued_at", "expires_at", "used_at")
    exclude = ("code_hash",)


admin.site.register([Site, Zone, Door, Schedule, Holiday, AccessGroup, AccessRule, Presence], ForLooking)
