from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import audit.services
from enrollment import gallery, payloads, services
from enrollment.models import Enrollment, Person
from tests.enrollment import support
from tests.tiny_model import make_tiny_model


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(autouse=True)
def _any_terminal_may_enroll(settings) -> None:
    settings.LINTEL_MAY_ENROLL = "tests.enrollment.support.everywhere"


@pytest.fixture
def worker(settings, tiny_model: Path) -> Iterator[None]:
    """Tasks run at commit in this process, with the tiny model and a gallery that knows nothing yet."""
    settings.LINTEL_MODEL = str(tiny_model)
    settings.LINTEL_DISPATCH = "tests.enrollment.support.run_now"
    gallery.forget()
    payloads._in_process_store.cache_clear()
    yield
    gallery.forget()


@pytest.fixture
def capture(worker: None, django_capture_on_commit_callbacks) -> Callable[..., Enrollment]:
    """Submits captures of pictures one after the other and lets the worker finish each."""

    def submit(enrollment: Enrollment, *pictures: int, at=support.NOW) -> Enrollment:
        for picture in pictures:
            with django_capture_on_commit_callbacks(execute=True):
                services.submit_capture(
                    enrollment=enrollment, payload=support.payload_of(picture), quality=0.9, at=at
                )
        return support.fresh(enrollment)

    return submit


@pytest.fixture
def enroll(capture: Callable[..., Enrollment]) -> Callable[..., Enrollment]:
    """A person through the whole enrollment with three captures of one picture."""

    def run(person: Person, picture: int) -> Enrollment:
        return capture(support.begin(person), picture, picture, picture)

    return run


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Every entry handed to the real audit log, as it was handed over."""
    record, entries = audit.services.record, []

    def listen(**entry: Any) -> Any:
        entries.append(entry)
        return record(**entry)

    monkeypatch.setattr(audit.services, "record", listen)
    return entries
