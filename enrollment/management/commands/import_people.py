"""Registers people from a CSV file: all of them, or none and the reasons by line. With --invite, links for them."""

from __future__ import annotations

import csv
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from enrollment import roster
from enrollment.invitations import LIFETIME, LONGEST_LIFETIME
from enrollment.roster import Registered, RosterRefused


class Command(BaseCommand):
    help = (
        f"Register people from a CSV file with a header out of: name, {', '.join(list(roster.COLUMNS)[1:])}."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", type=Path, help="UTF-8; separated by commas, semicolons or tabs")
        parser.add_argument("--dry-run", action="store_true", help="say what is wrong and register nobody")
        parser.add_argument(
            "--invite",
            type=Path,
            metavar="LINKS",
            help="invite everybody, and write the links to this new file (mode 0600): they cannot be shown again",
        )
        parser.add_argument("--days", type=int, default=LIFETIME.days, help="how long a link lives")

    def handle(
        self, *args: Any, file: Path, dry_run: bool, invite: Path | None, days: int, **options: Any
    ) -> None:
        if not 1 <= days <= LONGEST_LIFETIME.days:
            raise CommandError(f"--days is a number from 1 to {LONGEST_LIFETIME.days}")
        if invite is not None and not settings.LINTEL_PUBLIC_URL:
            raise CommandError(
                "links need LINTEL_PUBLIC_URL, the address under which people reach this server"
            )
        now = timezone.now()
        try:
            with file.open(encoding="utf-8-sig", newline="") as lines:
                found = roster.read_roster(lines, zone=timezone.get_current_timezone(), at=now)
        except OSError as error:
            raise CommandError(f"{file} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise CommandError(f"{file} is not UTF-8; nobody was imported") from error
        if dry_run and found.is_good:
            self.stdout.write(f"{len(found.rows)} people can be registered")
            return
        # Opened before anybody is registered: links that cannot be written are links that nobody ever sees.
        links = None if invite is None or not found.is_good else _new_file(invite)
        try:
            done = roster.register_roster(
                roster=found,
                actor="import_people",
                at=now,
                invite=invite is not None,
                lifetime=timedelta(days=days),
            )
        except RosterRefused as refusal:
            if links is not None and invite is not None:
                links.close()
                invite.unlink()
            for problem in refusal.errors:
                self.stderr.write(problem.sentence)
            raise CommandError(f"{refusal}; nobody was imported") from refusal
        if links is not None:
            with links:
                _write_links(links, done)
            self.stdout.write(f"{len(done)} links in {invite}: whoever holds one can enroll as that person")
        self.stdout.write(f"{len(done)} people registered")


def _new_file(path: Path) -> Any:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise CommandError(f"{path} cannot be written: {error.strerror}; nobody was imported") from error
    return os.fdopen(descriptor, "w", encoding="utf-8", newline="")


def _write_links(file: Any, done: list[Registered]) -> None:
    writer = csv.writer(file)
    writer.writerow(roster.LINK_COLUMNS)
    for registered in done:
        if registered.invitation is not None:
            writer.writerow(roster.link_row(registered.invitation, base=settings.LINTEL_PUBLIC_URL))
