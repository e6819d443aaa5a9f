"""1:1: do two pictures show one person? Accuracy over folds, FNMR at FMR, and both by group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recognition.evaluation import metrics
from recognition.evaluation.data import DataError, IjbProtocol, Pairs
from recognition.evaluation.embedding import Embedder, Progress, embed_all, fuse
from recognition.types import FaceCrop

FMRS = (1e-2, 1e-3, 1e-4)
IJB_FMRS = (1e-3, 1e-4, 1e-5)
AGE_BANDS = ((0, 18), (18, 30), (30, 45), (45, 60), (60, 200))  # years, upper end excluded
BINS = 40_000  # of [-1, 1], for score sets too large to keep


def verify(
    embedder: Embedder,
    images: Mapping[str, FaceCrop],
    pairs: Pairs,
    *,
    captures: int = 1,
    different: Mapping[str, str] | None = None,
    seed: int = 0,
    progress: Progress = lambda done: None,
) -> tuple[dict[str, Any], NDArray[np.float64], dict[str, NDArray[np.float32]]]:
    """Figures, the score of every pair, and the embedding of every picture. captures > 1 fuses that many.

    Those of one picture, each with its own noise, on both sides of a pair. different (picture -> identity): the first
    side is an attempt of captures of different pictures of that person, as `attempts_of` takes them.
    """
    attempts = None if different is None else attempts_of(pairs, images, different, captures)
    names = pairs.names() if attempts is None else names_of(pairs, attempts)
    missing = [name for name in names if name not in images]
    if missing:
        raise DataError(f"{len(missing)} pictures of the pairs are missing, the first is {missing[0]!r}")
    embedded = embed_all(embedder, images, names, captures=captures, progress=progress)
    vectors = {name: fuse(v) for name, v in embedded.items()}
    probes = [vectors[name] for name in pairs.first]
    more: dict[str, Any] = {"captures": captures}
    if captures > 1:
        more["fused"] = "one picture" if attempts is None else "different pictures"
    if attempts is not None:
        few = [len(set(attempt)) for attempt in attempts]
        # The twin has one vector of a picture: whichever capture is asked for is the same.
        probes = [
            fuse(np.stack([embedded[n][min(a[:k].count(n), len(embedded[n]) - 1)] for k, n in enumerate(a)]))
            for a in attempts
        ]
        more["attempts_of_different_pictures"] = float(np.mean([count == captures for count in few]))
        more["pictures_an_attempt"] = float(np.mean(few))
    scores = np.array([float(a @ vectors[b]) for a, b in zip(probes, pairs.second, strict=True)], np.float64)
    figures = figures_of(scores, pairs, seed=seed)
    return (
        figures | more | {"images": len(vectors), "pairs": len(pairs)} | embedder.describe(),
        scores,
        vectors,
    )


def attempts_of(
    pairs: Pairs, images: Mapping[str, FaceCrop], identities: Mapping[str, str], captures: int
) -> list[list[str]]:
    """The pictures of each pair's first side when it is an attempt of several captures: the pair's own picture, then
    others of that person, never the one it is compared with; from the start again where a person has no more."""
    pictures: dict[str, list[str]] = {}
    for name in sorted(identities):
        if name in images:
            pictures.setdefault(identities[name], []).append(name)
    attempts = []
    for first, second in zip(pairs.first, pairs.second, strict=True):
        others = pictures.get(identities.get(first, ""), [])
        own = [first, *(name for name in others if name not in (first, second))]
        attempts.append([own[k % len(own)] for k in range(captures)])
    return attempts


def names_of(pairs: Pairs, attempts: Sequence[Sequence[str]]) -> list[str]:
    """Every picture of the pairs and of their attempts, once."""
    return list(dict.fromkeys([*pairs.names(), *(name for attempt in attempts for name in attempt)]))


def figures_of(scores: NDArray[np.float64], pairs: Pairs, *, seed: int = 0) -> dict[str, Any]:
    """Accuracy over folds, AUC, and FNMR at each FMR with the trials behind it."""
    genuine, impostor = scores[pairs.same], scores[~pairs.same]
    accuracy = metrics.fold_accuracy(scores, pairs.same, pairs.fold)
    rng = np.random.default_rng(seed)
    figures: dict[str, Any] = {
        "accuracy": accuracy.mean,
        "accuracy_deviation": accuracy.deviation,
        "accuracy_threshold": float(np.mean(accuracy.thresholds)),
        "auc": metrics.auc(genuine, impostor),
        "genuine_trials": int(genuine.size),
        "impostor_trials": int(impostor.size),
    }
    for fmr in FMRS:
        at = metrics.fnmr_at_fmr(genuine, impostor, fmr)
        key = f"fnmr_at_fmr_{_exponent(fmr)}"
        figures[key] = at.rate
        figures[f"{key}_interval"] = [at.interval.low, at.interval.high]
        bootstrap = metrics.bootstrap_fnmr(genuine, impostor, fmr, rng, rounds=500)
        figures[f"{key}_bootstrap"] = [bootstrap.low, bootstrap.high]
        figures[f"{key}_threshold"] = at.threshold
        # Fewer than ten impostors beyond the threshold measure no rate: say how many stand behind the figure.
        figures[f"{key}_impostors_beyond"] = round(at.reached * at.impostor_trials)
    return figures


def dense_impostors(
    vectors: Mapping[str, NDArray[np.float32]], identities: Mapping[str, str]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Histogram of the scores of every two pictures of different people: counts and the lower bin edges."""
    names = [name for name in vectors if name in identities]
    matrix = np.stack([vectors[name] for name in names])
    people = np.unique([identities[name] for name in names], return_inverse=True)[1]
    edges = np.linspace(-1, 1, BINS + 1)
    counts = np.zeros(BINS, np.int64)
    for row in range(0, len(names), 512):
        scores = (
            matrix[row : row + 512] @ matrix[row:].T
        )  # each pair once, in the rows of its earlier picture
        later = np.arange(scores.shape[1])[None, :] > np.arange(scores.shape[0])[:, None]
        different = people[row : row + 512, None] != people[None, row:]
        counts += np.histogram(np.clip(scores[later & different], -1, 1), edges)[0]
    return counts, edges[:-1]


