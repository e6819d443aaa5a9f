"""The training loop: easy noise first, then learned budgets at full noise, then the exact codes a terminal sends.

Resumes after any interruption from `state.pt` in the run's folder (weights, optimiser, budgets, frozen profile,
counters); `torchrun` starts it on several GPUs (DistributedDataParallel). Only the first process writes.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from recognition.backbone import PLANES_SCALE, UNPROTECTED, Backbone, Receiver, Restorer, build_backbone
from recognition.budget import PrivacyProfile
from recognition.checkpoint import load_model
from recognition.frequency import RESEARCH_SHAPES
from recognition.heads import HEADS
from recognition.training.collapsed import CollapsedStem
from recognition.training.config import TrainingConfig
from recognition.training.data import Faces, augment, draw
from recognition.training.perturbation import Perturbation, Statistics, Transform, fit_profile, measure
from recognition.training.research import ResearchProfile
from recognition.types import CROP_SIZE

STATISTICS_FACES = 4_000
EMA_DECAY = 0.998
CHECKPOINT_EVERY_S = 120.0


class Student(nn.Module):
    """Everything that learns, as one module: perturbation, backbone, head. forward(...) -> (loss, parts of it)."""

    def __init__(self, config: TrainingConfig, statistics: Statistics | None, *, classes: int) -> None:
        super().__init__()
        self.config = config
        self.transform = Transform(config.transform)
        self.perturbation = None if statistics is None else Perturbation(config, statistics)
        self.backbone = build_backbone(
            config.backbone, transform=config.transform, dimension=config.dimension
        )
        if statistics is not None:
            _prepare_receiver(self.backbone.receiver, statistics)
        by_channel = self.perturbation is None or self.perturbation.place is None
        self.collapsed = CollapsedStem() if by_channel and CollapsedStem.fits(self.backbone) else None
        #: Another run's restorer, which this one's learns to answer like; in a tuple, so that it neither
        #: learns nor is saved.
        self.example: tuple[Restorer, ...] = ()
        self.head = (
            None
            if config.head == "none"
            else HEADS[config.head](
                config.dimension, classes, scale=config.head_scale, margin=config.head_margin
            )
        )

    def embed(self, pixels: Tensor, ease: float = 1.0) -> Tensor:
        if self.collapsed is not None and self.perturbation is not None and self.perturbation.profile is None:
            return F.normalize(self.collapsed(pixels, self.backbone, self.perturbation, ease).float())
        coefficients = self.transform(pixels)
        if self.perturbation is None:
            return F.normalize(self.backbone(coefficients).float())
        return F.normalize(self.backbone(*self.perturbation(coefficients, ease)).float())

    def restore(self, pixels: Tensor, ease: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of the receiver's estimate, in standard deviations, visible channels weighing more: against the clean
        features, or against the example's estimate where there is an example."""
        restorer = self.backbone.receiver.restorer
        if self.perturbation is None or restorer is None:
            raise ValueError("this backbone restores nothing")
        coefficients = self.transform(pixels)
        values, gain = self.perturbation(coefficients, ease)
        receiver, deviation = self.backbone.receiver, self.perturbation.deviation
        arrived = (values - receiver.mean) * gain
        if self.example:
            with torch.no_grad():
                wanted = self.example[0](arrived).float()
        else:
            wanted = (coefficients - receiver.mean) / deviation.clamp(min=1e-2)
        missed = (restorer(arrived).float() - wanted).square()
        weight = deviation * self.perturbation.live
        loss = (missed * weight).mean() / weight.mean()
        return loss, {"restored": 1 - loss}

    def forward(
        self,
        pixels: Tensor,
        labels: Tensor,
        teacher: Tensor | None,
        bank: Tensor | None,
        ease: float,
        only_restore: bool = False,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        if only_restore:
            return self.restore(pixels, ease)
        embeddings = self.embed(pixels, ease)
        parts: dict[str, Tensor] = {}
        loss = embeddings.new_zeros(())
        if teacher is not None and bank is not None and self.config.distil_weight > 0:
            parts["teacher"] = (1 - (embeddings * teacher).sum(1)).mean()
            parts["neighbours"] = _neighbour_loss(embeddings, teacher, bank, self.config.distil_temperature)
            loss = loss + self.config.distil_weight * (4 * parts["teacher"] + parts["neighbours"])
        if self.head is not None:
            known = labels >= 0
            if known.any():
                parts["head"] = F.cross_entropy(self.head(embeddings[known], labels[known]), labels[known])
                loss = loss + parts["head"]
        if self.perturbation is not None and self.perturbation.free.requires_grad:
            parts["recovery"] = self.perturbation.recovery().detach()
            parts["information"] = self.perturbation.information()
            loss = loss + self.config.attacker_weight * parts["information"]
        return loss, parts


def _neighbour_loss(embeddings: Tensor, teacher: Tensor, bank: Tensor, temperature: float) -> Tensor:
    """KL divergence between the teacher's and the student's similarity distributions over a bank of other faces."""
    others = torch.cat([teacher, bank])
    wanted = F.softmax(teacher @ others.T * temperature, 1)
    got = F.log_softmax(embeddings @ others.T * temperature, 1)
    return F.kl_div(got, wanted, reduction="batchmean")


def _prepare_receiver(receiver: Receiver, statistics: Statistics) -> None:
    """Start as the best linear estimate of the picture (weight times gain is the Wiener filter), around
    the mean face."""
    mean = torch.from_numpy(statistics.mean)
    receiver.mean.copy_(mean if receiver.mean.shape == mean.shape else mean.mean((1, 2), keepdim=True))
    weight = torch.tensor(statistics.deviation, dtype=torch.float32) * PLANES_SCALE
    receiver.weight.data.copy_(weight[:, None, None])
    if receiver.inverts:
        receiver.face.data.copy_(torch.from_numpy(statistics.face) * PLANES_SCALE)


class Run:
    """One training run in one folder. `train()` returns when its passes or its minutes are used up."""

    def __init__(
        self,
        config: TrainingConfig,
        training: Faces,
        folder: Path,
        *,
        device: str = "cpu",
        minutes: float | None = None,
        profile: PrivacyProfile | None = None,
        also: tuple[PrivacyProfile, ...] = (),
        initial: Path | None = None,
    ) -> None:
        self.config, self.training, self.folder, self.minutes = config, training, folder, minutes
        self.device = torch.device(device)
        self.rank = int(os.environ.get("RANK", "0"))
        self.world = int(os.environ.get("WORLD_SIZE", "1"))
        if self.world > 1 and not torch.distributed.is_initialized():
            torch.distributed.init_process_group("nccl" if self.device.type == "cuda" else "gloo")
        torch.manual_seed(config.seed + self.rank)
        self.random = np.random.default_rng([config.seed, self.rank])
        self.generator = torch.Generator().manual_seed(config.seed + self.rank)
        statistics = None
        if config.transform != UNPROTECTED:
            statistics = self._statistics()
        self.student = Student(config, statistics, classes=int(training.labels.max(initial=0)) + 1).to(
            self.device
        )
        self.student.backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in torch's stubs
        if initial is not None:
            self._start_from(initial)
        self.profile: PrivacyProfile | None = None
        self.also = also  # other profiles, each with as many batches as the first
        if profile is not None:
            self._freeze(profile)
        self.optimizers = self._optimizers()
        self.average = {key: value.clone() for key, value in self.student.backbone.state_dict().items()}
        self.passes, self.steps, self.seconds = 0, 0, 0.0
        if (folder / "state.pt").exists():
            self._resume()
        self.parallel: nn.Module = (
            DistributedDataParallel(self.student, find_unused_parameters=True)
            if self.world > 1
            else self.student
        )

    def _start_from(self, initial: Path) -> None:
        """The whole network of another run, or of a model folder, where it fits, its trunk where only the receiver
        differs. A restorer of another width becomes the example for this run's."""
        if initial.is_dir():
            stored = load_model(initial).backbone.to(self.device).state_dict()
        else:
            stored = torch.load(initial, weights_only=True, map_location=self.device)["backbone"]
        own = self.student.backbone.state_dict()
        fitting = {
            key: value for key, value in stored.items() if key in own and own[key].shape == value.shape
        }
        missing = [key for key in own if key.startswith("trunk.") and key not in fitting]
        if missing:
            raise ValueError(f"{initial} is of another network: it lacks {missing[0]}")
        self.student.backbone.load_state_dict(own | fitting)
        place = "receiver.restorer."
        restorer = {key.removeprefix(place): value for key, value in stored.items() if key.startswith(place)}
        wider = restorer and any(key.startswith(place) and key not in fitting for key in own)
        if wider and self.config.restore_share:
            channels, height, rows = self.student.backbone.receiver.mean.shape
            example = Restorer((channels, height, rows), len(restorer["place"]))
            example.load_state_dict(restorer)
            self.student.example = (example.to(self.device).eval(),)

    def _statistics(self) -> Statistics:
        random = np.random.default_rng(
            self.config.seed
        )  # the same faces for every process: one profile for all
        rows = random.choice(len(self.training), min(STATISTICS_FACES, len(self.training)), replace=False)
        if RESEARCH_SHAPES[self.config.transform][1] == CROP_SIZE:
            rows = rows[:64]  # 9.5 MB a face; every channel still has 800,000 values
        transform = Transform(self.config.transform)
        chunks = [
            transform(self._pixels(part)).numpy() for part in np.array_split(rows, max(1, len(rows) // 64))
        ]
        planes = Transform(UNPROTECTED)(self._pixels(rows)).mean(0).numpy()
        return measure(np.concatenate(chunks), planes, clip_quantile=self.config.clip_quantile)

    def _pixels(self, rows: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(self.training.pixels[rows]).permute(0, 3, 1, 2).float()

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        """The network's and, beside SGD, Adam for the budgets; all follow the same schedule."""
        config = self.config
        perturbation = self.student.perturbation
        budgets = [] if perturbation is None else perturbation.budget_parameters()
        rest = [p for p in self.student.parameters() if all(p is not b for b in budgets)]
        groups: list[dict[str, Any]] = [
            {
                "params": [p for p in rest if p.ndim in (2, 4)],
                "weight_decay": config.weight_decay,
                "base": config.learning_rate,
            },
            {
                "params": [p for p in rest if p.ndim not in (2, 4)],
                "weight_decay": 0.0,
                "base": config.learning_rate,
            },
        ]
        of_budgets = {"params": budgets, "weight_decay": 0.0, "base": config.budget_learning_rate}
        if config.optimizer == "adamw":
            groups += [of_budgets] if budgets else []
            return [torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.99))]
        network = torch.optim.SGD(groups, lr=config.learning_rate, momentum=0.9)
        return [network, torch.optim.Adam([of_budgets])] if budgets else [network]

    def share_done(self) -> float:
        """0..1 of the run, by minutes where they are given, by passes otherwise."""
        done = self.seconds / 60 / self.minutes if self.minutes else self.passes / self.config.passes
        return min(1.0, done)

    def _rate_factor(self, share: float) -> float:
        config = self.config
        warm = min(1.0, (self.steps + 1) / max(1, config.warmup_steps))
        if config.schedule == "steps":
            return float(warm * 0.1 ** sum(share >= at for at in config.step_shares))
        if share < config.flat_share:
            return warm
        fall = (share - config.flat_share) / max(1e-9, 1 - config.flat_share)
        return warm * (0.5 * (1 + math.cos(math.pi * fall)) + 0.01)

    def _ease(self, share: float) -> float:
        """How many times less noise than configured: falls geometrically to 1 over the easy share."""
        if self.config.easy_share == 0 or share >= self.config.easy_share:
            return 1.0
        return float(self.config.easy_epsilon_factor ** (1 - share / self.config.easy_share))

    def _freeze(self, profile: PrivacyProfile) -> None:
        if self.student.perturbation is None:
            raise ValueError("an unprotected twin has no profile")
        self.student.perturbation.freeze(profile)
        self.profile = profile

    def _fit_profiles(self) -> None:
        """Budgets as they are now become the run's profiles."""
        config, fitted = self.config, self.student.perturbation
        assert fitted is not None
        self.also = tuple(
            fit_profile(fitted, name=f"{config.name}-{e:g}", epsilon_mean=e) for e in config.other_epsilons
        )
        self._freeze(fit_profile(fitted, name=config.name))

    def step(self) -> dict[str, float]:
        """One batch. Returns the parts of the loss."""
        config, share = self.config, self.share_done()
        perturbs = self.student.perturbation is not None and config.epsilon_mean is not None
        if perturbs and self.profile is None and config.exact_share > 0 and share >= 1 - config.exact_share:
            self._fit_profiles()
        if self.profile is not None and self.also:
            assert self.student.perturbation is not None
            profiles = (self.profile, *self.also)
            self.student.perturbation.freeze(profiles[self.random.integers(len(profiles))])
        factor = self._rate_factor(share)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["base"] * factor
        rows = draw(self.training, count=config.batch_size, balanced=config.balanced, random=self.random)
        pixels = self._pixels(rows)
        if config.augment:
            pixels = augment(pixels, self.generator)
        labels = torch.from_numpy(self.training.labels[rows]).to(self.device)
        teacher = bank = None
        if self.training.teacher is not None:
            others = self.random.integers(0, len(self.training), config.distil_bank)
            teacher = torch.from_numpy(self.training.teacher[rows]).to(self.device)
            bank = torch.from_numpy(self.training.teacher[others]).to(self.device)
        half = self.device.type == "cuda" or (
            self.device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
        )
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            loss, parts = self.parallel(
                pixels.to(self.device), labels, teacher, bank, self._ease(share), share < config.restore_share
            )
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {loss.item()} at step {self.steps}; the last checkpoint is whole"
            )
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.student.parameters(), 5.0)
        for optimizer in self.optimizers:
            optimizer.step()
        self.steps += 1
        self.passes += config.batch_size * self.world
        self._follow()
        return {name: float(value.detach()) for name, value in parts.items()}

    @torch.no_grad()
    def _follow(self) -> None:
        """Exponential moving average of the backbone: what is evaluated and shipped."""
        decay = min(EMA_DECAY, (self.steps + 1) / (self.steps + 20))
        for key, value in self.student.backbone.state_dict().items():
            if value.dtype.is_floating_point:
                self.average[key].lerp_(value, 1 - decay)
            else:
                self.average[key].copy_(value)

    def averaged_backbone(self) -> Backbone:
        backbone = build_backbone(
            self.config.backbone, transform=self.config.transform, dimension=self.config.dimension
        )
        backbone.load_state_dict({key: value.cpu() for key, value in self.average.items()})
        return backbone.eval()

    def train(
        self,
        report: Callable[[Run, dict[str, float]], None],
        *,
        checkpoint_every_s: float = CHECKPOINT_EVERY_S,
    ) -> None:
        """Until done; `report` is called after each step by the first process, a checkpoint is written now and then."""
        last_step = last_checkpoint = time.monotonic()
        while self.share_done() < 1:
            parts = self.step()
            now = time.monotonic()
            self.seconds += now - last_step
            last_step = now
            if self.minutes and self.world > 1:
                self._agree_on_time()
            if self.rank == 0:
                report(self, parts)
                if now - last_checkpoint > checkpoint_every_s:
                    self.save()
                    last_checkpoint = now
        wants_profile = self.config.epsilon_mean is not None and self.config.exact_share > 0
        if wants_profile and self.profile is None:
            self._fit_profiles()  # so few steps that none fell into the exact part
        if self.rank == 0:
            self.save()

    def _agree_on_time(self) -> None:
        """The first process's clock: one that stopped a step before the others would leave them waiting for it."""
        seconds = torch.tensor([self.seconds], dtype=torch.float64, device=self.device)
        torch.distributed.broadcast(seconds, 0)
        self.seconds = float(seconds)

    def save(self) -> None:
        """Written aside and renamed: a kill leaves the old checkpoint or the new one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        state = {
            "config": asdict(self.config),
            "student": self.student.state_dict(),
            "backbone": self.average,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "profile": None if self.profile is None else self.profile.to_json(),
            "also": [profile.to_json() for profile in self.also],
            "passes": self.passes,
            "steps": self.steps,
            "seconds": self.seconds,
            "random": str(self.random.bit_generator.state["state"]["state"]),
        }
        unfinished = self.folder / "state.pt.new"
        torch.save(state, unfinished)
        unfinished.replace(self.folder / "state.pt")

    def _resume(self) -> None:
        state = torch.load(self.folder / "state.pt", weights_only=True, map_location=self.device)
        if TrainingConfig(**state["config"]) != self.config:
            raise ValueError(
                f"{self.folder} holds a run of another config; choose another folder or delete it"
            )
        if state["profile"] is not None:
            self.also = tuple(ResearchProfile.from_json(text) for text in state["also"])
            self._freeze(ResearchProfile.from_json(state["profile"]))
        self.student.load_state_dict(state["student"])
        for optimizer, stored in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(stored)
        self.average = {key: value.clone() for key, value in state["backbone"].items()}
        self.passes, self.steps, self.seconds = state["passes"], state["steps"], state["seconds"]
        self.random = np.random.default_rng([self.config.seed, self.rank, self.steps])
        self.generator.manual_seed(self.config.seed + self.rank + 7919 * self.steps)


@torch.no_grad()
def embed_faces(run: Run, faces: Faces, *, batch_size: int = 128) -> NDArray[np.float32]:
    """Averaged network on un-augmented faces, perturbed as the run perturbs now: float32 (N, D) unit."""
    live = {key: value.clone() for key, value in run.student.backbone.state_dict().items()}
    run.student.backbone.load_state_dict(run.average)
    run.student.eval()
    out = [
        run.student.embed(
            torch.from_numpy(faces.pixels[at : at + batch_size]).permute(0, 3, 1, 2).float().to(run.device)
        ).cpu()
        for at in range(0, len(faces), batch_size)
    ]
    run.student.train()
    run.student.backbone.load_state_dict(live)
    return torch.cat(out).numpy()


def validate(run: Run, faces: Faces) -> dict[str, float]:
    """All pairs of held-out people: genuine accepted at FMR 1e-2 and 1e-3, and the best balanced accuracy."""
    embeddings = embed_faces(run, faces)
    first, second = np.triu_indices(len(faces), 1)
    scores = (embeddings @ embeddings.T)[first, second]
    same = faces.labels[first] == faces.labels[second]
    genuine, impostor = scores[same], np.sort(scores[~same])
    cuts = np.linspace(-0.2, 0.9, 200)
    found = 1 - np.searchsorted(np.sort(genuine), cuts) / len(genuine)
    kept_out = np.searchsorted(impostor, cuts) / len(impostor)
    figures = {
        f"tar@{rate:g}": float((genuine > impostor[int(len(impostor) * (1 - rate))]).mean())
        for rate in (1e-2, 1e-3)
    }
    return figures | {"balanced": float(((found + kept_out) / 2).max())}
