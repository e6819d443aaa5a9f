"""Invitations: from a file of people to links, and from a link to a face that doors know, with everything that can go
wrong on the way answered kindly and told to nobody else."""

from __future__ import annotations

import csv
import json
import re
import struct
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.core.cache import cache
from django.core.management import CommandError, call_command
from django.test import Client
from django.urls import reverse

from accesscontrol.middleware import CAMERA_SECURITY_POLICY, CONTENT_SECURITY_POLICY
from accesscontrol.models import AccessGroup
from audit.models import Entry
from enrollment import invitations, languages, roster, services
from enrollment.invitations import Issued
from enrollment.models import Consent, Enrollment, Invitation, Person
from enrollment.services import EnrollmentRefused
from tests.enrollment.support import DAY, NOW, payload_of, somebody
from tests.pages.support import make_user

pytestmark = pytest.mark.django_db

VIENNA = ZoneInfo("Europe/Vienna")
ENGLISH = languages.reference().consent
CAPTURE = "application/vnd.lintel.capture"


@pytest.fixture(autouse=True)
def _rates_start_anew() -> None:
    cache.clear()


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The pages' clock stands at NOW."""
    monkeypatch.setattr("django.utils.timezone.now", lambda: NOW)
    return NOW


def invited(name: str = "Alice Example", **more: Any) -> Issued:
    person = somebody(name, consents=False)
    return invitations.issue_invitation(person=person, actor="desk", at=NOW, **more)


def text_in(tag: str) -> Any:
    language = languages.find(tag)
    assert language is not None
    return language.consent


def yes_to(text: Any = ENGLISH) -> dict[str, str]:
    """The form of somebody who agrees to this text."""
    return {"answer": "yes", "agreed": "yes", "language": text.language, "version": text.version}


def kinds(subject: Person | None = None) -> list[str]:
    entries = Entry.objects.order_by("index")
    if subject is not None:
        entries = entries.filter(subject=services.audit_subject(subject.pk))
    return list(entries.values_list("kind", flat=True))


def fresh(issued: Issued) -> Invitation:
    return Invitation.objects.get(pk=issued.invitation.pk)


def refused(code: str) -> Any:
    return pytest.raises(EnrollmentRefused, check=lambda error: error.code == code)


# The file


def read(text: str, **more: Any) -> roster.Roster:
    lines = text.splitlines(keepends=True)
    return roster.read_roster(lines, **{"zone": VIENNA, "at": NOW, **more})


def test_a_spreadsheet_of_half_of_europe_is_understood() -> None:
    AccessGroup.objects.create(name="Staff")
    AccessGroup.objects.create(name="Ground floor")
    found = read(
        "\ufeffName;Reference;E-Mail;Phone;Groups;Valid from;Valid to\n"
        "Ada Example;E-1;ada@example.org;;staff|Ground floor;01.12.2026;31.12.2026\n"
        ";;;;;;\n"
        '"Bo; Example";;;+43 660 0000000;;;\n'
    )
    assert found.errors == []
    ada, bo = found.rows
    assert (ada.line, bo.line) == (2, 4)
    assert ada.groups == ("Staff", "Ground floor")
    assert (ada.contact, bo.contact) == ("ada@example.org", "+43 660 0000000")
    assert bo.person["full_name"] == "Bo; Example"
    # Whole days on the clock of the desk: from the start of the first to the end of the last.
    assert ada.person["valid_from"].isoformat() == "2026-12-01T00:00:00+01:00"
    assert ada.person["valid_until"].isoformat() == "2027-01-01T00:00:00+01:00"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (",E-8,,,", "column name: the name is blank."),
        ("Ada,E-1,,,", "column reference: somebody else has the external id E-1."),
        ("Ada,E-7,,,\nBo,E-7,,,", "Line 3, column reference: this reference stands in line 2 already."),
        ("Ada,,nobody,,", "Line 2, column email: enter a valid email address."),
        ("Ada,,,Nowhere,", "column groups: there is no group “Nowhere”; make it first."),
        ("Ada,,,,next week", "column valid_until: “next week” is not a date such as 2026-12-31."),
        ("Ada,,,,31.02.2027", "“31.02.2027” is not a date"),
        ("Ada,,,,2026-11-01", "column valid_until: valid until lies in the past."),
        ("Ada,,,,,more", "Line 2: there are more values than columns."),
        ("A\x00da,,,,", "column name: it holds a character that is no text."),
        (f"{'a' * 201},,,,", "column name: ensure this value has at most 200 characters"),
    ],
)
def test_what_is_wrong_with_a_row_is_said_with_its_line_and_column(row: str, reason: str) -> None:
    somebody("Zoe", external_id="E-1")
    found = read(f"name,reference,email,groups,valid_until\n{row}\nFine Example,,,,\n")
    assert [error for error in found.errors if reason in error.sentence], found.errors
    assert found.errors[0].line == row.count("\n") + 2
    assert "Fine Example" in [good.person["full_name"] for good in found.rows]
    with pytest.raises(roster.RosterRefused):
        roster.register_roster(roster=found, actor="desk", at=NOW)
    assert Person.objects.count() == 1


