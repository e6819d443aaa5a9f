"""The first start, and every start after it."""

from __future__ import annotations

import re
from io import StringIO

import pytest
from django.contrib.auth import authenticate, get_user_model
from django.contrib.auth.models import Group
from django.core.management import CommandError, call_command
from django.test import RequestFactory
from pytest_django import Settings

from accesscontrol.models import Door, Site
from accesscontrol.roles import Role
from audit.models import Entry

pytestmark = [pytest.mark.django_db, pytest.mark.database]


def set_up(**options: str) -> str:
    output = StringIO()
    call_command("set_up", stdout=output, **options)
    return output.getvalue()


def test_the_first_set_up_creates_an_administrator_a_site_and_a_door() -> None:
    output = set_up()

    password = re.search(r"password  (\S+)", output)
    assert password
    request = RequestFactory().post("/sign-in/")
    user = authenticate(request, username="admin", password=password[1])
    assert user is not None
    assert user.is_superuser
    assert Door.objects.get().site == Site.objects.get()
    assert set(Group.objects.values_list("name", flat=True)) >= {role.value for role in Role}
    assert set(Entry.objects.values_list("kind", flat=True)) == {
        "user.created",
        "site.created",
        "door.created",
    }
    assert password[1] not in "".join(entry.details_json for entry in Entry.objects.all())


def test_the_second_set_up_changes_nothing_and_shows_no_password() -> None:
    set_up()
    before = get_user_model().objects.get().password

    assert set_up() == ""

    assert get_user_model().objects.get().password == before
    assert (Site.objects.count(), Door.objects.count(), Entry.objects.count()) == (1, 1, 3)


def test_a_door_that_was_removed_does_not_come_back() -> None:
    set_up()
    Door.objects.all().delete()
    set_up()
    assert not Door.objects.exists()


def test_nobody_becomes_administrator_by_holding_the_name() -> None:
    get_user_model().objects.create_user(username="admin", password="chosen by somebody else")
    with pytest.raises(CommandError, match="no administrator"):
        set_up()
    assert not get_user_model().objects.get().is_superuser


def test_without_secrets_nothing_is_set_up(settings: Settings) -> None:
    settings.LINTEL_SECRETS_ARE_EPHEMERAL = True
    with pytest.raises(CommandError, match="no secrets"):
        set_up()
    assert not get_user_model().objects.exists()
