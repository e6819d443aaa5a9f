"""Privacy profiles of what is only ever compared with: the transforms that keep DC.

Production reads `PrivacyProfile`, which knows no such transform and refuses the file. It never imports training (a
contract of import-linter), so it never comes to this class.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from recognition.budget import PrivacyProfile
from recognition.checkpoint import Model, load_model, model_folder
from recognition.frequency import RESEARCH_SHAPES


@dataclass(frozen=True, eq=False)
class ResearchProfile(PrivacyProfile):
    """A privacy profile in the same format, of any transform there is, with DC or without."""

    transforms: ClassVar[Mapping[str, tuple[int, int, int]]] = RESEARCH_SHAPES


def open_model(name: Path | str) -> Model:
    """A model by name or path, also one of features with DC: to measure it, never for a door. Raises ModelError."""
    return load_model(model_folder(name), kind=ResearchProfile)
