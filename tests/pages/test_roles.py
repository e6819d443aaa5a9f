"""Every address of the server, asked as everybody: the role table is what is enforced, and deny is the default."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape
from urllib.parse import urljoin, urlsplit

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver, resolve, reverse
from django.utils import timezone

from accesscontrol.gate import NAVIGATION, OTHER_DOORS
from accesscontrol.roles import PAGES, PUBLIC, Role, roles_for
from enrollment.services import begin_enrollment


def every_page(patterns=None, namespace: str = "", prefix: str = "") -> Iterator[tuple[str, str]]:
    """(view name, route) of every pattern that is no API, no static file and no health check."""
    for pattern in get_resolver().url_patterns if patterns is None else patterns:
        route = prefix + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            inner = f"{namespace}{pattern.namespace}:" if pattern.namespace else namespace
            yield from every_page(pattern.url_patterns, inner, route)
        elif isinstance(pattern, URLPattern) and not f"/{route}".startswith(OTHER_DOORS):
            yield f"{namespace}{pattern.name}", route


def address(name: str, building) -> str:
    ids = {
        "person_id": building.alice.pk,
        "attempt_id": building.attempt.pk,
        "alarm_id": building.alarm.pk,
        "door_id": building.door.pk,
        "site_id": building.site.pk,
        "zone_id": building.zone.pk,
        "holiday_id": building.holiday.pk,
        "terminal_id": building.terminal.pk,
        "rule_id": building.rule.pk,
        "group_id": building.group.pk,
        "schedule_id": building.schedule.pk,
        "token_id": building.token.pk,
        "enrollment_id": building.enrollment.pk,
        "invitation_id": building.invitation.pk,
        "card_id": building.card.pk,
        "user_id": User.objects.order_by("pk").values_list("pk", flat=True).first() or 1,
    }
    if name == "erasure_certificate":
        ids["person_id"] = building.erased.pk
    wanted = get_resolver().reverse_dict.getlist(name)[0][0][0][1]
    return reverse(name, kwargs={key: ids[key] for key in wanted})


OWN_PAGES = sorted(name for name, _ in every_page() if ":" not in name)
#: What these answer is decided by more than a role, or is no page.
NO_GET = {"events"}
#: What changes something by one click, and so never by a GET.
POST_ONLY = {
    "sign_out",
    "alarm_acknowledge",
    "enrollment_complete",
    "enrollment_cancel",
    "enrollment_retake",
    "enrollment_attach",
    "group_member_add",
    "group_member_remove",
    "person_group_add",
    "time_zone",
}


def test_every_page_of_the_server_is_in_the_role_table_so_that_somebody_decided_on_it():
    undecided = [name for name, _ in every_page() if name not in PUBLIC and not roles_for(name)]
    assert undecided == []


def test_the_role_table_names_no_page_that_does_not_exist():
    known = {name for name, _ in every_page()} | {
        f"{name.split(':')[0]}:*" for name, _ in every_page() if ":" in name
    }
    assert set(PAGES) - known == set()


def test_a_page_nobody_decided_on_opens_for_nobody_not_even_an_administrator():
    assert roles_for("a_page_added_yesterday") == frozenset()
    assert roles_for("unknown:page") == frozenset()


def test_a_stranger_is_sent_to_sign_in_by_every_page(building):
    for name in OWN_PAGES:
        if name in PUBLIC:
            continue
        for answer in (Client().get(address(name, building)), Client().post(address(name, building))):
            assert answer.status_code == 302, name
            assert answer["Location"].startswith(reverse("sign_in")), name


@pytest.mark.parametrize("role", [*(role.value for role in Role), "nobody"])
def test_a_role_opens_its_pages_and_no_other(role, building, signed_in):
    client = signed_in(role)
    for name in OWN_PAGES:
        if name in PUBLIC or name in NO_GET:
            continue
        status = client.get(address(name, building)).status_code
        allowed = role in {known.value for known in roles_for(name)}
        assert (status in {200, 302, 405}) if allowed else status == 403, f"{role} {name}: {status}"


@pytest.mark.parametrize("role", [*(role.value for role in Role), "nobody"])
def test_a_role_cannot_post_to_pages_that_are_not_its_own(role, building, signed_in):
    client = signed_in(role)
    for name in OWN_PAGES:
        if name not in PUBLIC and role not in {known.value for known in roles_for(name)}:
            assert client.post(address(name, building)).status_code == 403, f"{role} {name}"


@pytest.mark.parametrize("role", [role.value for role in Role])
def test_the_navigation_shows_a_role_only_what_it_may_open(role, building, signed_in):
    html = signed_in(role).get("/").content.decode()
    navigation = html[html.index('<div class="post">') :]
    navigation = navigation[: navigation.index("</nav>")]
    for _, pages in NAVIGATION:
        for name, _ in pages:
            if ":" not in name:
                shown = f'href="{reverse(name)}"' in navigation
                assert shown == (role in {known.value for known in roles_for(name)}), f"{role} {name}"


def test_a_guard_sees_no_button_that_the_server_would_refuse(building, signed_in):
    guard = signed_in("guard")
    profile = guard.get(reverse("person", args=[building.alice.pk])).content.decode()
    for page in ("person_edit", "person_erase", "consent_withdraw", "enrollment_begin"):
        assert reverse(page, args=[building.alice.pk]) not in profile
    assert reverse("door_create") not in guard.get(reverse("doors")).content.decode()


def own_addresses(html: str, page: str) -> set[str]:
    """Where the links and forms of a page lead on this server, without query and fragment."""
    found = re.findall(r"""\s(?:href|action|formaction|data-hx-get|data-hx-post)=["']([^"']*)["']""", html)
    whole = (urlsplit(urljoin(page, unescape(each))) for each in found)
    return {each.path for each in whole if not each.netloc and each.scheme in {"", "http", "https"}}


@pytest.mark.parametrize("role", [role.value for role in Role])
def test_no_page_of_a_role_leads_to_a_page_that_would_refuse_it(role, building, signed_in):
    """Hidden in the page what is refused by the server: every link and every form of every page, role by role."""
    client = signed_in(role)
    begin_enrollment(person=building.alice, actor="test", at=timezone.now())
    refused, seen = set(), set()
    for name, _ in every_page():
        if name in PUBLIC | NO_GET | POST_ONLY or role not in {known.value for known in roles_for(name)}:
            continue
        if name.startswith("admin:"):
            continue
        page = "/audit/" if name.startswith("audit:") else address(name, building)
        answer = client.get(page)
        if answer.status_code != 200 or "html" not in answer["Content-Type"]:
            continue
        for path in own_addresses(answer.content.decode(), page):
            if path.startswith(OTHER_DOORS):
                continue
            leads_to = resolve(path).view_name
            seen.add(leads_to)
            if leads_to not in PUBLIC and role not in {known.value for known in roles_for(leads_to)}:
                refused.add(f"{page} leads to {path}")
    assert refused == set()
    assert {"sign_out", "account", "about"} <= seen  # the pages' links were found at all


def test_a_user_who_is_switched_off_is_signed_out_at_the_next_click(building, signed_in):
    client = signed_in("administrator")
    client.user.is_active = False
    client.user.save()
    assert client.get("/").status_code == 302


def test_a_superuser_is_an_administrator(building, signed_in):
    client = signed_in("nobody")
    client.user.is_superuser = True
    client.user.save()
    assert client.get(reverse("users")).status_code == 200


@pytest.mark.parametrize("path", ["/admin/", "/admin/login/"])
def test_the_tables_page_of_django_stands_behind_our_own_sign_in(path, db):
    answer = Client().get(path)
    assert answer.status_code == 302
    assert answer["Location"].startswith(reverse("sign_in"))


def test_the_event_stream_refuses_an_integrator(signed_in):
    assert signed_in("integrator").get(reverse("events")).status_code == 403
