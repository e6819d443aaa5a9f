"""Charts as numbers: what is drawn is what was counted."""

from __future__ import annotations

import pytest

from accesscontrol.charts import (
    AXIS,
    MOST_LABELS,
    PLOT_HEIGHT,
    band,
    bars,
    columns,
    histogram,
    label_ticks,
    round_up,
)

COMMON = {"name": "x", "title": "X", "description": "What X is.", "empty": "Nothing yet."}


def some_columns(values: list[tuple[int, int]]):
    return columns(
        **COMMON,
        heading="Day",
        series=("let in", "refused"),
        labels=[str(number) for number in range(len(values))],
        values=values,
    )


def test_columns_are_as_high_as_their_counts_and_stand_on_each_other():
    chart = some_columns([(10, 5), (20, 0)])
    first, refused, second = chart.parts
    assert second.height == pytest.approx(2 * first.height, abs=0.02)
    assert first.y + first.height == pytest.approx(AXIS, abs=0.02)
    assert refused.y + refused.height == pytest.approx(first.y, abs=0.02)
    assert second.height == PLOT_HEIGHT  # 20 is where the axis ends
    assert (first.x < second.x) and (second.x + second.width <= 100)
    assert [tick.label for tick in chart.y_ticks][-1] == "20"


def test_the_table_says_every_figure_of_the_drawing():
    chart = some_columns([(1234, 5), (0, 0)])
    assert chart.rows == [["0", "1,234", "5"], ["1", "0", "0"]]
    assert chart.columns == ["Day", "let in", "refused"]


def test_a_chart_without_anything_to_draw_says_so_and_draws_nothing():
    assert some_columns([(0, 0)]).empty == "Nothing yet."
    assert some_columns([(0, 0)]).parts == []
    empty = bars(**COMMON, headings=("A",), series=("n",), labels=[], values=[], words=[], rows=[])
    assert empty.empty
    assert band(**COMMON, headings=("A",), labels=["1"], values=[None], rows=[], span=(0, 1)).empty


@pytest.mark.parametrize(
    ("value", "top"),
    [(0, 1), (1, 1), (3, 5), (5, 5), (6, 10), (11, 20), (21, 50), (1_000, 1_000), (1_001, 2_000)],
)
def test_an_axis_ends_at_a_round_number_that_is_not_below(value, top):
    assert round_up(value) == top


def test_a_histogram_marks_the_threshold_where_it_lies_on_the_number_line():
    chart = histogram(
        **COMMON,
        heading="Score",
        series=("let in", "refused"),
        edges=[0.0, 0.25, 0.5, 0.75, 1.0],
        values=[(0, 3), (1, 2), (5, 0), (0, 0)],
        mark=(0.4, 0.45),
        mark_label="threshold",
    )
    assert chart.mark == (40.0, 5.0)
    assert [(part.x, part.width) for part in chart.parts] == [(0, 25), (25, 25), (25, 25), (50, 25)]
    assert len(chart.rows) == 3  # an empty bin is not in the table


def test_bars_are_long_by_their_share_of_the_longest():
    chart = bars(
        **COMMON,
        headings=("Reason", "Refusals"),
        series=("refusals",),
        labels=["a", "b"],
        values=[(10,), (5,)],
        words=["10", "5"],
        rows=[("a", "10"), ("b", "5")],
    )
    assert [bar.parts[0].width for bar in chart.bars] == [100, 50]


def test_a_band_skips_days_without_values_and_turns_larger_values_upwards():
    chart = band(
        **COMMON,
        headings=("Day",),
        labels=["1", "2", "3"],
        values=[(0.1, 0.2, 0.3), None, (0.5, 0.75, 1.0)],
        rows=[],
        span=(0.0, 1.0),
    )
    assert chart.line is not None
    assert chart.line.middle == "16.67,80.0 83.33,25.0"
    assert len(chart.line.dots) == 2


@pytest.mark.parametrize("count", [1, 5, 8, 24, 30, 90])
def test_an_axis_has_few_labels_and_a_narrow_one_fewer(count):
    ticks = label_ticks([str(number) for number in range(count)], [float(number) for number in range(count)])
    assert 1 <= len(ticks) <= MOST_LABELS
    assert 1 <= len([tick for tick in ticks if not tick.minor]) <= 4
