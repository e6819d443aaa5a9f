"""`make demo` as a stranger runs it: a server of its own, real terminals, the shipped model, two portraits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CAPTURES, VARIATIONS = 3, 8  # an enrollment takes three of a person's eight frames


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_demo_lets_an_enrolled_person_in_keeps_a_stranger_out_and_proves_it(tmp_path: Path) -> None:
    clean = {
        name: value
        for name, value in os.environ.items()
        if (not name.startswith("LINTEL_") or name == "LINTEL_MODELS_DIR")
        and name != "DJANGO_SETTINGS_MODULE"
    }
    clean |= {
        "TMPDIR": str(tmp_path),
        "LINTEL_ATTEMPT_DEADLINE_MS": "30000",  # a busy machine must not look like a door that stays shut
    }
    command = [sys.executable, "manage.py", "demo"]
    done = subprocess.run(command, cwd=ROOT, env=clean, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stdout + done.stderr

    lines = done.stdout.splitlines()
    said = json.loads(lines[-1])
    assert list(said) == [
        "enrolled", "genuine", "genuine_accepted", "impostor", "impostor_accepted",
        "p50_ms", "p95_ms", "payload_bytes", "audit_verified",
    ]  # fmt: skip
    assert said["enrolled"] == 1
    assert 0 < said["genuine"] <= VARIATIONS - CAPTURES
    assert 0 < said["impostor"] <= VARIATIONS
    # Noise is fresh in every run, so a single try proves nothing; a model that tells nobody apart fails here.
    assert 2 * said["genuine_accepted"] >= said["genuine"]
    assert 2 * said["impostor_accepted"] < said["impostor"]
    assert 0 < said["p50_ms"] <= said["p95_ms"]
    assert 0 < said["payload_bytes"] <= 300_000
    assert said["audit_verified"] is True

    doors = [line for line in lines if "astronaut_" in line or "stranger_" in line]
    assert len(doors) >= said["genuine"] + said["impostor"], "one readable line for each attempt"
    assert list(tmp_path.glob("lintel-demo-*")) == [], "the throw-away installation is gone"
