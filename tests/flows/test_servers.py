"""Both sizes of Lintel as an operator starts them: real processes, real HTTP, nothing of the test's own inside."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import psycopg
import pytest

from accesscontrol.environment import generate_secrets
from tests.services import Postgres, free_port
from tests.tiny_model import make_tiny_model

ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT_S = 300.0


@pytest.fixture
def surroundings(tmp_path: Path) -> dict[str, str]:
    """An environment with nothing of Lintel's in it but a folder and a model that loads in a second."""
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("LINTEL_") and name != "DJANGO_SETTINGS_MODULE"
    }
    model = make_tiny_model(tmp_path / "model")
    return {
        **clean,
        "LINTEL_DATA_DIR": str(tmp_path / "data"),
        "LINTEL_MODEL": str(model),
        "PYTHONUNBUFFERED": "1",
    }


def manage(environment: Mapping[str, str], *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=ROOT,
        env=dict(environment),
        capture_output=True,
        text=True,
        timeout=START_TIMEOUT_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@contextmanager
def process(environment: Mapping[str, str], log: Path, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        running = subprocess.Popen(
            [sys.executable, *command], cwd=ROOT, env=dict(environment), stdout=output, stderr=output
        )
        try:
            yield running
        finally:
            running.terminate()
            try:
                running.wait(60)
            except subprocess.TimeoutExpired:
                running.kill()
                running.wait()


def until(condition: Callable[[], bool], running: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and running.poll() is None:
        try:
            if condition():
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise AssertionError(log.read_text(errors="replace")[-4000:])


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_stranger_sets_up_signs_in_with_the_printed_password_and_watches_live_events(
    surroundings: dict[str, str], tmp_path: Path
) -> None:
    manage(surroundings, "generate_secrets")
    password = re.search(r"password  (\S+)", manage(surroundings, "set_up"))
    assert password
    assert manage(surroundings, "set_up") == ""

    port = free_port()
    address = f"http://127.0.0.1:{port}"
    log = tmp_path / "serve.log"
    with (
        process(surroundings, log, "manage.py", "serve", "--port", str(port)) as server,
        httpx.Client(base_url=address, timeout=120) as browser,
    ):
        until(lambda: browser.get("/readyz").status_code == 200, server, log)
        assert browser.get("/static/lintel/lintel.css").headers["content-type"].startswith("text/css")
        second = subprocess.run(
            [sys.executable, "manage.py", "serve", "--port", str(port)],
            cwd=ROOT, env=surroundings, capture_output=True, text=True, timeout=START_TIMEOUT_S,
        )  # fmt: skip
        assert second.returncode != 0
        assert "Cannot listen" in second.stderr
        assert "is open at" not in second.stdout
        assert browser.get("/").headers["location"] == "/sign-in/?next=/"

        browser.get("/sign-in/")
        credentials = {
            "username": "admin",
            "password": password[1],
            "csrfmiddlewaretoken": browser.cookies["lintel_csrf"],
        }
        signed_in = browser.post("/sign-in/", data=credentials, headers={"Referer": f"{address}/sign-in/"})
        assert signed_in.status_code == 302
        assert browser.get("/").status_code == 200

        with browser.stream("GET", "/events/") as events:
            assert events.headers["content-type"] == "text/event-stream"
            assert next(events.iter_lines()).startswith("retry:")
            # Stopped while a page is open: the stream must not hold the server back.
            server.send_signal(signal.SIGINT)
        assert server.wait(120) == 0
    assert password[1] not in log.read_text()


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.redis
def test_production_is_ready_once_a_worker_is_warm_and_no_longer_when_it_is_gone(
    surroundings: dict[str, str], tmp_path: Path, postgres_server: Postgres, redis_url: str
) -> None:
    port = free_port()
    environment = {
        **production(surroundings, postgres_server, redis_url, port),
        "LINTEL_WORKER_METRICS_PORT": str(free_port()),
    }
    (tmp_path / "data").mkdir()
    assert "password" in manage(environment, "set_up")
    gunicorn = ("-m", "gunicorn", "--config", "deploy/gunicorn.conf.py", "accesscontrol.wsgi")
    celery = (
        "-m",
        "celery",
        "-A",
        "accesscontrol",
        "worker",
        "-Q",
        "recognition,maintenance",
        "--pool",
        "threads",
    )
    web_log, worker_log = tmp_path / "web.log", tmp_path / "worker.log"

    with ExitStack() as running, httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as supervisor:
        web = running.enter_context(process(environment, web_log, *gunicorn))
        until(lambda: supervisor.get("/healthz").status_code == 200, web, web_log)
        checks = supervisor.get("/readyz").json()["checks"]
        assert checks == {"database": "ok", "redis": "ok", "recognition_worker": "failed"}

        worker = running.enter_context(process(environment, worker_log, *celery))
        until(lambda: supervisor.get("/readyz").status_code == 200, worker, worker_log)

        numbers = httpx.get(
            f"http://127.0.0.1:{environment['LINTEL_WORKER_METRICS_PORT']}/metrics", timeout=120
        )
        assert "lintel_attempts" in numbers.text
        # Plain HTTP from elsewhere is sent to HTTPS; this machine's supervisor above was not.
        elsewhere = supervisor.get("/sign-in/", headers={"Host": "doors.example.org"})
        assert elsewhere.status_code == 301
        assert elsewhere.headers["location"] == "https://doors.example.org/sign-in/"
        assert supervisor.get("/sign-in/", headers={"Host": "elsewhere.example"}).status_code == 400

        worker.send_signal(signal.SIGKILL)
        worker.wait()
        until(lambda: supervisor.get("/readyz").status_code == 503, web, web_log)


def production(
    surroundings: Mapping[str, str], postgres_server: Postgres, redis_url: str, port: int
) -> dict[str, str]:
    """The environment of a server with an empty database and keys of its own, listening on `port`."""
    return {
        **surroundings,
        **generate_secrets(os.urandom, key_id="k1"),
        "LINTEL_MODE": "production",
        "LINTEL_ALLOWED_HOSTS": "doors.example.org",
        "LINTEL_PUBLIC_URL": "https://doors.example.org",
        "LINTEL_DATABASE_URL": _new_database(postgres_server.url),
        "LINTEL_REDIS_URL": redis_url,
        "LINTEL_BIND": f"127.0.0.1:{port}",
        "LINTEL_WEB_PROCESSES": "1",
    }


def _new_database(url: str) -> str:
    name = f"servers_{os.getpid()}"
    with psycopg.connect(url, autocommit=True) as connection:
        # By force: a process that was killed may still be in it for a moment.
        connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        connection.execute(f"CREATE DATABASE {name}")
    return url.rsplit("/", 1)[0] + f"/{name}"
