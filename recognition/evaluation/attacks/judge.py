"""An unrelated recogniser that says whether a recovered picture still shows its person.

It is handed in as a TorchScript file: input (N, 3, 112, 112) RGB float 0..255, output (N, D). It must not
be the model under attack. Its threshold is measured here, on its own clean impostor scores.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from recognition.evaluation import metrics
from recognition.types import FaceCrop

BATCH = 32
JUDGE_FMR = 1e-3


class Judge:
    """threshold: cosine from which it calls two pictures one person; comparisons: impostor scores behind
    it."""

    def __init__(self, network: torch.nn.Module, threshold: float, comparisons: int) -> None:
        self.network, self.threshold, self.comparisons = network, threshold, comparisons

    @classmethod
    def open(
        cls,
        path: Path | str,
        images: Mapping[str, FaceCrop],
        identities: Mapping[str, str],
        *,
        limit: int = 600,
    ) -> Judge:
        """Load, and set the threshold at FMR 1e-3 over pictures of different people, at most `limit`
        pictures."""
        with warnings.catch_warnings():
            # torch would rather see torch.export; the recognisers that people hand round are TorchScript.
            warnings.simplefilter("ignore", DeprecationWarning)
            network = torch.jit.load(str(path), map_location="cpu").eval()
        judge = cls(network, threshold=1.0, comparisons=0)
        names = one_each(identities, limit)
        vectors = judge.embed(np.stack([images[name].pixels for name in names]))
        people = np.array([identities[name] for name in names])
        scores = (vectors @ vectors.T)[np.triu(people[:, None] != people[None, :], k=1)]
        if scores.size < 10 / JUDGE_FMR:
            raise ValueError(
                f"{scores.size} impostor comparisons cannot set a threshold at FMR {JUDGE_FMR:g}: more people"
            )
        return cls(network, metrics.threshold_at(scores, JUDGE_FMR), int(scores.size))

    @torch.inference_mode()
    def embed(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 (N, 112, 112, 3) RGB to unit vectors (N, D)."""
        parts = []
        for start in range(0, len(crops), BATCH):
            batch = torch.from_numpy(np.ascontiguousarray(crops[start : start + BATCH]))
            parts.append(
                torch.nn.functional.normalize(self.network(batch.permute(0, 3, 1, 2).float())).numpy()
            )
        vectors: NDArray[np.float32] = np.concatenate(parts)
        return vectors

    def accepted(self, pictures: NDArray[np.uint8], references: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """(N,) whether picture n and reference n are one person to this recogniser."""
        scores = (self.embed(pictures) * self.embed(references)).sum(axis=1)
        return np.asarray(scores >= self.threshold)


def one_each(identities: Mapping[str, str], limit: int) -> list[str]:
    """Up to `limit` picture names: one of each person, then the second of each, and so on; the same every
    time."""
    per_person: dict[str, list[str]] = {}
    for name in sorted(identities):
        per_person.setdefault(identities[name], []).append(name)
    rounds = max(map(len, per_person.values()), default=0)
    people: Sequence[str] = sorted(per_person)
    return [per_person[p][k] for k in range(rounds) for p in people if k < len(per_person[p])][:limit]
