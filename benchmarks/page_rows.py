"""A building of any size for `benchmarks.pages`: sites, doors, people, rules, attempts and a log that verifies.

Rows are written in bulk, so nothing here goes through the services; the audit log is a real tree all the same.
Everything is drawn from one seed: two runs build the same house.
"""

from __future__ import annotations

import random
import uuid
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.utils import timezone

import audit.services
from accesscontrol.models import (
    AccessAttempt,
    AccessGroup,
    AccessRule,
    Alarm,
    Door,
    Holiday,
    Presence,
    Schedule,
    Site,
    Terminal,
    Zone,
)
from accesscontrol.roles import Role
from audit import chain
from audit.models import Entry
from enrollment.models import Consent, DataKey, Enrollment, Person, ProtectedTemplate

BATCH = 500
DAYS = 90
MODEL = "default@35d55ddef23965b5"
PROFILE = "c6660715e172d045de4f1386b5e4a6020e0fb520af1dc731cc197f2c5e0bae9c"
FIRST = (  # noqa: SIM905
    "Amara Anouk Björn Carla Dana Eduardo Fatima Gabriel Hana Ibrahim Jana Kofi Lena Mateo Nadia Olu Petra Quentin "
    "Rosa Samir Tereza Ulla Viktor Wanda Xenia Yusuf Zora Aiko Bruno Chidi Devi Emil"
).split()
LAST = (  # noqa: SIM905
    "Adler Baptiste Costa Dvořák Eze Fischer García Haddad Ivanova Jansen Kowalski Lindqvist Moreau Nakamura Okafor "
    "Petrov Quispe Rossi Sato Tanaka Ueda Varga Weber Xu Yilmaz Zhang Brandt Chen Duarte Eriksen"
).split()
SITES = (
    (
        "Harbour House",
        "Europe/Vienna",
        ("Front door", "Garage", "Courtyard", "Laboratory", "Archive", "Roof"),
    ),
    (
        "Hill Campus",
        "Europe/Lisbon",
        ("Main gate", "Library", "Workshop", "Server room", "Canteen", "North stairs"),
    ),
    ("Bay Office", "Asia/Singapore", ("Lobby", "Lift hall", "Print room", "Studio", "Store", "Terrace")),
)
REFUSALS = (
    ("no_match", 46), ("outside_schedule", 18), ("no_rule", 14), ("payload_refused", 7), ("person_expired", 5),
    ("ambiguous_match", 4), ("deadline_passed", 3), ("holiday", 2), ("consent_missing", 1),
)  # fmt: skip
TECHNICAL = {"payload_refused", "deadline_passed"}


def build(*, people: int, attempts: int, seed: int = 20261125) -> dict[str, int]:
    """Everything that pages show. Returns how many rows of each kind there are."""
    draw, now = random.Random(seed), timezone.now()
    for role in Role:
        user = get_user_model().objects.create_user(role.value, password=None)
        user.groups.add(Group.objects.get_or_create(name=role.value)[0])
    doors, terminals = _doors(now)
    persons = _people(draw, people, now)
    _rules(draw, doors, persons)
    _attempts(draw, terminals, persons, attempts, now)
    Alarm.objects.create(
        kind=Alarm.Kind.REPEATED_REFUSALS, site=doors[0].site, door=doors[0], count=3, raised_at=now, last_at=now,
        message=f"5 refusals at {doors[0]} within 5 minutes",
    )  # fmt: skip
    Presence.objects.create(
        person=persons[0], site=doors[3].site, zone=doors[3].zone, since=now - timedelta(minutes=40)
    )
    entries = _log(now)
    return {"people": people, "attempts": attempts, "doors": len(doors), "audit_entries": entries}


