"""The whole flow as a large installation runs it: Postgres, Redis, a web process and two Celery workers, driven by the
real terminal code over HTTP. One of the workers is killed between search and decision.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from recognition.payload import pack
from recognition.quality import Quality
from terminal.capture import Capture
from terminal.client import ClientError, EnrollmentTask, TerminalClient, pair
from tests.accesscontrol.test_nothing_stays import files_below, of_capture, redis_dump, seen
from tests.flows.test_servers import (
    ROOT,
    START_TIMEOUT_S,
    manage,
    process,
    production,
    surroundings,
    until,
)
from tests.services import Postgres, Redis, free_port
from tests.tiny_model import capture_of, synthetic_picture, tiny_profile

__all__ = ["surroundings"]
# Postgres and Redis whatever the run is on: once is enough, so no `flow`.
pytestmark = [pytest.mark.redis, pytest.mark.slow, pytest.mark.timeout(1500)]

ALICE, MALLORY = 1, 3  # pictures
DEADLINE_S = 30  # the longest there is; the attempt whose worker dies waits for all of it
PATIENCE_S = 240.0
ATTEMPTS = 60  # Redis hands work to whoever waits longest: two waiting workers take turns

PREPARE = """
import json, django; django.setup()
from django.utils import timezone
from accesscontrol import services
from accesscontrol.models import AccessGroup, AccessRule, Door, Scope, Terminal
at, door = timezone.now(), Door.objects.get()
said = {}
for role in ("door", "desk"):
    terminal = Terminal.objects.create(name=role, role=role, door=door if role == "door" else None)
    said[role] = services.issue_pairing_code(terminal=terminal, actor="test", at=at)
group = AccessGroup.objects.create(name="Staff")
AccessRule.objects.create(name="Staff always", group=group).doors.add(door)
_, said["token"] = services.create_api_token(name="test", scopes=Scope.values, actor="test", at=at)
print(json.dumps(said | {"group": group.pk}))
"""

CLOCK = """
import django; django.setup()
from django.utils import timezone
from accesscontrol import services
services.expire_attempts(at=timezone.now())
"""


class AsProxied(httpx.HTTPTransport):
    """Says what the proxy in front of production says: that the caller came over HTTPS."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        request.headers["X-Forwarded-Proto"] = "https"
        return super().handle_request(request)


@dataclass
class House:
    door: TerminalClient
    desk: TerminalClient
    integrator: httpx.Client
    group: int
    workers: list[subprocess.Popen[bytes]]
    metrics_ports: list[int]
    marker: Path
    environment: dict[str, str]

    def ask(self, picture: int) -> tuple[bool, str]:
        decision = self.door.attempt(capture(picture))
        return decision.granted, decision.reason

    def settled_by(self, number: int) -> int:
        text = httpx.get(f"http://127.0.0.1:{self.metrics_ports[number]}/metrics", timeout=60).text
        counts = re.findall(r"^lintel_attempts_total\{.*\} (\S+)$", text, re.MULTILINE)
        return int(sum(float(count) for count in counts))

    def rows(self, query: str) -> list[Any]:
        with psycopg.connect(self.environment["LINTEL_DATABASE_URL"], autocommit=True) as connection:
            return connection.execute(query).fetchall()  # type: ignore[arg-type]


def capture(picture: int) -> Capture:
    profile = tiny_profile()
    payload = pack(capture_of(synthetic_picture(picture), profile), profile)
    return Capture(payload, Quality(ok=True, reason="good", score=0.9))


@pytest.fixture
def house(
    surroundings: dict[str, str],
    tmp_path: Path,
    postgres_server: Postgres,
    redis_url: str,
) -> Iterator[House]:
    port, marker = free_port(), tmp_path / "doomed"
    url = f"http://127.0.0.1:{port}"
    environment = {
        **production(surroundings, postgres_server, redis_url, port),
        "DJANGO_SETTINGS_MODULE": "accesscontrol.settings",
        "LINTEL_ATTEMPT_DEADLINE_MS": str(DEADLINE_S * 1000),
        "LINTEL_PAYLOAD_TTL_S": "300",
        "LINTEL_TEST_MARKER": str(marker),
    }
    (tmp_path / "data").mkdir()
    manage(environment, "set_up")
    said = json.loads(python(environment, PREPARE))
    web_log, ports = tmp_path / "web.log", [free_port(), free_port()]
    gunicorn = ("-m", "gunicorn", "--config", "deploy/gunicorn.conf.py", "accesscontrol.wsgi")
    with ExitStack() as stack:
        web = stack.enter_context(process(environment, web_log, *gunicorn))
        until(lambda: httpx.get(f"{url}/healthz", timeout=60).status_code == 200, web, web_log)
        workers = []
        for number, app in enumerate(("accesscontrol", "tests.flows.mortal_worker")):
            log = tmp_path / f"worker{number}.log"
            own = {**environment, "LINTEL_WORKER_METRICS_PORT": str(ports[number])}
            command = ("-m", "celery", "-A", app, "worker", "-n", f"w{number}@%h", "-Q", "recognition,maintenance",
                       "--pool", "threads", "--concurrency", "2")  # fmt: skip
            workers.append(stack.enter_context(process(own, log, *command)))
            metrics = f"http://127.0.0.1:{ports[number]}/metrics"
            until(lambda metrics=metrics: httpx.get(metrics, timeout=60).status_code == 200, workers[-1], log)
        until(lambda: httpx.get(f"{url}/readyz", timeout=60).status_code == 200, web, web_log)
        clients = {
            role: stack.enter_context(
                TerminalClient(
                    url,
                    pair(url, said[role], seed=os.urandom(32), transport=AsProxied()),
                    transport=AsProxied(),
                )
            )
            for role in ("door", "desk")
        }
        headers = {"Authorization": f"Bearer {said['token']}"}
        integrator = stack.enter_context(
            httpx.Client(base_url=f"{url}/api/v1/", headers=headers, transport=AsProxied(), timeout=120)
        )
        yield House(
            clients["door"], clients["desk"], integrator, said["group"], workers, ports, marker, environment
        )


