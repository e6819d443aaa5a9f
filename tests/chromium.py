"""A Chromium for the tests that need a browser: found where it lies, or installed by `python -m tests.chromium`.

`make test` and `make check` call it. Where none can be installed it says what to do and does not fail: the tests that
need one are skipped then, each with the same advice (under LINTEL_NO_SKIPS=1 they fail).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
#: Below the folder in which Playwright keeps its browsers, one for each system.
PLAYWRIGHTS_OWN = (
    "chromium-*/chrome-linux*/chrome",
    "chromium-*/chrome-mac*/*.app/Contents/MacOS/*",
    "chromium-*/chrome-win*/chrome.exe",
)
INSTALL_TIMEOUT_S = 900
ADVICE = "install the package chromium or set LINTEL_CHROMIUM"

Run = Callable[[Sequence[str]], str]


def find(environment: Mapping[str, str] = os.environ) -> Path | None:
    """The one that LINTEL_CHROMIUM names, else one on PATH, else the newest that Playwright installed."""
    if named := environment.get("LINTEL_CHROMIUM"):
        return Path(named) if Path(named).exists() else None
    for name in NAMES:
        if found := shutil.which(name, path=environment.get("PATH")):
            return Path(found)
    home = Path(environment.get("HOME") or Path.home())
    kept = environment.get("PLAYWRIGHT_BROWSERS_PATH")
    folders = [Path(kept)] if kept else [home / ".cache/ms-playwright", home / "Library/Caches/ms-playwright"]
    own = [path for folder in folders for pattern in PLAYWRIGHTS_OWN for path in folder.glob(pattern)]
    return max(own, key=lambda path: path.stat().st_mtime, default=None)


def ways() -> list[list[list[str]]]:
    """What to run, one way after the other, until there is one."""
    apt = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=120"]
    debian = [[*apt, "update"], [*apt, "install", "-y", "--no-install-recommends", "chromium"]]
    may = shutil.which("apt-get") is not None and hasattr(os, "geteuid") and os.geteuid() == 0
    return [*([debian] if may else []), [[sys.executable, "-m", "playwright", "install", "chromium"]]]


def run(command: Sequence[str]) -> str:
    """Why it failed; empty when it did not."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    words = (done.stderr or done.stdout).strip().splitlines()
    return "" if done.returncode == 0 else (words[-1] if words else f"it ended with {done.returncode}")


def find_or_install(
    *, looking: Callable[[], Path | None] = find, running: Run = run
) -> tuple[Path | None, str]:
    """The browser, and what to tell whoever waits: nothing where it was there already."""
    if found := looking():
        return found, ""
    if named := os.environ.get("LINTEL_CHROMIUM"):
        return None, f"There is no Chromium at {named}, which LINTEL_CHROMIUM names."
    reasons = []
    for commands in ways():
        for command in commands:
            if why := running(command):
                reasons.append(f"{' '.join(command)}: {why}")
                break
        if found := looking():
            return found, f"Installed a Chromium for the tests: {found}"
    return None, "\n".join(
        [
            f"No Chromium, and none could be installed: {ADVICE}.",
            *reasons,
            "Tests that need a browser are skipped.",
        ]
    )


if __name__ == "__main__":
    _, said = find_or_install()
    if said:
        print(said, file=sys.stderr)
