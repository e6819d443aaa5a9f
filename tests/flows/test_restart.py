"""An embedded server that was killed while an attempt was under way: the next start ends it denied, and says so."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.flows.test_servers import ROOT, START_TIMEOUT_S, manage, process, surroundings, until
from tests.services import free_port

__all__ = ["surroundings"]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

LEFT_BEHIND = """
import os, django; django.setup()
from datetime import timedelta
from django.utils import timezone
from accesscontrol import services
from accesscontrol.models import AccessAttempt, Door, Terminal
from terminal.protocol import public_key_of
at, door = timezone.now(), Door.objects.get()
terminal = Terminal.objects.create(name="Front", role="door", door=door)
code = services.issue_pairing_code(terminal=terminal, actor="test", at=at)
services.pair_terminal(code=code, public_key=public_key_of(os.urandom(32)), at=at)
attempt = AccessAttempt.objects.create(
    terminal=terminal, door=door, nonce="n" * 24, payload_bytes=1, payload_key="gone with the process",
    received_at=at, deadline_at=at + timedelta(milliseconds=1),
)
print(attempt.pk.hex)
"""


def test_an_attempt_that_a_killed_server_left_behind_ends_denied_after_the_next_start(
    surroundings: dict[str, str], tmp_path: Path
) -> None:
    manage(surroundings, "generate_secrets")
    manage(surroundings, "set_up")
    environment = {**surroundings, "DJANGO_SETTINGS_MODULE": "accesscontrol.settings"}
    done = subprocess.run(
        [sys.executable, "-c", LEFT_BEHIND], cwd=ROOT, env=environment, capture_output=True, text=True,
        timeout=START_TIMEOUT_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    attempt = done.stdout.strip()

    def rows(query: str) -> list[Any]:
        address = f"file:{tmp_path / 'data' / 'lintel.sqlite3'}?mode=ro"
        with sqlite3.connect(address, uri=True, timeout=120) as database:  # the server may be at its start
            found = database.execute(query).fetchall()
        database.close()
        return found

    (before,) = rows("SELECT id, state FROM accesscontrol_accessattempt")
    assert before == (attempt, "pending")
    log = tmp_path / "serve.log"
    with process(surroundings, log, "manage.py", "serve", "--port", str(free_port())) as server:
        until(lambda: rows("SELECT state FROM accesscontrol_accessattempt") == [("settled",)], server, log)
    assert rows("SELECT granted, reason FROM accesscontrol_accessattempt") == [(0, "deadline_passed")]
    ((entry,),) = rows("SELECT details FROM audit_entry WHERE kind = 'attempt.settled'")
    assert (json.loads(entry)["granted"], json.loads(entry)["reason"]) == (False, "deadline_passed")
    assert "is whole" in manage(surroundings, "verify_audit")
