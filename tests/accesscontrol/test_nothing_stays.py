"""No image, no perturbed features and no unprotected embedding stays anywhere once they have done their work.

Enrollments, attempts, refused and abandoned captures run through real commits, a real Redis and a real broker queue.
Then every byte that the server keeps is searched for each of them, in every spelling that code would write by accident.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from django.conf import settings as django_settings
from django.db import connection
from django.utils import timezone

from accesscontrol import celery, services
from accesscontrol.celery import RECOGNITION_QUEUE
from accesscontrol.models import Terminal
from enrollment import gallery, payloads, sealing
from enrollment import services as enrollment
from enrollment.models import Enrollment, Person
from recognition.payload import pack, unpack
from recognition.types import Embedding, PerturbedFeatures
from tests.accesscontrol import support
from tests.accesscontrol.support import ALICE, CAPTURE, MALLORY, Place, new_nonce
from tests.accesscontrol.test_faults import wait_until
from tests.services import Postgres, Redis
from tests.tiny_model import synthetic_picture, tiny_profile

pytestmark = [pytest.mark.database, pytest.mark.redis, pytest.mark.django_db(transaction=True)]

Needles = dict[str, bytes]
PICTURE_FILES = {
    "JFIF": b"\xff\xd8\xff\xe0\x00\x10JFIF", "Exif": b"Exif\x00\x00", "PNG": b"\x89PNG\r\n\x1a\n", "WebP": b"WEBPVP8",
}  # fmt: skip


def telling(data: bytes) -> bool:
    """Not a run of equal values, which anything may contain by chance."""
    return len(data) >= 16 and len(set(data)) >= 3


def spellings(name: str, data: bytes) -> Needles:
    """As bytes, in hexadecimal, and in base64, whatever comes before them."""
    assert telling(data), f"{name} says too little to be searched for"
    found = {f"{name} as bytes": data, f"{name} in hexadecimal": data.hex().encode()}
    for before in range(3):
        whole = base64.b64encode(bytes(before) + data)
        found[f"{name} in base64, {before} bytes in"] = whole[4 : len(whole) // 4 * 4 - 4]
    return found


def numbers(name: str, values: np.ndarray) -> Needles:
    """As machine numbers of each width, and as a list in a text."""
    flat = np.asarray(values).ravel()
    found: Needles = {}
    for kind in ("<f4", "<f8", "<f2"):
        found |= spellings(f"{name} as {kind}", flat[:24].astype(kind).tobytes())
    found[f"{name} as JSON"] = ", ".join(repr(float(value)) for value in flat[:4]).encode()
    found[f"{name} as short JSON"] = ",".join(repr(float(value)) for value in flat[:4]).encode()
    found[f"{name} as printed"] = str(flat[:4])[1:-1].strip().encode()
    return found


def of_picture(number: int) -> Needles:
    pixels = synthetic_picture(number).pixels
    found: Needles = {}
    for row in (20, 56, 90):
        found |= spellings(f"picture {number}, row {row}", pixels[row, 40:72].tobytes())
        found |= spellings(f"picture {number}, row {row}, blue first", pixels[row, 40:72, ::-1].tobytes())
        found |= spellings(f"picture {number}, row {row}, one colour", pixels[row, :, 1].tobytes())
    return found


def of_capture(name: str, capture: bytes) -> Needles:
    profile = tiny_profile()
    codes = unpack(capture, {profile.hash: profile}).codes
    found: Needles = {}
    slices = {at: capture[at : at + 36] for at in range(64, len(capture) - 40, len(capture) // 12)}
    for start in [start for start, data in slices.items() if telling(data)]:
        found |= spellings(f"{name}, from byte {start}", slices[start])
    assert found
    channel = next(number for number in np.flatnonzero(profile.bits) if telling(codes[number].tobytes()))
    found |= spellings(f"{name}, codes", codes[channel].tobytes())
    return found | numbers(f"{name}, values", profile.values_of(codes)[channel])


class Watch:
    """Notes what a worker holds in its hands."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.embeddings: list[Embedding] = []
        model = gallery.recognizer()
        embed_one = model.embed_one

        def watched(features: PerturbedFeatures, **more: Any) -> Embedding:
            self.embeddings.append(embed_one(features, **more))
            return self.embeddings[-1]

        monkeypatch.setattr(model, "embed_one", watched)


@pytest.fixture
def place(transactional_db: None, model: None) -> Iterator[Place]:
    yield support.make_place()
    celery.wait_for_embedded_tasks()


