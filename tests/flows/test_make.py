"""What `make` does at a first start, at every start after it, and what it runs to check the code.

The environment's interpreter is a stand-in that notes how it was called. It neither installs nor downloads; everything
else it hands to the real one.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LEFT_OUT = {".git", ".venv", ".lintel", "pyproject.toml"}
INTERPRETER = """#!/bin/sh
echo "$*" >> '{calls}'
case "$*" in "-m pip "*|"-m recognition.fetch_models"*) exit 0 ;; esac
exec '{python}' "$@"
"""

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="SERVICE MISSING: no make on PATH")


@dataclass
class Clone:
    folder: Path

    @property
    def calls(self) -> Path:
        return self.folder.parent / "calls"

    def make(self, *words: str) -> tuple[list[str], str]:
        """How the interpreter was called meanwhile, a line each, and what was said."""
        self.calls.write_text("")
        clean = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("LINTEL_", "MAKE")) and name != "DJANGO_SETTINGS_MODULE"
        }
        clean["LINTEL_DATA_DIR"] = str(self.folder / ".lintel")
        done = subprocess.run(
            ["make", *words], cwd=self.folder, env=clean, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stdout + done.stderr
        called = [line for line in self.calls.read_text().splitlines() if not line.startswith("-c ")]
        return [line for line in called if not line.startswith((" ", "import"))], done.stdout


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    folder = tmp_path / "lintel"
    folder.mkdir()
    for entry in ROOT.iterdir():
        if entry.name not in LEFT_OUT:
            (folder / entry.name).symlink_to(entry)
    shutil.copy(ROOT / "pyproject.toml", folder)
    interpreter = folder / ".venv" / "bin" / "python"
    interpreter.parent.mkdir(parents=True)
    interpreter.write_text(INTERPRETER.format(calls=tmp_path / "calls", python=sys.executable))
    interpreter.chmod(0o755)
    return Clone(folder)


def said(calls: list[str], word: str) -> int:
    return sum(word in call for call in calls)


@pytest.mark.slow
def test_a_first_start_sets_everything_up_and_the_second_asks_for_nothing_but_migrations(
    clone: Clone,
) -> None:
    first, output = clone.make("set-up")
    assert said(first, "-m pip install") == 2
    assert said(first, "-m recognition.fetch_models") == 1
    assert said(first, "manage.py generate_secrets") == said(first, "manage.py set_up") == 1
    assert re.search(r"password  \S+", output)
    secrets = clone.folder / ".lintel" / "secrets.env"
    assert secrets.stat().st_mode & 0o777 == 0o600
    before = secrets.read_bytes()

    second, output = clone.make("set-up")
    assert second == ["manage.py set_up"], "no install, no download, no new secret"
    assert "password" not in output
    assert secrets.read_bytes() == before


@pytest.mark.slow
def test_what_an_installation_needs_is_installed_again_when_it_changed(clone: Clone) -> None:
    clone.make("set-up")
    with (clone.folder / "pyproject.toml").open("a") as file:
        file.write("# changed\n")
    again, _ = clone.make("set-up")
    assert said(again, "-m pip install") == 2
    assert said(again, "generate_secrets") == 0


def test_the_secrets_and_everything_else_that_is_made_are_ignored_by_git() -> None:
    ignored = {line.strip().strip("/") for line in (ROOT / ".gitignore").read_text().splitlines()}
    assert {".lintel", ".venv"} <= ignored


def test_a_check_is_style_types_contracts_migrations_and_tests_on_both_databases(clone: Clone) -> None:
    _, plan = clone.make("--dry-run", "check")
    for command in (
        "-m ruff check .", "-m ruff format --check .", "-m mypy", "lint-imports", "makemigrations --check",
        "LINTEL_TEST_DATABASE=postgres .venv/bin/python -m pytest",
        "LINTEL_TEST_DATABASE=sqlite .venv/bin/python -m pytest",
    ):  # fmt: skip
        assert command in plan, command
    configured = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    assert configured["filterwarnings"] == ["error"]


@pytest.mark.parametrize("target", ["test", "check"])
def test_a_browser_is_there_before_the_tests_that_need_one(clone: Clone, target: str) -> None:
    _, plan = clone.make("--dry-run", target)
    assert 0 < plan.index("-m tests.chromium") < plan.index("-m pytest")


def test_the_demo_takes_pictures_of_ones_own(clone: Clone) -> None:
    _, plan = clone.make("--dry-run", "demo", "FRAMES=pictures of us")
    assert 'manage.py demo --frames "pictures of us"' in plan
    assert "manage.py demo --frames" not in clone.make("--dry-run", "demo")[1]
