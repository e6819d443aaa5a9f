"""Moves everything to the newest keys of the settings, so that older keys can be taken out of them."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.utils import timezone

import audit.services
from enrollment import gallery, sealing, services


class Command(BaseCommand):
    help = (
        "Move data keys and personal fields to the newest key-encryption key, and with --gallery every "
        "template to the newest gallery key. Doors keep working meanwhile. Restart all processes with the "
        "new key lists first."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--gallery", action="store_true", help="renew the gallery key as well")

    def handle(self, *args: Any, **options: Any) -> None:
        wrapped = sealing.rotate_data_keys()
        personal = audit.services.reseal_personal()
        turned = gallery.rotate_gallery_key(at=timezone.now()) if options["gallery"] else 0
        left = services.record_key_rotation(
            data_keys=wrapped,
            personal_fields=personal,
            templates=turned,
            actor="rotate_keys",
            at=timezone.now(),
        )
        self.stdout.write(
            f"{wrapped} data keys wrapped anew, {personal} personal fields of the audit log sealed anew, "
            f"{turned} templates turned to the newest gallery key"
        )
        for name, ids in left.items():
            if ids:
                self.stdout.write(f"still in use, keep them in {name}: {', '.join(ids)}")
