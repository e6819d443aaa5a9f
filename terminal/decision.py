"""A decision that the server is known to have made, about this request, at this door. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from terminal.protocol import MAX_REPLY_LIFETIME_S, ProtocolError, verify_reply

MAX_DECISION_LIFETIME = timedelta(seconds=MAX_REPLY_LIFETIME_S)


@dataclass(frozen=True)
class VerifiedDecision:
    """Made by `read_decision` and nowhere else. `nonce` is that of the request it answers; `expires_at` is
    UTC, and so is `proof_until`, until which a PIN or a card may follow a refusal that asks for one."""

    attempt_id: str
    granted: bool
    reason: str
    message: str
    door_id: str
    nonce: str
    expires_at: datetime
    proof_until: datetime | None = None


@dataclass(frozen=True)
class Pending:
    """The server has the attempt and has not decided yet."""

    attempt_id: str


def read_reply(
    *,
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    request_nonce: str,
    server_keys: Mapping[str, bytes],
    now: int,
) -> dict[str, Any]:
    """The JSON object of a verified reply; {} for a verified reply without a body. Raises ProtocolError
    otherwise."""
    verify_reply(
        status=status,
        headers=headers,
        body=body,
        request_nonce=request_nonce,
        public_keys=server_keys,
        now=now,
    )
    if not body:
        return {}
    try:
        document = json.loads(body)
    except ValueError as error:
        raise ProtocolError("reply_malformed", "the reply is not JSON") from error
    if not isinstance(document, dict):
        raise ProtocolError("reply_malformed", "the reply is not a JSON object")
    return document


def read_decision(
    *,
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    request_nonce: str,
    server_keys: Mapping[str, bytes],
    door_id: str | None,
    now: int,
) -> VerifiedDecision | Pending:
    """Verify the reply to an attempt and read it. Raises ProtocolError for everything that is not a plain
    answer to this request at this door: then there is no decision, and a door without a decision stays
    shut."""
    document = read_reply(
        status=status,
        headers=headers,
        body=body,
        request_nonce=request_nonce,
        server_keys=server_keys,
        now=now,
    )
    if status not in (200, 202):
        code = document.get("code")
        raise ProtocolError(
            code if isinstance(code, str) else "refused",
            str(document.get("detail", f"the server answered {status}")),
        )
    if document.get("nonce") != request_nonce:
        raise ProtocolError("nonce_mismatch", "the decision is about another request")
    if door_id is None or document.get("door_id") != door_id:
        raise ProtocolError("wrong_door", "the decision is about another door")
    attempt_id = document.get("attempt_id")
    if not isinstance(attempt_id, str) or not attempt_id:
        raise ProtocolError("reply_malformed", "the decision names no attempt")
    if status == 202:
        return Pending(attempt_id)
    granted, reason = document.get("granted"), document.get("reason")
    if not isinstance(granted, bool) or not isinstance(reason, str):
        raise ProtocolError("reply_malformed", "the decision says neither yes nor no")
    expires_at = _read_time(document.get("expires_at"))
    current = datetime.fromtimestamp(now, UTC)
    if expires_at <= current:
        raise ProtocolError("decision_expired", "the decision has expired")
    if expires_at - current > 2 * MAX_DECISION_LIFETIME:
        raise ProtocolError("decision_too_long_lived", "a decision lives for seconds")
    return VerifiedDecision(
        attempt_id=attempt_id,
        granted=granted,
        reason=reason,
        message=str(document.get("message", "")),
        door_id=door_id,
        nonce=request_nonce,
        expires_at=expires_at,
        proof_until=_read_time(document["proof_until"])
        if not granted and document.get("proof_until")
        else None,
    )


def _read_time(value: object) -> datetime:
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError as error:
        raise ProtocolError("reply_malformed", "the decision does not say when it expires") from error
    if moment.tzinfo is None:
        raise ProtocolError("reply_malformed", "the decision's end has no time zone")
    return moment.astimezone(UTC)
