"""Sealing is tested by attacking it."""

import dataclasses
import itertools
import os

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from enrollment import crypto

KEY, OTHER_KEY = bytes(range(32)), bytes(range(1, 33))
ALICES_ROW = crypto.RowIdentity(
    table="enrollment_protectedtemplate", row_id="7", person_id="alice", key_id="data-1"
)
PLAINTEXT = b"template of alice" * 10


def counting_randomness():
    numbers = itertools.count()
    return lambda size: next(numbers).to_bytes(size, "big")


@given(st.binary(max_size=4096))
def test_what_was_sealed_opens_again(plaintext):
    sealed = crypto.seal(plaintext, key=KEY, row=ALICES_ROW, randomness=os.urandom)
    assert crypto.unseal(sealed, key=KEY, row=ALICES_ROW) == plaintext


def test_a_sealed_value_is_aes_gcm_over_the_documented_layout():
    """The referee is the library called by hand."""
    sealed = crypto.seal(PLAINTEXT, key=KEY, row=ALICES_ROW, randomness=lambda size: b"n" * size)
    parts = [b"enrollment_protectedtemplate", b"7", b"alice", b"data-1"]
    associated = b"lintel sealed row 1" + b"".join(len(p).to_bytes(4, "big") + p for p in parts)
    assert sealed == b"\x01" + b"n" * 12 + AESGCM(KEY).encrypt(b"n" * 12, PLAINTEXT, associated)


def test_sealing_twice_gives_unrelated_bytes():
    randomness = counting_randomness()
    first = crypto.seal(PLAINTEXT, key=KEY, row=ALICES_ROW, randomness=randomness)
    second = crypto.seal(PLAINTEXT, key=KEY, row=ALICES_ROW, randomness=randomness)
    assert first[13:] != second[13:]


@pytest.mark.parametrize("field", ["table", "row_id", "person_id", "key_id"])
def test_a_value_moved_to_another_row_does_not_open(field):
    sealed = crypto.seal(PLAINTEXT, key=KEY, row=ALICES_ROW, randomness=os.urandom)
    elsewhere = dataclasses.replace(ALICES_ROW, **{field: "other"})
    with pytest.raises(crypto.SealBroken):
        crypto.unseal(sealed, key=KEY, row=elsewhere)


def test_fields_cannot_be_shifted_into_each_other():
    one = crypto.RowIdentity(table="t", row_id="12", person_id="3", key_id="k")
    other = crypto.RowIdentity(table="t", row_id="1", person_id="23", key_id="k")
    assert one.associated_data() != other.associated_data()


def test_every_altered_byte_is_noticed():
    sealed = crypto.seal(b"short", key=KEY, row=ALICES_ROW, randomness=os.urandom)
    for position in range(len(sealed)):
        altered = bytearray(sealed)
        altered[position] ^= 0x01
        with pytest.raises(crypto.SealBroken):
            crypto.unseal(bytes(altered), key=KEY, row=ALICES_ROW)


def test_every_truncation_is_noticed():
    sealed = crypto.seal(b"short", key=KEY, row=ALICES_ROW, randomness=os.urandom)
    for length in range(len(sealed)):
        with pytest.raises(crypto.SealBroken):
            crypto.unseal(sealed[:length], key=KEY, row=ALICES_ROW)


def test_the_wrong_key_does_not_open():
    sealed = crypto.seal(PLAINTEXT, key=KEY, row=ALICES_ROW, randomness=os.urandom)
    with pytest.raises(crypto.SealBroken):
        crypto.unseal(sealed, key=OTHER_KEY, row=ALICES_ROW)


def test_a_short_key_is_refused():
    with pytest.raises(ValueError, match="32 bytes"):
        crypto.seal(PLAINTEXT, key=b"short", row=ALICES_ROW, randomness=os.urandom)


def test_rotation_moves_the_data_key_to_the_newest_key_and_keeps_it():
    old, new = [("2025", KEY)], [("2026", OTHER_KEY), ("2025", KEY)]
    names = {"row_id": "data-1", "person_id": "alice"}
    data_key = crypto.new_data_key(randomness=os.urandom)
    wrapped, kek_id = crypto.wrap(data_key, keys=old, **names, randomness=os.urandom)
    assert kek_id == "2025"

    rotated, new_id = crypto.rotate(wrapped, keys=new, kek_id=kek_id, **names, randomness=os.urandom)

    assert new_id == "2026"
    assert crypto.unwrap(rotated, keys=new[:1], kek_id=new_id, **names) == data_key


def test_a_wrapped_key_of_another_person_does_not_open():
    wrapped, kek_id = crypto.wrap(
        KEY, keys=[("2026", OTHER_KEY)], row_id="data-1", person_id="alice", randomness=os.urandom
    )
    with pytest.raises(crypto.SealBroken):
        crypto.unwrap(wrapped, keys=[("2026", OTHER_KEY)], kek_id=kek_id, row_id="data-1", person_id="bob")


def test_a_wrapped_key_does_not_open_under_a_key_of_another_name():
    """The same bytes under a second id are another key: an id cannot be relabelled in the database."""
    ring = [("2026", OTHER_KEY), ("2025", OTHER_KEY)]
    wrapped, _ = crypto.wrap(KEY, keys=ring, row_id="data-1", person_id="alice", randomness=os.urandom)
    with pytest.raises(crypto.SealBroken):
        crypto.unwrap(wrapped, keys=ring, kek_id="2025", row_id="data-1", person_id="alice")


def test_a_lost_key_and_an_empty_ring_are_said_plainly():
    with pytest.raises(crypto.UnknownKey, match="2024"):
        crypto.find([("2026", KEY)], "2024")
    with pytest.raises(crypto.UnknownKey, match="empty"):
        crypto.newest([])
