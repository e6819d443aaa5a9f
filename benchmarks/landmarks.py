"""How many faces the shipped detector finds, and how far its five points are from YuNet's.

    python benchmarks/landmarks.py FOLDER YUNET.onnx [--output FILE]   measure on <person>_<k>.jpg
    python benchmarks/landmarks.py PACK.npz YUNET.onnx --fit           fit POINT_CORRECTION on other faces

Distances are in YuNet's eye distances. YuNet's own disagreement with itself on the same picture at another
size is measured too: nothing can be expected to agree with it better than that. Shift is what a recogniser
would notice: how far the corners of the crop move, in its 112 pixels, when our points align it and not YuNet's.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from recognition.align import TEMPLATE, align, umeyama
from recognition.detect import Detector, Face, FaceUnits, shape_of
from recognition.fetch_models import models_folder
from recognition.quality import assess

Picture = NDArray[np.uint8]

VARIATIONS: dict[str, Callable[[Picture], Picture]] = {
    "as it is": lambda picture: picture,
    "half size": lambda picture: scaled(picture, 0.5),
    "face of about 60 px": lambda picture: scaled(picture, 0.34),
    "twice the size": lambda picture: scaled(picture, 2.0),
    "close-up": lambda picture: scaled(picture[100:400, 90:390], 1.6),
    "darker (40 %)": lambda picture: (picture * 0.4).astype(np.uint8),
    "shifted": lambda picture: moved(picture, 110, -60, 0.0),
    "turned by 15 degrees": lambda picture: moved(picture, 0, 0, 15.0),
    "far away in 1280x720": lambda picture: placed(scaled(picture, 0.34), 1280, 720),
}


def scaled(picture: Picture, factor: float) -> Picture:
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(picture, None, fx=factor, fy=factor, interpolation=how), np.uint8)


def moved(picture: Picture, right: int, down: int, degrees: float) -> Picture:
    height, width = picture.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1.0)
    matrix[:, 2] += (right, down)
    return np.asarray(
        cv2.warpAffine(picture, matrix, (width, height), borderMode=cv2.BORDER_REFLECT), np.uint8
    )


def placed(picture: Picture, width: int, height: int) -> Picture:
    canvas = np.full((height, width, 3), 110, np.uint8)
    top, left = (height - picture.shape[0]) // 2, (width - picture.shape[1]) // 3
    canvas[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return canvas


def pictures(folder: Path) -> Iterator[Picture]:
    for path in sorted(folder.glob("*.jpg")):
        yield cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def distance(points: NDArray[np.floating], reference: NDArray[np.floating]) -> NDArray[np.float64]:
    """(5,) in eye distances of the reference."""
    eyes = np.linalg.norm(reference[1] - reference[0])
    return np.asarray(np.linalg.norm(points - reference, axis=1) / eyes)


def corner_shift(points: NDArray[np.floating], reference: NDArray[np.floating]) -> float:
    """Mean movement of the crop's corners, in crop pixels, between two alignments of one face."""
    ours, theirs = umeyama(points, TEMPLATE), umeyama(reference, TEMPLATE)
    corners = np.array([(0, 0), (111, 0), (0, 111), (111, 111)], np.float64)
    in_frame = (corners - theirs[:, 2]) @ np.linalg.inv(theirs[:, :2]).T
    again = in_frame @ ours[:, :2].T + ours[:, 2]
    return float(np.linalg.norm(again - corners, axis=1).mean())


def largest(faces: list[Face]) -> Face | None:
    return faces[0] if faces else None


