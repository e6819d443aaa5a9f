"""Recomputes the audit log. Exit code 0 when all fits, 1 when something does not."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from audit import services
from audit.models import Entry
from audit.note import NoteError, open_checkpoint
from audit.verification import Report

LONG_LOG = 5000


class Command(BaseCommand):
    help = (
        "Recomputes the audit log and names the first entry that was edited, dropped, inserted or reordered."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="one JSON object instead of text")
        parser.add_argument(
            "--checkpoint",
            action="append",
            default=[],
            type=Path,
            help="a checkpoint that was kept elsewhere (file with the signed note); may be repeated",
        )

    def handle(self, *arguments: Any, **options: Any) -> None:
        published = []
        for path in options["checkpoint"]:
            try:
                note = path.read_text()
                published.append(open_checkpoint(note, services.verifier_keys(note.partition("\n")[0])))
            except (OSError, NoteError) as error:
                raise CommandError(f"{path}: {error}", returncode=2) from error
        report = self._verify(published)
        self.stdout.write(json.dumps(report.to_json(), indent=2) if options["json"] else _in_words(report))
        if not report.ok:
            sys.exit(1)

    def _verify(self, published: list[Any]) -> Report:
        total = Entry.objects.count()
        if total < LONG_LOG or not sys.stderr.isatty():
            return services.verify_all(published=published)
        columns = (TextColumn("Recomputing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("", total=total)
            return services.verify_all(
                published=published,
                progress=lambda entries: (
                    progress.update(task, completed=entries) if entries % 500 == 0 else None
                ),
            )


def _in_words(report: Report) -> str:
    lines = []
    if report.first is None:
        lines.append(f"The audit log is whole: {report.entries} entries, {report.checkpoints} checkpoints.")
    else:
        lines.append(f"THE AUDIT LOG IS BROKEN. First: {report.first.explanation}.")
        lines += [
            f"Also: {problem.explanation}." for problem in report.problems if problem is not report.first
        ][:20]
        lines.append(f"Entries that fit, counted from the start: {report.entries}.")
    lines.append(f"Signed checkpoints vouch for the first {report.covered} entries.")
    lines.append(
        f"Personal fields: {report.personal_fields} readable and fitting, {report.erased_fields} erased."
    )
    lines.append(f"Root: {report.root.hex()}")
    return "\n".join(lines)
