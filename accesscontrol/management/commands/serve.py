"""`manage.py serve`: the embedded server. One process, because gallery, payloads and events live in its memory."""

from __future__ import annotations

import os
import socket
import threading
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.core.wsgi import get_wsgi_application
from gunicorn.app.base import BaseApplication
from rich.console import Console
from rich.panel import Panel

from accesscontrol.celery import WARM_UP_TASK, run_here, wait_for_embedded_tasks
from accesscontrol.housekeeping import start_embedded_clock

#: Each page that is open holds one thread for its events; the rest answer terminals and browsers.
THREADS = 96


class Command(BaseCommand):
    help = "Serves the embedded Lintel on one address until it is stopped."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--host", default="127.0.0.1")
        parser.add_argument("--port", type=int, default=8000)
        parser.add_argument("--quiet", action="store_true", help="no banner")

    def handle(self, *, host: str, port: int, quiet: bool, **options: Any) -> None:
        if settings.LINTEL_MODE != "embedded":
            raise CommandError("In production gunicorn serves accesscontrol.wsgi: see deploy/.")
        if settings.LINTEL_SECRETS_ARE_EPHEMERAL:
            raise CommandError("There are no secrets yet: run `make run`, or generate_secrets and set_up.")
        _require_free(host, port)
        if not quiet:
            _banner(f"http://{host}:{port}")
        Embedded(f"{host}:{port}").run()


class Embedded(BaseApplication):
    """gunicorn with one worker of many threads, configured here and nowhere else."""

    def __init__(self, address: str) -> None:
        self._address = address
        super().__init__()

    def load_config(self) -> None:
        for name, value in {
            "bind": self._address,
            "workers": 1,
            "worker_class": "gthread",
            "threads": THREADS,
            "graceful_timeout": 3,  # open event streams end only when they are cut
            "keepalive": 15,
            "loglevel": "warning",
            "proc_name": "lintel",
            "control_socket_disable": True,
            "post_worker_init": _worker_started,
            "worker_exit": _worker_stops,
        }.items():
            if name in self.cfg.settings:
                self.cfg.set(name, value)

    def load(self) -> Any:
        return get_wsgi_application()


def _require_free(host: str, port: int) -> None:
    """Says so in words when somebody else listens there, instead of a banner for a door that does not open."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as problem:
            raise CommandError(
                f"Cannot listen on {host}:{port} ({problem.strerror}). Try `make run PORT=8001`."
            ) from None


def _worker_started(worker: Any) -> None:
    worker.lintel_clock = start_embedded_clock()
    # The model loads while people sign in, and not while the first of them waits at a door.
    threading.Thread(target=run_here, args=(WARM_UP_TASK, {}), name="lintel-warm-up", daemon=True).start()


def _worker_stops(arbiter: Any, worker: Any) -> None:
    if hasattr(worker, "lintel_clock"):
        worker.lintel_clock.stop()
        wait_for_embedded_tasks(timeout_s=1)
    # An orderly exit would join the threads of open event streams, which sleep for seconds, until it is killed.
    # Nothing is lost by leaving now: every task is one transaction.
    os._exit(0)


def _banner(url: str) -> None:
    Console().print(
        Panel.fit(
            f"[bold]Lintel[/bold] is open at [bold cyan]{url}[/bold cyan]\n"
            f"Sign in there as an administrator. API documentation: {url}/api/docs/\n"
            f"Data and secrets: {settings.LINTEL_DATA_DIR}\n"
            "Stop with Ctrl-C.",
            border_style="cyan",
        )
    )
