"""What CI accepts, with the long work played by a stand-in: no failure, no skipped test, no door that fails people."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAKE = """#!/bin/sh
echo "$@" >> '{calls}'
[ "$1" = demo ] && {{ echo 'p01 door opens'; echo '{demo}'; exit 0; }}
echo '{said}'
exit {status}
"""
GOOD = {
    "enrolled": 10, "genuine": 30, "genuine_accepted": 27, "impostor": 60, "impostor_accepted": 1,
    "p50_ms": 90.0, "p95_ms": 200.0, "payload_bytes": 14_683, "audit_verified": True,
}  # fmt: skip


def ci(
    folder: Path, *, said: str = "900 passed", status: int = 0, demo: dict[str, object] | None = None
) -> tuple[int, str]:
    """Exit status of .ci/run in a checkout where everything that it would install is there; what make was asked for."""
    checkout, tools, calls = folder / "lintel", folder / "tools", folder / "calls"
    shutil.copytree(ROOT / ".ci", checkout / ".ci")
    tools.mkdir()
    for name in ("redis-server", "initdb", "chromium", "node"):
        (tools / name).write_text("#!/bin/sh\n")
    (tools / "apt-get").write_text("#!/bin/sh\necho 'nothing is installed here' >&2; exit 9\n")
    (tools / "python3").write_text(f'#!/bin/sh\n[ "$1" = -c ] || exec {sys.executable} "$@"\n')
    (tools / "make").write_text(
        MAKE.format(calls=calls, said=said, status=status, demo=json.dumps(demo or GOOD))
    )
    for tool in tools.iterdir():
        tool.chmod(0o755)
    frames = folder / "frames"
    if demo is not None:
        frames.mkdir()
    done = subprocess.run(
        ["bash", str(checkout / ".ci" / "run")],
        env={"PATH": f"{tools}:{os.environ['PATH']}", "LINTEL_FRAMES": str(frames)},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert "nothing is installed here" not in done.stderr
    return done.returncode, calls.read_text() if calls.exists() else ""


def test_ci_runs_the_check_and_passes_with_it(tmp_path: Path) -> None:
    assert ci(tmp_path) == (0, "check\n")


def test_ci_fails_with_the_check(tmp_path: Path) -> None:
    assert ci(tmp_path, said="1 failed, 899 passed", status=2)[0] == 2


def test_ci_accepts_no_skipped_test(tmp_path: Path) -> None:
    assert ci(tmp_path, said="SKIPPED [1] tests/x.py:1: SERVICE MISSING: no Redis")[0] == 1


def test_ci_shows_the_demo_the_photographs_that_there_are(tmp_path: Path) -> None:
    assert ci(tmp_path, demo=GOOD) == (0, f"demo FRAMES={tmp_path / 'frames'}\ncheck\n")


@pytest.mark.parametrize(
    "change",
    [
        {"enrolled": 0, "genuine": 0, "genuine_accepted": 0},
        {"genuine_accepted": 14},
        {"impostor_accepted": 7},
        {"impostor": 0, "impostor_accepted": 0},
        {"payload_bytes": 300_001},
        {"audit_verified": False},
    ],
    ids=lambda change: ", ".join(f"{name} {value}" for name, value in change.items()),
)
def test_ci_fails_where_doors_failed_their_people(tmp_path: Path, change: dict[str, object]) -> None:
    status, asked = ci(tmp_path, demo=GOOD | change)
    assert (status, asked) == (1, f"demo FRAMES={tmp_path / 'frames'}\n")
