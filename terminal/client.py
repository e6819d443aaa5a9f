"""Asking the server: signed requests, verified replies, nothing believed that is not signed by a pinned
key."""

from __future__ import annotations

import base64
import os
import random
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import httpx

from recognition.budget import PrivacyProfile
from recognition.payload import CONTENT_TYPE
from terminal.capture import Capture
from terminal.decision import Pending, VerifiedDecision, read_decision, read_reply
from terminal.protocol import ProtocolError, key_id_of, public_key_of, sign_request
from terminal.state import StateError, TerminalState

API = "/api/v1"
CONNECT_TIMEOUT_S = 3.0
SLACK_S = 3.0  # on top of the server's own deadline, for the network
PAIRING_PATIENCE_MS = 30_000  # a person waits, and the server may be starting
MAX_REPLY_BYTES = 4 * 1024 * 1024  # a privacy profile is the largest honest reply
FIRST_POLL_S = 0.1
LONGEST_POLL_S = 1.0


class ClientError(Exception):
    """No believable answer. `code` is stable.

    unreachable: nothing answered; unverified: something answered that the server's key did not sign, `hint`
    is the code it gave, which may be a lie; refused: the server, proven, said no, `hint` is its code.
    """

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint


@dataclass(frozen=True)
class EnrollmentTask:
    """The enrollment that waits at this terminal, and how far it is."""

    enrollment_id: str
    person_name: str
    state: str
    captures_wanted: int
    captures_accepted: int
    captures_pending: int
    reason: str
    message: str


@dataclass(frozen=True)
class _Reply:
    status: int
    headers: httpx.Headers
    body: bytes
    nonce: str


