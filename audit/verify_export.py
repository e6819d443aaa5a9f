"""Checks an exported audit log without the server that wrote it: `python -m audit.verify_export FILE [--key
KEY]`.

Needs this file, `chain.py`, `note.py` and the package `cryptography`; no Django, no database, no network. For
every entry: its text hashes to a leaf, the leaf's path leads to the root of the checkpoint, disclosed
personal values fit their commitments. The checkpoint's signature is checked against the key you give; without
one, against the key inside the file, which proves only that the file is of one piece. Exit code 0 when all
fits, 1 when something does not.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audit.chain import commitment, entry_leaf, verify_inclusion
from audit.note import CheckpointText, NoteError, VerifierKey, open_checkpoint

FORMAT = "lintel-audit-export/1"
CSV_COLUMNS = (
    "index",
    "at",
    "kind",
    "actor",
    "subject",
    "details",
    "personal_commitments",
    "personal_values",
    "leaf_hash",
    "path",
    "checkpoint",
    "public_keys",
)
#: What a spreadsheet would take for a formula; the exporter writes an apostrophe before it.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "'")


class ExportError(ValueError):
    """The file is no export, or what it says does not fit."""


@dataclass(frozen=True)
class Proven:
    """One exported entry with what proves it."""

    entry: Mapping[str, Any]
    leaf_hash: str
    path: Sequence[str]
    personal: Mapping[str, Mapping[str, Any]]  # name -> {"salt": hex, "value": ...}


@dataclass(frozen=True)
class Export:
    checkpoint: str
    public_keys: Sequence[str]
    entries: Sequence[Proven]


@dataclass(frozen=True)
class Result:
    checkpoint: CheckpointText
    key: VerifierKey
    entries: int
    disclosed: int  # personal values that fit their commitments


def verify_export(export: Export, *, trusted: Sequence[VerifierKey] = ()) -> Result:
    """Raises ExportError at the first thing that does not fit. Without trusted keys the file's own are
    believed.
    """
    try:
        keys = list(trusted) or [VerifierKey.parse(text) for text in export.public_keys]
        checkpoint = open_checkpoint(export.checkpoint, keys)
    except NoteError as error:
        raise ExportError(f"the checkpoint: {error}") from error
    disclosed, last = 0, -1
    for proven in export.entries:
        index = proven.entry.get("index")
        if not isinstance(index, int) or isinstance(index, bool) or index <= last:
            raise ExportError(f"after entry {last} comes {index!r}: out of order")
        last = index
        disclosed += _verify_entry(index, proven, checkpoint)
    signer = next(key for key in keys if _signed(export.checkpoint, key))
    return Result(checkpoint, signer, len(export.entries), disclosed)


def _signed(note: str, key: VerifierKey) -> bool:
    try:
        open_checkpoint(note, [key])
    except NoteError:
        return False
    return True


def _verify_entry(index: int, proven: Proven, checkpoint: CheckpointText) -> int:
    try:
        leaf = entry_leaf(proven.entry)
        path = [bytes.fromhex(text) for text in proven.path]
        stated = bytes.fromhex(proven.leaf_hash)
    except (ValueError, TypeError) as error:
        raise ExportError(f"entry {index} does not read: {error}") from error
    if leaf != stated:
        raise ExportError(f"entry {index} does not hash to its leaf")
    if not verify_inclusion(leaf=leaf, index=index, size=checkpoint.size, path=path, root=checkpoint.root):
        raise ExportError(f"entry {index} is not in the tree of the checkpoint")
    commitments = proven.entry.get("personal", {})
    for name, field in proven.personal.items():
        try:
            computed = commitment(salt=bytes.fromhex(field["salt"]), name=name, value=field["value"])
        except (ValueError, TypeError, KeyError) as error:
            raise ExportError(f"the personal field {name} of entry {index} does not read: {error}") from error
        if computed != commitments.get(name):
            raise ExportError(
                f"the personal field {name} of entry {index} is not what the entry committed to"
            )
    return len(proven.personal)


# Reading files


def read_export(path: Path) -> Export:
    """An export as JSON or CSV, told apart by its first character. Raises ExportError."""
    text = path.read_text(encoding="utf-8-sig")
    try:
        return _from_json(json.loads(text)) if text.lstrip().startswith("{") else _from_csv(text)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ExportError(f"not an export of an audit log: {error}") from error


def _from_json(data: Mapping[str, Any]) -> Export:
    if data["format"] != FORMAT:
        raise ExportError(f"this reads {FORMAT}, not {data['format']}")
    entries = [
        Proven(item["entry"], item["leaf_hash"], item["path"], item.get("personal", {}))
        for item in data["entries"]
    ]
    return Export(data["checkpoint"], data["public_keys"], entries)


def _from_csv(text: str) -> Export:
    rows = csv.DictReader(io.StringIO(text, newline=""))
    if tuple(rows.fieldnames or ()) != CSV_COLUMNS:
        raise ExportError("the columns are not those of an export")
    checkpoint, keys, entries = "", [], []  # type: str, list[str], list[Proven]
    for row in rows:
        if row["checkpoint"]:
            checkpoint, keys = row["checkpoint"], row["public_keys"].split()
        if row["index"]:  # an export of no entry still carries its checkpoint
            entries.append(_proven(row))
    return Export(checkpoint, keys, entries)


def _proven(row: Mapping[str, str]) -> Proven:
    entry = {
        "version": 1,
        "index": int(row["index"]),
        "at": row["at"],
        "kind": unescape_cell(row["kind"]),
        "actor": unescape_cell(row["actor"]),
        "subject": unescape_cell(row["subject"]),
        "details": json.loads(row["details"]),
        "personal": json.loads(row["personal_commitments"]),
    }
    return Proven(entry, row["leaf_hash"], row["path"].split(), json.loads(row["personal_values"]))


def escape_cell(text: str) -> str:
    """Text that a spreadsheet shows and does not compute."""
    return f"'{text}" if text.startswith(FORMULA_STARTS) else text


def unescape_cell(text: str) -> str:
    return text[1:] if text.startswith("'") else text


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m audit.verify_export", description="Checks an exported audit log."
    )
    parser.add_argument("file", type=Path, help="an export, JSON or CSV")
    parser.add_argument(
        "--key",
        action="append",
        default=[],
        help="public key of the log, name+hint+base64, from elsewhere than the file",
    )
    options = parser.parse_args(arguments)
    try:
        trusted = [VerifierKey.parse(text) for text in options.key]
        result = verify_export(read_export(options.file), trusted=trusted)
    except (ExportError, NoteError, OSError) as error:
        print(f"NOT PROVEN: {error}")
        return 1
    checkpoint = result.checkpoint
    print(
        f"Proven: {result.entries} entries are in the log {checkpoint.origin} of {checkpoint.size} entries,"
    )
    print(f"as signed on {checkpoint.at:%Y-%m-%d %H:%M:%S} UTC; {result.disclosed} personal values fit.")
    if not trusted:
        print(f"The key came from the file itself. Compare it with the one you were given:\n  {result.key}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
