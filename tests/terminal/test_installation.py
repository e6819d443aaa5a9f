"""What a terminal installs: Lintel's base, and nothing that a server or a worker needs."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SERVERS = {"django", "djangorestframework", "celery", "torch", "faiss-cpu", "faiss-gpu", "redis", "psycopg"}
BLOCKED = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"django", "rest_framework", "celery", "torch", "faiss", "redis", "psycopg"}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Missing())
"""


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def required(package: str) -> set[str]:
    """Names that `package` requires without any extra."""
    lines = importlib.metadata.requires(package) or []
    return {normal(re.match(r"[\w.-]+", line)[0]) for line in lines if "extra ==" not in line}  # type: ignore[index]


def test_the_base_installation_brings_neither_django_nor_torch():
    lines = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    waiting = {normal(re.match(r"[\w.-]+", line)[0]) for line in lines}  # type: ignore[index]
    found: set[str] = set()
    while waiting:
        name = waiting.pop()
        found.add(name)
        try:
            waiting |= required(name) - found
        except importlib.metadata.PackageNotFoundError:
            continue  # for another system or an older Python
    assert {"numpy", "cryptography", "httpx"} <= found
    assert found & SERVERS == set()


def test_the_terminal_and_what_it_runs_load_where_neither_is_installed():
    code = (
        BLOCKED
        + "import terminal.__main__, terminal.loop, terminal.capture, terminal.client, terminal.camera\n"
    )
    code += "raise SystemExit(terminal.__main__.main(['--help']))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "pair|run|simulate|selftest" in done.stdout


def test_recognition_is_a_library_that_needs_no_django():
    code = BLOCKED.replace('"torch", "faiss", ', "") + (
        "import recognition.recognizer, recognition.index, recognition.protection, recognition.detect\n"
        "import recognition.training, recognition.evaluation.verification\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
