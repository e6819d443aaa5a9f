"""Writing the audit log, proving what is in it, and checking it.

`record` belongs inside the caller's transaction: the effect and its entry commit together or not at all. From
`record` to that commit nobody else records, so it is best called last, after other locks are taken.
"""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import connection, transaction
from django.db.models import Max, Q, QuerySet

from audit import chain
from audit.chain import CompactRange, Node, Span
from audit.models import Checkpoint, Entry, PersonalField
from audit.note import CheckpointText, VerifierKey, sign_note, verifier_key
from audit.sentences import describe
from audit.verification import CheckpointRow, Report, Row, verify_log

__all__ = [
    "checkpoint",
    "describe",
    "disclose_personal",
    "find_entries",
    "forget",
    "latest_checkpoint",
    "open_personal",
    "prove_consistency",
    "prove_inclusion",
    "prove_inclusions",
    "record",
    "reseal_personal",
    "verifier_keys",
    "verify_all",
]

#: Postgres advisory lock that whoever appends holds until commit. Any constant that nothing else uses.
APPEND_LOCK = 0x4C494E54
#: At most so many entries can be cut off the end of the log without a signed checkpoint telling.
CHECKPOINT_EVERY = 100
KIND = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+")
SEALING_CONTEXT = b"lintel audit personal field 1"
NONCE_BYTES = 12
VERIFY_CHUNK = 1000

#: Text with a %s for each value, and the values.
Statement = tuple[str, Sequence[Any]]


# Writing


def record(
    *,
    kind: str,
    actor: str,
    at: datetime,
    subject: str = "",
    details: Mapping[str, Any] | None = None,
    personal: Mapping[str, Any] | None = None,
    randomness: Callable[[int], bytes] = os.urandom,
    effect: Statement | None = None,
) -> Entry:
    """Appends one entry, and with every hundredth a checkpoint.

    `details` is for every reader and for ever. `personal` goes into the tree as salted commitments; its
    values lie sealed beside it until `forget(subject)`, so an entry with personal fields about a person names
    them as its subject. `effect`, what the entry is about, is done first: on Postgres it travels with the question for
    the lock. Raises ValueError or TypeError for what an entry cannot carry.

    Two workers may record at once. Postgres: the second waits for the advisory lock until the first commits,
    and then reads the first's entry, because under READ COMMITTED each statement sees what is committed.
    SQLite: transactions are IMMEDIATE, so there is one writer. Should both fail to hold, the primary key and
    the trigger refuse the second.
    """
    _check(kind=kind, actor=actor, subject=subject, at=at)
    values = {name: _plain(value) for name, value in (personal or {}).items()}
    salts = {name: randomness(chain.SALT_BYTES) for name in values}
    commitments = {
        name: chain.commitment(salt=salts[name], name=name, value=value) for name, value in values.items()
    }
    details_json, commitments_json = chain.canonical(_plain(details or {})), chain.canonical(commitments)
    with transaction.atomic(savepoint=False):  # an effect whose entry failed must not commit
        tree = _tree_of(*_lock(effect))
        entry = Entry(
            index=tree.size,
            at=at,
            kind=kind,
            actor=actor,
            subject=subject,
            details_json=details_json,
            commitments_json=commitments_json,
        )
        leaf = chain.entry_leaf(entry.as_object())
        entry.hashes = b"".join(tree.append(leaf))
        entry.root = tree.root()
        _insert(entry)
        _remember(tree, entry.root)
        if values:
            PersonalField.objects.bulk_create(
                _seal(entry.index, name, salts[name], value, randomness) for name, value in values.items()
            )
        if tree.size % CHECKPOINT_EVERY == 0:
            _sign(size=tree.size, root=entry.root, at=at)
    return entry


def _check(*, kind: str, actor: str, subject: str, at: datetime) -> None:
    if not KIND.fullmatch(kind) or len(kind) > 64:
        raise ValueError(f"{kind!r} is not a kind: kinds are dotted, such as person.registered")
    if not actor:
        raise ValueError("an entry names who did it")
    if len(actor) > 200 or len(subject) > 200 or "\x00" in actor + subject:
        raise ValueError("actor and subject are text of at most 200 characters")
    if at.tzinfo is None:
        raise ValueError("an entry needs a time with its zone")


def _plain(value: Any) -> Any:
    """Identifiers and times become text; everything else must be JSON already."""
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, datetime):
        return chain.time_text(value)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


#: Asked with every entry, so without the query builder, which takes ten times as long as the question.
_LAST = 'SELECT "index", root FROM audit_entry ORDER BY "index" DESC LIMIT 1'


