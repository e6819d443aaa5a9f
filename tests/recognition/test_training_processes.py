"""Training as it is started: killed without warning and started again, and by torchrun in two processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.recognition.evaluation.faces import people, write_pack

PATIENCE_S = 600.0


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    write_pack(folder / "faces.npz", people(24, 1))
    np.savez(folder / "teacher.npz", embeddings=np.random.default_rng(0).normal(size=(24, 256)))
    return folder


def training(place: Path, run: Path, *more: str) -> list[str]:
    command = [sys.executable, "-m", "recognition.training", "--config", "small-critical", "--out", str(run)]
    return [*command, "--pack", str(place / "faces.npz"), "--teacher", str(place / "teacher.npz"), *more]


@pytest.mark.slow
def test_a_run_killed_without_warning_goes_on_from_its_checkpoint(place: Path, tmp_path: Path) -> None:
    state = tmp_path / "state.pt"
    process = subprocess.Popen(
        training(place, tmp_path, "--minutes", "600", "--checkpoint-every", "0"), stderr=subprocess.DEVNULL
    )
    try:
        until = time.monotonic() + PATIENCE_S
        while not state.exists() and process.poll() is None and time.monotonic() < until:
            time.sleep(0.1)  # a condition is waited for: there is a checkpoint
    finally:
        process.kill()
    assert process.wait(PATIENCE_S) == -signal.SIGKILL, "it was killed, it did not end by itself"
    kept = torch.load(state, weights_only=True)
    assert kept["passes"] >= 64

    # The clock goes on from the checkpoint's too: a moment more is one more step.
    minutes = (kept["seconds"] + 1e-3) / 60
    again = subprocess.run(
        training(place, tmp_path, "--minutes", repr(minutes)), capture_output=True, text=True,
        timeout=PATIENCE_S, check=True,
    )  # fmt: skip
    assert f"resumed at {kept['passes']:,} faces" in again.stderr
    assert json.loads(again.stdout.splitlines()[-1])["passes"] == kept["passes"] + 64


@pytest.mark.slow
def test_two_processes_learn_one_network_and_stop_together(place: Path) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    ended = subprocess.run(
        [*launch, "-m", "tests.recognition.parallel_run", str(place)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-3000:]
    result = json.loads((place / "ended.json").read_text())
    first, second = result["ends"]
    assert first == second, "the same weights after as many steps"
    assert result["steps"] >= 1 and result["passes"] == 2 * 4 * result["steps"]
    assert (place / "run" / "state.pt").exists()
