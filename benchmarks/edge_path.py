"""Claim: from aligned crop to wire bytes, one core needs at most a third of what the literal float32 path needs: with
the shipped profile, with `critical`, and with `paper`, whose captures are 64 times larger.

The literal path is the method as published: upsample eight times, DCT every block, drop DC, add Laplace noise,
float32 out. Each of its steps is the fastest of several we tried. Also measured: the memory of a terminal process
after twenty captures, detector included.
"""

# ruff: noqa: E402 - the number of threads is fixed before numpy reads it

from __future__ import annotations

import argparse
import os

for _threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_threads] = "1"  # before numpy: one core means one core

import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage import data

from benchmarks.common import interleaved, machine, median, profile_of, record
from recognition.budget import PrivacyProfile
from recognition.frequency import BLOCK, SHAPES, dct_matrix, to_frequency, to_planes
from recognition.noise import perturb
from recognition.payload import pack
from recognition.types import FaceCrop

LIMIT = 1 / 3
MEMORY_LIMIT_MB = 200
SIZE = 112


def typical_profile(transform: str) -> PrivacyProfile:
    """Sends as much as the wire format's limit allows for `paper`: Y at 4 and 2 bits, chroma at 2; 258 KB."""
    _, height, width = SHAPES[transform]
    frequency = np.array([u + v for u in range(BLOCK) for v in range(BLOCK)][1:])  # (63,)
    luma = np.where(frequency <= 4, 4, np.where(frequency <= 8, 2, 0))
    chroma = np.where(frequency <= 3, 2, 0)
    bits = np.concatenate([luma, chroma, chroma])
    deviation = 80.0 / np.concatenate([frequency, 3 * frequency, 3 * frequency]) ** 1.5
    sent = bits > 0
    return PrivacyProfile(
        name=f"typical-{transform}",
        transform=transform,
        low=-4 * deviation,
        high=4 * deviation,
        channel_epsilon=np.where(sent, 4.0, 0.0),
        position_weight=np.ones((height, width)),
        bits=bits,
        step=np.where(sent, 2 * deviation, 0.0),
        deviation=deviation,
    )


class LiteralPath:
    """float32 upsample-DCT-Laplace, as the reference code does it, without torch."""

    def __init__(self, profile: PrivacyProfile) -> None:
        grid = np.linspace(0, SIZE - 1, SIZE * BLOCK, dtype=np.float32)  # aligned corners
        self.columns, self.rows = np.meshgrid(grid, grid)
        self.dct = dct_matrix().astype(np.float32)
        self.scale = np.where(np.isfinite(profile.scale), profile.scale, 0).astype(np.float32)
        self.random = np.random.default_rng()

    def run(self, crop: FaceCrop) -> bytes:
        planes = to_planes(crop.pixels).transpose(1, 2, 0)  # (112, 112, 3)
        large = cv2.remap(np.ascontiguousarray(planes), self.columns, self.rows, cv2.INTER_LINEAR)
        blocks = large.reshape(SIZE, BLOCK, SIZE, BLOCK, 3).transpose(4, 0, 2, 1, 3)  # (3, 112, 112, 8, 8)
        coefficients = self.dct @ blocks @ self.dct.T
        values = coefficients.reshape(3, SIZE, SIZE, 64).transpose(0, 3, 1, 2)[:, 1:].reshape(189, SIZE, SIZE)
        return (values + self._laplace(values.shape) * self.scale).tobytes()

    def _laplace(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """A signed exponential: three times as fast as numpy's own float64 Laplace."""
        noise = self.random.standard_exponential(shape, dtype=np.float32)
        signs = np.frombuffer(self.random.bytes(noise.size), np.uint8).reshape(shape)
        return np.negative(noise, out=noise, where=signs < 128)


def our_path(crop: FaceCrop, profile: PrivacyProfile) -> bytes:
    return pack(
        perturb(to_frequency(crop, profile.transform, channels=profile.sent), profile, os.urandom), profile
    )


TERMINAL = """
import sys
from pathlib import Path
import numpy as np
from recognition.budget import load_profile
from recognition.detect import Detector
from terminal.capture import CaptureStation
import terminal.client, terminal.loop
frame = np.load(sys.argv[2])
station = CaptureStation(load_profile(sys.argv[1]), Detector())
assert all(station.capture(frame).ok for _ in range(20))
assert "torch" not in sys.modules and "django" not in sys.modules
status = Path("/proc/self/status").read_text()  # getrusage would count what the parent held before exec
print(int(status.partition("VmHWM:")[2].split()[0]) / 1024)
"""


def terminal_memory_mb(profile: PrivacyProfile) -> float:
    """Peak resident memory of a fresh process that captures, as `python -m terminal run` does."""
    with tempfile.TemporaryDirectory() as folder:
        profile_file, frame_file = Path(folder) / "profile.json", Path(folder) / "frame.npy"
        profile_file.write_text(profile.to_json())
        frame = cv2.resize(data.astronaut()[0:360, 0:480], (1280, 960))  # as large as a camera's
        np.save(frame_file, frame)
        command = [sys.executable, "-c", TERMINAL, str(profile_file), str(frame_file)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return round(float(done.stdout), 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--model", default="default", help="whose profile is the shipped one")
    options = parser.parse_args()
    before = machine()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    cv2.setNumThreads(1)

    crop = FaceCrop(np.ascontiguousarray(cv2.resize(data.astronaut()[40:190, 150:300], (SIZE, SIZE))))
    shipped = profile_of(options.model)
    profiles = {
        "shipped": shipped,
        "paper": typical_profile("paper"),
        "critical": typical_profile("critical"),
    }
    literal = LiteralPath(profiles["paper"])
    actions = {"literal": lambda: literal.run(crop)}
    for name, profile in profiles.items():
        actions[name] = lambda profile=profile: our_path(crop, profile)
    times = {name: median(values) for name, values in interleaved(actions, rounds=options.rounds).items()}
    sizes = {name: len(our_path(crop, profile)) for name, profile in profiles.items()}
    ratios = {name: round(times[name] / times["literal"], 4) for name in profiles}
    memory = terminal_memory_mb(shipped)

    described = {
        "shipped": f"shipped profile {shipped.name} ({shipped.transform})",
        "paper": "`paper` transform, as many bits as the wire allows",
        "critical": "`critical` transform, the same bits per channel",
    }
    rows = [("literal float32 path, 9,483,264 bytes", f"{times['literal']} ms")]
    rows += [
        (
            f"{described[name]}, {sizes[name]:,} bytes",
            f"{times[name]} ms, {ratios[name]:.3f} of the literal path",
        )
        for name in profiles
    ]
    rows.append(("terminal process after 20 captures, peak resident", f"{memory} MB"))
    record(
        "edge_path",
        title="Edge: aligned crop to wire bytes on one core",
        claim="at most a third of the literal path's time with the shipped profile, with `critical` and with `paper`;"
        f" terminal process under {MEMORY_LIMIT_MB} MB.",
        holds=max(ratios.values()) <= LIMIT and memory < MEMORY_LIMIT_MB,
        rows=rows,
        figures={"median_ms": times, "ratio_to_literal": ratios, "bytes": sizes, "terminal_peak_mb": memory},
        before=before,
    )


if __name__ == "__main__":
    main()
