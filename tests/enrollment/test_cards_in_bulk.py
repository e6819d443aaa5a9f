"""Cards for many people at once: from a file, where one wrong line stops them all, and from another system's API."""

from __future__ import annotations

import csv
import io
import json
import re
from typing import Any
from urllib.parse import unquote
from zoneinfo import ZoneInfo

import pytest
from django.core.management import CommandError, call_command
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from accesscontrol import services as access
from accesscontrol.models import Scope
from audit.models import Entry
from enrollment import proofs, roster, services
from enrollment.models import Card, Person, Pin
from enrollment.services import EnrollmentRefused
from tests.enrollment.support import NOW, somebody
from tests.pages.support import make_user

pytestmark = pytest.mark.django_db

NUMBER, OTHER, THIRD = "0048151623", "0048151624", "A1B2C3D4"


def read(text: str) -> roster.Roster:
    return roster.read_roster(text.splitlines(keepends=True), zone=ZoneInfo("Europe/Vienna"), at=NOW)


def register(text: str) -> list[roster.Registered]:
    return roster.register_roster(roster=read(text), actor="desk", at=NOW)


def everything_written() -> str:
    """All that the log holds, personal fields included."""
    return "".join(
        json.dumps({key: str(value) for key, value in vars(entry).items()}) for entry in Entry.objects.all()
    )


# From a file


def test_people_get_their_cards_with_the_rest_of_their_row_and_the_number_is_kept_nowhere() -> None:
    done = register(f"Name;Card number\nAda Example;0048-1516 23\nBo Example;\nCy Example;{THIRD.lower()}\n")
    ada, bo, cy = (each.person for each in done)
    for person, number in ((ada, NUMBER), (cy, THIRD)):
        found = proofs.find_card(number)
        assert found is not None and found.person == person
        assert (found.added_by, found.ends_with) == ("desk", number[-4:])
    assert not bo.cards.exists()
    added = Entry.objects.filter(kind="person.card_added")
    assert {entry.subject for entry in added} == {services.audit_subject(one.pk) for one in (ada, cy)}
    imported = Entry.objects.get(kind="people.imported")
    assert json.loads(imported.details_json)["cards"] == 2
    for number in (NUMBER, THIRD):
        assert number not in everything_written()
        assert number not in str(list(Card.objects.values())) and number not in repr(done)


@pytest.mark.parametrize(
    ("cell", "sentence"),
    [
        ("1234567", "a card number has 8 to 32 digits or letters, and this one has 7."),
        ("1" * 33, "a card number has 8 to 32 digits or letters, and this one has 33."),
        ("00481516€3", "“€” is neither a digit nor a letter, and a card number has nothing else."),
        ("٠٠٤٨١٥١٦", "“٠” is neither a digit nor a letter, and a card number has nothing else."),
        ("4.81516E+09", "a spreadsheet rounded this number and its digits are lost"),
        ("4,8E+11", "a spreadsheet rounded this number and its digits are lost"),
        (OTHER, "this card is in use already."),
        ("0048-1516 24", "this card is in use already."),
    ],
)
def test_what_is_wrong_with_a_card_is_said_by_line_and_column_in_one_sentence(
    cell: str, sentence: str
) -> None:
    proofs.add_card(person=somebody("Zoe"), number=OTHER, actor="desk", at=NOW)
    found = read(f'name,Card number\nAda Example,"{cell}"\nBo Example,{THIRD}\n')
    [error] = found.errors
    assert error.sentence.startswith(f"Line 2, column Card number: {sentence.rstrip('.')}")
    assert error.sentence.endswith(".") and error.sentence.count("\n") == 0
    assert error.value == f"…{cell.replace(' ', '').replace('-', '')[-4:]}"
    assert [row.person["full_name"] for row in found.rows] == ["Bo Example"]
    with pytest.raises(roster.RosterRefused):
        roster.register_roster(roster=found, actor="desk", at=NOW)
    assert Person.objects.count() == 1 and Card.objects.count() == 1


def test_a_blocked_card_is_in_use_too() -> None:
    card = proofs.add_card(person=somebody("Zoe"), number=NUMBER, actor="desk", at=NOW)
    proofs.block_card(card=card, actor="guard", at=NOW)
    [error] = read(f"name,card\nAda Example,{NUMBER}\n").errors
    assert error.sentence == "Line 2, column card: this card is in use already."


def test_one_card_for_two_people_is_an_error_at_the_second() -> None:
    found = read(f"name,card\nAda Example,{NUMBER}\nBo Example,0048 151623\nCy Example,{THIRD}\n")
    assert [error.sentence for error in found.errors] == [
        "Line 3, column card: this card stands in line 2 already."
    ]


def test_everything_that_is_wrong_with_a_row_is_said_at_once_in_the_order_of_its_columns() -> None:
    somebody("Zoe", external_id="E-1")
    found = read("card,name,reference,email,valid_until\n12,,E-1,nobody,soon\nfine-4711-x,Bo,,,\n")
    assert [(error.line, error.column, error.value) for error in found.errors] == [
        (2, "card", "…12"),
        (2, "name", ""),
        (2, "reference", "E-1"),
        (2, "email", "nobody"),
        (2, "valid_until", "soon"),
    ]


