"""A model folder in a second: the real network and the real file format, never trained.

Its weights are random with a fixed seed, and its profile adds little noise, so that captures of one picture match and
captures of unrelated pictures do not. It recognizes pictures, not people: tests of the flow need no more. The trained
model is tested where recognition itself is the subject.
"""

import os
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from recognition.backbone import build_backbone
from recognition.budget import PrivacyProfile
from recognition.checkpoint import AcceptedProfile, Calibration, save_model
from recognition.frequency import BLOCK, SHAPES, to_frequency
from recognition.noise import perturb
from recognition.types import CROP_SIZE, FaceCrop, PerturbedFeatures

TINY_DIMENSION = 64
TINY_NAME = "tiny"


def tiny_profile(name: str = "tiny", *, transform: str = "critical") -> PrivacyProfile:
    """Low frequencies carry the picture almost without noise, so an untrained network can tell pictures
    apart; Y at u + v of 5 and 6 carries almost only noise, so a capture drawn without noise is noticed."""
    _, height, width = SHAPES[transform]
    frequency = np.array([u + v for u in range(BLOCK) for v in range(BLOCK)][1:])  # (63,)
    nothing = np.zeros_like(frequency)
    clear = np.concatenate([frequency <= 3, frequency <= 1, frequency <= 1])
    noisy = np.concatenate([(frequency == 5) | (frequency == 6), nothing, nothing]).astype(bool)
    across = height * BLOCK // CROP_SIZE  # a block of `paper` covers, and varies by, one eighth
    deviation = 80.0 / across / np.concatenate([frequency, 3 * frequency, 3 * frequency]) ** 1.5
    epsilon = np.where(clear, 400.0, np.where(noisy, 0.5, 0.0))
    bits = np.where(clear, 4, np.where(noisy, 2, 0))
    span = 6 * deviation  # of the clip range, coefficient units
    return PrivacyProfile(
        name=name,
        transform=transform,
        low=-span / 2,
        high=span / 2,
        channel_epsilon=epsilon,
        position_weight=np.ones((height, width)),
        bits=bits,
        step=np.where(
            clear, span / 16, np.where(noisy, span / 0.5, 0.0)
        ),  # a noisy code is one noise scale wide
        deviation=deviation,
    )


def make_tiny_model(
    folder: Path | str, *, profiles: tuple[PrivacyProfile, ...] = (), transform: str = "critical"
) -> Path:
    """Write the model folder and return it; `Recognizer.load(folder)` takes it, `profiles` are accepted as well."""
    torch.set_num_threads(1)  # tests share their cores: waiting for a second one costs more than it gives
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(20261124)
        backbone = build_backbone("small", transform=transform, dimension=TINY_DIMENSION)
        _settle_statistics(backbone, tiny_profile(transform=transform))
    calibration = Calibration(
        source="chosen by hand for tests: unrelated synthetic pictures score lower",
        comparisons=1000,
        points=((1e-1, 0.60), (1e-3, 0.70)),
    )
    accepted = [AcceptedProfile(tiny_profile(transform=transform), calibration)]
    accepted += [AcceptedProfile(profile, calibration, file=f"{profile.name}.json") for profile in profiles]
    save_model(folder, name=TINY_NAME, backbone=backbone, accepted=accepted)
    return Path(folder)


def synthetic_picture(seed: int) -> FaceCrop:
    """Not a face: smooth coloured blobs, different for every seed."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:CROP_SIZE, 0:CROP_SIZE].astype(np.float64)
    picture = np.full((CROP_SIZE, CROP_SIZE, 3), random.uniform(90, 160, size=3))
    for _ in range(25):
        row, column, size = random.uniform(0, CROP_SIZE), random.uniform(0, CROP_SIZE), random.uniform(3, 20)
        blob = np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (2 * size**2))
        picture += blob[..., None] * random.uniform(-90, 90, size=3)
    return FaceCrop(np.clip(picture, 0, 255).astype(np.uint8))


def capture_of(picture: FaceCrop, profile: PrivacyProfile) -> PerturbedFeatures:
    """What a terminal would send of this picture, with fresh noise."""
    return perturb(to_frequency(picture, profile.transform), profile, os.urandom)


def _settle_statistics(backbone: torch.nn.Module, profile: PrivacyProfile) -> None:
    """Random weights tell pictures apart only once batch normalisation has seen some."""
    random = np.random.RandomState(7)

    def seeded(count: int) -> bytes:
        drawn: NDArray[np.uint8] = random.randint(0, 256, size=count, dtype=np.uint8)
        return drawn.tobytes()

    codes = np.stack(
        [
            perturb(to_frequency(synthetic_picture(1000 + n), profile.transform), profile, seeded).codes
            for n in range(8)
        ]
    )
    for module in backbone.modules():
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            module.momentum = None  # average over all batches
    backbone.train()
    with torch.no_grad():
        backbone(torch.from_numpy(profile.values_of(codes)), torch.from_numpy(profile.gain))
    backbone.eval()
