"""Margin heads over identities: ArcFace (Deng et al., CVPR 2019, equation 3) and CosFace (Wang et al.,
CVPR 2018, equation 4)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MarginHead(nn.Module, ABC):
    """logits = scale * (cosine to each class centre, the true class made harder by the margin).

    forward(embeddings (B, D) of any length, labels int64 (B,)) -> float32 (B, classes).
    """

    def __init__(self, dimension: int, classes: int, *, scale: float = 64.0, margin: float = 0.4) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.randn(classes, dimension) * 0.01)
        self.scale, self.margin = scale, margin

    @abstractmethod
    def harder(self, cosine: Tensor) -> Tensor:
        """The true class's cosine (B, 1), made smaller by the margin."""

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        cosine = F.linear(F.normalize(embeddings.float()), F.normalize(self.centres.float()))  # (B, classes)
        true = cosine.gather(1, labels[:, None])
        return self.scale * cosine.scatter(1, labels[:, None], self.harder(true))


class ArcFace(MarginHead):
    """cos(angle + margin); beyond angle = pi - margin it goes on falling linearly so that the loss stays monotone."""

    def harder(self, cosine: Tensor) -> Tensor:
        sine = (1.0 - cosine.square()).clamp(min=1e-9).sqrt()
        rotated = cosine * math.cos(self.margin) - sine * math.sin(self.margin)
        return torch.where(
            cosine > -math.cos(self.margin), rotated, cosine - self.margin * math.sin(self.margin)
        )


class CosFace(MarginHead):
    """cosine - margin."""

    def harder(self, cosine: Tensor) -> Tensor:
        return cosine - self.margin


HEADS: dict[str, type[MarginHead]] = {"arcface": ArcFace, "cosface": CosFace}
