"""What workers do for enrollment. A task takes ids, may be delivered twice, and leaves the rules to
services."""

from __future__ import annotations

import logging
from uuid import UUID

from celery import shared_task
from django.conf import settings
from django.utils import timezone

from enrollment import crypto, gallery, payloads, services
from recognition.payload import PayloadError, unpack
from recognition.protection import protect
from recognition.types import PerturbedFeatures, ProtectedTemplate

log = logging.getLogger(__name__)

AGREEMENT_FMR = (
    0.02  # share of other people who would pass as the same: a mix-up is caught, a noisy capture is not
)
SEARCHES_BEFORE_GIVING_UP = 20


@shared_task(name="enrollment.tasks.embed_capture", acks_late=True, ignore_result=True)
def embed_capture(enrollment_id: str, payload_key: str) -> None:
    """Embeds one capture, stages it, and concludes the enrollment when it was the last one.

    Delivered again after a crash, it finds no payload and no waiting capture, and concludes what is left to
    conclude.
    """
    enrollment = UUID(enrollment_id)
    features, reason = _take(payload_key)
    if features is not None:
        reason = _stage(enrollment, payload_key, features)
    if reason:
        services.refuse_capture(
            enrollment_id=enrollment, payload_key=payload_key, reason=reason, at=timezone.now()
        )
    conclude(enrollment)


@shared_task(name="enrollment.tasks.expire", ignore_result=True)
def expire() -> None:
    """Every minute or so: ends enrollments nobody finished, takes people whose time is over out of the
    gallery."""
    services.expire_enrollments(at=timezone.now())
    services.expire_people(at=timezone.now())


def _take(payload_key: str) -> tuple[PerturbedFeatures | None, str]:
    """The features, or None and the reason why not."""
    try:
        payload = payloads.take(payload_key)
    except payloads.PayloadStoreUnavailable:
        return None, "payload_missing"
    if payload is None:
        return None, "payload_missing"
    try:
        return unpack(payload, gallery.recognizer().recognizer.profiles), ""
    except PayloadError as error:
        log.warning("a capture was refused by the worker: %s", error.code)
        return None, "payload_refused"


def _stage(enrollment_id: UUID, payload_key: str, features: PerturbedFeatures) -> str:
    """The reason why the capture could not be used, or an empty string."""
    key_id, key = crypto.newest(settings.LINTEL_GALLERY_KEYS)
    model = gallery.recognizer()
    try:
        template = protect(model.embed_one(features), key=key, key_id=key_id)
    except Exception:  # whatever the recogniser does wrong, the person hears of it and tries again
        log.exception("the recogniser failed on a capture of enrollment %s", enrollment_id)
        return "recognizer_fault"
    services.add_capture(
        enrollment_id=enrollment_id,
        payload_key=payload_key,
        vector=template.vector,
        gallery_key_id=key_id,
        model=gallery.model_id(),
        profile_hash=features.profile_hash,
        agreement_threshold=model.recognizer.threshold_for(
            gallery_size=1, target_fpir=AGREEMENT_FMR, profile_hash=features.profile_hash
        ),
        at=timezone.now(),
    )
    return ""


def conclude(enrollment_id: UUID) -> None:
    """Fuses the captures, looks for the same face under another name, and completes or asks a person."""
    for _ in range(SEARCHES_BEFORE_GIVING_UP):
        if not services.awaiting_conclusion(enrollment_id=enrollment_id):
            return
        captures = services.staged_templates(enrollment_id=enrollment_id)
        if not captures:
            return  # cancelled in between
        fused = services.fuse([capture.vector for capture in captures])
        probe = ProtectedTemplate(vector=fused, key_id=captures[0].gallery_key_id)
        sequence = services.gallery_sequence()
        duplicate = _somebody_else_like(probe, own=captures[0].person_id, sequence=sequence)
        if services.conclude_captures(
            enrollment_id=enrollment_id,
            fused=fused,
            duplicate=duplicate,
            searched_at_sequence=sequence,
            at=timezone.now(),
        ):
            return
    log.error("the gallery changed through %d duplicate searches; enrollment %s waits", _ + 1, enrollment_id)


def _somebody_else_like(probe: ProtectedTemplate, *, own: UUID, sequence: int) -> tuple[UUID, float] | None:
    people = gallery.gallery()
    people.catch_up(sequence)
    threshold = gallery.match_threshold()
    others = services.known_to_be_others(person_id=own)
    for match in people.search_template(probe, 2 + len(others), at_sequence=sequence):
        if match.person_id not in {own, *others} and match.score >= threshold:
            return match.person_id, match.score
    return None
