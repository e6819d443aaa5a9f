import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recognition.protection import protect, rekey, rotation
from recognition.types import Embedding, ProtectedTemplate

DIMENSION = 64
LAST_YEARS_KEY = bytes(range(32))
THIS_YEARS_KEY = bytes(range(1, 33))


def embeddings(count: int, *, seed: int = 1, dimension: int = DIMENSION) -> list[Embedding]:
    drawn = np.random.default_rng(seed).standard_normal((count, dimension))
    return [Embedding(vector=(row / np.linalg.norm(row)).astype(np.float32)) for row in drawn]


def cosine(first: ProtectedTemplate | Embedding, second: ProtectedTemplate | Embedding) -> float:
    return float(first.vector.astype(np.float64) @ second.vector.astype(np.float64))


@settings(max_examples=30, deadline=None)
@given(key=st.binary(min_size=32, max_size=32), seed=st.integers(0, 2**32 - 1))
def test_scores_between_templates_of_one_key_are_the_scores_between_the_embeddings(
    key: bytes, seed: int
) -> None:
    first, second = embeddings(2, seed=seed)
    protected = [protect(embedding, key=key, key_id="k") for embedding in (first, second)]
    assert cosine(*protected) == pytest.approx(cosine(first, second), abs=1e-6)


def test_a_template_says_which_key_it_is_of_and_keeps_unit_length() -> None:
    template = protect(embeddings(1)[0], key=THIS_YEARS_KEY, key_id="2026")
    assert template.key_id == "2026"
    assert np.linalg.norm(template.vector) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("dimension", [1, 7, 64, 256])
def test_the_rotation_is_orthonormal_for_every_dimension(dimension: int) -> None:
    matrix = rotation(THIS_YEARS_KEY, dimension)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(dimension), atol=1e-12)


def test_the_rotation_of_a_known_key_never_changes() -> None:
    """A changed rotation would make every enrolled template a stranger: these numbers are part of the format."""
    np.testing.assert_allclose(rotation(LAST_YEARS_KEY, 4), FORMAT_VECTOR, atol=1e-12)


def test_changing_the_key_needs_no_embedding_and_equals_protecting_anew() -> None:
    for embedding in embeddings(5):
        old = protect(embedding, key=LAST_YEARS_KEY, key_id="2025")
        moved = rekey(old, old=LAST_YEARS_KEY, new=THIS_YEARS_KEY, new_key_id="2026")
        anew = protect(embedding, key=THIS_YEARS_KEY, key_id="2026")
        assert moved.key_id == "2026"
        np.testing.assert_allclose(moved.vector, anew.vector, atol=1e-6)


def test_whoever_has_the_key_has_the_embedding() -> None:
    """What the transform does not protect from, kept as a test so that nobody claims otherwise."""
    embedding = embeddings(1)[0]
    template = protect(embedding, key=THIS_YEARS_KEY, key_id="2026")
    recovered = rotation(THIS_YEARS_KEY, DIMENSION).T @ template.vector
    np.testing.assert_allclose(recovered, embedding.vector, atol=1e-6)


def test_templates_of_one_person_under_two_keys_look_like_templates_of_two_people() -> None:
    """Mated and non-mated scores across keys come from one distribution: a two-sample Kolmogorov-Smirnov distance
    above 0.115 would have probability below 0.001 for 600 draws each (1.95 * sqrt(2/600))."""
    people = embeddings(600, seed=2)
    before = [protect(person, key=LAST_YEARS_KEY, key_id="2025") for person in people]
    after = [protect(person, key=THIS_YEARS_KEY, key_id="2026") for person in people]
    mated = np.sort([cosine(a, b) for a, b in zip(before, after, strict=True)])
    others = np.sort([cosine(a, b) for a, b in zip(before, after[1:] + after[:1], strict=True)])
    everywhere = np.concatenate([mated, others])
    distance = np.abs(
        np.searchsorted(mated, everywhere, side="right") - np.searchsorted(others, everywhere, side="right")
    ).max() / len(people)
    assert distance < 0.115
    assert abs(mated.mean()) < 4 / np.sqrt(DIMENSION * len(people))


def test_one_flipped_bit_of_the_key_gives_an_unrelated_rotation() -> None:
    flipped = bytes([THIS_YEARS_KEY[0] ^ 1]) + THIS_YEARS_KEY[1:]
    agreement = rotation(THIS_YEARS_KEY, DIMENSION) @ rotation(flipped, DIMENSION).T
    assert np.abs(agreement).max() < 6 / np.sqrt(DIMENSION)


@pytest.mark.parametrize("key", [b"", b"short", bytes(31), bytes(33)])
def test_a_key_of_another_length_is_refused(key: bytes) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        protect(embeddings(1)[0], key=key, key_id="k")


def test_nobody_can_change_a_cached_rotation() -> None:
    with pytest.raises(ValueError, match="read-only"):
        rotation(THIS_YEARS_KEY, DIMENSION)[0, 0] = 1.0


# Key 00 01 .. 1f, dimension 4: from a program without numpy (HKDF, RFC 8439 ChaCha20 and Gram-Schmidt written out).
FORMAT_VECTOR = [
    [0.276053262669830, -0.668341865786081, 0.530861193508948, -0.441927754087904],
    [-0.233445820579085, -0.528224687320544, -0.769834765274807, -0.271728134198260],
    [0.032254865359966, -0.517025471810709, 0.043450869621442, 0.854257752138466],
    [-0.931803235117098, -0.083561304690673, 0.351643093933307, -0.033277231905446],
]
