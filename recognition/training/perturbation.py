"""Noise with learnable budgets, differentiable, and what a knowing attacker recovers from it.

Training form of recognition.noise: the same clip ranges, budgets and codes on tensors. Laplace noise is drawn per
sample and reparameterised (unit noise times scale), so gradients reach the budgets (Ji et al., section 3.3, equations
8 and 9). The generator is torch's: what protects people is drawn by recognition.noise, never here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from recognition.backbone import UNPROTECTED
from recognition.budget import PrivacyProfile
from recognition.frequency import BLOCK, LUMA_CENTRE, RESEARCH_SHAPES, RGB_TO_YCBCR, axis_operator
from recognition.payload import MAX_PAYLOAD_BYTES
from recognition.training.config import TrainingConfig
from recognition.training.research import ResearchProfile
from recognition.types import CROP_SIZE

CODE_REACH = {
    1: 1.0,
    2: 1.1,
    3: 0.6,
    4: 0.33,
}  # width of one code in standard deviations of signal plus noise


class Transform(nn.Module):
    """RGB uint8-valued float (B, 3, 112, 112) -> YCbCr planes, or coefficients float32 (B, C, H, W) of a transform."""

    colours: Tensor
    operator: Tensor

    def __init__(self, transform: str) -> None:
        super().__init__()
        self.transform = transform
        self.register_buffer("colours", torch.tensor(RGB_TO_YCBCR, dtype=torch.float32), persistent=False)
        if transform != UNPROTECTED:
            operator = torch.tensor(axis_operator(transform), dtype=torch.float32)
            self.register_buffer("operator", operator, persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        planes = torch.einsum("ck,bkhw->bchw", self.colours, pixels)
        planes[:, 0] -= LUMA_CENTRE
        if self.transform == UNPROTECTED:
            return planes
        channels, blocks, _ = RESEARCH_SHAPES[self.transform]
        coefficients = self.operator @ planes @ self.operator.T  # (B, 3, 8 * blocks, 8 * blocks)
        gathered = coefficients.view(-1, 3, BLOCK, blocks, BLOCK, blocks).permute(0, 1, 2, 4, 3, 5)
        return gathered.reshape(-1, 3, BLOCK * BLOCK, blocks, blocks)[:, :, -(channels // 3) :].reshape(
            -1, channels, blocks, blocks
        )


@dataclass(frozen=True)
class Statistics:
    """Robust ranges and moments of clean coefficients over training faces. low, high, deviation: (C,);
    mean: (C, H, W); face: the mean picture,
    YCbCr planes (3, 112, 112)."""

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    deviation: NDArray[np.float64]
    mean: NDArray[np.float32]
    face: NDArray[np.float32]


def measure(
    coefficients: NDArray[np.float32], face: NDArray[np.float32], *, clip_quantile: float
) -> Statistics:
    """coefficients (N, C, H, W); face: mean YCbCr planes (3, 112, 112). The range of a channel holds all
    but `clip_quantile` of its values at each end."""
    channels = coefficients.shape[1]
    by_channel = coefficients.transpose(1, 0, 2, 3).reshape(channels, -1)
    low, high = np.quantile(by_channel, [clip_quantile, 1 - clip_quantile], axis=1)
    return Statistics(
        low=low.astype(np.float64),
        high=high.astype(np.float64),
        deviation=by_channel.std(axis=1, dtype=np.float64),
        mean=coefficients.mean(axis=0, dtype=np.float64).astype(np.float32),
        face=face.astype(np.float32),
    )


class Perturbation(nn.Module):
    """Clip, learnable Laplace noise, codes once a profile is frozen.

    forward(coefficients (B, C, H, W), ease) -> (values, gain): what the backbone takes; `ease` >= 1 divides the noise.
    """

    low: Tensor
    high: Tensor
    deviation: Tensor
    live: Tensor

    def __init__(self, config: TrainingConfig, statistics: Statistics) -> None:
        super().__init__()
        self.config = config
        for name in ("low", "high", "deviation"):
            column = torch.tensor(getattr(statistics, name), dtype=torch.float32)[:, None, None]
            self.register_buffer(name, column)
        live = (
            self.high - self.low
        ) > 0.02  # bilinear upsampling leaves channels with nothing in them (METHOD, section 2)
        self.register_buffer("live", live)
        # Start where every channel has the same clean-to-noise power: as much information from each.
        start = torch.log((self.high - self.low).clamp(min=1e-6) / self.deviation.clamp(min=1e-6))
        self.free = nn.Parameter(start if config.budgets == "learned" else torch.zeros_like(start))
        learns = config.budgets == "learned" and config.epsilon_mean is not None
        self.free.requires_grad_(learns)
        # Logits of channels plus logits of places: 189 and 12,544 numbers for 2,370,816 elements, small enough
        # for a profile that a terminal fetches.
        self.place = (
            nn.Parameter(torch.zeros(1, *RESEARCH_SHAPES[config.transform][1:]))
            if learns and config.position_budgets
            else None
        )
        self.profile: PrivacyProfile | None = None

    def budget_parameters(self) -> list[nn.Parameter]:
        return [self.free] if self.place is None else [self.free, self.place]

    def position_weight(self) -> Tensor:
        """(1, 1, 1) one, or (1, H, W) of mean 1 where places have budgets of their own."""
        if self.place is None:
            return self.free.new_ones(1, 1, 1)
        return F.softmax(self.place.flatten(), 0).view_as(self.place) * self.place.numel()

    def epsilon(self) -> Tensor:
        """(C, 1, 1) or (C, H, W) epsilon per coefficient: the softmax over all elements, times epsilon_mean, times
        their number (Ji et al., equation 8), live channels only. An element's logit is its channel's plus its place's,
        so the softmax is a product."""
        if self.config.epsilon_mean is None:
            raise ValueError("a run without noise has no budget")
        logits = self.free.masked_fill(~self.live, float("-inf"))
        share: Tensor = F.softmax(logits.flatten(), 0).view_as(logits)
        return share * (self.config.epsilon_mean * logits.numel()) * self.position_weight()

    def scale(self) -> Tensor:
        """As `epsilon`: Laplace scale, coefficient units; very large for channels without budget."""
        return (self.high - self.low) / self.epsilon().clamp(min=1e-6)

    def forward(self, coefficients: Tensor, ease: float = 1.0) -> tuple[Tensor, Tensor]:
        clipped = coefficients.clamp(self.low, self.high)
        if self.profile is not None:
            return self._codes(clipped)
        gain, scale = self.gain_and_scale(ease)
        return clipped if scale is None else clipped + scale * unit_laplace(clipped), gain

    def gain_and_scale(self, ease: float = 1.0) -> tuple[Tensor, Tensor | None]:
        """Weight of each element and Laplace scale of its noise, None without noise; while budgets learn."""
        if self.config.epsilon_mean is None:
            return 1 / self.deviation.clamp(min=1e-2) * self.live, None
        scale = self.scale() / ease
        return self.deviation / (self.deviation.square() + 2 * scale.square()) * self.live, scale

    def _codes(self, clipped: Tensor) -> tuple[Tensor, Tensor]:
        noisy = clipped + self.frozen_scale * unit_laplace(clipped)
        half = self.levels / 2
        index = torch.floor((noisy - self.centre) / self.step + half)
        codes = torch.minimum(index.clamp(min=0), self.levels - 1)
        return (self.centre + (codes + 0.5 - half) * self.step) * self.sent, self.frozen_gain

    def freeze(self, profile: PrivacyProfile) -> None:
        """From now on draw exactly the codes of this profile; budgets no longer learn."""
        device = self.low.device
        sent = profile.sent[:, None, None]

        def column(values: NDArray[np.generic]) -> Tensor:
            return torch.tensor(np.asarray(values, np.float32), device=device)

        self.sent = column(sent)
        self.step = column(np.where(profile.sent, profile.step, 1.0)[:, None, None])
        self.centre = column(np.where(profile.sent, profile.centre, 0.0)[:, None, None])
        self.levels = column((1 << profile.bits)[:, None, None])
        self.frozen_scale = column(np.where(sent, profile.scale, 1.0))
        self.frozen_gain = column(profile.gain)
        self.low = column(profile.low[:, None, None])
        self.high = column(profile.high[:, None, None])
        for budget in self.budget_parameters():
            budget.requires_grad_(False)
        self.profile = profile

    def signal_to_noise(self) -> Tensor:
        """As `epsilon`: clean power over the noise power that a knowing attacker cannot average away.

        Exact for `critical`, whose operator is orthonormal. `paper` repeats nine numbers in 63 channels at
        8 x 8 places a
        pixel, so its copies are averaged first: 64 times the precision.
        """
        copies = BLOCK * BLOCK if RESEARCH_SHAPES[self.config.transform][1] == CROP_SIZE else 1
        return self.deviation.square() * copies / (2 * self.scale().square())

    def recovery(self) -> Tensor:
        """Share of the visible structure that the best linear (Wiener) estimate gets back from one capture, 0..1.

        Channels are weighed by their deviation: plain energy would be all low frequency, while structural
        similarity, which
        the attacks report, normalises contrast.
        """
        ratio = self.signal_to_noise()
        return self._visible(ratio / (1 + ratio))

    def information(self) -> Tensor:
        """Bits per coefficient that one capture gives an attacker: log2(1 + ratio) / 2, weighed as in `recovery`.

        This, not `recovery`, is the attacker's term of the loss: recovery saturates, and budgets learned
        against it pile
        up on the few coarse luma coefficients that show the face, where more budget costs nothing more.
        """
        return self._visible(torch.log2(1 + self.signal_to_noise()) / 2)

    def _visible(self, figure: Tensor) -> Tensor:
        weight = self.deviation * self.live
        return (weight * figure.mean((1, 2), keepdim=True)).sum() / weight.sum()


def unit_laplace(like: Tensor) -> Tensor:
    """Laplace(0, 1) of the same shape, one independent draw per element and sample."""
    uniform = torch.rand_like(like) - 0.5
    return -uniform.sign() * torch.log1p(-2 * uniform.abs().clamp(max=0.49999997))


def fit_profile(
    perturbation: Perturbation, *, name: str, epsilon_mean: float | None = None
) -> PrivacyProfile:
    """Budgets as learned, bits by clean-to-noise power: more where a channel says more (post-processing,
    costs no privacy). epsilon_mean: another total than the config's, shared out in the same way."""
    config = perturbation.config
    with torch.no_grad():
        weight = perturbation.position_weight()
        epsilon = (perturbation.epsilon() / weight)[:, 0, 0].double().cpu().numpy()
        scale = (perturbation.scale() * weight)[:, 0, 0].double().cpu().numpy()
    if epsilon_mean is not None and config.epsilon_mean is not None:
        epsilon, scale = (
            epsilon * (epsilon_mean / config.epsilon_mean),
            scale * (config.epsilon_mean / epsilon_mean),
        )
    deviation = perturbation.deviation.flatten().double().cpu().numpy()
    snr = deviation**2 / (2 * scale**2)
    bits = np.select([snr < config.sparsest_snr, snr < 0.3, snr < 2.0], [0, 2, 3], 4)
    bits[~perturbation.live.flatten().cpu().numpy()] = 0
    _, height, width = RESEARCH_SHAPES[config.transform]
    bits = _within_limit(bits, snr, positions=height * width)
    total = np.sqrt(deviation**2 + 2 * scale**2)
    step = np.select(
        [bits == wide for wide in CODE_REACH], [reach * total for reach in CODE_REACH.values()], 0.0
    )
    return ResearchProfile(
        name=name,
        transform=config.transform,
        low=_short(perturbation.low),
        high=_short(perturbation.high),
        channel_epsilon=np.where(bits > 0, np.round(epsilon, 4), 0.0),
        position_weight=_short_weight(weight.expand(1, height, width)[0]),
        bits=bits.astype(np.int64),
        step=np.round(step, 4),
        deviation=np.round(deviation, 4),
    )


def _within_limit(bits: NDArray[np.int64], snr: NDArray[np.float64], *, positions: int) -> NDArray[np.int64]:
    """Take bits from the channels that say least per bit until a capture fits (only `paper` is ever that large)."""
    bits = bits.copy()
    while bits.sum() * positions / 8 > MAX_PAYLOAD_BYTES - 100:
        worth = np.where(bits > 0, snr / np.maximum(bits, 1), np.inf)
        bits[int(np.argmin(worth))] -= 1
    return bits


def _short(column: Tensor) -> NDArray[np.float64]:
    """Four decimals: the file stays readable, and clipping uses the very numbers it states."""
    return np.asarray(np.round(column.flatten().double().cpu().numpy(), 4))


def _short_weight(weight: Tensor) -> NDArray[np.float64]:
    """(H, W) in three decimals that average exactly 1; the largest takes what rounding left."""
    short: NDArray[np.float64] = np.maximum(np.round(weight.double().cpu().numpy(), 3), 0.001)
    largest = np.unravel_index(short.argmax(), short.shape)
    short[largest] = np.round(short[largest] + short.size - short.sum(), 3)
    return short
