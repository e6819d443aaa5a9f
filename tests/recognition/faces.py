"""Frames with a face that anybody may publish: NASA's portrait of Eileen Collins, in the public domain."""

import cv2
import numpy as np
from skimage.data import astronaut

EYES = np.array([(203.5, 103.0), (247.0, 104.5)])  # read off the picture


def portrait():
    """512x512 RGB; the face is about 100 px wide."""
    return np.ascontiguousarray(astronaut())


def scaled(frame, factor):
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return cv2.resize(frame, None, fx=factor, fy=factor, interpolation=how)


def head():
    """The face and a little around it: 200x200."""
    return np.ascontiguousarray(portrait()[20:220, 125:325])


def two_faces():
    return np.ascontiguousarray(np.concatenate([portrait()[:300, 60:360]] * 2, axis=1))


def nobody():
    """A wall with a lamp."""
    y, x = np.mgrid[:480, :640]
    wall = 90 + 60 * np.exp(-((x - 300) ** 2 + (y - 100) ** 2) / 20_000)
    return np.repeat(wall[..., None], 3, axis=2).astype(np.uint8)
