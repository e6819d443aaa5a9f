"""Production's own worker with one weakness: while a marker lies there, it dies like a power cut between search and
decision, and takes the marker with it.

Started as `celery -A tests.flows.mortal_worker worker`; the test says where the marker is by environment.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import django

django.setup()

from accesscontrol import services  # noqa: E402
from accesscontrol.celery import app  # noqa: E402, F401 (what Celery looks for)

settle = services.settle_attempt
marker = Path(os.environ["LINTEL_TEST_MARKER"])


def settle_unless_doomed(**arguments: Any) -> Any:
    if arguments.get("candidates") is not None and marker.exists():
        marker.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    return settle(**arguments)


services.settle_attempt = settle_unless_doomed
