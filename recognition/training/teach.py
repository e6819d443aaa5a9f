"""python -m recognition.training.teach --model NAME --pack FACES.npz --out EMBEDDINGS.npz

What `--teacher` of `recognition.training` reads: the embeddings that an unprotected model gives the pictures of a
pack, in its order and not augmented. Beside the teacher that ships (`default-unprotected`) any model without a
profile will do.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch.nn import functional as F

from recognition.backbone import UNPROTECTED, Backbone
from recognition.checkpoint import load_model, model_folder
from recognition.training.data import read_pack
from recognition.training.perturbation import Transform

BATCH = 64


@torch.inference_mode()
def embeddings_of(teacher: Backbone, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """uint8 (B, 112, 112, 3) RGB -> float32 (B, D) of unit length."""
    planes = Transform(UNPROTECTED)(torch.from_numpy(pixels).permute(0, 3, 1, 2).float())
    unit: NDArray[np.float32] = F.normalize(teacher(planes).float()).numpy()
    return unit


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m recognition.training.teach", description=__doc__)
    parser.add_argument(
        "--model", default="default-unprotected", help="name or folder of an unprotected model"
    )
    parser.add_argument("--pack", type=Path, required=True, help="npz pack of aligned faces")
    parser.add_argument("--out", type=Path, required=True, help="npz to write")
    options = parser.parse_args()
    teacher = load_model(model_folder(options.model)).backbone.eval()
    if teacher.transform != UNPROTECTED:
        parser.error(f"a teacher sees the picture; {options.model} reads {teacher.transform!r} features")
    pixels = read_pack(options.pack, encoded=True).pixels
    parts = [
        embeddings_of(teacher, pixels[at : at + BATCH])
        for at in track(range(0, len(pixels), BATCH), "faces", console=Console(stderr=True))
    ]
    np.savez(options.out, embeddings=np.concatenate(parts).astype(np.float16))
    return 0


if __name__ == "__main__":
    sys.exit(main())
