"""`manage.py generate_secrets`: fresh secrets for an installation, into the ignored file or onto the screen."""

from __future__ import annotations

import os
import secrets
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from accesscontrol.environment import generate_secrets

HEADER = """\
# Lintel's secrets. Whoever holds this file can open every stored template: back it up apart from the database,
# and never into the repository. Key lists are id:base64, newest first; docs/operations.md says how to rotate.
"""


class Command(BaseCommand):
    help = "Writes fresh secrets to the secrets file (mode 0600), never over an existing one."
    requires_system_checks = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--print",
            action="store_true",
            dest="to_screen",
            help="print them, for the environment of a server",
        )

    def handle(self, *, to_screen: bool, **options: Any) -> None:
        text = "".join(
            f"{name}={value}\n" for name, value in generate_secrets(os.urandom, key_id=_key_id()).items()
        )
        if to_screen:
            self.stdout.write(text, ending="")
            return
        path = settings.LINTEL_SECRETS_FILE
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            # Exclusive creation: of two first starts at once, the second keeps what the first wrote.
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            raise CommandError(f"{path} exists. Replacing it would make every template unreadable.") from None
        with os.fdopen(descriptor, "w") as file:
            file.write(HEADER + text)
        self.stdout.write(f"Secrets written to {path} (readable by you alone)")


def _key_id() -> str:
    return f"k{secrets.token_hex(4)}"
