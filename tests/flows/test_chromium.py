"""Where the tests find a browser, and what set-up does where there is none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests import chromium


def an_executable(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_the_browser_that_is_named_comes_first_then_paths_then_playwrights(tmp_path: Path) -> None:
    nowhere = {"PATH": str(tmp_path / "bin"), "HOME": str(tmp_path)}
    assert chromium.find(nowhere) is None
    own = an_executable(tmp_path / ".cache/ms-playwright/chromium-1234/chrome-linux64/chrome")
    assert chromium.find(nowhere) == own
    on_path = an_executable(tmp_path / "bin" / "chromium-browser")
    assert chromium.find(nowhere) == on_path
    named = an_executable(tmp_path / "elsewhere" / "chrome")
    assert chromium.find({**nowhere, "LINTEL_CHROMIUM": str(named)}) == named
    assert chromium.find({**nowhere, "LINTEL_CHROMIUM": str(tmp_path / "gone")}) is None


@pytest.fixture
def two_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LINTEL_CHROMIUM", raising=False)
    monkeypatch.setattr(chromium, "ways", lambda: [[["first", "update"], ["first", "install"]], [["second"]]])


@pytest.mark.usefixtures("two_ways")
def test_where_a_browser_is_nothing_is_run_and_nothing_said(tmp_path: Path) -> None:
    ran: list[Sequence[str]] = []
    assert chromium.find_or_install(
        looking=lambda: tmp_path, running=lambda command: ran.append(command) or ""
    ) == (
        tmp_path,
        "",
    )
    assert ran == []


@pytest.mark.usefixtures("two_ways")
def test_a_missing_browser_is_installed_by_the_first_way_that_works(tmp_path: Path) -> None:
    ran: list[Sequence[str]] = []

    def run(command: Sequence[str]) -> str:
        ran.append(command)
        return "no network" if command == ["first", "update"] else ""

    found, said = chromium.find_or_install(
        looking=lambda: tmp_path if ["second"] in ran else None, running=run
    )
    assert found == tmp_path and str(tmp_path) in said
    assert ran == [["first", "update"], ["second"]]  # a way that failed is not gone on with


@pytest.mark.usefixtures("two_ways")
def test_whoever_cannot_install_one_is_told_why_and_what_to_do() -> None:
    found, said = chromium.find_or_install(looking=lambda: None, running=lambda command: "no network")
    assert found is None
    assert said.splitlines() == [
        "No Chromium, and none could be installed: install the package chromium or set LINTEL_CHROMIUM.",
        "first update: no network",
        "second: no network",
        "Tests that need a browser are skipped.",
    ]


def test_a_named_browser_that_is_not_there_is_said_and_no_other_installed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LINTEL_CHROMIUM", str(tmp_path / "gone"))
    ran: list[Sequence[str]] = []
    found, said = chromium.find_or_install(running=lambda command: ran.append(command) or "")
    assert (found, ran) == (None, [])
    assert "which LINTEL_CHROMIUM names" in said


def test_a_command_that_fails_or_does_not_exist_gives_its_last_words(tmp_path: Path) -> None:
    failing = an_executable(tmp_path / "failing")
    failing.write_text("#!/bin/sh\necho one; echo two >&2; exit 3\n")
    assert chromium.run([str(failing)]) == "two"
    failing.write_text("#!/bin/sh\nexit 0\n")
    assert chromium.run([str(failing)]) == ""
    assert "missing" in chromium.run([str(tmp_path / "missing")])
