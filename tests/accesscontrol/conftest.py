from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.cache import cache

from enrollment import gallery, payloads
from enrollment.models import Person
from recognition.payload import pack
from tests.accesscontrol import support
from tests.tiny_model import capture_of, make_tiny_model, synthetic_picture, tiny_profile


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(autouse=True)
def _rates_start_anew() -> None:
    cache.clear()


@pytest.fixture
def model(settings: Any, tiny_model: Path) -> Iterator[None]:
    """The tiny model, and a gallery that knows nothing yet."""
    settings.LINTEL_MODEL = str(tiny_model)
    gallery.forget()
    payloads._in_process_store.cache_clear()
    yield
    gallery.forget()


@pytest.fixture
def server(db: None, model: None, tasks_run_inline: None) -> Iterator[None]:
    """Commits take effect and tasks run while the request waits, all on one thread."""
    with support.commits_at_once():
        yield


@pytest.fixture
def payload(model: None) -> Callable[[int], bytes]:
    """A fresh capture of a picture, in the wire format."""
    profile = tiny_profile()
    return lambda picture: pack(capture_of(synthetic_picture(picture), profile), profile)


@pytest.fixture
def enroll(payload: Callable[[int], bytes]) -> Callable[[Person, int], Person]:
    """Takes a person through an enrollment of one capture. Tasks must run inline."""
    from django.utils import timezone

    from enrollment import services

    def run(person: Person, picture: int) -> Person:
        enrollment = services.begin_enrollment(
            person=person, captures_wanted=1, actor="desk", at=timezone.now()
        )
        services.submit_capture(enrollment=enrollment, payload=payload(picture), at=timezone.now())
        enrollment.refresh_from_db()
        assert enrollment.state == "completed", enrollment.last_reason
        return person

    return run


@pytest.fixture
def place(server: None) -> support.Place:
    return support.make_place()


@pytest.fixture
def alice(place: support.Place, enroll: Callable[[Person, int], Person]) -> Person:
    person = enroll(support.somebody("Alice Example"), support.ALICE)
    place.group.members.add(person)
    return person


@pytest.fixture
def bob(place: support.Place, enroll: Callable[[Person, int], Person]) -> Person:
    return enroll(support.somebody("Bob Example"), support.BOB)
