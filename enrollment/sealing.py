"""Where sealed rows meet the key ring of the settings: the only place that opens a template or a data key.

A template's plaintext is its vector, float32 little-endian (D,). Randomness is the operating system's.
"""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
from django.conf import settings
from django.db import transaction
from django.db.models import QuerySet
from numpy.typing import NDArray

from enrollment import crypto
from enrollment.models import DataKey, Enrollment, NumberKey, Person, ProtectedTemplate

log = logging.getLogger(__name__)

TEMPLATE_TABLE = "enrollment_protectedtemplate"
NUMBER_KEY_ROW = "number key"
ROTATED_PER_TRANSACTION = 500


@dataclass(frozen=True, slots=True)
class OpenTemplate:
    """A template in the clear, in a worker's memory."""

    id: int
    person_id: uuid.UUID
    gallery_key_id: str
    vector: NDArray[np.float32] = field(repr=False)  # (D,)


def seal_new_template(
    *,
    enrollment: Enrollment,
    kind: str,
    vector: NDArray[np.float32],
    gallery_key_id: str,
    model: str,
    profile_hash: str,
    quality: float | None,
    at: datetime,
) -> ProtectedTemplate:
    """Stores one inactive template. Inside the caller's transaction, which holds the enrollment's lock.

    The seal is bound to the row's id, so the row comes first, empty, and is filled before anybody else can
    see it.
    """
    data_key = _data_key_for(enrollment.person_id)
    template = ProtectedTemplate.objects.create(
        person_id=enrollment.person_id,
        enrollment=enrollment,
        kind=kind,
        sealed=b"",
        model=model,
        profile_hash=profile_hash,
        gallery_key_id=gallery_key_id,
        quality=quality,
        created_at=at,
    )
    reseal(template, vector=vector, data_key=data_key)
    return template


def reseal(template: ProtectedTemplate, *, vector: NDArray[np.float32], data_key: DataKey) -> None:
    """Replaces the sealed bytes and saves the row; `gallery_key_id` is saved with it."""
    template.sealed = crypto.seal(
        vector.astype("<f4").tobytes(),
        key=open_data_key(data_key),
        row=_row(template.id, template.person_id, data_key.id),
        randomness=os.urandom,
    )
    template.save(update_fields=["sealed", "gallery_key_id"])


def open_templates(templates: QuerySet[ProtectedTemplate]) -> Iterator[OpenTemplate]:
    """Opens each; one that does not open is logged and left out, so one damaged row closes one face and not
    the gallery.

    Two queries, and each person's data key is unwrapped once: loading a gallery of 40,000 templates of 10,000
    people took 2.3 s on one core.
    """
    owners = templates.order_by().values("person")
    data_keys = {row.person_id: row for row in DataKey.objects.filter(person__in=owners)}
    opened: dict[uuid.UUID, bytes] = {}
    columns = templates.values_list("id", "person_id", "gallery_key_id", "sealed")
    for template_id, person_id, gallery_key_id, sealed in columns.iterator(chunk_size=2000):
        try:
            data_key = data_keys[person_id]
            if person_id not in opened:
                opened[person_id] = open_data_key(data_key)
            row = _row(template_id, person_id, data_key.id)
            plaintext = crypto.unseal(bytes(sealed), key=opened[person_id], row=row)
        except (KeyError, crypto.SealBroken, crypto.UnknownKey) as error:
            log.error("template %s does not open and is left out: %s", template_id, type(error).__name__)
            continue
        vector = np.frombuffer(plaintext, dtype="<f4").astype(np.float32)
        yield OpenTemplate(template_id, person_id, gallery_key_id, vector)


def move_templates(templates: QuerySet[ProtectedTemplate], *, to: Person) -> int:
    """Seals templates again for another person: the seal is bound to whom it is about. Under the locks of both.

    One that does not open cannot be moved and is deleted.
    """
    opened = {template.id: template.vector for template in open_templates(templates)}
    templates.exclude(id__in=opened).delete()
    data_key = _data_key_for(to.id)
    for template in templates:
        template.person = to
        template.save(update_fields=["person"])
        reseal(template, vector=opened[template.id], data_key=data_key)
    return len(opened)


