"""Recovery by an attacker who knows the operator and the noise: weighted least squares with a
total-variation prior.

The attacker is given what METHOD gives it: the transform, the profile (so every noise variance), and the mean
colour of the crop, which the transform drops with the DC. It is handed no picture of anybody.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from recognition.budget import PrivacyProfile
from recognition.evaluation.attacks.observation import AnyOf, Coded, Observation, Protection
from recognition.evaluation.attacks.operator import (
    BLOCK,
    SIDE,
    Misfit,
    crops_from_planes,
    planes_from_crops,
    transposed,
)
from recognition.evaluation.captures import in_parallel

# Total-variation weight per plane (Y, Cb, Cr), in 1/levels. The negative log of a Laplace prior on the
# steps between neighbouring pixels would be 8 times this and blurs; this was best in SSIM on generated
# faces from weak noise to strong.
TV_WEIGHT = (0.022, 0.06, 0.06)
LEARNING_RATE = 3.0  # grey levels a step, falling to a hundredth along a cosine


def total_variation(planes: Tensor) -> Tensor:
    """Isotropic total variation per image and plane, (N, 3)."""
    down = functional.pad(planes[..., 1:, :] - planes[..., :-1, :], (0, 0, 0, 1))
    right = functional.pad(planes[..., 1:] - planes[..., :-1], (0, 1))
    return torch.sqrt(down**2 + right**2 + 1e-2).sum(dim=(2, 3))


def total_variation_gradient(planes: Tensor) -> Tensor:
    """Of the sum of `total_variation`, same shape."""
    down = functional.pad(planes[..., 1:, :] - planes[..., :-1, :], (0, 0, 0, 1))
    right = functional.pad(planes[..., 1:] - planes[..., :-1], (0, 1))
    length = (down * down).addcmul_(right, right).add_(1e-2).sqrt_()
    down, right = down.div_(length), right.div_(length)
    gradient = -(down + right)
    gradient[..., 1:, :] += down[..., :-1, :]
    gradient[..., 1:] += right[..., :-1]
    return gradient


def recover(observation: Observation, mean_colour: Tensor, *, steps: int = 150, tv: float = 1.0) -> Tensor:
    """Most probable planes (N, 3, 112, 112) given the observation.

    mean_colour: (N, 3) mean of each centred plane, known to the attacker. tv scales the prior; 1 is the
    prior above.
    """
    misfit = Misfit(observation.operator, observation.values, 1.0 / observation.variance)
    n, blocks = len(mean_colour), SIDE // BLOCK
    weight = mean_colour.new_tensor(TV_WEIGHT) * tv
    # Block means are a variable of their own: pixel by pixel, Adam moves them too slowly.
    fine = torch.zeros(n, 3, SIDE, SIDE, requires_grad=True)
    coarse = torch.zeros(n, 3, blocks, blocks, requires_grad=True)

    def planes() -> Tensor:
        x = fine + functional.interpolate(coarse, scale_factor=BLOCK, mode="nearest")
        return x - x.mean(dim=(2, 3), keepdim=True) + mean_colour.view(n, 3, 1, 1)

    optimiser = torch.optim.Adam([fine, coarse], lr=LEARNING_RATE, betas=(0.9, 0.99), fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps, eta_min=LEARNING_RATE / 100)
    with torch.no_grad():
        for _ in range(steps):
            x = planes()
            gradient = (
                misfit.gradient(x).mul_(0.5).addcmul_(weight[:, None, None], total_variation_gradient(x))
            )
            fine.grad = gradient - gradient.mean(dim=(2, 3), keepdim=True)  # the mean colour is known
            coarse.grad = functional.avg_pool2d(fine.grad, BLOCK) * BLOCK**2
            optimiser.step()
            schedule.step()
        return planes()


def wiener(observation: Observation, mean_colour: Tensor) -> Tensor:
    """Closed-form linear estimate for `critical`: every coefficient shrunk by signal over signal plus
    noise."""
    operator = observation.operator
    if operator.transform != "critical":
        raise ValueError("the closed form is for the critical transform, whose operator is orthonormal")
    shrunk = observation.values * observation.prior / (observation.prior + observation.variance)
    picture = transposed(operator, shrunk)  # the operator is orthonormal, so its transpose inverts it
    centred = picture - picture.mean(dim=(2, 3), keepdim=True)
    return centred + mean_colour.view(-1, 3, 1, 1)


def attack(
    protection: Protection,
    crops: np.ndarray,
    *,
    captures: int = 1,
    steps: int = 150,
    seed: int = 0,
    batch: int = 8,
    closed_form: bool = False,
    tv: float = 1.0,
) -> np.ndarray:
    """Recover crops uint8 (N, 112, 112, 3) from what `protection` lets out; returns the same shape and dtype.

    captures: how many independently protected copies of the same crop the attacker holds. closed_form:
    `wiener` instead of the iterative estimate (critical only).
    """

    batch = 1 if isinstance(protection, AnyOf) else batch

    def recovered(start: int) -> np.ndarray:
        part = crops[start : start + batch]
        observation = protection.observe(part, captures=captures, seed=seed + start)
        mean_colour = planes_from_crops(part).mean(dim=(2, 3))
        x = (
            wiener(observation, mean_colour)
            if closed_form
            else recover(observation, mean_colour, steps=steps, tv=tv)
        )
        return crops_from_planes(x)

    return np.concatenate(in_parallel(recovered, range(0, len(crops), batch)))


def linear_attack(
    profile: PrivacyProfile, crops: np.ndarray, captures: int = 1, steps: int = 150, seed: int = 0
) -> np.ndarray:
    """`attack` on the exact codes of a profile."""
    return attack(Coded(profile), crops, captures=captures, steps=steps, seed=seed)
