"""Users and attempts for the tests of pages."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.utils import timezone

from accesscontrol.models import AccessAttempt, Terminal
from enrollment.models import Person

PASSWORD = "five oaks beside the weir"


def make_user(name: str, *roles: str) -> Any:
    user = get_user_model().objects.create_user(name, password=PASSWORD)
    user.groups.set([Group.objects.get_or_create(name=role)[0] for role in roles])
    return user


def make_attempt(
    terminal: Terminal, *, person: Person | None = None, reason: str = "granted", **more: Any
) -> AccessAttempt:
    now = timezone.now()
    return AccessAttempt.objects.create(
        **{
            "terminal": terminal,
            "door": terminal.door,
            "nonce": uuid.uuid4().hex,
            "state": AccessAttempt.State.SETTLED,
            "granted": reason == "granted",
            "reason": reason,
            "person": person,
            "score": 0.7,
            "threshold": 0.4,
            "gallery_size": 1,
            "payload_bytes": 18_000,
            "received_at": now,
            "deadline_at": now + timedelta(seconds=3),
            "settled_at": now + timedelta(milliseconds=200),
            **more,
        }
    )
