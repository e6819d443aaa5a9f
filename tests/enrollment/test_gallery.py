"""The index is a cache of the rows, in every process, at every moment."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from types import SimpleNamespace
from uuid import UUID, uuid4

import numpy as np
import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError, connection, connections

from enrollment import gallery, sealing, services
from enrollment.gallery import Gallery, GalleryBehind
from enrollment.models import DataKey, Enrollment, GalleryChange, Person, ProtectedTemplate
from recognition.types import Embedding
from tests.enrollment.support import DAY, NOW, found_at_the_door, somebody

DIMENSION = 16
KEYS = [("2026", bytes(range(32)))]
pytestmark = pytest.mark.django_db


def unit(seed: int, dimension: int = DIMENSION) -> np.ndarray:
    vector = np.random.default_rng(seed).normal(size=dimension)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def embedding(seed: int) -> Embedding:
    return Embedding(unit(seed))


@pytest.fixture
def keys(settings):
    settings.LINTEL_GALLERY_KEYS = KEYS
    return KEYS


def worker() -> Gallery:
    return Gallery(dimension=DIMENSION, model="tiny", keys=KEYS)


def with_templates(name: str, *seeds: int) -> Person:
    """A person in the gallery with chosen embeddings, through the services."""
    person = somebody(name)
    enrollment = services.begin_enrollment(person=person, captures_wanted=len(seeds), actor="desk", at=NOW)
    key_id, key = KEYS[0]
    for seed in seeds:
        sealing.seal_new_template(
            enrollment=enrollment,
            kind="capture",
            vector=gallery.protect(embedding(seed), key=key, key_id=key_id).vector,
            gallery_key_id=key_id,
            model="tiny",
            profile_hash="0" * 64,
            quality=None,
            at=NOW,
        )
    Enrollment.objects.filter(pk=enrollment.pk).update(captures_accepted=len(seeds))
    staged = [template.vector for template in sealing.open_templates(enrollment.templates.all())]
    assert services.conclude_captures(
        enrollment_id=enrollment.pk,
        fused=services.fuse(staged),
        duplicate=None,
        searched_at_sequence=services.gallery_sequence(),
        at=NOW,
    )
    return person


def named(people: Gallery, seed: int, k: int = 5, permitted=None) -> list[UUID]:
    people.catch_up(services.gallery_sequence())
    return [match.person_id for match in people.search(embedding(seed), k, permitted) if match.score > 0.9]


def test_an_empty_gallery_finds_nobody(keys):
    people = worker()
    people.catch_up(0)
    assert (len(people), people.people, people.search(embedding(1), 3)) == (0, 0, [])


def test_a_gallery_that_was_never_loaded_refuses_to_search(keys):
    with pytest.raises(GalleryBehind):
        worker().search(embedding(1), 3)


def test_a_search_behind_its_sequence_is_refused(keys):
    people = worker()
    people.catch_up(0)
    with_templates("Alice", 1)
    sequence = services.gallery_sequence()
    with pytest.raises(GalleryBehind):
        people.search(embedding(1), 3, at_sequence=sequence)
    with pytest.raises(GalleryBehind, match="the database shows"):
        people.catch_up(sequence + 1)
    people.catch_up(sequence)
    assert people.search(embedding(1), 3, at_sequence=sequence)


def test_each_person_is_named_once_with_their_best_template(keys):
    alice, bob = with_templates("Alice", 1, 2, 3), with_templates("Bob", 4)
    people = worker()
    people.catch_up(services.gallery_sequence())
    matches = people.search(embedding(2), 2)
    assert [match.person_id for match in matches] == [alice.id, bob.id]
    assert matches[0].score == pytest.approx(1.0, abs=1e-5)
    assert ProtectedTemplate.objects.get(pk=matches[0].template_id).person_id == alice.id


def test_scores_are_those_of_a_slow_search_over_the_plain_embeddings(keys):
    owners = {with_templates(f"person {n}", 10 + n).id: unit(10 + n) for n in range(8)}
    people = worker()
    people.catch_up(services.gallery_sequence())
    expected = sorted(((float(vector @ unit(99)), owner) for owner, vector in owners.items()), reverse=True)
    found = people.search(embedding(99), 8)
    assert [match.person_id for match in found] == [owner for _, owner in expected]
    np.testing.assert_allclose([match.score for match in found], [score for score, _ in expected], atol=1e-5)


def test_a_search_among_permitted_people_names_no_other(keys):
    alice, bob = with_templates("Alice", 1, 2), with_templates("Bob", 3)
    people = worker()
    assert named(people, 1, permitted={bob.id}) == []
    assert named(people, 1, permitted={alice.id, uuid4()}) == [alice.id]
    assert people.search(embedding(1), 3, permitted=set()) == []


def test_a_threshold_counts_people_and_not_their_templates(keys, monkeypatch):
    alice = with_templates("Alice Example", 1, 2, 3)
    with_templates("Bob Example", 4)
    people = worker()
    people.catch_up(services.gallery_sequence())
    assert len(people) == 6  # a mean for each, and four captures
    sizes = []
    model = SimpleNamespace(threshold_for=lambda *, gallery_size, **_: sizes.append(gallery_size))
    monkeypatch.setattr(gallery, "gallery", lambda: people)
    monkeypatch.setattr(gallery, "recognizer", lambda: SimpleNamespace(recognizer=model))
    gallery.match_threshold()
    gallery.match_threshold(permitted=[alice.pk, uuid4()])
    gallery.match_threshold(permitted=[])
    assert sizes == [2, 1, 1]  # among nobody as among one: there is no threshold for none


def test_two_workers_converge_whatever_they_saw_in_between(keys):
    early, late = worker(), worker()
    early.catch_up(0)
    alice = with_templates("Alice", 1)
    early.catch_up(services.gallery_sequence())
    bob = with_templates("Bob", 2)
    services.withdraw_consent(person=alice, actor="desk", at=NOW)
    carla = with_templates("Carla", 3)
    for people in (early, late):
        assert named(people, 1) == []
        assert named(people, 2) == [bob.id]
        assert named(people, 3) == [carla.id]
        assert (len(people), people.people, people.position) == (4, 2, services.gallery_sequence())


def test_an_erased_person_disappears_from_every_worker_at_its_next_catch_up(keys):
    workers = [worker(), worker()]
    alice = with_templates("Alice", 1, 2)
    assert [named(people, 1) for people in workers] == [[alice.id], [alice.id]]
    services.erase_person(person_id=alice.id, actor="admin", at=NOW)
    sequence = services.gallery_sequence()
    for people in workers:
        with pytest.raises(GalleryBehind):
            people.search(embedding(1), 3, at_sequence=sequence)
        people.catch_up(sequence)
        assert people.search(embedding(1), 3, at_sequence=sequence) == []
        assert len(people) == 0
        assert people._contents.indexes == {}


def test_templates_of_another_model_are_left_out(keys):
    alice = with_templates("Alice", 1)
    ProtectedTemplate.objects.update(model="tiny@retrained")
    assert named(worker(), 1) == []
    ProtectedTemplate.objects.update(model="tiny")
    assert named(worker(), 1) == [alice.id]


def test_one_damaged_row_closes_one_face_and_not_the_gallery(keys, caplog):
    alice, bob = with_templates("Alice", 1), with_templates("Bob", 2)
    stolen = alice.templates.first()
    bob.templates.update(sealed=stolen.sealed)  # an attacker at the database gives Bob Alice's face
    people = worker()
    assert named(people, 1) == [alice.id]
    assert named(people, 2) == []
    assert "does not open and is left out" in caplog.text


def test_templates_whose_person_was_changed_in_the_database_do_not_open(keys):
    alice, mallory = with_templates("Alice", 1), with_templates("Mallory", 2)
    alice.templates.update(person=mallory)
    assert named(worker(), 1) == []


def test_a_reload_is_followed_by_workers_that_are_up_already(keys):
    people = worker()
    alice = with_templates("Alice", 1)
    assert named(people, 1) == [alice.id]
    ProtectedTemplate.objects.update(active=False)  # a restored database, without changes that tell of it
    services.request_gallery_reload(actor="admin", at=NOW)
    assert named(people, 1) == []


def test_rebuild_names_rows_that_do_not_open(worker_and_alice, capsys):
    call_command("rebuild_gallery")
    assert "4 templates of 1 people" in capsys.readouterr().out
    ProtectedTemplate.objects.update(sealed=b"damaged")
    with pytest.raises(CommandError, match="4 templates do not open"):
        call_command("rebuild_gallery")


@pytest.fixture
def worker_and_alice(enroll):
    alice = somebody("Alice")
    enroll(alice, 1)
    return alice


def test_a_new_key_encryption_key_wraps_data_keys_anew_and_leaves_templates_alone(
    worker_and_alice, settings, capsys
):
    before = [bytes(template.sealed) for template in ProtectedTemplate.objects.all()]
    old = settings.LINTEL_KEY_ENCRYPTION_KEYS
    settings.LINTEL_KEY_ENCRYPTION_KEYS = [("newer", bytes(range(100, 132))), *old]
    call_command("rotate_keys")
    assert "1 data keys wrapped anew" in capsys.readouterr().out
    assert DataKey.objects.get().kek_id == "newer"
    assert [bytes(template.sealed) for template in ProtectedTemplate.objects.all()] == before
    settings.LINTEL_KEY_ENCRYPTION_KEYS = settings.LINTEL_KEY_ENCRYPTION_KEYS[:1]
    gallery.forget()
    assert found_at_the_door(1) == [worker_and_alice]


def test_an_old_key_still_in_use_is_named(worker_and_alice, settings, capsys):
    old_id = settings.LINTEL_GALLERY_KEYS[0][0]
    settings.LINTEL_GALLERY_KEYS = [("newer", bytes(range(100, 132))), *settings.LINTEL_GALLERY_KEYS]
    call_command("rotate_keys")
    assert f"keep them in LINTEL_GALLERY_KEYS: {old_id}" in capsys.readouterr().out


def test_a_new_gallery_key_renews_every_template_while_doors_keep_working(worker_and_alice, settings, capsys):
    assert found_at_the_door(1) == [worker_and_alice]
    before = {t.id: t.vector for t in sealing.open_templates(ProtectedTemplate.objects.all())}
    settings.LINTEL_GALLERY_KEYS = [("newer", bytes(range(100, 132))), *settings.LINTEL_GALLERY_KEYS]
    gallery.forget()  # restarted with the new list, nothing rotated yet
    assert found_at_the_door(1) == [worker_and_alice]

    call_command("rotate_keys", "--gallery")

    assert "4 templates turned" in capsys.readouterr().out
    assert found_at_the_door(1) == [worker_and_alice]
    for template in sealing.open_templates(ProtectedTemplate.objects.all()):
        assert template.gallery_key_id == "newer"
        assert abs(float(template.vector @ before[template.id])) < 0.6  # unrelated to the old one
    settings.LINTEL_GALLERY_KEYS = settings.LINTEL_GALLERY_KEYS[:1]
    gallery.forget()
    assert found_at_the_door(1) == [worker_and_alice]


def test_half_rotated_galleries_find_everybody(keys, settings):
    alice, bob = with_templates("Alice", 1), with_templates("Bob", 2)
    newer = [("2027", bytes(range(50, 82))), *KEYS]
    vectors = {
        template.id: gallery.rekey(
            gallery.types.ProtectedTemplate(template.vector, "2026"),
            old=KEYS[0][1],
            new=newer[0][1],
            new_key_id="2027",
        ).vector
        for template in sealing.open_templates(alice.templates.all())
    }
    people = Gallery(dimension=DIMENSION, model="tiny", keys=newer)
    assert named(people, 1) == [alice.id]
    services.replace_vectors(vectors=vectors, gallery_key_id="2027", at=NOW)
    assert named(people, 1) == [alice.id]
    assert named(people, 2) == [bob.id]
    assert sorted(people._contents.indexes) == ["2026", "2027"]
    assert len(people) == 4


@pytest.mark.django_db(transaction=True)
@pytest.mark.database
def test_a_gallery_changed_during_searches_answers_from_before_or_after_and_never_fails(keys):
    with_templates("Bob", 2)
    people = worker()
    people.catch_up(services.gallery_sequence())
    stop, failures, names = threading.Event(), [], set()

    def search() -> None:
        try:
            while not stop.is_set():
                names.update(match.person_id for match in people.search(embedding(1), 2) if match.score > 0.9)
        except Exception as error:
            failures.append(error)

    searching = [threading.Thread(target=search) for _ in range(2)]
    for thread in searching:
        thread.start()
    added = set()
    for turn in range(5):
        alice = with_templates(f"Alice {turn}", 1)
        added.add(alice.id)
        people.catch_up(services.gallery_sequence())
        services.erase_person(person_id=alice.id, actor="admin", at=NOW)
        people.catch_up(services.gallery_sequence())
        assert alice.id not in {match.person_id for match in people.search(embedding(1), 2)}
    stop.set()
    for thread in searching:
        thread.join(60)
    assert not failures
    assert names <= added


@pytest.mark.django_db(transaction=True)
@pytest.mark.database
def test_sequence_numbers_become_visible_in_their_order(keys):
    """Two enrollments end at once: while the first that numbered has not committed, nobody else gets a number, so no
    worker can pass it by. Asked with hardly any patience, the second is refused; with patience it waits."""
    alice, bob = somebody("Alice", valid_until=NOW + DAY), somebody("Bob", valid_until=NOW + DAY)
    holding, go = threading.Event(), threading.Event()
    numbers, failures = [], []

    def number_one(person) -> None:
        with services.transaction.atomic():
            services._lock_gallery()
            change = GalleryChange.objects.create(kind="add", template_id=1, person_id=person.id, at=NOW)
            numbers.append((person.full_name, change.pk))
            if person == alice:
                holding.set()
                assert go.wait(60)

    def at_the_same_time(person) -> None:
        try:
            number_one(person)
        except Exception as error:
            failures.append(error)
        finally:
            connections.close_all()

    first = threading.Thread(target=at_the_same_time, args=(alice,))
    second = threading.Thread(target=at_the_same_time, args=(bob,))
    first.start()
    try:
        assert holding.wait(60)
        assert services.gallery_sequence() == 0
        with impatient(), pytest.raises(OperationalError):
            number_one(bob)
        second.start()
        assert services.gallery_sequence() == 0
    finally:
        go.set()
        first.join(60)
    second.join(60)
    assert not failures
    (_, earlier), (_, later) = numbers
    assert [name for name, _ in numbers] == ["Alice", "Bob"]
    assert earlier < later == services.gallery_sequence()


@contextmanager
def impatient():
    """This thread's connection waits a moment for another writer, and then gives up."""
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("SET lock_timeout = '50ms'")
        else:
            cursor.execute("PRAGMA busy_timeout = 50")
    try:
        yield
    finally:
        connection.close()  # the next one is patient again


