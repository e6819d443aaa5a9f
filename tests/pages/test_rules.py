"""Rules, groups, schedules, and asking the policy in advance. Users and tokens."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.contrib.auth import get_user_model
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from accesscontrol.models import AccessGroup, AccessRule, ApiToken, Holiday, Schedule, Site, Terminal, Zone
from accesscontrol.policy import read_weekly
from accesscontrol.services import find_api_token, lock_down
from accesscontrol.views.rules import describe_week
from audit.models import Entry
from enrollment.models import Person
from tests.pages.support import PASSWORD, make_user


def answers(client, building, at: str) -> dict[str, str]:
    page = client.get(reverse("who_may_enter"), {"door": building.door.pk, "at": at})
    return {entry.person.full_name: str(entry.reason) for entry in page.context["entries"]}


def test_who_may_enter_is_answered_by_the_policy_of_the_door(administrator, building):
    building.group.members.add(building.bob)
    assert answers(administrator, building, "2099-11-24T10:00") == {
        "Alice Example": "granted",
        "Bob Example": "no_match",
    }


def test_who_may_enter_knows_schedules_holidays_and_lock_down(administrator, building):
    building.rule.schedule = building.schedule
    building.rule.save()
    assert answers(administrator, building, "2099-11-30T10:00")["Alice Example"] == "granted"  # a Monday
    assert answers(administrator, building, "2099-12-01T10:00")["Alice Example"] == "outside_schedule"
    Holiday.objects.create(site=building.site, date="2099-11-30", name="Saint Andrew")
    assert answers(administrator, building, "2099-11-30T10:00")["Alice Example"] == "holiday"
    lock_down(site=building.site, reason="drill", actor="test", at=timezone.now())
    assert answers(administrator, building, "2099-11-30T10:00")["Alice Example"] == "site_locked_down"


def test_the_hour_of_the_question_is_read_in_the_zone_of_the_site(administrator, building):
    building.rule.schedule = building.schedule
    building.rule.save()
    assert answers(administrator, building, "2099-11-30T07:30")["Alice Example"] == "granted"
    assert answers(administrator, building, "2099-11-30T06:30")["Alice Example"] == "outside_schedule"


def test_a_question_without_an_hour_is_asked_back(administrator, building):
    answer = administrator.get(reverse("who_may_enter"), {"door": building.door.pk, "at": ""})
    assert answer.status_code == 422


def test_a_rule_needs_a_group_first(administrator):
    assert administrator.get(reverse("rule_create"))["Location"] == reverse("group_create")


def test_a_rule_is_made_changed_and_deleted_with_audit_entries(administrator, building):
    data = {"name": "Evening", "group": building.group.pk, "doors": [building.door.pk], "is_active": "on"}
    administrator.post(reverse("rule_create"), data)
    rule = AccessRule.objects.get(name="Evening")
    assert list(rule.doors.all()) == [building.door]
    administrator.post(reverse("rule_edit", args=[rule.pk]), {**data, "schedule": building.schedule.pk})
    rule.refresh_from_db()
    assert rule.schedule == building.schedule
    administrator.post(reverse("rule_delete", args=[rule.pk]))
    kinds = list(
        Entry.objects.filter(subject=f"rule:{rule.pk}").order_by("index").values_list("kind", flat=True)
    )
    assert kinds == ["rule.created", "rule.changed", "rule.deleted"]


def test_a_rule_that_ends_before_it_begins_is_refused_and_keeps_its_doors_ticked(administrator, building):
    answer = administrator.post(
        reverse("rule_create"),
        {
            "name": "Evening",
            "group": building.group.pk,
            "doors": [building.door.pk],
            "valid_from": "2026-12-02T08:00",
            "valid_until": "2026-12-01T08:00",
        },
    )
    assert answer.status_code == 422
    assert re.search(rf'value="{building.door.pk}"[^>]*checked', answer.content.decode())


def test_deleting_a_group_names_the_rules_that_go_with_it(administrator, building):
    page = reverse("group_delete", args=[building.group.pk])
    assert "Staff always" in administrator.get(page).content.decode()
    administrator.post(page)
    assert not AccessGroup.objects.filter(pk=building.group.pk).exists()


def test_a_group_finds_and_adds_members(signed_in, building):
    desk = signed_in("enroller")
    admin = signed_in("administrator")
    html = admin.get(reverse("group", args=[building.group.pk]), {"add": "bob"}).content.decode()
    add = reverse("group_member_add", args=[building.group.pk, building.bob.pk])
    assert add in html
    desk.post(add)
    assert building.bob in building.group.members.all()


def week(**hours: str) -> dict[str, str]:
    """`mon="07:00-12:00 13:00-19:00"` as the fields of the editor."""
    data = {"name": "Shop"}
    for day, name in enumerate(("mon", "tue", "wed", "thu", "fri", "sat", "sun")):
        for slot, stretch in enumerate(hours.get(name, "").split()):
            data[f"from_{day}_{slot}"], data[f"to_{day}_{slot}"] = stretch.split("-")
    return data


def test_a_schedule_is_written_as_the_policy_reads_it(administrator, building):
    administrator.post(
        reverse("schedule_create"), week(mon="13:00-19:00 07:00-12:00", sat="22:00-06:00", sun="00:00-00:00")
    )
    schedule = Schedule.objects.get(name="Shop")
    assert schedule.weekly == [
        {"day": 0, "from": "07:00", "to": "12:00"},
        {"day": 0, "from": "13:00", "to": "19:00"},
        {"day": 5, "from": "22:00", "to": "06:00"},
        {"day": 6, "from": "00:00", "to": "24:00"},
    ]
    assert len(read_weekly(schedule.weekly)) == 4
    form = administrator.get(reverse("schedule_edit", args=[schedule.pk])).context["form"]
    assert form["to_6_0"].value() == "00:00"


@pytest.mark.parametrize(
    ("hours", "problem"),
    [
        ({"mon": "07:00-"}, "enter both"),
        ({"mon": "07:00-07:00"}, "has no length"),
        ({"mon": "07:00-12:00 11:00-13:00"}, "lies inside"),
        ({"mon": "22:00-06:00 23:00-23:30"}, "lies inside"),
        ({"mon": "late-later"}, "write times as"),
        ({"mon": "7:00-12:00"}, "write times as"),
        ({}, "would open for nobody"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_explained_and_kept_as_typed(administrator, hours, problem):
    answer = administrator.post(reverse("schedule_create"), week(**hours))
    html = answer.content.decode()
    assert answer.status_code == 422
    assert problem in html
    assert 'value="Shop"' in html
    assert not Schedule.objects.filter(name="Shop").exists()


def test_a_week_is_described_with_equal_days_together():
    office = [{"day": day, "from": "07:00", "to": "19:00"} for day in range(5)]
    schedule = Schedule(name="Shop", weekly=[*office, {"day": 6, "from": "10:00", "to": "12:00"}])
    assert describe_week(schedule) == [("Monday to Friday", "07:00 to 19:00"), ("Sunday", "10:00 to 12:00")]


def test_a_schedule_in_use_is_not_deleted(administrator, building):
    AccessRule.objects.update(schedule=building.schedule)
    answer = administrator.post(reverse("schedule_delete", args=[building.schedule.pk]), follow=True)
    assert "Staff always" in answer.content.decode()
    assert Schedule.objects.filter(pk=building.schedule.pk).exists()


# Users and tokens


def test_a_new_user_gets_roles_and_a_password_that_is_shown_once(administrator):
    answer = administrator.post(
        reverse("user_create"), {"username": "gustav", "first_name": "Gustav", "roles": ["guard"]}
    )
    password = re.search(r"(?:[0-9a-f]{6}-){3}[0-9a-f]{6}", answer.content.decode())[0]
    gustav = Client()
    assert gustav.post(reverse("sign_in"), {"username": "gustav", "password": password}).status_code == 302
    assert gustav.get(reverse("doors")).status_code == 200
    assert gustav.get(reverse("users")).status_code == 403
    entry = Entry.objects.get(kind="user.created", actor="administrator")
    assert "Gustav" not in entry.details_json


def test_a_role_that_is_taken_away_is_gone_at_the_next_click(administrator, signed_in):
    guard = signed_in("guard")
    assert guard.get(reverse("attempts")).status_code == 200
    administrator.post(
        reverse("user_edit", args=[guard.user.pk]), {"username": "guard", "is_active": "on", "roles": []}
    )
    assert guard.get(reverse("attempts")).status_code == 403


@pytest.mark.parametrize("change", [{"roles": []}, {"roles": ["administrator"], "is_active": ""}])
def test_the_last_administrator_cannot_be_taken_away(administrator, change):
    data = {"username": "administrator", "is_active": "on", **change}
    answer = administrator.post(reverse("user_edit", args=[administrator.user.pk]), data)
    assert answer.status_code == 422
    assert "last administrator" in answer.content.decode()
    assert administrator.get(reverse("users")).status_code == 200


def test_one_of_two_administrators_may_step_down(administrator):
    make_user("second", "administrator")
    data = {"username": "administrator", "is_active": "on", "roles": []}
    assert administrator.post(reverse("user_edit", args=[administrator.user.pk]), data).status_code == 302


def test_an_invented_role_is_refused(administrator):
    data = {"username": "eve", "roles": ["emperor"]}
    assert administrator.post(reverse("user_create"), data).status_code == 422
    assert not get_user_model().objects.filter(username="eve").exists()


def test_a_new_password_signs_the_user_out_everywhere(administrator, signed_in):
    guard = signed_in("guard")
    page = reverse("user_password", args=[guard.user.pk])
    assert PASSWORD not in administrator.get(page).content.decode()
    administrator.post(page)
    assert guard.get("/").status_code == 302


def test_a_token_is_shown_once_and_works_until_it_is_revoked(signed_in):
    integrator = signed_in("integrator")
    answer = integrator.post(reverse("token_create"), {"name": "HR", "scopes": ["people:read"]})
    secret = re.search(r"lintel_[\w-]{20,}", answer.content.decode())[0]
    assert "no-store" in answer["Cache-Control"]
    token = find_api_token(token=secret, at=timezone.now())
    assert token.scopes == ["people:read"]
    assert secret not in integrator.get(reverse("tokens")).content.decode()
    integrator.post(reverse("token_revoke", args=[token.pk]))
    assert find_api_token(token=secret, at=timezone.now()) is None


def test_an_integrator_cannot_hand_out_more_than_an_integrator_may(signed_in):
    answer = signed_in("integrator").post(reverse("token_create"), {"name": "X", "scopes": ["people:erase"]})
    assert answer.status_code == 422
    assert not ApiToken.objects.exists()


def test_an_integrator_sees_and_revokes_only_tokens_of_their_own(signed_in, building):
    ApiToken.objects.update(created_by="somebody else")
    integrator = signed_in("integrator")
    assert "Visitor desk" not in integrator.get(reverse("tokens")).content.decode()
    assert integrator.post(reverse("token_revoke", args=[building.token.pk])).status_code == 404


def test_a_token_name_that_is_taken_is_said_at_its_field(administrator, building):
    answer = administrator.post(reverse("token_create"), {"name": "Visitor desk", "scopes": ["people:read"]})
    assert "name" in answer.context["form"].errors


def test_the_about_page_states_both_budgets_with_their_unit_or_that_the_model_is_missing(
    signed_in, settings, tmp_path
):
    settings.LINTEL_MODEL = str(tmp_path / "none")
    html = signed_in("guard").get(reverse("about")).content.decode()
    assert "cannot be read" in html
    assert "What is not protected" in html


def test_an_expired_token_is_marked(administrator, building):
    ApiToken.objects.update(expires_at=timezone.now() - timedelta(days=1))
    assert "expired" in administrator.get(reverse("tokens")).content.decode()


def name_is_taken(building):
    """Every form that names a row, with the name of one that exists already."""
    hours = {"from_0_0": "07:00", "to_0_0": "19:00"}
    doors = {"doors": [building.door.pk], "group": building.group.pk}
    return {
        "site": ("site_create", [], {"name": building.site.name, "timezone": "UTC"}, ""),
        "zone": ("zone_create", [building.site.pk], {"name": building.zone.name}, " at this site"),
        "door": (
            "door_create",
            [],
            {"name": building.door.name, "site": building.site.pk, "asks_for": "face"},
            " at this site",
        ),
        "terminal": ("terminal_create", [], {"name": building.terminal.name, "role": "desk"}, ""),
        "schedule": ("schedule_create", [], {"name": building.schedule.name, **hours}, ""),
        "group": ("group_create", [], {"name": building.group.name}, ""),
        "rule": ("rule_create", [], {"name": building.rule.name, **doors}, ""),
    }


@pytest.mark.parametrize("noun", ["site", "zone", "door", "terminal", "schedule", "group", "rule"])
def test_a_name_that_is_taken_is_said_in_words_at_its_field(noun, administrator, building):
    page, arguments, typed, where = name_is_taken(building)[noun]
    answer = administrator.post(reverse(page, args=arguments), typed)
    assert answer.status_code == 422
    said = answer.context["form"].errors
    assert said == {
        "name": [f"There is already a {noun} called {typed['name']}{where}. Choose another name."]
    }


def test_a_row_keeps_its_own_name_and_another_site_may_use_it_too(administrator, building):
    zone = reverse("zone_edit", args=[building.zone.pk])
    assert administrator.post(zone, {"name": building.zone.name, "anti_passback": "on"}).status_code == 302
    other = Site.objects.create(name="Mill", timezone="UTC")
    assert (
        administrator.post(reverse("zone_create", args=[other.pk]), {"name": building.zone.name}).status_code
        == 302
    )
    door = {"name": building.door.name, "site": other.pk, "asks_for": "face"}
    assert administrator.post(reverse("door_create"), door).status_code == 302


def test_a_user_name_that_is_taken_is_said_in_words(administrator):
    answer = administrator.post(reverse("user_create"), {"username": "administrator"})
    assert answer.context["form"].errors["username"] == [
        "There is already a user of this name. Choose another one."
    ]


def test_forms_take_only_the_fields_they_show(administrator, building):
    """What a page does not ask for cannot be slipped in beside it."""
    typed = {"name": "Harbour", "timezone": "UTC", "locked_down": "on", "locked_down_reason": "x", "id": "77"}
    assert administrator.post(reverse("site_edit", args=[building.site.pk]), typed).status_code == 302
    site = Site.objects.get(pk=building.site.pk)
    assert (site.name, site.locked_down, site.locked_down_reason) == ("Harbour", False, "")
    typed = {
        "name": "Cam",
        "role": "desk",
        "state": "active",
        "key_id": "mine",
        "public_key": "x",
        "site": "1",
    }
    assert administrator.post(reverse("terminal_create"), typed).status_code == 200  # shows its code
    terminal = Terminal.objects.get(name="Cam")
    assert (terminal.state, terminal.key_id, terminal.public_key) == ("pending", None, None)
    typed = {"username": "grace", "roles": ["guard"], "is_superuser": "on", "is_staff": "on", "password": "x"}
    administrator.post(reverse("user_create"), typed)
    grace = get_user_model().objects.get(username="grace")
    assert (grace.is_superuser, grace.is_staff, grace.check_password("x")) == (False, False, False)
    typed = {"full_name": "Alice A.", "kind": "employee", "id": "1", "data_key": "x", "data_key_id": "x"}
    before = Person.objects.values().get(pk=building.alice.pk)
    administrator.post(reverse("person_edit", args=[building.alice.pk]), typed)
    after = Person.objects.values().get(pk=building.alice.pk)
    assert {name for name in before if before[name] != after[name]} <= {"full_name", "is_active", "kind"}
    assert after["full_name"] == "Alice A."


def test_two_who_take_a_name_at_the_same_moment_are_told_and_nothing_breaks(
    administrator, building, monkeypatch
):
    """The other's row appears between the form's question and our write: the database alone knows."""
    monkeypatch.setattr("accesscontrol.forms.ZoneForm.namesakes", lambda form, data: Zone.objects.none())
    before = Entry.objects.count()
    answer = administrator.post(reverse("zone_create", args=[building.site.pk]), {"name": building.zone.name})
    assert answer.status_code == 422
    assert "Somebody else saved" in answer.content.decode()
    assert Entry.objects.count() == before
