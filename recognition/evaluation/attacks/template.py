"""Templates at rest: can two galleries be joined, and can a face be made from a template?

Both with the gallery key secret and with it known. The protection is a keyed rotation, so a known key
undoes it and what remains is what the embedding itself gives away. In between lies an attacker without the
key who knows some people's embeddings beside their templates, and solves for the rotation (orthogonal
Procrustes, Schoenemann 1966).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from recognition.backbone import Backbone
from recognition.budget import PrivacyProfile
from recognition.evaluation import metrics
from recognition.evaluation.attacks.linear import total_variation
from recognition.evaluation.attacks.operator import Operator, crops_from_planes, planes_from_crops
from recognition.evaluation.captures import in_parallel
from recognition.protection import protect, rotation
from recognition.types import Embedding

PART = 8  # pictures that one thread looks for at once


def protected(vectors: NDArray[np.float32], key: bytes) -> NDArray[np.float32]:
    """(N, D) embeddings to (N, D) templates under a key."""
    return np.stack([protect(Embedding(vector), key=key, key_id="attacked").vector for vector in vectors])


def unrotated(templates: NDArray[np.float32], key: bytes) -> NDArray[np.float32]:
    """What the holder of a key makes of templates: the embeddings."""
    return np.asarray(templates @ rotation(key, templates.shape[1]), np.float32)


def solved_rotation(embeddings: NDArray[np.float32], templates: NDArray[np.float32]) -> NDArray[np.float64]:
    """The rotation that best carries known embeddings to their templates, (D, D); templates = embeddings @
    R.T."""
    left, _, right = np.linalg.svd(templates.T.astype(np.float64) @ embeddings)
    return np.asarray(left @ right)


def unlinkability_figures(
    first: NDArray[np.float32], second: NDArray[np.float32], *, keys: tuple[bytes, bytes]
) -> dict[str, Any]:
    """D_sys between two galleries under two keys: row n of both is one person, in two captures.

    secret: scores between templates as they are stored. known: both keys known, rotations undone. floor:
    D_sys of two random halves of the non-mated scores, which is what the estimator makes of no difference
    at all.
    """
    a, b = protected(first, keys[0]), protected(second, keys[1])
    figures: dict[str, Any] = {}
    different = ~np.eye(len(first), dtype=bool)
    for name, x, y in (("secret", a, b), ("known", unrotated(a, keys[0]), unrotated(b, keys[1]))):
        scores = x @ y.T
        figures[f"d_sys_key_{name}"] = metrics.unlinkability(np.diag(scores), scores[different])
    wrong = np.random.default_rng(0).permutation((a @ b.T)[different])
    figures["d_sys_floor"] = metrics.unlinkability(wrong[: len(first)], wrong[len(first) :])
    return figures | {"mated_scores": len(first), "non_mated_scores": int(different.sum())}


def invert(
    vectors: NDArray[np.float32],
    backbone: Backbone,
    profile: PrivacyProfile,
    start: NDArray[np.uint8],
    *,
    steps: int = 200,
    prior: float = 2e-4,
    progress: Callable[[int], None] = lambda done: None,
) -> NDArray[np.uint8]:
    """Pictures, uint8 (N, 112, 112, 3), whose noise-free features the model embeds near the vectors (N, D).

    White box: gradient ascent on the cosine through the model, which is public, with a total-variation
    prior of the weight given, from `start` (112, 112, 3), the mean of faces the attacker has. progress is told
    pictures times steps.
    """
    operator, gain = Operator(profile.transform), torch.from_numpy(profile.gain)
    low, high = (torch.tensor(v, dtype=torch.float32).view(-1, 1, 1) for v in (profile.low, profile.high))
    first = planes_from_crops(start[None])
    backbone.eval()

    def inverted(place: int) -> NDArray[np.uint8]:
        targets = torch.from_numpy(vectors[place : place + PART])
        planes = first.repeat(len(targets), 1, 1, 1).requires_grad_()
        optimiser = torch.optim.Adam([planes], lr=2.0)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps, eta_min=0.02)
        for _ in range(steps):
            features: Tensor = operator.forward(planes).clamp(low, high)
            # In float32: gradients of half precision found pictures that the model believes in less.
            embedded = functional.normalize(backbone(features, gain))
            loss = (1 - (embedded * targets).sum(dim=1)).sum() + prior * total_variation(planes).sum()
            # Of the picture alone: the model stays as it is.
            (planes.grad,) = torch.autograd.grad(loss, planes)
            optimiser.step()
            schedule.step()
            progress(len(targets))
        return crops_from_planes(planes.detach())

    return np.concatenate(in_parallel(inverted, range(0, len(vectors), PART)))
