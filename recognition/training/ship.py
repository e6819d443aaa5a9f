"""python -m recognition.training.ship --run FOLDER --profiles NAME ... --out recognition/models/NAME

Turns a finished run into a model folder: averaged weights and the run's profiles. It has no thresholds yet and names
nobody until `python -m recognition.evaluation calibrate --model FOLDER` has measured strangers.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

from recognition.backbone import build_backbone
from recognition.budget import PrivacyProfile
from recognition.checkpoint import DEFAULT_PROFILE, AcceptedProfile, Calibration, save_model
from recognition.training.config import TrainingConfig
from recognition.training.research import ResearchProfile

# A cosine of 1 is reached by nobody: without a measurement the door stays shut.
UNCALIBRATED = Calibration(source="not measured yet", comparisons=0, points=((0.1, 1.0), (0.01, 1.0)))


def trained_profiles(state: dict[str, Any], names: list[str], default: str) -> list[PrivacyProfile]:
    """The run's own profile and its others, named in this order, the default first. None for an unprotected twin.
    Raises ValueError when the names don't fit."""
    texts = [] if state["profile"] is None else [state["profile"], *state["also"]]
    if len(texts) != len(names) or (names and default not in names):
        raise ValueError(f"the run has {len(texts)} profiles: give each a name, and one of these as default")
    profiles = [
        ResearchProfile.from_json(json.dumps(json.loads(text) | {"name": name}))
        for text, name in zip(texts, names, strict=True)
    ]
    return sorted(profiles, key=lambda profile: profile.name != default)


def ship(
    run: Path, out: Path, *, name: str, profiles: list[str], default: str | None = None
) -> dict[str, Any]:
    """Write the model folder; what was written, for the record. Raises OSError or ValueError."""
    state = torch.load(run / "state.pt", weights_only=True)
    config = TrainingConfig(**state["config"])
    backbone = build_backbone(config.backbone, transform=config.transform, dimension=config.dimension)
    backbone.load_state_dict(state["backbone"])
    trained = trained_profiles(state, profiles, default or next(iter(profiles), ""))
    accepted = [
        AcceptedProfile(profile, UNCALIBRATED, DEFAULT_PROFILE if place == 0 else f"{profile.name}.json")
        for place, profile in enumerate(trained)
    ]
    save_model(out, name=name, backbone=backbone, accepted=accepted)
    hashes = {one.profile.name: one.profile.hash for one in accepted}
    return {"model": str(out), "passes": state["passes"], "profiles": hashes}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m recognition.training.ship", description=__doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--name", default="default")
    parser.add_argument(
        "--profiles", nargs="*", default=[], help="names of the run's profiles, in its order; none for a twin"
    )
    parser.add_argument("--default", help="the profile that terminals get unless told otherwise; the first")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    shipped = ship(
        options.run, options.out, name=options.name, profiles=options.profiles, default=options.default
    )
    print(json.dumps(shipped))
    return 0


if __name__ == "__main__":
    sys.exit(main())
