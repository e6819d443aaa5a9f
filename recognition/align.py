"""Bring a face to the one pose that the recogniser knows: 112x112, five points on the ArcFace template."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from recognition.types import CROP_SIZE, FaceCrop

# (x, y) in pixels of the crop: image-left eye, image-right eye, nose tip, image-left and image-right mouth
# corner.
TEMPLATE = np.array(
    [
        (38.2946, 51.6963),
        (73.5318, 51.5014),
        (56.0252, 71.7366),
        (41.5493, 92.3655),
        (70.7299, 92.2041),
    ],
    dtype=np.float64,
)
TEMPLATE.setflags(write=False)

# Bilinear sampling looks at 2x2 pixels, so a face much larger than the crop is halved first, by area, until
# it is not.
LARGEST_REDUCTION = 4.0


def umeyama(source: NDArray[np.floating], target: NDArray[np.floating]) -> NDArray[np.float64]:
    """The similarity (rotation, one scale, shift; never a mirror) that brings source nearest to target.

    source, target: (N, 2), N >= 2. Returns float64 (2, 3) for column vectors (x, y, 1). Raises ValueError
    when the source points coincide or are not finite. Umeyama, IEEE TPAMI 13(4), 1991, equations 34 to 43.
    """
    source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    if source.shape != target.shape or source.ndim != 2 or source.shape[1] != 2 or len(source) < 2:
        raise ValueError("two equal lists of at least two (x, y) points are needed")
    if not (np.isfinite(source).all() and np.isfinite(target).all()):
        raise ValueError("points must be finite")
    source_mean, target_mean = source.mean(axis=0), target.mean(axis=0)
    source_centred, target_centred = source - source_mean, target - target_mean
    variance = (source_centred**2).sum() / len(source)
    if variance < 1e-12:
        raise ValueError("the points coincide")
    covariance = target_centred.T @ source_centred / len(source)  # (2, 2)
    left, stretch, right = np.linalg.svd(covariance)
    signs = np.array([1.0, np.sign(np.linalg.det(left) * np.linalg.det(right)) or 1.0])
    rotation = left @ np.diag(signs) @ right
    scale = float(stretch @ signs) / variance
    shift = target_mean - scale * rotation @ source_mean
    return np.column_stack([scale * rotation, shift])


def align(frame: NDArray[np.uint8], points: NDArray[np.floating]) -> FaceCrop:
    """Cut the face out of a frame. frame: uint8 (H, W, 3) RGB; points: (5, 2) pixels in TEMPLATE's order.

    What lies outside the frame is black. Raises ValueError for points that span no face.
    """
    matrix = umeyama(points, TEMPLATE)
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    if scale <= 0:
        raise ValueError("the points span no face")
    while scale * LARGEST_REDUCTION < 1.0 and min(frame.shape[:2]) >= 2:
        height, width = frame.shape[:2]
        halved = (width // 2, height // 2)
        frame = np.asarray(cv2.resize(frame, halved, interpolation=cv2.INTER_AREA), np.uint8)
        # Pixel centres: x_old + 0.5 = (x_new + 0.5) * width / halved
        ratio = np.array([width / halved[0], height / halved[1]])
        matrix[:, 2] += matrix[:, :2] @ (0.5 * ratio - 0.5)
        matrix[:, :2] *= ratio
        scale *= 2.0
    pixels = cv2.warpAffine(
        frame,
        matrix,
        (CROP_SIZE, CROP_SIZE),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=(0, 0, 0),
    )
    return FaceCrop(np.asarray(pixels, np.uint8))
