"""What a Celery worker does besides tasks: loads its gallery at start, says that it lives, shows its numbers."""

from __future__ import annotations

import threading
from typing import Any

import structlog
from celery.signals import heartbeat_sent, task_prerun, worker_ready, worker_shutting_down
from django.conf import settings
from django.core.cache import cache
from django.db import close_old_connections
from prometheus_client import start_http_server

from accesscontrol.celery import WARM_UP_TASK, run_here
from accesscontrol.health import WORKER_HEARD_KEY, WORKER_HEARD_TTL_S

log = structlog.get_logger(__name__)

#: Set once the model and the gallery are in memory: a worker without them answers no door and is not announced.
_warm = threading.Event()


@worker_ready.connect
def begin(**_: Any) -> None:
    if settings.LINTEL_WORKER_METRICS_PORT:
        start_http_server(settings.LINTEL_WORKER_METRICS_PORT, addr="127.0.0.1")
    threading.Thread(target=_warm_up, name="lintel-warm-up", daemon=True).start()


@heartbeat_sent.connect
def announce(**_: Any) -> None:
    if not _warm.is_set():
        return
    try:
        cache.set(WORKER_HEARD_KEY, True, timeout=WORKER_HEARD_TTL_S)
    except Exception:  # whatever the cache's driver raises, the next heartbeat tries again
        log.warning("worker_not_announced")


@task_prerun.connect
def keep_connections(task: Any = None, **_: Any) -> None:
    """As at the begin of a request: what is broken or older than CONN_MAX_AGE is opened anew, the rest is kept. A task
    that runs in the caller's own process uses the caller's connection, inside its transaction perhaps."""
    if not task.request.is_eager:
        close_old_connections()


@worker_shutting_down.connect
def end(**_: Any) -> None:
    _warm.clear()


def _warm_up() -> None:
    if run_here(WARM_UP_TASK, {}):
        _warm.set()
        log.info("worker_is_warm")
