"""Signs a checkpoint over the audit log and prints it, so that it can be kept where nobody can change it."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.utils import timezone

from audit import services


class Command(BaseCommand):
    help = "Signs a checkpoint over the audit log and prints it. Keep it: verify_audit --checkpoint FILE."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--keys", action="store_true", help="print the public keys instead")

    def handle(self, *arguments: Any, **options: Any) -> None:
        if options["keys"]:
            self.stdout.write("\n".join(str(key) for key in services.verifier_keys()))
        else:
            self.stdout.write(services.checkpoint(timezone.now()).note, ending="")
