"""Verification through the exact bytes a terminal sends."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recognition.backbone import UNPROTECTED, build_backbone
from recognition.checkpoint import ModelError, save_model
from recognition.evaluation import verification
from recognition.evaluation.data import DataError, IjbProtocol, Pairs
from recognition.evaluation.embedding import embed_all, fuse, open_embedder
from recognition.payload import pack
from recognition.types import FaceCrop, PerturbedFeatures
from tests.recognition.evaluation.faces import identities, people
from tests.tiny_model import make_tiny_model, tiny_profile

PEOPLE = people(8, 2)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


def pairs_of(images: dict[str, FaceCrop], count: int) -> Pairs:
    same = [(f"p{n:03d}_0", f"p{n:03d}_1") for n in range(count)]
    different = [(f"p{n:03d}_0", f"p{(n + 1) % count:03d}_1") for n in range(count)]
    first, second = zip(*(same + different), strict=True)
    return Pairs(
        tuple(first),
        tuple(second),
        np.array([True] * count + [False] * count),
        np.array([k % 2 for k in range(2 * count)], np.int64),
    )


def test_verification_measures_what_a_terminal_sends(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    received: list[bytes] = []
    from recognition.evaluation import embedding

    unpack = embedding.unpack
    monkeypatch.setattr(
        embedding, "unpack", lambda sent, profiles: received.append(sent) or unpack(sent, profiles)
    )
    embedder = open_embedder(str(tiny), profile=None, unprotected=False, seed=1)
    figures, scores, vectors = verification.verify(embedder, PEOPLE, pairs_of(PEOPLE, 8))
    assert len(received) == 16, "one capture for each picture, however many pairs it is in"
    profile = tiny_profile()
    empty = PerturbedFeatures(profile.hash, np.zeros(profile.shape, np.uint8))
    assert {len(sent) for sent in received} == {figures["payload_bytes"]} == {len(pack(empty, profile))}
    assert figures["accuracy"] == 1.0 and figures["auc"] == 1.0
    assert (figures["genuine_trials"], figures["impostor_trials"], figures["images"]) == (8, 8, 16)
    assert figures["epsilon_per_capture"] == pytest.approx(profile.epsilon_per_capture)
    assert figures["profile_hash"] == profile.hash
    assert scores.shape == (16,) and set(vectors) == set(PEOPLE)


def test_the_same_seed_draws_the_same_noise_and_another_draws_another(tiny: Path) -> None:
    def first(seed: int | None) -> np.ndarray:
        embedder = open_embedder(str(tiny), profile=None, unprotected=False, seed=seed)
        return embedder.embed([PEOPLE["p000_0"]])[0]

    assert np.array_equal(first(5), first(5))
    assert not np.array_equal(first(5), first(6))
    assert not np.array_equal(first(None), first(None))


def test_fusing_three_captures_comes_nearer_to_the_noise_free_embedding(tiny: Path) -> None:
    embedder = open_embedder(str(tiny), profile=None, unprotected=False, seed=1)
    captures = embed_all(embedder, PEOPLE, ["p000_0"], captures=60)["p000_0"]
    assert captures.shape[0] == 60
    truth = fuse(captures)
    singly = captures @ truth
    by_three = fuse(captures.reshape(20, 3, -1)) @ truth
    assert by_three.mean() > singly.mean()
    assert np.allclose(np.linalg.norm(fuse(captures.reshape(20, 3, -1)), axis=1), 1, atol=1e-6)


def test_the_unprotected_twin_lies_beside_the_model_and_is_asked_once(tiny: Path) -> None:
    twin = build_backbone("small", transform=UNPROTECTED, dimension=64)
    save_model(tiny.with_name("tiny-unprotected"), name="tiny-unprotected", backbone=twin, accepted=[])
    embedder = open_embedder(str(tiny), profile=None, unprotected=True, seed=1)
    assert not embedder.noisy
    assert embed_all(embedder, PEOPLE, ["p000_0"], captures=3)["p000_0"].shape[0] == 1
    described = embedder.describe()
    assert (described["model"], described["protected"]) == ("tiny-unprotected", False)
    assert "profile" not in described


def test_a_protected_model_does_not_pass_for_an_unprotected_twin(tmp_path: Path) -> None:
    make_tiny_model(tmp_path / "m")
    make_tiny_model(tmp_path / "m-unprotected")
    with pytest.raises(ModelError, match="not an unprotected twin"):
        open_embedder(str(tmp_path / "m"), profile=None, unprotected=True, seed=1)


def test_a_profile_the_model_does_not_accept_is_named_in_the_refusal(tiny: Path) -> None:
    with pytest.raises(ModelError, match="accepts the profiles tiny, not strict"):
        open_embedder(str(tiny), profile="strict", unprotected=False, seed=1)


def test_pairs_of_pictures_that_are_not_there_are_refused_before_any_work(tiny: Path) -> None:
    embedder = open_embedder(str(tiny), profile=None, unprotected=False, seed=1)
    with pytest.raises(DataError, match="'p008_0'"):
        verification.verify(embedder, PEOPLE, pairs_of(PEOPLE, 9))


def test_dense_impostors_are_every_two_pictures_of_different_people_once() -> None:
    rng = np.random.default_rng(0)
    names = [f"{n}" for n in range(700)]  # more than one block of rows
    matrix = rng.normal(size=(700, 8)).astype(np.float32)
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    who = {name: str(rng.integers(50)) for name in names}
    counts, lower = verification.dense_impostors(dict(zip(names, matrix, strict=True)), who)
    people_of = np.array([who[name] for name in names])
    every = (matrix @ matrix.T)[np.triu(people_of[:, None] != people_of[None, :], k=1)]
    assert counts.sum() == every.size
    assert np.all(np.abs(counts - np.histogram(every, np.append(lower, 1.0))[0]) <= 2), (
        "rounding at bin edges only"
    )


def test_dense_figures_put_the_threshold_where_the_stated_share_of_impostors_passes() -> None:
    rng = np.random.default_rng(0)
    names = [str(n) for n in range(400)]
    matrix = rng.normal(size=(400, 16)).astype(np.float32)
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    vectors = dict(zip(names, matrix, strict=True))
    pairs = Pairs(("0",), ("0",), np.array([True]), np.array([0]))
    figures = verification.dense_figures(np.array([0.9]), pairs, vectors, {n: n for n in names})
    every = (matrix @ matrix.T)[np.triu_indices(400, k=1)]
    assert figures["dense_impostor_comparisons"] == every.size == 79_800
    assert np.mean(every >= figures["dense_fnmr_at_fmr_1e-3_threshold"]) <= 1e-3
    assert np.mean(every >= figures["dense_fnmr_at_fmr_1e-3_threshold"] - 2e-3) > 0.9e-3
    assert figures["dense_fnmr_at_fmr_1e-3"] == 0.0
    assert "dense_fnmr_at_fmr_1e-5" not in figures, "80,000 comparisons do not measure one in 100,000"


def test_groups_count_only_pairs_inside_the_group_at_one_threshold() -> None:
    scores = np.array([0.9, 0.2, 0.8, 0.7, 0.9])
    pairs = Pairs(
        ("a", "a", "c", "c", "a"),
        ("b", "b", "d", "d", "d"),
        np.array([True, False, True, False, True]),
        np.zeros(5, np.int64),
    )
    labels = {"a": {"age": "20"}, "b": {"age": "25"}, "c": {"age": "70"}, "d": {"age": "61"}}
    result = verification.by_group(scores, pairs, labels, "age", 0.5)
    assert set(result) == {"18-29", "60+"}
    assert (result["18-29"]["fnmr"], result["18-29"]["fmr"], result["18-29"]["accuracy"]) == (0.0, 0.0, 1.0)
    assert (result["60+"]["fnmr"], result["60+"]["fmr"], result["60+"]["accuracy"]) == (0.0, 1.0, 0.5)
    assert result["60+"]["impostor_trials"] == 1


def test_a_template_counts_each_medium_once() -> None:
    # Template 5: medium 1 has a photograph along x, medium 2 a video of three frames along y.
    vectors = np.array([[1, 0], [0, 1], [0, 1], [0, 1], [1, 0]], np.float32)
    ids, templates = verification.template_vectors(
        vectors, np.array([5, 5, 5, 5, 3]), np.array([1, 2, 2, 2, 1])
    )
    assert ids.tolist() == [3, 5]
    assert templates[1] == pytest.approx([2**-0.5, 2**-0.5])
    assert templates[0] == pytest.approx([1, 0])


def test_ijb_reports_tpr_at_fpr_over_template_pairs() -> None:
    rng = np.random.default_rng(0)
    who = np.repeat(np.arange(40), 4)
    centres = rng.normal(size=(40, 32))
    vectors = centres[who] + 0.2 * rng.normal(size=(160, 32))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    template = np.arange(160) // 2  # two templates a person
    first, second = np.triu_indices(80, k=1)
    protocol = IjbProtocol(
        tuple(map(str, range(160))), template, np.arange(160), first, second, first // 2 == second // 2
    )
    figures = verification.verify_templates(vectors.astype(np.float32), protocol)
    assert figures["tpr_at_fpr_1e-4"] == 1.0
    assert (figures["templates"], figures["genuine_trials"], figures["impostor_trials"]) == (80, 40, 3120)


def test_an_attempt_of_different_pictures_never_holds_the_picture_it_is_compared_with() -> None:
    images = people(3, 4)
    pairs = Pairs(("p000_0", "p000_1", "p002_0"), ("p000_2", "p001_0", "p002_1"),
                  np.array([True, False, True]), np.array([0, 1, 0]))  # fmt: skip
    who = {name: person for name, person in identities(images).items() if name not in ("p002_2", "p002_3")}
    attempts = verification.attempts_of(pairs, images, who, 3)
    assert attempts == [
        ["p000_0", "p000_1", "p000_3"],
        ["p000_1", "p000_0", "p000_2"],
        ["p002_0", "p002_0", "p002_0"],
    ]


def test_fusing_different_pictures_says_how_many_attempts_had_them(tiny: Path) -> None:
    images = people(6, 4)
    pairs = Pairs(
        tuple(f"p{n:03d}_0" for n in range(6)) * 2,
        tuple(f"p{n:03d}_1" for n in range(6)) + tuple(f"p{(n + 1) % 6:03d}_1" for n in range(6)),
        np.repeat([True, False], 6), np.tile([0, 1], 6),
    )  # fmt: skip
    embedder = open_embedder(str(tiny), profile=None, unprotected=False, seed=1)
    figures, _, _ = verification.verify(embedder, images, pairs, captures=3, different=identities(images))
    assert figures["fused"] == "different pictures" and figures["attempts_of_different_pictures"] == 1.0
    assert figures["accuracy"] == 1.0
    plain, _, _ = verification.verify(embedder, images, pairs, captures=3)
    assert plain["fused"] == "one picture" and "pictures_an_attempt" not in plain
