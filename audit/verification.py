"""Recomputes a log and names the first entry that does not fit. Pure: rows come in, a report goes out.

What betrays a change, from weak intruders to strong ones:
- the entry no longer hashes to its stored leaf, or its index is missing;
- who also rewrites the leaf is betrayed by the root stored with that entry;
- who also rewrites every later root is betrayed by the next signed checkpoint, which narrows it to the
  entries since the one before;
- who also holds the signing key is betrayed by a checkpoint kept elsewhere (`published`).
Entries removed from the end since the last checkpoint leave no trace, so checkpoints are made often.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import StrEnum
from itertools import islice
from typing import Any

from audit.chain import ENTRY_VERSION, HASH_BYTES, CompactRange, canonical, commitment, leaf_hash, time_text
from audit.note import CheckpointText, NoteError, VerifierKey, open_checkpoint


@dataclass(frozen=True)
class Row:
    """An entry as it lies in the database; None where the database could not make sense of a column."""

    index: int
    at: datetime | None
    kind: str
    actor: str
    subject: str
    details: str
    commitments: str
    hashes: bytes
    root: bytes
    #: Personal field -> (salt, value), or the reason why its seal does not open. Erased fields are absent.
    personal: Mapping[str, tuple[bytes, Any] | str] = field(default_factory=dict)

    @property
    def leaf(self) -> bytes:
        return self.hashes[:HASH_BYTES]

    def leaf_at(self) -> Callable[[int], bytes]:
        """Leaf hash of this content as if it stood at some index. Raises ValueError where the content is no
        entry.
        """
        details, commitments = json.loads(self.details), json.loads(self.commitments)
        if self.at is None or not isinstance(details, dict) or not isinstance(commitments, dict):
            raise ValueError("not an entry")
        if canonical(details) != self.details or canonical(commitments) != self.commitments:
            raise ValueError("not the canonical text")
        # The names of an entry in RFC 8785 order: what stands before and after the index.
        head = (
            f'{{"actor":{canonical(self.actor)},"at":"{time_text(self.at)}","details":{self.details},"index":'
        )
        tail = (
            f',"kind":{canonical(self.kind)},"personal":{self.commitments}'
            f',"subject":{canonical(self.subject)},"version":{ENTRY_VERSION}}}'
        )
        return lambda index: leaf_hash(f"{head}{index}{tail}".encode())


@dataclass(frozen=True)
class CheckpointRow:
    number: int
    size: int
    root: bytes
    at: datetime | None
    note: str


class What(StrEnum):
    EDITED = "edited"
    DROPPED = "dropped"
    INSERTED = "inserted"
    REORDERED = "reordered"
    REWRITTEN = "rewritten"  # some entry of a range, with everything after it recomputed
    PERSONAL = "personal"  # a personal field that is not what the entry committed to
    CHECKPOINT = "checkpoint"


@dataclass(frozen=True)
class Problem:
    what: What
    index: int | None  # of the entry; None where only a checkpoint is concerned
    explanation: str
    until: int | None = None  # the entry lies in index <= i < until, where it cannot be named exactly
    checkpoint: int | None = None


@dataclass
class Report:
    entries: int = 0
    checkpoints: int = 0
    root: bytes = b""
    personal_fields: int = 0
    erased_fields: int = 0
    #: Entries vouched for: the size of the largest checkpoint that fits.
    covered: int = 0
    problems: list[Problem] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems

    @property
    def first(self) -> Problem | None:
        """The problem that concerns the earliest entry; problems of checkpoints alone come after all."""
        return min(self.problems, key=lambda p: (p.index is None, p.index or 0), default=None)

    def to_json(self) -> dict[str, Any]:
        report = asdict(self)
        return {
            **report,
            "ok": self.ok,
            "root": self.root.hex(),
            "first": None if self.first is None else asdict(self.first),
        }


#: Rows from an index on, in order of index. Called again only when something is wrong.
Rows = Callable[[int], Iterator[Row]]


def verify_log(
    *,
    rows: Rows,
    checkpoints: Iterable[CheckpointRow],
    keys: Callable[[str], Iterable[VerifierKey]],
    published: Sequence[CheckpointText] = (),
    progress: Callable[[int], None] = lambda index: None,
) -> Report:
    """`keys(origin)` are the public keys that may sign for a log of that name; `published` are checkpoints
    from elsewhere.
    """
    report = Report()
    stated = list(_check_notes(checkpoints, keys, report))
    sizes = {size for size, _, _ in stated} | {checkpoint.size for checkpoint in published}
    roots = _verify_entries(rows, sizes, report, progress)
    _compare_roots(stated, roots, report)
    # Apart from ours: who has the signing key could make ours fit, and then ours narrow nothing down.
    _compare_roots([(checkpoint.size, checkpoint.root, None) for checkpoint in published], roots, report)
    return report


def _check_notes(
    checkpoints: Iterable[CheckpointRow], keys: Callable[[str], Iterable[VerifierKey]], report: Report
) -> Iterator[tuple[int, bytes, int | None]]:
    """Yields size, root and number of each checkpoint whose signature fits and whose columns say the same."""
    size = 0
    for expected, row in enumerate(checkpoints):
        report.checkpoints += 1
        if row.number != expected:
            report.problems.append(
                Problem(What.CHECKPOINT, None, f"checkpoint {expected} is missing", checkpoint=expected)
            )
            return
        try:
            checkpoint = open_checkpoint(row.note, keys(row.note.partition("\n")[0]))
        except NoteError as error:
            report.problems.append(
                Problem(What.CHECKPOINT, None, f"checkpoint {row.number}: {error}", checkpoint=row.number)
            )
            continue
        if (checkpoint.size, checkpoint.root, checkpoint.at) != (row.size, row.root, row.at):
            explanation = f"checkpoint {row.number} says something else than its signed note"
            report.problems.append(Problem(What.CHECKPOINT, None, explanation, checkpoint=row.number))
        elif checkpoint.size < size:
            explanation = f"checkpoint {row.number} covers fewer entries than the one before it"
            report.problems.append(Problem(What.CHECKPOINT, None, explanation, checkpoint=row.number))
        size = max(size, checkpoint.size)
        yield checkpoint.size, checkpoint.root, row.number


def _verify_entries(
    rows: Rows, sizes: set[int], report: Report, progress: Callable[[int], None]
) -> dict[int, bytes]:
    """Walks up to the first entry that does not fit. Returns the roots it found at the given sizes."""
    tree = CompactRange()
    roots = {0: tree.root()}
    before = earlier = tree.copy()
    for row in rows(0):
        earlier, before = before, tree.copy()
        fault = _fault(row, tree)
        if fault is not None:
            report.problems.append(_explain(row, fault, rows, before, earlier))
            break
        _check_personal(row, report)
        if tree.size in sizes:
            roots[tree.size] = tree.root()
        report.entries = tree.size
        progress(tree.size)
    report.root = (before if report.problems and tree.size != report.entries else tree).root()
    return roots


class Fault(StrEnum):
    INDEX = "index"
    CONTENT = "content"
    ROOT = "root"
    NODES = "nodes"


def _fault(row: Row, tree: CompactRange) -> Fault | None:
    """Appends the row to the tree; says what does not fit, if anything."""
    if row.index != tree.size:
        return Fault.INDEX
    try:
        leaf = row.leaf_at()(row.index)
    except (ValueError, TypeError):
        return Fault.CONTENT
    if leaf != row.leaf:
        return Fault.CONTENT
    completed = tree.append(leaf)
    if row.root != tree.root():
        return Fault.ROOT
    return None if row.hashes == b"".join(completed) else Fault.NODES


def _check_personal(row: Row, report: Report) -> None:
    commitments = json.loads(row.commitments)
    report.personal_fields += len(row.personal)
    report.erased_fields += len(commitments.keys() - row.personal.keys())
    for name, opened in row.personal.items():
        if isinstance(opened, str):
            explanation = f"the personal field {name} of entry {row.index} does not open: {opened}"
        elif commitments.get(name) != commitment(salt=opened[0], name=name, value=opened[1]):
            explanation = f"the personal field {name} of entry {row.index} is not what the entry committed to"
        else:
            continue
        report.problems.append(Problem(What.PERSONAL, row.index, explanation))


def _compare_roots(
    stated: list[tuple[int, bytes, int | None]], roots: dict[int, bytes], report: Report
) -> None:
    """Compares what checkpoints state with what was found, and says what the first that does not fit betrays."""
    broken = any(problem.what not in (What.PERSONAL, What.CHECKPOINT) for problem in report.problems)
    covered = 0
    for size, root, number in sorted(stated, key=lambda item: item[0]):
        name = f"checkpoint {number}" if number is not None else "a published checkpoint"
        if size in roots and roots[size] == root:
            covered = size
            report.covered = max(report.covered, covered)
        elif size in roots:
            explanation = (
                f"{name} states another root for {size} entries: one of the entries"
                f" {covered} to {size - 1} was changed, with everything after it recomputed"
            )
            report.problems.append(
                Problem(What.REWRITTEN, covered, explanation, until=size, checkpoint=number)
            )
            return
        elif not broken:
            explanation = f"{name} covers {size} entries, the log has {report.entries}: the last were dropped"
            report.problems.append(
                Problem(What.DROPPED, report.entries, explanation, until=size, checkpoint=number)
            )
            return


# What happened, from the traces that the intruder left


def _explain(row: Row, fault: Fault, rows: Rows, before: CompactRange, earlier: CompactRange) -> Problem:
    """Names what happened at the first entry that does not fit.

    `before` is the tree up to this entry, `earlier` the one an entry shorter. Where several stories leave the
    same traces the index is still right.
    """
    here = before.size
    if row.index > here:
        missing = f"entry {here} is" if row.index == here + 1 else f"entries {here} to {row.index - 1} are"
        return Problem(What.DROPPED, here, f"{missing} missing", until=row.index)
    if row.index < here:
        return Problem(What.INSERTED, row.index, f"entry {row.index} exists twice")
    written = _written_at(row, rows) if fault is Fault.CONTENT else None
    displaced = any(_is_content_of(other, before, row) for other in rows(here + 1))
    if displaced and written is not None and written > here:
        return Problem(What.REORDERED, here, f"entry {here} was reordered: it was written as entry {written}")
    if here and _follow_on(rows(here), earlier):
        return Problem(
            What.INSERTED, here - 1, f"entry {here - 1} was inserted: entry {here} was written there"
        )
    if _follow_on(rows(here + 1), before):
        return Problem(
            What.INSERTED, here, f"entry {here} was inserted: the next were written one place earlier"
        )
    if displaced:
        return Problem(What.REORDERED, here, f"entry {here} was reordered: its content stands further on")
    if written is None:
        return Problem(
            What.EDITED, here, f"entry {here} was edited: it does not fit the {fault} stored with it"
        )
    if written > here:
        return Problem(
            What.DROPPED,
            here,
            f"entry {here} was dropped: entry {written} stands in its place",
            until=written,
        )
    if next(rows(written)).leaf == row.leaf:
        return Problem(What.INSERTED, here, f"entry {here} was inserted: it repeats entry {written}")
    return Problem(What.INSERTED, written, f"entry {written} was inserted: entry {here} was written there")


def _leaf_at(row: Row, index: int) -> bytes | None:
    try:
        return row.leaf_at()(index)
    except (ValueError, TypeError):
        return None


def _written_at(row: Row, rows: Rows) -> int | None:
    """Where this content was first written: by the leaf it carries along, or by the leaf it left behind."""
    try:
        leaf_at = row.leaf_at()
    except (ValueError, TypeError):
        return None
    for other in rows(row.index + 1):
        if leaf_at(other.index) in (other.leaf, row.leaf):
            return other.index
    # One more than there are: an entry moves up when another is dropped.
    last = max((other.index for other in rows(row.index)), default=row.index) + 1
    return next(
        (index for index in range(last + 1) if index != row.index and leaf_at(index) == row.leaf), None
    )


def _is_content_of(other: Row, before: CompactRange, row: Row) -> bool:
    """Whether `other` holds what was written where `row` stands now."""
    leaf = _leaf_at(other, before.size)
    if leaf is None:
        return False
    tree = before.copy()
    tree.append(leaf)
    return leaf in (other.leaf, row.leaf) or tree.root() in (other.root, row.root)


def _follow_on(later: Iterator[Row], tree: CompactRange) -> bool:
    """Whether the next entries (two, if there are two) were written as those that come after this tree."""
    tree = tree.copy()
    following = list(islice(later, 2))
    for row in following:
        leaf = _leaf_at(row, tree.size)
        if leaf is None:
            return False
        tree.append(leaf)
        if row.leaf != leaf and row.root != tree.root():
            return False
    return bool(following)
