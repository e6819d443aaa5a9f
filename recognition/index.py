"""Search over protected templates. `TemplateIndex` is what the gallery relies on; `FaissIndex` is the first engine.

An index is a cache of the database: it may be thrown away and rebuilt at any time, is never written to disk, and
names candidates only. Who opens a door is decided elsewhere.
"""

import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import faiss
import numpy as np
from numpy.typing import NDArray

from recognition.types import ProtectedTemplate

NO_ID = -1  # what a freed row carries; FAISS answers the same for "no result"
MOST_RESULTS_ON_GPU = 2048  # GpuIndexFlat refuses a larger k
HOLES_BEFORE_COMPACTION = 0.25  # share of the rows
#: Numbers (rows x dimension) up to which one thread searches. A second one saves less than a millisecond there and,
#: on cores that somebody else uses, waits many for its turn: 10,000 x 512 took 0.8 ms on one and 30 ms on two.
ONE_THREAD_UP_TO = 50_000_000
ALL_THREADS = faiss.omp_get_max_threads()


@dataclass(frozen=True, slots=True)
class Candidate:
    id: int
    score: float  # cosine, -1 to 1


class TemplateIndex(Protocol):
    """Four verbs. Every engine answers exactly (or states its measured recall), and all of them are thread-safe."""

    def add(self, ids: Sequence[int], templates: Sequence[ProtectedTemplate]) -> None:
        """All or nothing. An id already present is replaced. ValueError when dimension or key differ."""

    def remove(self, ids: Collection[int]) -> None:
        """Afterwards the vectors are not in this process's memory of the index. Unknown ids are ignored."""

    def search(
        self, probe: ProtectedTemplate, k: int, permitted: Collection[int] | None = None
    ) -> list[Candidate]:
        """At most `k`, best first, equal scores by id. `permitted` None means everybody; empty means nobody."""

    def rebuild(self, ids: Sequence[int], templates: Sequence[ProtectedTemplate]) -> None:
        """Replace everything at once: a search sees the old contents or the new, never a mixture."""

    def __len__(self) -> int: ...


