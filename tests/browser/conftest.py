"""A real server in a process of its own, a real Chromium, and a camera that shows what the test wants.

    def test_something(server, open_page, complaints):
        page = server.sign_in(open_page(film="face", width=360), "enroller")
        page.goto("/people/")

`server` is one embedded Lintel with the shipped model, for the whole session: tests make people of their own in it
and must not count on being alone. `open_page` gives a page of a fresh browser context; `film` is "face" (a moving
portrait), "empty" (a wall), "far" (a small face), "visitor" (a wall, then somebody, and so on) or None (no camera at
all). `complaints` collects what the console, the policy and requests to elsewhere had to say. `modules` is a bare
server for the browser modules alone, under the policy of the pages that capture.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import django
import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Playwright, expect

from enrollment import languages
from tests.browser import films
from tests.browser.modules import module_server
from tests.services import CHROMIUM, free_port

ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT_S = 300.0
PATIENCE_MS = 240_000  # two cores that are busy with something else
PASSWORD = "five oaks beside the weir"
#: A user of the same name for every role, and a token; one process makes them all.
USERS_AND_TOKEN = f"""
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.utils import timezone
from accesscontrol.roles import Role
from accesscontrol.services import create_api_token
for role in Role:
    user = get_user_model().objects.create_user(role.value, password={PASSWORD!r})
    user.groups.add(Group.objects.get_or_create(name=role.value)[0])
scopes = ["people:read", "people:write", "people:erase"]
print(create_api_token(name="tests", scopes=scopes, actor="tests", at=timezone.now())[1])
"""
FLAGS = ("--no-sandbox", "--headless=new", "--disable-gpu", "--disable-background-networking")
CAMERA_FLAGS = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
FILMS: dict[str, Callable[[], Iterator[Any]]] = {
    "face": films.portrait_frames,
    "empty": films.empty_frames,
    "far": lambda: films.portrait_frames(zoom=0.45),
    "visitor": films.visitor_frames,
}
RATES = {"visitor": films.SLOW}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.browser)
            item.add_marker(pytest.mark.timeout(1200))


class Server:
    """An embedded Lintel as `make run` starts it, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        clean = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("LINTEL_") and name != "DJANGO_SETTINGS_MODULE"
        }
        kept = {name: os.environ[name] for name in ("LINTEL_MODELS_DIR",) if name in os.environ}
        self.environment = {
            **clean,
            **kept,
            "LINTEL_DATA_DIR": str(folder),
            "LINTEL_PAYLOAD_TTL_S": "600",  # a test is not about how fast this machine is
            "PYTHONUNBUFFERED": "1",
        }
        self.url = f"http://127.0.0.1:{free_port()}"
        self._log = folder / "serve.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.manage("generate_secrets")
        self.manage("set_up")
        self.token = self.run(USERS_AND_TOKEN).strip().splitlines()[-1]

    def start(self) -> None:
        port = self.url.rsplit(":", 1)[1]
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "manage.py", "serve", "--port", port, "--quiet"],
                cwd=ROOT,
                env=self.environment,
                stdout=output,
                stderr=output,
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{self.url}/readyz", timeout=10).status_code == 200:
                    return
            time.sleep(0.2)
        raise AssertionError(self._log.read_text(errors="replace")[-4000:])

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(120)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def manage(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=START_TIMEOUT_S,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def run(self, code: str) -> str:
        """Python inside the server's own settings and database; what it prints. Slow: a new process loads Django."""
        return self.manage("shell", *(["--no-imports"] if django.VERSION >= (5, 2) else []), "-c", code)

    def sign_in(self, page: Page, role: str = "administrator") -> Page:
        page.goto("/sign-in/")
        page.get_by_label("User name").fill(role)
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_label("Password").press("Enter")
        expect(page).to_have_title("Now · Lintel")
        page.wait_for_load_state()  # scripts included: a title comes before them
        return page

    def add_person(self, name: str, *, language: str | None = "en") -> str:
        """The id of a new person, with consent in `language` unless that is None."""
        person = self.api("POST", "people", {"full_name": name})
        spoken = languages.find(language) if language else None
        if spoken is not None:
            text = spoken.consent
            consent = {
                "text": text.text,
                "version": text.version,
                "language": text.language,
                "method": "online",
            }
            self.api("POST", f"people/{person['id']}/consents", consent)
        return str(person["id"])

    def erase_everybody(self) -> None:
        for person in self.api("GET", "people?limit=200")["results"]:
            self.api("POST", f"people/{person['id']}/erase", {})

    def api(self, method: str, path: str, document: Any = None) -> Any:
        """One operation of the API, as a system whose token may do everything with people."""
        answer = httpx.request(
            method,
            f"{self.url}/api/v1/{path}",
            json=document,
            headers={"Authorization": f"Bearer {self.token}"},
            timeout=PATIENCE_MS / 1000,
        )
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="lintel-browser-", ignore_cleanup_errors=True) as folder:
        running = Server(Path(folder))
        try:
            running.start()
            yield running
        finally:
            running.stop()


@pytest.fixture(scope="session")
def film_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="lintel-films-") as folder:
        yield Path(folder)


@pytest.fixture(scope="package")
def launch(playwright: Playwright, film_folder: Path) -> Iterator[Callable[[str | None], Browser]]:
    """A Chromium whose camera shows the film; one per film, kept."""
    expect.set_options(timeout=PATIENCE_MS)
    running: dict[str | None, Browser] = {}

    def browser_for(film: str | None) -> Browser:
        if film not in running:
            flags = list(FLAGS)
            if film is not None:
                path = films.write_film(
                    film_folder / f"{film}.y4m", FILMS[film](), rate=RATES.get(film, films.RATE)
                )
                flags += [*CAMERA_FLAGS, f"--use-file-for-fake-video-capture={path}"]
            running[film] = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        return running[film]

    yield browser_for
    for browser in running.values():
        browser.close()


@pytest.fixture
def complaints() -> list[str]:
    """What the console complained about: policy violations, failed loads, errors of scripts, other origins."""
    return []


@pytest.fixture
def open_page(
    launch: Callable[[str | None], Browser], server: Server, complaints: list[str]
) -> Iterator[Callable[..., Page]]:
    contexts: list[BrowserContext] = []

    def open_one(
        *,
        film: str | None = None,
        width: int = 1440,
        height: int = 900,
        scheme: str = "light",
        **options: Any,
    ) -> Page:
        context = launch(film).new_context(
            base_url=server.url,
            viewport={"width": width, "height": height},
            color_scheme=scheme,
            reduced_motion="reduce",
            **options,
        )
        context.set_default_timeout(PATIENCE_MS)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda entry: complaints.append(entry.text) if entry.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "request",
            lambda request: (
                None
                if request.url.startswith((server.url, "data:", "blob:"))
                else complaints.append(f"a request to {request.url}")
            ),
        )
        return page

    yield open_one
    for context in contexts:
        context.close()


@pytest.fixture(scope="package")
def modules_url() -> Iterator[str]:
    with module_server() as url:
        yield url


@pytest.fixture
def modules(launch: Callable[[str | None], Browser], modules_url: str) -> Iterator[Page]:
    """A page on which a test may `import("/enrollment/....js")`, with the portrait before its camera."""
    context = launch("face").new_context()
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    page.goto(modules_url)
    yield page
    context.close()


def as_json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
