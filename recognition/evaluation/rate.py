"""Accuracy against bits: one model read through coarser and finer codes of the same noise, and through no codes at all.

Nothing is trained again. The model has seen its own allocation, so the others are a little worse here than a model
trained on them would be; what follows from the table is how little or how much the codes themselves cost.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recognition.budget import PrivacyProfile
from recognition.checkpoint import AcceptedProfile, Model
from recognition.evaluation import verification
from recognition.evaluation.captures import features_of, in_parallel
from recognition.evaluation.data import Pairs
from recognition.evaluation.embedding import Embedder, Progress, ProtectedEmbedder, parts_of, randomness
from recognition.noise import Randomness
from recognition.payload import MAX_PAYLOAD_BYTES
from recognition.recognizer import Recognizer, native_precision
from recognition.training.perturbation import CODE_REACH
from recognition.training.ship import UNCALIBRATED
from recognition.types import FaceCrop

WIDTHS = (1, 2, 3, 4)
FIGURES = ("accuracy", "accuracy_deviation", "auc", "fnmr_at_fmr_1e-2", "fnmr_at_fmr_1e-3", "pairs")


def with_bits(profile: PrivacyProfile, width: int) -> PrivacyProfile:
    """The same clip ranges and noise; what is sent in codes of `width` bits, each as wide as training has them."""
    deviation = np.sqrt(profile.deviation**2 + 2 * profile.scale.mean(axis=(1, 2)) ** 2, where=profile.sent,
                        out=np.ones_like(profile.deviation))  # fmt: skip
    return replace(
        profile,
        name=f"{profile.name}, {width} bit{'s' if width > 1 else ''}",
        bits=np.where(profile.sent, width, 0),
        step=np.where(profile.sent, CODE_REACH[width] * deviation, 0.0),
    )


class FloatEmbedder:
    """Clipping and Laplace noise of a profile handed to the recogniser as floats: the twin before rate allocation.

    For comparison only: no terminal sends floats.
    """

    noisy = True

    def __init__(self, model: Model, profile: PrivacyProfile, source: Randomness) -> None:
        self.model, self.profile, self.source = model, profile, source
        self.precision = native_precision(torch.device("cpu"))
        self._gain = torch.from_numpy(profile.gain)

    def embed(self, crops: Sequence[FaceCrop]) -> NDArray[np.float32]:
        parts = [(part, int.from_bytes(self.source(8), "little")) for part in parts_of(crops)]
        return np.concatenate(in_parallel(self._embed, parts))

    @torch.inference_mode()
    def _embed(self, part: tuple[Sequence[FaceCrop], int]) -> NDArray[np.float32]:
        crops, seed = part
        profile, sent = self.profile, self.profile.sent[:, None, None]
        clean = features_of(np.stack([crop.pixels for crop in crops]), profile.transform)
        clipped = np.clip(clean, profile.low[:, None, None], profile.high[:, None, None])
        noise = np.random.default_rng(seed).laplace(size=clean.shape) * np.where(sent, profile.scale, 0.0)
        values = torch.from_numpy(np.where(sent, clipped + noise, 0.0).astype(np.float32))
        with torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bfloat16"):
            raw = self.model.backbone(values, self._gain)
        return np.asarray(torch.nn.functional.normalize(raw.float()).numpy(), np.float32)

    def describe(self) -> dict[str, Any]:
        _, height, width = self.profile.shape
        return {
            "payload_bytes": 4 * int(self.profile.sent.sum()) * height * width,
            "precision": self.precision,
        }


def rate_rows(
    model: Model,
    profile: PrivacyProfile,
    images: Mapping[str, FaceCrop],
    pairs: Pairs,
    *,
    widths: Sequence[int] = WIDTHS,
    seed: int | None = 0,
    progress: Progress = lambda done: None,
) -> list[dict[str, Any]]:
    """A row for the allocation that ships, one for every width that a capture can carry, one for the float twin."""
    rows = []
    for name, bits, embedder in _readings(model, profile, widths, seed):
        figures, _, _ = verification.verify(embedder, images, pairs, seed=seed or 0, progress=progress)
        row: dict[str, Any] = {"codes": name, "bits_per_coefficient": bits}
        row |= {key: figures[key] for key in FIGURES}
        rows.append(row | {"payload_bytes": figures["payload_bytes"]})
    return rows


def _readings(
    model: Model, profile: PrivacyProfile, widths: Sequence[int], seed: int | None
) -> Iterator[tuple[str, float, Embedder]]:
    coded = [("as shipped", profile), *((f"{width} bits", with_bits(profile, width)) for width in widths)]
    for name, variant in coded:
        if variant.payload_bits / 8 > MAX_PAYLOAD_BYTES - 100:
            continue  # `paper` in four bits: no capture may be that large
        read = Model(model.name, model.backbone, (AcceptedProfile(variant, UNCALIBRATED),))
        bits = float(variant.bits.mean())  # over all 189 channels, those never sent counting as 0
        yield name, bits, ProtectedEmbedder(Recognizer(read), variant, randomness(seed))
    yield "float", 32 * float(profile.sent.mean()), FloatEmbedder(model, profile, randomness(seed))
