"""The demonstration itself: people are enrolled at a desk, then everybody tries the door.

All of it is what a real installation does: a connected system's token, and two terminals that sign requests,
send perturbed features and believe only signed answers.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from typing import Any

import httpx
from rich.console import Console
from rich.text import Text

from accesscontrol.demonstration.pictures import Picture
from terminal.capture import CaptureStation
from terminal.client import ClientError, EnrollmentTask, TerminalClient
from terminal.door import Door

CAPTURES = 3  # of each person at the desk
TRIES = 12  # captures at the desk before an enrollment is given up
POLL_S = 0.05
PATIENCE_S = 90.0  # for one capture to be processed; the first one waits for the model to load

CONSENT = "For this demonstration only: my face may be recognized until the throw-away server is deleted."


class SceneStoppedError(Exception):
    """Going on would show nothing: something behind the scene does not work."""


@dataclass(frozen=True)
class Try:
    """One picture held before the door's camera."""

    picture: str
    genuine: bool
    accepted: bool  # the door opened, and for a genuine one: for the right person
    milliseconds: float | None  # from frame to door; None when nothing was sent
    payload_bytes: int


@dataclass
class Tally:
    """What the demonstration showed."""

    enrolled: int = 0
    tries: list[Try] = field(default_factory=list)

    def summary(self, *, audit_verified: bool) -> dict[str, Any]:
        times = sorted(one.milliseconds for one in self.tries if one.milliseconds is not None)
        genuine = [one for one in self.tries if one.genuine]
        impostor = [one for one in self.tries if not one.genuine]
        return {
            "enrolled": self.enrolled,
            "genuine": len(genuine),
            "genuine_accepted": sum(one.accepted for one in genuine),
            "impostor": len(impostor),
            "impostor_accepted": sum(one.accepted for one in impostor),
            "p50_ms": round(statistics.median(times), 1) if times else None,
            "p95_ms": round(times[max(0, -(-95 * len(times) // 100) - 1)], 1)
            if times
            else None,  # nearest rank
            "payload_bytes": max((one.payload_bytes for one in self.tries), default=0),
            "audit_verified": audit_verified,
        }


@dataclass
class Integrator:
    """A connected system: knows people by name, begins enrollments, reads attempts."""

    http: httpx.Client  # with base_url and bearer token
    group_id: int
    name_of: dict[str, str] = field(default_factory=dict)  # by person id

    def register(self, name: str) -> str:
        person_id = str(self._post("people", {"full_name": name})["id"])
        self._post(f"people/{person_id}/consents", {"text": CONSENT, "version": "demo", "method": "spoken"})
        self.http.put(f"groups/{self.group_id}/members/{person_id}").raise_for_status()
        self.name_of[person_id] = name
        return person_id

    def begin_enrollment(self, person_id: str, *, terminal_id: str) -> None:
        self._post(
            f"people/{person_id}/enrollments", {"terminal_id": terminal_id, "captures_wanted": CAPTURES}
        )

    def accept_duplicate(self, enrollment_id: str) -> None:
        decision = {"accept_duplicate": True, "reason": "demonstration: two names for one portrait"}
        self._post(f"enrollments/{enrollment_id}/complete", decision)

    def cancel(self, enrollment_id: str) -> None:
        self._post(f"enrollments/{enrollment_id}/cancel", {})

    def attempt(self, attempt_id: str) -> dict[str, Any]:
        reply = self.http.get("attempts", params={"id": attempt_id})
        reply.raise_for_status()
        found: dict[str, Any] = reply.json()["results"][0]
        return found

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        reply = self.http.post(path, json=body)
        reply.raise_for_status()
        document: dict[str, Any] = reply.json()
        return document


@dataclass
class Scene:
    console: Console
    integrator: Integrator
    station: CaptureStation
    desk: TerminalClient
    entrance: TerminalClient
    door: Door
    tally: Tally = field(default_factory=Tally)

    def enroll(self, name: str, pictures: Sequence[Picture]) -> bool:
        """At the desk, from the first pictures; every showing of one draws fresh noise."""
        person_id = self.integrator.register(name)
        usable = [picture for picture in pictures if self.station.capture(picture.read()).ok]
        if not usable:
            return self._not_enrolled(name, "no picture is good enough")
        self.integrator.begin_enrollment(person_id, terminal_id=self.desk.state.terminal_id)
        task = self.desk.enrollment()
        if task is None:
            return self._not_enrolled(name, "the desk was not told")
        for picture in islice(cycle(usable), TRIES):
            capture = self.station.capture(picture.read())
            task = self._settled(self.desk.submit_enrollment_capture(task.enrollment_id, capture))
            if task.state != "open":
                break
        if task.state == "duplicate_found":
            self.integrator.accept_duplicate(task.enrollment_id)
            task = self.desk.enrollment_progress(task.enrollment_id)
        if task.state != "completed":
            if task.state == "open":
                self.integrator.cancel(task.enrollment_id)
            return self._not_enrolled(name, task.message)
        self.tally.enrolled += 1
        note = (
            "" if len(usable) == len(pictures) else f", {len(pictures) - len(usable)} picture(s) not usable"
        )
        self._say(
            Text.assemble(
                "  ", (f"{name:<14}", "bold"), f"enrolled from {task.captures_accepted} captures{note}"
            )
        )
        return True

    def approach(self, picture: Picture, *, enrolled: bool) -> None:
        """Before the door's camera, once."""
        started = time.monotonic()
        capture = self.station.capture(picture.read())
        if not capture.ok:
            self._note(picture, enrolled, False, capture.quality.reason, "not sent", None, 0)
            return
        size = len(capture.payload)
        try:
            decision = self.entrance.attempt(capture)
        except ClientError as error:
            self._note(picture, enrolled, False, error.hint or error.code, "", _since(started), size)
            return
        opened = self.door.open(decision, now=self.entrance.now).opened
        took = _since(started)
        self.door.shut()
        row = self.integrator.attempt(decision.attempt_id)
        seen_as = self.integrator.name_of.get(row["person"] or "", "")
        score = "" if row["score"] is None else f"{row['score']:+.3f} {'>=' if row['granted'] else '< '} "
        if row["score"] is not None and row["threshold"] is not None:
            score += f"{row['threshold']:.3f}"
        reason = decision.reason
        if opened and seen_as != picture.person:
            reason = f"taken for {seen_as}"
        right = opened and (not enrolled or seen_as == picture.person)
        self._note(picture, enrolled, opened, reason, score, took, size, accepted=right)

    def _settled(self, task: EnrollmentTask) -> EnrollmentTask:
        """After the capture's embedding, and after the last one's search for duplicates too."""
        until = time.monotonic() + PATIENCE_S
        while task.state == "open" and (
            task.captures_pending or task.captures_accepted >= task.captures_wanted
        ):
            if time.monotonic() > until:
                raise SceneStoppedError("a capture at the desk was never processed")
            time.sleep(POLL_S)
            try:
                task = self.desk.enrollment_progress(task.enrollment_id)
            except ClientError as error:  # a machine busy with loading the model is slow to answer
                if error.code != "unreachable":
                    raise
        return task

    def _not_enrolled(self, name: str, why: str) -> bool:
        self._say(Text.assemble("  ", (f"{name:<14}", "bold"), (f"not enrolled: {why}", "yellow")))
        return False

    def _note(
        self,
        picture: Picture,
        enrolled: bool,
        opened: bool,
        reason: str,
        score: str,
        milliseconds: float | None,
        payload_bytes: int,
        *,
        accepted: bool = False,
    ) -> None:
        self.tally.tries.append(Try(picture.name, enrolled, accepted, milliseconds, payload_bytes))
        as_it_should_be = opened == enrolled and (accepted or not opened)
        style = "green" if as_it_should_be else "red"
        self._say(
            Text.assemble(
                "  ",
                (f"{picture.name:<14}", "bold"),
                f"{'enrolled' if enrolled else 'stranger':<10}",
                (f"{'door opens' if opened else 'door stays shut':<17}", style),
                f"{reason:<18}",
                (f"{score:<18}", "cyan"),
                "" if milliseconds is None else f"{milliseconds:7.0f} ms",
                (f"{payload_bytes:9,} bytes" if payload_bytes else "", "dim"),
            )
        )

    def _say(self, line: Text) -> None:
        self.console.print(line, soft_wrap=True)


def as_last_line(summary: dict[str, Any]) -> str:
    return json.dumps(summary)


def _since(started: float) -> float:
    return (time.monotonic() - started) * 1000
