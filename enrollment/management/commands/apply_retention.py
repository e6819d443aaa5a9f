"""Deletes what is no longer needed. For cron or a timer, every night."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from enrollment import services


class Command(BaseCommand):
    help = "Erase people some days after their validity ended, end stale enrollments, delete old records."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--people-days", type=int, default=30, help="days after the end of validity (30)")
        parser.add_argument(
            "--enrollments-days", type=int, default=365, help="days after an enrollment ended (365)"
        )
        parser.add_argument("--dry-run", action="store_true", help="say what would happen, change nothing")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["people_days"] < 0 or options["enrollments_days"] < 0:
            raise CommandError("days cannot be negative")
        report = services.apply_retention(
            actor="apply_retention",
            at=timezone.now(),
            keep_people_days=options["people_days"],
            keep_enrollments_days=options["enrollments_days"],
            dry_run=options["dry_run"],
        )
        prefix = "would be " if options["dry_run"] else ""
        for person_id in report.people_erased:
            self.stdout.write(f"{prefix}erased: {person_id}")
        self.stdout.write(
            f"{len(report.people_erased)} people {prefix}erased, "
            f"{report.people_expired} {prefix}taken out of the gallery, "
            f"{report.enrollments_expired} enrollments {prefix}ended, "
            f"{report.enrollments_deleted} {prefix}deleted"
        )
