"""Lintel's settings for tests: a data folder of their own, real secrets in it, and the database under test.

The folder's secrets file makes every process that a test starts (a server, a worker) open what the test sealed.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

from accesscontrol.environment import generate_secrets
from tests.services import Postgres

if "LINTEL_TEST_DATA_DIR" not in os.environ:
    _folder = tempfile.mkdtemp(prefix="lintel-tests-")
    atexit.register(shutil.rmtree, _folder, ignore_errors=True)
    os.environ["LINTEL_TEST_DATA_DIR"] = _folder
_data_dir = Path(os.environ["LINTEL_TEST_DATA_DIR"])
os.environ["LINTEL_DATA_DIR"] = str(_data_dir)
os.environ["LINTEL_MODE"] = "embedded"
if not (_data_dir / "secrets.env").exists():
    _secrets = generate_secrets(os.urandom, key_id="test")
    (_data_dir / "secrets.env").write_text("".join(f"{name}={value}\n" for name, value in _secrets.items()))

if os.environ.get("LINTEL_TEST_DATABASE", "sqlite") == "postgres" and "LINTEL_DATABASE_URL" not in os.environ:
    os.environ["LINTEL_DATABASE_URL"] = Postgres.shared().url

from accesscontrol.settings import *  # noqa: E402, F403
from accesscontrol.settings import DATABASES, LOGGING  # noqa: E402

# A file, not memory: threads and other processes see it, and WAL works as it does at work.
if DATABASES["default"]["ENGINE"] == "django.db.backends.sqlite3":
    DATABASES["default"]["TEST"] = {"NAME": _data_dir / "test.sqlite3"}
# Fast and weak, so that tests with many users stay fast; one test checks that production hashes with Argon2.
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
LOGGING["root"]["level"] = "WARNING"  # type: ignore[index]
# WhiteNoise warns about a folder of static files that is not there, and warnings are errors here.
STATIC_ROOT = _data_dir / "staticfiles"
STATIC_ROOT.mkdir(exist_ok=True)
# Threads of tests give their connection back at once: one kept open would keep the test database from being dropped.
DATABASES["default"]["CONN_MAX_AGE"] = 0
# Two busy cores and many writers: waiting for a lock is no fault there.
DATABASES["default"]["OPTIONS"] |= (  # type: ignore[operator]
    {"timeout": 120}
    if "sqlite3" in str(DATABASES["default"]["ENGINE"])
    else {"options": "-c lock_timeout=120s"}
)
# A busy machine must not turn a yes into "no answer in time"; tests of the deadline set their own.
LINTEL_ATTEMPT_DEADLINE_MS = 30_000
