"""The log in a real database: recording, refusing change, naming every tampering, forgetting people."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.contenttypes.models import ContentType
from django.db import DatabaseError, connection, transaction

from audit import services, triggers
from audit.chain import CompactRange, entry_leaf, verify_consistency, verify_inclusion
from audit.models import Checkpoint, Entry, PersonalField
from audit.note import CheckpointText, open_checkpoint
from audit.verification import Report, What

AT = datetime(2026, 11, 24, 9, tzinfo=UTC)
COVERED, LENGTH = 8, 12  # a checkpoint covers the first eight of twelve entries
BOB = "person:b0b"


def record(index: int, **changes: Any) -> Entry:
    given: dict[str, Any] = {
        "kind": "door.changed",
        "actor": "ada",
        "at": AT + timedelta(minutes=index),
        "subject": f"door:{index}",
        "details": {"name": f"Door {index}", "number": index, "score": 0.25},
    }
    return services.record(**{**given, **changes})


@pytest.fixture
def log(db: None) -> None:
    for index in range(COVERED):
        record(index)
    services.checkpoint(AT + timedelta(hours=1))
    for index in range(COVERED, LENGTH):
        record(index)


# Recording


def test_an_entry_has_the_next_index_and_reads_as_it_was_written(log: None) -> None:
    entry = services.record(
        kind="person.registered",
        actor="ada",
        at=AT,
        subject=BOB,
        details={"kind": "visitor"},
        personal={"full_name": "Bob"},
    )
    found = Entry.objects.get(index=LENGTH)
    assert found == entry
    assert (found.kind, found.actor, found.subject, found.at) == ("person.registered", "ada", BOB, AT)
    assert found.details == {"kind": "visitor"}
    assert found.commitments.keys() == {"full_name"}
    assert services.open_personal(found) == {"full_name": "Bob"}
    assert found.leaf == entry_leaf(found.as_object())


def test_a_whole_log_verifies(log: None) -> None:
    services.record(kind="person.registered", actor="ada", at=AT, subject=BOB, personal={"full_name": "Bob"})
    report = services.verify_all()
    assert report.ok, report.problems
    assert (report.entries, report.checkpoints, report.covered, report.personal_fields) == (13, 1, COVERED, 1)
    assert report.root == bytes(Entry.objects.get(index=LENGTH).root)


def test_an_empty_log_verifies_and_can_be_signed(db: None) -> None:
    assert services.verify_all().ok
    assert services.checkpoint(AT).size == 0
    assert services.verify_all().ok


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "nodots"},
        {"kind": "Upper.case"},
        {"kind": "a." + "b" * 64},
        {"actor": ""},
        {"actor": "a" * 201},
        {"subject": "\x00"},
        {"details": {"picture": b"bytes"}},
        {"details": {"score": float("nan")}},
        {"at": datetime(2026, 11, 24)},  # noqa: DTZ001
    ],
)
def test_what_an_entry_cannot_carry_is_refused_and_nothing_is_written(
    db: None, changes: dict[str, Any]
) -> None:
    with pytest.raises((ValueError, TypeError)):
        record(0, **changes)
    assert not Entry.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_an_effect_whose_entry_failed_cannot_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "_tree", lambda size: CompactRange(4, [bytes(32)]))  # leaves a gap
    with transaction.atomic():
        Checkpoint.objects.create(number=0, at=AT, size=0, root=bytes(32), key_id="k", note="the effect")
        with pytest.raises(DatabaseError):
            record(0)
    assert not Checkpoint.objects.exists()


def test_every_hundredth_entry_brings_a_checkpoint(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "CHECKPOINT_EVERY", 5)
    for index in range(11):
        record(index)
    assert list(Checkpoint.objects.values_list("number", "size")) == [(0, 5), (1, 10)]
    assert services.verify_all().covered == 10


@pytest.mark.database
@pytest.mark.django_db(transaction=True)
def test_workers_that_record_at_once_leave_no_gap_and_no_fork() -> None:
    workers, each = 4, 8
    failures: list[BaseException] = []

    def work(worker: int) -> None:
        try:
            for number in range(each):
                with transaction.atomic():
                    record(number, actor=f"worker:{worker}", details={"number": number})
        except BaseException as error:
            failures.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not failures
    assert list(Entry.objects.values_list("index", flat=True)) == list(range(workers * each))
    for worker in range(workers):
        own = [entry.details["number"] for entry in services.find_entries(actor=f"worker:{worker}")]
        assert own == list(range(each))
    assert services.verify_all().ok


# Change is refused


REFUSED = {
    "changing an entry": "UPDATE audit_entry SET actor = 'eve' WHERE \"index\" = 3",
    "removing an entry": 'DELETE FROM audit_entry WHERE "index" = 3',
    "removing all": "DELETE FROM audit_entry",
    "changing a checkpoint": "UPDATE audit_checkpoint SET size = 5",
    "removing a checkpoint": "DELETE FROM audit_checkpoint",
    "an entry that leaves a gap": (
        'INSERT INTO audit_entry ("index", at, kind, actor, subject, details, commitments, hashes, root)'
        ' SELECT 50, at, kind, actor, subject, details, commitments, hashes, root FROM audit_entry WHERE "index" = 3'
    ),
    "an entry in the place of another": (
        'INSERT INTO audit_entry ("index", at, kind, actor, subject, details, commitments, hashes, root)'
        ' SELECT 2, at, kind, actor, subject, details, commitments, hashes, root FROM audit_entry WHERE "index" = 3'
    ),
}
REFUSED_BY_VENDOR = {
    "sqlite": {
        "replacing an entry": REFUSED["an entry in the place of another"].replace(
            "INSERT", "INSERT OR REPLACE"
        ),
    },
    "postgresql": {
        "truncating": "TRUNCATE audit_entry CASCADE",
        "truncating checkpoints": "TRUNCATE audit_checkpoint",
    },
}


@pytest.mark.database
def test_the_database_refuses(log: None) -> None:
    for name, statement in {**REFUSED, **REFUSED_BY_VENDOR[connection.vendor]}.items():
        connection.check_constraints()
        with pytest.raises(DatabaseError) as refusal, transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(statement)
        assert "append-only" in str(refusal.value) or "without gaps" in str(refusal.value), name
    assert services.verify_all().ok


# Tampering is named


def run(statement: str, *parameters: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)


@pytest.fixture
def intruder(log: None) -> Iterator[None]:
    """May write into the database and has dropped the triggers."""
    connection.check_constraints()
    triggers.dangerously_remove(connection)
    yield


def shift(first: int, by: int) -> None:
    """Renumbers the entries from `first` on, one by one, as the primary key demands."""
    indexes = Entry.objects.filter(index__gte=first).order_by("-index" if by > 0 else "index")
    for index in list(indexes.values_list("index", flat=True)):
        run('UPDATE audit_entry SET "index" = %s WHERE "index" = %s', index + by, index)


def copy(source: int, target: int) -> None:
    entry = Entry.objects.get(index=source)
    entry.index = target
    entry.save(force_insert=True)


def swap(one: int, other: int) -> None:
    for source, target in ((one, 1000), (other, one), (1000, other)):
        run('UPDATE audit_entry SET "index" = %s WHERE "index" = %s', target, source)


def swap_contents(one: int, other: int) -> None:
    first, second = Entry.objects.get(index=one), Entry.objects.get(index=other)
    for entry, index in ((first, other), (second, one)):
        Entry.objects.filter(index=index).update(
            at=entry.at,
            kind=entry.kind,
            actor=entry.actor,
            subject=entry.subject,
            details_json=entry.details_json,
        )


def recompute(first: int, last: int | None = None, *, roots: bool = True) -> None:
    """What a skilled intruder does: makes the hashes from `first` to `last` fit the content again."""
    tree = CompactRange()
    for entry in Entry.objects.order_by("index"):
        completed = tree.append(entry_leaf(entry.as_object()))
        if entry.index >= first and (last is None or entry.index <= last):
            changes = {"hashes": b"".join(completed)} | ({"root": tree.root()} if roots else {})
            Entry.objects.filter(index=entry.index).update(**changes)


def change(index: int, **values: Any) -> None:
    Entry.objects.filter(index=index).update(**values)


def edit(index: int) -> None:
    change(index, actor="eve")


def both(*steps: Callable[[], None]) -> Callable[[], None]:
    def do() -> None:
        for step in steps:
            step()

    return do


def drop(index: int) -> None:
    run('DELETE FROM audit_entry WHERE "index" = %s', index)


TAMPERING: dict[str, tuple[Callable[[], None], What, int]] = {
    "the actor of entry 5 edited": (lambda: edit(5), What.EDITED, 5),
    "the first entry edited": (lambda: edit(0), What.EDITED, 0),
    "the last entry edited": (lambda: edit(11), What.EDITED, 11),
    "the details of entry 5 edited": (
        lambda: run('UPDATE audit_entry SET details = %s WHERE "index" = 5', '{"name":"Back door"}'),
        What.EDITED,
        5,
    ),
    "the details of entry 5 written with spaces": (
        lambda: run("UPDATE audit_entry SET details = REPLACE(details, ':', ': ') WHERE \"index\" = 5"),
        What.EDITED,
        5,
    ),
    "the details of entry 5 made unreadable": (
        lambda: run('UPDATE audit_entry SET details = %s WHERE "index" = 5', "{nonsense"),
        What.EDITED,
        5,
    ),
    "the time of entry 5 moved by a microsecond": (
        lambda: change(5, at=AT + timedelta(minutes=5, microseconds=1)),
        What.EDITED,
        5,
    ),
    "the subject of entry 5 emptied": (lambda: change(5, subject=""), What.EDITED, 5),
    "the kind of entry 5 edited": (lambda: change(5, kind="a.b"), What.EDITED, 5),
    "the root of entry 0 edited": (lambda: change(0, root=bytes(32)), What.EDITED, 0),
    "the root of entry 5 edited": (lambda: change(5, root=bytes(32)), What.EDITED, 5),
    "a stored node of entry 5 edited": (
        lambda: change(5, hashes=Entry.objects.get(index=5).leaf + bytes(32)),
        What.EDITED,
        5,
    ),
    "entries 5 and 9 edited": (both(lambda: edit(9), lambda: edit(5)), What.EDITED, 5),
    "entry 5 edited, its leaf recomputed": (
        both(lambda: edit(5), lambda: recompute(5, 5, roots=False)),
        What.EDITED,
        5,
    ),
    "entry 5 edited, its leaf and root recomputed": (both(lambda: edit(5), lambda: recompute(5, 5)), What.EDITED, 6),
    "entry 5 dropped": (lambda: drop(5), What.DROPPED, 5),
    "entries 5 and 6 dropped": (both(lambda: drop(5), lambda: drop(6)), What.DROPPED, 5),
    "entry 0 dropped": (lambda: drop(0), What.DROPPED, 0),
    "entry 5 dropped and the rest moved up": (both(lambda: drop(5), lambda: shift(6, -1)), What.DROPPED, 5),
    "a copy of entry 2 inserted at 5": (both(lambda: shift(5, 1), lambda: copy(2, 5)), What.INSERTED, 5),
    "a false entry inserted at 5": (
        both(lambda: shift(5, 1), lambda: copy(2, 5), lambda: edit(5)),
        What.INSERTED,
        5,
    ),
    "a false entry inserted at 5 with the right hashes": (
        both(lambda: shift(5, 1), lambda: copy(2, 5), lambda: edit(5), lambda: recompute(5, 5)),
        What.INSERTED,
        5,
    ),
    "a false entry inserted at 5 and all leaves recomputed": (
        both(
            lambda: shift(5, 1), lambda: copy(2, 5), lambda: edit(5),
            lambda: recompute(5, 5), lambda: recompute(6, roots=False),
        ),
        What.INSERTED,
        5,
    ),
    "entries 3 and 9 swapped": (lambda: swap(3, 9), What.REORDERED, 3),
    "the neighbours 5 and 6 swapped": (lambda: swap(5, 6), What.REORDERED, 5),
    "the last two swapped": (lambda: swap(10, 11), What.REORDERED, 10),
    "the contents of 3 and 9 swapped": (lambda: swap_contents(3, 9), What.REORDERED, 3),
    "entries 3 and 9 swapped and leaves recomputed": (
        both(lambda: swap(3, 9), lambda: recompute(3, roots=False)),
        What.REORDERED,
        3,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("tamper", "what", "index"), TAMPERING.values(), ids=TAMPERING.keys())
def test_named_at_its_place(intruder: None, tamper: Callable[[], None], what: What, index: int) -> None:
    tamper()
    report = services.verify_all()
    assert report.first is not None
    assert (report.first.what, report.first.index) == (what, index), report.first
    assert report.entries <= index + 1
    assert report.covered == (COVERED if index >= COVERED else 0)


def test_a_log_rewritten_with_every_hash_is_betrayed_by_the_checkpoint(intruder: None) -> None:
    edit(5)
    recompute(0)
    first = services.verify_all().first
    assert first is not None
    assert (first.what, first.index, first.until, first.checkpoint) == (What.REWRITTEN, 0, COVERED, 0)


def test_entries_cut_off_the_end_are_betrayed_by_the_checkpoint(intruder: None) -> None:
    for index in range(6, LENGTH):
        drop(index)
    first = services.verify_all().first
    assert first is not None
    assert (first.what, first.index, first.until) == (What.DROPPED, 6, COVERED)


def test_a_log_rewritten_with_its_checkpoints_is_betrayed_by_one_kept_elsewhere(intruder: None) -> None:
    kept = open_checkpoint(services.checkpoint(AT).note, services.verifier_keys())
    edit(9)
    recompute(9)
    run("DELETE FROM audit_checkpoint")
    services.checkpoint(AT)
    assert services.verify_all().ok  # the intruder holds the signing key: from inside nothing shows
    first = services.verify_all(published=[kept]).first
    assert first is not None
    assert (first.what, first.index, first.until) == (What.REWRITTEN, 0, LENGTH)


def checkpoint_problem(report: Report) -> tuple[What, int | None, int | None]:
    assert report.first is not None
    return report.first.what, report.first.index, report.first.checkpoint


CHECKPOINT_TAMPERING: dict[str, Callable[[], None]] = {
    "its size": lambda: run("UPDATE audit_checkpoint SET size = 7 WHERE number = 0"),
    "its note": lambda: run(
        "UPDATE audit_checkpoint SET note = REPLACE(note, '\n8\n', '\n7\n') WHERE number = 0"
    ),
    "its absence": lambda: run("DELETE FROM audit_checkpoint WHERE number = 0"),
}


@pytest.mark.parametrize("tamper", CHECKPOINT_TAMPERING.values(), ids=CHECKPOINT_TAMPERING.keys())
def test_a_tampered_checkpoint_is_named_by(intruder: None, tamper: Callable[[], None]) -> None:
    services.checkpoint(AT)
    tamper()
    assert checkpoint_problem(services.verify_all()) == (What.CHECKPOINT, None, 0)


def test_a_checkpoint_signed_by_a_key_that_is_not_ours_is_named(log: None, settings: Any) -> None:
    settings.LINTEL_SIGNING_KEYS = [("new", bytes(range(32)))]
    assert checkpoint_problem(services.verify_all()) == (What.CHECKPOINT, None, 0)


def test_a_retired_key_still_vouches_while_it_stays_configured(log: None, settings: Any) -> None:
    settings.LINTEL_SIGNING_KEYS = [("new", bytes(range(32))), *settings.LINTEL_SIGNING_KEYS]
    services.checkpoint(AT)
    report = services.verify_all()
    assert report.ok
    assert report.covered == LENGTH


# Forgetting


def registered() -> Entry:
    return services.record(
        kind="person.registered",
        actor="ada",
        at=AT,
        subject=BOB,
        personal={"full_name": "Bob Rose", "email": "b@example.org"},
    )


def test_forgetting_leaves_the_tree_whole_and_the_person_unreadable(log: None) -> None:
    entry = registered()
    alice = services.record(
        kind="person.registered", actor="ada", at=AT, subject="person:a", personal={"full_name": "Alice"}
    )
    root = bytes(alice.root)
    assert services.forget(BOB) == 2
    assert services.forget(BOB) == 0
    assert services.open_personal(Entry.objects.get(index=entry.index)) == {}
    assert services.open_personal(alice) == {"full_name": "Alice"}
    report = services.verify_all()
    assert report.ok
    assert (report.root, report.personal_fields, report.erased_fields) == (root, 1, 2)


def test_nothing_in_the_database_says_a_personal_value_in_the_clear(log: None) -> None:
    entry = registered()
    item = PersonalField.objects.get(entry=entry, name="full_name")
    assert b"Bob" not in bytes(item.sealed)
    assert "Bob" not in entry.details_json + entry.commitments_json + entry.subject


def test_forgetting_needs_to_know_whom(log: None) -> None:
    services.record(kind="user.sign_in_failed", actor="anonymous", at=AT, personal={"username": "bob"})
    with pytest.raises(ValueError, match="whom"):
        services.forget("")


def test_a_sealed_value_moved_to_another_entry_or_field_does_not_open(log: None) -> None:
    one, other = registered(), registered()
    moved = PersonalField.objects.get(entry=one, name="full_name")
    PersonalField.objects.filter(entry=other, name="full_name").update(sealed=moved.sealed)
    first = services.verify_all().first
    assert first is not None
    assert (first.what, first.index) == (What.PERSONAL, other.index)
    assert services.open_personal(other) == {"email": "b@example.org"}


def test_a_personal_value_sealed_anew_with_our_key_is_still_not_what_was_committed(log: None) -> None:
    entry = registered()
    false = services._seal(entry.index, "full_name", bytes(32), "Eve", lambda count: bytes(count))
    PersonalField.objects.filter(entry=entry, name="full_name").update(sealed=false.sealed)
    first = services.verify_all().first
    assert first is not None
    assert (first.what, first.index) == (What.PERSONAL, entry.index)
    assert "not what the entry committed to" in first.explanation


def test_resealing_lets_an_old_key_be_retired(log: None, settings: Any) -> None:
    entry = registered()
    old = settings.LINTEL_KEY_ENCRYPTION_KEYS
    new = [("newer", bytes(range(32)))]
    settings.LINTEL_KEY_ENCRYPTION_KEYS = new + old
    assert services.reseal_personal() == 2
    assert services.reseal_personal() == 0
    settings.LINTEL_KEY_ENCRYPTION_KEYS = new
    assert services.open_personal(Entry.objects.get(index=entry.index))["full_name"] == "Bob Rose"
    assert services.verify_all().ok


# Proofs


def test_every_entry_is_proven_under_every_checkpoint_that_covers_it(log: None) -> None:
    under = services.checkpoint(AT)
    for covering in Checkpoint.objects.all():
        for entry in Entry.objects.filter(index__lt=covering.size):
            (path,) = services.prove_inclusions([entry.index], size=covering.size)
            assert verify_inclusion(
                leaf=entry.leaf,
                index=entry.index,
                size=covering.size,
                path=[bytes.fromhex(item) for item in path],
                root=bytes(covering.root),
            )
    assert under.size == LENGTH
    path = services.prove_consistency(COVERED, LENGTH)
    older = Checkpoint.objects.get(size=COVERED)
    assert verify_consistency(
        first=COVERED,
        second=LENGTH,
        path=[bytes.fromhex(item) for item in path],
        first_root=bytes(older.root),
        second_root=bytes(under.root),
    )
    with pytest.raises(ValueError, match="fewer"):
        services.prove_consistency(COVERED, LENGTH + 1)


def test_a_proof_of_a_fresh_entry_brings_its_own_checkpoint(log: None) -> None:
    entry = record(LENGTH)
    proof = services.prove_inclusion(entry)
    json.dumps(proof)
    statement = CheckpointText.parse(proof["checkpoint"].rpartition("\n\n")[0] + "\n")
    assert statement.size == LENGTH + 1
    assert services.prove_inclusion(entry) == proof


def test_entries_are_found_by_every_filter(log: None) -> None:
    registered()
    services.record(kind="user.signed_in", actor="guard", at=AT + timedelta(days=1))

    def found(**filters: Any) -> list[int]:
        return [entry.index for entry in services.find_entries(**filters)]

    assert found(kind="person") == found(kind="person.registered") == found(subject=BOB) == [12]
    assert found(kind="pers") == []
    assert found(actor="guard") == found(since=AT + timedelta(days=1)) == [13]
    assert found(until=AT + timedelta(minutes=1)) == [0, 12]
    assert found(text="door 7") == [7]
    assert found(text="Bob") == []
    assert len(found()) == 14


@pytest.mark.django_db
def test_what_an_entry_is_about_is_done_with_it_and_not_without() -> None:
    rename = ("UPDATE django_content_type SET model = %s WHERE model = %s", ["renamed", "entry"])
    with pytest.raises(ValueError, match="is not a kind"):
        services.record(kind="no kind", actor="test", at=datetime.now(UTC), effect=rename)
    models = ContentType.objects.filter(model="renamed")
    assert not models.exists()
    entry = services.record(kind="test.renamed", actor="test", at=datetime.now(UTC), effect=rename)
    assert models.count() == 1
    assert Entry.objects.get(index=entry.index).kind == "test.renamed"
