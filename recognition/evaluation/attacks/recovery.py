"""What a recovery attack is worth: likeness of the pictures, and whose face an unrelated recogniser sees in
them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from recognition.evaluation import metrics
from recognition.evaluation.attacks.judge import Judge
from recognition.evaluation.attacks.operator import crops_from_planes, planes_from_crops


def flat(crops: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pictures of the mean colour alone: what an attacker has before attacking."""
    planes = planes_from_crops(crops)
    return crops_from_planes(planes.mean(dim=(2, 3), keepdim=True).expand_as(planes))


def figures_of(
    recovered: NDArray[np.uint8],
    crops: NDArray[np.uint8],
    judge: Judge | None,
    others: NDArray[np.uint8] | None = None,
) -> dict[str, Any]:
    """Mean SSIM and PSNR, and the share of recovered pictures that the judge accepts.

    accepted: against the very crop that was attacked, which is the attacker's best case; accepted_other:
    against another picture of the person, where `others` has one for each.
    """
    similarity = [metrics.ssim(r, c) for r, c in zip(recovered, crops, strict=True)]
    ratio = [metrics.psnr(r, c) for r, c in zip(recovered, crops, strict=True)]
    figures: dict[str, Any] = {
        "ssim": float(np.mean(similarity)),
        "ssim_greatest": float(np.max(similarity)),
        "psnr": float(np.mean(np.minimum(ratio, 99.0))),
        "faces": len(crops),
    }
    if judge is not None:
        for key, references in (("accepted", crops), ("accepted_other", others)):
            if references is not None:
                hits = judge.accepted(recovered, references)
                interval = metrics.wilson(int(hits.sum()), len(hits))
                figures |= {key: float(hits.mean()), f"{key}_interval": [interval.low, interval.high]}
    return figures