def test_a_thousand_people_load_in_a_handful_of_queries(keys, django_assert_max_num_queries):
    """Three templates of 512 numbers each. A query per row would take a worker minutes to start; how long it does take
    is a benchmark's business."""
    people, per_person, dimension = 1_000, 3, 512
    rows = [Person(full_name=f"person {n}", valid_from=NOW, created_at=NOW) for n in range(people)]
    Person.objects.bulk_create(rows, batch_size=2000)
    data_keys, enrollments, plain = [], [], {}
    for person in rows:
        row = DataKey(person=person)
        plain[person.id] = (row.id, bytes(32))
        row.wrapped, row.kek_id = sealing.crypto.wrap(
            bytes(32),
            keys=sealing.settings.LINTEL_KEY_ENCRYPTION_KEYS,
            row_id=str(row.id),
            person_id=str(person.id),
            randomness=sealing.os.urandom,
        )
        data_keys.append(row)
        enrollments.append(
            Enrollment(
                person=person,
                state="completed",
                started_by="x",
                started_at=NOW,
                expires_at=NOW,
                finished_at=NOW,
            )
        )
    DataKey.objects.bulk_create(data_keys, batch_size=2000)
    Enrollment.objects.bulk_create(enrollments, batch_size=2000)
    vectors = np.random.default_rng(1).normal(size=(people * per_person, dimension)).astype("<f4")
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    templates = []
    for n in range(people * per_person):
        enrollment = enrollments[n // per_person]
        key_row, key = plain[enrollment.person_id]
        sealed = sealing.crypto.seal(
            vectors[n].tobytes(),
            key=key,
            row=sealing._row(n + 1, enrollment.person_id, key_row),
            randomness=sealing.os.urandom,
        )
        templates.append(
            ProtectedTemplate(
                id=n + 1,
                person_id=enrollment.person_id,
                enrollment=enrollment,
                sealed=sealed,
                active=True,
                model="tiny",
                gallery_key_id="2026",
                created_at=NOW,
            )
        )
    ProtectedTemplate.objects.bulk_create(templates, batch_size=1000)
    everybody = Gallery(dimension=dimension, model="tiny", keys=KEYS)

    with django_assert_max_num_queries(10):
        everybody.catch_up(0)

    assert (len(everybody), everybody.people) == (people * per_person, people)
