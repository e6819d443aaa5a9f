"""Accuracy against what an attacker gets: the plot a deployment chooses from, and the table behind it.

Both are joined from result files by the hash of the privacy profile: a protected verification gives the accuracy,
attacks on the same profile give SSIM and acceptance. Nothing is typed in by hand.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recognition.evaluation.data import DataError
from recognition.evaluation.report import number, percent, table
from recognition.training.config import CONFIGS, TrainingConfig

Result = Mapping[str, Any]
SERIES = ("paper", "paper + attacker", "critical", "critical + attacker")  # drawn first
MARKERS = "osD^vPX"  # seven beside ten colours: seventy curves before two look alike


@dataclass
class Point:
    """One model under one profile. Figures that nobody measured are None."""

    model: str
    profile: str
    profile_hash: str
    transform: str
    epsilon_mean: float | None
    payload_bytes: int | None
    accuracy: float | None = None
    fnmr: float | None = None
    fnmr_interval: tuple[float, float] | None = None
    pairs: int | None = None
    captures: int = 1
    training: Mapping[str, Any] | None = None  # what a sweep noted of it
    linear_ssim: float | None = None
    linear_accepted: float | None = None
    learned_ssim: float | None = None
    learned_accepted: float | None = None
    commands: list[str] = field(default_factory=list)

    @property
    def config(self) -> TrainingConfig | None:
        """The training config that the model is named after; the shipped one is made by `default`."""
        named = self.model.partition("+")[0]
        return CONFIGS.get(named) or CONFIGS.get(re.sub(r"[-_](balanced|strict)$", "", named))

    @property
    def series(self) -> str:
        """Which curve it belongs to: one of the four of learned budgets, uniform ones, or a variant of a sweep."""
        config = self.config
        name = "other"
        if config is not None:
            name = f"{self.transform} + attacker" if config.attacker_weight > 0 else self.transform
            name += ", uniform" if config.budgets == "uniform" else ""
        variant = self.model.partition("+")[2]
        name += f", {variant}" if variant else ""
        return name + (f", {self.captures} captures" if self.captures > 1 else "")

    @property
    def complete(self) -> bool:
        return self.accuracy is not None and self.linear_ssim is not None


def read_points(results: Sequence[Result], *, quick: bool = False) -> list[Point]:
    """Every profile that a verification or an attack measured, least SSIM first.

    quick: also verifications of every N-th pair, and of several captures fused beside attacks on as many: for points
    compared with one another. Without it such figures are left out, since they are of another kind than the rest.
    """
    points: dict[tuple[str, str, int], Point] = {}
    for result in results:
        if result.get("command") != "verification" or not result.get("protected"):
            continue
        if not quick and (result.get("captures") != 1 or result.get("every", 1) != 1):
            continue
        point = points.setdefault(_key(result), _point(result))
        interval = result.get("fnmr_at_fmr_1e-3_interval")
        point.accuracy, point.fnmr = result["accuracy"], result.get("fnmr_at_fmr_1e-3")
        point.fnmr_interval = None if interval is None else (interval[0], interval[1])
        point.pairs, point.training = result.get("pairs"), result.get("training")
        point.commands.append(command_of(result))
    for result in results:
        kind = result.get("attack")
        if kind not in ("linear", "learned"):
            continue
        for row in result["rows"]:
            if not row.get("coded"):
                continue
            attacked = (row.get("profile_hash"), row.get("captures"))
            for point in [p for p in points.values() if (p.profile_hash, p.captures) == attacked]:
                setattr(point, f"{kind}_ssim", row["ssim"])
                setattr(point, f"{kind}_accepted", row.get("accepted"))
                if command_of(result) not in point.commands:
                    point.commands.append(command_of(result))
    return sorted(points.values(), key=lambda p: (p.linear_ssim is None, p.linear_ssim or 0, p.model))


def _key(result: Result) -> tuple[str, str, int]:
    return str(result["model"]), str(result["profile_hash"]), int(result["captures"])


def _point(result: Result) -> Point:
    return Point(
        model=str(result["model"]),
        profile=str(result["profile"]),
        profile_hash=str(result["profile_hash"]),
        transform=str(result["transform"]),
        epsilon_mean=result.get("epsilon_mean_per_coefficient"),
        payload_bytes=result.get("payload_bytes"),
        captures=int(result["captures"]),
    )


def command_of(result: Result) -> str:
    """The command that printed a result, with the names of its files."""
    arguments = [str(argument) for argument in result.get("arguments", [])]
    return shlex.join(["python", "-m", "recognition.evaluation", *arguments]) if arguments else "not recorded"


def plain_arguments(arguments: Sequence[str]) -> list[str]:
    """Arguments with folders left out: what is recorded must not tell of the machine it ran on."""
    return [Path(a).name if "/" in a and not a.startswith("-") else a for a in arguments]


def references(results: Sequence[Result], *, quick: bool = False) -> dict[str, float]:
    """What the front is measured against: accuracy of the twin, SSIM of the mean colour alone and without noise."""
    found: dict[str, float] = {}
    for result in results:
        unprotected = result.get("command") == "verification" and result.get("protected") is False
        if unprotected and (quick or result.get("every", 1) == 1):
            found["unprotected twin"] = result["accuracy"]
        if result.get("attack") == "linear":
            for row in result["rows"]:
                if row["protection"] == "mean colour alone" or row["protection"].startswith("none ("):
                    found[row["protection"]] = row["ssim"]
    return found


def trade_off_table(points: Sequence[Point], twin: float | None = None) -> str:
    """Markdown: a table, and under it the commands that make each row again."""
    if not points:
        raise DataError("no verification of a protected model is among these results")
    header = ["row", "model, profile", "transform", "budgets", "ε per coefficient", "captures", "bytes"]
    header += ["pairs", "accuracy"]
    header += ["below the twin", "FNMR at FMR 1e-3", "linear SSIM", "accepted", "learned SSIM", "accepted"]
    rows, again = [], []
    for place, point in enumerate(points, start=1):
        config = point.config
        interval = point.fnmr_interval
        rows.append(
            [
                str(place),
                f"{point.model}, {point.profile}",
                point.transform,
                "" if config is None else _budgets(config),
                number(point.epsilon_mean, 3).rstrip("0").rstrip("."),
                str(point.captures),
                "" if point.payload_bytes is None else f"{point.payload_bytes:,}",
                "" if point.pairs is None else f"{point.pairs:,}",
                percent(point.accuracy, 2),
                ""
                if twin is None or point.accuracy is None
                else f"{100 * (twin - point.accuracy):.2f} points",
                percent(point.fnmr)
                + ("" if interval is None else f" [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"),
                number(point.linear_ssim, 3),
                percent(point.linear_accepted),
                number(point.learned_ssim, 3),
                percent(point.learned_accepted),
            ]
        )
        again.append(
            f"Row {place}: profile `{point.profile_hash[:16]}`\n\n```sh\n"
            + "\n".join([_training_command(point), *dict.fromkeys(point.commands)])
            + "\n```"
        )
    return table(header, rows) + "\n\n" + "\n\n".join(again) + "\n"


def _training_command(point: Point) -> str:
    if point.training is not None:
        words = ["python", "-m", "recognition.evaluation", "sweep", "--points", str(point.training["point"])]
        return (
            shlex.join([*words, "--passes", str(point.training["passes"])])
            + " ...  # as in docs/evaluation.md"
        )
    if point.config is None:
        return "not one of the named configs"
    name = point.config.name
    return shlex.join(["python", "-m", "recognition.training", "--config", name, "--out", f"runs/{name}"])


def _budgets(config: TrainingConfig) -> str:
    if config.budgets == "uniform":
        return "uniform"
    return f"learned, attacker's weight {config.attacker_weight:g}" if config.attacker_weight else "learned"


def plot(points: Sequence[Point], out: Path, known: Mapping[str, float], title: str = "") -> int:
    """Accuracy against SSIM and against acceptance under the linear attack; how many points. Needs matplotlib."""
    shown = [point for point in points if point.complete]
    if not shown:
        raise DataError("no profile has both a verification and a linear attack among these results")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise DataError("plots need matplotlib: pip install 'lintel[demo]'") from error
    figure = Figure(figsize=(10, 5), layout="constrained")
    FigureCanvasAgg(figure)
    by_ssim, by_share = figure.subplots(1, 2, sharey=True)
    others = sorted({point.series for point in shown} - set(SERIES))
    drawn = [series for series in (*SERIES, *others) if any(point.series == series for point in shown)]
    for number_of, series in enumerate(drawn):
        own = [point for point in shown if point.series == series]
        style = {
            "marker": MARKERS[number_of % len(MARKERS)],
            "color": f"C{number_of % 10}",
            "linestyle": "-" if len(own) > 1 and not series.startswith("other") else "none",
        }
        by_ssim.plot(
            [p.linear_ssim for p in own], [100 * (p.accuracy or 0) for p in own], label=series, **style
        )
        judged = sorted(
            (p for p in own if p.linear_accepted is not None), key=lambda p: p.linear_accepted or 0
        )
        by_share.plot(
            [100 * (p.linear_accepted or 0) for p in judged],
            [100 * (p.accuracy or 0) for p in judged],
            **style,
        )
        for point in own:
            place = (point.linear_ssim or 0.0, 100 * (point.accuracy or 0.0))
            # A sweep's profiles are called like their points, which the legend says already.
            text = f"{'' if point.training else point.profile} ε {point.epsilon_mean or 0:.3g}".strip()
            by_ssim.annotate(text, place, xytext=(4, -10), textcoords="offset points", fontsize=7)
    for name, value in known.items():
        if name == "unprotected twin":
            for axes in (by_ssim, by_share):
                axes.axhline(100 * value, color="grey", linestyle="--", linewidth=0.8)
            by_share.annotate(
                name, (0.98, 100 * value), xycoords=("axes fraction", "data"), ha="right", fontsize=7
            )
        else:
            by_ssim.axvline(value, color="grey", linestyle=":", linewidth=0.8)
            by_ssim.annotate(name, (value, 0.02), xycoords=("data", "axes fraction"), rotation=90, fontsize=7)
    by_ssim.set_xlabel("SSIM of the linear attack on one capture")
    by_share.set_xlabel("recovered faces accepted by the judge, %")
    by_ssim.set_ylabel("verification accuracy, %")
    figure.legend(loc="outside lower center", ncols=4, fontsize=8)
    if title:
        figure.suptitle(title)
    figure.savefig(out, dpi=110)
    return len(shown)
