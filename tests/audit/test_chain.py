"""The tree against published vectors and against the RFC's own recursion, written as slowly as it reads."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.chain import (
    EMPTY_ROOT,
    CompactRange,
    Node,
    Span,
    canonical,
    commitment,
    consistency_spans,
    entry_leaf,
    entry_object,
    inclusion_spans,
    leaf_hash,
    node_hash,
    nodes_of,
    span_hash,
    time_text,
    verify_consistency,
    verify_inclusion,
)

# The eight leaves, roots and paths of the Certificate Transparency reference tests (merkle_tree_test).
LEAVES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
INCLUSION = {
    (0, 1): [],
    (0, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (5, 8): [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 3): ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"],
    (1, 5): [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
}
CONSISTENCY = {
    (1, 1): [],
    (1, 8): INCLUSION[0, 8],
    (6, 8): [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 5): INCLUSION[1, 5][1:],
}


class Tree:
    """Keeps every complete subtree as the log does: with the leaf that completes it."""

    def __init__(self, leaves: list[bytes]) -> None:
        self.range = CompactRange()
        self.completed = [self.range.append(leaf_hash(leaf)) for leaf in leaves]

    def __getitem__(self, node: Node) -> bytes:
        return self.completed[node.last_leaf][node.level]

    def hashes(self, spans: list[Span]) -> list[bytes]:
        return [span_hash(span, self.__getitem__) for span in spans]

    def root(self, size: int) -> bytes:
        return span_hash(Span(0, size), self.__getitem__)


# RFC 6962, section 2.1, to the letter.


def split(n: int) -> int:
    k = 1
    while k * 2 < n:
        k *= 2
    return k


def mth(d: list[bytes]) -> bytes:
    if not d:
        return EMPTY_ROOT
    if len(d) == 1:
        return leaf_hash(d[0])
    k = split(len(d))
    return node_hash(mth(d[:k]), mth(d[k:]))


def path(m: int, d: list[bytes]) -> list[bytes]:
    if len(d) == 1:
        return []
    k = split(len(d))
    return path(m, d[:k]) + [mth(d[k:])] if m < k else path(m - k, d[k:]) + [mth(d[:k])]


def subproof(m: int, d: list[bytes], b: bool) -> list[bytes]:
    if m == len(d):
        return [] if b else [mth(d)]
    k = split(len(d))
    if m <= k:
        return [*subproof(m, d[:k], b), mth(d[k:])]
    return [*subproof(m - k, d[k:], False), mth(d[:k])]


def test_roots_are_those_of_the_reference_tests() -> None:
    tree = Tree(LEAVES)
    assert [tree.root(size).hex() for size in range(1, 9)] == ROOTS
    assert CompactRange().root() == EMPTY_ROOT
    assert EMPTY_ROOT.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.mark.parametrize(("question", "answer"), INCLUSION.items())
def test_inclusion_paths_are_those_of_the_reference_tests(
    question: tuple[int, int], answer: list[str]
) -> None:
    assert [item.hex() for item in Tree(LEAVES).hashes(inclusion_spans(*question))] == answer


@pytest.mark.parametrize(("question", "answer"), CONSISTENCY.items())
def test_consistency_paths_are_those_of_the_reference_tests(
    question: tuple[int, int], answer: list[str]
) -> None:
    assert [item.hex() for item in Tree(LEAVES).hashes(consistency_spans(*question))] == answer


leaves_strategy = st.lists(st.binary(max_size=4), min_size=1, max_size=70)


@settings(deadline=None, max_examples=60)
@given(leaves=leaves_strategy, data=st.data())
def test_roots_and_proofs_equal_the_recursion_of_the_rfc(leaves: list[bytes], data: st.DataObject) -> None:
    tree, size = Tree(leaves), len(leaves)
    index = data.draw(st.integers(0, size - 1))
    first = data.draw(st.integers(1, size))
    assert tree.range.root() == tree.root(size) == mth(leaves)

    inclusion = tree.hashes(inclusion_spans(index, size))
    assert inclusion == path(index, leaves)
    leaf, root = leaf_hash(leaves[index]), mth(leaves)
    assert verify_inclusion(leaf=leaf, index=index, size=size, path=inclusion, root=root)

    consistency = tree.hashes(consistency_spans(first, size))
    assert consistency == subproof(first, leaves, True)
    old = mth(leaves[:first])
    assert verify_consistency(first=first, second=size, path=consistency, first_root=old, second_root=root)

    resumed = CompactRange(first, [tree[node] for node in nodes_of(Span(0, first))])
    for leaf_data in leaves[first:]:
        resumed.append(leaf_hash(leaf_data))
    assert resumed.root() == root


@settings(deadline=None, max_examples=60)
@given(leaves=st.lists(st.binary(max_size=4), min_size=2, max_size=40, unique=True), data=st.data())
def test_a_proof_with_one_bit_changed_proves_nothing(leaves: list[bytes], data: st.DataObject) -> None:
    tree, size = Tree(leaves), len(leaves)
    index = data.draw(st.integers(0, size - 1))
    root, leaf = mth(leaves), leaf_hash(leaves[index])
    inclusion = tree.hashes(inclusion_spans(index, size))
    step, bit = data.draw(st.integers(0, len(inclusion) - 1)), data.draw(st.integers(0, 255))
    spoiled = list(inclusion)
    spoiled[step] = _flip(spoiled[step], bit)
    assert not verify_inclusion(leaf=leaf, index=index, size=size, path=spoiled, root=root)
    assert not verify_inclusion(leaf=_flip(leaf, bit), index=index, size=size, path=inclusion, root=root)
    assert not verify_inclusion(leaf=leaf, index=index, size=size, path=inclusion, root=_flip(root, bit))
    assert not verify_inclusion(leaf=leaf, index=index, size=size, path=inclusion[:-1], root=root)
    assert not verify_inclusion(leaf=leaf, index=index, size=size, path=[*inclusion, root], root=root)
    assert not verify_inclusion(leaf=leaf, index=size, size=size, path=inclusion, root=root)
    other = (index + 1) % size
    assert not verify_inclusion(leaf=leaf, index=other, size=size, path=inclusion, root=root)

    first = data.draw(st.integers(1, size - 1))
    old, consistency = mth(leaves[:first]), tree.hashes(consistency_spans(first, size))
    good = {"first": first, "second": size, "path": consistency, "first_root": old, "second_root": root}
    assert verify_consistency(**good)  # type: ignore[arg-type]
    spoiled = list(consistency)
    spoiled[0] = _flip(spoiled[0], bit)
    for change in (
        {"path": spoiled},
        {"path": consistency[:-1]},
        {"path": [*consistency, root]},
        {"first_root": _flip(old, bit)},
        {"second_root": _flip(root, bit)},
        {"path": []},
    ):
        assert not verify_consistency(**{**good, **change})  # type: ignore[arg-type]


def _flip(data: bytes, bit: int) -> bytes:
    return bytes(byte ^ (1 << bit % 8 if place == bit // 8 else 0) for place, byte in enumerate(data))


def test_everything_extends_the_empty_tree_and_nothing_shrinks() -> None:
    root = mth(LEAVES)
    assert consistency_spans(0, 8) == []
    assert verify_consistency(first=0, second=8, path=[], first_root=EMPTY_ROOT, second_root=root)
    assert not verify_consistency(first=0, second=8, path=[], first_root=root, second_root=root)
    assert not verify_consistency(first=8, second=3, path=[], first_root=root, second_root=root)
    with pytest.raises(ValueError, match="cannot extend"):
        consistency_spans(8, 3)
    with pytest.raises(ValueError, match="not in a tree"):
        inclusion_spans(8, 8)
    with pytest.raises(ValueError, match="complete subtrees"):
        CompactRange(3, [EMPTY_ROOT])


# RFC 8785, section 3.2.2.3 and appendix B.
NUMBERS = [
    (0.0, "0"),
    (-0.0, "0"),
    (5e-324, "5e-324"),
    (-5e-324, "-5e-324"),
    (1.7976931348623157e308, "1.7976931348623157e+308"),
    (9007199254740992.0, "9007199254740992"),
    (-9007199254740992.0, "-9007199254740992"),
    (295147905179352830000.0, "295147905179352830000"),
    (9.999999999999997e22, "9.999999999999997e+22"),
    (1e23, "1e+23"),
    (1.0000000000000001e23, "1.0000000000000001e+23"),
    (999999999999999700000.0, "999999999999999700000"),
    (1e21, "1e+21"),
    (9.999999999999997e-7, "9.999999999999997e-7"),
    (0.000001, "0.000001"),
    (333333333.3333332, "333333333.3333332"),
    (4.50, "4.5"),
    (2e-3, "0.002"),
    (1e30, "1e+30"),
    (1e-27, "1e-27"),
]


@pytest.mark.parametrize(("number", "text"), NUMBERS)
def test_numbers_are_written_as_rfc_8785_says(number: float, text: str) -> None:
    assert canonical(number) == text


def test_canonical_text_is_that_of_the_example_of_rfc_8785() -> None:
    value = {
        "numbers": [333333333.33333329, 1e30, 4.50, 2e-3, 0.000000000000000000000000001],
        "string": "\u20ac$\u000f\u000aA'\u0042\u0022\u005c\\\u0022/",
        "literals": [None, True, False],
    }
    assert canonical(value) == (
        '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
        '"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    )


def test_names_are_sorted_by_utf_16_units_as_in_rfc_8785() -> None:
    names = ["\u20ac", "\r", "\ufb33", "1", "\U0001f600", "\u0080", "\u00f6"]
    expected = ["\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]
    assert list(json.loads(canonical(dict.fromkeys(names, 0)))) == expected


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
numbers = st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=10,
)


@settings(deadline=None, max_examples=150)
@given(json_values)
def test_canonical_text_reads_back_to_itself(value: object) -> None:
    text = canonical(value)
    assert canonical(json.loads(text)) == text


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), 2**53 + 1, 10**400, "\ud800", b"bytes", {1: 2}, {1, 2}, object()]
)
def test_what_json_cannot_carry_is_refused(value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        canonical(value)


def test_times_are_utc_to_the_microsecond_and_never_naive() -> None:
    at = datetime(2026, 11, 24, 10, 0, 0, 5, tzinfo=timezone(timedelta(hours=1)))
    assert time_text(at) == "2026-11-24T09:00:00.000005Z"
    with pytest.raises(ValueError, match="zone"):
        time_text(datetime(2026, 11, 24))  # noqa: DTZ001


def test_every_part_of_an_entry_is_in_its_leaf() -> None:
    at = datetime(2026, 11, 24, 9, tzinfo=UTC)
    entry = {
        "index": 3, "at": at, "kind": "door.changed", "actor": "ada", "subject": "door:1",
        "details": {"a": 1}, "commitments": {"name": "ff"},
    }  # fmt: skip
    other = {
        "index": 4, "at": at + timedelta(microseconds=1), "kind": "door.created", "actor": "bob", "subject": "",
        "details": {"a": 1.5}, "commitments": {},
    }  # fmt: skip
    leaves = {entry_leaf(entry_object(**entry))} | {  # type: ignore[arg-type]
        entry_leaf(entry_object(**{**entry, name: value}))  # type: ignore[arg-type]
        for name, value in other.items()
    }
    assert len(leaves) == 1 + len(other)


def test_a_commitment_depends_on_salt_name_and_value() -> None:
    salt = bytes(range(32))
    made = {
        commitment(salt=salt, name="full_name", value="Bob"),
        commitment(salt=salt, name="email", value="Bob"),
        commitment(salt=salt, name="full_name", value="Rob"),
        commitment(salt=salt[::-1], name="full_name", value="Bob"),
    }
    assert len(made) == 4
    with pytest.raises(ValueError, match="32 bytes"):
        commitment(salt=b"short", name="full_name", value="Bob")
