"""The models that lie on this machine, as their own public files describe them. No weights are read, and no torch."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from django.conf import settings

from accesscontrol.about import MODELS
from accesscontrol.calibration import Calibration
from accesscontrol.card import Block, read_card
from recognition.budget import PrivacyProfile, load_profile


@dataclass(frozen=True)
class ShelfProfile:
    profile: PrivacyProfile
    calibration: Calibration | None

    @property
    def payload_bytes(self) -> int:
        """Codes of one capture, without header and signature."""
        return -(-self.profile.payload_bits // 8)


@dataclass(frozen=True)
class ShelfModel:
    """`problem` says why a model cannot be used; then the rest may be empty."""

    name: str
    in_use: bool
    description: dict[str, Any] = field(default_factory=dict)
    profiles: list[ShelfProfile] = field(default_factory=list)
    card: list[Block] = field(default_factory=list)
    problem: str = ""

    @property
    def identity(self) -> str:
        """As templates and attempts name it: the name, and the beginning of its weights' hash."""
        return f"{self.name}@{str(self.description.get('weights_sha256', ''))[:16]}"


def shelf() -> list[ShelfModel]:
    """The model in use first, then the others by name."""
    used = _folder_in_use()
    folders = {used} | ({path.parent for path in MODELS.glob("*/model.json")} if MODELS.is_dir() else set())
    read = [_read(folder, in_use=folder == used) for folder in folders]
    return sorted(read, key=lambda model: (not model.in_use, model.name))


def model_in_use() -> ShelfModel:
    return _read(_folder_in_use(), in_use=True)


def _folder_in_use() -> Path:
    name = str(settings.LINTEL_MODEL)
    is_name = len(Path(name).parts) == 1 and not Path(name).is_absolute()
    return MODELS / name if is_name else Path(name)


def _read(folder: Path, *, in_use: bool) -> ShelfModel:
    try:
        changed = [
            path.stat().st_mtime_ns for path in (folder / "model.json", folder / "CARD.md") if path.exists()
        ]
        return _read_unchanged(folder, tuple(changed), in_use)
    except (OSError, ValueError, KeyError, TypeError) as error:
        return ShelfModel(folder.name, in_use, problem=str(error))


@lru_cache(maxsize=32)
def _read_unchanged(folder: Path, changed_ns: tuple[int, ...], in_use: bool) -> ShelfModel:
    """Read once for every version of the two files; `model.json` names the hashes of all others."""
    description = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    profiles = [
        ShelfProfile(
            load_profile(folder / Path(entry["file"]).name),
            Calibration.read(entry["calibration"]) if "calibration" in entry else None,
        )
        for entry in description["profiles"]
    ]
    card = folder / "CARD.md"
    return ShelfModel(
        name=str(description.get("name", folder.name)),
        in_use=in_use,
        description=description,
        profiles=profiles,
        card=read_card(card.read_text(encoding="utf-8")) if card.exists() else [],
    )
