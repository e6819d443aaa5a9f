import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from recognition.backbone import UNPROTECTED, build_backbone
from recognition.checkpoint import ModelError, load_model, save_model
from recognition.recognizer import BatchingRecognizer, Recognizer
from recognition.types import Embedding, PerturbedFeatures
from tests.tiny_model import TINY_DIMENSION, capture_of, make_tiny_model, synthetic_picture, tiny_profile

OTHER_PROFILE = tiny_profile("other")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny", profiles=(OTHER_PROFILE,))


@pytest.fixture(scope="module")
def recognizer(folder: Path) -> Recognizer:
    return Recognizer.load(folder, precision="float32")


def capture(seed: int) -> PerturbedFeatures:
    return capture_of(synthetic_picture(seed), tiny_profile())


def cosine(first: Embedding, second: Embedding) -> float:
    return float(first.vector @ second.vector)


def test_a_loaded_recognizer_says_what_it_is(recognizer: Recognizer) -> None:
    assert recognizer.name == "tiny"
    assert recognizer.dimension == TINY_DIMENSION
    assert recognizer.default_profile.hash == tiny_profile().hash
    assert set(recognizer.profiles) == {tiny_profile().hash, OTHER_PROFILE.hash}
    assert recognizer.threshold_for(gallery_size=1, target_fpir=0.1) == pytest.approx(0.6)


def test_captures_of_one_picture_match_and_of_two_pictures_do_not(recognizer: Recognizer) -> None:
    threshold = recognizer.threshold_for(gallery_size=4, target_fpir=0.01)
    first = recognizer.embed([capture(seed) for seed in range(4)])
    second = recognizer.embed([capture(seed) for seed in range(4)])
    for i in range(4):
        for j in range(4):
            assert (cosine(first[i], second[j]) >= threshold) == (i == j)


def test_an_embedding_is_what_the_network_makes_of_the_values_that_the_profile_gives_the_codes(
    folder: Path, recognizer: Recognizer
) -> None:
    """The referee is the network as trained: float32, one capture, numbers straight from the profile."""
    backbone, profile, features = load_model(folder).backbone, tiny_profile(), capture(5)
    with torch.no_grad():
        raw = backbone(
            torch.from_numpy(profile.values_of(features.codes[None])), torch.from_numpy(profile.gain)
        )
    expected = raw[0].numpy() / np.linalg.norm(raw[0].numpy())
    np.testing.assert_allclose(recognizer.embed([features])[0].vector, expected, atol=2e-5)


def test_a_capture_has_one_embedding_whoever_shares_its_batch_and_whatever_their_profile(
    recognizer: Recognizer,
) -> None:
    mixed = [
        capture_of(synthetic_picture(seed), [tiny_profile(), OTHER_PROFILE][seed % 2]) for seed in range(5)
    ]
    together = recognizer.embed(mixed)
    for features, embedding in zip(mixed, together, strict=True):
        np.testing.assert_allclose(recognizer.embed([features])[0].vector, embedding.vector, atol=2e-5)


def test_no_captures_give_no_embeddings(recognizer: Recognizer) -> None:
    assert recognizer.embed([]) == []


def test_bfloat16_gives_nearly_the_same_embeddings(folder: Path, recognizer: Recognizer) -> None:
    captures = [capture(seed) for seed in range(3)]
    rough = Recognizer.load(folder, precision="bfloat16").embed(captures)
    for exact, rounded in zip(recognizer.embed(captures), rough, strict=True):
        assert cosine(exact, rounded) > 0.99


def test_a_capture_under_an_unknown_profile_is_refused(recognizer: Recognizer) -> None:
    stranger = PerturbedFeatures(profile_hash="0" * 64, codes=capture(1).codes)
    with pytest.raises(ValueError, match="does not accept privacy profile"):
        recognizer.embed([capture(1), stranger])


def test_a_capture_of_another_shape_is_refused(recognizer: Recognizer) -> None:
    small = PerturbedFeatures(profile_hash=tiny_profile().hash, codes=np.zeros((189, 7, 7), np.uint8))
    with pytest.raises(ValueError, match="has shape"):
        recognizer.embed([small])


