"""An unrelated recogniser that says whether a recovered picture still shows its person.

`face-api` is one that comes by itself, see resnet34. Any other is handed in as a TorchScript file: input
(N, 3, 112, 112) RGB float 0..255, output (N, D). It must not be the model under attack, nor its teacher. Its
threshold is measured here, on its own clean impostor scores.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from recognition.evaluation import metrics
from recognition.evaluation.attacks import resnet34
from recognition.evaluation.captures import in_parallel
from recognition.types import FaceCrop

PART = 16  # crops that one thread computes at once
JUDGE_FMR = 1e-3


class Judge:
    """threshold: score from which it calls two pictures one person; comparisons: impostor scores behind it.

    A score is 1 - distance^2 / 2, which for unit vectors is their cosine.
    """

    def __init__(
        self, network: torch.nn.Module, threshold: float, comparisons: int, *, name: str, unit: bool = True
    ) -> None:
        self.network, self.threshold, self.comparisons = network, threshold, comparisons
        self.name, self.unit = name, unit

    @classmethod
    def open(
        cls,
        which: Path | str,
        images: Mapping[str, FaceCrop],
        identities: Mapping[str, str],
        *,
        limit: int = 600,
    ) -> Judge:
        """Load, and set the threshold at FMR 1e-3 over pictures of different people, at most `limit`
        pictures."""
        judge = cls.load(which)
        names = one_each(identities, limit)
        vectors = judge.embed(np.stack([images[name].pixels for name in names]))
        people = np.array([identities[name] for name in names])
        scores = judge.scores(vectors, vectors)[np.triu(people[:, None] != people[None, :], k=1)]
        if scores.size < 10 / JUDGE_FMR:
            raise ValueError(
                f"{scores.size} impostor comparisons cannot set a threshold at FMR {JUDGE_FMR:g}: more people"
            )
        judge.threshold, judge.comparisons = metrics.threshold_at(scores, JUDGE_FMR), int(scores.size)
        return judge

    @classmethod
    def load(cls, which: Path | str) -> Judge:
        """`face-api` or a TorchScript file, without a threshold yet: it accepts nobody."""
        if str(which) == resnet34.NAME:
            return cls(resnet34.load(), np.inf, 0, name=resnet34.NAME, unit=False)
        with warnings.catch_warnings():
            # torch would rather see torch.export; the recognisers that people hand round are TorchScript.
            warnings.simplefilter("ignore", DeprecationWarning)
            network = torch.jit.load(str(which), map_location="cpu").eval()
        return cls(network, np.inf, 0, name=Path(which).name)

    def embed(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 (N, 112, 112, 3) RGB to vectors (N, D), of unit length where the judge compares angles."""
        parts = [crops[start : start + PART] for start in range(0, len(crops), PART)]
        return np.concatenate(in_parallel(self._embed, parts))

    @torch.inference_mode()
    def _embed(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        batch = torch.from_numpy(np.ascontiguousarray(crops)).permute(0, 3, 1, 2).float()
        vectors = self.network(batch)
        vectors = torch.nn.functional.normalize(vectors) if self.unit else vectors
        return np.asarray(vectors.numpy(), np.float32)

    @staticmethod
    def scores(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float64]:
        """(N, D) and (M, D) to the score of every pair, (N, M)."""
        a, b = first.astype(np.float64), second.astype(np.float64)
        squares = (a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1)[None] - 2 * (a @ b.T)
        return np.asarray(1 - squares / 2)

    def accepted(self, pictures: NDArray[np.uint8], references: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """(N,) whether picture n and reference n are one person to this recogniser."""
        difference = self.embed(pictures).astype(np.float64) - self.embed(references)
        return np.asarray(1 - (difference**2).sum(axis=1) / 2 >= self.threshold)


def one_each(identities: Mapping[str, str], limit: int) -> list[str]:
    """Up to `limit` picture names: one of each person, then the second of each, and so on; the same every
    time."""
    per_person: dict[str, list[str]] = {}
    for name in sorted(identities):
        per_person.setdefault(identities[name], []).append(name)
    rounds = max(map(len, per_person.values()), default=0)
    people: Sequence[str] = sorted(per_person)
    return [per_person[p][k] for k in range(rounds) for p in people if k < len(per_person[p])][:limit]
