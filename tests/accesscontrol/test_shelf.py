"""What the settings say of models: the same thresholds as the recognizer, and where they were never measured."""

from __future__ import annotations

import math
import sys
from subprocess import run

import pytest

from accesscontrol.calibration import Calibration, needed_fmr
from accesscontrol.card import read_card
from recognition import checkpoint

POINTS = ((0.1, 0.2), (0.01, 0.3), (0.001, 0.4), (0.0001, 0.45))
OURS = Calibration("test", 1000, POINTS)
REFEREE = checkpoint.Calibration("test", 1000, POINTS)


@pytest.mark.parametrize("size", [1, 7, 100, 565, 10_000, 1_000_000])
@pytest.mark.parametrize("target", [0.4, 0.1, 0.03, 0.01, 0.001, 1e-6])
def test_a_threshold_is_the_one_with_which_the_worker_decides(size, target):
    ours = OURS.threshold_for(gallery_size=size, target_fpir=target)
    assert ours.value == pytest.approx(
        REFEREE.threshold_for(gallery_size=size, target_fpir=target), abs=1e-12
    )


def test_a_rate_rarer_than_any_that_was_measured_is_said_to_be_an_estimate():
    reach = OURS.largest_gallery(0.01)
    assert needed_fmr(gallery_size=reach, target_fpir=0.01) >= OURS.rarest
    assert OURS.threshold_for(gallery_size=reach, target_fpir=0.01).measured
    assert not OURS.threshold_for(gallery_size=reach + 1, target_fpir=0.01).measured


def test_the_needed_rate_makes_the_target_when_every_comparison_has_it():
    rate = needed_fmr(gallery_size=500, target_fpir=0.02)
    assert 1 - (1 - rate) ** 500 == pytest.approx(0.02)
    assert math.isclose(needed_fmr(gallery_size=1, target_fpir=0.02), 0.02)


@pytest.mark.parametrize(
    "points", [[[0.1, 0.2]], [[0.01, 0.2], [0.1, 0.3]], [[1.5, 0.2], [0.1, 0.3]], [[0.1, 0.2], [0.0, 0.3]]]
)
def test_a_calibration_that_is_none_is_refused(points):
    with pytest.raises(ValueError, match="calibration points"):
        Calibration.read({"source": "x", "comparisons": 1, "points": points})


def test_a_card_is_read_as_blocks_and_what_is_unknown_stays_text():
    blocks = read_card(
        "# Model card\n\nIt is **good** at `doors`,\nsee [there](x).\n\n## Figures\n- one\n- two\n  and more\n\n"
        "| a | b |\n|---|---|\n| 1 | **2** |\n\n<script>alert(1)</script>\n"
    )
    assert [block.kind for block in blocks] == ["text", "heading", "list", "table", "text"]
    assert [(piece.text, piece.style) for piece in blocks[0].pieces] == [
        ("It is ", ""), ("good", "strong"), (" at ", ""), ("doors", "code"), (", see ", ""), ("there", ""), (".", ""),
    ]  # fmt: skip
    assert [["".join(piece.text for piece in item)] for item in blocks[2].items] == [
        ["one"],
        ["two and more"],
    ]
    assert len(blocks[3].rows) == 2
    assert blocks[4].pieces[0].text == "<script>alert(1)</script>"


def test_reading_the_shelf_loads_no_torch():
    code = (
        "import django, sys; django.setup(); from accesscontrol.views import settings, reports; "
        "from accesscontrol.shelf import shelf; models = shelf(); "
        "assert models and models[0].in_use and models[0].card and models[0].profiles, models; "
        "assert 'torch' not in sys.modules and 'faiss' not in sys.modules"
    )
    done = run([sys.executable, "-c", code], capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stderr