@pytest.fixture
def broker(settings: Any, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Payloads go through Redis. Each task is put on the real queue, where it stays, and runs on a thread."""
    settings.LINTEL_MODE, settings.LINTEL_REDIS_URL = "production", redis_url
    with celery.Celery(broker=redis_url) as app:

        def hand_over(name: str, arguments: dict[str, Any]) -> None:
            app.send_task(name, kwargs=arguments, queue=RECOGNITION_QUEUE)
            future = celery._pool().submit(celery.run_here, name, arguments)
            celery._unfinished.add(future)
            future.add_done_callback(celery._unfinished.discard)

        monkeypatch.setattr(celery, "_hand_over", hand_over)
        yield redis_url


@pytest.fixture
def log_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[Path]:
    """Everything that anybody logs, at the most talkative level, through the product's own format."""
    written = tmp_path / "everything.log"
    handler = logging.FileHandler(written)
    handler.setFormatter(logging.getLogger().handlers[0].formatter)
    logging.getLogger().addHandler(handler)
    for name in (
        "",
        "django",
        "django.server",
        "celery",
        "celery.worker.strategy",
        "celery.app.trace",
        "httpx",
    ):
        caplog.set_level(logging.DEBUG, logger=name or None)
    yield written
    logging.getLogger().removeHandler(handler)
    handler.close()


def redis_dump(server: Redis, url: str) -> bytes:
    """What a snapshot writes, uncompressed so that it can be searched."""
    with redis.Redis.from_url(url) as client:
        client.config_set("rdbcompression", "no")
        client.save()
    return (server.folder / "dump.rdb").read_bytes()


def database() -> bytes:
    """Every row as the database gives it, and every file of it as it lies on the disk, logs of writes included."""
    found = []
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names(cursor):
            cursor.execute(f'SELECT * FROM "{table}"')
            for row in cursor.fetchall():
                found += [bytes(v) if isinstance(v, (bytes, memoryview)) else str(v).encode() for v in row]
        if connection.vendor == "postgresql":
            cursor.execute("CHECKPOINT")
    if connection.vendor == "postgresql":
        files = [file for file in (Postgres.shared().folder / "data").rglob("*") if file.is_file()]
    else:
        name = Path(connection.settings_dict["NAME"])
        files = list(name.parent.glob(name.name + "*"))
    for file in files:
        with suppress(FileNotFoundError):  # a file of writes that was recycled meanwhile
            found.append(file.read_bytes())
    return b"\n".join(found)


def files_below(folder: Path) -> bytes:
    found = []
    for file in sorted(file for file in folder.rglob("*") if file.is_file()):
        with suppress(FileNotFoundError):  # a file of writes that was recycled meanwhile
            found.append(file.read_bytes())
    return b"\n".join(found)


def seen(needles: Mapping[str, bytes], haystack: bytes) -> list[str]:
    return [name for name, needle in needles.items() if needle in haystack]


def enroll(place: Place, person: Person, captures: list[bytes]) -> None:
    """At the desk, as a terminal does it: signed requests, one capture after the other."""
    desk = support.pair(None, role=Terminal.Role.DESK)
    begun = enrollment.begin_enrollment(
        person=person, terminal_id=desk.row.pk, captures_wanted=len(captures), actor="desk", at=timezone.now()
    )
    for number, capture in enumerate(captures, start=1):
        answer = desk.send("POST", f"/api/v1/enrollments/{begun.pk}/captures", capture, content_type=CAPTURE)
        assert answer.status_code == 202, answer.content
        wait_until(lambda wanted=number: Enrollment.objects.get(pk=begun.pk).captures_accepted == wanted)
    wait_until(lambda: Enrollment.objects.get(pk=begun.pk).state == Enrollment.State.COMPLETED)


def test_after_enrollments_and_attempts_nothing_of_a_face_is_left_anywhere(
    place: Place, payload: Callable[[int], bytes], broker: str, redis_server: Redis, settings: Any, log_file: Path,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    watch = Watch(monkeypatch)
    captures: dict[str, bytes] = {f"enrollment capture {n}": payload(ALICE) for n in range(3)}
    alice = support.somebody("Alice Example")
    place.group.members.add(alice)
    enroll(place, alice, list(captures.values()))

    for name, picture, granted in (
        ("Alice's attempt", ALICE, True),
        ("a stranger's attempt", MALLORY, False),
    ):
        captures[name] = payload(picture)
        assert place.device.attempt(captures[name]).json()["granted"] is granted
    captures["a repeated capture"] = captures["Alice's attempt"]
    place.device.attempt(captures["a repeated capture"])
    captures["a refused capture"] = without_noise()
    assert place.device.attempt(captures["a refused capture"]).json()["reason"] == "payload_refused"
    celery.wait_for_embedded_tasks()

    # A worker that never comes: its capture has to go by itself.
    monkeypatch.setattr(celery, "_hand_over", lambda name, arguments: None)
    settings.LINTEL_PAYLOAD_TTL_S, settings.LINTEL_ATTEMPT_DEADLINE_MS = 600, 300_000
    captures["an abandoned capture"] = payload(ALICE)
    abandoned = services.submit_attempt(
        terminal=place.device.row,
        payload=captures["an abandoned capture"],
        nonce=new_nonce(),
        at=timezone.now(),
    )
    waiting = redis_dump(redis_server, broker)
    assert seen(of_capture("an abandoned capture", captures["an abandoned capture"]), waiting), (
        "searched in vain"
    )
    with redis.Redis.from_url(broker) as client:
        assert 0 < client.ttl(payloads.PREFIX + abandoned.payload_key) <= 600
        gone = client.info("stats")["expired_keys"]
        client.pexpire(payloads.PREFIX + abandoned.payload_key, 1)
        # Redis hides a key that is over at once, but a snapshot holds it until Redis comes round to remove it.
        wait_until(lambda: client.info("stats")["expired_keys"] > gone)
        assert not client.keys(payloads.PREFIX + "*")

    needles: Needles = {}
    for picture in (ALICE, MALLORY):
        needles |= of_picture(picture)
    for name, capture in captures.items():
        needles |= of_capture(name, capture)
    assert len(watch.embeddings) == 6
    for number, embedding in enumerate(watch.embeddings):
        needles |= numbers(f"embedding {number}", embedding.vector)
    for number, opened in enumerate(sealing.open_templates(alice.templates.all())):
        needles |= numbers(f"unsealed template {number}", opened.vector)
    places = {
        "the database": database(),
        "the Redis dump after expiry": redis_dump(redis_server, broker),
        "the log": log_file.read_bytes() + caplog.text.encode(),
        "the output": "".join(capfd.readouterr()).encode(),
        "the data folder, media included": files_below(Path(django_settings.LINTEL_DATA_DIR)),
        "the media folder": files_below(Path(django_settings.MEDIA_ROOT)),
    }
    left = {where: seen(needles, haystack) for where, haystack in places.items()}
    assert not any(left.values()), left
    pictures = {
        where: seen(PICTURE_FILES, haystack) for where, haystack in places.items() if where != "the database"
    }
    assert not any(pictures.values()), pictures

    # The search finds what is there.
    template = alice.templates.filter(active=True).first()
    assert template is not None
    assert seen(spellings("a sealed template", bytes(template.sealed)[:64]), places["the database"])
    assert b"identify" in places["the Redis dump after expiry"], "tasks went through the broker"
    assert abandoned.nonce.encode() in places["the database"]
    assert places["the log"]


@pytest.mark.parametrize("what", ["picture", "capture", "embedding"])
def test_the_search_finds_what_code_would_leave_by_accident(
    what: str, payload: Callable[[int], bytes], tmp_path: Path
) -> None:
    """A referee for the test above: each kind, written as careless code writes it."""
    if what == "picture":
        pixels = synthetic_picture(ALICE).pixels
        needles, careless = of_picture(ALICE), [pixels.tobytes(), pixels[..., ::-1].tobytes()]
        careless += [base64.b64encode(b"x" * lead + pixels.tobytes()) for lead in range(3)]
    elif what == "capture":
        capture = payload(ALICE)
        profile = tiny_profile()
        codes = unpack(capture, {profile.hash: profile}).codes
        needles, careless = of_capture("it", capture), [capture, capture.hex().encode(), codes.tobytes()]
        careless += [base64.b64encode(b"x" * lead + capture) for lead in range(3)]
        careless += [profile.values_of(codes).tobytes()]
    else:
        vector = np.random.default_rng(1).normal(size=64).astype(np.float32)
        needles, careless = numbers("it", vector), [vector.tobytes(), vector.astype(np.float64).tobytes()]
        careless += [str(vector.tolist()).encode(), base64.b64encode(vector.tobytes())]
    for number, written in enumerate(careless):
        (tmp_path / "left").write_bytes(b"before " + written + b" after")
        assert seen(needles, files_below(tmp_path)), f"{what}, spelling {number}"


def without_noise() -> bytes:
    profile = tiny_profile()
    middle = ((1 << profile.bits) // 2 * (profile.bits > 0)).astype(np.uint8)
    codes = np.broadcast_to(middle[:, None, None], profile.shape).copy()
    codes[np.flatnonzero(profile.bits)[0]] = np.arange(196).reshape(14, 14) % 16
    return pack(PerturbedFeatures(profile.hash, codes), profile)