@pytest.mark.parametrize("header", ["pin", "PIN", "Pin code"])
def test_a_pin_is_never_imported(header: str) -> None:
    found = read(f"name,{header}\nAda Example,730519\n")
    [error] = found.errors
    assert error.sentence.startswith(f"Line 1, column {header}: PINs are never imported")
    assert not Pin.objects.exists() and not Person.objects.exists()


def test_a_card_that_somebody_got_between_the_look_and_the_deed_undoes_the_whole_file() -> None:
    found = read(f"name,card\nAda Example,{THIRD}\nBo Example,{NUMBER}\n")
    assert found.is_good
    proofs.add_card(person=somebody("Zoe"), number=NUMBER, actor="desk", at=NOW)
    before = Entry.objects.count()
    with pytest.raises(roster.RosterRefused) as refusal:
        roster.register_roster(roster=found, actor="desk", at=NOW)
    assert [error.sentence for error in refusal.value.errors] == [
        "Line 3, column card: this card is in use already."
    ]
    assert [person.full_name for person in Person.objects.all()] == ["Zoe"]
    assert Card.objects.count() == 1 and Entry.objects.count() == before


def test_the_command_says_the_same_sentences_and_gives_the_same_cards(tmp_path, capsys) -> None:
    people = tmp_path / "people.csv"
    people.write_text(f"name,card\nAda Example,{NUMBER}\nBo Example,123\n")
    with pytest.raises(CommandError, match="nobody was imported"):
        call_command("import_people", str(people))
    assert "Line 3, column card: a card number has 8 to 32" in capsys.readouterr().err
    assert not Person.objects.exists()
    people.write_text(f"name,card\nAda Example,{NUMBER}\n")
    call_command("import_people", str(people))
    assert Card.objects.get().person.full_name == "Ada Example"


# The page


@pytest.fixture
def desk() -> Client:
    client = Client()
    client.force_login(make_user("erin", "enroller"), backend="django.contrib.auth.backends.ModelBackend")
    return client


def test_the_page_lists_every_error_and_gives_them_as_a_file_that_holds_no_formula(desk) -> None:
    text = f"name,card,groups\nAda Example,{NUMBER},=cmd\nBo Example,{NUMBER},\n"
    page = desk.post(reverse("people_import"), {"text": text, "days": "7"})
    assert page.status_code == 422
    html = page.content.decode()
    assert (
        "2 lines need a change" in html and "Line 3, column card: this card stands in line 2 already." in html
    )
    shown = html.partition("<textarea")[0]
    assert NUMBER not in shown and "…1623" in shown
    assert (
        html.count("data-focus") == 1
        and 'data-line="2"' in html.partition("data-focus")[0].rpartition("<a ")[2]
    )
    address = shown.partition('href="data:text/csv;charset=utf-8,')[2].partition('"')[0]
    rows = list(csv.DictReader(io.StringIO(unquote(address).removeprefix("\ufeff"))))
    assert [(row["line"], row["column"], row["value"]) for row in rows] == [
        ("2", "groups", "'=cmd"),
        ("3", "card", "…1623"),
    ]
    assert rows[1]["problem"] == "Line 3, column card: this card stands in line 2 already."
    assert not Person.objects.exists()


@pytest.mark.parametrize("before", [";", "x;", "x\n", "x;;\t", "x\r"])
@pytest.mark.parametrize("sign", ["=", "+", "-", "@"])
def test_no_formula_stands_behind_what_a_spreadsheet_may_take_for_a_cells_end(before: str, sign: str) -> None:
    cells = roster.error_row(roster.RowError(2, "no", "phone", f"{before}{sign}cmd|'/C calc'!A0;"))
    pieces = [piece for cell in cells for piece in re.split(r"[;\t\r\n]", cell)]
    assert "'" + sign in cells[2] and not any(piece.startswith(("=", "+", "-", "@")) for piece in pieces)


def test_a_comma_too_many_shows_no_number_of_a_card() -> None:
    [error] = read(f"name,card\nExample, Ada,{NUMBER}\n").errors
    assert (error.message, error.value) == ("there are more values than columns", "")
    [error] = read("name,kind\nExample, Ada,visitor\n").errors
    assert error.value == "visitor"


def test_the_page_shows_the_end_of_each_card_before_anything_happens(desk) -> None:
    page = desk.post(reverse("people_import"), {"text": f"name,card\nAda Example,{NUMBER}\n", "days": "7"})
    assert page.status_code == 200
    html = page.content.decode()
    assert "<code>…1623</code>" in html and not Card.objects.exists()
    assert NUMBER not in html.replace(f"Ada Example,{NUMBER}", "", 1)  # but in the rows that are sent again


def test_a_long_list_of_errors_is_cut_on_the_page_and_whole_in_the_file(desk, monkeypatch) -> None:
    monkeypatch.setattr("enrollment.invitation_views.MOST_ERRORS_SHOWN", 2)
    page = desk.post(reverse("people_import"), {"text": "name,card\n" + "A,1\n" * 5, "days": "7"})
    html = page.content.decode()
    assert html.count("data-line=") == 2
    assert "3 more stand in the file of errors." in html and "Download 5 errors as CSV" in html