def dense_figures(
    scores: NDArray[np.float64],
    pairs: Pairs,
    vectors: Mapping[str, NDArray[np.float32]],
    identities: Mapping[str, str],
) -> dict[str, Any]:
    """FNMR of the test's genuine pairs at thresholds from every possible impostor comparison.

    The comparisons share pictures, so they are far from independent: they place the threshold better than
    3,000 pairs can, they do not make 29 million trials.
    """
    counts, lower = dense_impostors(vectors, identities)
    total, genuine = int(counts.sum()), scores[pairs.same]
    beyond = np.cumsum(counts[::-1])[::-1]  # at or above each lower edge
    figures: dict[str, Any] = {"dense_impostor_comparisons": total}
    for fmr in (*FMRS, 1e-5):
        allowed = np.flatnonzero(beyond <= fmr * total)
        if fmr * total < 10 or not allowed.size:
            continue
        threshold = float(lower[allowed[0]])
        misses = int(np.sum(genuine < threshold))
        interval = metrics.wilson(misses, genuine.size)
        key = f"dense_fnmr_at_fmr_{_exponent(fmr)}"
        figures |= {key: misses / genuine.size, f"{key}_interval": [interval.low, interval.high]}
        figures[f"{key}_threshold"] = threshold
    return figures


def group_of(value: str, column: str) -> str:
    """The group a label belongs to: itself, or for ages in years the band."""
    if column == "age" and value.isdigit():
        for low, high in AGE_BANDS:
            if low <= int(value) < high:
                return f"{low}-{high - 1}" if high < 200 else f"{low}+"
    return value


def by_group(
    scores: NDArray[np.float64],
    pairs: Pairs,
    labels: Mapping[str, Mapping[str, str]],
    column: str,
    threshold: float,
) -> dict[str, dict[str, Any]]:
    """FNMR, FMR and accuracy at one threshold for the pairs whose two pictures are both of one group.

    One threshold for everybody, because a door has one: a group it serves worse shows here. Pictures
    without the label are left out; a group's intervals say how far its few pairs can be trusted.
    """
    groups = [
        (
            group_of(labels.get(a, {}).get(column, ""), column),
            group_of(labels.get(b, {}).get(column, ""), column),
        )
        for a, b in zip(pairs.first, pairs.second, strict=True)
    ]
    result: dict[str, dict[str, Any]] = {}
    for group in sorted({a for a, b in groups if a and a == b}):
        inside = np.array([pair == (group, group) for pair in groups])
        genuine, impostor = scores[inside & pairs.same], scores[inside & ~pairs.same]
        figures: dict[str, Any] = {
            "genuine_trials": int(genuine.size),
            "impostor_trials": int(impostor.size),
            "accuracy": float(np.mean((scores[inside] >= threshold) == pairs.same[inside])),
        }
        for name, wrong, trials in (
            ("fnmr", int(np.sum(genuine < threshold)), genuine.size),
            ("fmr", int(np.sum(impostor >= threshold)), impostor.size),
        ):
            if trials:
                interval = metrics.wilson(wrong, trials)
                figures |= {name: wrong / trials, f"{name}_interval": [interval.low, interval.high]}
        result[group] = figures
    return result


