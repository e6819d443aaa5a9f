"""Who calls the API: a terminal by its signature, or a system by its token. People use pages and their
session.

The kinds never mix: an operation names exactly one, and proof of another kind proves nothing there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any

import redis
from django.conf import settings
from django.http import HttpRequest
from django.utils import timezone
from rest_framework.authentication import BaseAuthentication
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.throttling import SimpleRateThrottle

from accesscontrol import metrics, services
from accesscontrol.models import Alarm, ApiToken, Terminal
from accesscontrol.problems import NotBelieved, Problem
from recognition.payload import MAX_PAYLOAD_BYTES
from terminal.protocol import ProtocolError, SignedRequest, read_claim, verify_request

#: What a terminal may call, by the name of the address, and in which role. What is not here is refused.
TERMINAL_MAY: Mapping[str, frozenset[str]] = {
    "api_terminal_me": frozenset({Terminal.Role.DOOR, Terminal.Role.DESK}),
    "api_terminal_key": frozenset({Terminal.Role.DOOR, Terminal.Role.DESK}),
    "api_profile": frozenset({Terminal.Role.DOOR, Terminal.Role.DESK}),
    "api_attempts": frozenset({Terminal.Role.DOOR}),
    "api_attempt": frozenset({Terminal.Role.DOOR}),
    "api_proof": frozenset({Terminal.Role.DOOR}),
    "api_terminal_enrollment": frozenset({Terminal.Role.DESK, Terminal.Role.DOOR}),
    "api_enrollment_captures": frozenset({Terminal.Role.DESK, Terminal.Role.DOOR}),
}

TERMINAL_RATE = "600/min"  # ten a second: polling, captures and a queue at the door together stay far below
PROOF_RATE = "30/min"  # a person types for longer than two seconds; whoever guesses does not
TOKEN_RATE = "600/min"  # noqa: S105 (a rate, not a secret)
PAIRING_RATE = "10/min"
REDIS_TIMEOUT_S = 2.0


@dataclass(frozen=True)
class Caller:
    """`request.user` of the API: a name for the audit log, nothing more."""

    name: str
    is_authenticated: bool = True

    def __str__(self) -> str:
        return self.name


class TerminalSignature(BaseAuthentication):
    """RFC 9421. `request.auth` is the terminal; `signed_request(request)` what its signature says.

    With `spends_nonce` False an operation spends the nonce itself, in the transaction of what it writes, which saves a
    door one commit of three. It must do so for every request that it answers, refusals included.
    """

    def __init__(self, *, spends_nonce: bool = True) -> None:
        self._spends_nonce = spends_nonce

    def authenticate(self, request: Request) -> tuple[Caller, Terminal]:
        raw = request._request
        _refuse_large(raw)
        now = timezone.now()
        try:
            claim = read_claim(raw.headers)
        except ProtocolError as error:
            raise _not_believed(error) from error
        claimant = services.find_terminal(key_id=claim.key_id, nonce=claim.nonce)
        terminal = claimant.terminal if claimant is not None else None
        public_key = terminal.public_key_for(claim.key_id, now) if terminal is not None else None
        if claimant is None or terminal is None or public_key is None:
            metrics.observe_refused_request(code="key_unknown")
            raise NotBelieved("key_unknown", "no terminal has this key; pair the terminal again")
        try:
            signed = verify_request(
                method=raw.method or "",
                url=raw.build_absolute_uri(),
                headers=raw.headers,
                body=raw.body,
                public_key=public_key,
                now=int(now.timestamp()),
                window_s=settings.LINTEL_CLOCK_WINDOW_S,
            )
        except ProtocolError as error:
            services.report_misuse(
                kind=Alarm.Kind.SIGNATURE_REFUSED,
                message=f"A request in the name of {terminal} was not believed: {error.code}",
                terminal=terminal,
                at=now,
                code=error.code,
            )
            raise _not_believed(error) from error
        if terminal.state != Terminal.State.ACTIVE:
            services.report_misuse(
                kind=Alarm.Kind.REVOKED_TERMINAL,
                message=f"{terminal} was revoked and still calls",
                terminal=terminal,
                at=now,
                code="terminal_revoked",
            )
            metrics.observe_refused_request(code="terminal_revoked")
            raise NotBelieved(
                "terminal_revoked", "this terminal was revoked; ask an administrator to pair it again"
            )
        if claimant.nonce_is_spent:
            services.report_replay(terminal=terminal, at=now)
            raise replayed()
        if self._spends_nonce:
            spend_nonce(terminal, signed, now)
        raw.lintel_signed = signed  # type: ignore[attr-defined]
        return Caller(f"terminal:{terminal.pk}"), terminal

    def authenticate_header(self, request: Request) -> str:
        return 'Signature realm="lintel"'


def spend_nonce(terminal: Terminal, signed: SignedRequest, at: datetime) -> None:
    """Raises NotBelieved for a nonce that was spent before."""
    try:
        services.spend_nonce(terminal=terminal, nonce=signed.nonce, created=signed_at(signed), at=at)
    except services.AccessRefused as error:
        raise replayed() from error


def replayed() -> NotBelieved:
    metrics.observe_refused_request(code="nonce_replayed")
    return NotBelieved("nonce_replayed", services.REPLAYED)


def signed_at(signed: SignedRequest) -> datetime:
    return datetime.fromtimestamp(signed.created, UTC)


def signed_request(request: HttpRequest) -> SignedRequest | None:
    """The verified signature of this request; None when nothing was verified."""
    found = getattr(request, "lintel_signed", None)
    return found if isinstance(found, SignedRequest) else None


class ApiTokenAuthentication(BaseAuthentication):
    """`Authorization: Bearer ...`. `request.auth` is the token's row."""

    def authenticate(self, request: Request) -> tuple[Caller, ApiToken]:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise NotBelieved("token_missing", "send Authorization: Bearer and the token")
        found = services.find_api_token(token=token.strip(), at=timezone.now())
        if found is None:
            metrics.observe_refused_request(code="token_invalid")
            raise NotBelieved("token_invalid", "this token is unknown, expired or revoked")
        return Caller(f"token:{found.name}"), found

    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="lintel"'


