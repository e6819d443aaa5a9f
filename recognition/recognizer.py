"""What production calls: perturbed features in, embeddings out.

`Recognizer` holds a model and computes batches. `BatchingRecognizer` lets many threads ask for one embedding each and
computes what arrives together as one batch. Embeddings stay in the process that calls.
"""

import queue
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from recognition.backbone import Backbone
from recognition.budget import PrivacyProfile
from recognition.checkpoint import Model, ModelError, load_model, model_folder
from recognition.types import Embedding, PerturbedFeatures

Precision = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True, slots=True)
class _Receiving:
    """A profile's numbers as tensors on the recognizer's device: value = code * step + offset, then gain."""

    step: Tensor  # (C,1,1)
    offset: Tensor  # (C,1,1)
    gain: Tensor  # (C,H,W)


class Recognizer:
    """Not thread-safe on its own account, but stateless: torch runs two calls at once, at half the speed each."""

    def __init__(
        self, model: Model, *, device: str = "cpu", threads: int | None = None, precision: Precision = "auto"
    ) -> None:
        """`threads` sets torch's intra-op threads for the whole process. `auto` takes bfloat16 where the hardware
        multiplies it natively. The model is warmed up, so the first real capture is as fast as the others."""
        if not model.accepted:
            raise ModelError(
                f"model {model.name} accepts no privacy profile: it is for comparison, not for doors"
            )
        if threads is not None:
            torch.set_num_threads(threads)
        self.name = model.name
        self.dimension = model.backbone.dimension
        self.profiles: dict[str, PrivacyProfile] = {one.profile.hash: one.profile for one in model.accepted}
        self.default_profile: PrivacyProfile = model.accepted[0].profile
        self.device = torch.device(device)
        self.precision = native_precision(self.device) if precision == "auto" else precision
        self._calibrations = {one.profile.hash: one.calibration for one in model.accepted}
        self._backbone: Backbone = model.backbone.eval().to(self.device)
        self._backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in torch's stubs
        self._receiving = {
            hash_: _receiving(profile, self.device) for hash_, profile in self.profiles.items()
        }
        self._warm_up()

    @classmethod
    def load(
        cls,
        name: Path | str = "default",
        *,
        device: str = "cpu",
        threads: int | None = None,
        precision: Precision = "auto",
    ) -> Self:
        """A model by name (of those in the package) or by the path of its folder. Raises ModelError."""
        return cls(load_model(model_folder(name)), device=device, threads=threads, precision=precision)

    def check(self, features: PerturbedFeatures) -> None:
        """Raises ValueError for features that this model does not take."""
        profile = self.profiles.get(features.profile_hash)
        if profile is None:
            raise ValueError(f"model {self.name} does not accept privacy profile {features.profile_hash}")
        if features.codes.shape != profile.shape:
            raise ValueError(f"profile {profile.name} has shape {profile.shape}, not {features.codes.shape}")

    @torch.inference_mode()
    def embed(self, batch: Sequence[PerturbedFeatures]) -> list[Embedding]:
        """Unit-length embeddings, in the order given. Profiles may be mixed. Raises ValueError, see `check`."""
        for features in batch:
            self.check(features)
        embeddings: list[Embedding | None] = [None] * len(batch)
        for profile_hash in dict.fromkeys(features.profile_hash for features in batch):
            places = [place for place, features in enumerate(batch) if features.profile_hash == profile_hash]
            vectors = self._embed(
                np.stack([batch[place].codes for place in places]), self._receiving[profile_hash]
            )
            for place, vector in zip(places, vectors, strict=True):
                embeddings[place] = Embedding(vector=vector.copy())
        return [embedding for embedding in embeddings if embedding is not None]

    def threshold_for(
        self, *, gallery_size: int, target_fpir: float, profile_hash: str | None = None
    ) -> float:
        """The least score that counts as a match in a search among `gallery_size` templates; see `Calibration`."""
        calibration = self._calibrations[profile_hash or self.default_profile.hash]
        return calibration.threshold_for(gallery_size=gallery_size, target_fpir=target_fpir)

    def _embed(self, codes: np.ndarray, receiving: _Receiving) -> np.ndarray:
        """uint8 (B,C,H,W) -> float32 (B,D) of unit length."""
        values = (
            torch.from_numpy(codes).to(self.device).float() * receiving.step + receiving.offset
        )  # (B,C,H,W)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            raw = self._backbone(values, receiving.gain)  # (B,D)
        unit: np.ndarray = F.normalize(raw.float()).cpu().numpy()
        return unit

    def _warm_up(self) -> None:
        codes = np.zeros(self.default_profile.shape, dtype=np.uint8)
        for size in (1, 2):
            with torch.inference_mode():
                self._embed(np.stack([codes] * size), self._receiving[self.default_profile.hash])


