"""People at the desk: list, data, consent, enrollment, withdrawal, erasure."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from django.urls import reverse
from django.utils import timezone

from accesscontrol.models import AccessGroup, Terminal
from accesscontrol.services import lock_down
from audit.models import Entry
from enrollment import languages
from enrollment.models import Consent, Enrollment, ErasureCertificate, Person
from enrollment.services import begin_enrollment, record_consent, register_person


@pytest.fixture
def desk(building, signed_in):
    return signed_in("enroller")


def begin(person: Person, **more) -> Enrollment:
    return begin_enrollment(person=person, actor="desk", at=timezone.now(), **more)


def test_an_empty_list_teaches_what_comes_first(signed_in):
    html = signed_in("enroller").get(reverse("people")).content.decode()
    assert "Nobody here yet" in html
    assert reverse("person_create") in html


def test_the_list_finds_by_words_kind_and_status(desk, building):
    def names(**query):
        return [person.full_name for person in desk.get(reverse("people"), query).context["page"]]

    assert names() == ["Alice Example", "Bob Example"]
    assert names(q="exam ali") == ["Alice Example"]
    assert names(status="enrolled") == ["Alice Example"]
    assert names(status="no_consent") == ["Bob Example"]
    assert names(kind="visitor") == []
    assert names(status="nonsense") == ["Alice Example", "Bob Example"]


def test_the_list_pages_and_keeps_the_search_in_its_links(desk):
    Person.objects.bulk_create(Person(full_name=f"Carla {number:03}") for number in range(60))
    page = desk.get(reverse("people"), {"q": "carla"})
    assert len(page.context["page"]) == 50
    assert "q=carla&amp;page=2" in page.content.decode()
    assert len(desk.get(reverse("people"), {"q": "carla", "page": "2"}).context["page"]) == 10


def test_the_list_asks_the_database_equally_often_however_long_it_is(desk, django_assert_max_num_queries):
    Person.objects.bulk_create(Person(full_name=f"Carla {number:03}") for number in range(40))
    with django_assert_max_num_queries(12):
        desk.get(reverse("people"))


def test_a_person_is_added_and_the_next_step_is_named(desk):
    answer = desk.post(
        reverse("person_create"), {"full_name": "  Carla   Example ", "kind": "visitor"}, follow=True
    )
    person = Person.objects.get(full_name="Carla Example")
    assert answer.redirect_chain[-1][0] == reverse("person", args=[person.pk])
    assert "Record consent" in answer.content.decode()
    assert Entry.objects.filter(kind="person.registered", actor="enroller").exists()


def test_a_bad_form_keeps_what_was_typed_and_points_to_the_field(desk):
    answer = desk.post(
        reverse("person_create"),
        {"full_name": "", "kind": "visitor", "email": "no address", "external_id": "H-7"},
    )
    html = answer.content.decode()
    assert answer.status_code == 422
    assert "Nothing was saved." in html
    assert 'value="no address"' in html
    assert 'value="H-7"' in html
    assert html.count('aria-invalid="true"') == 2
    assert 'aria-describedby="id_full_name_error"' in html
    assert not Person.objects.filter(external_id="H-7").exists()


def test_a_number_that_somebody_else_has_is_said_at_its_field(desk, building):
    Person.objects.filter(pk=building.bob.pk).update(external_id="H-1")
    answer = desk.post(
        reverse("person_create"), {"full_name": "Carla", "kind": "visitor", "external_id": "H-1"}
    )
    assert "external_id" in answer.context["form"].errors


def test_an_end_before_the_beginning_is_refused(desk):
    answer = desk.post(
        reverse("person_create"),
        {
            "full_name": "Carla",
            "kind": "visitor",
            "valid_from": "2026-12-02T08:00",
            "valid_until": "2026-12-01T08:00",
        },
    )
    assert "The end must be later" in answer.content.decode()


def test_a_typed_hour_is_read_in_the_zone_of_the_site(desk, building):
    desk.post(
        reverse("person_create"), {"full_name": "Carla", "kind": "visitor", "valid_until": "2099-07-01T12:00"}
    )
    assert Person.objects.get(full_name="Carla").valid_until.isoformat() == "2099-07-01T10:00:00+00:00"


def test_a_person_is_edited_and_only_what_changed_is_written(desk, building):
    edit = reverse("person_edit", args=[building.bob.pk])
    form = desk.get(edit).context["form"]
    data = {name: form[name].value() or "" for name in form.fields}
    data |= {"full_name": "Robert Example", "is_active": "on"}
    data["valid_from"] = timezone.localtime(building.bob.valid_from).strftime("%Y-%m-%dT%H:%M")
    assert desk.post(edit, data).status_code == 302
    building.bob.refresh_from_db()
    assert building.bob.full_name == "Robert Example"


def test_the_profile_shows_who_why_and_when(administrator, building):
    html = administrator.get(reverse("person", args=[building.alice.pk])).content.decode()
    for words in (
        "Alice Example",
        "Staff",
        "Signed on paper",
        "tiny",
        "0.90",
        "Front door",
        "let in",
        "<time datetime=",
    ):
        assert words in html, words


def test_the_profile_says_where_a_person_may_go_now_and_by_which_rule(administrator, building):
    def where(person: Person) -> str:
        page = administrator.get(reverse("person", args=[person.pk])).content.decode()
        part = page[page.index('aria-labelledby="where-to"') :]
        return part[: part.index("</section>")]

    alice = where(building.alice)
    assert "Front door" in alice and "may enter" in alice
    assert "Staff always" in alice and "at any hour" in alice
    assert "Last let in" in alice
    building.rule.schedule = building.schedule  # Mondays
    building.rule.save()
    lock_down(site=building.site, reason="drill", actor="test", at=timezone.now())
    locked = where(building.alice)
    assert "may enter" not in locked and "Office hours" in locked
    assert "No rule names any door" in where(building.bob)
    building.group.members.add(building.bob)
    assert "Front door" in where(building.bob) and "may enter" not in where(building.bob)


def test_consent_is_recorded_in_the_very_words_that_were_shown(desk, building):
    spoken = languages.find("de")
    assert spoken is not None
    german = spoken.consent
    page = reverse("consent_create", args=[building.bob.pk])
    assert 'lang="de"' in desk.get(page, {"language": "de"}).content.decode()
    form = {"language": "de", "method": "signed", "agreed": "on", "text": "something else"}
    stale = desk.post(page, {**form, "version": "2026-11.00000000"})
    assert stale.status_code == 422 and "changed while it was read" in stale.content.decode()
    assert not Consent.objects.filter(person=building.bob).exists()
    desk.post(page, {**form, "version": german.version})
    consent = Consent.objects.get(person=building.bob)
    assert (consent.text, consent.version, consent.language) == (german.text, german.version, "de")
    assert consent.recorded_by == "enroller"


def test_without_the_tick_no_consent_is_recorded(desk, building):
    page = reverse("consent_create", args=[building.bob.pk])
    answer = desk.post(page, {"language": "en", "method": "spoken"})
    assert answer.status_code == 422
    assert "Nothing was recorded" in answer.content.decode()
    assert not Consent.objects.filter(person=building.bob).exists()


def test_withdrawing_asks_first_and_then_destroys_the_templates(desk, building):
    page = reverse("consent_withdraw", args=[building.alice.pk])
    assert "cannot be undone" in desk.get(page).content.decode()
    assert building.alice.is_enrolled()
    desk.post(page)
    assert not building.alice.is_enrolled()
    assert not building.alice.has_consent()


def test_erasing_wants_the_name_typed_and_ends_with_a_certificate(administrator, building):
    page = reverse("person_erase", args=[building.alice.pk])
    wrong = administrator.post(page, {"name": "Bob Example"})
    assert wrong.status_code == 422
    assert Person.objects.filter(pk=building.alice.pk).exists()
    done = administrator.post(page, {"name": "alice  example"}, follow=True)
    assert not Person.objects.filter(pk=building.alice.pk).exists()
    assert "Alice" not in done.content.decode()
    stored = ErasureCertificate.objects.get(pk=building.alice.pk).certificate
    file = administrator.get(reverse("erasure_certificate", args=[building.alice.pk]), {"download": ""})
    assert json.loads(file.content) == stored
    assert "attachment" in file["Content-Disposition"]


def test_an_enroller_does_not_erase(desk, building):
    assert (
        desk.post(reverse("person_erase", args=[building.alice.pk]), {"name": "Alice Example"}).status_code
        == 403
    )
    assert Person.objects.filter(pk=building.alice.pk).exists()


def test_a_revoked_terminal_is_not_offered_and_the_computers_own_camera_always_is(desk, building):
    Terminal.objects.update(state=Terminal.State.REVOKED)
    page = reverse("enrollment_begin", args=[building.alice.pk])
    html = desk.get(page).content.decode()
    assert "this device’s camera" in html
    assert building.terminal.name not in html
    chosen = {"terminal": building.terminal.pk, "captures_wanted": 3, "templates": "replace"}
    assert desk.post(page, chosen).status_code == 422


def test_an_enrollment_begins_at_the_chosen_terminal(desk, building):
    answer = desk.post(
        reverse("enrollment_begin", args=[building.alice.pk]),
        {"terminal": building.terminal.pk, "captures_wanted": 3, "templates": "replace"},
    )
    enrollment = Enrollment.objects.get(person=building.alice, state=Enrollment.State.OPEN)
    assert answer["Location"] == reverse("enrollment", args=[enrollment.pk])
    assert enrollment.terminal_id == building.terminal.pk
    assert enrollment.started_by == "enroller"


def test_without_consent_the_desk_records_it_first_and_then_goes_on(desk, building):
    page = reverse("enrollment_begin", args=[building.bob.pk])
    answer = desk.post(page, {"terminal": building.terminal.pk, "captures_wanted": 3})
    consent = reverse("consent_create", args=[building.bob.pk])
    assert answer["Location"] == f"{consent}?then=enroll"
    version = languages.reference().consent.version
    form = {"language": "en", "version": version, "method": "signed", "agreed": "on", "then": "enroll"}
    answer = desk.post(consent, form)
    assert answer["Location"] == page
    assert not Enrollment.objects.filter(person=building.bob).exists()


def test_progress_shows_accepted_captures_and_the_advice(desk, building):
    enrollment = begin(building.alice, terminal_id=building.terminal.pk)
    page = reverse("enrollment_progress", args=[enrollment.pk])
    assert "Waiting for the terminal" in desk.get(page).content.decode()
    Enrollment.objects.filter(pk=enrollment.pk).update(
        captures_accepted=2, captures_received=2, last_reason="capture_accepted"
    )
    html = desk.get(page).content.decode()
    assert "2 of 3 captures accepted" in html
    assert "Hold still" in html
    assert "data-hx-trigger" in html


def test_a_duplicate_is_shown_by_name_and_a_person_decides(desk, building):
    record_consent(
        person=building.bob, text="x", version="1", method="signed", actor="desk", at=timezone.now()
    )
    enrollment = begin(building.bob)
    Enrollment.objects.filter(pk=enrollment.pk).update(
        state=Enrollment.State.DUPLICATE_FOUND, duplicate_of=building.alice, duplicate_score=0.8
    )
    html = desk.get(reverse("enrollment", args=[enrollment.pk])).content.decode()
    assert "This face is known already" in html
    assert "Alice Example" in html
    desk.post(reverse("enrollment_cancel", args=[enrollment.pk]))
    enrollment.refresh_from_db()
    assert enrollment.state == Enrollment.State.CANCELLED
    assert "data-hx-trigger" not in desk.get(reverse("enrollment", args=[enrollment.pk])).content.decode()


def test_an_enrollment_that_cannot_be_completed_says_why(desk, building, signed_in):
    enrollment = begin(building.alice)
    page = reverse("enrollment_complete", args=[enrollment.pk])
    assert desk.post(page, {"reason": "twins"}).status_code == 403  # an administrator decides this
    administrator = signed_in("administrator")
    answer = administrator.post(page, {"reason": ""})
    assert answer.status_code == 422
    assert "captures" in administrator.post(page, {"reason": "twins"}, follow=True).content.decode()


def test_a_name_with_markup_is_shown_as_text(administrator, building):
    person = register_person(full_name="<b>Eve</b>", actor="test", at=timezone.now() - timedelta(hours=1))
    for page in (
        reverse("people"),
        reverse("person", args=[person.pk]),
        reverse("person_erase", args=[person.pk]),
    ):
        html = administrator.get(page).content.decode()
        assert "<b>Eve" not in html
        assert "&lt;b&gt;Eve" in html


def test_a_group_is_given_on_the_profile_and_taken_back_with_an_audit_entry_each(desk, building):
    group = AccessGroup.objects.create(name="Cleaning")
    desk.post(reverse("person_group_add", args=[building.bob.pk]), {"group": group.pk})
    desk.post(reverse("person_group_add", args=[building.bob.pk]), {"group": group.pk})
    assert list(group.members.all()) == [building.bob]
    assert Entry.objects.filter(kind="group.member_added").count() == 1
    answer = desk.post(reverse("group_member_remove", args=[group.pk, building.bob.pk]), {"back": "person"})
    assert answer["Location"] == reverse("person", args=[building.bob.pk])
    assert not group.members.exists()
    assert Entry.objects.filter(kind="group.member_removed").count() == 1


def test_choosing_no_group_is_answered_with_advice(desk, building):
    answer = desk.post(reverse("person_group_add", args=[building.bob.pk]), {"group": "x"}, follow=True)
    assert "Choose a group" in answer.content.decode()