class TerminalMay(BasePermission):
    """The allow-list. A door terminal cannot enroll by itself: an enrollment is begun for it by a person."""

    def has_permission(self, request: Request, view: Any) -> bool:
        match = request.resolver_match
        roles = TERMINAL_MAY.get(match.url_name or "", frozenset()) if match else frozenset()
        return isinstance(request.auth, Terminal) and request.auth.role in roles


class HasScope(BasePermission):
    """The token holds the scope that the view names for this method. No name, no permission."""

    def has_permission(self, request: Request, view: Any) -> bool:
        scope = getattr(view, "scopes", {}).get(request.method)
        return isinstance(request.auth, ApiToken) and scope is not None and scope in request.auth.scopes


class TerminalRate(SimpleRateThrottle):
    """In production one count per terminal and period, kept in Redis in one round trip: a person at the door waits for
    it. The framework's own throttle reads a list of all requests of the period and writes it back."""

    scope = "terminal"
    rate = TERMINAL_RATE
    duration: int  # seconds, like the next one read from `rate`
    num_requests: int

    def allow_request(self, request: Request, view: Any) -> bool:
        key = self.get_cache_key(request, view)
        if settings.LINTEL_MODE != "production" or key is None:
            return super().allow_request(request, view)
        now = self.timer()
        period = int(now // self.duration)
        self._wait_s = (period + 1) * self.duration - now
        try:
            count = _counter(settings.LINTEL_REDIS_URL).pipeline(transaction=False)
            count.incr(f"{key}:{period}")
            count.expire(f"{key}:{period}", self.duration)
            return int(count.execute()[0]) <= self.num_requests
        except redis.RedisError:
            return (
                True  # without Redis no capture reaches a worker either: the attempt is refused, and recorded
            )

    def wait(self) -> float | None:
        return self._wait_s if hasattr(self, "_wait_s") else super().wait()

    def get_cache_key(self, request: Request, view: Any) -> str | None:
        return f"lintel:rate:terminal:{request.auth.pk}" if isinstance(request.auth, Terminal) else None


class ProofRate(TerminalRate):
    """PINs and cards of one terminal, besides what each PIN allows by itself."""

    rate = PROOF_RATE

    def get_cache_key(self, request: Request, view: Any) -> str | None:
        return f"lintel:rate:proof:{request.auth.pk}" if isinstance(request.auth, Terminal) else None


class TokenRate(SimpleRateThrottle):
    scope = "token"
    rate = TOKEN_RATE

    def get_cache_key(self, request: Request, view: Any) -> str | None:
        return f"lintel:rate:token:{request.auth.pk}" if isinstance(request.auth, ApiToken) else None


class PairingRate(SimpleRateThrottle):
    """Per address. With 50 bits to a code and fifteen minutes to guess, ten tries a minute find nothing."""

    scope = "pairing"
    rate = PAIRING_RATE

    def get_cache_key(self, request: Request, view: Any) -> str:
        return f"lintel:rate:pairing:{request._request.META.get('REMOTE_ADDR', '')}"


@cache
def _counter(url: str) -> redis.Redis:
    return redis.Redis.from_url(url, socket_timeout=REDIS_TIMEOUT_S, socket_connect_timeout=REDIS_TIMEOUT_S)


def _refuse_large(request: HttpRequest) -> None:
    """By its announced length, before a byte of it is read."""
    try:
        length = int(request.META.get("CONTENT_LENGTH") or 0)
    except ValueError:
        length = 0
    if length > MAX_PAYLOAD_BYTES:
        raise Problem(413, "oversized", f"a capture has at most {MAX_PAYLOAD_BYTES} bytes")


def _not_believed(error: ProtocolError) -> NotBelieved:
    metrics.observe_refused_request(code=error.code)
    return NotBelieved(error.code, error.message)
