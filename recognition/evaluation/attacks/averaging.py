"""Captures add up: the same noise-free signal under every capture, so the noise of k captures falls by
sqrt(k).

First k captures of one crop, as from a person who stands before a terminal; then captures of different
crops of one person, as over weeks at a door: light, pose and expression differ, and only what is common
survives the mean.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from recognition.evaluation.attacks.linear import recover
from recognition.evaluation.attacks.observation import Observation, Protection
from recognition.evaluation.attacks.operator import crops_from_planes, planes_from_crops

CAPTURES = (1, 4, 16, 64)

# Observation and mean colours (N, 3) to planes (N, 3, 112, 112): `linear.recover`, or a trained network.
Solver = Callable[[Observation, torch.Tensor], torch.Tensor]


def recover_person(
    protection: Protection, crops: NDArray[np.uint8], *, seed: int = 0, solver: Solver = recover
) -> NDArray[np.uint8]:
    """One picture, uint8 (112, 112, 3), from one capture of each of a person's crops, uint8 (K, 112, 112,
    3)."""
    each = protection.observe(crops, captures=1, seed=seed)
    mean = Observation(
        each.operator, each.values.mean(dim=0, keepdim=True), each.variance / len(crops), each.prior
    )
    colour = planes_from_crops(crops).mean(dim=(0, 2, 3)).unsqueeze(0)
    return crops_from_planes(solver(mean, colour))[0]
