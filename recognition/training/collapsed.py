"""`paper` features up to the first mixing of a small network, without ever building the 189 (192) channels.

A pointwise convolution M (K x 189) of the transform of a picture is a 3x3 convolution of the picture whose kernel
depends on the place; the same M of independent noise of scales b is a sum of 189 terms, close to Gaussian with
covariance M diag(2 b^2) M^T, the same everywhere. Ten times as fast as the literal form, so that rows of `paper` can be
trained at the price of the others. Clipping and codes are ignored: for the early part of a run only; the last part of a
run and every figure use the exact codes.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recognition.backbone import UNPROTECTED, Backbone, SmallTrunk
from recognition.frequency import BLOCK, axis_operator
from recognition.training.perturbation import Perturbation, Transform
from recognition.types import CROP_SIZE


class CollapsedStem(nn.Module):
    """forward(pixels, backbone, perturbation, ease) -> embeddings (B, D), not normalised."""

    taps: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.planes = Transform(UNPROTECTED)
        blocks = CROP_SIZE
        padded = np.pad(axis_operator("paper"), ((0, 0), (1, 1)))
        taps = np.stack([padded[u * blocks + i, i : i + 3] for u in range(BLOCK) for i in range(blocks)])
        taps = taps.reshape(BLOCK, blocks, 3)  # frequency, block, pixel before, at, after
        self.register_buffer("taps", torch.tensor(taps, dtype=torch.float32), persistent=False)

    @staticmethod
    def fits(backbone: Backbone) -> bool:
        return backbone.transform in ("paper", "paper-dc") and isinstance(backbone.trunk, SmallTrunk)

    def forward(
        self, pixels: Tensor, backbone: Backbone, perturbation: Perturbation, ease: float = 1.0
    ) -> Tensor:
        trunk, receiver = backbone.trunk, backbone.receiver
        assert isinstance(trunk, SmallTrunk) and isinstance(trunk.mix, nn.Conv2d)
        with torch.autocast(pixels.device.type, enabled=False):
            gain, scale = perturbation.gain_and_scale(ease)  # (189, 1, 1); scale None without noise
            mix = trunk.mix.weight.flatten(1) * (receiver.weight * gain).flatten()  # (K, 189)
            x = self.signal(self.planes(pixels), mix) - (mix @ receiver.mean.flatten())[:, None, None]
            if scale is not None:
                x = x + noise_like(x, mix, scale.flatten())
        out: Tensor = trunk.after_mix(x)
        return out

    def signal(self, planes: Tensor, mix: Tensor) -> Tensor:
        """planes (B, 3, 112, 112), mix (K, 189) -> what mix makes of their transform, (B, K, 112, 112)."""
        count, side = len(mix), planes.shape[-1]
        of_plane = mix.view(count, 3, -1)  # 63, or 64 with DC
        by_frequency = F.pad(of_plane, (BLOCK * BLOCK - of_plane.shape[-1], 0)).view(count, 3, BLOCK, BLOCK)
        across = torch.einsum("kpuv,vcd->kpucd", by_frequency, self.taps)
        kernel = torch.einsum("kpucd,ura->rcpadk", across, self.taps)  # row, column, plane, 3, 3, K
        patches = F.unfold(planes, 3, padding=1)  # (B, 27, 12544)
        mixed = torch.bmm(patches.permute(2, 0, 1), kernel.reshape(side * side, 27, count))  # (12544, B, K)
        return mixed.permute(1, 2, 0).reshape(len(planes), count, side, side)


def noise_like(x: Tensor, mix: Tensor, scale: Tensor) -> Tensor:
    """Gaussian noise, shape of x (B, K, H, W), with the covariance that mix (K, 189) makes of Laplace noise."""
    spread = mix * scale * 2**0.5
    covariance = spread @ spread.T
    ridge = 1e-5 * covariance.diagonal().mean() + 1e-12
    root = torch.linalg.cholesky(covariance + ridge * torch.eye(len(mix), device=mix.device))
    return torch.einsum("kj,bjhw->bkhw", root, torch.randn_like(x))
