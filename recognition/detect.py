"""Find faces and their five points. Two ways behind one Detector:

- MediaPipe's face networks (Apache-2.0, `recognition.fetch_models`): a detector for the whole frame, another
  for faces too close for it, then a mesh of 468 vertices on the turned and cropped face, from which the five
  points are read.
- YuNet, where a deployment points LINTEL_YUNET_MODEL to its own ONNX file.

The recogniser learned on faces aligned by YuNet's points, so the mesh is read to agree with them:
POINT_VERTICES and POINT_CORRECTION were fitted by `benchmarks/landmarks.py`, whose measurement is in
benchmarks/results.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from recognition.fetch_models import (
    FACE_MESH,
    FULL_RANGE,
    SHORT_RANGE,
    ModelsUnavailableError,
    models_folder,
    read_model,
)

Frame = NDArray[np.uint8]  # (H, W, 3) RGB
Floats = NDArray[np.float64]

DETECTION_THRESHOLD = 0.5  # of the sigmoid score, as MediaPipe's own graphs
SUPPRESSION_IOU = 0.3
MESH_SIDE = 192  # pixels
MESH_MARGIN = 1.5  # of the detected box, as MediaPipe's face landmark graph
MESH_THRESHOLD = 0.5  # of the mesh network's own belief that it looks at a face
SMALL = (
    0.15  # of the frame's longer side: below it the detector's box is a few pixels of its input, too coarse
)
SECOND_LOOK = 4.0  # sides of that box: the square looked at again
TILE = 720  # pixels: a face of 60 px is still seen by the full-range network in a square of this side
YUNET_THRESHOLD = 0.7
YUNET_LARGEST_SIDE = 640  # pixels: YuNet's training scale; larger frames are shrunk to it first


@dataclass(frozen=True, eq=False)
class Face:
    """`box`: x, y, width, height; `points`: float32 (5, 2), image-left eye, image-right eye, nose tip,
    image-left and image-right mouth corner; both in pixels of the frame. `score`: 0..1."""

    box: tuple[float, float, float, float]
    points: NDArray[np.float32]
    score: float

    @property
    def eye_distance(self) -> float:
        """Pixels between the eyes, the measure of how large a face is."""
        return float(np.linalg.norm(self.points[1] - self.points[0]))


class _Engine(Protocol):
    def find(self, frame: Frame) -> list[Face]: ...


class Detector:
    """Finds faces, largest first. Not for use by two threads at once: a network holds its last input."""

    def __init__(
        self,
        *,
        models: Path | None = None,
        yunet: Path | None = None,
        agree: bool = True,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        """Load once. Raises ModelsUnavailableError, with what to do, when the networks are not here.

        models: folder written by `recognition.fetch_models`; yunet: an ONNX file to use in its place. Both
        default to the environment: LINTEL_MODELS_DIR and LINTEL_YUNET_MODEL. agree: False gives the mesh's
        own points, to measure by.
        """
        configured = environment.get("LINTEL_YUNET_MODEL")
        chosen = yunet or (Path(configured) if configured and models is None else None)
        self.name = "yunet" if chosen else "mediapipe"
        self._engine: _Engine = (
            _YuNet(chosen) if chosen else _MediaPipe(models or models_folder(environment), agree=agree)
        )

    def find(self, frame: Frame) -> list[Face]:
        """The faces of one frame, uint8 (H, W, 3) RGB; an empty list when there is none."""
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or not frame.size:
            raise ValueError(f"a frame is uint8 (H, W, 3) RGB, not {frame.dtype} {frame.shape}")
        faces = self._engine.find(frame)
        return sorted(faces, key=lambda face: face.box[2] * face.box[3], reverse=True)


# MediaPipe --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Candidate:
    """One detection in frame pixels. `keypoints`: (6, 2): image-left eye, image-right eye, nose, mouth, two
    ears."""

    box: Floats
    keypoints: Floats
    score: float


class _MediaPipe:
    def __init__(self, folder: Path, *, agree: bool) -> None:
        self._agree = agree
        self._full_range = _BoxNetwork(read_model(FULL_RANGE, folder), side=192, anchors=_anchor_grid(48, 1))
        self._short_range = _BoxNetwork(
            read_model(SHORT_RANGE, folder),
            side=128,
            anchors=np.concatenate([_anchor_grid(16, 2), _anchor_grid(8, 6)]),
        )
        self._mesh = _read_network(read_model(FACE_MESH, folder))

    def find(self, frame: Frame) -> list[Face]:
        faces = [self._with_points(frame, candidate) for candidate in self._candidates(frame)]
        return [face for face in faces if face is not None]

    def _candidates(self, frame: Frame) -> list[_Candidate]:
        """The whole frame first; only when that shows nobody, look for a face that fills it, then for distant
        ones."""
        found = self._full_range.find(frame) or self._short_range.find(frame)
        if found or max(frame.shape[:2]) <= TILE:
            return found
        for top in _tile_starts(frame.shape[0]):
            for left in _tile_starts(frame.shape[1]):
                for candidate in self._full_range.find(frame[top : top + TILE, left : left + TILE]):
                    corner = np.array([left, top], np.float64)
                    box = candidate.box + np.concatenate([corner, np.zeros(2)])
                    found.append(_Candidate(box, candidate.keypoints + corner, candidate.score))
        return _suppress(found)

    def _second_look(self, frame: Frame, candidate: _Candidate) -> _Candidate:
        """A small face again from nearby, for a box and a slant that the mesh can start from."""
        side = float(candidate.box[2:].max())
        if side >= SMALL * max(frame.shape[:2]):
            return candidate
        centre = candidate.box[:2] + candidate.box[2:] / 2
        low = np.maximum(centre - SECOND_LOOK / 2 * side, 0).astype(int)
        high = np.ceil(centre + SECOND_LOOK / 2 * side).astype(int)
        near = self._full_range.find(np.ascontiguousarray(frame[low[1] : high[1], low[0] : high[0]]))
        corner = low.astype(np.float64)
        for other in near:
            box = other.box + np.concatenate([corner, np.zeros(2)])
            if _iou(box, candidate.box) > SUPPRESSION_IOU:
                return _Candidate(box, other.keypoints + corner, candidate.score)
        return candidate

    def _with_points(self, frame: Frame, candidate: _Candidate) -> Face | None:
        """Read the mesh on the face; None where the mesh network sees none."""
        candidate = self._second_look(frame, candidate)
        eyes = candidate.keypoints[:2]
        centre = candidate.box[:2] + candidate.box[2:] / 2
        side = float(candidate.box[2:].max()) * MESH_MARGIN
        mesh = self._read_mesh(frame, centre, side, eyes[1] - eyes[0])
        if mesh is None:
            return None
        x, y, width, height = (float(value) for value in candidate.box)
        points = mesh_points(mesh)
        if self._agree:
            points = agree_with_yunet(points)
        return Face(box=(x, y, width, height), points=points.astype(np.float32), score=candidate.score)

    def _read_mesh(self, frame: Frame, centre: Floats, side: float, along_eyes: Floats) -> Floats | None:
        """(468, 2) vertices in frame pixels, or None where the network sees no face."""
        if not np.isfinite(side) or side < 1.0:
            return None
        scale = MESH_SIDE / side
        angle = np.arctan2(along_eyes[1], along_eyes[0])
        cosine, sine = scale * np.cos(angle), scale * np.sin(angle)
        matrix = np.array([[cosine, sine, 0.0], [-sine, cosine, 0.0]])
        matrix[:, 2] = MESH_SIDE / 2 - matrix[:, :2] @ centre
        crop = cv2.warpAffine(
            frame, matrix, (MESH_SIDE, MESH_SIDE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        self._mesh.setInput(cv2.dnn.blobFromImage(crop, 1 / 255.0, (MESH_SIDE, MESH_SIDE)))
        outputs = self._mesh.forward(self._mesh.getUnconnectedOutLayersNames())
        flag, vertices = sorted(outputs, key=lambda output: int(output.size))
        if _sigmoid(flag.reshape(-1).astype(np.float64))[0] < MESH_THRESHOLD:
            return None
        in_crop = vertices.reshape(468, 3)[:, :2].astype(np.float64)
        return np.asarray((in_crop - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T)


class _BoxNetwork:
    """One of MediaPipe's single-shot face detectors: a square input in -1..1, one box and six points per
    anchor."""

    def __init__(self, model: bytes, *, side: int, anchors: Floats) -> None:
        self._network = _read_network(model)
        self._side = side
        self._anchors = anchors  # (N, 2), centres in units of the input; anchors have the input's size

    def find(self, frame: Frame) -> list[_Candidate]:
        height, width = frame.shape[:2]
        square = max(height, width)
        left, top = (square - width) // 2, (square - height) // 2
        padded = cv2.copyMakeBorder(
            frame,
            top,
            square - height - top,
            left,
            square - width - left,
            cv2.BORDER_CONSTANT,
            value=(0, 0, 0),
        )
        shrinks = square > self._side
        resized = cv2.resize(
            padded, (self._side, self._side), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        )
        self._network.setInput(
            cv2.dnn.blobFromImage(resized, 1 / 127.5, (self._side, self._side), (127.5, 127.5, 127.5))
        )
        outputs = self._network.forward(self._network.getUnconnectedOutLayersNames())
        logits, regressed = sorted(outputs, key=lambda output: int(output.size))  # (1, N, 1), (1, N, 16)
        scores = _sigmoid(logits.reshape(-1).astype(np.float64))
        kept = np.flatnonzero(scores >= DETECTION_THRESHOLD)
        corner = np.array([left, top], np.float64)
        candidates = []
        for index in kept:
            values = regressed[0, index].astype(np.float64).reshape(8, 2) / self._side
            anchor = self._anchors[index]
            size = values[1] * square
            box_corner = (values[0] + anchor) * square - size / 2 - corner
            keypoints = (values[2:] + anchor) * square - corner
            candidates.append(_Candidate(np.concatenate([box_corner, size]), keypoints, float(scores[index])))
        return _suppress(candidates)


def _suppress(candidates: list[_Candidate]) -> list[_Candidate]:
    """Weighted non-maximum suppression: overlapping boxes become their average, weighted by score (BlazeFace,
    2019)."""
    remaining = sorted(candidates, key=lambda candidate: candidate.score, reverse=True)
    kept = []
    while remaining:
        best = remaining[0]
        group = [other for other in remaining if other is best or _iou(best.box, other.box) > SUPPRESSION_IOU]
        remaining = [other for other in remaining if all(other is not member for member in group)]
        weights = np.array([member.score for member in group])
        box = np.average([member.box for member in group], axis=0, weights=weights)
        keypoints = np.average([member.keypoints for member in group], axis=0, weights=weights)
        kept.append(_Candidate(box, keypoints, best.score))
    return kept


def _iou(first: Floats, second: Floats) -> float:
    corner = np.maximum(first[:2], second[:2])
    size = np.maximum(np.minimum(first[:2] + first[2:], second[:2] + second[2:]) - corner, 0.0)
    overlap = float(size.prod())
    union = float(first[2:].prod() + second[2:].prod()) - overlap
    return overlap / union if union > 0 else 0.0


def _anchor_grid(cells: int, per_cell: int) -> Floats:
    """Anchor centres of a square feature map, row by row: (cells * cells * per_cell, 2) in 0..1."""
    centres = (np.arange(cells) + 0.5) / cells
    x, y = np.meshgrid(centres, centres)
    return np.repeat(np.stack([x.ravel(), y.ravel()], axis=1), per_cell, axis=0)


def _tile_starts(length: int) -> list[int]:
    """Where squares of TILE begin so that they cover `length` and overlap by a quarter at least."""
    if length <= TILE:
        return [0]
    count = int(np.ceil((length - TILE) / (0.75 * TILE))) + 1
    return [round(start) for start in np.linspace(0, length - TILE, count)]


def _sigmoid(values: Floats) -> Floats:
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(values, -60.0, 60.0))))


def _read_network(model: bytes) -> cv2.dnn.Net:
    return cv2.dnn.readNetFromTFLite(np.frombuffer(model, np.uint8))


# From 468 vertices to five points ---------------------------------------------------------------------------

# Mesh vertices whose mean is the point: eye corners, nose tip, mouth corners (MediaPipe's canonical face
# model).
POINT_VERTICES: tuple[tuple[int, ...], ...] = ((33, 133), (362, 263), (1,), (61,), (291,))

# What YuNet's five points (x, y each) differ from those, in face units, by the shape of the face: half the
# distance of the eyes, nose, image-left and image-right mouth corner, and 1. Least squares over 2,823 faces
# with a small ridge, `benchmarks/landmarks.py --fit`.
POINT_CORRECTION = np.array(
    [
        (0.377, -0.000, -0.022, 0.194, -0.115, -0.117, -0.083, 0.143),
        (0.022, -0.062, 0.155, 0.209, 0.126, 0.132, -0.025, -0.202),
        (-0.246, 0.034, -0.002, -0.027, 0.102, 0.097, -0.009, -0.017),
        (0.084, 0.022, 0.190, -0.026, 0.118, -0.257, -0.089, -0.123),
        (0.067, -0.098, -0.007, 0.113, -0.110, 0.120, 0.051, 0.035),
        (0.429, 0.027, -0.602, -0.050, 0.325, 0.016, -0.234, -0.007),
        (-0.635, -0.161, -0.080, -0.443, -0.250, 0.300, 0.196, 0.088),
        (-0.502, -0.026, 0.001, -0.130, -0.414, 0.246, 0.104, 0.351),
        (0.560, -0.139, -0.018, 0.214, -0.024, -0.317, 0.201, -0.203),
        (-0.447, 0.076, 0.021, -0.300, 0.265, -0.055, -0.634, 0.424),
    ]
)
POINT_CORRECTION.setflags(write=False)


def mesh_points(mesh: Floats) -> Floats:
    """(468, 2) vertices -> (5, 2): the middle of each eye, nose tip, mouth corners."""
    return np.stack([mesh[list(vertices)].mean(axis=0) for vertices in POINT_VERTICES])


@dataclass(frozen=True)
class FaceUnits:
    """A face's own coordinates: between the eyes 0, x along them, 1 the larger of eye distance and eyes to
    mouth."""

    origin: Floats  # (2,)
    rotation: Floats  # (2, 2), rows are the axes
    scale: float

    @classmethod
    def of(cls, points: Floats) -> FaceUnits:
        eyes, mouth = points[:2].mean(axis=0), points[3:].mean(axis=0)
        along = points[1] - points[0]
        eye_distance = max(float(np.linalg.norm(along)), 1e-6)
        x = along / eye_distance
        scale = max(eye_distance, float(np.linalg.norm(mouth - eyes)))
        return cls(eyes, np.array([x, [-x[1], x[0]]]), scale)

    def measure(self, points: Floats) -> Floats:
        return np.asarray((points - self.origin) @ self.rotation.T / self.scale)

    def place(self, measured: Floats) -> Floats:
        return np.asarray(self.scale * measured @ self.rotation + self.origin)


def shape_of(measured: Floats) -> Floats:
    """(5, 2) in face units -> (8,): what POINT_CORRECTION multiplies."""
    return np.concatenate([[measured[1, 0]], measured[2:].reshape(-1), [1.0]])


def agree_with_yunet(points: Floats) -> Floats:
    """(5, 2) of the mesh -> where YuNet, on average, puts them."""
    units = FaceUnits.of(points)
    measured = units.measure(points)
    return units.place(measured + (POINT_CORRECTION @ shape_of(measured)).reshape(5, 2))


# YuNet ------------------------------------------------------------------------------------------------------


class _YuNet:
    def __init__(self, model: Path) -> None:
        if not model.is_file():
            raise ModelsUnavailableError(f"LINTEL_YUNET_MODEL points to {model}, which is not a file")
        try:
            self._network = cv2.FaceDetectorYN.create(
                str(model), "", (320, 320), YUNET_THRESHOLD, SUPPRESSION_IOU, 100
            )
        except cv2.error as error:
            raise ModelsUnavailableError(f"{model} is not a YuNet file that OpenCV can read") from error

    def find(self, frame: Frame) -> list[Face]:
        scale = min(1.0, YUNET_LARGEST_SIDE / max(frame.shape[:2]))
        size = (max(1, round(frame.shape[1] * scale)), max(1, round(frame.shape[0] * scale)))
        shrunk = frame if scale == 1.0 else cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
        self._network.setInputSize(size)
        rows: Any = self._network.detect(cv2.cvtColor(shrunk, cv2.COLOR_RGB2BGR))[1]  # None: nobody
        if rows is None:
            return []
        ratio = np.array([frame.shape[1] / size[0], frame.shape[0] / size[1]])
        faces = []
        for row in rows:  # x, y, width, height, five points, score; YuNet's points are in our order
            box = row[:4].reshape(2, 2) * ratio
            points = (row[4:14].reshape(5, 2) * ratio).astype(np.float32)
            faces.append(
                Face(
                    box=(float(box[0, 0]), float(box[0, 1]), float(box[1, 0]), float(box[1, 1])),
                    points=points,
                    score=float(row[14]),
                )
            )
        return faces