def test_an_unprotected_twin_never_becomes_a_recognizer(tmp_path: Path) -> None:
    twin = build_backbone("small", transform=UNPROTECTED, dimension=8)
    save_model(tmp_path / "twin", name="twin", backbone=twin, accepted=[])
    with pytest.raises(ModelError, match="not for doors"):
        Recognizer.load(tmp_path / "twin")


class Recorded(Recognizer):
    """The real recognizer, noting its batches: fails on `poisoned` captures, holds while `go` is not set."""

    def __init__(self, inner: Recognizer) -> None:
        self.__dict__.update(inner.__dict__)
        self.batches: list[int] = []
        self.poisoned: set[int] = set()
        self.go = threading.Event()
        self.go.set()

    def embed(self, batch: Sequence[PerturbedFeatures]) -> list[Embedding]:
        self.go.wait()
        self.batches.append(len(batch))
        if any(id(features) in self.poisoned for features in batch):
            raise FloatingPointError("this capture cannot be computed")
        return super().embed(batch)


def test_concurrent_requests_share_batches_and_each_gets_its_own_embedding(recognizer: Recognizer) -> None:
    recorded = Recorded(recognizer)
    captures = [capture(seed) for seed in range(12)]
    expected = recognizer.embed(captures)
    with (
        BatchingRecognizer(recorded, max_batch=4, max_wait_ms=60_000) as batching,
        ThreadPoolExecutor(12) as pool,
    ):
        found = list(pool.map(batching.embed_one, captures))
    assert recorded.batches == [4, 4, 4]
    for own, others in zip(expected, found, strict=True):
        np.testing.assert_allclose(own.vector, others.vector, atol=2e-5)


def test_a_lonely_request_is_not_kept_waiting_for_company(recognizer: Recognizer) -> None:
    recorded = Recorded(recognizer)
    with BatchingRecognizer(recorded, max_batch=32, max_wait_ms=1) as batching:
        batching.embed_one(capture(1), timeout_s=60)
    assert recorded.batches == [1]


def test_an_error_reaches_the_caller_whose_capture_causes_it_and_nobody_else(recognizer: Recognizer) -> None:
    recorded = Recorded(recognizer)
    captures = [capture(seed) for seed in range(3)]
    recorded.poisoned = {id(captures[1])}
    with BatchingRecognizer(recorded, max_batch=3, max_wait_ms=2000) as batching:
        futures = [batching.submit(features) for features in captures]
        with pytest.raises(FloatingPointError, match="cannot be computed"):
            futures[1].result(timeout=60)
        assert [futures[i].result(timeout=60).vector.shape for i in (0, 2)] == [(TINY_DIMENSION,)] * 2
        recorded.poisoned = set()
        assert batching.embed_one(captures[1], timeout_s=60)  # the thread lives on


def test_an_unknown_profile_is_refused_before_it_joins_a_batch(recognizer: Recognizer) -> None:
    recorded = Recorded(recognizer)
    with BatchingRecognizer(recorded) as batching, pytest.raises(ValueError, match="does not accept"):
        batching.embed_one(PerturbedFeatures(profile_hash="0" * 64, codes=capture(1).codes))
    assert recorded.batches == []


def test_closing_finishes_what_waits_and_refuses_what_follows(recognizer: Recognizer) -> None:
    recorded = Recorded(recognizer)
    recorded.go.clear()
    batching = BatchingRecognizer(recorded, max_batch=2, max_wait_ms=0)
    waiting = [batching.submit(capture(seed)) for seed in range(5)]
    closer = threading.Thread(target=batching.close)
    closer.start()
    while not batching._closed:
        time.sleep(0.001)
    with pytest.raises(RuntimeError, match="closed"):
        batching.embed_one(capture(9))
    recorded.go.set()
    closer.join(timeout=60)
    assert not closer.is_alive()
    assert all(future.done() and future.exception() is None for future in waiting)
    assert sum(recorded.batches) == 5
    batching.close()


def test_a_request_given_up_while_waiting_is_not_computed(recognizer: Recognizer) -> None:
    recorded = Recorded(recognizer)
    recorded.go.clear()
    with BatchingRecognizer(recorded, max_batch=1, max_wait_ms=0) as batching:
        busy = batching.submit(capture(1))
        while not busy.running():
            time.sleep(0.001)
        given_up = batching.submit(capture(2))
        assert given_up.cancel()
        recorded.go.set()
        busy.result(timeout=60)
    assert recorded.batches == [1]
