"""Signed notes against the example that Go's reference implementation documents, byte for byte."""

from __future__ import annotations

import base64
from datetime import UTC, datetime

import pytest

from audit.note import (
    CheckpointText,
    NoteError,
    VerifierKey,
    open_checkpoint,
    open_note,
    sign_note,
    verifier_key,
)

KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
SEED = base64.b64decode("AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz")[1:]
TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
SIGNATURE = "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM="
NOTE = f"{TEXT}\n— PeterNeumann {SIGNATURE}\n"

SEED_OF_OURS = bytes(range(32))
OURS = verifier_key("lintel.local/audit", SEED_OF_OURS)
STATEMENT = CheckpointText("lintel.local/audit", 12, bytes(range(32)), datetime(2026, 11, 24, 9, tzinfo=UTC))


def test_keys_and_signatures_are_those_of_the_reference_implementation() -> None:
    assert str(verifier_key("PeterNeumann", SEED)) == KEY
    assert sign_note(TEXT, name="PeterNeumann", seed=SEED) == NOTE
    assert open_note(NOTE, [VerifierKey.parse(KEY)]) == (TEXT, VerifierKey.parse(KEY))


def test_a_checkpoint_says_who_how_many_which_root_and_when() -> None:
    note = sign_note(str(STATEMENT), name=OURS.name, seed=SEED_OF_OURS)
    assert note.split("\n")[:4] == [
        "lintel.local/audit", "12", base64.b64encode(bytes(range(32))).decode(), "at 2026-11-24T09:00:00.000000Z",
    ]  # fmt: skip
    assert open_checkpoint(note, [OURS]) == STATEMENT


def test_a_signature_of_somebody_unknown_beside_ours_does_no_harm() -> None:
    note = sign_note(str(STATEMENT), name=OURS.name, seed=SEED_OF_OURS)
    witness = "— witness.example " + base64.b64encode(bytes(68)).decode()
    assert open_checkpoint(note + witness + "\n", [OURS]) == STATEMENT


SIGNED = sign_note(str(STATEMENT), name=OURS.name, seed=SEED_OF_OURS)
ATTACKS = {
    "a larger size": SIGNED.replace("\n12\n", "\n13\n"),
    "another time": SIGNED.replace("09:00", "10:00"),
    "another origin": SIGNED.replace("lintel.local/audit\n12", "other.example/audit\n12"),
    "no signature": str(STATEMENT) + "\n",
    "a cut note": SIGNED[:-1],
    "a hyphen for the dash": SIGNED.replace("— ", "- "),
    "a signature that is no base64": SIGNED[:-6] + "*****\n",
    "nothing": "",
    "a stranger's key": sign_note(str(STATEMENT), name=OURS.name, seed=SEED),
    "a signed text that is no checkpoint": sign_note(
        "lintel.local/audit\n", name=OURS.name, seed=SEED_OF_OURS
    ),
    "a size with a leading zero": sign_note(
        str(STATEMENT).replace("\n12\n", "\n012\n"), name=OURS.name, seed=SEED_OF_OURS
    ),
    "our key for another log": sign_note(
        str(STATEMENT).replace("lintel.local", "other.local"), name=OURS.name, seed=SEED_OF_OURS
    ),
}


@pytest.mark.parametrize("note", ATTACKS.values(), ids=ATTACKS.keys())
def test_a_checkpoint_is_refused_for(note: str) -> None:
    with pytest.raises(NoteError):
        open_checkpoint(note, [OURS])


MANGLED = ["", "a+b", KEY.replace("c74f", "c74e"), KEY[:-4], "a b" + KEY, KEY.replace("+AR", "+Zh")]


@pytest.mark.parametrize("text", MANGLED)
def test_a_mangled_verifier_key_is_refused(text: str) -> None:
    with pytest.raises(NoteError):
        VerifierKey.parse(text)
