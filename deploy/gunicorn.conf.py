"""gunicorn in production: processes for requests, threads for open event streams.

Each worker process writes its numbers to PROMETHEUS_MULTIPROC_DIR, so that /metrics shows the sum of all.
"""

import os
from typing import Any

from prometheus_client import multiprocess

bind = os.environ.get("LINTEL_BIND", "0.0.0.0:8000")
workers = int(os.environ.get("LINTEL_WEB_PROCESSES", "2"))
worker_class = "gthread"
threads = int(os.environ.get("LINTEL_WEB_THREADS", "96"))
timeout = 30
graceful_timeout = 10
keepalive = 15
# Requests are at most 300 KB and their headers small: nothing larger is read.
limit_request_field_size = 8190
worker_tmp_dir = "/dev/shm"
control_socket_disable = True


def child_exit(server: Any, worker: Any) -> None:
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        multiprocess.mark_process_dead(worker.pid)
