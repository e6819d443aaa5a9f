"""Where doors last let somebody in, and a guard who knows better."""

from __future__ import annotations

import pytest
from django.urls import reverse
from django.utils import timezone

from accesscontrol.models import Presence
from audit.models import Entry


@pytest.fixture
def presence(building) -> Presence:
    return Presence.objects.create(
        person=building.alice, site=building.site, zone=building.zone, since=timezone.now()
    )


@pytest.fixture
def forgive(building) -> str:
    return reverse("presence_forgive", args=[building.alice.pk, building.site.pk])


@pytest.mark.parametrize("role", ["administrator", "guard"])
def test_a_guard_counts_somebody_as_outside_after_being_asked_once(
    role, building, presence, forgive, signed_in
):
    client = signed_in(role)
    profile = reverse("person", args=[building.alice.pk])
    assert forgive in client.get(profile).content.decode()
    question = client.get(forgive).content.decode()
    assert "Count Alice Example as outside?" in question
    assert "Cellar" in question
    assert Presence.objects.exists()

    answer = client.post(forgive, follow=True)
    assert answer.redirect_chain == [(profile, 302)]
    assert "counts as outside Harbour House now" in answer.content.decode()
    assert not Presence.objects.exists()
    entry = Entry.objects.get(kind="presence.forgiven")
    assert (entry.actor, entry.subject) == (role, f"person:{building.alice.pk}")
    assert entry.details == {"site": "Harbour House"}


def test_whoever_is_outside_already_stays_so_without_an_entry(building, forgive, signed_in):
    guard = signed_in("guard")
    for answer in (guard.get(forgive, follow=True), guard.post(forgive, follow=True)):
        assert "outside Harbour House already" in answer.content.decode()
    assert not Entry.objects.filter(kind="presence.forgiven").exists()


def test_an_auditor_sees_it_and_cannot_change_it_and_the_desk_does_not_even_see_it(
    building, presence, forgive, signed_in
):
    profile = reverse("person", args=[building.alice.pk])
    seen = signed_in("auditor").get(profile).content.decode()
    assert "Last let into" in seen
    assert forgive not in seen
    assert "Last let into" not in signed_in("enroller").get(profile).content.decode()
    for role in ("auditor", "enroller"):
        assert signed_in(role).post(forgive).status_code == 403
    assert Presence.objects.exists()
