"""A Lintel for one demonstration: folder, secrets, database and port of its own, and nothing left behind."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx

MANAGE = Path(__file__).resolve().parents[2] / "manage.py"
START_TIMEOUT_S = 180.0  # a slow machine loads torch for the first time
STOP_TIMEOUT_S = 20.0
# Settings of the surrounding installation that must not reach the throw-away one.
KEPT_OUT = frozenset(
    f"LINTEL_{name}"
    for name in (
        "MODE", "DATABASE_URL", "REDIS_URL", "SECRETS_FILE", "DATA_DIR", "SECRET_KEY", "KEY_ENCRYPTION_KEYS",
        "GALLERY_KEYS", "SIGNING_KEYS", "PUBLIC_URL", "ALLOWED_HOSTS",
    )
)  # fmt: skip


class ServerFailedError(Exception):
    """The throw-away server did not start; the message holds the end of its log."""


@contextmanager
def throw_away_environment(surroundings: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """An installation in a new folder, which goes at the end: its environment. Raises ServerFailedError."""
    with tempfile.TemporaryDirectory(prefix="lintel-demo-") as folder:
        environment = {name: value for name, value in surroundings.items() if name not in KEPT_OUT}
        environment["LINTEL_DATA_DIR"] = folder
        for command in ("generate_secrets", "set_up"):
            _manage(command, environment)
        yield environment


@contextmanager
def running_server(environment: Mapping[str, str], *, log: Path) -> Iterator[str]:
    """Serve it as `make run` does, on a free port; gives the address. Raises ServerFailedError."""
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [sys.executable, str(MANAGE), "serve", "--port", str(port), "--quiet"],
            env=dict(environment),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        with ended_with_us(server):
            _wait_until_ready(server, url, log)
            yield url


@contextmanager
def ended_with_us(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Whatever happens inside, the process is gone afterwards: asked first, so that it can clean up."""
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(timeout=STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def leave_on_terminate() -> None:
    """SIGTERM ends this process as Ctrl-C does: through every `finally`."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


def _wait_until_ready(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    until = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < until:
        if server.poll() is not None:
            break
        try:
            if httpx.get(f"{url}/readyz", timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
    raise ServerFailedError(f"the throw-away server did not become ready:\n{end_of(log)}")


def end_of(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:]


def _manage(command: str, environment: Mapping[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, str(MANAGE), command],
        env=dict(environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        raise ServerFailedError(f"manage.py {command} failed:\n{done.stdout[-2000:]}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
