"""What a training run is, as one typed object; a named config states only its differences."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from recognition.backbone import UNPROTECTED, restoring_width
from recognition.frequency import RESEARCH_SHAPES

Budgets = Literal["uniform", "learned"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingConfig:
    """One run. Rates are per step; shares are of the whole run, 0..1.

    epsilon_mean: mean epsilon per coefficient over all 189 channels; None trains without noise.
    attacker_weight: lambda, weight of Perturbation.information in the loss.
    easy_share: part of the run during which the noise grows from `easy_epsilon_factor` times less to its full size.
    exact_share: last part of the run, trained on the very codes that a terminal sends, with the profile frozen.
    distil_weight, head: what supplies the recognition loss: a teacher's embeddings, identities, or both.
    """

    name: str
    backbone: str = "small"
    transform: str = "critical"
    dimension: int = 256
    epsilon_mean: float | None = 16.0
    other_epsilons: tuple[float, ...] = ()  # further epsilon_mean the model is to accept; exact codes only
    budgets: Budgets = "learned"
    position_budgets: bool = False  # learned budgets differ by place too, not by channel alone
    attacker_weight: float = 0.0
    sparsest_snr: float = 0.02  # channels whose clean-to-noise power falls below this are not sent
    clip_quantile: float = (
        0.0005  # clip ranges span this quantile to its mirror (robust against single outliers)
    )
    easy_share: float = 0.25
    easy_epsilon_factor: float = 8.0
    exact_share: float = 0.5

    restore_share: float = (
        0.0  # first part of the run, in which only the receiver learns, to restore clean features
    )

    head: Literal["none", "arcface", "cosface"] = "none"
    head_scale: float = 64.0
    head_margin: float = 0.4
    distil_weight: float = 1.0
    distil_temperature: float = 24.0  # inverse temperature of the similarity distributions
    distil_bank: int = 2048  # teacher embeddings that each face is compared with per step

    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    budget_learning_rate: float = 0.03
    schedule: Literal["cosine", "steps"] = "cosine"
    step_shares: tuple[float, ...] = (10 / 24, 18 / 24, 22 / 24)  # `steps`: divide the rate by ten at each
    flat_share: float = 0.5  # `cosine`: constant until here
    warmup_steps: int = 200
    batch_size: int = 64
    passes: int = 500_000  # faces shown in the whole run
    balanced: bool = False  # draw identities, then faces, instead of faces
    augment: bool = True
    seed: int = 20261124

    def __post_init__(self) -> None:
        if self.transform == UNPROTECTED and self.epsilon_mean is not None:
            raise ValueError("an unprotected twin has no epsilon_mean")
        if self.epsilon_mean is not None and self.epsilon_mean <= 0:
            raise ValueError("epsilon_mean is positive, or None for no noise")
        if self.head == "none" and self.distil_weight <= 0:
            raise ValueError("a run needs a teacher, a head or both")
        if self.other_epsilons and (self.epsilon_mean is None or self.exact_share < 1):
            raise ValueError("other_epsilons are for runs on exact codes from the start (exact_share 1)")
        if self.restore_share and not restoring_width(self.backbone)[0]:
            raise ValueError("restore_share is for backbones whose receiver restores")
        if not 0 <= self.easy_share <= 1 - self.exact_share <= 1:
            raise ValueError("easy_share and exact_share must fit into one run")


# Ji et al., section 4.1 and the published train.yaml: IR-50, ArcFace s=64 m=0.4, 24 epochs of MS1M, SGD 0.1 divided by
# ten at epochs 10, 18 and 22, momentum 0.9, weight decay 5e-4. One epoch of MS1MV2 is 5,822,653 faces.
_PAPER = TrainingConfig(
    name="paper",
    backbone="ir50",
    transform="paper",
    dimension=512,
    epsilon_mean=0.5,
    position_budgets=True,
    easy_share=0.0,
    exact_share=0.0,
    head="arcface",
    distil_weight=0.0,
    optimizer="sgd",
    learning_rate=0.1,
    weight_decay=5e-4,
    budget_learning_rate=0.1,
    schedule="steps",
    batch_size=512,
    passes=24 * 5_822_653,
)
_SMALL = TrainingConfig(name="small")
_EPSILONS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
_LAMBDAS = (0.0, 0.3, 1.0, 3.0)


def _unprotected(config: TrainingConfig) -> TrainingConfig:
    return replace(
        config,
        name=f"{config.name}-unprotected",
        transform=UNPROTECTED,
        epsilon_mean=None,
        easy_share=0.0,
        exact_share=0.0,
    )


def _named() -> dict[str, TrainingConfig]:
    configs = [_PAPER, replace(_PAPER, name="paper-cosface", head="cosface"), _unprotected(_PAPER)]
    for backbone in ("ir18", "ir34", "ir101", "mobilefacenet"):
        twin = replace(_PAPER, name=f"paper-{backbone}", backbone=backbone)
        configs += [twin, _unprotected(twin)]
    configs += [replace(_PAPER, name=f"paper-epsilon{e:g}", epsilon_mean=e) for e in _EPSILONS]
    configs += [
        replace(_PAPER, name="paper-uniform", budgets="uniform"),
        replace(_PAPER, name="paper-no-noise", epsilon_mean=None),
        replace(_PAPER, name="paper-with-dc", transform="paper-dc"),
    ]
    for transform in RESEARCH_SHAPES:
        base = replace(_SMALL, name=f"small-{transform}", transform=transform)
        configs += [base, replace(base, name=f"{base.name}-no-noise", epsilon_mean=None)]
        for e in _EPSILONS:
            configs.append(
                replace(base, name=f"{base.name}-uniform-epsilon{e:g}", epsilon_mean=e, budgets="uniform")
            )
            configs += [
                replace(
                    base,
                    name=f"{base.name}-epsilon{e:g}-lambda{weight:g}",
                    epsilon_mean=e,
                    attacker_weight=weight,
                )
                for weight in _LAMBDAS
            ]
    configs.append(replace(_unprotected(_SMALL), name="small-unprotected"))
    # In four runs, each --initial from the one before: the receiver learns to restore clean features, the network to
    # recognize under more noise than it ships with, then under what ships. The trunk of the first came from the
    # published weights of the network that it is distilled from; `--initial recognition/models/default-unprotected`
    # is nearly the same (docs/evaluation.md, Training).
    restoring = replace(
        _SMALL,
        name="default-restore",
        backbone="restoring-mobilefacenet-se",
        budgets="uniform",
        epsilon_mean=12.0,
        other_epsilons=(16.0,),
        easy_share=0.0,
        exact_share=1.0,
        restore_share=1.0,
        learning_rate=1e-3,
        weight_decay=0.0,
        warmup_steps=100,
        passes=64_000,
    )
    configs.append(restoring)
    configs.append(
        replace(
            restoring,
            name="default",
            restore_share=0.0,
            learning_rate=3e-4,
            warmup_steps=150,
            flat_share=0.35,
            passes=80_000,
        )
    )
    # A third run goes on from the second at the noise that ships.
    configs.append(
        replace(
            configs[-1],
            name="default-finish",
            epsilon_mean=20.0,
            other_epsilons=(16.0,),
            learning_rate=2e-4,
            warmup_steps=50,
            flat_share=0.2,
            passes=18_000,
        )
    )
    # A fourth shows that it had not learned enough: the same noise, eight times as long.
    configs.append(
        replace(
            configs[-1],
            name="default-longer",
            learning_rate=3e-4,
            warmup_steps=100,
            flat_share=0.45,
            passes=150_000,
        )
    )
    # The receiver of those four takes a third of the time of a face. One of 96 channels for 160 learns to answer as it
    # does, then all goes on at the noise that ships. These weights ship.
    slim = replace(
        restoring,
        name="default-slim-restore",
        backbone="slim-restoring-mobilefacenet-se",
        epsilon_mean=20.0,
        other_epsilons=(16.0,),
        learning_rate=2e-3,
        warmup_steps=50,
        flat_share=0.3,
        passes=40_000,
    )
    configs.append(slim)
    configs.append(
        replace(
            slim,
            name="default-slim",
            restore_share=0.0,
            learning_rate=3e-4,
            warmup_steps=100,
            flat_share=0.4,
            passes=98_368,
        )
    )
    configs.append(
        TrainingConfig(
            name="default-unprotected",
            backbone="mobilefacenet-se",
            transform=UNPROTECTED,
            epsilon_mean=None,
            easy_share=0.0,
            exact_share=0.0,
            learning_rate=1e-4,
            weight_decay=0.0,
            warmup_steps=50,
            flat_share=0.2,
            passes=12_800,
        )
    )
    return {config.name: config for config in configs}


CONFIGS: dict[str, TrainingConfig] = _named()
