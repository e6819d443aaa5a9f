"""Who belongs to which group. Rules speak about groups, so this opens doors and is audited."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from django.db import transaction

from accesscontrol.models import AccessGroup
from audit.services import record
from enrollment.models import Person
from enrollment.services import audit_subject


def add_member(*, group: AccessGroup, person: Person, actor: str, at: datetime) -> None:
    _change(group=group, person=person, kind="group.member_added", actor=actor, at=at)


def remove_member(*, group: AccessGroup, person: Person, actor: str, at: datetime) -> None:
    _change(group=group, person=person, kind="group.member_removed", actor=actor, at=at)


def group_names() -> list[str]:
    """What a file of people may name."""
    return list(AccessGroup.objects.values_list("name", flat=True))


def join_groups(*, person: Person, names: Iterable[str], actor: str, at: datetime) -> None:
    """Raises ValueError for a group that is not there (any more)."""
    for name in names:
        group = AccessGroup.objects.filter(name=name).first()
        if group is None:
            raise ValueError(f"there is no group {name!r}")
        add_member(group=group, person=person, actor=actor, at=at)


def _change(*, group: AccessGroup, person: Person, kind: str, actor: str, at: datetime) -> None:
    """Does nothing, and records nothing, when it is so already."""
    with transaction.atomic():
        is_member = group.members.filter(pk=person.pk).exists()
        if is_member == (kind == "group.member_added"):
            return
        (group.members.remove if is_member else group.members.add)(person)
        details = {"group": group.pk, "name": group.name}
        record(kind=kind, actor=actor, at=at, subject=audit_subject(person.pk), details=details)
