"""People by hand, by file, and the words one searches them with."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from django.core.management import CommandError, call_command

from enrollment import services
from enrollment.models import Person
from enrollment.services import EnrollmentRefused
from tests.enrollment.support import CONSENT, DAY, NOW, somebody

pytestmark = pytest.mark.django_db


def test_a_person_is_registered_with_an_audit_entry(recorded):
    alice = services.register_person(full_name="  Alice   Example ", external_id="", actor="hr", at=NOW)
    assert (alice.full_name, alice.external_id, alice.valid_from) == ("Alice Example", None, NOW)
    assert recorded[-1]["kind"] == "person.registered"
    assert recorded[-1]["subject"] == services.audit_subject(alice.id)
    assert "Alice" not in str(recorded[-1]["details"])
    assert recorded[-1]["personal"]["full_name"] == "Alice Example"


@pytest.mark.parametrize(
    "wrong",
    [
        {"full_name": " "},
        {"full_name": "x" * 201},
        {"full_name": "Alice", "email": "not an address"},
        {"full_name": "Alice", "kind": "robot"},
        {"full_name": "Alice", "valid_from": NOW, "valid_until": NOW},
    ],
)
def test_a_person_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(EnrollmentRefused) as refusal:
        services.register_person(**wrong, actor="hr", at=NOW)
    assert refusal.value.code == "person_invalid"
    assert not Person.objects.exists()


def test_an_external_id_belongs_to_one_person():
    somebody("Alice", external_id="7")
    bob = somebody("Bob")
    with pytest.raises(EnrollmentRefused) as refusal:
        services.register_person(full_name="Carla", external_id="7", actor="hr", at=NOW)
    assert refusal.value.code == "external_id_taken"
    with pytest.raises(EnrollmentRefused) as refusal:
        services.update_person(person=bob, changes={"external_id": "7"}, actor="hr", at=NOW)
    assert refusal.value.code == "external_id_taken"


def test_an_update_records_which_fields_changed(recorded):
    alice = somebody("Alice")
    services.update_person(
        person=alice, changes={"full_name": "Alice", "email": "a@example.org"}, actor="hr", at=NOW
    )
    assert recorded[-1]["details"] == {"fields": ["email"]}
    before = len(recorded)
    services.update_person(person=alice, changes={"email": "a@example.org"}, actor="hr", at=NOW)
    assert len(recorded) == before
    with pytest.raises(ValueError, match="not fields of a person"):
        services.update_person(person=alice, changes={"id": "x"}, actor="hr", at=NOW)


def test_a_newer_consent_takes_the_place_of_the_older_which_is_kept():
    alice = somebody()
    services.record_consent(person=alice, **CONSENT | {"version": "2027-01"}, actor="desk", at=NOW + DAY)
    newer, older = alice.consents.all()
    assert (newer.version, newer.withdrawn_at) == ("2027-01", None)
    assert older.withdrawn_at == NOW + DAY


@pytest.mark.parametrize(
    "wrong", [{"text": ""}, {"version": ""}, {"method": "telepathy"}, {"given_at": NOW + DAY}]
)
def test_a_consent_that_proves_nothing_is_refused(wrong):
    with pytest.raises(EnrollmentRefused) as refusal:
        services.record_consent(person=somebody(consents=False), **CONSENT | wrong, actor="desk", at=NOW)
    assert refusal.value.code == "consent_invalid"


def test_people_are_found_by_every_word_and_listed_with_their_status():
    alice = somebody("Alice Example", external_id="E-7")
    somebody("Bob Example", consents=False)
    assert list(Person.objects.matching("exam ALI")) == [alice]
    assert list(Person.objects.matching("e-7")) == [alice]
    assert Person.objects.matching("").count() == 2
    listed = {person.full_name: person.has_consent_now for person in Person.objects.with_status()}
    assert listed == {"Alice Example": True, "Bob Example": False}
    assert not any(person.is_enrolled_now for person in Person.objects.with_status())


def write(folder, text):
    file = folder / "people.csv"
    file.write_text(text, encoding="utf-8")
    return str(file)


def test_a_file_of_people_is_imported(tmp_path, capsys):
    file = write(
        tmp_path,
        "\ufefffull_name,external_id,email,kind,valid_from,valid_until\n"
        "Alice Example,E-7,alice@example.org,employee,2026-01-01,\n"
        '"Example, Bob",,,visitor,2026-11-24T08:00:00+01:00,2099-11-25\n',
    )
    call_command("import_people", file)
    assert "2 people registered" in capsys.readouterr().out
    bob = Person.objects.get(full_name="Example, Bob")
    assert bob.valid_from == datetime(2026, 11, 24, 7, tzinfo=UTC)
    assert (bob.kind, bob.external_id) == ("visitor", None)


def test_one_wrong_line_imports_nobody_and_every_wrong_line_is_named(tmp_path, capsys):
    somebody("Zoe", external_id="E-1")
    file = write(
        tmp_path,
        "full_name,external_id,kind,valid_until\n"
        "Alice,E-7,,\n"
        "Bob,E-1,,\n"
        ",E-8,,\n"
        "Carla,E-7,,\n"
        "Dora,,robot,\n"
        "Erik,,,next week\n"
        "Frida,,,,too,many\n",
    )
    with pytest.raises(CommandError, match="6 lines are wrong; nobody was imported"):
        call_command("import_people", file)
    said = capsys.readouterr().err
    for line, reason in [
        (3, "E-1"),
        (4, "blank"),
        (5, "in line 2 already"),
        (6, "robot"),
        (7, "next week"),
        (8, "more values"),
    ]:
        assert any(
            row.startswith((f"Line {line}:", f"Line {line},")) and reason in row for row in said.splitlines()
        ), (
            line,
            said,
        )
    assert [person.full_name for person in Person.objects.all()] == ["Zoe"]


@pytest.mark.parametrize("text", ["", "forename\nAlice\n", "full_name,pin\nAlice,1234\n"])
def test_a_file_with_other_columns_is_refused(tmp_path, text):
    with pytest.raises(CommandError):
        call_command("import_people", write(tmp_path, text))
    assert not Person.objects.exists()


def test_a_file_that_is_not_there_or_not_text_is_refused(tmp_path):
    with pytest.raises(CommandError, match="cannot be read"):
        call_command("import_people", str(tmp_path / "missing.csv"))
    (tmp_path / "people.csv").write_bytes(b"full_name\nJ\xf6rg\n")
    with pytest.raises(CommandError, match="not UTF-8"):
        call_command("import_people", str(tmp_path / "people.csv"))