def evenly(identities: Mapping[str, str], most: int, *, seed: int) -> list[str]:
    """At most so many pictures of everybody, drawn by the seed: the well photographed do not decide alone."""
    rng = np.random.default_rng(seed)
    taken: dict[str, int] = {}
    names = []
    for name in rng.permutation(sorted(identities)):
        person = identities[str(name)]
        taken[person] = taken.get(person, 0) + 1
        if taken[person] <= most:
            names.append(str(name))
    return sorted(names)


def all_pairs_by_group(
    vectors: Mapping[str, NDArray[np.float32]],
    identities: Mapping[str, str],
    labels: Mapping[str, Mapping[str, str]],
    columns: Sequence[str],
    fmr: float,
) -> dict[str, Any]:
    """FNMR and FMR of every group of each column at the threshold that lets `fmr` of all strangers in.

    Strangers are compared inside their group, where they are more alike than strangers at large. Pairs share
    pictures, so Wilson's intervals are too narrow; `people` says how many stand behind a group.
    """
    names = list(vectors)
    matrix = np.stack([vectors[name] for name in names])
    people = np.unique([identities[name] for name in names], return_inverse=True)[1]
    scores = matrix @ matrix.T
    later = np.triu(np.ones(scores.shape, bool), k=1)
    different = people[:, None] != people[None, :]
    threshold = metrics.threshold_at(scores[later & different], fmr)
    figures: dict[str, Any] = {"threshold": threshold, "fmr_target": fmr, "people": int(people.max()) + 1}
    groups: dict[str, Any] = {}
    for column in columns:
        values = np.array([group_of(labels.get(name, {}).get(column, ""), column) for name in names])
        if not (values != "").any():
            raise DataError(f"no picture has a label {column!r}")
        groups[column] = {}
        for value in sorted(set(values) - {""}):
            inside = later & (values == value)[:, None] & (values == value)[None, :]
            row: dict[str, Any] = {"people": len(np.unique(people[values == value]))}
            for key, kind, wrong in (
                ("fnmr", ~different, scores < threshold),
                ("fmr", different, scores >= threshold),
            ):
                trials, errors = int((inside & kind).sum()), int((inside & kind & wrong).sum())
                row[f"{key}_trials"] = trials
                if trials:
                    interval = metrics.wilson(errors, trials)
                    row |= {key: errors / trials, f"{key}_interval": [interval.low, interval.high]}
            groups[column][value] = row
    return figures | {"groups": groups}


# --- IJB --------------------------------------------------------------------------------------------------


def template_vectors(
    vectors: NDArray[np.float32], template: NDArray[np.int64], media: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Template ids (sorted) and their unit vectors: mean within each medium, sum over media, unit length.

    A long video so counts as much as one photograph, as the IJB protocols and InsightFace's evaluation have
    it.
    """
    groups, place = np.unique(np.stack([template, media], axis=1), axis=0, return_inverse=True)
    place = place.reshape(-1)
    sums = np.zeros((len(groups), vectors.shape[1]), np.float64)
    np.add.at(sums, place, vectors)
    means = sums / np.bincount(place)[:, None]
    ids, owner = np.unique(groups[:, 0], return_inverse=True)
    totals = np.zeros((len(ids), vectors.shape[1]), np.float64)
    np.add.at(totals, owner, means)
    return ids, (totals / np.linalg.norm(totals, axis=1, keepdims=True)).astype(np.float32)


def verify_templates(vectors: NDArray[np.float32], protocol: IjbProtocol) -> dict[str, Any]:
    """IJB 1:1: TPR (1 - FNMR) at each FPR, from one vector per picture in the protocol's order."""
    ids, templates = template_vectors(vectors, protocol.template, protocol.media)
    first, second = np.searchsorted(ids, protocol.first), np.searchsorted(ids, protocol.second)
    scores = np.empty(len(first))
    for start in range(0, len(first), 100_000):
        part = slice(start, start + 100_000)
        scores[part] = np.einsum("nd,nd->n", templates[first[part]], templates[second[part]])
    genuine, impostor = scores[protocol.same], scores[~protocol.same]
    figures: dict[str, Any] = {
        "auc": metrics.auc(genuine, impostor),
        "templates": len(ids),
        "images": len(vectors),
        "genuine_trials": int(genuine.size),
        "impostor_trials": int(impostor.size),
    }
    for fpr in IJB_FMRS:
        at = metrics.fnmr_at_fmr(genuine, impostor, fpr)
        figures[f"tpr_at_fpr_{_exponent(fpr)}"] = 1 - at.rate
        figures[f"tpr_at_fpr_{_exponent(fpr)}_interval"] = [1 - at.interval.high, 1 - at.interval.low]
    return figures


def _exponent(rate: float) -> str:
    """0.001 to `1e-3`."""
    mantissa, exponent = f"{rate:e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"
