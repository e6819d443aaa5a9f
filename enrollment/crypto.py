"""Sealing of templates and wrapping of keys. Pure: keys and randomness are arguments, nothing is read or
stored.

Hierarchy: a key-encryption key (KEK, from the environment) wraps one data key per person; the data key seals
that person's rows. Destroying the wrapped data key makes the rows unreadable, which is what erasure does.
Replacing the KEK re-wraps the data keys and leaves the rows alone.

Everything is AES-256-GCM. The associated data names the row, so a ciphertext copied to another row, person or
table, or presented under another key id, does not open.
"""

import hashlib
import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 32
NONCE_BYTES = 12  # NIST SP 800-38D; random, one key seals far fewer than 2^32 rows
TAG_BYTES = 16
FORMAT = b"\x01"
DOMAIN = b"lintel sealed row 1"
NUMBER_DOMAIN = b"lintel number 1"

Randomness = Callable[[int], bytes]
KeyRing = Sequence[tuple[str, bytes]]  # (key id, 32 bytes), newest first


class SealBroken(Exception):
    """The bytes were altered, belong to another row, or the key is another one. Which of these cannot be
    told."""


class UnknownKey(Exception):
    """The key ring has no key of this id."""


@dataclass(frozen=True, slots=True)
class RowIdentity:
    """What a ciphertext is bound to."""

    table: str
    row_id: str
    person_id: str
    key_id: str

    def associated_data(self) -> bytes:
        """Length-prefixed, so that no two identities have the same bytes."""
        parts = [part.encode() for part in (self.table, self.row_id, self.person_id, self.key_id)]
        return DOMAIN + b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def seal(plaintext: bytes, *, key: bytes, row: RowIdentity, randomness: Randomness) -> bytes:
    """format (1) | nonce (12) | ciphertext | tag (16)."""
    nonce = randomness(NONCE_BYTES)
    return FORMAT + nonce + _cipher(key).encrypt(nonce, plaintext, row.associated_data())


def unseal(sealed: bytes, *, key: bytes, row: RowIdentity) -> bytes:
    """The plaintext, or SealBroken."""
    if len(sealed) < len(FORMAT) + NONCE_BYTES + TAG_BYTES or sealed[:1] != FORMAT:
        raise SealBroken("not a sealed value")
    nonce, ciphertext = sealed[1 : 1 + NONCE_BYTES], sealed[1 + NONCE_BYTES :]
    try:
        return _cipher(key).decrypt(nonce, ciphertext, row.associated_data())
    except InvalidTag:
        raise SealBroken(f"{row.table} {row.row_id} does not open") from None


def new_data_key(*, randomness: Randomness) -> bytes:
    return randomness(KEY_BYTES)


def wrap(
    data_key: bytes, *, keys: KeyRing, row_id: str, person_id: str, randomness: Randomness
) -> tuple[bytes, str]:
    """The data key sealed under the newest key, and that key's id."""
    kek_id, kek = newest(keys)
    row = _data_key_row(row_id, person_id, kek_id)
    return seal(data_key, key=kek, row=row, randomness=randomness), kek_id


def unwrap(wrapped: bytes, *, keys: KeyRing, kek_id: str, row_id: str, person_id: str) -> bytes:
    """The data key. UnknownKey when the ring lost the key it is wrapped under."""
    return unseal(wrapped, key=find(keys, kek_id), row=_data_key_row(row_id, person_id, kek_id))


def rotate(
    wrapped: bytes, *, keys: KeyRing, kek_id: str, row_id: str, person_id: str, randomness: Randomness
) -> tuple[bytes, str]:
    """The same data key under the newest key. What it sealed stays as it is."""
    data_key = unwrap(wrapped, keys=keys, kek_id=kek_id, row_id=row_id, person_id=person_id)
    return wrap(data_key, keys=keys, row_id=row_id, person_id=person_id, randomness=randomness)


def keyed_hash(number: str, *, key: bytes, purpose: str, owner: str = "") -> bytes:
    """HMAC-SHA-256 of a card number or a PIN: without the key nobody can try out all numbers there are. Bound to what
    it is for and, where it has one, to its owner, so that equal numbers of two people look different."""
    parts = [part.encode() for part in (purpose, owner, number)]
    message = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    return hmac.new(key, NUMBER_DOMAIN + message, hashlib.sha256).digest()


def newest(keys: KeyRing) -> tuple[str, bytes]:
    if not keys:
        raise UnknownKey("the key ring is empty")
    return keys[0]


def find(keys: KeyRing, key_id: str) -> bytes:
    for candidate_id, key in keys:
        if candidate_id == key_id:
            return key
    raise UnknownKey(f"no key {key_id!r} in the key ring")


def _data_key_row(row_id: str, person_id: str, kek_id: str) -> RowIdentity:
    return RowIdentity(table="enrollment_datakey", row_id=row_id, person_id=person_id, key_id=kek_id)


def _cipher(key: bytes) -> AESGCM:
    if len(key) != KEY_BYTES:
        raise ValueError(f"a key has {KEY_BYTES} bytes, this one has {len(key)}")
    return AESGCM(key)
