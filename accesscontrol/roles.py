"""Who may open which page: one table, deny by default.

A page is named by its URL name. A name that is not in the table opens for nobody, so a new page stays shut
until somebody decides who it is for. The gate enforces the table; navigation and buttons read the same table.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any


class Role(StrEnum):
    """The Django groups that Lintel knows. A person may hold several."""

    ADMINISTRATOR = "administrator"
    ENROLLER = "enroller"
    GUARD = "guard"
    AUDITOR = "auditor"
    INTEGRATOR = "integrator"


ROLE_EXPLANATIONS: dict[Role, str] = {
    Role.ADMINISTRATOR: "Sets up doors, terminals, rules and users; may do everything, erasure included.",
    Role.ENROLLER: "Registers and enrolls people, records consent, fills groups; changes no door.",
    Role.GUARD: "Watches doors live, locks a site down and lifts it; changes no person and no rule.",
    Role.AUDITOR: "Reads attempts, rules and the audit log; changes nothing.",
    Role.INTEGRATOR: "Creates API tokens for connected systems; sees no people in these pages.",
}

#: Pages that need nobody to be signed in.
PUBLIC = frozenset(
    {"sign_in", "sign_in_code", "healthz", "readyz"}
    # The kiosk carries no data; it proves itself with its terminal's key.
    | {"kiosk", "kiosk_manifest", "kiosk_worker"}
    # An invited person has no account; what they see stands in their session, and only their link puts it there.
    | {"invitation", "invitation_open", "invitation_consent", "invitation_profile"}
    | {"invitation_progress", "invitation_captures"}
)

_EVERYONE = frozenset(Role)
_ADMINISTRATOR = frozenset({Role.ADMINISTRATOR})
_DESK = frozenset({Role.ADMINISTRATOR, Role.ENROLLER})
_WATCH = frozenset({Role.ADMINISTRATOR, Role.GUARD})
_READ = frozenset({Role.ADMINISTRATOR, Role.GUARD, Role.AUDITOR})
_PEOPLE = frozenset({Role.ADMINISTRATOR, Role.ENROLLER, Role.GUARD, Role.AUDITOR})
_AUDIT = frozenset({Role.ADMINISTRATOR, Role.AUDITOR})
_TOKENS = frozenset({Role.ADMINISTRATOR, Role.INTEGRATOR})

PAGES: dict[str, frozenset[Role]] = {
    # Oneself
    "sign_out": _EVERYONE,
    "account": _EVERYONE,
    "password_change": _EVERYONE,
    "two_step": _EVERYONE,
    "two_step_codes": _EVERYONE,
    "two_step_off": _EVERYONE,
    "time_zone": _EVERYONE,
    "about": _EVERYONE,
    # Live
    "dashboard": _EVERYONE,
    "events": _PEOPLE,
    "attempts": _READ,
    "attempt": _READ,
    "alarm_acknowledge": _WATCH,
    # People
    "people": _PEOPLE,
    "person": _PEOPLE,
    "person_create": _DESK,
    "people_import": _DESK,
    "people_import_example": _DESK,
    "invitations": _DESK,
    "invitation_create": _DESK,
    "invitation_revoke": _DESK,
    "person_edit": _DESK,
    "consent_create": _DESK,
    "consent_withdraw": _DESK,
    "enrollment_begin": _DESK,
    "enrollment": _DESK,
    "enrollment_progress": _DESK,
    "enrollment_profile": _DESK,
    "enrollment_captures": _DESK,
    "enrollment_retake": _DESK,
    "enrollment_attach": _DESK,
    "enrollment_complete": _ADMINISTRATOR,  # a face that is enrolled twice on purpose
    "enrollment_cancel": _DESK,
    "pin_set": _DESK,
    "pin_clear": _DESK,
    "card_add": _DESK,
    "card_block": frozenset({Role.ADMINISTRATOR, Role.ENROLLER, Role.GUARD}),  # lost at night, too
    "card_unblock": _DESK,
    "card_remove": _DESK,
    "person_erase": _ADMINISTRATOR,
    "presence_forgive": _WATCH,
    "erasure_certificate": _ADMINISTRATOR,
    # Doors
    "doors": _READ,
    "door": _READ,
    "door_create": _ADMINISTRATOR,
    "door_edit": _ADMINISTRATOR,
    "sites": _READ,
    "site": _READ,
    "site_create": _ADMINISTRATOR,
    "site_edit": _ADMINISTRATOR,
    "zone_create": _ADMINISTRATOR,
    "zone_edit": _ADMINISTRATOR,
    "zone_delete": _ADMINISTRATOR,
    "holiday_create": _ADMINISTRATOR,
    "holiday_delete": _ADMINISTRATOR,
    "lock_down": _WATCH,
    "lift_lock_down": _WATCH,
    "terminals": _READ,
    "terminal": _READ,
    "terminal_create": _ADMINISTRATOR,
    "terminal_edit": _ADMINISTRATOR,
    "terminal_code": _ADMINISTRATOR,
    "terminal_revoke": _ADMINISTRATOR,
    # Rules
    "rules": _READ,
    "rule_create": _ADMINISTRATOR,
    "rule_edit": _ADMINISTRATOR,
    "rule_delete": _ADMINISTRATOR,
    "who_may_enter": _READ,
    "groups": _READ,
    "group": _READ,
    "group_create": _ADMINISTRATOR,
    "group_edit": _ADMINISTRATOR,
    "group_member_add": _DESK,
    "person_group_add": _DESK,
    "group_member_remove": _DESK,
    "group_delete": _ADMINISTRATOR,
    "schedules": _READ,
    "schedule_create": _ADMINISTRATOR,
    "schedule_edit": _ADMINISTRATOR,
    "schedule_delete": _ADMINISTRATOR,
    # Reports and settings
    "reports": _READ,
    "settings": _AUDIT,
    "settings_models": _AUDIT,
    "settings_thresholds": _AUDIT,
    "settings_keys": _AUDIT,
    "settings_retention": _AUDIT,
    "retention_apply": _ADMINISTRATOR,
    # Machines and users
    "tokens": _TOKENS,
    "token_create": _TOKENS,
    "token_revoke": _TOKENS,
    "users": _ADMINISTRATOR,
    "user_create": _ADMINISTRATOR,
    "user_edit": _ADMINISTRATOR,
    "user_password": _ADMINISTRATOR,
    # Audit: every page of that app
    "audit:*": _AUDIT,
    "admin:*": _ADMINISTRATOR,
}


def roles_of(user: Any) -> frozenset[Role]:
    """The roles a signed-in, active user holds; a superuser is an administrator. Nobody else holds any."""
    if not user.is_authenticated or not user.is_active:
        return frozenset()
    if not hasattr(user, "_lintel_roles"):
        known = {role.value for role in Role}
        held = {Role(name) for name in user.groups.values_list("name", flat=True) if name in known}
        user._lintel_roles = frozenset(held | ({Role.ADMINISTRATOR} if user.is_superuser else set()))
    roles: frozenset[Role] = user._lintel_roles
    return roles


def roles_for(page: str) -> frozenset[Role]:
    """The roles that open `page` (a URL name, with its namespace); empty for a page nobody has decided on."""
    if page in PAGES:
        return PAGES[page]
    namespace, separator, _ = page.rpartition(":")
    return PAGES.get(f"{namespace}:*", frozenset()) if separator else frozenset()


def allows(page: str, user: Any) -> bool:
    return bool(roles_for(page) & roles_of(user))
