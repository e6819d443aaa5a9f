"""Dashboard, attempts, doors, sites, lock-down, terminals."""

from __future__ import annotations

import html as html_module
import re
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from django.urls import reverse
from django.utils import timezone

from accesscontrol.models import AccessAttempt, Alarm, Door, Holiday, Site, Terminal, Zone
from accesscontrol.policy import Reason
from accesscontrol.services import pair_terminal
from accesscontrol.templatetags.lintel import TITLES
from audit.models import Entry
from terminal.__main__ import _parser as terminal_parser
from tests.pages.support import make_attempt


def test_a_new_installation_is_led_step_by_step(administrator):
    html = administrator.get("/").content.decode()
    assert "First steps" in html
    assert html.index("Add a site") < html.index("Say who may enter")
    assert "All quiet" in html


def test_the_dashboard_counts_today_and_shows_the_newest_first(administrator, building):
    make_attempt(building.terminal, reason="no_match", score=0.1)
    make_attempt(building.terminal, received_at=timezone.now() - timedelta(days=2))
    page = administrator.get("/")
    assert page.context["counts"] == {"asked": 2, "let_in": 1, "refused": 1}
    html = page.content.decode()
    assert html.index("not recognised") < html.index("let in</span>")
    assert "ready" in html


def test_the_live_part_is_the_same_markup_without_the_frame(administrator, building):
    part = administrator.get("/", {"part": "live"}).content.decode()
    assert "<html" not in part
    assert part.strip() in administrator.get("/").content.decode() or "Newest attempts" in part
    assert "no-store" in administrator.get("/", {"part": "live"})["Cache-Control"]


def test_an_enroller_sees_the_desk_and_no_attempt(signed_in, building):
    desk = signed_in("enroller")
    html = desk.get("/").content.decode()
    assert "Alice Example" not in html
    assert "Newest attempts" not in html
    assert desk.get("/", {"part": "live"}).status_code == 403


def test_a_silent_terminal_and_a_switched_off_door_are_told_apart(administrator, building):
    Terminal.objects.update(last_seen_at=timezone.now() - timedelta(hours=1))
    assert "terminal silent" in administrator.get(reverse("doors")).content.decode()
    Door.objects.update(is_active=False)
    assert "switched off" in administrator.get(reverse("doors")).content.decode()


def test_door_states_cost_the_same_however_many_doors(administrator, building, django_assert_max_num_queries):
    Door.objects.bulk_create(Door(site=building.site, name=f"Door {number}") for number in range(30))
    with django_assert_max_num_queries(12):
        administrator.get(reverse("doors"))


def test_lock_down_takes_two_clicks_and_a_reason_and_is_lifted_again(signed_in, building):
    guard = signed_in("guard")
    page = reverse("lock_down", args=[building.site.pk])
    assert page in guard.get("/").content.decode()
    assert guard.post(page, {"reason": " "}).status_code == 422
    building.site.refresh_from_db()
    assert not building.site.locked_down
    answer = guard.post(page, {"reason": "smoke in the cellar"}, follow=True)
    assert "smoke in the cellar" in answer.content.decode()
    building.site.refresh_from_db()
    assert building.site.locked_down
    assert "Cancel" in guard.get(reverse("lift_lock_down", args=[building.site.pk])).content.decode()
    guard.post(reverse("lift_lock_down", args=[building.site.pk]))
    building.site.refresh_from_db()
    assert not building.site.locked_down
    assert Entry.objects.filter(kind__startswith="site.lock", actor="guard").count() == 2


def test_an_alarm_is_marked_as_seen_by_a_guard_and_not_by_an_auditor(signed_in, building):
    page = reverse("alarm_acknowledge", args=[building.alarm.pk])
    assert signed_in("auditor").post(page).status_code == 403
    signed_in("guard").post(page)
    building.alarm.refresh_from_db()
    assert building.alarm.acknowledged_by == "guard"