def _lock(before: Statement | None = None) -> tuple[int, bytes]:
    """From here to the end of the transaction nobody else appends. How many entries there are, and the root that the
    last one states: on Postgres statements that travel together, and the last one sees what was committed while the
    one for the lock waited."""
    statements = [before] if before is not None else []
    if connection.vendor == "postgresql":
        statements.append(("SELECT pg_advisory_xact_lock(%s)", [APPEND_LOCK]))
    statements.append((_LAST, []))
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(
                "; ".join(text for text, _ in statements),
                [value for _, values in statements for value in values],
            )
            while cursor.nextset():
                pass
        else:
            for text, values in statements:
                cursor.execute(text, values)
        return _read_last(cursor)


def _size() -> int:
    with connection.cursor() as cursor:
        cursor.execute(_LAST)
        return _read_last(cursor)[0]


def _read_last(cursor: Any) -> tuple[int, bytes]:
    found = cursor.fetchone()
    return (0, chain.EMPTY_ROOT) if found is None else (int(found[0]) + 1, bytes(found[1]))


def _insert(entry: Entry) -> None:
    """What `entry.save(force_insert=True)` does, without building the statement anew each time."""
    values = [
        field.get_db_prep_save(getattr(entry, field.attname), connection=connection)
        for field in Entry._meta.concrete_fields
    ]
    with connection.cursor() as cursor:
        cursor.execute(_INSERT, values)
    entry._state.adding, entry._state.db = False, connection.alias


_INSERT = "INSERT INTO {} ({}) VALUES ({})".format(  # noqa: S608 (names are ours)
    Entry._meta.db_table,
    ", ".join(f'"{field.column}"' for field in Entry._meta.concrete_fields),
    ", ".join("%s" for _ in Entry._meta.concrete_fields),
)

#: The tree after the last entry that this process appended, and its root. Whoever appends next from here needs no
#: hashes from the database, if nobody else appended in between.
_remembered: tuple[CompactRange, bytes] | None = None


def _tree_of(size: int, root: bytes) -> CompactRange:
    """The tree that the next entry joins. The remembered one counts only when its root is the database's own: an
    entry that was rolled back, or written by somebody else, has another. Equal roots are equal trees."""
    remembered = _remembered
    if remembered is not None and remembered[0].size == size and remembered[1] == root:
        return remembered[0].copy()
    return _tree(size)


def _remember(tree: CompactRange, root: bytes) -> None:
    """Under the lock of whoever appends; a thread that reads meanwhile sees the old pair or the new one."""
    global _remembered
    _remembered = (tree.copy(), root)


def _tree(size: int) -> CompactRange:
    nodes = chain.nodes_of(Span(0, size))
    hashes = _node_hashes(nodes)
    return CompactRange(size, [hashes[node] for node in nodes])


def _node_hashes(nodes: Iterable[Node]) -> dict[Node, bytes]:
    """Hashes of complete subtrees, in one query."""
    wanted = set(nodes)
    if not wanted:
        return {}
    entries = Entry.objects.only("index", "hashes").in_bulk({node.last_leaf for node in wanted})
    return {node: entries[node.last_leaf].node(node.level) for node in wanted}


# Personal fields


def forget(subject: str) -> int:
    """Destroys salts and values of every personal field about a subject. The tree stays as it is. Returns how
    many.
    """
    if not subject:
        raise ValueError("forgetting needs to know whom")
    deleted, _ = PersonalField.objects.filter(entry__subject=subject).delete()
    return deleted


def open_personal(entry: Entry) -> dict[str, Any]:
    """The personal values of an entry that are not erased and whose seal opens."""
    opened = {item.name: _open(item) for item in entry.personal_fields.all()}
    return {name: pair[1] for name, pair in opened.items() if not isinstance(pair, str)}


def disclose_personal(entries: Sequence[Entry]) -> dict[int, dict[str, dict[str, Any]]]:
    """Index -> name -> salt (hex) and value: what lets a stranger check commitments, and what identifies
    people.
    """
    disclosed: dict[int, dict[str, dict[str, Any]]] = {}
    for item in PersonalField.objects.filter(entry__in=[entry.index for entry in entries]).order_by("pk"):
        opened = _open(item)
        if not isinstance(opened, str):
            salt, value = opened
            disclosed.setdefault(item.entry_id, {})[item.name] = {"salt": salt.hex(), "value": value}
    return disclosed


def reseal_personal() -> int:
    """Seals every personal field under the newest key, so that older ones can be retired. Returns how many
    changed.

    Safe beside other work: a field is replaced only if it is still the row that was read.
    """
    newest = settings.LINTEL_KEY_ENCRYPTION_KEYS[0][0]
    changed = 0
    for item in PersonalField.objects.exclude(key_id=newest).iterator(chunk_size=VERIFY_CHUNK):
        opened = _open(item)
        if isinstance(opened, str):
            raise ImproperlyConfigured(f"the personal field {item.name} of entry {item.entry_id}: {opened}")
        fresh = _seal(item.entry_id, item.name, *opened, os.urandom)
        changed += PersonalField.objects.filter(pk=item.pk, key_id=item.key_id).update(
            key_id=fresh.key_id, sealed=fresh.sealed
        )
    return changed


