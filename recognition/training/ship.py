"""python -m recognition.training.ship --run FOLDER --calibrate FACES.npz --out recognition/models/NAME

Turns a finished run into a model folder: averaged weights, frozen profile, and thresholds measured on strangers.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from recognition.backbone import build_backbone
from recognition.budget import PrivacyProfile
from recognition.checkpoint import DEFAULT_PROFILE, AcceptedProfile, Calibration, Model, calibrate, save_model
from recognition.frequency import to_frequency
from recognition.noise import perturb
from recognition.payload import pack, unpack
from recognition.recognizer import Recognizer
from recognition.training.config import TrainingConfig
from recognition.training.data import Faces, join, read_pack
from recognition.types import FaceCrop

GALLERY_CAPTURES = 3  # as the desk takes them; the gallery also holds their mean
_UNCALIBRATED = Calibration(source="not measured yet", comparisons=0, points=((0.1, 1.0), (0.01, 1.0)))


def embed_captures(
    recognizer: Recognizer, profile: PrivacyProfile, pixels: NDArray[np.uint8]
) -> NDArray[np.float32]:
    """One fresh capture of each crop, through the bytes a terminal sends: float32 (N, D) unit."""
    rows = []
    profiles = {profile.hash: profile}
    for at in track(range(0, len(pixels), 32), description="captures", console=Console(stderr=True)):
        batch = []
        for crop in pixels[at : at + 32]:
            data = pack(
                perturb(to_frequency(FaceCrop(crop), profile.transform), profile, os.urandom), profile
            )
            batch.append(unpack(data, profiles))
        rows += [embedding.vector for embedding in recognizer.embed(batch)]
    return np.stack(rows)


def person_scores(recognizer: Recognizer, profile: PrivacyProfile, faces: Faces) -> NDArray[np.float32]:
    """Scores of strangers as a door computes them, float32 (pairs,): a probe of one person against
    everything the gallery
    holds of another (three captures and their mean), the best of these counting."""
    probes = embed_captures(recognizer, profile, faces.pixels)
    captures = [embed_captures(recognizer, profile, faces.pixels) for _ in range(GALLERY_CAPTURES)]
    mean = np.sum(captures, axis=0)
    gallery = [*captures, mean / np.linalg.norm(mean, axis=1, keepdims=True)]
    best = np.max([probes @ templates.T for templates in gallery], axis=0)  # (N, N)
    strangers = faces.labels[:, None] != faces.labels[None, :]
    return np.asarray(best[strangers])


def spread(faces: Faces, limit: int) -> Faces:
    """At most `limit` labelled pictures: one of each person, then the second of each, and so on."""
    seen: dict[int, int] = {}
    turns = np.empty(len(faces), np.int64)
    for row, label in enumerate(faces.labels):
        turns[row] = seen.get(int(label), 0)
        seen[int(label)] = turns[row] + 1
    return faces.take(np.sort(np.argsort(turns, kind="stable")[:limit]))


def trained_profiles(state: dict[str, Any], names: list[str]) -> list[PrivacyProfile]:
    """The run's own profile and its others, named in this order. Raises ValueError when the names don't fit."""
    texts = [state["profile"], *state["also"]]
    if len(texts) != len(names):
        raise ValueError(f"the run has {len(texts)} profiles; give as many names")
    return [
        PrivacyProfile.from_json(json.dumps(json.loads(text) | {"name": name}))
        for text, name in zip(texts, names, strict=True)
    ]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m recognition.training.ship", description=__doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument(
        "--calibrate", type=Path, action="append", required=True,
        help="npz pack of labelled strangers, not a test set; repeat",
    )  # fmt: skip
    parser.add_argument("--leave-out", metavar="MASK", help="boolean mask in the packs: pictures not to use")
    parser.add_argument("--pictures", type=int, default=1500, help="at most so many pictures of each pack")
    parser.add_argument("--name", default="default")
    parser.add_argument(
        "--profiles", nargs="+", default=["balanced"], help="names of the run's profiles, in its order"
    )
    parser.add_argument("--default-profile", help="the name of the one terminals get; the first if not given")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    state = torch.load(options.run / "state.pt", weights_only=True)
    config = TrainingConfig(**state["config"])
    backbone = build_backbone(config.backbone, transform=config.transform, dimension=config.dimension)
    backbone.load_state_dict(state["backbone"])
    profiles = trained_profiles(state, options.profiles)
    profiles.sort(key=lambda profile: profile.name != (options.default_profile or options.profiles[0]))
    packs = [
        spread(read_pack(path, leave_out=options.leave_out), options.pictures) for path in options.calibrate
    ]
    faces = join(packs)
    source = (
        f"{' and '.join(path.name for path in options.calibrate)}: {len(faces)} pictures of"
        f" {len(np.unique(faces.labels))} people, one probe against three captures and their mean,"
        " best score per person"
    )
    accepted = []
    for profile in profiles:
        model = Model(options.name, backbone, (AcceptedProfile(profile, _UNCALIBRATED),))
        calibration = calibrate(person_scores(Recognizer(model), profile, faces), source=source)
        file = DEFAULT_PROFILE if not accepted else f"{profile.name}.json"
        accepted.append(AcceptedProfile(profile, calibration, file))
    save_model(options.out, name=options.name, backbone=backbone, accepted=accepted)
    figures = {"model": str(options.out), "passes": state["passes"]}
    figures |= {f"{one.profile.name}_comparisons": one.calibration.comparisons for one in accepted}
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
