"""Append-only entries, their checkpoints, and the personal fields that may be erased.

Triggers in the database (see `audit.triggers`) refuse to change, remove or skip an entry, whoever asks.
"""

from __future__ import annotations

import json
from typing import Any

from django.db import models

from audit.chain import HASH_BYTES, entry_object


class Entry(models.Model):
    """One thing that happened. Written by `audit.services.record`, never changed.

    `hashes` holds the leaf hash and then the hash of every complete subtree that ends with this entry, so
    that each node of the tree is stored once, with the entry that completed it. `root` is the root of the
    tree up to here: it tells a verifier at which entry a changed log stops to fit.
    """

    index = models.BigIntegerField(primary_key=True, help_text="Place in the tree, from 0, without gaps.")
    at = models.DateTimeField()
    kind = models.CharField(max_length=64, help_text="Dotted, such as person.registered.")
    actor = models.CharField(max_length=200, help_text="Who did it: a user's name, terminal:…, system.")
    subject = models.CharField(
        max_length=200, blank=True, help_text="Whom or what it is about, such as person:…."
    )
    # Text and not JSON: the tree hashes these very characters, and a database may write JSON anew in its own
    # way.
    details_json = models.TextField(db_column="details")
    commitments_json = models.TextField(db_column="commitments")
    hashes = models.BinaryField()
    root = models.BinaryField(max_length=HASH_BYTES)

    class Meta:
        ordering = ["index"]
        verbose_name_plural = "entries"
        indexes = [
            models.Index(fields=["kind", "index"], name="entry_kind"),
            models.Index(fields=["subject", "index"], name="entry_subject"),
            models.Index(fields=["actor", "index"], name="entry_actor"),
            models.Index(fields=["at"], name="entry_at"),
        ]
        constraints = [
            models.CheckConstraint(condition=models.Q(index__gte=0), name="entry_index_from_zero"),
        ]

    def __str__(self) -> str:
        return f"{self.index} {self.kind}"

    @property
    def details(self) -> dict[str, Any]:
        """What everybody who reads the log may know."""
        return json.loads(self.details_json)

    @property
    def commitments(self) -> dict[str, str]:
        """Personal field -> hex commitment. The value is a `PersonalField`, until it is erased."""
        return json.loads(self.commitments_json)

    @property
    def leaf(self) -> bytes:
        return bytes(self.hashes)[:HASH_BYTES]

    def node(self, level: int) -> bytes:
        """Hash of the complete subtree of 2**level entries that ends with this one."""
        node = bytes(self.hashes)[level * HASH_BYTES : (level + 1) * HASH_BYTES]
        if len(node) != HASH_BYTES:
            raise ValueError(f"entry {self.index} completes no subtree of level {level}")
        return node

    def as_object(self) -> dict[str, Any]:
        """What the tree knows of this entry, ready for JSON."""
        return entry_object(
            index=self.index,
            at=self.at,
            kind=self.kind,
            actor=self.actor,
            subject=self.subject,
            details=self.details,
            commitments=self.commitments,
        )


class PersonalField(models.Model):
    """Salt and value behind one commitment, sealed together. Deleting the row erases: the tree does not
    notice.
    """

    entry = models.ForeignKey(Entry, on_delete=models.PROTECT, related_name="personal_fields")
    name = models.CharField(max_length=64)
    key_id = models.CharField(
        max_length=64, help_text="Key-encryption key from which the sealing key is derived."
    )
    sealed = models.BinaryField()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["entry", "name"], name="personal_field_once_per_entry")
        ]

    def __str__(self) -> str:
        return f"{self.name} of entry {self.entry_id}"


class Checkpoint(models.Model):
    """A signed statement of how many entries the log had and what their root was. Worth most where it is kept
    elsewhere.
    """

    number = models.BigIntegerField(primary_key=True, help_text="From 0, without gaps.")
    at = models.DateTimeField()
    size = models.BigIntegerField()
    root = models.BinaryField(max_length=HASH_BYTES)
    key_id = models.CharField(max_length=64)
    note = models.TextField(help_text="The signed note, as it is published.")

    class Meta:
        ordering = ["number"]
        constraints = [
            models.CheckConstraint(condition=models.Q(number__gte=0), name="checkpoint_number_from_zero"),
            models.UniqueConstraint(fields=["size"], name="checkpoint_once_per_size"),
        ]

    def __str__(self) -> str:
        return f"checkpoint {self.number} over {self.size} entries"
