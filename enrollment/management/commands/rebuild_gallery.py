"""Loads the gallery from the rows, says what it found, and makes every worker do the same."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from enrollment import gallery, services
from enrollment.models import ProtectedTemplate


class Command(BaseCommand):
    help = "Check that every template of the gallery opens, and make every worker load it again."

    def handle(self, *args: Any, **options: Any) -> None:
        sequence = services.request_gallery_reload(actor="rebuild_gallery", at=timezone.now())
        people = gallery.gallery()
        people.catch_up(sequence)
        active = ProtectedTemplate.objects.filter(active=True)
        other_models = active.exclude(model=people.model).count()
        damaged = active.count() - other_models - len(people)
        self.stdout.write(f"{len(people)} templates of {people.people} people; workers reload at {sequence}")
        if other_models:
            self.stdout.write(f"{other_models} templates are of another model: enroll these people again")
        if damaged:
            raise CommandError(f"{damaged} templates do not open; the log names them")