def open_data_key(data_key: DataKey) -> bytes:
    return crypto.unwrap(
        bytes(data_key.wrapped),
        keys=settings.LINTEL_KEY_ENCRYPTION_KEYS,
        kek_id=data_key.kek_id,
        row_id=str(data_key.id),
        person_id=str(data_key.person_id),
    )


def shred_data_key(person: Person) -> bool:
    """Makes everything sealed for this person unreadable. True when there was a key.

    Overwritten before it is deleted: on SQLite the old bytes are then gone from the page as well (with
    secure_delete), on PostgreSQL from the live row; a backup made earlier still has them.
    """
    zeroed = DataKey.objects.filter(person=person).update(wrapped=bytes(1 + 12 + 32 + 16), kek_id="shredded")
    DataKey.objects.filter(person=person).delete()
    return bool(zeroed)


def rotate_data_keys() -> int:
    """Wraps every data key and the number key under the newest key-encryption key and returns how many changed. What
    they seal or hash stays untouched.

    May run beside everything else and may be interrupted: a row is either under the old key or under the new
    one.
    """
    newest_id, _ = crypto.newest(settings.LINTEL_KEY_ENCRYPTION_KEYS)
    rotated = 0
    while True:
        with transaction.atomic():
            behind = list(
                DataKey.objects.select_for_update()
                .exclude(kek_id=newest_id)
                .order_by("id")[:ROTATED_PER_TRANSACTION]
            )
            for data_key in behind:
                data_key.wrapped, data_key.kek_id = crypto.rotate(
                    bytes(data_key.wrapped),
                    keys=settings.LINTEL_KEY_ENCRYPTION_KEYS,
                    kek_id=data_key.kek_id,
                    row_id=str(data_key.id),
                    person_id=str(data_key.person_id),
                    randomness=os.urandom,
                )
            DataKey.objects.bulk_update(behind, ["wrapped", "kek_id"])
        rotated += len(behind)
        if len(behind) < ROTATED_PER_TRANSACTION:
            return rotated + _rotate_number_key(newest_id)


def number_key() -> bytes:
    """Under which card numbers and PINs are hashed; made at first need, by whoever comes first."""
    found = NumberKey.objects.first()
    if found is None:
        wrapped, kek_id = crypto.wrap(
            crypto.new_data_key(randomness=os.urandom),
            keys=settings.LINTEL_KEY_ENCRYPTION_KEYS,
            row_id=NUMBER_KEY_ROW,
            person_id="",
            randomness=os.urandom,
        )
        found, _ = NumberKey.objects.get_or_create(pk=1, defaults={"wrapped": wrapped, "kek_id": kek_id})
    return crypto.unwrap(
        bytes(found.wrapped),
        keys=settings.LINTEL_KEY_ENCRYPTION_KEYS,
        kek_id=found.kek_id,
        row_id=NUMBER_KEY_ROW,
        person_id="",
    )


def _rotate_number_key(newest_id: str) -> int:
    with transaction.atomic():
        behind = NumberKey.objects.select_for_update().exclude(kek_id=newest_id).first()
        if behind is None:
            return 0
        behind.wrapped, behind.kek_id = crypto.rotate(
            bytes(behind.wrapped),
            keys=settings.LINTEL_KEY_ENCRYPTION_KEYS,
            kek_id=behind.kek_id,
            row_id=NUMBER_KEY_ROW,
            person_id="",
            randomness=os.urandom,
        )
        behind.save(update_fields=["wrapped", "kek_id"])
    return 1


def _data_key_for(person_id: uuid.UUID) -> DataKey:
    """The person's data key, made at first need. Under the enrollment's lock, so never made twice."""
    existing = DataKey.objects.filter(person_id=person_id).first()
    if existing is not None:
        return existing
    key_id = uuid.uuid4()
    wrapped, kek_id = crypto.wrap(
        crypto.new_data_key(randomness=os.urandom),
        keys=settings.LINTEL_KEY_ENCRYPTION_KEYS,
        row_id=str(key_id),
        person_id=str(person_id),
        randomness=os.urandom,
    )
    return DataKey.objects.create(id=key_id, person_id=person_id, wrapped=wrapped, kek_id=kek_id)


def _row(template_id: int, person_id: uuid.UUID, data_key_id: uuid.UUID) -> crypto.RowIdentity:
    return crypto.RowIdentity(
        table=TEMPLATE_TABLE, row_id=str(template_id), person_id=str(person_id), key_id=str(data_key_id)
    )
