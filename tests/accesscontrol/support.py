"""A site with people to let in, and a terminal that speaks the real protocol.

The cast: Alice is enrolled, consents and may pass the front door at any hour. Bob is enrolled and no rule
names him. Mallory is nobody: her picture is not in the gallery.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.conf import settings
from django.db import connection
from django.db.transaction import Atomic
from django.test import Client
from django.utils import timezone

from accesscontrol import services
from accesscontrol.models import AccessGroup, AccessRule, Door, Site, Terminal, Zone
from enrollment import services as enrollment
from enrollment.models import Person
from terminal.protocol import key_id_of, public_key_of, sign_request, verify_reply

CAPTURE = "application/vnd.lintel.capture"
HOST = "http://testserver"
NOW = datetime(2026, 11, 24, 9, 0, tzinfo=UTC)  # a Tuesday, ten o'clock in Vienna
SECOND = timedelta(seconds=1)
CONSENT = {"text": "I agree to be recognised at doors.", "version": "2026-11", "method": "signed"}

ALICE, BOB, MALLORY = 1, 2, 3  # pictures


@dataclass
class Device:
    """A terminal as the world outside sees it: an id, a key, a network."""

    terminal_id: Any
    seed: bytes
    client: Client = field(default_factory=Client)

    @property
    def key_id(self) -> str:
        return key_id_of(public_key_of(self.seed))

    @property
    def row(self) -> Terminal:
        return Terminal.objects.get(pk=self.terminal_id)

    def sign(
        self, method: str, path: str, body: bytes = b"", content_type: str | None = None, **changes: Any
    ) -> dict[str, str]:
        arguments = {
            "method": method,
            "url": HOST + path,
            "body": body,
            "content_type": content_type,
            "key_id": self.key_id,
            "private_key": self.seed,
            "created": int(timezone.now().timestamp()),
            "nonce": secrets.token_urlsafe(18),
        }
        return sign_request(**(arguments | changes))

    def send(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        content_type: str | None = None,
        headers: Mapping[str, str] | None = None,
        **changes: Any,
    ) -> Any:
        """Sends a signed request; `headers` given replace the signature, `changes` what is signed."""
        given = dict(self.sign(method, path, body, content_type, **changes) if headers is None else headers)
        sent_as = given.pop("Content-Type", content_type or "application/octet-stream")
        return self.client.generic(method, path, body, content_type=sent_as, headers=given)

    def get(self, path: str, **changes: Any) -> Any:
        return self.send("GET", path, **changes)

    def attempt(self, payload: bytes, **changes: Any) -> Any:
        return self.send("POST", "/api/v1/attempts", payload, content_type=CAPTURE, **changes)

    def post(self, path: str, document: Mapping[str, Any], **changes: Any) -> Any:
        return self.send(
            "POST", path, json.dumps(document).encode(), content_type="application/json", **changes
        )


@dataclass
class Place:
    site: Site
    door: Door
    device: Device
    group: AccessGroup
    rule: AccessRule


def make_place(name: str = "Headquarters", *, zone: Zone | None = None) -> Place:
    """A site with an active door, a paired terminal and a rule for the group `Staff` at any hour."""
    site, _ = Site.objects.get_or_create(name=name, defaults={"timezone": "Europe/Vienna"})
    door = Door.objects.create(site=site, name=f"Front door {secrets.token_hex(2)}", zone=zone)
    group, _ = AccessGroup.objects.get_or_create(name=f"Staff of {name}")
    rule = AccessRule.objects.create(name=f"Staff through {door.name}", group=group)
    rule.doors.add(door)
    return Place(site, door, pair(door), group, rule)


def pair(door: Door | None, *, role: str = Terminal.Role.DOOR) -> Device:
    """The service behind pairing; the pairing test goes through HTTP."""
    terminal = Terminal.objects.create(name=f"Terminal {secrets.token_hex(4)}", role=role, door=door)
    seed = os.urandom(32)
    code = services.issue_pairing_code(terminal=terminal, actor="admin", at=timezone.now())
    services.pair_terminal(code=code, public_key=public_key_of(seed), at=timezone.now())
    return Device(terminal.pk, seed)


def somebody(name: str, *, consents: bool = True, **more: Any) -> Person:
    at = timezone.now()
    person = enrollment.register_person(full_name=name, actor="desk", at=at - timedelta(days=1), **more)
    if consents:
        enrollment.record_consent(person=person, **CONSENT, actor="desk", at=at)
    return person


def believed(response: Any, *, nonce: str) -> dict[str, Any]:
    """The body of a reply that a terminal believes: signed by the server, for this very request."""
    keys = {key_id: public_key_of(seed) for key_id, seed in settings.LINTEL_SIGNING_KEYS}
    verify_reply(
        status=response.status_code,
        headers=dict(response.headers),
        body=response.content,
        request_nonce=nonce,
        public_keys=keys,
        now=int(timezone.now().timestamp()),
    )
    return response.json()


def new_nonce() -> str:
    return secrets.token_urlsafe(18)


@contextmanager
def commits_at_once() -> Iterator[None]:
    """Inside a test's transaction, the end of the code's own outermost transaction counts as its commit."""
    depth = len(connection.savepoint_ids)
    leave = Atomic.__exit__
    running = False

    def leave_and_run(self: Atomic, *error: Any) -> None:
        nonlocal running
        leave(self, *error)
        if error[0] is None and not running and len(connection.savepoint_ids) == depth:
            running = True
            try:
                while connection.run_on_commit:
                    _, function, _ = connection.run_on_commit.pop(0)
                    function()
            finally:
                running = False

    Atomic.__exit__ = leave_and_run  # type: ignore[method-assign]
    try:
        yield
    finally:
        Atomic.__exit__ = leave  # type: ignore[method-assign]


@contextmanager
def locked_database(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Another connection holds what a decision must write; ours waits a tenth of a second for it."""
    impatient = {"timeout": 0.1} if connection.vendor == "sqlite" else {"options": "-c lock_timeout=100ms"}
    connection.close()
    intruder = connection.copy()
    try:
        with monkeypatch.context() as patch, intruder.cursor() as cursor:
            if connection.vendor == "sqlite":
                cursor.execute("BEGIN IMMEDIATE")
            else:
                intruder.set_autocommit(False)
                cursor.execute("LOCK TABLE accesscontrol_accessattempt IN ACCESS EXCLUSIVE MODE")
            for option, value in impatient.items():
                patch.setitem(connection.settings_dict["OPTIONS"], option, value)
            yield
    finally:
        intruder.close()
        connection.close()
