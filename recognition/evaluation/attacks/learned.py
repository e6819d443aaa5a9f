"""A U-Net trained on pairs of pictures and what a terminal would send of them, as the paper attacks itself.

Two things make it stronger than the paper's: it is handed the transposed operator's picture of the
noise-weighted features, which for known Gaussian noise holds all that the features say about the picture,
and it is trained on the figures it is judged by. Training resumes from its checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from recognition.evaluation.attacks.observation import Observation, Protection
from recognition.evaluation.attacks.operator import (
    SIDE,
    axis_matrix,
    crops_from_planes,
    planes_from_crops,
    rgb_from_ycbcr,
    transposed,
)
from recognition.evaluation.attacks.replicas import NATIVE_BF16, Replicas

LEVEL = 64.0  # grey levels that make one unit of the network's input and output


@dataclass(frozen=True)
class Training:
    """How an attacker trains. captures: how many captures of a crop are averaged, drawn anew for each
    batch."""

    passes: int = 20_000  # faces shown
    batch: int = 16
    width: int = 32  # channels at half resolution
    learning_rate: float = 1e-3
    captures: tuple[int, ...] = (1,)
    seed: int = 0


def pictures_of(observation: Observation) -> Tensor:
    """(N, 6, 112, 112), units of LEVEL: the features carried back to pixels by the transposed operator, two
    ways.

    Planes 0 to 2: every coefficient shrunk by signal over signal plus noise, the pixel's gain divided out.
    Planes 3 to 5: weighted by one over the noise variance, which for Gaussian noise is a sufficient
    statistic, at unit power.
    """
    operator, variance, prior = observation.operator, observation.variance, observation.prior
    shrunk = transposed(operator, observation.values * (prior / (prior + variance)))
    per_axis = torch.as_tensor((axis_matrix(operator.transform) ** 2).sum(axis=0), dtype=shrunk.dtype)
    weighted = transposed(operator, observation.values / variance)
    power = weighted.square().mean(dim=(1, 2, 3), keepdim=True).sqrt().clamp_min(1e-12)
    return torch.cat([shrunk / (per_axis[:, None] * per_axis) / LEVEL, weighted / power], dim=1)


class Down(nn.Module):
    """Two 3x3 convolutions."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x)
        return out