# From another system


def system(*scopes: str, name: str = "HR") -> Client:
    _, token = access.create_api_token(name=name, scopes=list(scopes), actor="admin", at=timezone.now())
    return Client(headers={"Authorization": f"Bearer {token}"})


def cards_of(person: Person) -> str:
    return f"/api/v1/people/{person.pk}/cards"


def put(client: Client, person: Person, number: Any) -> Any:
    return client.put(cards_of(person), {"number": number}, content_type="application/json")


def kinds_about(person: Person) -> list[tuple[str, str]]:
    entries = Entry.objects.filter(subject=services.audit_subject(person.pk), kind__startswith="person.card")
    return list(entries.order_by("index").values_list("kind", "actor"))


def test_a_system_sets_replaces_and_removes_a_persons_card_and_each_is_in_the_log() -> None:
    hr, ada = system(Scope.PEOPLE_READ, Scope.PEOPLE_WRITE), somebody("Ada Example")
    first = put(hr, ada, "0048-151623")
    assert first.status_code == 200, first.content
    assert (first.json()["ends_with"], first.json()["added_by"]) == ("1623", "token:HR")
    assert put(hr, ada, NUMBER).json() == first.json()  # again: nothing happens
    second = put(hr, ada, OTHER)
    assert second.json()["id"] != first.json()["id"]
    assert hr.get(cards_of(ada)).json() == [second.json()]
    assert proofs.find_card(NUMBER) is None
    for _ in range(2):
        assert hr.delete(cards_of(ada)).status_code == 204
    assert hr.get(cards_of(ada)).json() == []
    assert kinds_about(ada) == [
        ("person.card_added", "token:HR"),
        ("person.card_removed", "token:HR"),
        ("person.card_added", "token:HR"),
        ("person.card_removed", "token:HR"),
    ]
    answers = first.content + second.content
    assert NUMBER.encode() not in answers and NUMBER not in everything_written()


def test_a_lost_card_stays_blocked_whatever_a_system_sets() -> None:
    hr, ada = system(Scope.PEOPLE_READ, Scope.PEOPLE_WRITE), somebody("Ada Example")
    lost = proofs.add_card(person=ada, number=NUMBER, actor="desk", at=NOW)
    proofs.block_card(card=lost, actor="guard", at=NOW)
    again = put(hr, ada, NUMBER)
    assert (again.status_code, again.json()["code"]) == (409, "card_blocked")
    assert put(hr, ada, OTHER).status_code == 200
    assert hr.delete(cards_of(ada)).status_code == 204
    [left] = hr.get(cards_of(ada)).json()
    assert left["id"] == str(lost.pk) and left["blocked_at"] is not None


@pytest.mark.parametrize(
    ("number", "status", "code"),
    [
        ("1234567", 422, "card_malformed"),
        ("0048€51623", 422, "card_malformed"),
        ("", 400, "invalid"),
        (None, 400, "invalid"),
        ("x" * 65, 400, "invalid"),
        (["0048151623"], 400, "invalid"),
        (48151623, 400, "invalid"),  # 0048151623, once
        (-48151623, 400, "invalid"),
        ("ſ0048151623", 422, "card_malformed"),  # a capital S, to Unicode
        (OTHER, 409, "card_taken"),
    ],
)
def test_a_number_that_will_not_do_is_refused_as_a_problem_that_does_not_repeat_it(
    number: Any, status: int, code: str
) -> None:
    hr, ada = system(Scope.PEOPLE_READ, Scope.PEOPLE_WRITE), somebody("Ada Example")
    proofs.add_card(person=somebody("Zoe"), number=OTHER, actor="desk", at=NOW)
    proofs.add_card(person=ada, number=NUMBER, actor="desk", at=NOW)
    answer = put(hr, ada, number)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer["Content-Type"] == "application/problem+json"
    assert not number or str(number) not in answer.content.decode()
    assert [card.ends_with for card in ada.cards.all()] == ["1623"]  # the old one was not taken back


def test_who_may_only_read_sets_no_card_and_a_person_who_is_not_there_has_none() -> None:
    ada, reader = somebody("Ada Example"), system(Scope.PEOPLE_READ)
    assert reader.get(cards_of(ada)).status_code == 200
    assert put(reader, ada, NUMBER).status_code == 403
    assert reader.delete(cards_of(ada)).status_code == 403
    assert put(Client(), ada, NUMBER).status_code == 401
    assert not Card.objects.exists()
    writer = system(Scope.PEOPLE_WRITE, name="Payroll")
    services.erase_person(person_id=ada.pk, actor="desk", at=NOW)
    assert put(writer, ada, NUMBER).json()["code"] == "not_found"
    with pytest.raises(EnrollmentRefused, check=lambda error: error.code == "person_unknown"):
        proofs.set_card(person=ada, number=NUMBER, actor="desk", at=NOW)
