import threading
from collections.abc import Callable

import faiss
import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from recognition.index import Candidate, FaissIndex
from recognition.types import ProtectedTemplate

DIMENSION = 16


def template(seed: int, *, key_id: str = "2026", dimension: int = DIMENSION) -> ProtectedTemplate:
    drawn = np.random.default_rng(seed).standard_normal(dimension)
    return ProtectedTemplate(vector=(drawn / np.linalg.norm(drawn)).astype(np.float32), key_id=key_id)


class RowsOfAGpu:
    """What FAISS offers on a GPU: no filter, no removal, k of at most 2,048; computed on the CPU."""

    def __init__(self, dimension: int) -> None:
        self.flat = faiss.IndexFlatIP(dimension)
        self.add, self.reconstruct_n = self.flat.add, self.flat.reconstruct_n

    def search(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        assert k <= 2048
        return self.flat.search(query, k)


class IndexAsOnAGpu(FaissIndex):
    def __init__(self, dimension: int) -> None:
        super().__init__(dimension, on_gpu=False)
        self._rows_can_be_filtered_and_written = False
        self._clear()

    def _empty_rows(self) -> RowsOfAGpu:
        return RowsOfAGpu(self.dimension)


def on_cpu(dimension: int) -> FaissIndex:
    return FaissIndex(dimension, on_gpu=False)


both_engines = pytest.mark.parametrize("make", [on_cpu, IndexAsOnAGpu], ids=["cpu", "as-on-a-gpu"])
Make = Callable[[int], FaissIndex]


def by_brute_force(
    rows: dict[int, ProtectedTemplate], probe: ProtectedTemplate, k: int, permitted: set[int] | None
) -> list[Candidate]:
    found = [
        Candidate(template_id, float(held.vector.astype(np.float64) @ probe.vector.astype(np.float64)))
        for template_id, held in rows.items()
        if permitted is None or template_id in permitted
    ]
    return sorted(found, key=lambda candidate: (-candidate.score, candidate.id))[:k]


def assert_same(
    found: list[Candidate], expected: list[Candidate], rows: dict[int, ProtectedTemplate]
) -> None:
    """Equal scores in order; ids equal wherever the score is not a tie with the neighbour."""
    assert len(found) == len(expected)
    np.testing.assert_allclose([c.score for c in found], [c.score for c in expected], atol=1e-5)
    assert len({c.id for c in found}) == len(found)
    for candidate, wanted in zip(found, expected, strict=True):
        assert candidate.id == wanted.id or np.array_equal(rows[candidate.id].vector, rows[wanted.id].vector)


class IndexBesideAReferee(RuleBasedStateMachine):
    """Any order of the four verbs leaves the index equal to a dictionary searched by brute force."""

    make: Make = staticmethod(on_cpu)

    def __init__(self) -> None:
        super().__init__()
        self.index = self.make(DIMENSION)
        self.rows: dict[int, ProtectedTemplate] = {}

    @rule(new=st.dictionaries(st.integers(0, 40), st.integers(0, 1000), max_size=12))
    def add(self, new: dict[int, int]) -> None:
        templates = {template_id: template(seed) for template_id, seed in new.items()}
        self.index.add(list(templates), list(templates.values()))
        self.rows.update(templates)

    @rule(ids=st.sets(st.integers(0, 40), max_size=12))
    def remove(self, ids: set[int]) -> None:
        self.index.remove(ids)
        for template_id in ids:
            self.rows.pop(template_id, None)

    @rule(new=st.dictionaries(st.integers(0, 40), st.integers(0, 1000), max_size=12))
    def rebuild(self, new: dict[int, int]) -> None:
        self.rows = {template_id: template(seed) for template_id, seed in new.items()}
        self.index.rebuild(list(self.rows), list(self.rows.values()))

    @rule(seed=st.integers(0, 1000), k=st.integers(1, 50), permitted=st.none() | st.sets(st.integers(0, 60)))
    def search(self, seed: int, k: int, permitted: set[int] | None) -> None:
        probe = template(seed)
        assert_same(
            self.index.search(probe, k, permitted), by_brute_force(self.rows, probe, k, permitted), self.rows
        )

    @invariant()
    def sizes_agree(self) -> None:
        assert len(self.index) == len(self.rows)


class IndexAsOnAGpuBesideAReferee(IndexBesideAReferee):
    make = staticmethod(IndexAsOnAGpu)


few = settings(max_examples=40, stateful_step_count=20, deadline=None)
TestIndexBesideAReferee = IndexBesideAReferee.TestCase
TestIndexBesideAReferee.settings = few
TestIndexAsOnAGpuBesideAReferee = IndexAsOnAGpuBesideAReferee.TestCase
TestIndexAsOnAGpuBesideAReferee.settings = few


@both_engines
def test_an_empty_index_names_nobody(make: Make) -> None:
    assert make(DIMENSION).search(template(1), 5) == []


@both_engines
def test_nobody_permitted_means_nobody_found(make: Make) -> None:
    index = make(DIMENSION)
    index.add([1], [template(1)])
    assert index.search(template(1), 5, permitted=[]) == []
    assert index.search(template(1), 5, permitted=[2]) == []


@both_engines
def test_the_permitted_few_are_found_among_many_better_ones(make: Make) -> None:
    """On a GPU the asked-for k runs into its limit of 2,048 before it reaches the only permitted row."""
    index = make(DIMENSION)
    rows = {number: template(number) for number in range(5000)}
    index.add(list(rows), list(rows.values()))
    probe = template(17)
    worst = by_brute_force(rows, probe, 5000, None)[-1]
    assert [c.id for c in index.search(probe, 3, permitted={worst.id})] == [worst.id]


@both_engines
def test_a_removed_template_is_not_in_memory_any_more(make: Make) -> None:
    index = make(DIMENSION)
    index.add([1, 2, 3, 4, 5, 6, 7, 8], [template(number) for number in range(1, 9)])
    index.remove([3])
    stored = index._rows.reconstruct_n(0, len(index._id_of))
    assert not any(np.allclose(row, template(3).vector) for row in stored)
    assert 3 not in index and 4 in index


def test_an_id_added_again_is_replaced() -> None:
    index = on_cpu(DIMENSION)
    index.add([1], [template(1)])
    index.add([1], [template(2)])
    assert len(index) == 1
    assert index.search(template(2), 5)[0].score == pytest.approx(1.0, abs=1e-6)


def test_a_probe_of_another_gallery_key_is_an_error_and_not_a_bad_score() -> None:
    index = on_cpu(DIMENSION)
    index.add([1], [template(1)])
    with pytest.raises(ValueError, match="probe is of key 2025"):
        index.search(template(1, key_id="2025"), 1)
    with pytest.raises(ValueError, match="not of 2025"):
        index.add([2], [template(2, key_id="2025")])
    index.rebuild([2], [template(2, key_id="2025")])
    assert index.key_id == "2025"


@pytest.mark.parametrize(
    ("ids", "templates", "message"),
    [
        ([1], [template(1), template(2)], "1 ids for 2 templates"),
        ([1, 1], [template(1), template(2)], "twice"),
        ([-1], [template(1)], "negative"),
        ([1], [template(1, dimension=8)], "16 numbers"),
        ([1, 2], [template(1), template(2, key_id="2025")], "several keys"),
    ],
)
def test_a_bad_addition_changes_nothing(
    ids: list[int], templates: list[ProtectedTemplate], message: str
) -> None:
    index = on_cpu(DIMENSION)
    index.add([9], [template(9)])
    for verb in (index.add, index.rebuild):
        with pytest.raises(ValueError, match=message):
            verb(ids, templates)
    assert [c.id for c in index.search(template(9), 9)] == [9]


def test_searches_during_a_rebuild_see_the_old_gallery_or_the_new_one() -> None:
    index = on_cpu(DIMENSION)
    old = {number: template(number) for number in range(100)}
    new = {number: template(number) for number in range(100, 200)}
    index.rebuild(list(old), list(old.values()))
    finished, wrong = threading.Event(), []

    def keep_searching() -> None:
        while not finished.is_set():
            ids = {candidate.id for candidate in index.search(template(1), 100)}
            if ids not in (set(old), set(new)):
                wrong.append(ids)

    searchers = [threading.Thread(target=keep_searching) for _ in range(2)]
    for searcher in searchers:
        searcher.start()
    for turn in range(40):
        rows = new if turn % 2 == 0 else old
        index.rebuild(list(rows), list(rows.values()))
    finished.set()
    for searcher in searchers:
        searcher.join()
    assert wrong == []


def test_a_gpu_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 0)
    with pytest.raises(ValueError, match="no GPU"):
        FaissIndex(DIMENSION, on_gpu=True)