def test_attempts_are_filtered_by_person_door_outcome_reason_and_day(administrator, building):
    other = Door.objects.create(site=building.site, name="Back door")
    refused = make_attempt(building.terminal, reason="no_match", score=0.1, door=other)
    old = make_attempt(building.terminal, received_at=timezone.now() - timedelta(days=40))

    def found(**query):
        return set(administrator.get(reverse("attempts"), query).context["stretch"].rows)

    assert found() == {building.attempt, refused, old}
    assert found(q="alice") == {building.attempt}
    assert found(door=other.pk) == {refused}
    assert found(outcome="refused") == {refused}
    assert found(reason="no_match") == {refused}
    assert found(day=f"{old.received_at.astimezone(ZoneInfo('Europe/Vienna')):%Y-%m-%d}") == {old}
    assert len(found(day="not a day")) == 3


def test_every_reason_has_words_for_a_list_and_an_attempt_says_what_to_do(administrator, building):
    assert set(TITLES) == set(Reason)
    refused = make_attempt(building.terminal, reason="no_rule", person=building.alice, score=0.7)
    html = administrator.get(reverse("attempt", args=[refused.pk])).content.decode()
    assert "No rule lets this person through this door." in html
    assert "Ask an administrator for access." in html
    assert 'aria-label="Score 0.700, threshold 0.400"' in html


def test_a_pending_attempt_has_a_page(administrator, building):
    pending = make_attempt(
        building.terminal,
        reason="",
        state=AccessAttempt.State.PENDING,
        settled_at=None,
        score=None,
        threshold=None,
    )
    assert "Not decided yet." in administrator.get(reverse("attempt", args=[pending.pk])).content.decode()


def test_a_site_a_zone_and_a_door_are_added_with_audit_entries(administrator):
    assert administrator.get(reverse("door_create"))["Location"] == reverse("site_create")
    administrator.post(reverse("site_create"), {"name": "Mill", "timezone": "Europe/London"})
    site = Site.objects.get(name="Mill")
    administrator.post(reverse("zone_create", args=[site.pk]), {"name": "Attic", "anti_passback": "on"})
    zone = Zone.objects.get(site=site)
    administrator.post(
        reverse("door_create"),
        {"name": "Gate", "site": site.pk, "zone": zone.pk, "asks_for": Door.AsksFor.FACE, "is_active": "on"},
    )
    assert Door.objects.get(name="Gate").zone == zone
    kinds = set(Entry.objects.values_list("kind", flat=True))
    assert {"site.created", "zone.created", "door.created"} <= kinds


def test_a_door_cannot_lead_into_a_zone_of_another_site(administrator, building):
    other = Site.objects.create(name="Mill")
    answer = administrator.post(
        reverse("door_create"),
        {"name": "Gate", "site": other.pk, "zone": building.zone.pk, "is_active": "on"},
    )
    assert answer.status_code == 422
    assert "belongs to another site" in answer.content.decode()
    assert 'value="Gate"' in answer.content.decode()


def test_a_zone_with_doors_is_not_deleted_and_the_page_names_them(administrator, building):
    Door.objects.update(zone=building.zone)
    answer = administrator.post(reverse("zone_delete", args=[building.zone.pk]), follow=True)
    assert "Front door" in answer.content.decode()
    assert Zone.objects.filter(pk=building.zone.pk).exists()


def test_a_holiday_is_added_once_and_deleted_after_asking(administrator, building):
    page = reverse("holiday_create", args=[building.site.pk])
    administrator.post(page, {"date": "2099-01-01", "name": "New Year"})
    assert administrator.post(page, {"date": "2099-01-01", "name": "Again"}).status_code == 422
    holiday = Holiday.objects.get(date="2099-01-01")
    delete = reverse("holiday_delete", args=[holiday.pk])
    administrator.get(delete)
    assert Holiday.objects.filter(pk=holiday.pk).exists()
    administrator.post(delete)
    assert not Holiday.objects.filter(pk=holiday.pk).exists()


def test_a_terminal_is_added_and_its_code_pairs_a_device_once(administrator, building):
    answer = administrator.post(reverse("terminal_create"), {"name": "Desk", "role": "desk", "door": ""})
    html = answer.content.decode()
    command = html_module.unescape(re.search(r"python -m terminal (pair [^<]+)<", html)[1])
    typed = terminal_parser().parse_args(command.split())
    assert typed.server == "http://testserver"
    code = typed.code
    assert "no-store" in answer["Cache-Control"]
    paired = pair_terminal(code=code, public_key=b"p" * 32, at=timezone.now())
    assert paired.name == "Desk"
    assert code not in administrator.get(reverse("terminal", args=[paired.pk])).content.decode()


