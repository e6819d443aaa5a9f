"""1:N as a door sees it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recognition.checkpoint import calibrate
from recognition.evaluation import identification
from recognition.evaluation.data import DataError
from recognition.evaluation.embedding import open_embedder
from recognition.evaluation.identification import Album, Shot
from recognition.types import FaceCrop
from tests.recognition.evaluation.faces import identities, people
from tests.tiny_model import make_tiny_model

SETS = st.lists(st.integers(2, 6), min_size=4, max_size=12)  # pictures of each person


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(counts=SETS, enrol=st.integers(1, 4), seed=st.integers(0, 100))
def test_nobody_searches_with_a_picture_they_enrolled_with_and_strangers_are_not_enrolled(
    counts: list[int], enrol: int, seed: int
) -> None:
    who = {f"{person}/{k}": str(person) for person, count in enumerate(counts) for k in range(count)}
    planned = identification.plan(who, enrol=enrol, gallery=None, seed=seed)
    assert len(planned.gallery) == len(counts) // 2
    enrolled = {shot.name for own in planned.gallery.values() for shot in own}
    searching = {name for name, _ in planned.mated}
    assert not enrolled & searching
    assert {who[name] for name, _ in planned.strangers}.isdisjoint(planned.gallery)
    assert all(who[name] == person and person in planned.gallery for name, person in planned.mated)
    assert enrolled | searching | {name for name, _ in planned.strangers} == set(who), (
        "every picture has its part"
    )
    for person, own in planned.gallery.items():
        assert len(own) == enrol == len(set(own)), "each capture is a capture of its own"
        assert {who[shot.name] for shot in own} == {person}


def test_a_plan_follows_from_its_seed() -> None:
    who = identities(people(10, 3))
    one, again, other = (identification.plan(who, enrol=2, gallery=None, seed=s) for s in (1, 1, 2))
    assert one == again
    assert one.gallery.keys() != other.gallery.keys()


def test_a_person_with_one_picture_fills_the_gallery_and_never_searches() -> None:
    who = {"a1": "a", "b1": "b", "b2": "b", "c1": "c", "c2": "c", "d1": "d"}
    for seed in range(20):
        planned = identification.plan(who, enrol=3, gallery=None, seed=seed) if _has_mate(who, seed) else None
        if planned and "a" in planned.gallery:
            assert planned.gallery["a"] == (Shot("a1", 0), Shot("a1", 1), Shot("a1", 2))
            assert all(person != "a" for _, person in planned.mated)


def _has_mate(who: dict[str, str], seed: int) -> bool:
    try:
        identification.plan(who, enrol=3, gallery=None, seed=seed)
    except DataError:
        return False
    return True


def test_a_gallery_larger_than_half_of_the_people_is_refused() -> None:
    with pytest.raises(DataError, match="half of the people are 5"):
        identification.plan(identities(people(10, 2)), enrol=1, gallery=6, seed=0)


def test_search_scores_a_person_by_their_best_template(tiny: Path) -> None:
    images = people(6, 3)
    album = Album(open_embedder(str(tiny), profile=None, unprotected=False, seed=1), images)
    planned = identification.plan(identities(images), enrol=2, gallery=None, seed=0)
    album.prepare(identification.shots_of(planned, 1))
    searches = identification.search(album, planned, captures=1)

    def vector(shot: Shot) -> np.ndarray:
        return album.matrix([shot])[0]

    def held(own: tuple[Shot, ...]) -> list[np.ndarray]:
        mean = sum(vector(shot) for shot in own)
        return [*(vector(shot) for shot in own), mean / np.linalg.norm(mean)]

    for row, (name, person) in enumerate(planned.mated):
        probe = vector(Shot(name, 0))
        best = {who: max(float(probe @ one) for one in held(own)) for who, own in planned.gallery.items()}
        assert searches.mate[row] == pytest.approx(best.pop(person), abs=1e-5)
        assert searches.best_other[row] == pytest.approx(max(best.values()), abs=1e-5)
    for row, (name, _) in enumerate(planned.strangers):
        probe = vector(Shot(name, 0))
        top = max(float(probe @ one) for own in planned.gallery.values() for one in held(own))
        assert searches.impostor_top[row] == pytest.approx(top, abs=1e-5)


def test_identification_reports_both_thresholds_and_the_trials_behind_them(tiny: Path) -> None:
    images = people(12, 3)
    embedder = open_embedder(str(tiny), profile=None, unprotected=False, seed=1)
    figures = identification.identify(
        embedder, images, identities(images), enrol=2, fpir=0.06, galleries=[5], seed=3, repeats=2
    )
    assert figures["impostor_trials"] == 2 * 6 * 3
    assert figures["mated_trials"] == 2 * 5
    assert (figures["gallery_people"], figures["gallery_templates"]) == (5, 15), "two captures and their mean"
    assert figures["fpir"] <= 0.06
    assert figures["fnir"] == 0.0 and figures["rank_one"] == 1.0
    # People, as the gallery of a door counts: a calibration's scores are the best of a person's templates.
    expected = embedder.recognizer.threshold_for(gallery_size=5, target_fpir=0.06)
    assert figures["shipped_threshold"] == expected
    assert 0 <= figures["fpir_at_shipped_threshold"] <= 1


def test_an_album_photographs_each_shot_once_and_a_noiseless_one_each_picture_once() -> None:
    class Counting:
        def __init__(self, noisy: bool) -> None:
            self.noisy, self.seen = noisy, 0

        def embed(self, crops: list[FaceCrop]) -> np.ndarray:
            self.seen += len(crops)
            return np.eye(len(crops), 4, dtype=np.float32)

        def describe(self) -> dict[str, object]:
            return {}

    shots = [Shot("p000_0", 0), Shot("p000_0", 1), Shot("p000_0", 0)]
    for noisy, expected in ((True, 2), (False, 1)):
        embedder = Counting(noisy)
        album = Album(embedder, people(1, 1))
        album.prepare(shots)
        album.prepare(shots)
        assert embedder.seen == expected
        assert album.matrix(shots).shape == (3, 4)


def test_calibration_scores_are_between_different_people_and_even_over_them(tiny: Path) -> None:
    images = people(5, 2) | {f"p000_{k}": people(1, 10)[f"p000_{k}"] for k in range(2, 10)}
    embedder = open_embedder(str(tiny), profile=None, unprotected=False, seed=1)
    scores = identification.impostor_scores(embedder, images, identities(images), limit=10, enrol=3, seed=0)
    # Ten pictures drawn evenly over five people are two each: each against the four other people.
    assert scores.size == 40
    single = identification.impostor_scores(embedder, images, identities(images), limit=10, enrol=1, seed=0)
    assert scores.mean() > single.mean(), "the best of four templates is above one"


def test_smaller_galleries_are_parts_of_the_largest_and_every_stranger_searches_each(tiny: Path) -> None:
    images = people(24, 3)
    embedder = open_embedder(str(tiny), profile=None, unprotected=False, seed=1)
    figures = identification.identify(
        embedder, images, identities(images), enrol=2, fpir=0.1, galleries=[3, 10], seed=3, repeats=2
    )
    small, large = figures["rows"]
    assert (small["gallery_people"], large["gallery_people"]) == (3, 10)
    assert (small["galleries"], large["galleries"]) == (6, 2), (
        "three galleries of 3 in each of two draws of 10"
    )
    assert (small["impostor_trials"], large["impostor_trials"]) == (6 * 36, 2 * 36)
    assert (small["mated_trials"], large["mated_trials"]) == (18, 20)
    assert figures["gallery_people"] == 10, "the figures on top are those of the largest"
    assert small["threshold"] <= large["threshold"] + 0.05


def test_every_repeat_photographs_everybody_anew(tiny: Path) -> None:
    images = people(8, 3)
    embedder = open_embedder(str(tiny), profile=None, unprotected=False, seed=1)
    plans = [identification.plan(identities(images), enrol=2, gallery=4, seed=0, fresh=k) for k in range(2)]
    album = Album(embedder, images)
    for planned in plans:
        album.prepare(identification.shots_of(planned, 1))
    first, second = (identification.search(album, planned, captures=1) for planned in plans)
    assert plans[0].gallery.keys() == plans[1].gallery.keys()
    assert not np.array_equal(first.mate, second.mate)


def test_a_slice_of_the_scores_is_a_search_of_the_smaller_gallery(tiny: Path) -> None:
    images = people(12, 3)
    embedder = open_embedder(str(tiny), profile=None, unprotected=False, seed=1)
    whole = identification.plan(identities(images), enrol=2, gallery=6, seed=0)
    album = Album(embedder, images)
    album.prepare(identification.shots_of(whole, 1))
    part = identification.score(album, whole, captures=1).searches(slice(0, 3))
    alone = identification.search(
        album, identification.plan(identities(images), enrol=2, gallery=3, seed=0), captures=1
    )
    for field in ("mate", "best_other", "impostor_top"):
        assert np.allclose(getattr(part, field), getattr(alone, field), atol=1e-6)
    assert part.templates == alone.templates


def test_an_attempt_fuses_captures_that_no_other_attempt_holds_and_nobody_enrolled_with() -> None:
    who = identities(people(8, 5))
    planned = identification.plan(who, enrol=2, gallery=None, seed=0)
    for different in (False, True):
        asked = identification.attempts(planned.mated, planned.first, 3, different=different)
        shots = [shot for attempt in asked for shot in attempt]
        assert len(set(shots)) == len(shots) == 3 * len(planned.mated)
        assert set(shots) <= set(identification.shots_of(planned, 3)), "they were photographed"
        assert not {s.name for s in shots} & {s.name for own in planned.gallery.values() for s in own}
        for (name, person), attempt in zip(planned.mated, asked, strict=True):
            assert attempt[0].name == name
            assert {who[shot.name] for shot in attempt} == {person}
            assert len({shot.name for shot in attempt}) == (3 if different else 1)
    assert len({s.name for s in identification.attempts([("a1", "a")], 0, 3, different=True)[0]}) == 1


def test_fused_attempts_are_measured_at_thresholds_for_fused_attempts(tiny: Path) -> None:
    images = people(12, 6)
    embedder = open_embedder(str(tiny), profile=None, unprotected=False, seed=1)
    scores = identification.impostor_scores(
        embedder, images, identities(images), limit=72, enrol=2, seed=0, captures=3
    )
    assert scores.size == 72 * 11
    thresholds = calibrate(scores, source="synthetic people, three fused")
    figures = identification.identify(
        embedder, images, identities(images), enrol=2, fpir=0.1, galleries=[5], seed=3, captures=3,
        different=True, thresholds=thresholds,
    )  # fmt: skip
    assert figures["fused"] == "different pictures" and figures["thresholds_for_captures"] == 3
    assert figures["mated_attempts_of_different_pictures"] == 1.0
    assert figures["shipped_threshold"] == thresholds.threshold_for(gallery_size=5, target_fpir=0.1)
    assert figures["rank_one"] == 1.0
