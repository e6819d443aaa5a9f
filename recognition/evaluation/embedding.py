"""From face crops to embeddings the way a door does it, and the way its unprotected twin does it.

The protected path is the product's own: transform, noise, the exact bytes a terminal sends, the server's
checks on them, the recogniser. One capture is one draw of noise.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from recognition.backbone import build_backbone
from recognition.budget import PrivacyProfile
from recognition.checkpoint import ModelError, load_model, model_folder
from recognition.evaluation.captures import Drawer, features_of, hash_of_family, in_parallel, planes_of
from recognition.noise import Randomness
from recognition.payload import check_noise, pack, unpack
from recognition.recognizer import Recognizer, native_precision
from recognition.training.config import TrainingConfig
from recognition.training.perturbation import Perturbation, Statistics
from recognition.training.research import open_model
from recognition.types import FaceCrop, PerturbedFeatures

BATCH = 128  # crops
PART = 16  # crops that one thread computes at once
ANY = "any"  # instead of a profile's name: every capture takes one of the model's
UNPROTECTED_SUFFIX = "-unprotected"
RUN = "state.pt"  # a folder with this file is a training run

Progress = Callable[[int], None]  # told how many more are done


class Embedder(Protocol):
    """What turns crops into unit vectors."""

    @property
    def noisy(self) -> bool:
        """Whether two captures of one crop differ."""
        ...

    def embed(self, crops: Sequence[FaceCrop]) -> NDArray[np.float32]:
        """(N, D), rows of unit length; one fresh capture of each crop."""
        ...

    def describe(self) -> dict[str, Any]:
        """What was measured, for the record."""
        ...


class ProtectedEmbedder:
    """Perturb, pack, unpack, check, embed.

    Codes are drawn for a whole batch, see `captures.Drawer`; every capture then goes through its own bytes.
    The noise of a capture depends on the randomness alone, not on how many threads there are.
    """

    noisy = True

    def __init__(self, recognizer: Recognizer, profile: PrivacyProfile, randomness: Randomness) -> None:
        if profile.hash not in recognizer.profiles:
            raise ModelError(f"model {recognizer.name} does not accept profile {profile.name}")
        self.recognizer, self.profile, self.randomness = recognizer, profile, randomness
        self.payload_bytes = 0  # largest seen
        self._drawer = Drawer(profile)

    def embed(self, crops: Sequence[FaceCrop]) -> NDArray[np.float32]:
        parts = parts_of(crops)
        streams = [self.randomness(len(part) * self._drawer.bytes_per_capture) for part in parts]
        embedded = in_parallel(self._embed, list(zip(parts, streams, strict=True)))
        return np.concatenate(embedded)

    def _embed(self, part: tuple[Sequence[FaceCrop], bytes]) -> NDArray[np.float32]:
        crops, stream = part
        pixels = np.stack([crop.pixels for crop in crops])
        codes = self._drawer.codes(features_of(pixels, self.profile.transform), stream)
        captures = []
        for one in codes:
            sent = pack(PerturbedFeatures(self.profile.hash, one), self.profile)
            self.payload_bytes = max(self.payload_bytes, len(sent))
            received = unpack(sent, self.recognizer.profiles)
            check_noise(received, self.profile)
            captures.append(received)
        return np.stack([embedding.vector for embedding in self.recognizer.embed(captures)])

    def describe(self) -> dict[str, Any]:
        return {
            "model": self.recognizer.name,
            "protected": True,
            "profile": self.profile.name,
            "profile_hash": self.profile.hash,
            "transform": self.profile.transform,
            "epsilon_mean_per_coefficient": self.profile.epsilon_mean_per_coefficient,
            "epsilon_per_capture": self.profile.epsilon_per_capture,
            "payload_bytes": self.payload_bytes,
            "precision": self.recognizer.precision,
        }


class AnyProfileEmbedder:
    """Every capture under one of the profiles that the model accepts, drawn anew for each: what a sweep's family of
    random subsets of channels is. No terminal does it."""

    noisy = True

    def __init__(self, recognizer: Recognizer, randomness: Randomness) -> None:
        self.randomness = randomness
        self.each = [
            ProtectedEmbedder(recognizer, profile, randomness) for profile in recognizer.profiles.values()
        ]

    def embed(self, crops: Sequence[FaceCrop]) -> NDArray[np.float32]:
        chosen = np.frombuffer(self.randomness(4 * len(crops)), "<u4") % len(self.each)
        order = np.argsort(chosen, kind="stable")
        vectors = [
            self.each[k].embed([crops[row] for row in order[chosen[order] == k]]) for k in np.unique(chosen)
        ]
        return np.concatenate(vectors)[np.argsort(order)]

    def describe(self) -> dict[str, Any]:
        profiles = [one.profile for one in self.each]
        return self.each[0].describe() | {
            "profile": f"any of {len(profiles)}",
            "profile_hash": hash_of_family(profiles),
            "epsilon_mean_per_coefficient": float(
                np.mean([p.epsilon_mean_per_coefficient for p in profiles])
            ),
            "epsilon_per_capture": float(np.mean([p.epsilon_per_capture for p in profiles])),
            "payload_bytes": max(one.payload_bytes for one in self.each),
        }


class UnprotectedEmbedder:
    """The twin: the same network trained the same way, on the picture itself. For comparison only."""

    noisy = False

    def __init__(self, folder: Path, *, device: str = "cpu") -> None:
        model = load_model(folder)
        if model.accepted:
            raise ModelError(f"{folder} holds a protected model, not an unprotected twin")
        self.device = torch.device(device)
        self.name, self.precision = model.name, native_precision(self.device)
        self.backbone = model.backbone.to(self.device)
        self.backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in torch's stubs

    def embed(self, crops: Sequence[FaceCrop]) -> NDArray[np.float32]:
        return np.concatenate(in_parallel(self._embed, parts_of(crops)))

    @torch.inference_mode()
    def _embed(self, crops: Sequence[FaceCrop]) -> NDArray[np.float32]:
        planes = planes_of(np.stack([crop.pixels for crop in crops])).to(self.device)  # (N, 3, 112, 112)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            raw = self.backbone(planes)
        vectors: NDArray[np.float32] = torch.nn.functional.normalize(raw.float()).cpu().numpy()
        return vectors

    def describe(self) -> dict[str, Any]:
        return {"model": self.name, "protected": False, "precision": self.precision}


class RunEmbedder:
    """A training run as it was trained, without a capture: noise as floats, as the paper has it, or none at all.

    For runs that end without a privacy profile: `paper` and its like, whose noise is never coded, and those without
    noise. No terminal sends this.
    """

    def __init__(self, folder: Path, source: Randomness, *, device: str = "cpu") -> None:
        state = torch.load(folder / RUN, weights_only=True, map_location="cpu")
        try:
            self.config = TrainingConfig(**state["config"])
        except TypeError as error:
            raise ModelError(f"{folder} is a run of another version of training: {error}") from error
        prefix = "perturbation."
        learned = {
            key.removeprefix(prefix): value
            for key, value in state["student"].items()
            if key.startswith(prefix)
        }
        if state["profile"] is not None or not learned:
            raise ModelError(f"make a model of {folder} first: python -m recognition.training.ship")
        ranges = {key: learned[key].flatten().numpy() for key in ("low", "high", "deviation")}
        nothing = np.zeros(0, np.float32)
        perturbation = Perturbation(self.config, Statistics(**ranges, mean=nothing, face=nothing))
        perturbation.load_state_dict(learned)
        with torch.no_grad():
            gain, scale = perturbation.gain_and_scale()
        self._low, self._high = learned["low"].numpy(), learned["high"].numpy()  # (C, 1, 1)
        self._scale = None if scale is None else scale.numpy()
        self.noisy, self.source, self.device = scale is not None, source, torch.device(device)
        self._gain = gain.to(self.device)
        self.precision = native_precision(self.device)
        config = self.config
        self.backbone = build_backbone(
            config.backbone, transform=config.transform, dimension=config.dimension
        )
        self.backbone.load_state_dict(state["backbone"])
        self.backbone.eval().to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in torch's stubs

    def embed(self, crops: Sequence[FaceCrop]) -> NDArray[np.float32]:
        parts = [(part, int.from_bytes(self.source(8), "little")) for part in parts_of(crops)]
        return np.concatenate(in_parallel(self._embed, parts))

    @torch.inference_mode()
    def _embed(self, part: tuple[Sequence[FaceCrop], int]) -> NDArray[np.float32]:
        crops, seed = part
        clean = features_of(np.stack([crop.pixels for crop in crops]), self.config.transform)
        values = np.clip(clean, self._low, self._high)  # (N, C, H, W)
        if self._scale is not None:
            values = values + np.random.default_rng(seed).laplace(size=clean.shape) * self._scale
        arrived = torch.from_numpy(values.astype(np.float32)).to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            raw = self.backbone(arrived, self._gain)
        vectors: NDArray[np.float32] = torch.nn.functional.normalize(raw.float()).cpu().numpy()
        return vectors

    def describe(self) -> dict[str, Any]:
        return {
            "model": self.config.name,
            "noise": "floats" if self.noisy else "none",
            "transform": self.config.transform,
            "epsilon_mean_per_coefficient": self.config.epsilon_mean,
            "precision": self.precision,
        }


def parts_of(crops: Sequence[FaceCrop]) -> list[Sequence[FaceCrop]]:
    """Pieces of a batch for threads to work on; the same whatever their number, so that noise is too."""
    return [crops[start : start + PART] for start in range(0, len(crops), PART)]


def open_embedder(
    model: str, *, profile: str | None, unprotected: bool, seed: int | None, device: str = "cpu"
) -> ProtectedEmbedder | AnyProfileEmbedder | UnprotectedEmbedder | RunEmbedder:
    """A model's protected path, under its default profile, the one named or ANY, or its unprotected twin; or a training
    run that has no profile.

    seed: repeatable noise, for figures that can be reproduced; None draws it from the operating system. The
    twin of model folder X is X-unprotected beside it. Raises ModelError.
    """
    folder = model_folder(model)
    if (folder / RUN).exists():
        if unprotected or profile is not None:
            raise ModelError(f"{folder} is a training run: it has no twin and no profile to choose")
        return RunEmbedder(folder, randomness(seed), device=device)
    if unprotected:
        return UnprotectedEmbedder(folder.with_name(folder.name + UNPROTECTED_SUFFIX), device=device)
    recognizer = Recognizer(open_model(folder), device=device)
    if profile == ANY:
        return AnyProfileEmbedder(recognizer, randomness(seed))
    chosen = recognizer.default_profile if profile is None else _profile_named(recognizer, profile)
    return ProtectedEmbedder(recognizer, chosen, randomness(seed))


def _profile_named(recognizer: Recognizer, name: str) -> PrivacyProfile:
    for profile in recognizer.profiles.values():
        if name in (profile.name, profile.hash):
            return profile
    known = ", ".join(profile.name for profile in recognizer.profiles.values())
    raise ModelError(f"model {recognizer.name} accepts the profiles {known}, not {name}")


def randomness(seed: int | None) -> Randomness:
    """A seeded stream for experiments, or the operating system's."""
    return os.urandom if seed is None else np.random.default_rng(seed).bytes


def embed_all(
    embedder: Embedder,
    images: Mapping[str, FaceCrop],
    names: Iterable[str],
    *,
    captures: int = 1,
    progress: Progress = lambda done: None,
) -> dict[str, NDArray[np.float32]]:
    """name -> (captures, D), independent captures of each picture. The twin, which has no noise, is asked
    once."""
    wanted = list(names)
    vectors: dict[str, NDArray[np.float32]] = {}
    rounds = captures if embedder.noisy else 1
    for start in range(0, len(wanted), BATCH):
        part = wanted[start : start + BATCH]
        crops = [images[name] for name in part]
        stacked = np.stack([embedder.embed(crops) for _ in range(rounds)], axis=1)  # (N, rounds, D)
        vectors |= dict(zip(part, stacked, strict=True))
        progress(len(part))
    return vectors


def fuse(captures: NDArray[np.float32]) -> NDArray[np.float32]:
    """(..., K, D) unit vectors to (..., D): their mean, brought back to unit length."""
    mean = captures.mean(axis=-2)
    fused: NDArray[np.float32] = mean / np.linalg.norm(mean, axis=-1, keepdims=True)
    return fused
