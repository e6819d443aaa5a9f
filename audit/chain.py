"""The audit log as an RFC 6962 Merkle tree. Pure: bytes in, bytes out.

A tree of n leaves is cut into complete subtrees, each named by a `Node`. A complete subtree never changes
once its last leaf is there, so its hash is stored with that leaf; every root and every proof is folded from
O(log n) such hashes. Verification follows RFC 9162, sections 2.1.3.2 and 2.1.4.2; the canonical text of an
entry follows RFC 8785.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple

HASH_BYTES = 32
SALT_BYTES = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()
ENTRY_VERSION = 1
#: The largest integer that every JSON reader keeps exactly (RFC 8785, RFC 7493).
MAX_EXACT_INTEGER = 2**53 - 1


def leaf_hash(data: bytes) -> bytes:
    """RFC 6962: the prefix keeps a leaf from passing for a node."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


# Subtrees


class Node(NamedTuple):
    """A complete subtree: the 2**level leaves from position * 2**level on."""

    level: int
    position: int

    @property
    def last_leaf(self) -> int:
        return ((self.position + 1) << self.level) - 1


class Span(NamedTuple):
    """Leaves start <= i < end whose hash the RFC's recursion asks for: complete, or the ragged right edge."""

    start: int
    end: int


def nodes_of(span: Span) -> list[Node]:
    """The complete subtrees that make up a span, left to right: one for each bit of its length.

    A span that comes from the RFC's recursion starts at a multiple of a power of two no smaller than its
    length.
    """
    nodes, start = [], span.start
    length = span.end - span.start
    for level in reversed(range(length.bit_length())):
        if length >> level & 1:
            nodes.append(Node(level, start >> level))
            start += 1 << level
    return nodes


def span_hash(span: Span, hash_of: Callable[[Node], bytes]) -> bytes:
    return fold([hash_of(node) for node in nodes_of(span)])


def fold(peaks: Sequence[bytes]) -> bytes:
    """The root over complete subtrees of falling size; the empty tree has the hash of nothing."""
    if not peaks:
        return EMPTY_ROOT
    root = peaks[-1]
    for peak in reversed(peaks[:-1]):
        root = node_hash(peak, root)
    return root


class CompactRange:
    """The O(log n) hashes that appending needs: those of the complete subtrees, left to right."""

    def __init__(self, size: int = 0, peaks: Sequence[bytes] = ()) -> None:
        if len(peaks) != size.bit_count():
            raise ValueError(
                f"a tree of {size} leaves has {size.bit_count()} complete subtrees, not {len(peaks)}"
            )
        self.size = size
        self._peaks = list(peaks)

    def append(self, leaf: bytes) -> list[bytes]:
        """Appends a leaf hash and returns the hashes it completes: its own, then those of ever larger
        subtrees.
        """
        completed = [leaf]
        remaining = self.size
        while remaining & 1:
            completed.append(node_hash(self._peaks.pop(), completed[-1]))
            remaining >>= 1
        self._peaks.append(completed[-1])
        self.size += 1
        return completed

    def root(self) -> bytes:
        return fold(self._peaks)

    def copy(self) -> CompactRange:
        return CompactRange(self.size, self._peaks)


def _largest_power_of_two_below(length: int) -> int:
    return 1 << ((length - 1).bit_length() - 1)


# Proofs


def inclusion_spans(index: int, size: int) -> list[Span]:
    """The spans whose hashes are PATH(index, D[size]) of RFC 6962 section 2.1.1, from the leaf up."""
    if not 0 <= index < size:
        raise ValueError(f"entry {index} is not in a tree of {size}")
    spans, start, end = [], 0, size
    while end - start > 1:
        middle = start + _largest_power_of_two_below(end - start)
        if index < middle:
            spans.append(Span(middle, end))
            end = middle
        else:
            spans.append(Span(start, middle))
            start = middle
    return spans[::-1]


def consistency_spans(first: int, second: int) -> list[Span]:
    """The spans whose hashes are PROOF(first, D[second]) of RFC 6962 section 2.1.2. Everything extends the
    empty tree.
    """
    if not 0 <= first <= second:
        raise ValueError(f"a tree of {second} cannot extend one of {first}")
    if first == 0:
        return []
    spans, start, end, whole = [], 0, second, True
    while first < end:
        middle = start + _largest_power_of_two_below(end - start)
        if first <= middle:
            spans.append(Span(middle, end))
            end = middle
        else:
            spans.append(Span(start, middle))
            start, whole = middle, False
    if not whole:  # the verifier knows the first root, but not this part of it
        spans.append(Span(start, end))
    return spans[::-1]