class TerminalClient:
    """The server as one terminal sees it. May be shared by threads; state changes only by `refresh` and
    `roll_key`.

    clock: Unix seconds; wait: sleeps; randomness: for nonces, keys and jitter. All passed in for tests.
    """

    def __init__(
        self,
        base_url: str,
        state: TerminalState,
        *,
        transport: httpx.BaseTransport | None = None,
        clock: Callable[[], float] = time.time,
        wait: Callable[[float], None] = time.sleep,
        randomness: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self.state = state
        self._clock = clock
        self._wait = wait
        self._randomness = randomness
        self._http = _make_http(transport, state.attempt_deadline_ms)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    @property
    def now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)

    # Doors

    def attempt(self, capture: Capture) -> VerifiedDecision:
        """Ask whether this person may come in, and wait for the answer.

        Sent once: a capture that got no answer is gone, and a new one must be taken. Raises ClientError
        whenever there is no verified decision.
        """
        if not capture.ok:
            raise ValueError(f"there is nothing to send: {capture.quality.reason}")
        give_up_at = self._clock() + self.state.attempt_deadline_ms / 1000 + SLACK_S
        outcome = self._read_decision(
            self._send("POST", f"{API}/attempts", body=capture.payload, content_type=CONTENT_TYPE)
        )
        pause = FIRST_POLL_S
        attempt_id = outcome.attempt_id
        while isinstance(outcome, Pending):
            if self._clock() >= give_up_at:
                raise ClientError("unanswered", "the server did not decide in time; the door stays shut")
            self._wait(pause * (0.5 + self._chance()))
            pause = min(LONGEST_POLL_S, pause * 2)
            outcome = self._read_decision(self._send("GET", f"{API}/attempts/{_as_id(attempt_id)}"))
            if outcome.attempt_id != attempt_id:
                raise ClientError("unverified", "the server answered about another attempt")
        return outcome

    def prove(self, *, attempt_id: str = "", pin: str = "", card: str = "") -> VerifiedDecision:
        """A PIN or a card after the face of an attempt that asked for it, or a card and its PIN without a face. Sent
        once. Raises ClientError."""
        given = {"attempt_id": attempt_id and _as_id(attempt_id), "pin": pin, "card": card}
        body = httpx.Request(
            "POST", "http://x", json={name: value for name, value in given.items() if value}
        ).content
        outcome = self._read_decision(
            self._send("POST", f"{API}/attempts/proof", body=body, content_type="application/json")
        )
        if isinstance(outcome, Pending):
            raise ClientError("unanswered", "the server did not decide in time; the door stays shut")
        return outcome

    def _read_decision(self, reply: _Reply) -> VerifiedDecision | Pending:
        try:
            return read_decision(
                status=reply.status,
                headers=reply.headers,
                body=reply.body,
                request_nonce=reply.nonce,
                server_keys=self.state.server_keys,
                door_id=self.state.door_id,
                now=int(self._clock()),
            )
        except ProtocolError as error:
            raise self._disbelieve(reply, error) from error

    # Enrollment

    def enrollment(self) -> EnrollmentTask | None:
        """The enrollment that an administrator began at this terminal, if there is one."""
        status, document = self._ask("GET", f"{API}/terminals/me/enrollment")
        return None if status == 204 else _read_task(document)

    def enrollment_progress(self, enrollment_id: str) -> EnrollmentTask:
        _, document = self._ask("GET", f"{API}/enrollments/{_as_id(enrollment_id)}/captures")
        return _read_task(document)

    def submit_enrollment_capture(self, enrollment_id: str, capture: Capture) -> EnrollmentTask:
        """Hand in one capture. What became of it is in a later `enrollment_progress`."""
        if not capture.ok:
            raise ValueError(f"there is nothing to send: {capture.quality.reason}")
        _, document = self._ask(
            "POST",
            f"{API}/enrollments/{_as_id(enrollment_id)}/captures",
            body=capture.payload,
            content_type=CONTENT_TYPE,
            extra={"Lintel-Capture-Quality": f"score={capture.quality.score:.3f}"},
        )
        return _read_task(document)

    # The terminal itself

    def describe(self) -> dict[str, Any]:
        """What the server says about this terminal, verified."""
        return self._ask("GET", f"{API}/terminals/me")[1]

    def refresh(self) -> TerminalState:
        """Take over what the server says now: door, profile, and the keys that may sign from here on.

        A new server key is believed because a pinned one signed the reply that names it.
        """
        try:
            self.state = self.state.with_description(self.describe())
        except StateError as error:
            raise ClientError("refused", error.message, hint=error.code) from error
        return self.state

    def profile(self, profile_hash: str) -> PrivacyProfile:
        """Download a privacy profile. Verified twice: the reply's signature, and the hash that names the
        profile."""
        if len(profile_hash) != 64 or not profile_hash.isalnum():
            raise ValueError("a profile is named by 64 hexadecimal digits")
        reply = self._send("GET", f"{API}/profiles/{profile_hash}")
        self._verify(reply)
        try:
            profile = PrivacyProfile.from_json(reply.body.decode("utf-8"))
        except ValueError as error:
            raise ClientError("unverified", f"the server sent no valid profile: {error}") from error
        if profile.hash != profile_hash:
            raise ClientError("unverified", "the server sent another profile than was asked for")
        return profile

    def roll_key(self, keep: Callable[[TerminalState], None]) -> TerminalState:
        """Change this terminal's key. `keep` stores a state durably.

        The new key is stored beside the old one before the server hears of it, so a crash or a lost answer at
        any moment leaves a key that the server knows: `settle_key` finds out which. Raises ClientError.
        """
        seed = self._randomness(32)
        self.state = replace(self.state, next_private_key=seed)
        keep(self.state)
        public = base64.b64encode(public_key_of(seed)).decode("ascii")
        try:
            self._ask("POST", f"{API}/terminals/me/key", json={"public_key": public})
        except ClientError:
            return self.settle_key(keep)
        self.state = _with_next_key(self.state)
        keep(self.state)
        return self.state

    def settle_key(self, keep: Callable[[TerminalState], None]) -> TerminalState:
        """After a roll that was cut short: keep whichever key the server believes. Raises ClientError if
        neither."""
        if self.state.next_private_key is None:
            return self.state
        old = self.state
        self.state = _with_next_key(old)
        try:
            self.describe()
        except ClientError as error:
            self.state = old
            if error.code == "unreachable":
                raise
            self.describe()
            self.state = replace(old, next_private_key=None)
        keep(self.state)
        return self.state

    # Sending

    def _ask(
        self,
        method: str,
        path: str,
        *,
        body: bytes = b"",
        content_type: str | None = None,
        json: dict[str, Any] | None = None,
        extra: dict[str, str] | None = None,
    ) -> tuple[int, dict[str, Any]]:
        """A request whose verified reply is a JSON object; a refusal raises ClientError(refused)."""
        if json is not None:
            body, content_type = httpx.Request("POST", "http://x", json=json).content, "application/json"
        reply = self._send(method, path, body=body, content_type=content_type, extra=extra)
        return reply.status, self._verify(reply)

    def _verify(self, reply: _Reply) -> dict[str, Any]:
        try:
            document = read_reply(
                status=reply.status,
                headers=reply.headers,
                body=reply.body,
                request_nonce=reply.nonce,
                server_keys=self.state.server_keys,
                now=int(self._clock()),
            )
        except ProtocolError as error:
            raise self._disbelieve(reply, error) from error
        if not 200 <= reply.status < 300:
            raise ClientError("refused", _detail(document, reply.status), hint=str(document.get("code", "")))
        return document

    def _send(
        self,
        method: str,
        path: str,
        *,
        body: bytes = b"",
        content_type: str | None = None,
        extra: dict[str, str] | None = None,
    ) -> _Reply:
        url = self._base_url + path
        nonce = base64.urlsafe_b64encode(self._randomness(18)).decode("ascii")
        headers = sign_request(
            method=method,
            url=url,
            body=body,
            content_type=content_type,
            key_id=self.state.key_id,
            private_key=self.state.private_key,
            created=int(self._clock()),
            nonce=nonce,
        )
        status, reply_headers, reply_body = _exchange(
            self._http, method, url, headers={**headers, **(extra or {})}, body=body
        )
        return _Reply(status, reply_headers, reply_body, nonce)

    def _disbelieve(self, reply: _Reply, error: ProtocolError) -> ClientError:
        """A refusal that the server proved is `refused`; everything else is `unverified`, with its code as a
        hint."""
        try:
            document = read_reply(
                status=reply.status,
                headers=reply.headers,
                body=reply.body,
                request_nonce=reply.nonce,
                server_keys=self.state.server_keys,
                now=int(self._clock()),
            )
        except ProtocolError:
            hint = _unproven_code(reply.body)
            return ClientError("unverified", f"the reply cannot be believed: {error.message}", hint=hint)
        if reply.status >= 400:
            return ClientError(
                "refused", _detail(document, reply.status), hint=str(document.get("code", error.code))
            )
        return ClientError("unverified", f"the reply cannot be believed: {error.message}", hint=error.code)

    def _chance(self) -> float:
        return int.from_bytes(self._randomness(4), "big") / 2**32


