"""Linkage: never mind the picture, whose capture is it? (as FaceLinkGen, arXiv 2602.02914, asks)

The attacker holds n pictures, runs the public transform on them, and distils a recogniser of their own into
a network that reads protected features. With it they search a gallery of ordinary photographs for the owner
of a capture.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from recognition.backbone import Backbone, build_backbone
from recognition.budget import PrivacyProfile
from recognition.evaluation import metrics
from recognition.evaluation.attacks.observation import Coded
from recognition.evaluation.attacks.replicas import NATIVE_BF16, Replicas

LINK_FMR = 1e-3
MOST_EPOCHS = 60  # showings of one pair beyond which few pairs teach nothing new


@dataclass(frozen=True)
class Distillation:
    """How the attacker trains. passes: faces shown in all."""

    backbone: str = "small"
    passes: int = 60_000
    batch: int = 32
    learning_rate: float = 2e-3
    seed: int = 0


def centred(vectors: NDArray[np.float32], mean: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, D) less a mean, brought to unit length."""
    moved = vectors - mean
    return np.asarray(moved / np.linalg.norm(moved, axis=1, keepdims=True), np.float32)


class Linker:
    """Reads one profile's codes into the space of the attacker's recogniser."""

    def __init__(
        self,
        profile: PrivacyProfile,
        dimension: int,
        distillation: Distillation,
        *,
        start: Linker | None = None,
    ) -> None:
        """start: goes on from another's network; `passes` counts the faces that both were shown."""
        self.profile, self.distillation = profile, distillation
        self.passes: int = 0 if start is None else start.passes
        torch.manual_seed(distillation.seed)
        self.network: Backbone = build_backbone(
            distillation.backbone, transform=profile.transform, dimension=dimension
        )
        if start is not None:
            self.network.load_state_dict(start.network.state_dict())
        self.gain = torch.from_numpy(profile.gain)
        self.protection = Coded(profile)

    def distil(
        self,
        crops: NDArray[np.uint8],
        targets: NDArray[np.float32],
        *,
        minutes: float | None = None,
        progress: Callable[[int, float], None] = lambda passes, loss: None,
    ) -> int:
        """Train on n crops and the embeddings of the attacker's recogniser; fresh noise every time a crop
        is shown.

        Returns the faces shown.
        """
        plan = self.distillation
        optimiser = torch.optim.AdamW(self.network.parameters(), lr=plan.learning_rate, weight_decay=0.02)
        replicas = Replicas(self.network)
        rng, started, passes = np.random.default_rng(plan.seed), time.monotonic(), 0
        while passes < plan.passes and (minutes is None or time.monotonic() - started < 60 * minutes):
            rows = rng.integers(len(crops), size=plan.batch)
            shown = np.where(
                (rng.random(plan.batch) < 0.5)[:, None, None, None], crops[rows][:, :, ::-1], crops[rows]
            )
            codes = self.protection.draw(shown, captures=1, seed=int(rng.integers(2**31)))[:, 0]
            share = passes / plan.passes
            for group in optimiser.param_groups:
                group["lr"] = plan.learning_rate * max(0.02, min(1.0, 2.0 * (1 - share)))
            values, wanted = torch.from_numpy(self.profile.values_of(codes)), torch.from_numpy(targets[rows])

            def loss_of(
                network: nn.Module, part: slice, seen: Tensor = values, target: Tensor = wanted
            ) -> Tensor:
                return self._loss(network, seen[part], target[part])

            loss = replicas.gradients(plan.batch, loss_of)
            optimiser.step()
            passes += plan.batch
            progress(passes, loss)
        self.passes += passes
        return passes

    def _loss(self, network: nn.Module, values: Tensor, wanted: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=NATIVE_BF16):
            raw = network(values, self.gain)
        return (1 - (functional.normalize(raw.float()) * wanted).sum(dim=1)).mean()

    @torch.inference_mode()
    def read(self, crops: NDArray[np.uint8], *, seed: int) -> NDArray[np.float32]:
        """One capture of each crop, (N, D) unit vectors."""
        self.network.eval()
        parts = []
        for start in range(0, len(crops), 64):
            codes = self.protection.draw(crops[start : start + 64], captures=1, seed=seed + start)[:, 0]
            values = torch.from_numpy(self.profile.values_of(codes))
            parts.append(functional.normalize(self.network(values, self.gain)).numpy())
        vectors: NDArray[np.float32] = np.concatenate(parts)
        return vectors


def linkage_figures(probes: NDArray[np.float32], gallery: NDArray[np.float32]) -> dict[str, Any]:
    """Probe n and gallery entry n are two pictures of one person, every n another person; rows of unit
    length.

    linked: share whose own entry scores highest, of a gallery that large; linked_at_fmr: share whose own
    entry passes the threshold that a thousandth of the wrong entries passes.
    """
    scores = np.asarray(probes @ gallery.T, np.float64)
    own = np.diag(scores)
    wrong = scores[~np.eye(len(scores), dtype=bool)]
    first = int(np.sum(own >= scores.max(axis=1)))
    at = metrics.fnmr_at_fmr(own, wrong, LINK_FMR)
    interval = metrics.wilson(first, len(own))
    return {
        "linked": first / len(own),
        "linked_interval": [interval.low, interval.high],
        "linked_at_fmr_1e-3": 1 - at.rate,
        "auc": metrics.auc(own, wrong),
        "gallery_people": len(own),
        "chance": 1 / len(own),
    }
