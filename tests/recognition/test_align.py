"""Alignment against geometry one can check by hand, and against another implementation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage.transform import SimilarityTransform

from recognition.align import TEMPLATE, align, umeyama


def similarity(scale, degrees, shift):
    angle = np.radians(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.column_stack([scale * turn, shift])


def moved(points, matrix):
    return points @ matrix[:, :2].T + matrix[:, 2]


@given(
    scale=st.floats(0.05, 20),
    degrees=st.floats(-179, 179),
    shift=st.tuples(st.floats(-1000, 1000), st.floats(-1000, 1000)),
)
def test_a_similarity_is_found_again_exactly(scale, degrees, shift):
    matrix = similarity(scale, degrees, shift)
    assert np.allclose(umeyama(TEMPLATE, moved(TEMPLATE, matrix)), matrix, atol=1e-6 * max(1, scale))


def test_noisy_points_give_the_same_answer_as_another_implementation():
    noise = np.random.default_rng(1).normal(0, 4, TEMPLATE.shape)
    points = moved(TEMPLATE, similarity(2.3, 17, (140, 60))) + noise
    reference = SimilarityTransform.from_estimate(points, TEMPLATE)
    assert np.allclose(umeyama(points, TEMPLATE), reference.params[:2], atol=1e-9)


def test_a_face_is_never_mirrored():
    mirrored = TEMPLATE * (-1, 1)
    assert np.linalg.det(umeyama(mirrored, TEMPLATE)[:, :2]) > 0


@pytest.mark.parametrize(
    "points", [np.ones((5, 2)), np.full((5, 2), np.nan), np.ones((1, 2)), np.ones((5, 3))]
)
def test_points_that_span_no_face_are_refused(points):
    with pytest.raises(ValueError, match=r"points|lists"):
        umeyama(points, TEMPLATE[: len(points)])


def dots(points, size=480, radius=6):
    """A frame with a bright dot at each point."""
    y, x = np.mgrid[:size, :size]
    frame = np.zeros((size, size, 3), np.uint8)
    for px, py in points:
        frame[(x - px) ** 2 + (y - py) ** 2 <= radius**2] = 255
    return frame


@pytest.mark.parametrize(("scale", "size"), [(2.0, 480), (3.0, 480), (9.0, 1300)])
def test_each_point_lands_on_its_place_in_the_template(scale, size):
    points = moved(TEMPLATE, similarity(scale, 12, (size * 0.25, 20)))
    crop = align(dots(points, size, radius=2 * scale), points).pixels[..., 0].astype(float)
    y, x = np.mgrid[:112, :112]
    for px, py in TEMPLATE:
        near = crop * ((x - px) ** 2 + (y - py) ** 2 <= 36)
        centre = np.array([(near * x).sum(), (near * y).sum()]) / near.sum()
        assert np.linalg.norm(centre - (px, py)) < 0.35


def test_what_lies_outside_the_frame_is_black():
    frame = np.full((60, 60, 3), 200, np.uint8)
    crop = align(frame, TEMPLATE.astype(np.float32)).pixels
    assert crop[30, 30].tolist() == [200, 200, 200]
    assert crop[100, 100].tolist() == [0, 0, 0]