def native_precision(device: torch.device) -> Precision:
    """bfloat16 where the hardware multiplies it (AMX, AVX512-BF16, CUDA from Ampere on), float32 elsewhere."""
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    native = device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()  # every CPU with AMX has this too
    return "bfloat16" if native else "float32"


def _receiving(profile: PrivacyProfile, device: torch.device) -> _Receiving:
    offset = profile.values_of(np.zeros(profile.shape, dtype=np.uint8))[:, :1, :1]
    step = profile.values_of(np.ones(profile.shape, dtype=np.uint8))[:, :1, :1] - offset
    return _Receiving(
        step=torch.from_numpy(step.copy()).to(device),
        offset=torch.from_numpy(offset.copy()).to(device),
        gain=torch.from_numpy(profile.gain).to(device),
    )


class BatchingRecognizer:
    """Thread-safe: `embed_one` waits for its own result while others' captures are computed along with it.

    One thread of its own takes the first waiting capture, waits `max_wait_ms` for company, and computes at most
    `max_batch` at once. A batch that fails is computed again one by one, so an error reaches only the caller whose
    capture causes it.
    """

    def __init__(self, recognizer: Recognizer, *, max_batch: int = 32, max_wait_ms: float = 2) -> None:
        if max_batch < 1 or max_wait_ms < 0:
            raise ValueError("max_batch must be positive and max_wait_ms not negative")
        self.recognizer = recognizer
        self.max_batch = max_batch
        self.max_wait_s = max_wait_ms / 1000
        self._waiting: queue.SimpleQueue[tuple[PerturbedFeatures, Future[Embedding]] | None] = (
            queue.SimpleQueue()
        )
        self._closing = threading.Lock()  # nothing is queued behind the None that ends the thread
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="recognizer", daemon=True)
        self._thread.start()

    def embed_one(self, features: PerturbedFeatures, *, timeout_s: float | None = None) -> Embedding:
        """Raises ValueError for features the model does not take, TimeoutError, RuntimeError once closed."""
        return self.submit(features).result(timeout=timeout_s)

    def submit(self, features: PerturbedFeatures) -> Future[Embedding]:
        self.recognizer.check(features)
        future: Future[Embedding] = Future()
        with self._closing:
            if self._closed:
                raise RuntimeError("this recognizer is closed")
            self._waiting.put((features, future))
        return future

    def close(self) -> None:
        """Finish what waits, then stop. Repeated calls are harmless."""
        with self._closing:
            if not self._closed:
                self._closed = True
                self._waiting.put(None)
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _work(self) -> None:
        last = False
        while not last:
            first = self._waiting.get()
            if first is None:
                return
            batch, last = self._joined_by_others(first)
            running = [
                (features, future) for features, future in batch if future.set_running_or_notify_cancel()
            ]
            if running:
                self._compute(running)

    def _joined_by_others(
        self, first: tuple[PerturbedFeatures, Future[Embedding]]
    ) -> tuple[list[tuple[PerturbedFeatures, Future[Embedding]]], bool]:
        """The batch that starts with `first`, and whether the end of the queue came with it."""
        batch = [first]
        until = time.monotonic() + self.max_wait_s
        while len(batch) < self.max_batch:
            try:
                following = self._waiting.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                return batch, False
            if following is None:
                return batch, True
            batch.append(following)
        return batch, False

    def _compute(self, batch: list[tuple[PerturbedFeatures, Future[Embedding]]]) -> None:
        try:
            embeddings = self.recognizer.embed([features for features, _ in batch])
        except Exception as error:
            if len(batch) == 1:
                batch[0][1].set_exception(error)
                return
            for one in batch:
                self._compute([one])
            return
        for (_, future), embedding in zip(batch, embeddings, strict=True):
            future.set_result(embedding)
