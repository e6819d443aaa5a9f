"""The model and its privacy profiles as their own public files describe them, for a page."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.conf import settings

import recognition
from accesscontrol.models import AccessAttempt
from recognition.budget import PrivacyProfile, load_profile

MODELS = Path(recognition.__file__).parent / "models"


@dataclass(frozen=True)
class ModelFacts:
    """`problem` says why there are none. `last_threshold` (cosine) is from the newest search."""

    name: str
    description: dict[str, Any]
    profiles: tuple[PrivacyProfile, ...]
    last_threshold: float | None
    gallery_size: int | None
    problem: str = ""


def model_facts() -> ModelFacts:
    name = settings.LINTEL_MODEL
    folder = MODELS / name if len(Path(name).parts) == 1 and not Path(name).is_absolute() else Path(name)
    try:
        description = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        profiles = tuple(load_profile(folder / Path(entry["file"]).name) for entry in description["profiles"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        return ModelFacts(name, {}, (), None, None, problem=str(error))
    newest = AccessAttempt.objects.exclude(threshold=None).order_by("-received_at").first()
    return ModelFacts(
        name=description.get("name", name),
        description=description,
        profiles=profiles,
        last_threshold=newest.threshold if newest else None,
        gallery_size=newest.gallery_size if newest else None,
    )
