"""Rows that benchmarks need, written under an installation's own settings: `python -m benchmarks.rows ACTION`."""

from __future__ import annotations

import base64
import json
import os
import secrets
import sys
from datetime import datetime
from pathlib import Path

import django
import numpy as np

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "accesscontrol.settings")
django.setup()

from django.conf import settings  # noqa: E402
from django.db import transaction  # noqa: E402
from django.db.models import Count, Max  # noqa: E402
from django.utils import timezone  # noqa: E402

from accesscontrol.celery import RECOGNITION_QUEUE, app  # noqa: E402
from accesscontrol.models import AccessAttempt, AccessGroup, AccessRule, Door, Terminal  # noqa: E402
from accesscontrol.services import issue_pairing_code, submit_attempt  # noqa: E402
from enrollment import gallery, payloads, sealing, tasks  # noqa: E402, F401 (tasks are found by name)
from enrollment import services as enrollment  # noqa: E402
from enrollment.models import Consent, Enrollment, Person, ProtectedTemplate  # noqa: E402
from recognition.frequency import to_frequency  # noqa: E402
from recognition.noise import perturb  # noqa: E402
from recognition.payload import pack  # noqa: E402
from tests.tiny_model import synthetic_picture  # noqa: E402

BATCH = 500
PICTURES = 64
ACTOR = "benchmark"


def fill_gallery(count: int) -> None:
    """`count` people with consent, a rule and one active template each, sealed as the services seal them."""
    recognizer = gallery.recognizer().recognizer
    model, profile_hash = gallery.model_id(), recognizer.default_profile.hash
    gallery_key_id, _ = settings.LINTEL_GALLERY_KEYS[0]
    random, at = np.random.default_rng(1), timezone.now()
    group = AccessGroup.objects.create(name="Benchmark")
    rule = AccessRule.objects.create(name="Benchmark", group=group)
    rule.doors.add(Door.objects.get())
    for first in range(0, count, BATCH):
        with transaction.atomic():
            numbers = range(first, min(first + BATCH, count))
            people = Person.objects.bulk_create([Person(full_name=f"Person {number}") for number in numbers])
            group.members.add(*people)
            Consent.objects.bulk_create(
                Consent(
                    person=person,
                    text="benchmark",
                    version="1",
                    method="signed",
                    given_at=at,
                    recorded_by=ACTOR,
                )
                for person in people
            )
            enrollments = Enrollment.objects.bulk_create(
                Enrollment(person=person, state=Enrollment.State.COMPLETED, started_by=ACTOR, started_at=at,
                           expires_at=at, finished_at=at, captures_accepted=3)
                for person in people
            )  # fmt: skip
            for enrollment in enrollments:
                vector = random.standard_normal(recognizer.dimension)
                template = sealing.seal_new_template(
                    enrollment=enrollment, kind=ProtectedTemplate.Kind.FUSED,
                    vector=(vector / np.linalg.norm(vector)).astype(np.float32), gallery_key_id=gallery_key_id,
                    model=model, profile_hash=profile_hash, quality=None, at=at,
                )  # fmt: skip
                ProtectedTemplate.objects.filter(pk=template.pk).update(active=True)


def enroll(file: str) -> str:
    """One more person of the benchmark's group, enrolled from these captures through the services."""
    at = timezone.now()
    person = enrollment.register_person(full_name="Portrait", actor=ACTOR, at=at)
    enrollment.record_consent(
        person=person, text="benchmark", version="1", method="signed", actor=ACTOR, at=at
    )
    AccessGroup.objects.get(name="Benchmark").members.add(person)
    captures = [base64.b64decode(text) for text in json.loads(Path(file).read_text())]
    begun = enrollment.begin_enrollment(person=person, captures_wanted=len(captures), actor=ACTOR, at=at)
    settings.LINTEL_DISPATCH = "benchmarks.rows.run_now"
    for payload in captures:
        enrollment.submit_capture(enrollment=begun, payload=payload, at=timezone.now())
    begun.refresh_from_db()
    if begun.state != Enrollment.State.COMPLETED:
        raise RuntimeError(f"the enrollment is {begun.state}: {begun.last_reason}")
    return str(person.pk)


def run_now(task_name: str, **arguments: str) -> None:
    """LINTEL_DISPATCH of `enroll`: on this thread, at commit."""
    transaction.on_commit(lambda: app.tasks[task_name](**arguments))


def pairing_code() -> str:
    """For a new terminal at the one door."""
    terminal = Terminal.objects.create(name=f"Benchmark {Terminal.objects.count()}", door=Door.objects.get())
    return issue_pairing_code(terminal=terminal, actor=ACTOR, at=timezone.now())


def synthetic_captures(count: int) -> list[bytes]:
    """Of many different pictures, so that their nearest templates are many different people's."""
    profile = gallery.recognizer().recognizer.default_profile
    features = [to_frequency(synthetic_picture(seed), profile.transform) for seed in range(PICTURES)]
    return [pack(perturb(features[n % PICTURES], profile, os.urandom), profile) for n in range(count)]


def enqueue(count: int) -> str:
    """Captures for `benchmarks.embed_task`, handed over as those of attempts are: by key."""
    for payload in synthetic_captures(count):
        key = payloads.store(payload, settings.LINTEL_PAYLOAD_TTL_S)
        app.send_task("benchmarks.embed", kwargs={"payload_key": key}, queue=RECOGNITION_QUEUE)
    return ""


def submit(count: int) -> str:
    """Attempts of the one terminal, as the API submits them; their time of arrival."""
    captures = synthetic_captures(count)
    terminal = Terminal.objects.get()
    since = timezone.now()
    for payload in captures:
        submit_attempt(terminal=terminal, payload=payload, nonce=secrets.token_urlsafe(18), at=timezone.now())
    return json.dumps([since.isoformat()])


def settled(since: str) -> str:
    """What became of the attempts that came since."""
    attempts = AccessAttempt.objects.filter(received_at__gte=datetime.fromisoformat(since))
    last = attempts.aggregate(last=Max("settled_at"))["last"]
    return json.dumps(
        {
            "pending": attempts.filter(state=AccessAttempt.State.PENDING).count(),
            "last": last.timestamp() if last else None,
            "reasons": dict(attempts.values_list("reason").annotate(Count("id"))),
        }
    )


def main(action: str, *arguments: str) -> None:
    if action == "gallery":
        fill_gallery(int(arguments[0]))
    elif action == "pairing_code":
        sys.stdout.write(pairing_code())
    elif action == "enroll":
        sys.stdout.write(enroll(arguments[0]))
    elif action == "enqueue":
        sys.stdout.write(enqueue(int(arguments[0])))
    elif action == "submit":
        sys.stdout.write(submit(int(arguments[0])))
    elif action == "settled":
        sys.stdout.write(settled(arguments[0]))
    else:
        sys.exit(f"unknown action {action}")


if __name__ == "__main__":
    main(*sys.argv[1:])
