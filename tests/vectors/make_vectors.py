"""Writes the vectors that Python and the browser must agree on: `python -m tests.vectors.make_vectors`.

Everything is made from seeds: pictures are coloured blobs, not faces; profiles are of the tests' own, so that a newly
trained model changes nothing here. Randomness is an input: block n of a stream is SHA-256 of the seed and n (8 bytes,
big-endian).

    transform_critical.json   a crop of extremes and all its coefficients
    transform_paper.json      a crop and a sample of its 2.4 million coefficients
    thresholds.json           the integer thresholds of single values
    captures.json             crops, coefficients, a seed, and the bytes that must come out
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recognition.budget import PrivacyProfile
from recognition.frequency import SHAPES, to_frequency
from recognition.noise import code_thresholds, perturb
from recognition.payload import pack
from recognition.types import CROP_SIZE, FaceCrop

FOLDER = Path(__file__).parent
SAMPLE = 3000  # coefficients of a `paper` crop


def stream(seed: str) -> Callable[[int], bytes]:
    """n -> the next n bytes of a repeatable stream."""
    blocks = (
        hashlib.sha256(seed.encode() + number.to_bytes(8, "big")).digest() for number in itertools.count()
    )
    endless = itertools.chain.from_iterable(blocks)
    return lambda count: bytes(itertools.islice(endless, count))


def synthetic_crop(seed: int) -> FaceCrop:
    random = np.random.Generator(np.random.PCG64(seed))
    rows, columns = np.mgrid[0:CROP_SIZE, 0:CROP_SIZE].astype(np.float64)
    picture = np.full((CROP_SIZE, CROP_SIZE, 3), random.uniform(90, 160, size=3))
    for _ in range(25):
        row, column, size = random.uniform(0, CROP_SIZE), random.uniform(0, CROP_SIZE), random.uniform(3, 20)
        blob = np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (2 * size**2))
        picture += blob[..., None] * random.uniform(-90, 90, size=3)
    return FaceCrop(np.clip(picture, 0, 255).astype(np.uint8))


def extreme_crop() -> FaceCrop:
    """The strongest contrast there is: a chequered board of black and white, red and cyan."""
    rows, columns = np.mgrid[0:CROP_SIZE, 0:CROP_SIZE]
    board = ((rows + columns) % 2 * 255).astype(np.uint8)
    half = (rows < CROP_SIZE // 2).astype(np.uint8)
    return FaceCrop(
        np.stack([board, board * half + (255 - board) * (1 - half), board], axis=2).astype(np.uint8)
    )


def mixed_profile(transform: str) -> PrivacyProfile:
    """Every width of code, ranges off centre, budgets from strict to loose, uneven positions."""
    random = np.random.Generator(np.random.PCG64(189))
    channels, height, width = SHAPES[transform]
    bits = random.integers(0, 5, channels)
    if transform == "paper":  # a capture of it must stay below the size that servers accept
        bits[random.random(channels) < 0.9] = 0
    sent = bits > 0
    deviation = np.round(random.uniform(2, 120, channels), 4)
    low = np.round(-3 * deviation * random.uniform(0.7, 1.2, channels), 4)
    high = np.round(3 * deviation * random.uniform(0.7, 1.2, channels), 4)
    epsilon = np.where(sent, np.round(10 ** random.uniform(-0.3, 1.6, channels), 4), 0.0)
    uneven = np.round(random.uniform(-0.5, 0.5, height * width // 2), 3)
    weight = 1 + np.concatenate([uneven, -uneven]).reshape(height, width)
    levels = np.exp2(np.maximum(bits, 1))
    return PrivacyProfile(
        name=f"mixed-{transform}",
        transform=transform,
        low=low,
        high=high,
        channel_epsilon=epsilon,
        position_weight=np.round(weight, 3),
        bits=bits,
        step=np.where(sent, np.round((high - low) / levels * 1.3, 4), 0.0),
        deviation=deviation,
    )


def text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def transform_critical() -> dict[str, Any]:
    crops = [extreme_crop()]  # captures.json has all coefficients of an ordinary one
    return {
        "transform": "critical",
        "cases": [
            {
                "crop": text(crop.pixels.tobytes()),
                "values_float32": text(to_frequency(crop, "critical").values.astype("<f4").tobytes()),
            }
            for crop in crops
        ],
    }


def transform_paper() -> dict[str, Any]:
    crop = synthetic_crop(2)
    values = to_frequency(crop, "paper").values.reshape(-1)
    at = np.sort(np.random.Generator(np.random.PCG64(7)).choice(values.size, SAMPLE, replace=False))
    return {
        "transform": "paper",
        "crop": text(crop.pixels.tobytes()),
        "indices": at.tolist(),
        "values": values[at].astype(float).tolist(),
    }


def thresholds() -> dict[str, Any]:
    random = np.random.Generator(np.random.PCG64(32))
    cases = []
    for number in range(600):
        bits = int(random.integers(1, 5))
        step = float(np.round(10 ** random.uniform(-1, 2.5), 4))
        centre = float(np.round(random.normal(0, 20), 4))
        scale = float(10 ** random.uniform(-1, 3))
        value = float(np.float32(centre + random.normal(0, 3) * step))
        if number % 20 == 0:
            value = centre  # exactly on a threshold of every even width
        found = code_thresholds(np.array([value]), centre, step, np.array([scale]), bits)[:, 0]
        cases.append([value, centre, step, scale, bits, found.tolist()])
    return {"cases": cases}


def captures() -> dict[str, Any]:
    cases = []
    for transform, seed, with_values in (("critical", 3, True), ("critical", 4, False), ("paper", 5, False)):
        profile, crop = mixed_profile(transform), synthetic_crop(seed)
        features = to_frequency(crop, transform)
        payload = pack(perturb(features, profile, stream(f"capture {seed}")), profile)
        case = {
            "profile": profile.to_json(),
            "profile_hash": profile.hash,
            "crop": text(crop.pixels.tobytes()),
            "seed": f"capture {seed}",
            "payload_bytes": len(payload),
            "payload_sha256": hashlib.sha256(payload).hexdigest(),
        }
        if with_values:
            case["values_float32"] = text(features.values.astype("<f4").tobytes())
        if transform == "critical":
            case["payload"] = text(payload)
        cases.append(case)
    return {"cases": cases}


VECTORS: dict[str, Callable[[], dict[str, Any]]] = {
    "transform_critical": transform_critical,
    "transform_paper": transform_paper,
    "thresholds": thresholds,
    "captures": captures,
}


def load(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return found


def floats(encoded: str) -> NDArray[np.float32]:
    return np.frombuffer(base64.b64decode(encoded), "<f4")


if __name__ == "__main__":
    for name, make in VECTORS.items():
        (FOLDER / f"{name}.json").write_text(json.dumps(make(), sort_keys=True, separators=(",", ":")) + "\n")
        print(f"{name}.json: {(FOLDER / f'{name}.json').stat().st_size} bytes")
