"""A building with one of everything that a page can show, and people who sign in with each role."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import date, timedelta
from types import SimpleNamespace

import pytest
from django.contrib.auth import get_user_model
from django.test import Client
from django.utils import timezone

from accesscontrol.models import (
    AccessGroup,
    AccessRule,
    Alarm,
    Door,
    Holiday,
    Schedule,
    Site,
    Terminal,
    Zone,
)
from accesscontrol.services import create_api_token
from enrollment import languages
from enrollment.invitations import issue_invitation
from enrollment.models import Card, Enrollment, ErasureCertificate, Pin, ProtectedTemplate
from enrollment.services import record_consent, register_person
from tests.pages.support import make_attempt, make_user


@pytest.fixture
def signed_in(db) -> Callable[..., Client]:
    """A client signed in as a user of the same name as its role; the user is `client.user`."""

    def sign_in(role: str, *more: str) -> Client:
        known = get_user_model().objects.filter(username=role).first()
        user = known or make_user(role, *([role] if role != "nobody" else []), *more)
        client = Client()
        client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
        client.user = user
        return client

    return sign_in


@pytest.fixture
def administrator(signed_in) -> Client:
    return signed_in("administrator")


@pytest.fixture
def building(db) -> SimpleNamespace:
    """Alice is enrolled and may enter the front door at any hour; Bob is known and agreed to nothing."""
    now = timezone.now()
    site = Site.objects.create(name="Harbour House", timezone="Europe/Vienna")
    zone = Zone.objects.create(site=site, name="Cellar")
    door = Door.objects.create(site=site, name="Front door")
    terminal = Terminal.objects.create(
        name="Front camera",
        door=door,
        site=site,
        state=Terminal.State.ACTIVE,
        key_id="front-key",
        public_key=b"k" * 32,
        last_seen_at=now,
    )
    alice = register_person(full_name="Alice Example", actor="test", at=now - timedelta(days=1))
    bob = register_person(full_name="Bob Example", actor="test", at=now - timedelta(days=1))
    text = languages.reference().consent
    record_consent(
        person=alice,
        text=text.text,
        version=text.version,
        method="signed",
        actor="test",
        at=now - timedelta(days=1),
    )
    done = Enrollment.objects.create(
        person=alice,
        state=Enrollment.State.COMPLETED,
        captures_accepted=3,
        started_by="test",
        started_at=now,
        expires_at=now,
        finished_at=now,
    )
    ProtectedTemplate.objects.create(
        person=alice,
        enrollment=done,
        sealed=b"sealed",
        active=True,
        model="tiny",
        profile_hash="ab" * 32,
        gallery_key_id="test",
        quality=0.9,
        created_at=now,
    )
    schedule = Schedule.objects.create(
        name="Office hours", weekly=[{"day": 0, "from": "07:00", "to": "19:00"}]
    )
    group = AccessGroup.objects.create(name="Staff")
    group.members.add(alice)
    rule = AccessRule.objects.create(name="Staff always", group=group)
    rule.doors.add(door)
    attempt = make_attempt(terminal, person=alice)
    alarm = Alarm.objects.create(
        kind=Alarm.Kind.REPEATED_REFUSALS,
        site=site,
        door=door,
        message="Five refusals",
        raised_at=now,
        last_at=now,
    )
    token, secret = create_api_token(name="Visitor desk", scopes=["people:read"], actor="integrator", at=now)
    Pin.objects.create(person=alice, hash="a hash", set_at=now, set_by="test")
    card = Card.objects.create(
        person=alice, number_hash="ab" * 32, ends_with="1623", added_at=now, added_by="test"
    )
    erased = ErasureCertificate.objects.create(
        person_id=uuid.uuid4(), erased_at=now, certificate={"format": 1}
    )
    return SimpleNamespace(
        site=site,
        zone=zone,
        door=door,
        terminal=terminal,
        alice=alice,
        bob=bob,
        enrollment=done,
        schedule=schedule,
        group=group,
        rule=rule,
        attempt=attempt,
        alarm=alarm,
        token=token,
        token_secret=secret,
        invitation=issue_invitation(person=bob, actor="test", at=now).invitation,
        card=card,
        erased=erased,
        holiday=Holiday.objects.create(site=site, date=date(2099, 12, 25), name="Christmas Day"),
    )
