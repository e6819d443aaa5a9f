"""`manage.py demo`: a throw-away Lintel, people enrolled at its desk, and everybody at its door.

Runs twice: outside it makes a new installation in a new folder; inside, under that installation's settings,
it plays the administrator, starts the real server and drives it through the real terminal code over HTTP.
"""

from __future__ import annotations

import os
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

import httpx
from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone
from rich.console import Console

from accesscontrol.demonstration.pictures import (
    WHAT_THIS_MACHINE_HAS,
    NoPicturesError,
    halves,
    pictures_of_folder,
    pictures_of_this_machine,
)
from accesscontrol.demonstration.scene import CAPTURES, Integrator, Scene, SceneStoppedError, as_last_line
from accesscontrol.demonstration.server import (
    MANAGE,
    ServerFailedError,
    end_of,
    ended_with_us,
    leave_on_terminate,
    running_server,
    throw_away_environment,
)
from accesscontrol.models import AccessGroup, AccessRule, Door, Scope, Terminal
from accesscontrol.services import create_api_token, issue_pairing_code
from recognition.detect import Detector
from recognition.fetch_models import ModelsUnavailableError, models_folder
from terminal.capture import CaptureStation
from terminal.client import ClientError, TerminalClient, pair
from terminal.door import ConsoleDriver
from terminal.door import Door as LockedDoor

ACTOR = "demo"


class Command(BaseCommand):
    help = "Shows doors opening and staying shut, without a camera, on a server of its own."
    requires_system_checks = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--frames", type=Path, help="folder of pictures <person>_<k>.jpg")
        parser.add_argument(
            "--inside", action="store_true", help="within the throw-away installation (internal)"
        )

    def handle(self, *, frames: Path | None, inside: bool, **options: Any) -> None:
        leave_on_terminate()
        try:
            if inside:
                _play(frames)
            else:
                _in_a_new_installation(frames)
        except (NoPicturesError, ServerFailedError, ModelsUnavailableError) as error:
            raise CommandError(str(error)) from error
        except ClientError as error:
            raise CommandError(f"{error.message} ({error.hint or error.code})") from error


def _in_a_new_installation(frames: Path | None) -> None:
    with throw_away_environment(os.environ) as environment:
        environment["LINTEL_MODELS_DIR"] = str(models_folder().resolve())
        arguments = ["--frames", str(frames.resolve())] if frames else []
        command = [sys.executable, str(MANAGE), "demo", "--inside", *arguments]
        inner = subprocess.Popen(command, env=environment)
        with ended_with_us(inner):
            status = inner.wait()
    if status:
        sys.exit(status)


def _play(frames: Path | None) -> None:
    pictures = pictures_of_folder(frames) if frames else pictures_of_this_machine()
    enrolled, strangers = halves(pictures)
    console = Console(highlight=False)
    console.rule("[bold]Lintel[/] without a camera")
    console.print(f"Pictures of {frames}." if frames else WHAT_THIS_MACHINE_HAS)
    log = settings.LINTEL_DATA_DIR / "server.log"
    with _explained_by(log), ExitStack() as stack:
        scene = _prepare(stack, console, stack.enter_context(running_server(os.environ, log=log)))
        profile = scene.station.profile
        console.print(
            f"Model {settings.LINTEL_MODEL}, profile {profile.name}: {profile.transform} transform, epsilon"
            f" {profile.epsilon_mean_per_coefficient:.2f} per coefficient,"
            f" {profile.epsilon_per_capture:,.0f} per capture."
        )
        console.print(
            f"\nAt the desk: {len(enrolled)} of {len(enrolled) + len(strangers)} people are enrolled."
        )
        for name in enrolled:
            scene.enroll(name, [picture for picture in pictures if picture.person == name][:CAPTURES])
        console.print("\nAt the door: everybody tries, with pictures the server has not seen.")
        for picture in pictures:
            seen_before = [one for one in pictures if one.person == picture.person][:CAPTURES]
            if picture.person in strangers or picture not in seen_before:
                scene.approach(picture, enrolled=picture.person in enrolled)
    verified = _audit_holds(console)
    summary = scene.tally.summary(audit_verified=verified)
    not_sent = sum(one.milliseconds is None for one in scene.tally.tries)
    console.print(
        f"\nLet in: {summary['genuine_accepted']} of {summary['genuine']} tries by enrolled people,"
        f" {summary['impostor_accepted']} of {summary['impostor']} by strangers."
        f" {not_sent} picture(s) were not good enough to send."
    )
    sys.stdout.write(as_last_line(summary) + "\n")


@contextmanager
def _explained_by(log: Path) -> Iterator[None]:
    """What stops the scene is explained by the server's own words, which are gone a moment later."""
    try:
        yield
    except (SceneStoppedError, httpx.HTTPError) as error:
        raise ServerFailedError(f"{error}. The server's last words:\n{end_of(log)}") from error


def _prepare(stack: ExitStack, console: Console, url: str) -> Scene:
    """What an administrator does once: pair a desk and a door, say who may pass, hand out a token."""
    at = timezone.now()
    door = Door.objects.get()
    clients = {}
    for role in Terminal.Role:
        terminal = Terminal.objects.create(
            name=f"Demo {role}", role=role, door=door if role == Terminal.Role.DOOR else None
        )
        state = pair(url, issue_pairing_code(terminal=terminal, actor=ACTOR, at=at), seed=os.urandom(32))
        clients[role] = stack.enter_context(TerminalClient(url, state))
    group = AccessGroup.objects.create(name="Demo: may pass")
    rule = AccessRule.objects.create(name="Demo: at any hour", group=group)
    rule.doors.add(door)
    _, token = create_api_token(
        name="Demo", scopes=[Scope.PEOPLE_READ, Scope.PEOPLE_WRITE, Scope.RULES_WRITE, Scope.ATTEMPTS_READ],
        actor=ACTOR, at=at,
    )  # fmt: skip
    http = stack.enter_context(
        httpx.Client(base_url=f"{url}/api/v1/", headers={"Authorization": f"Bearer {token}"}, timeout=30)
    )
    entrance = clients[Terminal.Role.DOOR]
    lock = LockedDoor(door_id=entrance.state.door_id, driver=ConsoleDriver(Console(quiet=True)))
    stack.callback(lock.shut)
    return Scene(
        console=console,
        integrator=Integrator(http, group.pk),
        station=CaptureStation(entrance.profile(entrance.state.profile_hash), Detector()),
        desk=clients[Terminal.Role.DESK],
        entrance=entrance,
        door=lock,
    )


def _audit_holds(console: Console) -> bool:
    """After the server is gone: a signed checkpoint of the log, and every entry recomputed against it."""
    findings = StringIO()
    try:
        call_command("checkpoint_audit", stdout=findings)
        call_command("verify_audit", stdout=findings, stderr=findings)
    except (CommandError, SystemExit) as error:
        console.print(f"[red]The audit log does not verify:[/] {error}\n{findings.getvalue()}")
        return False
    console.print("\nThe audit log verifies: every decision is in it, in order, unaltered.")
    return True
