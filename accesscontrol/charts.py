"""Charts as numbers for a template that draws them as SVG. Pure.

Horizontal places are percentages and vertical ones pixels, so that a chart fits a phone and a wide screen without
its text being stretched or shrunk. Every chart carries its figures as a table for whoever reads tables.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

PLOT_HEIGHT = 170  # pixels between the axis and the highest value
TOP = 26  # pixels above the plot, where the highest tick's label stands
BOTTOM = 26  # pixels below the axis, for labels
HEIGHT = TOP + PLOT_HEIGHT + BOTTOM
AXIS = TOP + PLOT_HEIGHT
ROW_HEIGHT = 46  # of a bar with its words above
BAR_TOP, BAR_HEIGHT = 22, 14
MOST_LABELS = 8


@dataclass(frozen=True)
class Part:
    """One coloured rectangle. `series` is its place in the legend, from 0."""

    x: float
    y: float
    width: float
    height: float
    series: int


@dataclass(frozen=True)
class Tick:
    """A line of the grid (y) or a label of the axis (x). `minor` labels go on a narrow screen."""

    at: float
    label: str
    minor: bool = False


@dataclass(frozen=True)
class Bar:
    """One bar of a list of bars: words, a number and coloured parts. `y` is the line on which the words stand."""

    y: float
    label: str
    value: str
    parts: list[Part]
    label_more: str = ""  # what a narrow screen leaves out
    value_more: str = ""


@dataclass(frozen=True)
class Line:
    """A middle with a band around it, as SVG points in a square of 100 x 100."""

    middle: str
    band: str
    dots: list[tuple[float, float]]


@dataclass(frozen=True)
class Chart:
    """`kind` says which drawing the template makes. An empty chart has no parts, bars or line and says `empty`."""

    kind: str
    name: str
    title: str
    description: str
    columns: list[str]
    rows: list[list[str]]
    height: int = HEIGHT
    legend: list[str] = field(default_factory=list)
    first_series: int = 0
    parts: list[Part] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    line: Line | None = None
    x_ticks: list[Tick] = field(default_factory=list)
    y_ticks: list[Tick] = field(default_factory=list)
    mark: tuple[float, float] | None = None  # a band between two places, in percent
    mark_label: str = ""
    mark_side: str = "start"
    axis: int = AXIS
    empty: str = ""
    summary: str = ""  # one sentence for somebody who does not see the drawing


def round_up(value: float) -> int:
    """The next of 1, 2, 5, 10, 20, 50, ... that is not below: where an axis ends."""
    if value <= 1:
        return 1
    power = 10 ** math.floor(math.log10(value))
    return next(int(step * power) for step in (1, 2, 5, 10) if step * power >= value)


def columns(
    *,
    name: str,
    title: str,
    description: str,
    heading: str,
    series: Sequence[str],
    labels: Sequence[str],
    values: Sequence[Sequence[int]],
    empty: str,
    short: Sequence[str] | None = None,
) -> Chart:
    """Stacked columns side by side. `values[i]` holds one number for each of the series.

    `short` are labels for the axis, where those of the table are too long for it.
    """
    table = [[label, *(f"{number:,}" for number in row)] for label, row in zip(labels, values, strict=True)]
    if not any(sum(row) for row in values):
        return Chart("columns", name, title, description, [heading, *series], table, empty=empty)
    top = round_up(max(sum(row) for row in values))
    slot = 100 / len(values)
    parts = []
    for place, row in enumerate(values):
        below = 0.0
        for number, count in enumerate(row):
            height = count / top * PLOT_HEIGHT
            if count:
                x, width = (place + 0.12) * slot, 0.76 * slot
                parts.append(Part(_two(x), _two(AXIS - below - height), _two(width), _two(height), number))
            below += height
    return Chart(
        "columns",
        name,
        title,
        description,
        [heading, *series],
        table,
        legend=list(series),
        parts=parts,
        x_ticks=label_ticks(short or labels, [(place + 0.5) * slot for place in range(len(labels))]),
        y_ticks=_grid(top),
    )


def histogram(
    *,
    name: str,
    title: str,
    description: str,
    heading: str,
    series: Sequence[str],
    edges: Sequence[float],
    values: Sequence[Sequence[int]],
    mark: tuple[float, float] | None,
    mark_label: str,
    empty: str,
) -> Chart:
    """Columns without gaps over a number line; `edges` has one more than `values`. `mark` is a range on that line."""
    chart = columns(
        name=name,
        title=title,
        description=description,
        heading=heading,
        series=series,
        labels=[f"{low:.2f} to {high:.2f}" for low, high in pairwise(edges)],
        values=values,
        empty=empty,
    )
    if chart.empty:
        return chart
    slot, span = 100 / len(values), edges[-1] - edges[0]
    parts = [
        Part(_two(round((part.x / slot) - 0.12) * slot), part.y, _two(slot), part.height, part.series)
        for part in chart.parts
    ]
    places = [(edge - edges[0]) / span * 100 for edge in edges]
    every = max(1, math.ceil(len(edges) / MOST_LABELS))
    ticks = [
        Tick(_two(place), f"{edge:.1f}", minor=False)
        for number, (place, edge) in enumerate(zip(places, edges, strict=True))
        if abs(edge * 10 - round(edge * 10)) < 1e-6
        and 0 < number < len(edges) - 1
        and (every == 1 or round(edge * 10) % 2 == 0 or span < 1)
    ]
    shown = None
    if mark is not None:
        low, high = (min(100.0, max(0.0, (value - edges[0]) / span * 100)) for value in mark)
        shown = (_two(low), _two(max(high - low, 0.0)))
    side = "start" if shown is None or shown[0] < 30 else "middle" if shown[0] <= 70 else "end"
    return Chart(
        "columns", name, title, description, chart.columns,
        [row for row in chart.rows if any(cell != "0" for cell in row[1:])],
        legend=chart.legend, parts=parts, x_ticks=ticks, y_ticks=chart.y_ticks, mark=shown, mark_label=mark_label,
        mark_side=side,
    )  # fmt: skip


def bars(
    *,
    name: str,
    title: str,
    description: str,
    headings: Sequence[str],
    series: Sequence[str],
    labels: Sequence[str],
    values: Sequence[Sequence[float]],
    words: Sequence[str],
    rows: Sequence[Sequence[str]],
    empty: str,
    more: Sequence[tuple[str, str]] = (),
    first_series: int = 0,
) -> Chart:
    """Bars under each other, words above each; `more` are the parts of both words that a narrow screen leaves out.

    The rows of the table may be more than the bars. `first_series` picks the colour of the first part.
    """
    top = max((sum(row) for row in values), default=0.0)
    if not top:
        return Chart(
            "bars", name, title, description, list(headings), [list(row) for row in rows], empty=empty
        )
    drawn = []
    for number, (label, row, word) in enumerate(zip(labels, values, words, strict=True)):
        x, parts, y = 0.0, [], number * ROW_HEIGHT
        for place, value in enumerate(row):
            width = value / top * 100
            if width:
                parts.append(
                    Part(_two(x), y + BAR_TOP, _two(max(width, 0.4)), BAR_HEIGHT, first_series + place)
                )
            x += width
        drawn.append(Bar(y + 15, label, word, parts, *(more[number] if more else ())))
    return Chart(
        "bars", name, title, description, list(headings), [list(row) for row in rows],
        height=len(labels) * ROW_HEIGHT, legend=list(series) if len(series) > 1 else [], bars=drawn,
        first_series=first_series,
    )  # fmt: skip


def band(
    *,
    name: str,
    title: str,
    description: str,
    headings: Sequence[str],
    labels: Sequence[str],
    values: Sequence[tuple[float, float, float] | None],
    rows: Sequence[Sequence[str]],
    span: tuple[float, float],
    empty: str,
) -> Chart:
    """A line of middles with a band from the lowest to the highest tenth, over evenly spaced labels.

    A label whose value is None has none; the line goes on to the next that has.
    """
    places = [(number + 0.5) * 100 / max(1, len(labels)) for number in range(len(labels))]
    known = [(place, value) for place, value in zip(places, values, strict=True) if value is not None]
    if not known:
        return Chart(
            "band", name, title, description, list(headings), [list(row) for row in rows], empty=empty
        )
    low, high = span

    def y(value: float) -> float:
        return _two(100 - (min(high, max(low, value)) - low) / (high - low) * 100)

    middle = " ".join(f"{_two(x)},{y(value[1])}" for x, value in known)
    upper = [f"{_two(x)},{y(value[2])}" for x, value in known]
    lower = [f"{_two(x)},{y(value[0])}" for x, value in reversed(known)]
    dots = [(_two(x), _two(TOP + y(value[1]) / 100 * PLOT_HEIGHT)) for x, value in known]
    steps = 4
    grid = [
        Tick(AXIS - PLOT_HEIGHT * step / steps, f"{low + (high - low) * step / steps:.2f}")
        for step in range(steps + 1)
    ]
    return Chart(
        "band", name, title, description, list(headings), [list(row) for row in rows],
        legend=["the middle one", "from the lowest to the highest tenth"],
        line=Line(middle, " ".join(upper + lower), dots),
        x_ticks=label_ticks(labels, places), y_ticks=grid,
    )  # fmt: skip


def label_ticks(labels: Sequence[str], places: Sequence[float]) -> list[Tick]:
    """At most MOST_LABELS of the labels, evenly; every other one goes on a narrow screen."""
    every = max(1, math.ceil(len(labels) / MOST_LABELS))
    chosen = [number for number in range(len(labels)) if number % every == 0]
    kept = 3 if len(chosen) > 8 else 2 if len(chosen) > 4 else 1  # of so many, one stays on a narrow screen
    return [
        Tick(_two(places[number]), labels[number], minor=order % kept != 0)
        for order, number in enumerate(chosen)
    ]


def _grid(top: int) -> list[Tick]:
    """Lines at whole numbers; an axis that ends at 1 or 5 has as many steps as wholes."""
    steps = next(steps for steps in (4, 5, 2, 1) if top % steps == 0)
    return [
        Tick(_two(AXIS - PLOT_HEIGHT * step / steps), f"{top * step // steps:,}") for step in range(steps + 1)
    ]


def _two(value: float) -> float:
    return round(value, 2)