def _doors(now: datetime) -> tuple[list[Door], list[Terminal]]:
    doors, terminals = [], []
    for site_name, zone_name, names in SITES:
        site = Site.objects.create(name=site_name, timezone=zone_name)
        Holiday.objects.create(site=site, date=now.date() + timedelta(days=30), name="Christmas")
        guarded = Zone.objects.create(site=site, name="Secured area", anti_passback=True)
        for number, name in enumerate(names):
            door = Door.objects.create(site=site, name=name, zone=guarded if number == 3 else None)
            heard = now - timedelta(seconds=20 if name != "Roof" else 3 * 3600)
            terminals.append(
                Terminal.objects.create(
                    name=f"{name} camera", door=door, site=site, state=Terminal.State.ACTIVE, paired_at=now,
                    key_id=f"key-{door.pk}", public_key=b"k" * 32, last_seen_at=heard, software="lintel 0.1.0",
                )
            )  # fmt: skip
            doors.append(door)
    Terminal.objects.create(name="Reception", role=Terminal.Role.DESK)
    return doors, terminals


def _people(draw: random.Random, count: int, now: datetime) -> list[Person]:
    persons: list[Person] = []
    for first in range(0, count, BATCH):
        batch = [
            Person(
                full_name=f"{draw.choice(FIRST)} {draw.choice(LAST)}",
                external_id=f"S-{number:05d}",
                kind=draw.choices(Person.Kind.values, (8, 1, 1))[0],
                is_active=draw.random() > 0.01,
                valid_from=now - timedelta(days=200),
                valid_until=now + timedelta(days=draw.randint(-35, 400)) if draw.random() < 0.2 else None,
                created_at=now - timedelta(days=200),
            )
            for number in range(first, min(first + BATCH, count))
        ]
        Person.objects.bulk_create(batch)
        persons += batch
        agreed = [person for person in batch if draw.random() > 0.03]
        Consent.objects.bulk_create(
            Consent(person=person, text="benchmark", version="1", method="signed", recorded_by="benchmark",
                    given_at=now - timedelta(days=180))
            for person in agreed
        )  # fmt: skip
        DataKey.objects.bulk_create(
            DataKey(person=person, wrapped=b"w", kek_id="benchmark", created_at=now - timedelta(days=180))
            for person in agreed
        )
        enrolled = [
            Enrollment(person=person, state=Enrollment.State.COMPLETED, started_by="benchmark",
                       started_at=(at := now - timedelta(days=draw.randint(0, 180))), expires_at=at, finished_at=at,
                       captures_accepted=3)
            for person in agreed if draw.random() > 0.04
        ]  # fmt: skip
        Enrollment.objects.bulk_create(enrolled)
        ProtectedTemplate.objects.bulk_create(
            ProtectedTemplate(
                person_id=enrollment.person_id, enrollment=enrollment, kind=kind, sealed=b"s", active=True, model=MODEL,
                profile_hash=PROFILE, gallery_key_id="benchmark", created_at=enrollment.started_at,
                quality=min(1.0, max(0.2, draw.gauss(0.78, 0.1))),
            )
            for enrollment in enrolled for kind in ("capture", "capture", "capture", "fused")
        )  # fmt: skip
    return persons


def _rules(draw: random.Random, doors: list[Door], persons: list[Person]) -> None:
    hours = Schedule.objects.create(
        name="Office hours", weekly=[{"day": day, "from": "07:00", "to": "19:00"} for day in range(5)]
    )
    night = Schedule.objects.create(
        name="Night cleaning", weekly=[{"day": day, "from": "20:00", "to": "02:00"} for day in (0, 2, 4)]
    )
    everybody = AccessGroup.objects.create(name="Staff")
    everybody.members.add(*persons)
    cleaning = AccessGroup.objects.create(name="Cleaning")
    cleaning.members.add(*draw.sample(persons, min(len(persons), 60)))
    guards = AccessGroup.objects.create(name="Guards")
    guards.members.add(*draw.sample(persons, min(len(persons), 25)))
    for name, group, schedule, which in (
        ("Staff in office hours", everybody, hours, doors),
        ("Cleaning at night", cleaning, night, doors[::2]),
        ("Guards always", guards, None, doors),
    ):
        AccessRule.objects.create(name=name, group=group, schedule=schedule).doors.set(which)


