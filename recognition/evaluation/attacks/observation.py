"""What an attacker holds: features seen through a protection, each with the variance of what it says.

A protection turns crops into an `Observation`. `Coded` is what Lintel sends; the others are the rows to
compare with: nothing but the transform, Laplace noise left as floats, and the noise of the method's public
code.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recognition.budget import PrivacyProfile
from recognition.evaluation.attacks.operator import Operator, planes_from_crops
from recognition.evaluation.captures import Drawer, features_of, in_parallel

# Variance given to coefficients that carry no noise at all, in squared coefficient units: keeps 1/variance
# finite.
EXACT = 0.25
PUBLIC_CODE_SCALE = (
    0.25  # the reference code's default: sensitivity 1 over an epsilon_mean of 4, METHOD section 2
)
PUBLIC_CODE_EPSILON_MEAN = 4.0


@dataclass(frozen=True)
class Observation:
    """values (N, C, B, B): unbiased views of the features; variance (C, B, B): of their error, infinite
    where nothing is sent; prior (C, 1, 1): variance of the clean coefficient over people, which is
    public."""

    operator: Operator
    values: Tensor
    variance: Tensor
    prior: Tensor


class Protection(Protocol):
    """Something that stands between a crop and an attacker."""

    @property
    def name(self) -> str: ...

    def observe(self, crops: NDArray[np.uint8], *, captures: int, seed: int) -> Observation:
        """crops uint8 (N, 112, 112, 3), each protected `captures` times with independent noise."""
        ...


def _features(operator: Operator, crops: NDArray[np.uint8]) -> Tensor:
    return operator.forward(planes_from_crops(crops))


@dataclass(frozen=True)
class Nothing:
    """The transform alone: no clipping, no noise, DC dropped (kept where the operator says so)."""

    transform: str
    with_dc: bool = False

    @property
    def name(self) -> str:
        return f"none ({self.transform}{' with DC' if self.with_dc else ''})"

    def observe(self, crops: NDArray[np.uint8], *, captures: int, seed: int) -> Observation:
        operator = Operator(self.transform, self.with_dc)
        values = _features(operator, crops)
        return Observation(
            operator,
            values,
            torch.full(values.shape[1:], EXACT),
            values.var(dim=(0, 2, 3)).view(-1, 1, 1) + EXACT,
        )


@dataclass(frozen=True)
class PublicCode:
    """The reference implementation's default: Laplace noise of scale 0.25 on unclipped `paper` features."""

    @property
    def name(self) -> str:
        return "public code's noise (paper)"

    def observe(self, crops: NDArray[np.uint8], *, captures: int, seed: int) -> Observation:
        operator = Operator("paper")
        values = _features(operator, crops)
        prior = values.var(dim=(0, 2, 3)).view(-1, 1, 1) + EXACT
        scale = torch.full(values.shape[1:], PUBLIC_CODE_SCALE)
        noisy = values + _mean_laplace(scale, values.shape, captures, seed)
        variance = torch.full(values.shape[1:], max(EXACT, 2 * PUBLIC_CODE_SCALE**2 / captures))
        return Observation(operator, noisy, variance, prior)


@dataclass(frozen=True)
class FloatNoise:
    """Clipping and Laplace noise of a profile, left as floats: the profile's twin before rate allocation."""

    profile: PrivacyProfile
    label: str = ""

    @property
    def name(self) -> str:
        return self.label or f"{self.profile.name}, float"

    def observe(self, crops: NDArray[np.uint8], *, captures: int, seed: int) -> Observation:
        profile = self.profile
        operator = Operator.named(profile.transform)
        low, high = (torch.tensor(v, dtype=torch.float32).view(-1, 1, 1) for v in (profile.low, profile.high))
        values = _features(operator, crops).clamp(low, high)
        scale = torch.tensor(np.where(profile.sent[:, None, None], profile.scale, 0), dtype=torch.float32)
        sent = torch.tensor(profile.sent).view(-1, 1, 1)
        noisy = torch.where(sent, values + _mean_laplace(scale, values.shape, captures, seed), 0.0)
        variance = torch.where(sent, (2 * scale**2 / captures).clamp_min(EXACT), torch.inf)
        return Observation(operator, noisy, variance, _prior(profile))