def _cipher(key: bytes) -> AESGCM:
    return AESGCM(HKDF(algorithm=SHA256(), length=32, salt=None, info=SEALING_CONTEXT).derive(key))


def _bound_to(index: int, name: str) -> bytes:
    return f"{index}:{name}".encode()


def _seal(
    index: int, name: str, salt: bytes, value: Any, randomness: Callable[[int], bytes]
) -> PersonalField:
    key_id, key = settings.LINTEL_KEY_ENCRYPTION_KEYS[0]
    nonce = randomness(NONCE_BYTES)
    sealed = _cipher(key).encrypt(nonce, salt + chain.canonical(value).encode(), _bound_to(index, name))
    return PersonalField(entry_id=index, name=name, key_id=key_id, sealed=nonce + sealed)


def _open(item: PersonalField) -> tuple[bytes, Any] | str:
    """Salt and value, or why the seal does not open."""
    key = dict(settings.LINTEL_KEY_ENCRYPTION_KEYS).get(item.key_id)
    if key is None:
        return f"the key {item.key_id} is not configured"
    sealed = _bytes(item.sealed)
    try:
        plain = _cipher(key).decrypt(
            sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], _bound_to(item.entry_id, item.name)
        )
    except (InvalidTag, ValueError):
        return "its seal is broken"
    return plain[: chain.SALT_BYTES], json.loads(plain[chain.SALT_BYTES :])


def _bytes(value: Any) -> bytes:
    """What a binary column holds; SQLite would give back text where an intruder wrote some."""
    return value.encode() if isinstance(value, str) else bytes(value or b"")


# Checkpoints


def checkpoint(at: datetime) -> Checkpoint:
    """A signed checkpoint over the whole log: the latest one if nothing was recorded since."""
    with transaction.atomic(savepoint=False):
        size, _ = _lock()
        latest = latest_checkpoint()
        if latest is not None and latest.size == size:
            return latest
        return _sign(size=size, root=_tree(size).root(), at=at)


def latest_checkpoint(*, covering: Entry | None = None) -> Checkpoint | None:
    """The newest checkpoint; None where there is none yet, or none that covers the given entry."""
    latest = Checkpoint.objects.order_by("-number").first()
    if latest is not None and covering is not None and latest.size <= covering.index:
        return None
    return latest


def _sign(*, size: int, root: bytes, at: datetime) -> Checkpoint:
    """The caller holds the lock."""
    key_id, seed = settings.LINTEL_SIGNING_KEYS[0]
    origin = settings.LINTEL_AUDIT_ORIGIN
    text = str(CheckpointText(origin=origin, size=size, root=root, at=at.astimezone(UTC)))
    last = Checkpoint.objects.aggregate(last=Max("number"))["last"]
    return Checkpoint.objects.create(
        number=0 if last is None else last + 1,
        at=at,
        size=size,
        root=root,
        key_id=key_id,
        note=sign_note(text, name=origin, seed=seed),
    )


def verifier_keys(origin: str = "") -> list[VerifierKey]:
    """The public keys of this installation, newest first: what a stranger needs to check its checkpoints.

    Keys that no longer sign stay configured behind the newest, so that what they signed can still be checked.
    """
    return [
        verifier_key(origin or settings.LINTEL_AUDIT_ORIGIN, seed) for _, seed in settings.LINTEL_SIGNING_KEYS
    ]


# Proofs


def prove_inclusion(entry: Entry, *, under: Checkpoint | None = None) -> dict[str, Any]:
    """A proof that `entry` is in the log, as JSON that `audit.verify_export` checks without this server.

    Under the given checkpoint, else the latest; one is signed, as of the entry's time, where none covers the
    entry yet. Raises ValueError where the given checkpoint does not cover it.
    """
    under = under or latest_checkpoint(covering=entry) or checkpoint(entry.at)
    (path,) = prove_inclusions([entry.index], size=under.size)
    return {
        "checkpoint": under.note,
        "public_keys": [str(key) for key in verifier_keys(under.note.partition("\n")[0])],
        "entry": entry.as_object(),
        "leaf_hash": entry.leaf.hex(),
        "path": path,
    }


def prove_inclusions(indexes: Sequence[int], *, size: int) -> list[list[str]]:
    """Audit paths (hex, from the leaf up) of several entries in the tree of `size`, in one query.

    Raises ValueError for an entry outside that tree.
    """
    spans = [chain.inclusion_spans(index, size) for index in indexes]
    return _hash_spans(spans)


