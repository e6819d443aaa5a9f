"""A real Celery worker on a test's database and Redis, whose first identification dies like a power cut
before it settles.

Started as `celery --app tests.accesscontrol.dying_worker worker`; the test says where everything is by
environment.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")

import django

django.setup()

from django.conf import settings  # noqa: E402
from django.db import connection  # noqa: E402

from accesscontrol import services  # noqa: E402
from accesscontrol.celery import app  # noqa: E402

connection.settings_dict["NAME"] = os.environ["LINTEL_TEST_DATABASE_NAME"]
settings.LINTEL_MODE = "production"
settings.LINTEL_REDIS_URL = os.environ["LINTEL_TEST_REDIS_URL"]
settings.LINTEL_MODEL = os.environ["LINTEL_TEST_MODEL"]
app.conf.broker_url = settings.LINTEL_REDIS_URL
app.conf.imports = ["accesscontrol.tasks"]

settle = services.settle_attempt
died = Path(os.environ["LINTEL_TEST_MARKER"])


def settle_unless_it_is_the_first(**arguments: Any) -> Any:
    if not died.exists():
        died.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return settle(**arguments)


services.settle_attempt = settle_unless_it_is_the_first
