"""Changes to doors, terminals, rules and users, each with its audit entry in the same transaction."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models import Model, QuerySet
from django.forms import ModelForm

from audit.services import record

#: Fields about a person who uses these pages; the log keeps them so that they can be forgotten.
PERSONAL_FIELDS = frozenset({"first_name", "last_name", "email"})


def save_configuration(*, form: ModelForm[Any], noun: str, actor: str, at: datetime) -> Any:
    """Saves a valid form and records what changed: `door.created` or `door.changed`."""
    kind = f"{noun}.created" if form.instance._state.adding else f"{noun}.changed"
    with transaction.atomic():
        thing = form.save()
        changed = {
            name: _plain(form.cleaned_data[name]) for name in form.changed_data if name in form.cleaned_data
        }
        personal = {name: changed.pop(name) for name in PERSONAL_FIELDS & changed.keys()}
        details = {"name": str(thing), "values": changed}
        record(
            kind=kind, actor=actor, at=at, subject=f"{noun}:{thing.pk}", details=details, personal=personal
        )
    return thing


def delete_configuration(*, thing: Model, noun: str, actor: str, at: datetime) -> None:
    with transaction.atomic():
        details = {"name": str(thing)}
        record(kind=f"{noun}.deleted", actor=actor, at=at, subject=f"{noun}:{thing.pk}", details=details)
        thing.delete()


def _plain(value: Any) -> Any:
    """A form's value as JSON holds it; rows by name."""
    if isinstance(value, bool | int | float | str) or value is None:
        return value
    if isinstance(value, QuerySet | list | tuple):
        return [_plain(item) for item in value]
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
