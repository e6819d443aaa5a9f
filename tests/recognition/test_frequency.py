"""Both transforms against the literal definition, computed another way."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from skimage.data import astronaut

from recognition.frequency import CHANNELS, SHAPES, axis_operator, to_frequency, to_planes
from recognition.types import FaceCrop


@pytest.fixture(scope="module")
def portrait() -> FaceCrop:
    return FaceCrop(np.ascontiguousarray(astronaut()[30:254:2, 110:334:2]))


def literal_blocks(planes: np.ndarray) -> np.ndarray:
    """OpenCV's DCT on every 8x8 block, gathered by frequency, DC dropped: float64 (189, blocks, blocks)."""
    blocks = planes.shape[1] // 8
    out = np.zeros((3, 64, blocks, blocks))
    for plane in range(3):
        for row in range(blocks):
            for column in range(blocks):
                block = planes[plane, row * 8 : row * 8 + 8, column * 8 : column * 8 + 8].astype(np.float64)
                out[plane, :, row, column] = cv2.dct(block).reshape(64)
    return out[:, 1:].reshape(CHANNELS, blocks, blocks)


def test_the_planes_are_the_jpeg_colour_space(portrait: FaceCrop) -> None:
    opencv = cv2.cvtColor(portrait.pixels, cv2.COLOR_RGB2YCrCb).astype(np.float32)[..., [0, 2, 1]]
    ours = to_planes(portrait.pixels).transpose(1, 2, 0)
    assert np.abs(ours - (opencv - 128)).max() <= 1.0  # OpenCV rounds to whole numbers


def test_critical_is_the_block_dct_of_the_picture_itself(portrait: FaceCrop) -> None:
    ours = to_frequency(portrait, "critical").values
    assert ours.shape == SHAPES["critical"]
    assert (
        np.abs(ours - literal_blocks(to_planes(portrait.pixels))).max() < 1e-3
    )  # float32, values near 1,000
    relative = np.abs(ours - literal_blocks(to_planes(portrait.pixels))).max() / np.abs(ours).max()
    assert relative < 1e-6


def test_paper_is_the_literal_upsampling_and_dct_to_1e_4(portrait: FaceCrop) -> None:
    planes = to_planes(portrait.pixels).astype(np.float64)
    large = torch.nn.functional.interpolate(
        torch.from_numpy(planes)[None], scale_factor=8, mode="bilinear", align_corners=True
    )
    operator = axis_operator("paper")
    exact = (
        (operator @ planes @ operator.T)
        .reshape(3, 8, 112, 8, 112)
        .transpose(0, 1, 3, 2, 4)
        .reshape(3, 64, 112, 112)
    )
    literal = literal_blocks(large[0].numpy())
    assert np.abs(exact[:, 1:].reshape(CHANNELS, 112, 112) - literal).max() < 1e-9
    ours = to_frequency(portrait, "paper").values
    assert np.abs(literal).max() > 300  # so that 1e-4 is a narrow gate: float32 there has steps of 3e-5
    assert np.abs(ours - literal).max() < 1e-4


def test_the_paper_operator_has_at_most_three_nonzeros_in_a_row() -> None:
    assert (np.abs(axis_operator("paper")) > 1e-12).sum(axis=1).max() <= 3


def test_critical_keeps_all_but_the_block_means(portrait: FaceCrop) -> None:
    operator = axis_operator("critical")
    assert np.allclose(operator @ operator.T, np.eye(112))
    planes = to_planes(portrait.pixels).astype(np.float64)
    means = planes.reshape(3, 14, 8, 14, 8).mean(axis=(2, 4), keepdims=True)
    energy = ((planes.reshape(3, 14, 8, 14, 8) - means) ** 2).sum()
    assert np.isclose(
        (to_frequency(portrait, "critical").values.astype(np.float64) ** 2).sum(), energy, rtol=1e-5
    )


def test_an_unknown_transform_is_an_error(portrait: FaceCrop) -> None:
    with pytest.raises(KeyError):
        to_frequency(portrait, "wavelet")


@pytest.mark.parametrize(
    "pixels",
    [np.zeros((112, 112, 3), np.float32), np.zeros((111, 112, 3), np.uint8), np.zeros((112, 112), np.uint8)],
)
def test_only_a_112_pixel_rgb_crop_is_a_face_crop(pixels: np.ndarray) -> None:
    with pytest.raises(ValueError, match="face crop"):
        FaceCrop(pixels)  # type: ignore[arg-type]


@pytest.mark.parametrize("transform", SHAPES)
def test_channels_that_nobody_asked_for_stay_empty_and_the_others_are_the_same(
    portrait: FaceCrop, transform: str
) -> None:
    wanted = np.random.default_rng(1).random(CHANNELS) < 0.3
    everything, some = (to_frequency(portrait, transform, channels=asked).values for asked in (None, wanted))
    assert np.array_equal(some[wanted], everything[wanted])
    assert not some[~wanted].any()