def pair(
    base_url: str,
    code: str,
    *,
    seed: bytes,
    transport: httpx.BaseTransport | None = None,
) -> TerminalState:
    """Spend a one-time code: give the server this terminal's public key and pin the server's keys.

    This is the one exchange that no signature protects, because neither side knows the other yet: do it over
    HTTPS or in a network you trust, and compare the fingerprints. Raises ClientError.
    """
    scheme = urlsplit(base_url)
    if scheme.scheme not in ("http", "https") or not scheme.hostname:
        raise ClientError(
            "refused", "the server's address begins with http:// or https://", hint="url_malformed"
        )
    public = public_key_of(seed)
    body = {
        "code": code,
        "public_key": base64.b64encode(public).decode("ascii"),
        "software": "lintel-terminal",
    }
    request = httpx.Request("POST", "http://x", json=body)
    with _make_http(transport, PAIRING_PATIENCE_MS) as http:
        status, _, content = _exchange(
            http,
            "POST",
            f"{base_url.rstrip('/')}{API}/terminals/pair",
            headers={"Content-Type": "application/json"},
            body=request.content,
        )
    try:
        document = httpx.Response(status, content=content).json()
    except ValueError:
        document = {}
    if status != 201 or not isinstance(document, dict):
        document = document if isinstance(document, dict) else {}
        raise ClientError("refused", _detail(document, status), hint=str(document.get("code", "")))
    unpaired = TerminalState(
        server_url=base_url.rstrip("/"),
        terminal_id="",
        name="",
        role="",
        door_id=None,
        door_name="",
        key_id=key_id_of(public),
        private_key=seed,
        server_keys={},
        profile_hash="",
        attempt_deadline_ms=0,
    )
    try:
        return unpaired.with_description(document)
    except StateError as error:
        raise ClientError("refused", error.message, hint=error.code) from error


def steady_chance() -> float:
    """Jitter for back-off, 0..1. Not a secret."""
    return random.random()  # noqa: S311


def _with_next_key(state: TerminalState) -> TerminalState:
    seed = state.next_private_key
    if seed is None:
        raise ValueError("no key is under way")
    return replace(state, private_key=seed, key_id=key_id_of(public_key_of(seed)), next_private_key=None)


def _make_http(transport: httpx.BaseTransport | None, deadline_ms: int) -> httpx.Client:
    return httpx.Client(
        transport=transport,
        timeout=httpx.Timeout(deadline_ms / 1000 + SLACK_S, connect=CONNECT_TIMEOUT_S),
        follow_redirects=False,
        headers={"Accept": "application/json", "User-Agent": "lintel-terminal"},
    )


def _exchange(
    http: httpx.Client, method: str, url: str, *, headers: dict[str, str], body: bytes
) -> tuple[int, httpx.Headers, bytes]:
    try:
        with http.stream(method, url, headers=headers, content=body or None) as reply:
            received = bytearray()
            for chunk in reply.iter_bytes():
                received += chunk
                if len(received) > MAX_REPLY_BYTES:
                    raise ClientError("unverified", "the reply is larger than any honest one")
            return reply.status_code, reply.headers, bytes(received)
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        raise ClientError(
            "unreachable", f"the server did not answer: {error or type(error).__name__}"
        ) from error


def _read_task(document: dict[str, Any]) -> EnrollmentTask:
    try:
        return EnrollmentTask(
            enrollment_id=_as_id(document["enrollment_id"]),
            person_name=str(document["person_name"]),
            state=str(document["state"]),
            captures_wanted=int(document["captures_wanted"]),
            captures_accepted=int(document["captures_accepted"]),
            captures_pending=int(document["captures_pending"]),
            reason=str(document["reason"]),
            message=str(document["message"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ClientError("unverified", f"the server's enrollment lacks {error}") from error


def _as_id(value: str) -> str:
    """An identifier that may stand in a path. Raises ValueError for anything that is not a UUID."""
    return str(uuid.UUID(value))


def _detail(document: dict[str, Any], status: int) -> str:
    detail = document.get("detail")
    return detail if isinstance(detail, str) and detail else f"the server answered {status}"


def _unproven_code(body: bytes) -> str:
    """The `code` of a reply nobody signed: for the eyes of whoever mends the terminal, never for a
    decision."""
    try:
        document = httpx.Response(200, content=body).json()
    except ValueError:
        return ""
    code = document.get("code") if isinstance(document, dict) else None
    return code if isinstance(code, str) and code.isascii() and len(code) <= 64 else ""
