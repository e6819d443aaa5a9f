"""`manage.py set_up`: everything a new installation needs before its first start. Running it again changes nothing."""

from __future__ import annotations

import secrets
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.db import transaction
from django.utils import timezone

from accesscontrol.models import Door, Site
from accesscontrol.roles import Role
from audit.services import record

ACTOR = "set_up"


class Command(BaseCommand):
    help = "Migrates, and creates roles, the first administrator, a site and a door where there are none."
    requires_system_checks = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--administrator", default="admin", help="name of the first administrator")
        parser.add_argument("--site", default="Main site")
        parser.add_argument("--door", default="Front door")

    def handle(self, *, administrator: str, site: str, door: str, **options: Any) -> None:
        if settings.LINTEL_SECRETS_ARE_EPHEMERAL:
            raise CommandError("There are no secrets yet: run `manage.py generate_secrets` first.")
        settings.LINTEL_DATA_DIR.mkdir(parents=True, exist_ok=True)
        if settings.LINTEL_MODE == "embedded":
            settings.LINTEL_DATA_DIR.chmod(0o700)  # other users of the machine read no database
        call_command("migrate", interactive=False, verbosity=0)
        with transaction.atomic():
            password = _create_administrator(administrator)
            _create_site_and_door(site, door)
        if password:
            self.stdout.write("")
            self.stdout.write(
                "  The first administrator. The password is shown this once; change it under Account."
            )
            self.stdout.write(f"    name      {administrator}")
            self.stdout.write(f"    password  {password}")
            self.stdout.write("")


def _create_administrator(name: str) -> str | None:
    """The new password, or None when somebody can already administer."""
    for role in Role:
        Group.objects.get_or_create(name=role.value)
    users = get_user_model()
    if users.objects.filter(is_superuser=True, is_active=True).exists():
        return None
    if users.objects.filter(username=name).exists():
        raise CommandError(
            f"A user {name} exists and is no administrator: choose another with --administrator."
        )
    password = "-".join(secrets.token_hex(2) for _ in range(5))  # 80 bits, readable from a screen
    user = users.objects.create_superuser(username=name, password=password)
    user.groups.add(Group.objects.get(name=Role.ADMINISTRATOR.value))
    record(kind="user.created", actor=ACTOR, at=timezone.now(), details={"role": Role.ADMINISTRATOR.value})
    return password


def _create_site_and_door(site_name: str, door_name: str) -> None:
    """Only into an empty installation: a door that somebody deleted stays deleted."""
    if Site.objects.exists() or Door.objects.exists():
        return
    site = Site.objects.create(name=site_name)
    door = Door.objects.create(site=site, name=door_name)
    record(kind="site.created", actor=ACTOR, at=timezone.now(), details={"site": site.pk, "name": site_name})
    record(
        kind="door.created", actor=ACTOR, at=timezone.now(), details={"door": str(door.pk), "name": door_name}
    )
