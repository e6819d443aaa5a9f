"""An enrollment begins where a face can be taken: at a terminal that is known and in use, or at none."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Callable

import pytest
from django.test import Client
from django.utils import timezone

from accesscontrol import services
from accesscontrol.models import Scope, Terminal
from audit.models import Entry
from enrollment.models import Enrollment
from tests.accesscontrol import support
from tests.accesscontrol.support import Place


def unpaired(place: Place) -> uuid.UUID:
    return Terminal.objects.create(name=f"New {secrets.token_hex(4)}", door=place.door).pk


def revoked(place: Place) -> uuid.UUID:
    device = support.pair(place.door)
    services.revoke_terminal(terminal=device.row, actor="admin", at=timezone.now())
    return device.row.pk


def begin(person_id: uuid.UUID, terminal_id: uuid.UUID) -> tuple[int, dict[str, object]]:
    _, token = services.create_api_token(name="HR", scopes=Scope.values, actor="admin", at=timezone.now())
    answer = Client(headers={"Authorization": f"Bearer {token}"}).post(
        f"/api/v1/people/{person_id}/enrollments",
        {"terminal_id": terminal_id},
        content_type="application/json",
    )
    return answer.status_code, answer.json()


@pytest.mark.parametrize(
    "terminal", [lambda place: uuid.uuid4(), unpaired, revoked], ids=["unknown", "unpaired", "revoked"]
)
def test_nobody_is_enrolled_at_a_terminal_that_is_not_in_use(
    place: Place, terminal: Callable[[Place], uuid.UUID]
) -> None:
    alice, terminal_id = support.somebody("Alice Example"), terminal(place)
    status, problem = begin(alice.pk, terminal_id)
    assert (status, problem["code"]) == (409, "terminal_unknown")
    assert not Enrollment.objects.exists()
    refused = Entry.objects.get(kind="enrollment.refused")
    assert refused.details == {"reason": "terminal_unknown", "terminal": str(terminal_id)}


@pytest.mark.parametrize("role", [Terminal.Role.DOOR, Terminal.Role.DESK])
def test_a_terminal_in_use_enrolls_whether_at_a_door_or_at_the_desk(place: Place, role: str) -> None:
    device = support.pair(place.door if role == Terminal.Role.DOOR else None, role=role)
    alice = support.somebody("Alice Example")
    status, progress = begin(alice.pk, device.row.pk)
    assert (status, progress["terminal_id"]) == (201, str(device.row.pk))
    waiting = device.get("/api/v1/terminals/me/enrollment")
    assert (waiting.status_code, waiting.json()["person_name"]) == (200, "Alice Example")