@dataclass(frozen=True)
class Coded:
    """The integer codes of a profile, exactly as a terminal draws them."""

    profile: PrivacyProfile

    @property
    def name(self) -> str:
        return self.profile.name

    @cached_property
    def _reader(self) -> CodeReader:
        return CodeReader(self.profile)

    @cached_property
    def _drawer(self) -> Drawer:
        return Drawer(self.profile)

    def draw(self, crops: NDArray[np.uint8], *, captures: int, seed: int) -> NDArray[np.uint8]:
        """(N, captures, C, B, B) codes. Seeded, so an experiment can be repeated; a terminal's are not."""
        rng = np.random.default_rng(seed)
        features = features_of(crops, self.profile.transform)
        streams = rng.bytes(len(crops) * captures * self._drawer.bytes_per_capture)
        codes = self._drawer.codes(np.repeat(features, captures, axis=0), streams)
        return codes.reshape(len(crops), captures, *self.profile.shape)

    def observe(self, crops: NDArray[np.uint8], *, captures: int, seed: int) -> Observation:
        values = np.zeros((len(crops), *self.profile.shape), np.float32)
        reader, _ = self._reader, self._drawer  # made here, not in the threads
        at_once = max(1, 2_400_000 // self.profile.scale.size)  # captures: of `paper` one is 2.4 MB of codes

        def mean_of(n: int) -> None:
            total = np.zeros(self.profile.shape)
            for first in range(0, captures, at_once):
                count = min(at_once, captures - first)
                codes = self.draw(crops[n : n + 1], captures=count, seed=(seed + n) * 1009 + first)[0]
                total += np.sum([reader.expected(code) for code in codes], axis=0)
            values[n] = total / captures

        in_parallel(mean_of, range(len(crops)))
        unbiased, variance = self._reader.unbiased(values, captures)
        return Observation(
            Operator.named(self.profile.transform),
            torch.from_numpy(unbiased),
            torch.from_numpy(variance),
            _prior(self.profile),
        )


@dataclass(frozen=True)
class AnyOf:
    """Codes of which every capture is drawn under one of several profiles, chosen anew each time; the attacker sees
    which, as everybody does (a capture names its profile). One crop at a time."""

    each: tuple[Coded, ...]

    @property
    def name(self) -> str:
        return f"any of {len(self.each)} profiles"

    def observe(self, crops: NDArray[np.uint8], *, captures: int, seed: int) -> Observation:
        if len(crops) != 1:
            raise ValueError("each crop has profiles of its own: observe one at a time")
        chosen = np.random.default_rng([seed, len(self.each)]).integers(len(self.each), size=captures)
        seen = [
            self.each[which].observe(crops, captures=int(count), seed=seed + int(which))
            for which, count in zip(*np.unique(chosen, return_counts=True), strict=True)
        ]
        precision = torch.stack([1 / one.variance for one in seen]).sum(0)  # 0 where nothing was sent
        total = torch.stack([one.values / one.variance for one in seen]).sum(0)
        return replace(seen[0], values=total / precision.clamp_min(1e-12), variance=1 / precision)


class CodeReader:
    """Reads a code as the expected coefficient given that code, and knows how far off that is.

    A coefficient x is taken as Laplace-distributed around 0 with the profile's public deviation and clipped
    to the profile's range; a code is the interval that x plus Laplace noise falls into. m_k = E[x | code
    k]. Over captures the mean of m_k has expectation R(x) and variance V(x)/captures; scaling it by a = Var
    x / Cov(R(x), x) makes its regression on x have slope 1, and what is left is the variance an attacker
    should give it. Tabulated over noise scales per channel, interpolated in the logarithm of the position
    weight.
    """

    GRID = 65  # values of x per channel
    WEIGHTS = 9  # position weights tabulated between the least and the greatest

    def __init__(self, profile: PrivacyProfile) -> None:
        self.profile = profile
        weight = profile.position_weight
        least, greatest = float(weight.min()), float(weight.max())
        self.tabulated = np.geomspace(least, greatest, 1 if np.isclose(least, greatest) else self.WEIGHTS)
        position = np.interp(np.log(weight), np.log(self.tabulated), np.arange(len(self.tabulated)))  # (H, W)
        self.below = np.minimum(position.astype(int), max(len(self.tabulated) - 2, 0))
        self.fraction = position - self.below
        channels, most = profile.shape[0], 1 << int(profile.bits.max())
        shape = (channels, len(self.tabulated))
        self.means = np.zeros((*shape, most))  # m_k
        self.variance_x = np.ones(channels)
        self.covariance = np.zeros(shape)  # Cov(R(x), x)
        self.variance_r = np.zeros(shape)  # Var R(x)
        self.variance_m = np.zeros(shape)  # E V(x)
        for c in np.flatnonzero(profile.sent):
            for j, w in enumerate(self.tabulated):
                self._tabulate(int(c), j, float(w))

    def _tabulate(self, c: int, j: int, weight: float) -> None:
        profile = self.profile
        low, high, deviation = profile.low[c], profile.high[c], max(float(profile.deviation[c]), 1e-6)
        x = np.linspace(low, high, self.GRID)
        prior = np.exp(-np.sqrt(2) * np.abs(x) / deviation) + 1e-12
        prior /= prior.sum()
        levels = 1 << int(profile.bits[c])
        edges = profile.centre[c] + (np.arange(1, levels) - levels / 2) * profile.step[c]
        scale = (high - low) / (profile.channel_epsilon[c] * weight)
        offset = (edges[None, :] - x[:, None]) / scale
        tail = 0.5 * np.exp(-np.abs(offset))
        below = np.where(offset < 0, tail, 1 - tail)  # P(x + noise < edge), (GRID, levels-1)
        chance = np.diff(below, axis=1, prepend=0.0, append=1.0)  # P(code | x), (GRID, levels)
        joint = prior[:, None] * chance
        total = np.maximum(joint.sum(axis=0), 1e-300)
        means = (joint * x[:, None]).sum(axis=0) / total
        response = chance @ means
        mean_x, mean_r = float(prior @ x), float(prior @ response)
        self.means[c, j, :levels] = means
        self.variance_x[c] = float(prior @ (x - mean_x) ** 2)
        self.covariance[c, j] = float(prior @ ((response - mean_r) * (x - mean_x)))
        self.variance_r[c, j] = float(prior @ (response - mean_r) ** 2)
        self.variance_m[c, j] = float(prior @ np.maximum(chance @ means**2 - response**2, 0))

    def _at_positions(self, table: NDArray[np.float64]) -> NDArray[np.float64]:
        """(C, weights) to (C, H, W)."""
        upper = np.minimum(self.below + 1, table.shape[1] - 1)
        return np.asarray((1 - self.fraction) * table[:, self.below] + self.fraction * table[:, upper])

    def expected(self, codes: NDArray[np.uint8]) -> NDArray[np.float64]:
        """E[x | code] of one capture, codes (C, H, W)."""
        c = np.arange(codes.shape[0])[:, None, None]
        upper = np.minimum(self.below + 1, len(self.tabulated) - 1)[None]
        first, second = self.means[c, self.below[None], codes], self.means[c, upper, codes]
        return np.asarray((1 - self.fraction) * first + self.fraction * second)

    def unbiased(
        self, mean_of_expected: NDArray[np.float32], captures: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Mean over captures of `expected`, (N, C, H, W), to unbiased values and their error variance (C,
        H, W)."""
        variance_x = self.variance_x[:, None, None]
        covariance = self._at_positions(self.covariance)
        sent = np.broadcast_to(self.profile.sent[:, None, None], covariance.shape) & (covariance > 1e-12)
        a = np.divide(variance_x, covariance, out=np.zeros_like(covariance), where=sent)
        spread = self._at_positions(self.variance_r) + self._at_positions(self.variance_m) / captures
        error = np.where(sent, np.maximum(a**2 * spread - variance_x, EXACT), np.inf)
        return (mean_of_expected * a).astype(np.float32), error.astype(np.float32)


def _prior(profile: PrivacyProfile) -> Tensor:
    return torch.tensor(profile.deviation**2 + EXACT, dtype=torch.float32).view(-1, 1, 1)


def _mean_laplace(scale: Tensor, shape: torch.Size, captures: int, seed: int) -> Tensor:
    """Mean of `captures` independent Laplace draws of the scales given, broadcast to `shape`."""
    rng, count = np.random.default_rng(seed), int(np.prod(shape))
    total = np.zeros(shape, np.float32)
    for _ in range(captures):
        # An exponential variable with a random sign; drawn by numpy, whose ziggurat takes a tenth of torch's time.
        size = rng.standard_exponential(shape, np.float32)
        signs = np.unpackbits(np.frombuffer(rng.bytes(-(-count // 8)), np.uint8), count=count).reshape(shape)
        np.negative(size, out=size, where=signs.view(np.bool_))
        total += size
    return torch.from_numpy(total).div_(captures).mul_(scale)