def measure(folder: Path, ours: Detector, raw: Detector, yunet: Detector) -> dict[str, dict[str, object]]:
    report: dict[str, dict[str, object]] = {}
    for name, vary in VARIATIONS.items():
        found = found_by_yunet = good = total = 0
        agreed, uncorrected, itself, shifts, own_shifts, times = [], [], [], [], [], []
        reasons: dict[str, int] = {}
        for original in pictures(folder):
            picture = vary(original)
            total += 1
            started = time.perf_counter()
            faces = ours.find(picture)
            times.append(time.perf_counter() - started)
            face, reference = largest(faces), largest(yunet.find(picture))
            found += face is not None
            found_by_yunet += reference is not None
            quality = assess(picture, faces, align(picture, face.points) if face else None)
            good += quality.ok
            if not quality.ok:
                reasons[quality.reason] = reasons.get(quality.reason, 0) + 1
            if face is None or reference is None:
                continue
            agreed.append(distance(face.points, reference.points))
            shifts.append(corner_shift(face.points, reference.points))
            plain = largest(raw.find(picture))
            if plain is not None:
                uncorrected.append(distance(plain.points, reference.points))
            other = largest(yunet.find(scaled(picture, 0.8)))
            if other is not None:
                itself.append(distance(other.points / 0.8, reference.points))
                own_shifts.append(corner_shift(other.points / 0.8, reference.points))
        report[name] = {
            "pictures": total,
            "found": found,
            "found_by_yunet": found_by_yunet,
            "quality_good": good,
            "quality_reasons": reasons,
            "distance_per_point": [round(float(value), 4) for value in np.mean(agreed, axis=0)],
            "distance_mean": round(float(np.mean(agreed)), 4),
            "distance_median": round(float(np.median(agreed)), 4),
            "distance_without_correction": round(float(np.mean(uncorrected)), 4),
            "yunet_from_itself_at_0.8": round(float(np.mean(itself)), 4),
            "crop_corner_shift_px": round(float(np.mean(shifts)), 2),
            "crop_corner_shift_px_yunet_from_itself": round(float(np.mean(own_shifts)), 2),
            "find_ms_median": round(1000 * float(np.median(times)), 1),
        }
        print(f"{name:22} found {found}/{total}, {report[name]}", flush=True)
    return report


def fit(pack: Path, raw: Detector, yunet: Detector, *, faces: int = 3200, seed: int = 1) -> None:
    """Least squares with a small ridge from the mesh's shape to YuNet's difference, on enlarged, turned crops."""
    data = np.load(pack)
    blob, offsets = data["blob"], data["offsets"]
    chance = np.random.default_rng(seed)
    shapes, differences = [], []
    for index in chance.permutation(len(offsets) - 1)[:faces]:
        crop = cv2.cvtColor(cv2.imdecode(blob[offsets[index] : offsets[index + 1]], 1), cv2.COLOR_BGR2RGB)
        matrix = cv2.getRotationMatrix2D((56, 56), chance.uniform(-12, 12), chance.uniform(1.6, 2.8))
        matrix[:, 2] += 240 - 56 + chance.uniform(-40, 40, 2)
        picture = cv2.warpAffine(
            crop, matrix, (480, 480), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
        )
        face, reference = largest(raw.find(picture)), largest(yunet.find(picture))
        if face is None or reference is None or reference.score < 0.8 or face.score < 0.6:
            continue
        if distance(face.points, reference.points).max() > 0.35:
            continue  # one of the two is wrong: no lesson in it
        units = FaceUnits.of(face.points.astype(np.float64))
        measured = units.measure(face.points.astype(np.float64))
        shapes.append(shape_of(measured)[:-1])
        differences.append((units.measure(reference.points.astype(np.float64)) - measured).reshape(-1))
    known, wanted = np.array(shapes), np.array(differences)
    centred = known - known.mean(axis=0)
    weights = np.linalg.solve(
        centred.T @ centred + 0.1 * np.eye(centred.shape[1]), centred.T @ (wanted - wanted.mean(axis=0))
    ).T
    constant = wanted.mean(axis=0) - weights @ known.mean(axis=0)
    print(f"# {len(known)} faces")
    for row in np.column_stack([weights, constant]).round(3):
        print("(" + ", ".join(f"{value:.3f}" for value in row) + "),")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("yunet", type=Path)
    parser.add_argument("--fit", action="store_true")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    ours, raw, yunet = (
        Detector(models=models_folder()),
        Detector(agree=False, models=models_folder()),
        Detector(yunet=options.yunet),
    )
    if options.fit:
        fit(options.data, raw, yunet)
        return
    report = measure(options.data, ours, raw, yunet)
    document = {
        "what": "shipped detector against YuNet; distances in eye distances",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.machine()}, {platform.system()}, Python {platform.python_version()},"
        f" OpenCV {cv2.__version__}, 1 thread",
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "variations": report,
    }
    if options.output:
        options.output.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
