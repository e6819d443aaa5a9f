"""Where work goes: by name, after the transaction that asked for it has committed.

Production hands a task to Celery's queue `recognition`. Embedded runs the very same task on a thread of this
process. A caller never imports a task, so web processes never load a model.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cache, partial
from typing import Any

import structlog
from celery import Celery
from django.conf import settings
from django.db import close_old_connections, transaction

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "accesscontrol.settings")

app = Celery("lintel")
app.config_from_object("django.conf:settings", namespace="CELERY")
# Celery would close every connection before and after each task, and a new one to Postgres costs a door more than its
# whole decision. They are kept as a web process keeps them: see `keep_connections` in accesscontrol.worker.
app.conf.CELERY_DB_REUSE_MAX = 1_000_000_000
app.autodiscover_tasks()

RECOGNITION_QUEUE = "recognition"
#: Loads the model and the gallery of the process that runs it.
WARM_UP_TASK = "accesscontrol.tasks.warm_up"
log = structlog.get_logger(__name__)


def dispatch(task_name: str, **kwargs: Any) -> None:
    """Run the task `task_name` with `kwargs` once the current transaction commits, or now if there is none.

    `kwargs` must be JSON: ids and sequence numbers, never a payload. An error while handing over is logged and does
    not reach the caller: what it asked for is committed, and the deadline of an attempt settles it as denied.
    """
    transaction.on_commit(partial(_hand_over, task_name, kwargs))


def _hand_over(task_name: str, kwargs: dict[str, Any]) -> None:
    try:
        if settings.LINTEL_MODE == "production":
            app.send_task(task_name, kwargs=kwargs, queue=RECOGNITION_QUEUE)
        else:
            future = _pool().submit(run_here, task_name, kwargs)
            _unfinished.add(future)
            future.add_done_callback(_unfinished.discard)
    except Exception:
        log.exception("task_not_handed_over", task=task_name)


#: Futures of embedded tasks. Adding and discarding are single operations of a set, safe between threads.
_unfinished: set[Future[bool]] = set()


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=settings.LINTEL_EMBEDDED_THREADS, thread_name_prefix="lintel-task")


def run_here(task_name: str, kwargs: dict[str, Any]) -> bool:
    """Run a task on this thread, as a worker would: errors logged, connections given back. True when it succeeded."""
    try:
        _tasks()[task_name].apply(kwargs=kwargs, throw=True)
    except Exception:
        log.exception("task_failed", task=task_name)
        return False
    finally:
        close_old_connections()
    return True


_importing = threading.Lock()


def _tasks() -> dict[str, Any]:
    """Every task, imported at first use. A second thread waits: half-imported modules hold half their tasks."""
    with _importing:
        return _import_tasks()


@cache
def _import_tasks() -> dict[str, Any]:
    app.loader.import_default_modules()
    return app.tasks


def wait_for_embedded_tasks(timeout_s: float = 30.0) -> None:
    """Block until every task handed to this process so far has ended. For orderly shutdown and for tests."""
    wait(list(_unfinished), timeout=timeout_s)
