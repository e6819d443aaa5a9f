"""Figures of merit, in pure numpy. Scores are similarities: higher means more alike, and a score is
accepted when it is at or above the threshold.

FMR/FNMR are errors of one comparison (1:1), FPIR/FNIR of one search of a gallery (1:N).
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Interval:
    """A confidence interval of a proportion, ends in [0, 1]."""

    low: float
    high: float


def wilson(successes: int, trials: int, confidence: float = 0.95) -> Interval:
    """Wilson's score interval (1927) of a proportion. Trials must be independent for it to mean what it
    says."""
    if not 0 <= successes <= trials or trials == 0:
        raise ValueError(f"{successes} successes in {trials} trials")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    p = successes / trials
    centre = (p + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * np.sqrt(p * (1 - p) / trials + z * z / (4 * trials * trials))
    low = 0.0 if successes == 0 else max(0.0, float(centre - half))
    high = 1.0 if successes == trials else min(1.0, float(centre + half))
    return Interval(low, high)


# --- 1:1 --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FoldAccuracy:
    """Accuracy over folds, as LFW's unrestricted protocol defines it: fold k at the threshold best on the
    others."""

    mean: float
    deviation: float  # standard deviation over folds
    accuracies: tuple[float, ...]
    thresholds: tuple[float, ...]


def best_threshold(scores: ArrayLike, same: ArrayLike) -> float:
    """The threshold of highest accuracy; the middle of the gap it lies in, and of several as good the
    median one."""
    s, y = np.asarray(scores, np.float64), np.asarray(same, bool)
    if s.size == 0:
        raise ValueError("no scores to choose a threshold from")
    order = np.argsort(s, kind="stable")
    s, y = s[order], y[order]
    # Cutting below position i accepts scores[i:]: right are the impostors before it and the genuine from it
    # on.
    correct = np.concatenate([[0], np.cumsum(~y)]) + np.concatenate([np.cumsum(y[::-1])[::-1], [0]])
    cuts = np.concatenate([[True], s[1:] != s[:-1], [True]])  # equal scores fall on one side together
    best = np.flatnonzero(cuts & (correct == correct[cuts].max()))
    cut = int(best[len(best) // 2])
    if cut == 0:
        return float(s[0])
    if cut == len(s):
        return float(np.nextafter(s[-1], np.inf))
    middle = (s[cut - 1] + s[cut]) / 2
    return float(middle if middle > s[cut - 1] else s[cut])


def fold_accuracy(scores: ArrayLike, same: ArrayLike, folds: ArrayLike) -> FoldAccuracy:
    """Cross-validated verification accuracy. folds names each pair's fold; there must be at least two."""
    s, y, f = np.asarray(scores, np.float64), np.asarray(same, bool), np.asarray(folds)
    names = np.unique(f)
    if len(names) < 2:
        raise ValueError("one fold leaves no other to choose a threshold on")
    thresholds = [best_threshold(s[f != name], y[f != name]) for name in names]
    accuracies = [
        float(np.mean((s[f == name] >= t) == y[f == name])) for name, t in zip(names, thresholds, strict=True)
    ]
    return FoldAccuracy(
        float(np.mean(accuracies)), float(np.std(accuracies)), tuple(accuracies), tuple(thresholds)
    )


@dataclass(frozen=True)
class ErrorRate:
    """FNMR at an FMR (or FNIR at an FPIR): what was asked, what was reached, and how many trials stand
    behind it."""

    target: float  # FMR asked for
    reached: float  # FMR of the impostor scores given at this threshold; never above the target
    threshold: float
    rate: float  # FNMR
    interval: Interval
    trials: int  # genuine
    impostor_trials: int


def threshold_at(impostor: ArrayLike, rate: float) -> float:
    """The lowest threshold that accepts at most that share of the impostor scores given.

    It is a number of the scores' own precision: numpy compares float32 scores with a plain number in
    float32, where the next float64 above a score would be that score again.
    """
    given = np.asarray(impostor)
    s = np.sort(given if given.dtype == np.float32 else given.astype(np.float64))[::-1]
    if s.size == 0:
        raise ValueError("no impostor scores")
    if not 0 <= rate <= 1:
        raise ValueError(f"a rate of {rate}")
    allowed = int(np.floor(rate * s.size + 1e-9))
    if allowed >= s.size:
        return float(s[-1])
    # Just above the first score that must be refused; scores equal to it are refused with it.
    return float(np.nextafter(s[allowed], s.dtype.type(np.inf)))


