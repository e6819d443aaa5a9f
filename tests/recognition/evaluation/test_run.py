"""Training runs that end without a privacy profile are measured as they were trained: noise as floats, or none."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from recognition.checkpoint import ModelError
from recognition.evaluation.__main__ import main
from recognition.evaluation.embedding import RunEmbedder, open_embedder
from recognition.training.config import CONFIGS, TrainingConfig
from recognition.training.data import Faces
from recognition.training.train import Run, embed_faces
from recognition.types import FaceCrop
from tests.recognition.evaluation.faces import people, write_tar

PAPER = replace(  # noise as floats to the end, as the paper trains; small, so that a test can afford it
    CONFIGS["paper"],
    backbone="small",
    transform="critical",
    dimension=32,
    batch_size=4,
    passes=16,
    warmup_steps=1,
    learning_rate=0.01,
)


@pytest.fixture(scope="module")
def faces() -> Faces:
    pixels = np.stack([crop.pixels for crop in people(8, 2).values()])
    return Faces(pixels, np.repeat(np.arange(8), 2).astype(np.int64))


def trained(config: TrainingConfig, faces: Faces, folder: Path) -> Run:
    run = Run(config, faces, folder)
    run.train(lambda current, parts: None)
    return run


def embedded(folder: Path, faces: Faces, seed: int) -> np.ndarray:
    embedder = open_embedder(str(folder), profile=None, unprotected=False, seed=seed)
    return embedder.embed([FaceCrop(pixels) for pixels in faces.pixels])


def likeness(one: np.ndarray, other: np.ndarray) -> float:
    """Least cosine between the rows of two sets of unit vectors."""
    return float((one * other).sum(axis=1).min())


def test_a_run_without_noise_embeds_as_training_does(faces: Faces, tmp_path: Path) -> None:
    run = trained(replace(PAPER, epsilon_mean=None), faces, tmp_path)
    found = embedded(tmp_path, faces, 1)
    assert likeness(found, embed_faces(run, faces)) > 0.995  # half precision here, not there
    assert np.array_equal(found, embedded(tmp_path, faces, 2)), "no noise, so no seed matters"


def test_a_run_with_noise_is_measured_with_its_own_noise(faces: Faces, tmp_path: Path) -> None:
    hardly = trained(replace(PAPER, epsilon_mean=1e6), faces, tmp_path / "hardly")
    assert likeness(embedded(hardly.folder, faces, 1), embed_faces(hardly, faces)) > 0.98
    much = trained(replace(PAPER, epsilon_mean=0.5), faces, tmp_path / "much")
    embedder = open_embedder(str(much.folder), profile=None, unprotected=False, seed=1)
    assert isinstance(embedder, RunEmbedder)
    arrived: list[torch.Tensor] = []
    embedder.backbone.register_forward_pre_hook(lambda network, given: arrived.append(given[0]))
    for _ in range(2):
        embedder.embed([FaceCrop(pixels) for pixels in faces.pixels])
    perturbation = much.student.perturbation
    assert perturbation is not None
    with torch.no_grad():
        apart = (arrived[0] - arrived[1]) / perturbation.scale()  # two Laplace(0, 1) draws, on the same face
    # E|X - Y| = 3/2 for independent X, Y of Laplace(0, 1).
    assert apart.abs().mean(dim=(0, 2, 3)).numpy() == pytest.approx(1.5, rel=0.1)
    assert np.array_equal(embedded(much.folder, faces, 1), embedded(much.folder, faces, 1)), (
        "a seed repeats it"
    )


def test_the_papers_config_is_measured_by_the_command_that_is_documented(
    faces: Faces, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained(PAPER, faces, tmp_path / "run")
    write_tar(tmp_path / "faces.tar", people(8, 2))
    rows = ["fold,img1,img2,same"]
    for n in range(7):
        rows += [f"{n % 2},p{n:03d}_0,p{n:03d}_1,1", f"{n % 2},p{n:03d}_0,p{n + 1:03d}_1,0"]
    (tmp_path / "pairs.csv").write_text("\n".join(rows) + "\n")
    command = [
        "verification",
        "--images",
        str(tmp_path / "faces.tar"),
        "--pairs",
        str(tmp_path / "pairs.csv"),
    ]
    assert main([*command, "--model", str(tmp_path / "run")]) == 0
    result = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert (result["model"], result["noise"], result["epsilon_mean_per_coefficient"]) == (
        "paper",
        "floats",
        0.5,
    )
    assert 0 <= result["accuracy"] <= 1 and "payload_bytes" not in result, "floats are no capture"

    assert main([*command, "--model", str(tmp_path / "run"), "--unprotected"]) == 2
    assert "training run" in capsys.readouterr().err


def test_a_run_with_a_profile_is_measured_through_captures_alone(faces: Faces, tmp_path: Path) -> None:
    trained(replace(PAPER, epsilon_mean=16.0, exact_share=0.5, budgets="uniform"), faces, tmp_path)
    with pytest.raises(ModelError, match="ship"):
        open_embedder(str(tmp_path), profile=None, unprotected=False, seed=0)
