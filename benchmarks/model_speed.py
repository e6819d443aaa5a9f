"""Claim: at batch 64 the protected recognizer takes at most 1.15 times its unprotected twin's time.

Both have the same trunk, precision, layout and batch, and take turns. Parts: transform and noise run in a terminal;
receiver (values to picture), stem (first layers of the trunk) and the rest of it in a worker. Then what half precision
and channels_last are worth, and how many faces a second training shows.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable

import cv2
import numpy as np
import torch
from skimage import data
from torch import nn

from benchmarks.common import interleaved, machine, median, record
from recognition.backbone import UNPROTECTED, Backbone, build_backbone
from recognition.budget import PrivacyProfile
from recognition.checkpoint import load_model, model_folder
from recognition.frequency import to_frequency, to_planes
from recognition.noise import perturb
from recognition.recognizer import Recognizer
from recognition.training.perturbation import Perturbation, Statistics, Transform
from recognition.types import FaceCrop

LIMIT = 1.15
TRAINING_BATCH = 32


def portrait() -> FaceCrop:
    return FaceCrop(np.ascontiguousarray(cv2.resize(data.astronaut()[40:190, 150:300], (112, 112))))


class Stem:
    """Clocks the first layers of a trunk from inside, so that stem and rest come from one run."""

    def __init__(self, trunk: nn.Module, done: Callable[[], None]) -> None:
        layer = getattr(trunk, "stem", None) or next(trunk.children())
        if isinstance(layer, nn.Sequential) and not hasattr(trunk, "stem"):
            layer = layer[0]
        self.taken: list[float] = []
        self._started, self._done = 0.0, done
        layer.register_forward_pre_hook(self._before)
        layer.register_forward_hook(self._after)

    def _before(self, *_: object) -> None:
        self._done()
        self._started = time.perf_counter()

    def _after(self, *_: object) -> None:
        self._done()
        self.taken.append((time.perf_counter() - self._started) * 1000)


def layouts(
    backbone: Backbone, values: torch.Tensor, gain: torch.Tensor, half: bool
) -> dict[str, Callable[[], object]]:
    """The protected network in each precision and memory layout worth having."""

    def run(network: Backbone, bf16: bool) -> Callable[[], object]:
        def once() -> object:
            with torch.autocast(values.device.type, torch.bfloat16, enabled=bf16):
                return network(values, gain)

        return once

    transform, dimension = backbone.transform, backbone.dimension
    plain = build_backbone(backbone.name, transform=transform, dimension=dimension).to(values.device)
    plain.load_state_dict(backbone.state_dict())
    plain.eval()
    actions = {
        "float32, contiguous": run(plain, False),
        "float32, channels_last": run(backbone, False),
    }
    if half:
        actions |= {"bfloat16, contiguous": run(plain, True), "bfloat16, channels_last": run(backbone, True)}
    return actions


def training_step(
    backbone: Backbone, profile: PrivacyProfile | None, device: torch.device, bf16: bool
) -> Callable[[], object]:
    """One step as training takes it: transform, exact codes, forward, backward, AdamW, from random pictures."""
    network = build_backbone(backbone.name, transform=backbone.transform, dimension=backbone.dimension)
    network = network.to(device, memory_format=torch.channels_last).train()
    transform = Transform(backbone.transform).to(device)
    perturbation = None
    if profile is not None:
        from recognition.training.config import CONFIGS

        shape = profile.shape
        figures = Statistics(
            profile.low, profile.high, profile.deviation,
            np.zeros(shape, np.float32), np.zeros((3, 112, 112), np.float32),
        )  # fmt: skip
        perturbation = Perturbation(CONFIGS[f"small-{profile.transform}"], figures).to(device)
        perturbation.freeze(profile)
    pixels = torch.randint(0, 256, (TRAINING_BATCH, 3, 112, 112), device=device).float()
    wanted = nn.functional.normalize(torch.randn(TRAINING_BATCH, backbone.dimension, device=device))
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-4)

    def step() -> object:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            coefficients = transform(pixels)
            arrived = (coefficients,) if perturbation is None else perturbation(coefficients)
            found = nn.functional.normalize(network(*arrived).float())
        loss = (1 - (found * wanted).sum(dim=1)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss.item()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="default")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    before = machine()
    device = torch.device(options.device)

    def done() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    def timed(actions: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
        def waited(action: Callable[[], object]) -> Callable[[], object]:
            return lambda: (action(), done())

        found = interleaved({name: waited(action) for name, action in actions.items()}, rounds=rounds)
        return {name: median(taken) for name, taken in found.items()}

    recognizer = Recognizer.load(options.model, threads=options.threads, device=options.device)
    model = load_model(model_folder(options.model))
    profile = recognizer.default_profile
    crop = portrait()
    features = to_frequency(crop, profile.transform)
    captures = [perturb(features, profile, os.urandom) for _ in range(options.batch)]

    backbone = model.backbone.eval().to(device, memory_format=torch.channels_last)
    twin = build_backbone(backbone.name, transform=UNPROTECTED, dimension=backbone.dimension)
    twin = twin.eval().to(device, memory_format=torch.channels_last)
    values = torch.from_numpy(profile.values_of(np.stack([one.codes for one in captures]))).to(device)
    gain = torch.from_numpy(profile.gain).to(device)
    planes = torch.from_numpy(np.stack([to_planes(crop.pixels)] * options.batch))
    bf16 = recognizer.precision == "bfloat16"

    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        picture = backbone.receiver(values, gain)
        stem = Stem(backbone.trunk, done)
        times = timed(
            {
                "transform": lambda: to_frequency(crop, profile.transform),
                "noise": lambda: perturb(features, profile, os.urandom),
                "receiver": lambda: backbone.receiver(values, gain),
                "trunk": lambda: backbone.trunk(picture),
                "protected, whole": lambda: recognizer.embed(captures),
                "unprotected twin, whole": lambda: twin(planes.to(device)).float().cpu(),
            },
            options.rounds,
        )
        times["stem"] = median(stem.taken)
        times["trunk after the stem"] = round(times.pop("trunk") - times["stem"], 2)
        one = timed({"one": lambda: recognizer.embed(captures[:1])}, 30)["one"]
    with torch.inference_mode():
        by_layout = timed(layouts(backbone, values, gain, bf16), max(3, options.rounds // 2))
    training = timed(
        {
            "training, protected": training_step(backbone, profile, device, bf16),
            "training, unprotected twin": training_step(twin, None, device, bf16),
        },
        max(3, options.rounds // 2),
    )

    order = ("transform", "noise", "receiver", "stem", "trunk after the stem")
    order += ("protected, whole", "unprotected twin, whole")
    per_batch = set(order) - {"transform", "noise"}
    each = {n: round(times[n] / (options.batch if n in per_batch else 1), 3) for n in order}
    layout = {name: round(ms / options.batch, 3) for name, ms in by_layout.items()}
    rate = {name: round(TRAINING_BATCH * 1000 / ms, 1) for name, ms in training.items()}
    ratio = round(times["protected, whole"] / times["unprotected twin, whole"], 3)
    rows = [(f"{name}, per face", f"{ms} ms") for name, ms in each.items()]
    rows += [
        ("protected to unprotected, time", f"{ratio}"),
        ("protected, faces a second", f"{1000 / each['protected, whole']:.1f}"),
        ("one capture alone", f"{one} ms"),
        *((f"network alone, {name}, per face", f"{ms} ms") for name, ms in layout.items()),
        *((f"{name}, batch {TRAINING_BATCH}", f"{found} faces a second") for name, found in rate.items()),
        ("precision, threads, batch, device",
         f"{recognizer.precision}, {options.threads}, {options.batch}, {options.device}"),
    ]  # fmt: skip
    at_64 = options.batch == 64
    record(
        "model_speed" if device.type == "cpu" else f"model_speed_{device.type}",
        title=f"Model speed: {model.name}, {backbone.name} backbone, {profile.transform} transform",
        claim=f"at batch 64 the protected recognizer takes at most {LIMIT} times its unprotected twin's time.",
        holds=ratio <= LIMIT if at_64 else None,
        rows=rows,
        figures={
            "ms_per_face": each, "protected_to_unprotected": ratio, "one_capture_ms": one,
            "network_ms_per_face": layout, "training_faces_a_second": rate,
            "batch": options.batch, "threads": options.threads, "precision": recognizer.precision,
            "device": options.device,
        },
        before=before,
    )  # fmt: skip


if __name__ == "__main__":
    main()
