"""How old the keys of this installation are and what still needs them. Reads ids and dates, never a key.

A key carries no date of its own: its age is that of the oldest thing it sealed or signed.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db.models import Count, Min, QuerySet

from audit.models import Checkpoint, PersonalField
from enrollment.models import DataKey, NumberKey, ProtectedTemplate

ROTATE_AFTER = timedelta(days=365)


@dataclass(frozen=True)
class KeyState:
    """One key of one list. `uses`: (how many, of what)."""

    key_id: str
    newest: bool
    configured: bool
    first_used: datetime | None
    uses: list[tuple[int, str]]

    @property
    def in_use(self) -> int:
        return sum(count for count, _ in self.uses)


@dataclass(frozen=True)
class KeyList:
    """One of the lists of the settings, with what to do about it, in words. `tone`: yes, warn or no."""

    setting: str
    title: str
    purpose: str
    states: list[KeyState]
    tone: str
    hint: str


def key_lists(at: datetime) -> list[KeyList]:
    data_keys = _by_key(DataKey.objects.all(), "kek_id", "created_at")
    personal = _by_key(PersonalField.objects.all(), "key_id", None)
    templates = _by_key(ProtectedTemplate.objects.all(), "gallery_key_id", "created_at")
    checkpoints = _by_key(Checkpoint.objects.all(), "key_id", "at")
    return [
        _list(
            "LINTEL_KEY_ENCRYPTION_KEYS",
            "Key-encryption keys",
            "Seal the data key of each person, the key of PINs and cards, and the personal fields of the audit log.",
            {
                "people's data keys": data_keys,
                "key of PINs and cards": _by_key(NumberKey.objects.all(), "kek_id", "created_at"),
                "personal fields of the log": personal,
            },
            at,
            command="manage.py rotate_keys",
        ),
        _list(
            "LINTEL_GALLERY_KEYS",
            "Gallery keys",
            "Turn every template, so that templates of this gallery fit no other.",
            {"templates": templates},
            at,
            command="manage.py rotate_keys --gallery",
        ),
        _list(
            "LINTEL_SIGNING_KEYS",
            "Signing keys",
            "Sign replies to terminals and the checkpoints of the audit log.",
            {"checkpoints": checkpoints},
            at,
            command="",
        ),
    ]


def _by_key(rows: QuerySet[Any], key: str, moment: str | None) -> dict[str, tuple[int, datetime | None]]:
    counted = rows.order_by().values_list(key).annotate(Count("pk"))
    if moment is None:
        return {key_id: (count, None) for key_id, count in counted}
    return {key_id: (count, first) for key_id, count, first in counted.annotate(Min(moment))}


def _list(
    setting: str,
    title: str,
    purpose: str,
    used: dict[str, dict[str, tuple[int, datetime | None]]],
    at: datetime,
    *,
    command: str,
) -> KeyList:
    configured = [key_id for key_id, _ in getattr(settings, setting)]
    lost = sorted({key_id for found in used.values() for key_id in found} - set(configured))
    states = []
    for place, key_id in enumerate([*configured, *lost]):
        uses = [(found[key_id][0], what) for what, found in used.items() if key_id in found]
        moments = [moment for found in used.values() if key_id in found and (moment := found[key_id][1])]
        states.append(KeyState(key_id, place == 0, key_id in configured, min(moments, default=None), uses))
    tone, hint = _hint(states, lost, at, setting, command)
    return KeyList(setting, title, purpose, states, tone, hint)


def _hint(
    states: list[KeyState], lost: list[str], at: datetime, setting: str, command: str
) -> tuple[str, str]:
    older = [state for state in states if state.configured and not state.newest]
    if lost:
        return "no", (
            f"Something needs a key that is not configured: {', '.join(lost)}. "
            f"Put it back into {setting}, or what it sealed stays shut."
        )
    if command and any(state.in_use for state in older):
        return "warn", f"Older keys are still needed. Run {command}, then they can be taken out."
    if command and older:
        names = ", ".join(state.key_id for state in older)
        return "yes", f"Nothing needs {names} any more: take it out of {setting} and restart."
    newest = states[0] if states else None
    if newest and newest.first_used and at - newest.first_used > ROTATE_AFTER:
        step = f", restart, and run {command}" if command else " and restart; keep the older one behind it"
        return "warn", f"Older than a year. Put a new key in front of {setting}{step}."
    if not command and older:
        return "yes", "Older keys stay, so that what they signed can still be checked."
    return "yes", "In order."