def test_a_door_terminal_needs_a_door(administrator, building):
    answer = administrator.post(reverse("terminal_create"), {"name": "Lost", "role": "door", "door": ""})
    assert answer.status_code == 422
    assert "Choose the door" in answer.content.decode()


def test_revoking_asks_first_and_a_new_code_brings_it_back(administrator, building):
    page = reverse("terminal_revoke", args=[building.terminal.pk])
    assert "Front door" in administrator.get(page).content.decode()
    administrator.post(page)
    building.terminal.refresh_from_db()
    assert building.terminal.state == Terminal.State.REVOKED
    assert (
        "was revoked"
        in administrator.get(reverse("terminal_code", args=[building.terminal.pk])).content.decode()
    )


def test_pages_of_errors_say_what_to_do(administrator, settings):
    missing = administrator.get("/no-such-page/")
    assert missing.status_code == 404
    assert "There is no such page" in missing.content.decode()
    assert (
        administrator.get(reverse("person", args=["00000000-0000-0000-0000-000000000000"])).status_code == 404
    )


def test_an_error_of_ours_gets_a_page_that_needs_nothing_else_to_work(administrator, monkeypatch):
    from accesscontrol.views import dashboard

    def break_down(*_):
        raise RuntimeError("broken for the test")

    monkeypatch.setattr(dashboard, "counts_today", break_down)
    administrator.raise_request_exception = False
    answer = administrator.get("/")
    assert answer.status_code == 500
    assert "Something broke on our side" in answer.content.decode()
    assert "broken for the test" not in answer.content.decode()


def test_the_history_of_a_door_does_not_repeat_which_door_it_is(administrator, building):
    page = administrator.get(reverse("door", args=[building.door.pk])).content.decode()
    history = page[page.index('id="history"') :]
    assert "Alice Example" in history
    assert '<th scope="col">Door</th>' not in history and 'data-label="Door"' not in history
    assert 'data-label="Door"' in administrator.get(reverse("attempts")).content.decode()


def test_an_attempt_says_the_hour_beside_the_door_where_the_reader_has_another_clock(administrator, building):
    at = datetime(2026, 7, 1, 22, 30, tzinfo=UTC)
    after = at + timedelta(seconds=1)
    made = make_attempt(
        building.terminal, person=building.alice, received_at=at, deadline_at=after, settled_at=at
    )
    address = reverse("attempt", args=[made.pk])
    assert "at the door" not in administrator.get(address).content.decode()
    administrator.post(reverse("time_zone"), {"zone": "America/New_York"})
    page = administrator.get(address).content.decode()
    assert "1 Jul 2026 18:30" in page
    assert "2 Jul 2026, 00:30:00 at the door, Europe/Vienna" in page


def test_an_attempt_leads_whoever_may_read_the_log_to_its_entry(signed_in, building):
    address = reverse("attempt", args=[building.attempt.pk])
    link = f"?text={building.attempt.pk}&amp;subject=person:{building.alice.pk}"
    assert link in signed_in("auditor").get(address).content.decode()
    assert link not in signed_in("guard").get(address).content.decode()


def test_more_alarms_than_the_live_page_holds_are_counted_on_it(administrator, building):
    def alarms() -> str:
        page = administrator.get(reverse("dashboard")).content.decode()
        return page[page.index('id="alarms"') : page.index('id="newest"')]

    now = timezone.now()
    for number in range(7):
        Alarm.objects.create(
            kind=Alarm.Kind.SIGNATURE_REFUSED,
            site=building.site,
            raised_at=now,
            last_at=now,
            message=f"No. {number}",
        )
    assert "older alarm" not in alarms()  # eight of them: all are shown
    Alarm.objects.create(
        kind=Alarm.Kind.NONCE_REPLAYED, site=building.site, raised_at=now, last_at=now, message="One more"
    )
    assert "1 older alarm comes up as these are seen." in alarms()
    Alarm.objects.update(acknowledged_at=now, acknowledged_by="test")
    assert 'id="alarms"' not in administrator.get(reverse("dashboard")).content.decode()
