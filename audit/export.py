"""The log as a file that a stranger can check with `python -m audit.verify_export FILE`, without this server.

Streams: entries leave while the next are read. Everything is proven under one checkpoint, and entries under a
checkpoint never change, so a long export needs no long transaction.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from typing import Any

from django.db.models import QuerySet

from audit import services
from audit.chain import canonical, time_text
from audit.models import Checkpoint, Entry
from audit.verify_export import CSV_COLUMNS, FORMAT, escape_cell

CHUNK = 250


def as_json(
    *, found: QuerySet[Entry], under: Checkpoint, with_personal: bool, filters: dict[str, str]
) -> Iterator[str]:
    """One JSON object, one entry a line. `found` is in order of index; entries after the checkpoint are left
    out.
    """
    head = {
        "format": FORMAT,
        "checkpoint": under.note,
        "public_keys": _public_keys(under),
        "filters": filters,
    }
    yield json.dumps(head, ensure_ascii=False)[:-1] + ', "entries": ['
    separator = "\n"
    for entry, path, personal in _proven(found, under, with_personal):
        item = {"leaf_hash": entry.leaf.hex(), "path": path} | ({"personal": personal} if personal else {})
        yield f'{separator}{{"entry": {canonical(entry.as_object())}, {json.dumps(item, ensure_ascii=False)[1:]}'
        separator = ",\n"
    yield "\n]}\n"


class _Line:
    """What `csv.writer` writes to: hands the line on."""

    def write(self, line: str) -> str:
        return line


def as_csv(*, found: QuerySet[Entry], under: Checkpoint, with_personal: bool) -> Iterator[str]:
    """The first row carries the checkpoint and the public keys. Cells never begin like a formula."""
    writer = csv.writer(_Line())
    yield writer.writerow(CSV_COLUMNS)
    proof = (under.note, " ".join(_public_keys(under)))
    for entry, path, personal in _proven(found, under, with_personal):
        yield writer.writerow(
            (
                entry.index,
                time_text(entry.at),
                escape_cell(entry.kind),
                escape_cell(entry.actor),
                escape_cell(entry.subject),
                entry.details_json,
                entry.commitments_json,
                json.dumps(personal, ensure_ascii=False),
                entry.leaf.hex(),
                " ".join(path),
                *proof,
            )
        )
        proof = ("", "")
    if proof[0]:
        yield writer.writerow([""] * (len(CSV_COLUMNS) - len(proof)) + list(proof))


def _public_keys(under: Checkpoint) -> list[str]:
    return [str(key) for key in services.verifier_keys(under.note.partition("\n")[0])]


def _proven(
    found: QuerySet[Entry], under: Checkpoint, with_personal: bool
) -> Iterator[tuple[Entry, list[str], dict[str, Any]]]:
    after = -1
    while True:
        entries = list(found.filter(index__gt=after, index__lt=under.size).order_by("index")[:CHUNK])
        paths = services.prove_inclusions([entry.index for entry in entries], size=under.size)
        disclosed = services.disclose_personal(entries) if with_personal else {}
        for entry, path in zip(entries, paths, strict=True):
            yield entry, path, disclosed.get(entry.index, {})
        if len(entries) < CHUNK:
            return
        after = entries[-1].index