def python(environment: dict[str, str], code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=START_TIMEOUT_S,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def enrolled(house: House, name: str, picture: int) -> str:
    """Through the API of a connected system and a terminal at the desk; their id."""
    person = house.integrator.post("people", json={"full_name": name}).raise_for_status().json()["id"]
    refused = house.integrator.post(f"people/{person}/enrollments", json={"captures_wanted": 3})
    assert refused.json()["code"] == "consent_missing"
    consent = {"text": "I agree.", "version": "1", "method": "signed"}
    house.integrator.post(f"people/{person}/consents", json=consent).raise_for_status()
    house.integrator.put(f"groups/{house.group}/members/{person}").raise_for_status()
    begun = {"terminal_id": house.desk.state.terminal_id, "captures_wanted": 3}
    house.integrator.post(f"people/{person}/enrollments", json=begun).raise_for_status()
    task = house.desk.enrollment()
    assert task is not None and task.person_name == name
    for _ in range(3):
        task = looked_at(house, house.desk.submit_enrollment_capture(task.enrollment_id, capture(picture)))
    assert (task.state, task.captures_accepted) == ("completed", 3), task
    return str(person)


def looked_at(house: House, task: EnrollmentTask) -> EnrollmentTask:
    """Once no capture waits for a worker, and after the last one once the gallery was searched for the face."""
    deadline = time.monotonic() + PATIENCE_S
    while task.captures_pending or (task.state == "open" and task.captures_accepted == task.captures_wanted):
        assert time.monotonic() < deadline, task
        time.sleep(0.1)
        task = house.desk.enrollment_progress(task.enrollment_id)
    return task


def until_both_have_answered(house: House, picture: int, expected: tuple[bool, str]) -> None:
    before = [house.settled_by(number) for number in (0, 1)]
    for _ in range(ATTEMPTS):
        assert house.ask(picture) == expected
        if all(house.settled_by(number) > before[number] for number in (0, 1)):
            return
    raise AssertionError(
        f"only one worker answers: {before}, {[house.settled_by(number) for number in (0, 1)]}"
    )


def ask_until_the_second_worker_dies(house: House) -> str:
    """The first worker goes on letting Alice in; the id of the attempt that the second one took with it."""
    house.marker.touch()
    for _ in range(ATTEMPTS):
        decided = house.rows("SELECT id FROM accesscontrol_accessattempt")
        try:
            answer = house.ask(ALICE)
        except ClientError as error:
            answer = (False, error.code)
        if not house.marker.exists():
            house.workers[1].wait(60)
            assert answer in {(False, "deadline_passed"), (False, "unanswered")}
            (lost,) = set(house.rows("SELECT id FROM accesscontrol_accessattempt")) - set(decided)
            return str(lost[0])
        assert answer == (True, "granted")
    raise AssertionError("the second worker was never asked")


def test_alice_comes_in_by_either_worker_and_no_attempt_is_lost_when_one_of_them_dies(
    house: House, tmp_path: Path, redis_server: Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[bytes] = []
    attempt = TerminalClient.attempt
    monkeypatch.setattr(
        TerminalClient,
        "attempt",
        lambda self, capture: (sent.append(capture.payload), attempt(self, capture))[1],
    )
    assert house.ask(ALICE) == (False, "gallery_empty")
    alice = enrolled(house, "Alice Example", ALICE)
    until_both_have_answered(house, ALICE, (True, "granted"))
    until_both_have_answered(house, MALLORY, (False, "no_match"))

    lost = ask_until_the_second_worker_dies(house)
    assert house.ask(ALICE) == (True, "granted"), "the other worker goes on"

    house.integrator.post(f"people/{alice}/erase").raise_for_status()
    assert house.ask(ALICE) == (False, "gallery_empty")

    # Whoever looks after the deadline settles it, the terminal or the clock. Every attempt has one entry, and only one.
    python(house.environment, CLOCK)
    assert not house.rows("SELECT 1 FROM accesscontrol_accessattempt WHERE state = 'pending'")
    (outcome,) = house.rows(f"SELECT granted, reason FROM accesscontrol_accessattempt WHERE id = '{lost}'")
    assert outcome == (False, "deadline_passed")
    entries = [
        json.loads(row[0])
        for row in house.rows("SELECT details FROM audit_entry WHERE kind = 'attempt.settled'")
    ]
    attempts = house.rows("SELECT id, granted FROM accesscontrol_accessattempt")
    assert sorted((entry["attempt"], entry["granted"]) for entry in entries) == sorted(
        (str(identity), granted) for identity, granted in attempts
    )
    assert "is whole" in manage(house.environment, "verify_audit")

    # Nor do real processes leave of any capture what the server must not keep: in logs, in files, in Redis.
    kept = {
        "logs": b"".join(log.read_bytes() for log in tmp_path.glob("*.log")),
        "the data folder": files_below(tmp_path / "data"),
        "Redis": redis_dump(redis_server, redis_url),
    }
    assert kept["logs"] and b"identify" in kept["logs"] + kept["Redis"]
    needles = {
        name: data
        for number, one in enumerate(sent)
        for name, data in of_capture(f"capture {number}", one).items()
    }
    left = {where: seen(needles, haystack) for where, haystack in kept.items()}
    assert not any(left.values()), left