def verify_inclusion(*, leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    """Whether `path` proves that the leaf with this hash is number `index` of the tree with this size and
    root.
    """
    if not 0 <= index < size:
        return False
    place, last, computed = index, size - 1, leaf
    for sibling in path:
        if last == 0:
            return False
        if place & 1 or place == last:
            computed = node_hash(sibling, computed)
            while place and not place & 1:  # a ragged edge climbs without siblings
                place, last = place >> 1, last >> 1
        else:
            computed = node_hash(computed, sibling)
        place, last = place >> 1, last >> 1
    return last == 0 and computed == root


def verify_consistency(
    *, first: int, second: int, path: Sequence[bytes], first_root: bytes, second_root: bytes
) -> bool:
    """Whether `path` proves that the second tree is the first one with leaves appended."""
    if not 0 <= first <= second:
        return False
    if first == second:
        return not path and first_root == second_root
    if first == 0:
        return not path and first_root == EMPTY_ROOT
    hashes = list(path)
    if first & (first - 1) == 0:  # the first tree is itself a complete subtree of the second
        hashes.insert(0, first_root)
    if not hashes:
        return False
    place, last = first - 1, second - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    old = new = hashes[0]
    for sibling in hashes[1:]:
        if last == 0:
            return False
        if place & 1 or place == last:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            while place and not place & 1:
                place, last = place >> 1, last >> 1
        else:
            new = node_hash(new, sibling)
        place, last = place >> 1, last >> 1
    return last == 0 and old == first_root and new == second_root


# What a leaf says

_TEXT = json.JSONEncoder(ensure_ascii=False)  # made once: json.dumps makes one for every word


def canonical(value: Any) -> str:
    """RFC 8785 text of a JSON value: one text for one value, in every language.

    Raises TypeError for what JSON does not know and ValueError for what it cannot carry exactly.
    """
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, str):
        value.encode("utf-8")  # a lone surrogate has no bytes
        return _TEXT.encode(str(value))
    if isinstance(value, int):
        # A large double without a fraction reads back as an integer; any other would change on the way.
        if abs(value) > MAX_EXACT_INTEGER and not _is_text_of_a_double(value):
            raise ValueError(f"an integer of {value.bit_length()} bits does not survive JSON exactly")
        return str(int(value))
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, (list, tuple)):
        return f"[{','.join(canonical(item) for item in value)}]"
    if isinstance(value, Mapping):
        if not all(isinstance(name, str) for name in value):
            raise TypeError("names in JSON are text")
        names = sorted(value, key=lambda name: name.encode("utf-16-be"))
        return "{" + ",".join(f"{canonical(name)}:{canonical(value[name])}" for name in names) + "}"
    raise TypeError(f"{type(value).__name__} has no place in an audit entry")


def _is_text_of_a_double(value: int) -> bool:
    return abs(value) < 10**21 and _number(float(value)) == str(int(value))


def _number(value: float) -> str:
    """ECMAScript's text of a double, which RFC 8785 prescribes. Python finds the same shortest digits."""
    if not math.isfinite(value):
        raise ValueError("JSON knows no infinity and no NaN")
    if value == 0:
        return "0"
    sign = "-" if value < 0 else ""
    decimal = Decimal(repr(abs(float(value)))).normalize().as_tuple()
    digits, exponent = "".join(map(str, decimal.digits)), int(decimal.exponent)
    point = len(digits) + exponent  # where the decimal point stands, counted from the first digit
    if 0 < point <= 21:
        if exponent >= 0:
            return sign + digits + "0" * exponent
        return f"{sign}{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    mantissa = digits if len(digits) == 1 else f"{digits[0]}.{digits[1:]}"
    return f"{sign}{mantissa}e{point - 1:+d}"


def time_text(at: datetime) -> str:
    """UTC to the microsecond: what both databases keep."""
    if at.tzinfo is None:
        raise ValueError("an audit entry needs a time with its zone")
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def entry_object(
    *,
    index: int,
    at: datetime,
    kind: str,
    actor: str,
    subject: str,
    details: Mapping[str, Any],
    commitments: Mapping[str, str],
) -> dict[str, Any]:
    """An entry as the tree knows it; `canonical` of this is the leaf."""
    return {
        "version": ENTRY_VERSION,
        "index": index,
        "at": time_text(at),
        "kind": kind,
        "actor": actor,
        "subject": subject,
        "details": details,
        "personal": commitments,
    }


def entry_leaf(entry: Mapping[str, Any]) -> bytes:
    """The leaf hash of an `entry_object`."""
    return leaf_hash(canonical(entry).encode())


def commitment(*, salt: bytes, name: str, value: Any) -> str:
    """Hex HMAC-SHA256 that stands for a personal field in the tree.

    With the salt anybody can check the value; without it not even a guess can be checked, so destroying the
    salt erases.
    """
    if len(salt) != SALT_BYTES:
        raise ValueError(f"a salt has {SALT_BYTES} bytes")
    return hmac.new(salt, canonical([name, value]).encode(), hashlib.sha256).hexdigest()
