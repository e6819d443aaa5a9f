"""Checkpoints as signed notes, after C2SP tlog-checkpoint and signed-note. Pure.

    lintel.local/audit
    1204
    CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=
    at 2026-11-24T09:30:00.000000Z

    — lintel.local/audit Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+Z...

Origin, size, root; one extension line for the time; then who signed. Any verifier of transparency logs can
read it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from audit.chain import HASH_BYTES, time_text

ED25519 = b"\x01"  # the algorithm byte of signed-note
KEY_HINT_BYTES = 4


class NoteError(ValueError):
    """A note that is malformed, or that no known key signed."""


@dataclass(frozen=True)
class VerifierKey:
    """A public key under the name of the log it signs for."""

    name: str
    public: bytes

    def __post_init__(self) -> None:
        if not self.name or any(character.isspace() for character in self.name) or "+" in self.name:
            raise ValueError("a key's name is one word without a plus")
        if len(self.public) != 32:
            raise ValueError("an Ed25519 public key has 32 bytes")

    @property
    def hint(self) -> bytes:
        return hashlib.sha256(self.name.encode() + b"\n" + ED25519 + self.public).digest()[:KEY_HINT_BYTES]

    def __str__(self) -> str:
        """The text that verifiers are configured with: name+hint+key."""
        return f"{self.name}+{self.hint.hex()}+{base64.b64encode(ED25519 + self.public).decode()}"

    @classmethod
    def parse(cls, text: str) -> VerifierKey:
        try:
            name, hint, encoded = text.strip().split("+", 2)
            data = base64.b64decode(encoded, validate=True)
            key = cls(name, data[1:])
        except ValueError as error:
            raise NoteError(f"not a verifier key: {error}") from error
        if data[:1] != ED25519 or key.hint.hex() != hint:
            raise NoteError("not a verifier key: its parts do not fit each other")
        return key


def verifier_key(name: str, seed: bytes) -> VerifierKey:
    return VerifierKey(name, Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw())


def sign_note(text: str, *, name: str, seed: bytes) -> str:
    """`text` (lines, each ended, none empty) with one signature by the key `name`."""
    if not text.endswith("\n") or "\n\n" in text:
        raise ValueError("a note is lines of text, each ended, none empty")
    signature = Ed25519PrivateKey.from_private_bytes(seed).sign(text.encode())
    encoded = base64.b64encode(verifier_key(name, seed).hint + signature).decode()
    return f"{text}\n— {name} {encoded}\n"


def open_note(note: str, keys: Iterable[VerifierKey]) -> tuple[str, VerifierKey]:
    """The text of a note and the known key that signed it. Raises NoteError when no known key did."""
    known = {(key.name, key.hint): key for key in keys}
    text, separator, signatures = note.rpartition("\n\n")
    text += "\n"
    if not separator or not signatures.endswith("\n"):
        raise NoteError("not a signed note")
    for line in signatures[:-1].split("\n"):
        dash, _, rest = line.partition(" ")
        name, _, encoded = rest.partition(" ")
        if dash != "—":
            raise NoteError("not a signed note")
        try:
            data = base64.b64decode(encoded, validate=True)
        except binascii.Error as error:
            raise NoteError("a signature that is not base64") from error
        key = known.get((name, data[:KEY_HINT_BYTES]))
        if key is None:
            continue
        try:
            Ed25519PublicKey.from_public_bytes(key.public).verify(data[KEY_HINT_BYTES:], text.encode())
        except InvalidSignature as error:
            raise NoteError(f"the signature of {name} does not fit") from error
        return text, key
    raise NoteError("no known key signed this note")


@dataclass(frozen=True)
class CheckpointText:
    """What a checkpoint states: this log, at this time, had this many entries and this root."""

    origin: str
    size: int
    root: bytes
    at: datetime

    def __str__(self) -> str:
        root = base64.b64encode(self.root).decode()
        return f"{self.origin}\n{self.size}\n{root}\nat {time_text(self.at)}\n"

    @classmethod
    def parse(cls, text: str) -> CheckpointText:
        try:
            origin, size, encoded, time, _end = text.split("\n")
            at = datetime.strptime(time, "at %Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)
            parsed = cls(origin, int(size), base64.b64decode(encoded, validate=True), at)
        except ValueError as error:
            raise NoteError(f"not a checkpoint: {error}") from error
        if len(parsed.root) != HASH_BYTES or not origin or str(parsed) != text:
            raise NoteError("not a checkpoint")
        return parsed


def open_checkpoint(note: str, keys: Iterable[VerifierKey]) -> CheckpointText:
    """The statement of a checkpoint signed by a known key in its own name. Raises NoteError."""
    text, key = open_note(note, keys)
    checkpoint = CheckpointText.parse(text)
    if key.name != checkpoint.origin:
        raise NoteError("signed by the key of another log")
    return checkpoint
