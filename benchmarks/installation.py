"""A Lintel to measure: real processes, in either size, with a gallery of synthetic people.

The templates are random directions, sealed and stored as real ones are. Nobody's face is involved, except one
public-domain portrait that asks at the door.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from accesscontrol.environment import generate_secrets
from recognition.checkpoint import model_folder
from terminal.client import TerminalClient, pair
from tests.services import Postgres, Redis, free_port

ROOT = Path(__file__).resolve().parents[1]
START_TIMEOUT_S = 300.0
WORKER_THREADS = 16
EMBEDDED_COUNTER = "lintel:benchmark:embedded"  # in Redis, counted up by benchmarks.embed_task


class AsProxied(httpx.HTTPTransport):
    """Says what the proxy in front of production says: that the terminal came over HTTPS."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        request.headers["X-Forwarded-Proto"] = "https"
        return super().handle_request(request)


@dataclass(frozen=True)
class Running:
    """`web_pid`: the process that answers requests. `metrics_url`: where the model's own time is counted."""

    url: str
    environment: dict[str, str]
    web_pid: int
    metrics_url: str
    worker_pids: tuple[int, ...] = ()

    def pair_door(self) -> TerminalClient:
        code = django(self.environment, "pairing_code").strip()
        state = pair(self.url, code, seed=os.urandom(32), transport=AsProxied())
        return TerminalClient(self.url, state, transport=AsProxied())

    def processor_seconds(self) -> float:
        """Used so far by the web process and the workers, on all cores: hardly moved by what else runs here."""
        ticks = 0
        for pid in (self.web_pid, *self.worker_pids):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])  # utime, stime
        return ticks / os.sysconf("SC_CLK_TCK")

    def model_seconds(self) -> float:
        """Sum over all captures so far of the time spent in the recognizer, waiting for company included."""
        for line in httpx.get(self.metrics_url, timeout=30).text.splitlines():
            if line.startswith("lintel_model_seconds_sum"):
                return float(line.split()[-1])
        return 0.0


@contextmanager
def embedded(model: str, *, templates: int) -> Iterator[Running]:
    """As `make run` starts it: one process, SQLite."""
    with _folder() as folder:
        environment = _environment(model, folder)
        _prepare(environment, templates)
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        with _process(
            environment, folder / "serve.log", "manage.py", "serve", "--port", str(port), "--quiet"
        ) as pid:
            _until(lambda: httpx.get(f"{url}/readyz", timeout=5).status_code == 200, folder / "serve.log")
            yield Running(url, environment, _child_of(pid), f"{url}/metrics")


@contextmanager
def production(model: str, *, templates: int, workers: int = 1) -> Iterator[Running]:
    """As deploy/ starts it: gunicorn, Celery with a pool of threads, Postgres and Redis."""
    with _folder() as folder, ExitStack() as stack:
        redis, postgres = Redis(), Postgres()
        stack.callback(postgres.remove)
        stack.callback(redis.remove)
        redis.start()
        port, metrics_port = free_port(), free_port()
        url = f"http://127.0.0.1:{port}"
        environment = _environment(model, folder) | {
            "LINTEL_MODE": "production",
            "LINTEL_ALLOWED_HOSTS": "doors.example.org",
            "LINTEL_PUBLIC_URL": "https://doors.example.org",
            "LINTEL_DATABASE_URL": postgres.url,
            "LINTEL_REDIS_URL": redis.url,
            "LINTEL_BIND": f"127.0.0.1:{port}",
            "LINTEL_WEB_PROCESSES": "1",
        }
        _prepare(environment, templates)
        web = stack.enter_context(
            _process(environment, folder / "web.log", "-m", "gunicorn", "--config", "deploy/gunicorn.conf.py",
                     "accesscontrol.wsgi")
        )  # fmt: skip
        _until(lambda: httpx.get(f"{url}/healthz", timeout=5).status_code == 200, folder / "web.log")
        worker_pids = []
        for number in range(workers):
            own = {"LINTEL_WORKER_METRICS_PORT": str(metrics_port)} if number == 0 else {}
            pid = stack.enter_context(
                _process(environment | own, folder / f"worker{number}.log", "-m", "celery", "-A", "accesscontrol",
                         "worker", "-n", f"w{number}@%h", "-Q", "recognition,maintenance", "--pool", "threads",
                         "--concurrency", str(WORKER_THREADS), "-I", "benchmarks.embed_task")
            )  # fmt: skip
            worker_pids.append(pid)
        if workers:
            _until(lambda: httpx.get(f"{url}/readyz", timeout=5).status_code == 200, folder / "worker0.log")
        metrics = f"http://127.0.0.1:{metrics_port}/metrics"
        yield Running(url, environment, _child_of(web), metrics, tuple(worker_pids))


def django(environment: Mapping[str, str], action: str, *arguments: str) -> str:
    """Run one action of `benchmarks.rows` under the installation's settings."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.rows", action, *arguments],
        cwd=ROOT, env=dict(environment), capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    return done.stdout


def _environment(model: str, folder: Path) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LINTEL_")}
    kept = {name: os.environ[name] for name in ("LINTEL_MODELS_DIR",) if name in os.environ}
    return clean | kept | generate_secrets(os.urandom, key_id="k1") | {
        "LINTEL_DATA_DIR": str(folder), "LINTEL_MODEL": str(model_folder(model).resolve()),
        "LINTEL_ATTEMPT_DEADLINE_MS": "30000", "LINTEL_PAYLOAD_TTL_S": "600",
        "DJANGO_SETTINGS_MODULE": "accesscontrol.settings",
    }  # fmt: skip


def _prepare(environment: Mapping[str, str], templates: int) -> None:
    done = subprocess.run(
        [sys.executable, "manage.py", "set_up"],
        cwd=ROOT,
        env=dict(environment),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    if templates:
        django(environment, "gallery", str(templates))


@contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="lintel-benchmark-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _process(environment: Mapping[str, str], log: Path, *command: str) -> Iterator[int]:
    with log.open("wb") as output:
        running = subprocess.Popen(
            [sys.executable, *command], cwd=ROOT, env=dict(environment), stdout=output, stderr=output
        )
    try:
        yield running.pid
    finally:
        running.terminate()
        try:
            running.wait(30)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


def _until(condition: Callable[[], bool], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise RuntimeError(log.read_text(errors="replace")[-3000:])


def _child_of(pid: int) -> int:
    """gunicorn's one worker process."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    if len(children) != 1:
        raise RuntimeError(f"gunicorn has {len(children)} worker processes, one was expected")
    return int(children[0])
