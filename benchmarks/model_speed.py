"""Where a recognizer's time goes, and what protection costs it: the protected model beside its unprotected twin.

Both have the same trunk and batch size and take turns. Parts: the transform and the noise run in a terminal, the
receiver (values to picture) and the trunk in a worker.
"""

from __future__ import annotations

import argparse
import os

import cv2
import numpy as np
import torch
from skimage import data

from benchmarks.common import interleaved, machine, median, record
from recognition.backbone import UNPROTECTED, build_backbone
from recognition.checkpoint import load_model, model_folder
from recognition.frequency import to_frequency, to_planes
from recognition.noise import perturb
from recognition.recognizer import Recognizer
from recognition.types import FaceCrop


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="default")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    before = machine()
    recognizer = Recognizer.load(options.model, threads=options.threads)
    model = load_model(model_folder(options.model))
    profile = recognizer.default_profile
    crop = FaceCrop(np.ascontiguousarray(cv2.resize(data.astronaut()[40:190, 150:300], (112, 112))))
    features = to_frequency(crop, profile.transform)
    captures = [perturb(features, profile, os.urandom) for _ in range(options.batch)]

    backbone = model.backbone.to(memory_format=torch.channels_last)
    twin = build_backbone(backbone.name, transform=UNPROTECTED, dimension=backbone.dimension)
    twin = twin.eval().to(memory_format=torch.channels_last)
    values = torch.from_numpy(profile.values_of(np.stack([one.codes for one in captures])))
    gain = torch.from_numpy(profile.gain)
    planes = torch.from_numpy(np.stack([to_planes(crop.pixels)] * options.batch))
    bf16 = recognizer.precision == "bfloat16"

    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        picture = backbone.receiver(values, gain)
        actions = {
            "transform": lambda: to_frequency(crop, profile.transform),
            "noise": lambda: perturb(features, profile, os.urandom),
            "receiver": lambda: backbone.receiver(values, gain),
            "trunk": lambda: backbone.trunk(picture),
            "protected, whole": lambda: recognizer.embed(captures),
            "unprotected twin, whole": lambda: twin(planes),
        }
        times = {name: median(taken) for name, taken in interleaved(actions, rounds=options.rounds).items()}
        one = median(interleaved({"one": lambda: recognizer.embed(captures[:1])}, rounds=30)["one"])
    per_batch = {name for name in times if name not in ("transform", "noise")}
    each = {name: round(ms / (options.batch if name in per_batch else 1), 3) for name, ms in times.items()}
    ratio = round(times["protected, whole"] / times["unprotected twin, whole"], 3)
    rows = [(f"{name}, per face", f"{ms} ms") for name, ms in each.items()]
    rows += [
        ("protected to unprotected, time", f"{ratio}"),
        ("protected, faces a second", f"{1000 / each['protected, whole']:.1f}"),
        ("one capture alone", f"{one} ms"),
        ("precision, threads, batch", f"{recognizer.precision}, {options.threads}, {options.batch}"),
    ]
    record(
        "model_speed",
        title=f"Model speed: {model.name}, {backbone.name} backbone, {profile.transform} transform",
        claim="what protection costs the recognizer is small beside its trunk.",
        holds=None,
        rows=rows,
        figures={
            "ms_per_face": each, "protected_to_unprotected": ratio, "one_capture_ms": one,
            "batch": options.batch, "threads": options.threads, "precision": recognizer.precision,
        },
        before=before,
    )  # fmt: skip


if __name__ == "__main__":
    main()
