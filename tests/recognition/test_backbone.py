"""Every backbone there is, on everything that it may be given: shapes, channels, and sizes that others published."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from recognition.backbone import BACKBONES, UNPROTECTED, build_backbone
from recognition.training.config import CONFIGS

INPUTS = {"paper": (189, 112, 112), "critical": (189, 14, 14), UNPROTECTED: (3, 112, 112)}
# Millions of parameters on three channels: InsightFace's recognition/arcface_torch for r18, r34, r50 and r100 (512
# numbers out; its first shortcut is a convolution, ours pools), table 1 of Chen et al. 2018 for MobileFaceNet (128).
PUBLISHED = {"ir18": 24.02, "ir34": 34.14, "ir50": 43.59, "ir101": 65.15, "mobilefacenet": 0.99}


@pytest.mark.parametrize("transform", INPUTS)
@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_embeds_whatever_transform_it_is_built_for(name: str, transform: str) -> None:
    # Shapes alone: no weight is stored and nothing is computed, where a network allows that.
    device = torch.device("cpu" if name.endswith("-se") else "meta")
    with device:
        network = build_backbone(name, transform=transform, dimension=64).eval()
        values = torch.zeros(2, *INPUTS[transform])
        gain = None if transform == UNPROTECTED else torch.ones(INPUTS[transform])
    with torch.inference_mode():
        assert network(values, gain).shape == (2, 64)


@pytest.mark.parametrize("name", [*PUBLISHED, "small"])
def test_a_trunk_takes_189_channels_and_its_twin_takes_three(name: str) -> None:
    for transform, channels in (("paper", 189), ("critical", 3), (UNPROTECTED, 3)):
        with torch.device("meta"):
            trunk = build_backbone(name, transform=transform, dimension=64).trunk
        first = next(layer for layer in trunk.modules() if isinstance(layer, nn.Conv2d))
        expected = channels if name != "small" or channels > 3 else channels * 16  # it folds 4x4 pixels first
        assert first.in_channels == expected


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_network_has_the_size_that_was_published(name: str) -> None:
    with torch.device("meta"):
        network = build_backbone(
            name, transform=UNPROTECTED, dimension=128 if name == "mobilefacenet" else 512
        )
    millions = sum(weights.numel() for weights in network.trunk.parameters()) / 1e6
    assert millions == pytest.approx(PUBLISHED[name], rel=0.015)


def test_every_protected_config_of_the_paper_has_its_unprotected_twin() -> None:
    papers = [CONFIGS[n] for n in CONFIGS if n in ("paper", *(f"paper-{b}" for b in BACKBONES))]
    assert {config.backbone for config in papers} == {"ir18", "ir34", "ir50", "ir101", "mobilefacenet"}
    for config in papers:
        twin = CONFIGS[f"{config.name}-unprotected"]
        assert (twin.transform, twin.epsilon_mean, twin.backbone) == (UNPROTECTED, None, config.backbone)
        assert (twin.passes, twin.learning_rate, twin.head) == (
            config.passes,
            config.learning_rate,
            config.head,
        )