@pytest.mark.parametrize(
    "text",
    ["", "\n", "name\n", "forename\nAda\n", "name,name\nAda,Bo\n", "name,pin\nAda,1234\n", '"name\nAda\n'],
)
def test_a_file_that_is_no_roster_is_refused_in_words(text: str) -> None:
    found = read(text)
    assert found.errors and not found.is_good
    assert all(error.message and error.line >= 1 for error in found.errors)


def test_a_file_larger_than_the_limit_is_refused_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roster, "MAX_ROWS", 3)
    found = read("name\nA\nB\nC\nD\n")
    assert "at most 3 people" in found.errors[0].message


def test_a_row_that_fails_while_registering_undoes_all_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look and the deed somebody else took the reference."""
    found = read("name,reference\nAda,E-1\nBo,E-2\nCy,E-3\n")
    assert found.is_good
    somebody("Zoe", external_id="E-2")
    before = kinds()
    with pytest.raises(roster.RosterRefused) as refusal:
        roster.register_roster(roster=found, actor="desk", at=NOW, invite=True)
    assert [error.line for error in refusal.value.errors] == [3]
    assert [person.full_name for person in Person.objects.all()] == ["Zoe"]
    assert not Invitation.objects.exists()
    assert kinds() == before


def test_everybody_in_a_good_file_is_registered_grouped_and_invited() -> None:
    staff = AccessGroup.objects.create(name="Staff")
    found = read("name,email,groups\nAda Example,ada@example.org,Staff\nBo Example,,\n")
    done = roster.register_roster(roster=found, actor="desk", at=NOW, invite=True, lifetime=3 * DAY)
    assert [member.full_name for member in staff.members.all()] == ["Ada Example"]
    ada, bo = (registered.invitation for registered in done)
    assert ada is not None and bo is not None and ada.token != bo.token
    assert (ada.invitation.contact, ada.invitation.expires_at) == ("ada@example.org", NOW + 3 * DAY)
    assert kinds()[-1] == "people.imported"
    assert {"person.registered", "group.member_added", "invitation.created"} <= set(kinds())


def test_a_name_that_is_on_record_is_pointed_out_and_is_no_error() -> None:
    somebody("Ada Example")
    found = read("name\nada example\n")
    assert found.is_good
    assert "on record already" in found.rows[0].note


# The link


def test_only_a_hash_of_the_token_is_kept_and_the_token_is_long() -> None:
    issued = invited()
    assert len(issued.token) >= 43
    row = fresh(issued)
    assert issued.token not in json.dumps({name: str(value) for name, value in vars(row).items()})
    assert issued.token not in "".join(f"{entry.details_json}" for entry in Entry.objects.all())
    link = invitations.link_to(issued, base="https://doors.example.org")
    assert link == f"https://doors.example.org/invitation/#{issued.token}"


def test_a_new_link_takes_the_place_of_the_old_one() -> None:
    old = invited(contact="+43 1 2345")
    new = invitations.issue_invitation(person=old.invitation.person, actor="desk", at=NOW)
    assert new.invitation.contact == "+43 1 2345"
    with refused("invitation_revoked"):
        invitations.open_invitation(token=old.token, at=NOW)
    assert invitations.open_invitation(token=new.token, at=NOW).pk == new.invitation.pk


@pytest.mark.parametrize("change", [{"is_active": False}, {"valid_until": NOW - timedelta(seconds=1)}])
def test_whoever_may_not_come_in_is_not_invited(change: dict[str, Any]) -> None:
    person = somebody(consents=False, valid_from=NOW - DAY)
    Person.objects.filter(pk=person.pk).update(**change)
    with pytest.raises(EnrollmentRefused):
        invitations.issue_invitation(person=person, actor="desk", at=NOW)
    assert not Invitation.objects.exists()


@pytest.mark.parametrize("lifetime", [timedelta(), timedelta(days=-1), timedelta(days=91)])
def test_a_link_lives_for_an_hour_to_ninety_days(lifetime: timedelta) -> None:
    with refused("lifetime_invalid"):
        invited(lifetime=lifetime)


def test_a_link_that_nobody_made_opens_nothing() -> None:
    invited()
    for token in ("", "x", "A" * 43, "\x00", "ä" * 60):
        with refused("invitation_unknown"):
            invitations.open_invitation(token=token, at=NOW)


def test_a_link_opens_until_it_expires_and_not_a_second_longer() -> None:
    issued = invited(lifetime=DAY)
    invitations.open_invitation(token=issued.token, at=NOW + DAY - timedelta(seconds=1))
    with refused("invitation_expired"):
        invitations.open_invitation(token=issued.token, at=NOW + DAY)


def test_the_state_of_an_invitation_is_the_same_to_python_and_to_the_database() -> None:
    moments = {"used_at": NOW, "declined_at": NOW, "revoked_at": NOW, "opened_at": NOW}
    for number, changes in enumerate(
        [
            {},
            {"opened_at": NOW},
            *({name: at} for name, at in moments.items()),
            {"expires_at": NOW + timedelta(1)},
        ]
    ):
        issued = invited(f"Person {number}", lifetime=2 * DAY)
        Invitation.objects.filter(pk=issued.invitation.pk).update(**changes)
    for at in (NOW, NOW + 1.5 * DAY, NOW + 3 * DAY):
        for state in Invitation.State:
            expected = {row.pk for row in Invitation.objects.all() if row.state_at(at) == state}
            assert (
                set(invitations.in_state(Invitation.objects.all(), state, at).values_list("pk", flat=True))
                == expected
            )


# From the link to the face, by services


def test_the_whole_way_from_a_link_to_a_face_that_doors_know(
    worker, django_capture_on_commit_callbacks
) -> None:
    issued = invited()
    invitation = invitations.open_invitation(token=issued.token, at=NOW)
    invitations.agree(invitation=invitation, text=text_in("de"), own_words=" Nur werktags. ", at=NOW)
    enrollment = invitations.begin(invitation=invitation, at=NOW)
    for _ in range(3):
        with django_capture_on_commit_callbacks(execute=True):
            invitations.take_capture(invitation=fresh(issued), payload=payload_of(1), quality=0.9, at=NOW)
    enrollment.refresh_from_db()
    assert enrollment.state == Enrollment.State.COMPLETED
    assert fresh(issued).state_at(NOW) == Invitation.State.USED
    consent = Consent.objects.get(person=issued.invitation.person, withdrawn_at=None)
    assert (consent.language, consent.method) == ("de", "online")
    assert consent.text.endswith("* * *\n\nNur werktags.")
    assert consent.recorded_by == f"invitation:{issued.invitation.pk}"
    told = kinds(issued.invitation.person)
    for kind in ("created", "opened", "used"):
        assert told.count(f"invitation.{kind}") == 1
    assert (
        told.index("consent.recorded") < told.index("enrollment.begun") < told.index("enrollment.completed")
    )
    with refused("invitation_used"):
        invitations.open_invitation(token=issued.token, at=NOW)


def test_without_consent_nothing_is_begun_and_the_refusal_is_on_record() -> None:
    issued = invited()
    with refused("consent_missing"):
        invitations.begin(invitation=issued.invitation, at=NOW)
    assert "enrollment.refused" in kinds()
    assert not Enrollment.objects.exists()


def test_a_reload_goes_on_with_the_enrollment_under_way_and_a_late_one_begins_anew() -> None:
    issued = invited()
    invitations.agree(invitation=issued.invitation, text=ENGLISH, at=NOW)
    first = invitations.begin(invitation=issued.invitation, at=NOW)
    assert invitations.begin(invitation=issued.invitation, at=NOW) == first
    later = NOW + services.ENROLLMENT_LIFETIME
    assert invitations.begin(invitation=issued.invitation, at=later) != first


def test_an_invitation_begins_a_few_enrollments_and_no_more() -> None:
    """Captures of one face average the noise away: nobody gets to take them without end."""
    issued = invited(lifetime=DAY)
    invitations.agree(invitation=issued.invitation, text=ENGLISH, at=NOW)
    for number in range(invitations.MAX_BEGINNINGS):
        invitations.begin(invitation=issued.invitation, at=NOW + number * services.ENROLLMENT_LIFETIME)
    with refused("too_many_tries"):
        invitations.begin(
            invitation=issued.invitation,
            at=NOW + invitations.MAX_BEGINNINGS * services.ENROLLMENT_LIFETIME,
        )


def test_declining_keeps_nothing_even_after_a_yes(worker, django_capture_on_commit_callbacks) -> None:
    issued = invited()
    invitations.agree(invitation=issued.invitation, text=ENGLISH, at=NOW)
    enrollment = invitations.begin(invitation=issued.invitation, at=NOW)
    with django_capture_on_commit_callbacks(execute=True):
        invitations.take_capture(invitation=fresh(issued), payload=payload_of(1), quality=None, at=NOW)
    invitations.decline(invitation=fresh(issued), at=NOW)
    enrollment.refresh_from_db()
    assert enrollment.state == Enrollment.State.CANCELLED
    person = issued.invitation.person
    assert not person.templates.exists() and not person.has_consent()
    assert fresh(issued).state_at(NOW) == Invitation.State.DECLINED
    assert "invitation.declined" in kinds(person)


def test_taking_a_link_back_stops_the_captures_under_way() -> None:
    issued = invited()
    invitations.agree(invitation=issued.invitation, text=ENGLISH, at=NOW)
    enrollment = invitations.begin(invitation=issued.invitation, at=NOW)
    invitations.revoke_invitation(invitation=issued.invitation, actor="desk", at=NOW)
    enrollment.refresh_from_db()
    assert enrollment.state == Enrollment.State.CANCELLED
    with refused("invitation_revoked"):
        invitations.take_capture(invitation=fresh(issued), payload=b"", quality=None, at=NOW)
    before = kinds()
    invitations.revoke_invitation(invitation=issued.invitation, actor="desk", at=NOW)
    assert kinds() == before


def test_own_words_are_the_persons_and_have_an_end() -> None:
    issued = invited()
    with refused("own_words_too_long"):
        invitations.agree(invitation=issued.invitation, text=ENGLISH, own_words="x" * 1001, at=NOW)
    assert not Consent.objects.exists()


def test_erasing_a_person_takes_the_invitations_along() -> None:
    issued = invited()
    invitations.agree(invitation=issued.invitation, text=ENGLISH, at=NOW)
    invitations.begin(invitation=issued.invitation, at=NOW)
    services.erase_person(person_id=issued.invitation.person_id, actor="desk", at=NOW)
    assert not Invitation.objects.exists()
    with refused("invitation_unknown"):
        invitations.open_invitation(token=issued.token, at=NOW)


# The guest's pages


def opened(issued: Issued, **headers: str) -> Client:
    client = Client(headers=headers)
    answer = client.post(reverse("invitation_open"), {"token": issued.token})
    assert answer.status_code == 302, answer.content.decode()
    return client


def test_the_page_of_a_link_is_the_same_for_everybody_and_tells_nobody_anything(now) -> None:
    invited()
    page = Client().get(reverse("invitation"))
    assert page.status_code == 200
    assert "Alice" not in page.content.decode()
    assert page["Cache-Control"].startswith("max-age=0")
    for name in ("invitation_profile", "invitation_progress", "invitation_captures"):
        assert "Alice" not in Client().get(reverse(name)).content.decode()


@pytest.mark.parametrize(
    ("changes", "status", "words"),
    [
        ({"expires_at": NOW}, 410, "This link has expired"),
        ({"used_at": NOW}, 410, "This invitation was used"),
        ({"revoked_at": NOW}, 410, "replaced or taken back"),
        ({"declined_at": NOW}, 410, "You declined"),
    ],
)
def test_a_link_that_has_ended_is_answered_kindly_in_both_languages(now, changes, status, words) -> None:
    issued = invited()
    Invitation.objects.filter(pk=issued.invitation.pk).update(**{"created_at": NOW - DAY, **changes})
    for language in ("en", "de"):
        client = Client(headers={"Accept-Language": f"{language}-AT,fr;q=0.5"})
        answer = client.post(reverse("invitation_open"), {"token": issued.token})
        expected = {"en": "Your invitation", "de": "Ihre Einladung"}[language]
        assert answer.status_code == status
        html = answer.content.decode()
        assert f'<html lang="{language}" dir="ltr">' in html and expected in html
        assert (words in html) == (language == "en")
        assert "Alice" not in html
        assert client.get(reverse("invitation")).status_code == 200  # no session came of it


def test_an_unknown_link_is_answered_kindly_too(now) -> None:
    answer = Client().post(reverse("invitation_open"), {"token": "A" * 43})
    assert answer.status_code == 404
    assert "This link does not work" in answer.content.decode()


def test_links_are_opened_at_a_persons_pace(now) -> None:
    issued = invited()
    client = Client()
    statuses = [
        client.post(reverse("invitation_open"), {"token": f"{number:043d}"}).status_code
        for number in range(25)
    ]
    assert statuses[:20] == [404] * 20
    assert statuses[20:] == [429] * 5
    blocked = client.post(reverse("invitation_open"), {"token": issued.token})
    assert blocked.status_code == 429
    elsewhere = Client(REMOTE_ADDR="198.51.100.7").post(reverse("invitation_open"), {"token": issued.token})
    assert elsewhere.status_code == 302


def test_every_change_needs_the_pages_own_token(now) -> None:
    issued = invited()
    client = Client(enforce_csrf_checks=True)
    assert client.post(reverse("invitation_open"), {"token": issued.token}).status_code == 403
    client.get(reverse("invitation"))
    cookie = client.cookies["lintel_csrf"].value
    good = client.post(reverse("invitation_open"), {"token": issued.token, "csrfmiddlewaretoken": cookie})
    assert good.status_code == 302
    assert client.post(reverse("invitation_consent"), yes_to()).status_code == 403
    assert client.post(reverse("invitation_captures"), b"LNTL", content_type=CAPTURE).status_code == 403
    assert not Consent.objects.exists()


def test_consent_comes_before_the_camera_and_a_missing_tick_is_no_consent(now) -> None:
    client = opened(invited())
    page = client.get(reverse("invitation"))
    html = page.content.decode()
    assert "Hello Alice Example" in html and ENGLISH.text.split("\n")[0] in html
    assert page["Content-Security-Policy"] == CONTENT_SECURITY_POLICY
    assert "camera=()" in page["Permissions-Policy"]
    untick = {**yes_to(), "agreed": "", "own_words": "Only <weekdays>"}
    answer = client.post(reverse("invitation_consent"), untick)
    assert answer.status_code == 422
    assert "Only &lt;weekdays&gt;" in answer.content.decode()
    assert not Consent.objects.exists()
    assert client.post(reverse("invitation_consent"), yes_to()).status_code == 302
    camera = client.get(reverse("invitation"))
    assert "camera=(self)" in camera["Permissions-Policy"]
    assert 'id="station"' in camera.content.decode()
    assert camera["Content-Security-Policy"] == CAMERA_SECURITY_POLICY


def test_the_language_a_guest_chose_is_the_language_of_the_consent(now) -> None:
    issued = invited()
    client = opened(issued, **{"Accept-Language": "en"})
    html = client.get(reverse("invitation"), {"language": "de"}).content.decode()
    assert "Guten Tag, Alice Example" in html
    assert f'name="version" value="{text_in("de").version}"' in html
    client.post(reverse("invitation_consent"), yes_to(text_in("de")))
    assert Consent.objects.get().language == "de"
    assert Consent.objects.get().text == text_in("de").text


def test_words_that_changed_while_they_were_read_are_read_again_before_anybody_agrees(
    now, monkeypatch
) -> None:
    """What counts is what was on the page. Its version carries a fingerprint, so other words are another version."""
    client = opened(invited())
    before = yes_to()
    reworded = replace(ENGLISH, text="I agree to more.", version="2026-11.00000000")
    english = replace(languages.reference(), consent=reworded)
    monkeypatch.setattr(languages, "known", lambda: (english,))
    answer = client.post(reverse("invitation_consent"), {**before, "own_words": "Only weekdays."})
    assert answer.status_code == 422
    html = answer.content.decode()
    assert "changed while you were reading" in html
    assert "I agree to more." in html and "Only weekdays." in html
    assert not Consent.objects.exists()
    assert client.post(reverse("invitation_consent"), yes_to(reworded)).status_code == 302
    assert Consent.objects.get().text == "I agree to more."


def test_two_tabs_in_two_languages_record_the_words_of_the_tab_that_agreed(now) -> None:
    client = opened(invited())
    client.get(reverse("invitation"), {"language": "de"})  # the other tab
    client.post(reverse("invitation_consent"), yes_to())
    consent = Consent.objects.get()
    assert (consent.language, consent.text, consent.version) == ("en", ENGLISH.text, ENGLISH.version)


def test_no_is_an_answer_too(now) -> None:
    issued = invited()
    client = opened(issued)
    answer = client.post(reverse("invitation_consent"), {"answer": "no"})
    assert answer.status_code == 200
    assert "another way in" in answer.content.decode()
    assert fresh(issued).state_at(NOW) == Invitation.State.DECLINED
    assert client.get(reverse("invitation")).status_code == 410


def consented(issued: Issued) -> Client:
    client = opened(issued)
    client.post(reverse("invitation_consent"), yes_to())
    assert client.get(reverse("invitation")).status_code == 200
    return client


def send(client: Client, payload: bytes) -> Any:
    return client.post(reverse("invitation_captures"), payload, content_type=CAPTURE)


def test_captures_need_an_invitation_that_is_open(now, worker) -> None:
    stranger = send(Client(), payload_of(1))
    assert stranger.status_code == 401
    assert stranger.json()["code"] == "authentication_missing"
    issued = invited()
    early = send(opened(issued), payload_of(1))
    assert (early.status_code, early.json()["code"]) == (404, "enrollment_unknown")
    client = consented(issued)
    assert send(client, payload_of(1)).status_code == 202
    invitations.revoke_invitation(invitation=fresh(issued), actor="desk", at=NOW)
    late = send(client, payload_of(1))
    assert (late.status_code, late.json()["code"]) == (409, "invitation_revoked")
    page = client.get(reverse("invitation"))
    assert page.status_code == 410
    assert "replaced or taken back" in page.content.decode()


@pytest.mark.parametrize(
    ("payload", "content_type", "status"),
    [
        (b"\xff\xd8\xff\xe0" + b"\x00" * 400, CAPTURE, 422),
        (b"LNTL" + struct.pack("<B3x32s", 1, b"\x00" * 32) + b"\x00" * 16, CAPTURE, 422),
        (b"\xff\xd8\xff\xe0" + b"\x00" * 400, "image/jpeg", 415),
        (b"x" * 300_001, CAPTURE, 413),
        (b"", CAPTURE, 415),
    ],
    ids=["a picture", "another profile", "a picture that says so", "too large", "nothing"],
)
def test_what_is_no_capture_is_refused(now, worker, payload, content_type, status) -> None:
    client = consented(invited())
    answer = client.post(reverse("invitation_captures"), payload, content_type=content_type)
    assert answer.status_code == status, answer.content
    assert answer["Content-Type"] == "application/problem+json"
    assert Enrollment.objects.get().captures_received == 0


def test_a_guest_is_never_told_whom_their_face_was_mistaken_for(
    now, enroll, django_capture_on_commit_callbacks
) -> None:
    enroll(somebody("Eve Elsewhere"), 1)
    issued = invited()
    client = consented(issued)
    for _ in range(3):
        with django_capture_on_commit_callbacks(execute=True):
            send(client, payload_of(1))
    told = client.get(reverse("invitation_captures"))
    assert told.json()["state"] == "duplicate_found"
    for page in (told, client.get(reverse("invitation_progress")), client.get(reverse("invitation"))):
        text = page.content.decode()
        assert "Eve" not in text and str(Person.objects.get(full_name="Eve Elsewhere").pk) not in text
    assert "The desk takes a last look" in client.get(reverse("invitation")).content.decode()
    assert fresh(issued).state_at(NOW) == Invitation.State.USED


def test_an_open_page_of_the_desk_and_a_guest_share_no_rights(now) -> None:
    client = opened(invited())
    for name in ("people", "invitations", "people_import", "dashboard"):
        answer = client.get(reverse(name))
        assert answer.status_code == 302 and answer["Location"].startswith(reverse("sign_in")), name


def test_a_desk_that_enrolls_the_guest_at_the_same_time_is_waited_for(now) -> None:
    issued = invited()
    client = opened(issued)
    client.post(reverse("invitation_consent"), yes_to())
    services.begin_enrollment(person=issued.invitation.person, actor="desk", at=NOW)
    page = client.get(reverse("invitation"))
    assert page.status_code == 410
    assert "The desk is enrolling you right now" in page.content.decode()


# The desk's pages


@pytest.fixture
def desk(db: None) -> Client:
    client = Client()
    client.force_login(make_user("erin", "enroller"), backend="django.contrib.auth.backends.ModelBackend")
    return client


def once_of(page: Any) -> str:
    found = re.search(r'name="once" value="([^"]+)"', page.content.decode())
    assert found is not None
    return found[1]


def test_a_file_is_looked_at_before_anything_happens_and_registered_once(now, desk) -> None:
    form = {"text": "name,email\nAda Example,ada@example.org\nBo Example,\n", "invite": "on", "days": "7"}
    preview = desk.post(reverse("people_import"), form)
    assert preview.status_code == 200
    assert "Register 2 people?" in preview.content.decode()
    assert not Person.objects.exists()
    go = {**form, "register": "yes", "once": once_of(preview)}
    links = desk.post(reverse("people_import"), go)
    found = re.findall(r'<code class="link-code">([^<]+)</code>', links.content.decode())
    assert len(found) == 2 and all(link.startswith("http://testserver/invitation/#") for link in found)
    assert links["Cache-Control"].startswith("max-age=0")
    again = desk.post(reverse("people_import"), go)  # somebody pressed reload
    assert again.status_code == 302
    assert Person.objects.count() == 2 and Invitation.objects.count() == 2
    token = found[0].partition("#")[2]
    assert invitations.open_invitation(token=token, at=NOW).expires_at == NOW + 7 * DAY


def test_errors_are_shown_by_line_and_nobody_is_registered(now, desk) -> None:
    form = {
        "text": "name,groups\nAda,Nowhere\n,\n",
        "invite": "on",
        "days": "7",
        "register": "yes",
        "once": "x",
    }
    page = desk.post(reverse("people_import"), form)
    assert page.status_code == 422
    html = page.content.decode()
    assert "Nobody was registered." in html and "column groups: there is no group “Nowhere”" in html
    assert not Person.objects.exists()


def test_a_file_from_a_spreadsheet_may_carry_a_byte_order_mark_or_be_refused(
    now, desk, tmp_path: Path
) -> None:
    good = tmp_path / "people.csv"
    good.write_bytes("\ufeffname;kind\r\nJörg Example;Visitor\r\n".encode())
    with good.open("rb") as file:
        page = desk.post(reverse("people_import"), {"file": file, "days": "7"})
    assert "Jörg Example" in page.content.decode() and "Visitor" in page.content.decode()
    bad = tmp_path / "latin.csv"
    bad.write_bytes(b"name\nJ\xf6rg\n")
    with bad.open("rb") as file:
        page = desk.post(reverse("people_import"), {"file": file, "days": "7"})
    assert page.status_code == 422 and "not UTF-8" in page.content.decode()
    assert desk.post(reverse("people_import"), {"days": "7"}).status_code == 422


def test_the_exported_links_hold_no_formula(now) -> None:
    person = somebody("=HYPERLINK(1)", consents=False)
    issued = invitations.issue_invitation(person=person, actor="desk", at=NOW, contact="@cmd")
    name, _, contact, _, link = roster.link_row(issued, base="https://doors.example.org")
    assert (name, contact) == ("'=HYPERLINK(1)", "'@cmd")
    assert link.endswith(issued.token)


def test_the_list_shows_where_each_invitation_stands_and_finds_one(now, desk) -> None:
    assert "Nobody is invited yet" in desk.get(reverse("invitations")).content.decode()
    first, second = invited("Ada Example"), invited("Bo Example")
    invitations.open_invitation(token=first.token, at=NOW)
    html = desk.get(reverse("invitations")).content.decode()
    assert "opened" in html and "not opened yet" in html
    assert first.token not in html
    found = desk.get(reverse("invitations"), {"q": "bo", "state": "sent"}).content.decode()
    assert "Bo Example" in found and "Ada Example" not in found
    nobody = desk.get(reverse("invitations"), {"q": "bo", "state": "used"}).content.decode()
    assert "No invitation fits" in nobody
    answer = desk.post(reverse("invitation_revoke", args=[second.invitation.pk]))
    assert answer.status_code == 302
    assert fresh(second).state_at(NOW) == Invitation.State.REVOKED
    assert Entry.objects.order_by("-index")[0].actor == "erin"


def test_one_person_is_invited_with_a_code_to_scan_and_a_second_link_replaces_the_first(now, desk) -> None:
    person = somebody("Ada Example", consents=False, email="ada@example.org")
    where = reverse("invitation_create", args=[person.pk])
    assert 'value="ada@example.org"' in desk.get(where).content.decode()
    shown = desk.post(where, {"contact": "ada@example.org", "days": "2"}).content.decode()
    assert "data:image/svg+xml;base64," in shown and "mailto:ada@example.org" in shown
    assert "There is an open link already" in desk.get(where).content.decode()
    desk.post(where, {"days": "2"})
    assert [row.state_at(NOW) for row in person.invitations.order_by("created_at", "revoked_at")].count(
        Invitation.State.REVOKED
    ) == 1
    assert desk.post(where, {"days": "900"}).status_code == 422


@pytest.mark.parametrize("role", ["guard", "auditor", "integrator"])
def test_invitations_are_the_desks_alone(now, role: str) -> None:
    issued = invited()
    client = Client()
    client.force_login(make_user(role, role), backend="django.contrib.auth.backends.ModelBackend")
    for name, arguments in (
        ("invitations", []),
        ("people_import", []),
        ("invitation_create", [issued.invitation.person_id]),
        ("invitation_revoke", [issued.invitation.pk]),
    ):
        assert client.post(reverse(name, args=arguments)).status_code == 403, name
    assert fresh(issued).is_open(NOW)


# The command


def test_the_command_writes_the_links_to_a_file_of_its_owner_alone(tmp_path, capsys, settings) -> None:
    settings.LINTEL_PUBLIC_URL = "https://doors.example.org"
    people, links = tmp_path / "people.csv", tmp_path / "links.csv"
    people.write_text("name,phone\nAda Example,+43 1 234567\n")
    call_command("import_people", str(people), dry_run=True)
    assert "1 people can be registered" in capsys.readouterr().out and not Person.objects.exists()
    call_command("import_people", str(people), invite=links, days=3)
    assert links.stat().st_mode & 0o777 == 0o600
    with links.open(newline="") as file:
        [row] = list(csv.DictReader(file))
    token = row["link"].removeprefix("https://doors.example.org/invitation/#")
    assert Invitation.objects.get(token_hash=invitations._hash(token)).person.full_name == row["name"]
    with pytest.raises(CommandError, match="cannot be written"):
        call_command("import_people", str(people), invite=links)  # a file of links is never overwritten
    assert Person.objects.count() == 1
    people.write_text("name,groups\nBo,Nowhere\n")
    with pytest.raises(CommandError, match="nobody was imported"):
        call_command("import_people", str(people), invite=tmp_path / "more.csv")
    assert not (tmp_path / "more.csv").exists()
