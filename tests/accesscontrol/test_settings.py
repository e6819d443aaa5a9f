"""The settings as a process meets them: each case imports them in an interpreter of its own."""

from __future__ import annotations

import base64
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from accesscontrol.environment import format_keys, generate_secrets

ROOT = Path(__file__).resolve().parents[2]


def production(**changes: str | None) -> dict[str, str]:
    """An environment that production accepts, with `changes`; None leaves a name out."""
    values: dict[str, str | None] = {
        **generate_secrets(os.urandom, key_id="k1"),
        "LINTEL_MODE": "production",
        "LINTEL_ALLOWED_HOSTS": "doors.example.org",
        "LINTEL_PUBLIC_URL": "https://doors.example.org",
        "LINTEL_DATABASE_URL": "postgresql://lintel@127.0.0.1/lintel",
        "LINTEL_REDIS_URL": "redis://127.0.0.1/0",
        **changes,
    }
    return {name: value for name, value in values.items() if value is not None}


def start(
    environment: dict[str, str], folder: Path, code: str = "import accesscontrol.settings"
) -> subprocess.CompletedProcess[str]:
    clean = {
        k: v for k, v in os.environ.items() if not k.startswith("LINTEL_") and k != "DJANGO_SETTINGS_MODULE"
    }
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**clean, "LINTEL_DATA_DIR": str(folder), **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_production_starts_with_everything_in_place(tmp_path: Path) -> None:
    code = (
        "from accesscontrol import settings as s; print(s.DEBUG, s.SESSION_COOKIE_SECURE, s.CSRF_COOKIE_SECURE,"
        " s.SECURE_SSL_REDIRECT, s.SECURE_HSTS_SECONDS > 0, s.PASSWORD_HASHERS[0].rsplit('.')[-1])"
    )
    done = start(production(), tmp_path, code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["False", "True", "True", "True", "True", "Argon2PasswordHasher"]


ZERO_KEY = "k1:" + base64.b64encode(bytes(32)).decode()
SAME_KEY = format_keys([("k1", bytes(range(7, 39)))])


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"LINTEL_SECRET_KEY": None}, "LINTEL_SECRET_KEY is missing"),
        ({"LINTEL_SECRET_KEY": "secret"}, "LINTEL_SECRET_KEY is weak"),
        ({"LINTEL_SECRET_KEY": "a" * 64}, "LINTEL_SECRET_KEY is weak"),
        ({"LINTEL_KEY_ENCRYPTION_KEYS": None}, "LINTEL_KEY_ENCRYPTION_KEYS is missing"),
        ({"LINTEL_GALLERY_KEYS": ZERO_KEY}, "LINTEL_GALLERY_KEYS: key 'k1' is weak"),
        ({"LINTEL_SIGNING_KEYS": "k1:c2hvcnQ="}, "LINTEL_SIGNING_KEYS: key 'k1' has 5 bytes"),
        ({"LINTEL_GALLERY_KEYS": SAME_KEY, "LINTEL_SIGNING_KEYS": SAME_KEY}, "one key serves two purposes"),
        ({"LINTEL_DEBUG": "true"}, "LINTEL_DEBUG is true"),
        ({"LINTEL_ALLOWED_HOSTS": None}, "LINTEL_ALLOWED_HOSTS is missing"),
        ({"LINTEL_ALLOWED_HOSTS": "*"}, "LINTEL_ALLOWED_HOSTS is *"),
        ({"LINTEL_PUBLIC_URL": "http://doors.example.org"}, "LINTEL_PUBLIC_URL must begin with https"),
        ({"LINTEL_DATABASE_URL": None}, "LINTEL_DATABASE_URL is missing"),
        ({"LINTEL_DATABASE_URL": "sqlite:///x"}, "LINTEL_DATABASE_URL: it must begin with postgresql"),
        ({"LINTEL_REDIS_URL": None}, "LINTEL_REDIS_URL is missing"),
        ({"LINTEL_METRICS_TOKEN": "short"}, "LINTEL_METRICS_TOKEN is weak"),
        ({"LINTEL_MODE": "prodcution"}, "LINTEL_MODE is 'prodcution'"),
        ({"LINTEL_TARGET_FPIR": "2"}, "LINTEL_TARGET_FPIR is 2"),
    ],
)
def test_production_refuses_to_start_when_something_is_missing_or_weak(
    tmp_path: Path, changes: dict[str, str | None], complaint: str
) -> None:
    done = start(production(**changes), tmp_path)
    assert done.returncode != 0
    assert complaint in done.stderr


def test_a_refusal_never_shows_a_secret(tmp_path: Path) -> None:
    environment = production(LINTEL_REDIS_URL=None, LINTEL_SECRET_KEY="tellnobody")
    done = start(environment, tmp_path)
    assert "tellnobody" not in done.stdout + done.stderr
    assert environment["LINTEL_GALLERY_KEYS"].split(":")[1] not in done.stdout + done.stderr


def test_an_embedded_server_does_not_start_on_secrets_that_vanish_with_it(tmp_path: Path) -> None:
    done = start({}, tmp_path, "import accesscontrol.wsgi")
    assert done.returncode != 0
    assert "no secrets yet" in done.stderr


def test_generated_secrets_are_for_their_owner_alone_and_never_replaced(tmp_path: Path) -> None:
    code = "import sys; sys.argv = ['manage.py', 'generate_secrets']; import manage; manage.main()"
    folder = tmp_path / "data"

    first = start({}, folder, code)
    assert first.returncode == 0, first.stderr
    secrets = folder / "secrets.env"
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o600
    written = secrets.read_text()
    assert not any(line.partition("=")[2] in first.stdout for line in written.splitlines() if "=" in line)

    second = start({}, folder, code)
    assert second.returncode != 0
    assert "exists" in second.stderr
    assert secrets.read_text() == written
    assert start({}, folder, "import accesscontrol.wsgi").returncode == 0


def test_a_secrets_file_that_is_damaged_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "secrets.env").write_text("LINTEL_SECRET_KEY\n")
    done = start({}, tmp_path)
    assert done.returncode != 0
    assert "line 1" in done.stderr
