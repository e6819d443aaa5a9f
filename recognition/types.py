"""What crosses each trust boundary, as types that cannot be mistaken for one another: a crop stays in the terminal, and
perturbed features alone leave it (docs/protocol.md, section 5)."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CROP_SIZE = 112  # pixels, the ArcFace template
CODE_BITS_MAX = 4
_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, eq=False)
class FaceCrop:
    """An aligned face, still a picture: lives in the terminal or browser only.

    `pixels`: uint8 (112, 112, 3), RGB, 0..255. Raises ValueError otherwise.
    """

    pixels: NDArray[np.uint8]

    def __post_init__(self) -> None:
        if self.pixels.dtype != np.uint8 or self.pixels.shape != (CROP_SIZE, CROP_SIZE, 3):
            raise ValueError(
                f"a face crop is uint8 (112, 112, 3), not {self.pixels.dtype} {self.pixels.shape}"
            )

    def __repr__(self) -> str:  # a crop must not reach a log through an f-string
        return "FaceCrop(<112x112 pixels>)"


@dataclass(frozen=True, eq=False)
class FrequencyFeatures:
    """Block-DCT coefficients without DC, before clipping and noise: still shows the face.

    `values`: float32 (C, H, W), finite. Raises ValueError otherwise.
    """

    transform: str
    values: NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.values.dtype != np.float32 or self.values.ndim != 3:
            raise ValueError("frequency features are float32 (C, H, W)")
        if not np.isfinite(
            [self.values.min(), self.values.max()]
        ).all():  # NaN spreads to both, and no copy is made
            raise ValueError("frequency features must be finite")

    def __repr__(self) -> str:
        return f"FrequencyFeatures({self.transform}, {self.values.shape})"


@dataclass(frozen=True, eq=False)
class PerturbedFeatures:
    """What leaves a terminal: one integer code per element, drawn at random around the clipped coefficient.

    `codes`: uint8 (C, H, W), each below 2**bits of its channel; channels without bits are 0. Biometric
    data all the same.
    """

    profile_hash: str
    codes: NDArray[np.uint8]

    def __post_init__(self) -> None:
        if not _HASH.fullmatch(self.profile_hash):
            raise ValueError("a profile hash is 64 lower-case hexadecimal digits")
        if self.codes.dtype != np.uint8 or self.codes.ndim != 3:
            raise ValueError("perturbed features are uint8 (C, H, W)")
        if self.codes.size and int(self.codes.max()) >= 1 << CODE_BITS_MAX:
            raise ValueError("a code has at most 4 bits")

    def __repr__(self) -> str:
        return f"PerturbedFeatures({self.profile_hash[:8]}, {self.codes.shape})"


@dataclass(frozen=True, eq=False)
class Embedding:
    """A face as a unit vector: never leaves a worker, never stored, never logged.

    `vector`: float32 (D,), finite, length 1 within 1e-3. Raises ValueError otherwise.
    """

    vector: NDArray[np.float32]

    def __post_init__(self) -> None:
        _require_unit_vector(self.vector, "an embedding")

    def __repr__(self) -> str:
        return f"Embedding(<{self.vector.shape[0]} values>)"


@dataclass(frozen=True, eq=False)
class ProtectedTemplate:
    """An embedding under a gallery key: what the gallery holds and compares.

    `vector`: float32 (D,), finite, length 1 within 1e-3; `key_id` names the gallery key. Raises ValueError otherwise.
    """

    vector: NDArray[np.float32]
    key_id: str

    def __post_init__(self) -> None:
        _require_unit_vector(self.vector, "a protected template")
        if not self.key_id:
            raise ValueError("a protected template names its key")

    def __repr__(self) -> str:
        return f"ProtectedTemplate(<{self.vector.shape[0]} values>, key {self.key_id})"


def _require_unit_vector(vector: NDArray[np.float32], what: str) -> None:
    if vector.dtype != np.float32 or vector.ndim != 1 or vector.size == 0:
        raise ValueError(f"{what} is float32 (D,)")
    length = float(np.linalg.norm(vector))
    if not np.isfinite(length) or abs(length - 1.0) > 1e-3:
        raise ValueError(f"{what} has length 1, not {length:.4g}")
