"""Registers people from a CSV file: all of them, or none and the reasons by line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from enrollment import services


class Command(BaseCommand):
    help = f"Register people from a CSV file with a header out of: {', '.join(services.IMPORT_COLUMNS)}."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", type=Path, help="UTF-8, comma-separated")

    def handle(self, *args: Any, file: Path, **options: Any) -> None:
        try:
            with file.open(encoding="utf-8-sig", newline="") as lines:
                report = services.import_people(lines=lines, actor="import_people", at=timezone.now())
        except OSError as error:
            raise CommandError(f"{file} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise CommandError(f"{file} is not UTF-8; nobody was imported") from error
        for problem in report.errors:
            self.stderr.write(f"line {problem.line}: {problem.message}")
        if report.errors:
            raise CommandError(f"{len(report.errors)} lines are wrong; nobody was imported")
        self.stdout.write(f"{report.created} people registered")
