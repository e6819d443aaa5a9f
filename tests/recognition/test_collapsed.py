"""The collapsed stem against the literal one: same signal, same covariance of the noise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from recognition.backbone import build_backbone
from recognition.training.collapsed import CollapsedStem, noise_like
from recognition.training.config import CONFIGS
from recognition.training.perturbation import Perturbation, Transform, measure, unit_laplace
from tests.tiny_model import synthetic_picture


def test_the_collapsed_signal_is_the_mixed_transform_of_the_picture() -> None:
    torch.manual_seed(0)
    pixels = torch.from_numpy(np.stack([synthetic_picture(s).pixels for s in range(2)]))
    pixels = pixels.permute(0, 3, 1, 2).float()
    mix = torch.randn(3, 189)
    stem = CollapsedStem()
    literal = torch.einsum("kc,bchw->bkhw", mix, Transform("paper")(pixels))
    assert torch.allclose(stem.signal(stem.planes(pixels), mix), literal, atol=2e-2, rtol=1e-4)


def test_the_collapsed_noise_has_the_covariance_of_the_mixed_noise() -> None:
    torch.manual_seed(0)
    mix, scale = torch.randn(3, 189), torch.rand(189) + 0.1
    drawn = noise_like(torch.zeros(40, 3, 40, 40), mix, scale).permute(1, 0, 2, 3).flatten(1)
    terms = scale[:, None] * unit_laplace(torch.zeros(189, 60_000))
    for noise in (drawn, mix @ terms):
        expected = 2 * (mix * scale) @ (mix * scale).T
        assert torch.allclose(torch.cov(noise), expected, rtol=0.1, atol=0.03 * float(expected.max()))


def test_a_network_without_noise_embeds_the_same_either_way() -> None:
    torch.manual_seed(0)
    crops = np.stack([synthetic_picture(s).pixels for s in range(3)])
    pixels = torch.from_numpy(crops).permute(0, 3, 1, 2).float()
    coefficients = Transform("paper")(pixels)
    face = np.zeros((3, 112, 112), np.float32)
    config = replace(CONFIGS["small-paper-no-noise"], dimension=32)
    perturbation = Perturbation(config, measure(coefficients.numpy(), face, clip_quantile=0.0))
    backbone = build_backbone("small", transform="paper", dimension=32).eval()
    backbone.receiver.mean.copy_(coefficients.mean((0, 2, 3))[:, None, None])
    assert CollapsedStem.fits(backbone)
    with torch.inference_mode():
        literal = backbone(*perturbation(coefficients))
        collapsed = CollapsedStem()(pixels, backbone, perturbation)
    assert torch.allclose(collapsed, literal, atol=1e-3)
    assert not CollapsedStem.fits(build_backbone("ir18", transform="paper", dimension=32))
