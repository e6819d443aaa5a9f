"""What workers do for doors. Tasks take ids only, may be delivered twice or killed anywhere, and leave rules
to services.

A capture is handed out once. A worker that is killed after taking it has taken it away: the redelivered task finds
nothing and the attempt ends denied. Whoever settles first wins; everybody after changes nothing.
"""

from __future__ import annotations

import logging
import time
from uuid import UUID

from celery import shared_task
from django.utils import timezone

import audit.services
from accesscontrol import metrics, services
from accesscontrol.policy import Match, Reason
from enrollment import gallery, payloads
from recognition.payload import PayloadError, unpack

log = logging.getLogger(__name__)

PEOPLE_COMPARED = 3  # the best, and whoever is too close to it


class IdentificationError(Exception):
    """The search did not happen; the attempt is settled with this reason."""

    def __init__(self, fault: Reason, detail: str = "") -> None:
        super().__init__(fault)
        self.fault = fault
        self.detail = detail


@shared_task(name=services.IDENTIFY_TASK, acks_late=True, reject_on_worker_lost=True, ignore_result=True)
def identify(attempt_id: str, sequence: int) -> None:
    """Who stands at the door? Searches the whole gallery, not only people with a rule here, so that a stranger and a
    person without access are told apart; then settles."""
    identity = UUID(attempt_id)
    try:
        with metrics.stage("take"):
            payload = _take(identity)
        if payload is not None:
            _search_and_settle(identity, payload, sequence)
    except IdentificationError as refusal:
        services.settle_attempt(attempt_id=identity, fault=refusal.fault, detail=refusal.detail)


def _take(attempt_id: UUID) -> bytes | None:
    """The capture; None when somebody settled the attempt already, or its deadline is over, which settles it.

    A capture is kept until the deadline at most: whoever finds one need not ask the database first.
    """
    try:
        payload = payloads.take(services.payload_key_of(attempt_id))
    except payloads.PayloadStoreUnavailable as error:
        raise IdentificationError(Reason.RECOGNIZER_FAULT, error.code) from error
    if payload is not None:
        return payload
    deadline_at = services.deadline_of_pending(attempt_id=attempt_id)
    if deadline_at is None:
        return None
    if timezone.now() < deadline_at:
        raise IdentificationError(Reason.PAYLOAD_MISSING)
    services.settle_attempt(attempt_id=attempt_id)
    return None


def _search_and_settle(attempt_id: UUID, payload: bytes, sequence: int) -> None:
    try:
        model = gallery.recognizer()
        features = unpack(payload, model.recognizer.profiles)
        started = time.perf_counter()
        embedding = model.embed_one(features)
        metrics.observe_model(seconds=time.perf_counter() - started)
        with metrics.stage("search"):
            people = gallery.gallery()
            people.catch_up(sequence)
            found = people.search(embedding, PEOPLE_COMPARED, at_sequence=sequence)
            size = len(people)
            threshold = gallery.match_threshold(features.profile_hash)
    except PayloadError as error:
        raise IdentificationError(Reason.PAYLOAD_REFUSED, error.code) from error
    except gallery.GalleryBehind as error:
        log.warning("attempt %s: %s", attempt_id, error)
        raise IdentificationError(Reason.RECOGNIZER_FAULT, "gallery_behind") from error
    except Exception as error:  # whatever goes wrong in a model, the door stays shut and says so
        log.exception("attempt %s could not be identified", attempt_id)
        raise IdentificationError(Reason.RECOGNIZER_FAULT, "recognizer_fault") from error
    with metrics.stage("settle"):
        services.settle_attempt(
            attempt_id=attempt_id,
            candidates=[Match(str(match.person_id), match.score) for match in found],
            gallery_size=size,
            threshold=threshold,
            model=gallery.model_id(),
            capture_is_taken=True,
        )


@shared_task(name="accesscontrol.tasks.expire_attempts", ignore_result=True)
def expire_attempts() -> int:
    """Every few seconds: what nobody answered ends denied."""
    return services.expire_attempts(at=timezone.now())


@shared_task(name="accesscontrol.tasks.watch", ignore_result=True)
def watch() -> None:
    """Every minute: terminals that fell silent, nonces that may be forgotten."""
    services.watch_terminals(at=timezone.now())
    services.forget_nonces(at=timezone.now())


@shared_task(name="accesscontrol.tasks.sign_checkpoint", ignore_result=True)
def sign_checkpoint() -> None:
    """Every few minutes: what was recorded since is signed, so that nobody can quietly take it back later."""
    audit.services.checkpoint(timezone.now())


@shared_task(name="accesscontrol.tasks.verify_audit", ignore_result=True)
def verify_audit() -> None:
    """A few times a day: recomputes the whole log, and raises an alarm that names the first entry that does not
    fit."""
    report = audit.services.verify_all()
    if not report.ok:
        services.report_broken_audit(message=report.problems[0].explanation, at=timezone.now())


@shared_task(name="accesscontrol.tasks.warm_up", ignore_result=True)
def warm_up() -> None:
    """When a process starts: brings model and gallery into memory, so that no person at a door waits for
    them."""
    gallery.gallery().catch_up(0)
