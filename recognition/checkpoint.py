"""A model on disk: a folder with `model.safetensors`, `model.json` and the privacy profiles the model accepts.

`model.json` names the network, the hash of its weights, and for each profile its file, its hash and the impostor scores
its thresholds come from; the first profile is the default. Nothing is unpickled: a model folder is data, never code.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
from numpy.typing import ArrayLike
from safetensors import SafetensorError
from torch import Tensor

from recognition.backbone import UNPROTECTED, Backbone, build_backbone
from recognition.budget import PrivacyProfile

FORMAT = 1
WEIGHTS = "model.safetensors"
DESCRIPTION = "model.json"
DEFAULT_PROFILE = "profile.json"
MODELS = Path(__file__).parent / "models"  # models that come with the package, addressed by name
POINTS_PER_DECADE = 4
FEWEST_SCORES_BEYOND_A_POINT = 10  # a rate measured on fewer accidents than this is not a point but a guess


class ModelError(ValueError):
    """A model folder that is incomplete, altered or contradicts itself."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Which threshold keeps strangers to which rate: measured on `comparisons` impostor scores.

    `points`: (FMR, threshold), FMR falling, threshold rising, at least two; `source` says whose scores they are.
    """

    source: str
    comparisons: int
    points: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        rates = [rate for rate, _ in self.points]
        thresholds = [threshold for _, threshold in self.points]
        if len(self.points) < 2:
            raise ModelError("a calibration needs two points or more")
        rates_are_rates = all(0 < rate < 1 for rate in rates)
        if not rates_are_rates or not all(-1 <= threshold <= 1 for threshold in thresholds):
            raise ModelError("a calibration point is a rate within (0, 1) and a cosine")
        if rates != sorted(set(rates), reverse=True) or thresholds != sorted(thresholds):
            raise ModelError("calibration points have falling rates and rising thresholds")

    def threshold_for(self, *, gallery_size: int, target_fpir: float) -> float:
        """The score below which a search among `gallery_size` templates names nobody.

        FPIR = 1 - (1 - FMR)^N for independent comparisons (METHOD of NIST FRTE 1:N); the FMR that gives the target is
        looked up in the points, linear in log FMR between them. Beyond the rarest measured rate the line through the
        last decade goes on: impostor cosines fall faster than an exponential there, so this errs on the strict side.
        Above the most frequent measured rate the first threshold holds.
        """
        if gallery_size < 1:
            raise ValueError(f"gallery_size must be positive, not {gallery_size}")
        if not 0 < target_fpir < 1:
            raise ValueError(f"target_fpir must lie within (0, 1), not {target_fpir}")
        rarity = -math.log10(-math.expm1(math.log1p(-target_fpir) / gallery_size))
        rarities = [-math.log10(rate) for rate, _ in self.points]  # rising
        thresholds = [threshold for _, threshold in self.points]
        if rarity <= rarities[-1]:
            return float(np.interp(rarity, rarities, thresholds))
        decade_earlier = rarities[-1] - 1
        base = max((i for i, measured in enumerate(rarities) if measured <= decade_earlier), default=0)
        slope = (thresholds[-1] - thresholds[base]) / (rarities[-1] - rarities[base])
        return min(1.0, thresholds[-1] + slope * (rarity - rarities[-1]))


def calibrate(impostor_scores: ArrayLike, *, source: str) -> Calibration:
    """Thresholds at FMR 10 %, then four a decade, down to the rate that ten of the scores still exceed.

    `impostor_scores`: cosines of different people under the profile in question, 200 or more. At threshold t a score
    of t or more matches, and at most the stated share of the scores does.
    """
    scores = np.sort(np.asarray(impostor_scores, dtype=np.float64).ravel())[::-1]
    points = []
    for step in range(12 * POINTS_PER_DECADE):
        rate = 10 ** -(1 + step / POINTS_PER_DECADE)
        allowed = math.floor(rate * scores.size)
        if allowed < FEWEST_SCORES_BEYOND_A_POINT:
            break
        first_that_must_not_match = scores[allowed]
        points.append((rate, float(np.nextafter(first_that_must_not_match, 1.0))))
    return Calibration(source=source, comparisons=int(scores.size), points=tuple(points))


@dataclass(frozen=True, slots=True)
class AcceptedProfile:
    """A profile that the model was trained or tested for, and what its scores mean."""

    profile: PrivacyProfile
    calibration: Calibration
    file: str = DEFAULT_PROFILE


@dataclass(frozen=True, slots=True)
class Model:
    """A network in evaluation mode with the profiles it accepts, the default first."""

    name: str
    backbone: Backbone
    accepted: tuple[AcceptedProfile, ...]

    def __post_init__(self) -> None:
        if self.backbone.transform == UNPROTECTED:
            if self.accepted:
                raise ModelError("an unprotected twin accepts no privacy profile")
            return
        if not self.accepted:
            raise ModelError("a model accepts at least one privacy profile")
        for accepted in self.accepted:
            if accepted.profile.transform != self.backbone.transform:
                raise ModelError(
                    f"profile {accepted.profile.name} is for {accepted.profile.transform} features,"
                    f" the model takes {self.backbone.transform}"
                )
        if len({one.file for one in self.accepted}) < len(self.accepted):
            raise ModelError("two profiles share one file")
        if len({one.profile.hash for one in self.accepted}) < len(self.accepted):
            raise ModelError("one profile is listed twice")


def save_model(
    folder: Path | str, *, name: str, backbone: Backbone, accepted: Sequence[AcceptedProfile]
) -> None:
    """Write the folder; `model.json` last and atomically, so a folder with one is complete.

    Matrices and filters are stored as float16, half the size: a recognizer computes in bfloat16 or from these very
    numbers. Vectors (biases, moments of batch norm, slopes) stay float32.
    """
    model = Model(name=name, backbone=backbone, accepted=tuple(accepted))
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    tensors = {key: _stored(value) for key, value in backbone.state_dict().items()}
    weights = safetensors.torch.save(tensors)
    (target / WEIGHTS).write_bytes(weights)
    for one in model.accepted:
        (target / _plain_name(one.file)).write_text(one.profile.to_json(), encoding="utf-8")
    description = {
        "format": FORMAT,
        "name": name,
        "backbone": backbone.name,
        "transform": backbone.transform,
        "dimension": backbone.dimension,
        "weights_sha256": sha256(weights).hexdigest(),
        "profiles": [
            {
                "file": one.file,
                "hash": one.profile.hash,
                "calibration": {
                    "source": one.calibration.source,
                    "comparisons": one.calibration.comparisons,
                    "points": [list(point) for point in one.calibration.points],
                },
            }
            for one in model.accepted
        ],
    }
    unfinished = target / f".{DESCRIPTION}.new"
    unfinished.write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    unfinished.replace(target / DESCRIPTION)


def _stored(value: Tensor) -> Tensor:
    value = value.detach().cpu().contiguous()
    fits = value.ndim > 1 and value.is_floating_point() and bool((value.abs() < 6e4).all())
    return value.half() if fits else value


def load_model(folder: Path | str, *, kind: type[PrivacyProfile] = PrivacyProfile) -> Model:
    """Read and verify a model folder. Raises ModelError when anything is missing, altered or contradictory.

    kind: what its profiles are read as; comparisons read some that a door refuses.
    """
    source = Path(folder)
    try:
        description = json.loads((source / DESCRIPTION).read_text(encoding="utf-8"))
        if not isinstance(description, Mapping) or description.get("format") != FORMAT:
            raise ModelError(f"{source / DESCRIPTION} does not describe a model of format {FORMAT}")
        weights = (source / WEIGHTS).read_bytes()
        if sha256(weights).hexdigest() != description["weights_sha256"]:
            raise ModelError(f"{source / WEIGHTS} is not the file that {DESCRIPTION} was written for")
        backbone = build_backbone(
            str(description["backbone"]),
            transform=str(description["transform"]),
            dimension=int(description["dimension"]),
        )
        backbone.load_state_dict(safetensors.torch.load(weights), strict=True)
        accepted = tuple(_read_profile(source, entry, kind) for entry in description["profiles"])
        return Model(name=str(description["name"]), backbone=backbone.eval(), accepted=accepted)
    except ModelError:
        raise
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{source} holds no usable model: {error}") from error


def model_folder(name: Path | str) -> Path:
    """Where a model lies: a name of one that comes with the package, or a path (anything with a separator)."""
    path = Path(name)
    return MODELS / path if len(path.parts) == 1 and not path.is_absolute() else path


def _read_profile(
    folder: Path, entry: Mapping[str, Any], kind: type[PrivacyProfile] = PrivacyProfile
) -> AcceptedProfile:
    file = _plain_name(str(entry["file"]))
    profile = kind.from_json((folder / file).read_text(encoding="utf-8"))
    if profile.hash != entry["hash"]:
        raise ModelError(f"{folder / file} is not the profile that {DESCRIPTION} was written for")
    written = entry["calibration"]
    calibration = Calibration(
        source=str(written["source"]),
        comparisons=int(written["comparisons"]),
        points=tuple((float(rate), float(threshold)) for rate, threshold in written["points"]),
    )
    return AcceptedProfile(profile=profile, calibration=calibration, file=file)


def _plain_name(file: str) -> str:
    if file != Path(file).name or not file.endswith(".json") or file == DESCRIPTION:
        raise ModelError(f"{file!r} is not a name for a profile file")
    return file