class UNet(nn.Module):
    """`pictures_of` an observation in, planes (N, 3, 112, 112) out, in units of LEVEL; four scales
    (Ronneberger et al. 2015).

    Pixels go in and out in squares of 2x2 as channels, so that no layer works at full resolution; the network adds
    to the shrunk picture it is given, so that it starts from the linear estimate.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        widths = [width, 2 * width, 4 * width, 6 * width]  # at 56, 28, 14, 7
        self.down = nn.ModuleList(Down(i, o) for i, o in zip([9 * 4, *widths[:-1]], widths, strict=True))
        self.up = nn.ModuleList(
            Down(low + high, high) for low, high in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.out = nn.Conv2d(width, 3 * 4, 1)
        with torch.no_grad():
            for parameter in self.out.parameters():
                parameter.zero_()

    def forward(self, x: Tensor, colour: Tensor) -> Tensor:
        """x (N, 6, 112, 112); colour (N, 3), the mean colour the attacker knows."""
        colours = colour[:, :, None, None].expand(-1, -1, SIDE, SIDE)
        y = functional.pixel_unshuffle(torch.cat([x, colours], dim=1), 2)
        kept: list[Tensor] = []
        for k, block in enumerate(self.down):
            y = block(y if k == 0 else functional.max_pool2d(y, 2))
            kept.append(y)
        for k, block in enumerate(self.up):
            skip = kept[-2 - k]
            y = block(torch.cat([functional.interpolate(y, scale_factor=2, mode="nearest"), skip], dim=1))
        out = x[:, :3] + functional.pixel_shuffle(self.out(y).float(), 2)
        return out - out.mean(dim=(2, 3), keepdim=True) + colours


class LearnedAttack:
    """A U-Net for one protection, trained or being trained."""

    def __init__(
        self,
        protection: Protection,
        training: Training,
        checkpoint: Path | None = None,
        *,
        start: LearnedAttack | None = None,
    ) -> None:
        """Resumes from the checkpoint when there is one, else starts where `start` ended. Raises ValueError
        if the checkpoint was trained for something else."""
        self.protection, self.training, self.checkpoint = protection, training, checkpoint
        torch.manual_seed(training.seed)
        self.network = UNet(training.width)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in torch's stubs
        if start is not None:
            self.network.load_state_dict(start.network.state_dict())
        self._replicas = Replicas(self.network)
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(), lr=training.learning_rate, weight_decay=1e-4
        )
        self.passes = 0
        if checkpoint is not None and checkpoint.exists():
            self._resume(checkpoint)

    def train(
        self,
        crops: NDArray[np.uint8],
        *,
        minutes: float | None = None,
        progress: Callable[[int, float], None] = lambda passes, loss: None,
    ) -> None:
        """Train on crops uint8 (N, 112, 112, 3) until the passes, or the minutes, are used up."""
        started, saved = time.monotonic(), time.monotonic()
        while self.passes < self.training.passes:
            if minutes is not None and time.monotonic() - started > 60 * minutes:
                break
            # The generator follows from the passes, so a resumed run goes on as an uninterrupted one would.
            rng = np.random.default_rng((self.training.seed, self.passes))
            loss = self._step(crops[rng.integers(len(crops), size=self.training.batch)], rng)
            self.passes += self.training.batch
            progress(self.passes, loss)
            if time.monotonic() - saved > 60:
                self.save()
                saved = time.monotonic()
        self.save()

    def _step(self, crops: NDArray[np.uint8], rng: np.random.Generator) -> float:
        flipped = np.where((rng.random(len(crops)) < 0.5)[:, None, None, None], crops[:, :, ::-1], crops)
        captures = int(rng.choice(self.training.captures))
        target = planes_from_crops(flipped)
        observation = self.protection.observe(flipped, captures=captures, seed=int(rng.integers(2**31)))
        colour = target.mean(dim=(2, 3)) / LEVEL

        def loss_of(network: nn.Module, part: slice) -> Tensor:
            seen = Observation(
                observation.operator, observation.values[part], observation.variance, observation.prior
            )
            with torch.autocast("cpu", torch.bfloat16, enabled=NATIVE_BF16):
                predicted = network(pictures_of(seen), colour[part]).float() * LEVEL
            wanted = target[part]
            return (predicted - wanted).abs().mean() / LEVEL + (1 - ssim(predicted, wanted))

        for group in self.optimiser.param_groups:
            share = self.passes / self.training.passes
            group["lr"] = self.training.learning_rate * max(0.02, min(1.0, 2.0 * (1 - share)))
        loss = self._replicas.gradients(len(crops), loss_of)
        self.optimiser.step()
        return loss

    @torch.inference_mode()
    def _predict(self, pictures: Tensor, colour: Tensor) -> Tensor:
        self.network.eval()
        with torch.autocast("cpu", torch.bfloat16, enabled=NATIVE_BF16):
            out: Tensor = self.network(pictures, colour / LEVEL).float() * LEVEL
        return out

    def solve(self, observation: Observation, mean_colour: Tensor) -> Tensor:
        """Planes (N, 3, 112, 112), as `linear.recover` returns them."""
        return self._predict(pictures_of(observation), mean_colour)

    def attack(self, crops: NDArray[np.uint8], *, captures: int = 1, seed: int = 0) -> NDArray[np.uint8]:
        """Recover crops from what the protection lets out of them."""
        recovered = []
        for start in range(0, len(crops), self.training.batch):
            part = crops[start : start + self.training.batch]
            observation = self.protection.observe(part, captures=captures, seed=seed + start)
            recovered.append(
                crops_from_planes(self.solve(observation, planes_from_crops(part).mean(dim=(2, 3))))
            )
        return np.concatenate(recovered)

    def _identity(self) -> dict[str, Any]:
        return {"protection": self.protection.name, "width": self.training.width, "seed": self.training.seed}

    def save(self) -> None:
        """Write the checkpoint atomically; nothing without one."""
        if self.checkpoint is None:
            return
        state = self._identity() | {
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "passes": self.passes,
        }
        unfinished = self.checkpoint.with_suffix(".new")
        torch.save(state, unfinished)
        unfinished.replace(self.checkpoint)

    def _resume(self, checkpoint: Path) -> None:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        for key, value in self._identity().items():
            if state[key] != value:
                raise ValueError(f"{checkpoint} was trained with {key} {state[key]!r}, not {value!r}")
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.passes = int(state["passes"])


def ssim(predicted: Tensor, target: Tensor) -> Tensor:
    """Differentiable SSIM of planes, mean over RGB, with metrics.ssim's window and constants."""
    a, b = rgb_from_ycbcr(predicted).flatten(0, 1), rgb_from_ycbcr(target).flatten(0, 1)  # (3 N, 112, 112)
    taps = torch.exp(-(torch.arange(-5, 6, dtype=a.dtype) ** 2) / (2 * 1.5**2))
    taps = taps / taps.sum()

    # One banded matrix a side: a convolution of one channel is the slowest thing a CPU does.
    window = torch.stack([functional.pad(taps, (k, SIDE - 11 - k)) for k in range(SIDE - 10)])  # (102, 112)

    def blur(x: Tensor) -> Tensor:
        return window @ x @ window.T

    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2
    covariance = blur(a * b) - mean_a * mean_b
    quotient = ((2 * mean_a * mean_b + c1) * (2 * covariance + c2)) / (
        (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
    )
    return quotient.mean()