class FaissIndex:
    """Exact inner-product search in memory, on a GPU where FAISS has one.

    Rows are addressed by position and mapped to ids here, because a GPU index neither removes rows nor filters
    them: a removed row is overwritten (CPU) or dropped by compaction (GPU) and skipped in between. One lock guards
    everything; in a large index FAISS uses all cores inside one search, so a second one at the same time would gain
    nothing, and in a small one it is over before the second has come.

    All templates are of one gallery key, which the first one sets: a score across keys is a random number, so mixing
    them is an error and not a bad result.
    """

    def __init__(self, dimension: int, *, on_gpu: bool | None = None) -> None:
        """`on_gpu` None takes a GPU where there is one; True without a GPU is an error."""
        if dimension < 1:
            raise ValueError(f"dimension must be positive, not {dimension}")
        gpus = faiss.get_num_gpus() if hasattr(faiss, "get_num_gpus") else 0
        if on_gpu and not gpus:
            raise ValueError("FAISS sees no GPU")
        self.dimension = dimension
        self._resources = faiss.StandardGpuResources() if gpus and on_gpu is not False else None
        self._rows_can_be_filtered_and_written = self._resources is None
        self._lock = threading.Lock()
        self._key_id: str | None = None
        self._clear()

    def __len__(self) -> int:
        with self._lock:
            return len(self._row_of)

    @property
    def key_id(self) -> str | None:
        """The gallery key of the contents; None while empty."""
        with self._lock:
            return self._key_id

    def __contains__(self, template_id: int) -> bool:
        with self._lock:
            return template_id in self._row_of

    def add(self, ids: Sequence[int], templates: Sequence[ProtectedTemplate]) -> None:
        new_ids = _checked_ids(ids, templates)
        vectors, key_id = self._matrix(templates)
        if not len(new_ids):
            return
        with self._lock:
            if self._key_id is not None and self._key_id != key_id:
                raise ValueError(f"the index holds templates of key {self._key_id}, not of {key_id}")
            self._free([int(i) for i in new_ids if int(i) in self._row_of])
            self._append(new_ids, vectors)
            self._key_id = key_id

    def remove(self, ids: Collection[int]) -> None:
        with self._lock:
            known = [int(i) for i in ids if int(i) in self._row_of]
            if not known:
                return
            self._free(known)
            freed = len(self._id_of) - len(self._row_of)
            many_holes = freed > HOLES_BEFORE_COMPACTION * len(self._id_of)
            if not self._row_of:
                self._clear()
            elif many_holes or not self._rows_can_be_filtered_and_written:
                self._compact()

    def search(
        self, probe: ProtectedTemplate, k: int, permitted: Collection[int] | None = None
    ) -> list[Candidate]:
        if k < 1:
            raise ValueError(f"k must be positive, not {k}")
        query, key_id = self._matrix([probe])
        with self._lock:
            if not self._row_of or (permitted is not None and len(permitted) == 0):
                return []
            if key_id != self._key_id:
                raise ValueError(
                    f"the probe is of key {key_id}, the index holds templates of key {self._key_id}"
                )
            wanted = self._id_of != NO_ID  # (rows,)
            if permitted is not None:
                wanted &= np.isin(self._id_of, np.fromiter(permitted, dtype=np.int64, count=len(permitted)))
            scores, rows = self._best(query, k, wanted)
            found = [
                Candidate(int(self._id_of[row]), float(score))
                for score, row in zip(scores, rows, strict=True)
            ]
        return sorted(found, key=lambda candidate: (-candidate.score, candidate.id))

    def rebuild(self, ids: Sequence[int], templates: Sequence[ProtectedTemplate]) -> None:
        new_ids = _checked_ids(ids, templates)
        vectors, key_id = self._matrix(templates)
        with self._lock:
            self._clear()
            if len(new_ids):
                self._append(new_ids, vectors)
                self._key_id = key_id

    # Everything below runs under the lock.

    def _clear(self) -> None:
        self._rows = self._empty_rows()
        self._id_of: NDArray[np.int64] = np.empty(0, dtype=np.int64)  # (rows,), NO_ID where freed
        self._row_of: dict[int, int] = {}
        self._key_id = None

    def _empty_rows(self) -> Any:  # faiss.Index, whose own types know half of its methods
        flat = faiss.IndexFlatIP(self.dimension)
        return flat if self._resources is None else faiss.index_cpu_to_gpu(self._resources, 0, flat)

    def _append(self, ids: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        first = len(self._id_of)
        self._rows.add(vectors)
        self._id_of = np.concatenate([self._id_of, ids])
        self._row_of.update((int(template_id), first + offset) for offset, template_id in enumerate(ids))

    def _free(self, ids: list[int]) -> None:
        rows = [self._row_of.pop(template_id) for template_id in ids]
        self._id_of[rows] = NO_ID
        if self._rows_can_be_filtered_and_written and rows:
            stored = faiss.rev_swig_ptr(self._rows.get_xb(), len(self._id_of) * self.dimension)
            stored.reshape(-1, self.dimension)[rows] = 0.0

    def _compact(self) -> None:
        living = np.flatnonzero(self._id_of != NO_ID)
        vectors = self._rows.reconstruct_n(0, len(self._id_of))[living]
        ids, key_id = self._id_of[living], self._key_id
        self._clear()
        self._append(ids, vectors)
        self._key_id = key_id

    def _best(
        self, query: NDArray[np.float32], k: int, wanted: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Scores and rows of the `k` best among the `wanted` rows."""
        available = int(wanted.sum())
        k = min(k, available)
        if not k:
            return np.empty(0, dtype=np.float32), np.empty(0, dtype=np.int64)
        if not self._rows_can_be_filtered_and_written:
            return self._best_without_filter(query, k, wanted)
        # OpenMP keeps this number for each calling thread apart.
        faiss.omp_set_num_threads(1 if len(wanted) * self.dimension <= ONE_THREAD_UP_TO else ALL_THREADS)
        if available == len(wanted):
            scores, rows = self._rows.search(query, k)
            return scores[0], rows[0]
        bits = np.packbits(wanted, bitorder="little")
        selector = faiss.IDSelectorBitmap(len(wanted), faiss.swig_ptr(bits))
        make_parameters: Any = faiss.SearchParameters  # its types know no arguments
        scores, rows = self._rows.search(query, k, params=make_parameters(sel=selector))
        return scores[0], rows[0]

    def _best_without_filter(
        self, query: NDArray[np.float32], k: int, wanted: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """For GPU rows: ask for more and more, filter here; where that does not reach, score on the CPU."""
        asked = k
        while asked <= min(MOST_RESULTS_ON_GPU, len(wanted)):
            scores, rows = self._rows.search(query, asked)
            kept = wanted[rows[0]]
            if kept.sum() >= k:
                return scores[0][kept][:k], rows[0][kept][:k]
            asked *= 4
        candidates = np.flatnonzero(wanted)
        all_scores = self._rows.reconstruct_n(0, len(wanted))[candidates] @ query[0]
        best = np.argsort(-all_scores, kind="stable")[:k]
        return all_scores[best], candidates[best]

    def _matrix(self, templates: Sequence[ProtectedTemplate]) -> tuple[NDArray[np.float32], str | None]:
        """(N,D) float32 and the one key of them all."""
        keys = {template.key_id for template in templates}
        if len(keys) > 1:
            raise ValueError(f"templates of several keys: {', '.join(sorted(keys))}")
        for template in templates:
            if template.vector.shape != (self.dimension,):
                raise ValueError(
                    f"expected templates of {self.dimension} numbers, got {template.vector.shape}"
                )
        matrix = np.empty((len(templates), self.dimension), dtype=np.float32)
        for row, template in enumerate(templates):
            matrix[row] = template.vector
        return matrix, next(iter(keys), None)


def _checked_ids(ids: Sequence[int], templates: Sequence[ProtectedTemplate]) -> NDArray[np.int64]:
    if len(ids) != len(templates):
        raise ValueError(f"{len(ids)} ids for {len(templates)} templates")
    if len(set(ids)) != len(ids):
        raise ValueError("an id is given twice")
    array = np.array(list(ids), dtype=np.int64)
    if (array < 0).any():
        raise ValueError("ids must not be negative")
    return array