def _attempts(
    draw: random.Random, terminals: list[Terminal], persons: list[Person], count: int, now: datetime
) -> None:
    reasons, weights = zip(*REFUSALS, strict=True)
    weight_of_door = [6, 2, 2, 3, 1, 1] * (len(terminals) // 6)
    rows: list[AccessAttempt] = []
    moments = sorted(_moment(draw, now) for _ in range(count))
    for at in moments:
        terminal = draw.choices(terminals, weight_of_door)[0]
        granted = draw.random() < 0.89
        reason = "granted" if granted else draw.choices(reasons, weights)[0]
        known = granted or reason not in {"no_match", "ambiguous_match", *TECHNICAL}
        score = min(0.99, draw.gauss(0.66, 0.09)) if known else draw.gauss(0.27, 0.07)
        threshold = 0.42 + 0.03 * draw.random()
        if known:
            score = max(score, threshold)
        elif reason == "no_match":
            score = min(score, threshold - 0.001)
        rows.append(
            AccessAttempt(
                terminal=terminal, door_id=terminal.door_id, nonce=uuid.UUID(int=draw.getrandbits(128)).hex,
                state="settled", granted=granted, reason=reason, person=draw.choice(persons) if known else None,
                score=None if reason in TECHNICAL else score, threshold=threshold, gallery_size=4 * len(persons),
                model=MODEL, profile_hash=PROFILE, payload_bytes=14_400, received_at=at,
                deadline_at=at + timedelta(seconds=3), settled_at=at + timedelta(milliseconds=160),
            )
        )  # fmt: skip
        if len(rows) == BATCH:
            AccessAttempt.objects.bulk_create(rows)
            rows = []
    AccessAttempt.objects.bulk_create(rows)


def _moment(draw: random.Random, now: datetime) -> datetime:
    """Within the last DAYS, on the clock of Vienna: mornings and evenings crowded, nights and weekends quiet."""
    while True:
        day = (now - timedelta(days=draw.randint(0, DAYS - 1))).astimezone(ZoneInfo("Europe/Vienna"))
        hour = min(
            23.99, max(0.0, draw.choice((draw.gauss(8.3, 0.8), draw.gauss(12.5, 1.5), draw.gauss(17.2, 1.2))))
        )
        at = day.replace(hour=int(hour), minute=int(hour % 1 * 60), second=draw.randint(0, 59), microsecond=0)
        if at < now and (day.weekday() < 5 or draw.random() < 0.12):
            return at


def _log(now: datetime) -> int:
    """An entry for each attempt and person, chained as `audit.services.record` chains them."""
    tree = chain.CompactRange()
    rows: list[Entry] = []

    def add(kind: str, actor: str, at: datetime, subject: str, details: dict[str, object]) -> None:
        entry = Entry(
            index=tree.size, at=at, kind=kind, actor=actor, subject=subject, details_json=chain.canonical(details),
            commitments_json="{}",
        )  # fmt: skip
        leaf = chain.entry_leaf(entry.as_object())
        entry.hashes = b"".join(tree.append(leaf))
        entry.root = tree.root()
        rows.append(entry)
        if len(rows) == BATCH:
            Entry.objects.bulk_create(rows)
            rows.clear()

    for door in Door.objects.all():
        add(
            "door.created", "administrator", now - timedelta(days=200), f"door:{door.pk}", {"name": door.name}
        )
    for pk, at in Person.objects.values_list("pk", "created_at"):
        add("person.registered", "enroller", at, f"person:{pk}", {})
    settled = AccessAttempt.objects.order_by("received_at")
    columns = (
        "pk",
        "door_id",
        "terminal_id",
        "person_id",
        "granted",
        "reason",
        "score",
        "threshold",
        "settled_at",
    )
    for pk, door, terminal, person, granted, reason, score, threshold, at in settled.values_list(
        *columns
    ).iterator():
        details = {
            "attempt": str(pk), "door": str(door), "granted": granted, "reason": reason, "detail": "",
            "score": None if score is None else round(score, 4), "threshold": round(threshold, 4), "model": MODEL,
        }  # fmt: skip
        add("attempt.settled", f"terminal:{terminal}", at, f"person:{person}" if person else "", details)
    Entry.objects.bulk_create(rows)
    audit.services.checkpoint(now)
    return tree.size
