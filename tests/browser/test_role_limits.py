"""What each of the five roles finds in the pages and what it is refused, in a real Chromium."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
from django.contrib.auth import get_user_model
from django.urls import reverse
from playwright.sync_api import Page, expect

from accesscontrol.models import Site
from tests.browser.pages_fixtures import building, complaints, fresh_counts, signed_in_page  # noqa: F401

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("fresh_counts")]

PLACES = [
    "Groups",
    "Doors",
    "Sites and zones",
    "Terminals",
    "Rules",
    "Who may enter?",
    "Schedules",
    "Reports",
]
#: What the menu offers, written out here a second time: a change of the table of roles is a change of this, too.
MENUS = {
    "administrator": [
        "Now", "Attempts", "People", "Invitations", *PLACES, "Audit log", "Settings", "Users and roles", "API tokens",
        "About and privacy",
    ],
    "enroller": ["Now", "People", "Invitations", "About and privacy"],
    "guard": ["Now", "Attempts", "People", *PLACES, "About and privacy"],
    "auditor": ["Now", "Attempts", "People", *PLACES, "Audit log", "Settings", "About and privacy"],
    "integrator": ["Now", "API tokens", "About and privacy"],
}  # fmt: skip
#: On the page of a person who is enrolled.
ACTIONS = {
    "administrator": {"Edit", "Enroll again", "Withdraw consent", "Erase this person…", "New PIN"},
    "enroller": {"Edit", "Enroll again", "Withdraw consent", "New PIN"},
    "guard": set(),
    "auditor": set(),
}
#: One page that the role must not open, and one deed.
REFUSED = {
    "enroller": ("audit:entries", "person_erase"),
    "guard": ("users", "enrollment_begin"),
    "auditor": ("invitations", "consent_withdraw"),
    "integrator": ("people", "person_edit"),
}


@pytest.mark.parametrize("role", MENUS)
def test_a_role_is_offered_what_it_may_do_and_refused_the_rest_in_words(
    role: str,
    building: SimpleNamespace,  # noqa: F811
    signed_in_page: Callable[..., Page],  # noqa: F811
    complaints: list[str],  # noqa: F811
) -> None:
    page = signed_in_page(role)
    page.goto("/")
    menu = page.get_by_role("navigation", name="Main").get_by_role("listitem").get_by_role("link")
    offered = [label for label in menu.all_inner_texts() if label in MENUS["administrator"]]
    assert offered == MENUS[role]

    profile = reverse("person", args=[building.alice.pk])
    if role in ACTIONS:
        page.goto(profile)
        expect(page.get_by_role("heading", level=1)).to_have_text("Alice Example")
        seen = {words for words in ACTIONS["administrator"] if page.get_by_role("link", name=words).count()}
        assert seen == ACTIONS[role]
    assert complaints == []

    # Whoever types an address, or kept a page open while a role was taken away, is refused by the server.
    for name in REFUSED.get(role, ()):
        address = reverse(name, args=[] if name in {"audit:entries", "users", "people", "invitations"} else [
            building.alice.pk
        ])  # fmt: skip
        answer = page.goto(address)
        assert answer is not None and answer.status == 403, name
        expect(page.get_by_role("heading", level=1)).to_have_text("Not for your role")
        expect(page.locator("main")).to_contain_text("ask an administrator")
        expect(page.locator("main")).not_to_contain_text("Alice")
    if role in REFUSED:
        page.get_by_role("link", name="To the start").click()
        expect(page).to_have_title("Now · Lintel")


def test_a_role_that_was_taken_away_while_a_page_stood_open_presses_its_button_in_vain(
    building: SimpleNamespace,  # noqa: F811
    signed_in_page: Callable[..., Page],  # noqa: F811
) -> None:
    page = signed_in_page("guard")
    page.goto(reverse("lock_down", args=[building.site.pk]))
    page.get_by_label("Reason").fill("drill")
    get_user_model().objects.get(username="the guard").groups.clear()
    page.get_by_role("button", name="Lock down now").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Not for your role")
    expect(page.locator("main")).to_contain_text("You hold no role that opens this page.")
    assert not Site.objects.get(pk=building.site.pk).locked_down