def fnmr_at_fmr(genuine: ArrayLike, impostor: ArrayLike, fmr: float) -> ErrorRate:
    """Share of genuine scores refused at the threshold that lets at most `fmr` of the impostors in.

    The interval is Wilson's for the genuine trials at that threshold; `bootstrap_fnmr` adds the threshold's
    own uncertainty.
    """
    g, i = np.asarray(genuine), np.asarray(impostor)
    threshold = threshold_at(i, fmr)
    misses = int(np.sum(g < threshold))
    return ErrorRate(
        target=fmr,
        reached=float(np.mean(i >= threshold)),
        threshold=threshold,
        rate=misses / g.size,
        interval=wilson(misses, g.size),
        trials=int(g.size),
        impostor_trials=int(i.size),
    )


def bootstrap_fnmr(
    genuine: ArrayLike, impostor: ArrayLike, fmr: float, rng: np.random.Generator, rounds: int = 1000
) -> Interval:
    """95 % percentile bootstrap of FNMR at FMR; both score sets are resampled, so the threshold moves too."""
    g, i = np.sort(np.asarray(genuine, np.float64)), np.asarray(impostor, np.float64)
    rates = np.empty(rounds)
    for k in range(rounds):
        threshold = threshold_at(rng.choice(i, i.size), fmr)
        sample = rng.choice(g, g.size)
        rates[k] = np.mean(sample < threshold)
    low, high = np.quantile(rates, [0.025, 0.975])
    return Interval(float(low), float(high))