def prove_consistency(first: int, second: int) -> list[str]:
    """Hashes (hex) that prove that the log of `second` entries is that of `first` with more appended.

    Raises ValueError for sizes that the log never had.
    """
    if second > _size():
        raise ValueError(f"the log has fewer than {second} entries")
    return _hash_spans([chain.consistency_spans(first, second)])[0]


def _hash_spans(lists: Sequence[Sequence[Span]]) -> list[list[str]]:
    hashes = _node_hashes(node for spans in lists for span in spans for node in chain.nodes_of(span))
    return [[chain.span_hash(span, hashes.__getitem__).hex() for span in spans] for spans in lists]


# Reading


def find_entries(
    *,
    kind: str = "",
    subject: str = "",
    actor: str = "",
    since: datetime | None = None,
    until: datetime | None = None,
    text: str = "",
) -> QuerySet[Entry]:
    """Entries that fit all filters, oldest first. `kind` may be a whole family, such as person. `until` is
    exclusive.
    """
    found = Entry.objects.order_by("index")
    if kind:
        found = found.filter(Q(kind=kind) | Q(kind__startswith=f"{kind}."))
    if subject:
        found = found.filter(subject=subject)
    if actor:
        found = found.filter(actor=actor)
    if since:
        found = found.filter(at__gte=since)
    if until:
        found = found.filter(at__lt=until)
    for word in text.split():
        found = found.filter(
            Q(kind__icontains=word)
            | Q(actor__icontains=word)
            | Q(subject__icontains=word)
            | Q(details_json__icontains=word)
        )
    return found


#: The smallest kind, then the smallest after it, and so on: a step for each kind, where DISTINCT reads every entry.
_KINDS = """
WITH RECURSIVE present(kind) AS (
    SELECT MIN(kind) FROM audit_entry
    UNION ALL
    SELECT (SELECT MIN(kind) FROM audit_entry WHERE kind > present.kind) FROM present WHERE present.kind IS NOT NULL
)
SELECT kind FROM present WHERE kind IS NOT NULL ORDER BY kind
"""


def kinds_present() -> list[str]:
    """Every kind of which the log has an entry."""
    with connection.cursor() as cursor:
        cursor.execute(_KINDS)
        return [kind for (kind,) in cursor.fetchall()]


# Checking


def verify_all(
    *, published: Sequence[CheckpointText] = (), progress: Callable[[int], None] = lambda entries: None
) -> Report:
    """Recomputes the whole log and all checkpoints. Entries recorded meanwhile are checked too or not at all.

    `published` are checkpoints kept elsewhere: they hold even against somebody who has the signing key.
    """
    checkpoints = [  # read before the entries: whatever a checkpoint covers is there by then
        CheckpointRow(row.number, row.size, _bytes(row.root), row.at, row.note)
        for row in Checkpoint.objects.order_by("number")
    ]
    return verify_log(
        rows=_rows, checkpoints=checkpoints, keys=verifier_keys, published=published, progress=progress
    )


def _rows(start: int) -> Iterator[Row]:
    """Entries from an index on, in order, a chunk at a time."""
    while True:
        chunk = _chunk(start)
        yield from chunk
        if len(chunk) < VERIFY_CHUNK:
            return
        start = chunk[-1].index + 1


_COLUMNS = ("index", "at", "kind", "actor", "subject", "details_json", "commitments_json", "hashes", "root")


def _chunk(start: int) -> list[Row]:
    rows = Entry.objects.filter(index__gte=start).order_by("index")
    try:
        found = list(rows.values_list(*_COLUMNS)[:VERIFY_CHUNK])
    except (ValueError, TypeError, AttributeError):
        # An intruder wrote what is no time: read without it, which no leaf survives.
        found = [
            (index, None, *others)
            for index, *others in rows.values_list(*(name for name in _COLUMNS if name != "at"))[
                :VERIFY_CHUNK
            ]
        ]
        found = [_with_time(row) for row in found]
    if not found:
        return []
    personal: dict[int, dict[str, tuple[bytes, Any] | str]] = {}
    for item in PersonalField.objects.filter(entry_id__gte=found[0][0], entry_id__lte=found[-1][0]):
        personal.setdefault(item.entry_id, {})[item.name] = _open(item)
    return [
        Row(
            index,
            at,
            kind,
            actor,
            subject,
            details,
            commitments,
            _bytes(hashes),
            _bytes(root),
            personal.get(index, {}),
        )
        for index, at, kind, actor, subject, details, commitments, hashes, root in found
    ]


def _with_time(row: tuple[Any, ...]) -> tuple[Any, ...]:
    try:
        return (row[0], Entry.objects.values_list("at", flat=True).get(index=row[0]), *row[2:])
    except (ValueError, TypeError, AttributeError):
        return row