def roc(genuine: ArrayLike, impostor: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """FMR, TMR (1 - FNMR) and threshold for every distinct score, from the strictest threshold to the laxest.

    The curve starts at (0, 0) with an infinite threshold and ends at (1, 1).
    """
    g, i = np.sort(np.asarray(genuine, np.float64)), np.sort(np.asarray(impostor, np.float64))
    thresholds = np.concatenate([[np.inf], np.unique(np.concatenate([g, i]))[::-1]])
    tmr = 1 - np.searchsorted(g, thresholds, side="left") / g.size
    fmr = 1 - np.searchsorted(i, thresholds, side="left") / i.size
    return fmr, tmr, thresholds


def auc(genuine: ArrayLike, impostor: ArrayLike) -> float:
    """Chance that a genuine score beats an impostor score, ties counting half (Mann-Whitney): the ROC's
    area."""
    g, i = np.asarray(genuine, np.float64), np.sort(np.asarray(impostor, np.float64))
    below = np.searchsorted(i, g, side="left")
    not_above = np.searchsorted(i, g, side="right")
    return float(np.mean(below + not_above) / (2 * i.size))


# --- 1:N --------------------------------------------------------------------------------------------------


def fnir_at_fpir(mate: ArrayLike, best_other: ArrayLike, impostor_top: ArrayLike, fpir: float) -> ErrorRate:
    """Share of searches by enrolled people that do not return them, at a threshold that lets at most `fpir`
    of the searches by strangers return anyone (NIST FRTE 1:N, rank 1).

    mate: per mated search, the score of the person's own entry; best_other: the best score of anyone else
    in it; impostor_top: per non-mated search, the best score of all. A mated search that ranks another
    person first, or level, is a miss whatever its score.
    """
    i = np.asarray(impostor_top, np.float64)
    threshold = threshold_at(i, fpir)
    misses = identification_misses(mate, best_other, threshold)
    trials = int(np.asarray(mate).size)
    return ErrorRate(
        target=fpir,
        reached=float(np.mean(i >= threshold)),
        threshold=threshold,
        rate=misses / trials,
        interval=wilson(misses, trials),
        trials=trials,
        impostor_trials=int(i.size),
    )


def bootstrap_fnir(
    mate: ArrayLike,
    best_other: ArrayLike,
    impostor_top: ArrayLike,
    fpir: float,
    rng: np.random.Generator,
    *,
    mated_person: ArrayLike,
    stranger: ArrayLike,
    rounds: int = 200,
) -> Interval:
    """95 % percentile bootstrap of FNIR at FPIR that draws people, each with all their searches, and so moves
    the threshold too: searches of one person stand or fall together."""
    m, o, i = (np.asarray(x, np.float64) for x in (mate, best_other, impostor_top))
    who, mates = np.unique(np.asarray(mated_person), return_inverse=True)
    others, strangers = np.unique(np.asarray(stranger), return_inverse=True)
    order = np.argsort(-i, kind="stable")
    falling, owner = i[order], strangers[order]
    rates = np.empty(rounds)
    for k in range(rounds):
        drawn = np.bincount(rng.integers(len(others), size=len(others)), minlength=len(others))[owner]
        allowed = np.floor(fpir * drawn.sum() + 1e-9)
        refused = np.flatnonzero(np.cumsum(drawn) > allowed)
        threshold = np.nextafter(falling[refused[0]], np.inf) if refused.size else -np.inf
        weight = np.bincount(rng.integers(len(who), size=len(who)), minlength=len(who))[mates]
        rates[k] = np.sum(weight * ((m < threshold) | (o >= m))) / max(1, weight.sum())
    low, high = np.quantile(rates, [0.025, 0.975])
    return Interval(float(low), float(high))


def identification_misses(mate: ArrayLike, best_other: ArrayLike, threshold: float) -> int:
    """How many mated searches fail at a threshold: below it, or with someone else at the top."""
    m, o = np.asarray(mate, np.float64), np.asarray(best_other, np.float64)
    return int(np.sum((m < threshold) | (o >= m)))


def fpir_of_gallery(fmr: ArrayLike, gallery: int) -> Floats:
    """FPIR = 1 - (1 - FMR)^N: the chance that any of N independent comparisons matches.

    Comparisons of one probe with N people are not independent (a blurred probe resembles many), so this is an
    extrapolation: use it inside the range of FMR that was measured.
    """
    return np.asarray(-np.expm1(gallery * np.log1p(-np.asarray(fmr, np.float64))))


def fmr_for_fpir(fpir: float, gallery: int) -> float:
    """The FMR per comparison at which a gallery of N reaches an FPIR: the inverse of `fpir_of_gallery`."""
    return float(-np.expm1(np.log1p(-fpir) / gallery))


# --- pictures ---------------------------------------------------------------------------------------------


def psnr(picture: ArrayLike, reference: ArrayLike) -> float:
    """Peak signal-to-noise ratio in dB of 8-bit pictures, over all channels; infinite when they are equal."""
    a, b = np.asarray(picture, np.float64), np.asarray(reference, np.float64)
    error = float(np.mean((a - b) ** 2))
    return float("inf") if error == 0 else float(10 * np.log10(255.0**2 / error))


def _gaussian_filter(image: Floats) -> Floats:
    """Correlation with an 11x11 Gaussian of sigma 1.5 over the first two axes, only where it fits."""
    taps = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    taps /= taps.sum()
    rows = sum(t * image[k : image.shape[0] - 10 + k] for k, t in enumerate(taps))
    rows = np.asarray(rows)
    return np.asarray(sum(t * rows[:, k : image.shape[1] - 10 + k] for k, t in enumerate(taps)))


def ssim(picture: ArrayLike, reference: ArrayLike) -> float:
    """Structural similarity (Wang et al. 2004) of 8-bit pictures (H, W) or (H, W, C), mean over channels.

    11x11 Gaussian window of sigma 1.5, K1 = 0.01, K2 = 0.03, population covariance, borders left out.
    """
    a, b = np.asarray(picture, np.float64), np.asarray(reference, np.float64)
    if a.shape != b.shape or min(a.shape[:2]) < 11:
        raise ValueError(f"pictures of shapes {a.shape} and {b.shape}")
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_a, mean_b = _gaussian_filter(a), _gaussian_filter(b)
    var_a = _gaussian_filter(a * a) - mean_a**2
    var_b = _gaussian_filter(b * b) - mean_b**2
    covariance = _gaussian_filter(a * b) - mean_a * mean_b
    similarity = ((2 * mean_a * mean_b + c1) * (2 * covariance + c2)) / (
        (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
    )
    return float(similarity.mean())


# --- templates --------------------------------------------------------------------------------------------


def unlinkability(mated: ArrayLike, non_mated: ArrayLike, *, prior_ratio: float = 1.0) -> float:
    """D_sys of Gomez-Barrero, Galbally, Rathgeb and Busch (IEEE TIFS 13(6), 2018): 0 unlinkable, 1 fully
    linkable.

    mated: scores between templates of one person under different keys; non_mated: of different people under
    different keys. Densities are histograms of at most 100 bins, at least ten mated scores to a bin; where
    both are sparse the figure is biased upwards, so read it beside its value for two halves of the
    non-mated scores.
    """
    m, n = np.asarray(mated, np.float64), np.asarray(non_mated, np.float64)
    bins = max(1, min(m.size // 10, 100))
    low, high = min(m.min(), n.min()), max(m.max(), n.max())
    if low == high:
        return 0.0
    edges = np.linspace(low, high, bins + 1)
    share_m = np.histogram(m, edges)[0] / m.size
    share_n = np.histogram(n, edges)[0] / n.size
    ratio = np.divide(share_m, share_n, out=np.full(bins, np.inf), where=share_n > 0) * prior_ratio
    with np.errstate(invalid="ignore"):
        local = np.where(np.isinf(ratio), 1.0, 2 * ratio / (1 + ratio) - 1)
    local[ratio <= 1] = 0.0
    return float(np.sum(local * share_m))
