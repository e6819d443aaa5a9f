"""What terminals call: pairing, who they are, their key, their profile, and whether the door opens."""

from __future__ import annotations

import base64
import binascii
import logging
import uuid
from datetime import datetime, timedelta
from typing import Any, ClassVar

from django.conf import settings
from django.http import Http404, HttpResponse
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.authentication import BaseAuthentication
from rest_framework.permissions import AllowAny, BasePermission
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.throttling import BaseThrottle

from accesscontrol import captures, decisions, metrics, services
from accesscontrol.api.base import (
    REPLY_LIFETIME_S,
    AccessView,
    IntegratorView,
    Pages,
    TerminalView,
    valid,
)
from accesscontrol.authentication import (
    PairingRate,
    ProofRate,
    TerminalRate,
    TerminalSignature,
    replayed,
    signed_at,
    signed_request,
    spend_nonce,
)
from accesscontrol.models import AccessAttempt, Door, Scope, Terminal
from accesscontrol.parsers import JSONParser
from accesscontrol.policy import EXPLANATIONS, Reason
from accesscontrol.problems import Problem
from audit.openapi import example, refusal
from enrollment.api import CaptureParser
from enrollment.crypto import SealBroken, UnknownKey
from recognition.payload import CONTENT_TYPE, MAX_PAYLOAD_BYTES
from terminal.protocol import SignedRequest, public_key_of

log = logging.getLogger(__name__)

UNAVAILABLE = frozenset({"payload_store_unavailable", "queue_unavailable"})

_TERMINAL = {
    "terminal_id": "b3e2f5b0-4a6e-4a7d-8d3c-0b6d7c9f2e10",
    "name": "Front door",
    "role": "door",
    "key_id": "q7Zr1o3sRkq0h9b1S0s1Vw",
    "door": {"id": "0a6f7f0e-52a0-4c55-9f7e-2c1f5b0e9d11", "name": "Front door", "asks_for": "face"},
    "site": {"id": 1, "name": "Headquarters", "timezone": "Europe/Vienna"},
    "profile_hash": "5f0c...e1",
    "profiles": ["5f0c...e1"],
    "server_keys": [{"key_id": "2026-11", "public_key": "GxIaEm0hC5kqJZl8jYb9W0e5m9b9b3xJm7y2J0n2b1E="}],
    "server_time": "2026-11-24T08:00:00Z",
    "clock_window_s": 60,
    "attempt_deadline_ms": 3000,
    "max_payload_bytes": MAX_PAYLOAD_BYTES,
}
_ANSWER = {
    "attempt_id": "6d1c6f0e-3c0f-4a1a-9c58-0a5f4d3f7b21",
    "granted": True,
    "reason": "granted",
    "message": "Welcome.",
    "next_step": "",
    "door_id": "0a6f7f0e-52a0-4c55-9f7e-2c1f5b0e9d11",
    "nonce": "Q0hBTExFTkdFLU5PTkNFLTE",
    "decided_at": "2026-11-24T08:00:00.120Z",
    "expires_at": "2026-11-24T08:00:05Z",
}
_ASKS_FOR_MORE = {
    **_ANSWER,
    "granted": False,
    "reason": "pin_required",
    "message": "This door asks for a PIN as well.",
    "next_step": "Enter the PIN.",
    "proof_until": "2026-11-24T08:00:45.120Z",
}
_ATTEMPT = {
    "id": _ANSWER["attempt_id"],
    "state": "settled",
    "granted": True,
    "reason": "granted",
    "detail": "",
    "shown": "face",
    "follows": None,
    "door": _ANSWER["door_id"],
    "terminal": _TERMINAL["terminal_id"],
    "person": "3f0b7a52-6f5e-4d0a-9d53-0d1f4b0c8a11",
    "score": 0.71,
    "threshold": 0.52,
    "gallery_size": 100,
    "model": "default",
    "profile_hash": "5f0c...e1",
    "payload_bytes": 14683,
    "received_at": "2026-11-24T08:00:00Z",
    "deadline_at": "2026-11-24T08:00:03Z",
    "settled_at": "2026-11-24T08:00:00.120Z",
}
_PENDING = {
    "attempt_id": _ANSWER["attempt_id"],
    "poll": f"/api/v1/attempts/{_ANSWER['attempt_id']}",
    "door_id": _ANSWER["door_id"],
    "nonce": _ANSWER["nonce"],
}


class PublicKeyField(serializers.CharField):
    """32 raw bytes of an Ed25519 public key in base64, either alphabet."""

    def to_internal_value(self, data: Any) -> bytes:  # type: ignore[override]
        text = super().to_internal_value(data).strip().rstrip("=")
        try:
            key = base64.b64decode(
                text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4), validate=True
            )
        except (binascii.Error, ValueError) as error:
            raise serializers.ValidationError("A public key is written in base64.") from error
        if len(key) != 32:
            raise serializers.ValidationError("An Ed25519 public key has 32 bytes.")
        return key


class NamedSerializer(serializers.Serializer[Any]):
    id = serializers.CharField()
    name = serializers.CharField()


class DoorOfTerminalSerializer(NamedSerializer):
    asks_for = serializers.ChoiceField(choices=Door.AsksFor.choices)


class ServerKeySerializer(serializers.Serializer[Any]):
    key_id = serializers.CharField()
    public_key = serializers.CharField(help_text="Base64 of 32 bytes.")


class SiteOfTerminalSerializer(serializers.Serializer[Any]):
    id = serializers.IntegerField()
    name = serializers.CharField()
    timezone = serializers.CharField()


class TerminalSelfSerializer(serializers.Serializer[Any]):
    """What `describe_terminal` returns."""

    terminal_id = serializers.UUIDField()
    name = serializers.CharField()
    role = serializers.ChoiceField(choices=Terminal.Role.choices)
    key_id = serializers.CharField()
    door = DoorOfTerminalSerializer(allow_null=True)
    site = SiteOfTerminalSerializer(allow_null=True)
    profile_hash = serializers.CharField(help_text="The profile to use.")
    profiles = serializers.ListField(
        child=serializers.CharField(), help_text="All profiles that are accepted."
    )
    server_keys = ServerKeySerializer(many=True, help_text="Keys that may sign replies, newest first.")
    server_time = serializers.DateTimeField()
    clock_window_s = serializers.IntegerField()
    attempt_deadline_ms = serializers.IntegerField()
    max_payload_bytes = serializers.IntegerField()


class DecisionSerializer(serializers.Serializer[Any]):
    attempt_id = serializers.UUIDField()
    granted = serializers.BooleanField()
    reason = serializers.ChoiceField(choices=[reason.value for reason in Reason])
    message = serializers.CharField()
    next_step = serializers.CharField(allow_blank=True)
    name = serializers.CharField(
        required=False, help_text="Who was let in, where the server's policy is to greet by name."
    )
    proof_until = serializers.DateTimeField(
        required=False, help_text="Until when the PIN or the card that `reason` asks for may follow."
    )
    door_id = serializers.UUIDField()
    nonce = serializers.CharField()
    decided_at = serializers.DateTimeField()
    expires_at = serializers.DateTimeField()


class PendingSerializer(serializers.Serializer[Any]):
    attempt_id = serializers.UUIDField()
    poll = serializers.CharField()
    door_id = serializers.UUIDField()
    nonce = serializers.CharField()


class PairingInput(serializers.Serializer[Any]):
    code = serializers.CharField(max_length=40, trim_whitespace=True)
    public_key = PublicKeyField(max_length=64, help_text="Base64 of the 32 bytes of an Ed25519 public key.")
    software = serializers.CharField(max_length=100, required=False, default="", allow_blank=True)


class KeyInput(serializers.Serializer[Any]):
    public_key = PublicKeyField(max_length=64)


class KeyOutput(serializers.Serializer[Any]):
    key_id = serializers.CharField()
    previous_key_until = serializers.DateTimeField(allow_null=True)


class ProofInput(serializers.Serializer[Any]):
    """After a face: `attempt_id` and what that attempt asked for. Without a face: `card` and `pin`."""

    attempt_id = serializers.UUIDField(required=False)
    pin = serializers.RegexField(r"^[0-9]{1,16}\Z", required=False, write_only=True)
    card = serializers.RegexField(r"^[0-9A-Za-z :-]{1,64}\Z", required=False, write_only=True)


class PairView(AccessView):
    """The one thing that an unknown device may ask for."""

    authentication_classes = ()
    permission_classes = (AllowAny,)
    throttle_classes = (PairingRate,)

    @extend_schema(
        operation_id="terminals_pair",
        summary="Pair a terminal",
        description="Spends an administrator's one-time code. Pin `server_keys`: they sign the replies.",
        request=PairingInput,
        responses={
            201: TerminalSelfSerializer,
            400: refusal(400, "Bad Request", "invalid", "Some fields are not valid."),
            403: refusal(
                403, "Forbidden", "pairing_code_invalid", "this code is not valid; ask for a new one"
            ),
            409: refusal(
                409, "Conflict", "key_taken", "this key belongs to a terminal already; make a new one"
            ),
            429: refusal(429, "Too Many Requests", "too_many_requests", "Request was throttled."),
        },
        examples=[
            example(
                "A new device",
                {"code": "7KQ2M-XH4PD", "public_key": "GxIaEm0hC5kqJZl8jYb9W0e5m9b9b3xJm7y2J0n2b1E="},
                request=True,
            ),
            example("Paired", _TERMINAL),
        ],
        auth=[],
    )
    def post(self, request: Request) -> Response:
        terminal = services.pair_terminal(**valid(PairingInput, request.data), at=timezone.now())
        terminal = Terminal.objects.select_related("door__site").get(pk=terminal.pk)
        return Response(describe_terminal(terminal, at=timezone.now()), status=201)


class TerminalMeView(TerminalView):
    """A terminal asks who it is."""

    @extend_schema(
        operation_id="terminals_me",
        summary="Who am I, which door is mine, which profile do I use",
        responses={
            200: TerminalSelfSerializer,
            401: refusal(401, "Unauthorized", "signature_missing", "no signature"),
        },
        examples=[example("A door terminal", _TERMINAL)],
    )
    def get(self, request: Request) -> Response:
        return Response(describe_terminal(_terminal(request), at=timezone.now()))


class TerminalKeyView(TerminalView):
    """A terminal changes its key."""

    @extend_schema(
        operation_id="terminals_me_key",
        summary="Roll the key",
        description="Signed with the present key, which works for ten more minutes: the answer may be lost.",
        request=KeyInput,
        responses={
            200: KeyOutput,
            409: refusal(409, "Conflict", "key_taken", "this key belongs to a terminal already"),
        },
        examples=[
            example("New key", {"public_key": "GxIaEm0hC5kqJZl8jYb9W0e5m9b9b3xJm7y2J0n2b1E="}, request=True),
            example(
                "Rolled", {"key_id": "q7Zr1o3sRkq0h9b1S0s1Vw", "previous_key_until": "2026-11-24T08:10:00Z"}
            ),
        ],
    )
    def post(self, request: Request) -> Response:
        given = valid(KeyInput, request.data)
        terminal = services.roll_terminal_key(terminal=_terminal(request), at=timezone.now(), **given)
        return Response({"key_id": terminal.key_id, "previous_key_until": terminal.previous_key_until})


class ProfileView(TerminalView):
    """Privacy profiles, byte for byte: the SHA-256 of the body is the hash."""

    @extend_schema(
        operation_id="profiles_read",
        summary="Download a privacy profile",
        responses={
            200: OpenApiResponse(OpenApiTypes.OBJECT, "The canonical JSON of the profile"),
            404: refusal(404, "Not Found", "not_found", "There is nothing here."),
        },
        examples=[example("The beginning of one", {"name": "balanced", "transform": "critical"})],
    )
    def get(self, request: Request, profile_hash: str) -> HttpResponse:
        profile = captures.known_profiles().get(profile_hash)
        if profile is None:
            raise Http404
        return HttpResponse(profile.to_json(), content_type="application/json")


class AttemptRow(serializers.ModelSerializer[AccessAttempt]):
    class Meta:
        model = AccessAttempt
        fields = (
            "id", "state", "granted", "reason", "detail", "shown", "follows", "door", "terminal", "person",
            "score", "threshold", "gallery_size", "model", "profile_hash", "payload_bytes", "received_at",
            "deadline_at", "settled_at",
        )  # fmt: skip


class AttemptFilter(serializers.Serializer[Any]):
    id = serializers.UUIDField(required=False)
    door = serializers.UUIDField(required=False)
    terminal = serializers.UUIDField(required=False)
    person = serializers.UUIDField(required=False)
    state = serializers.ChoiceField(choices=AccessAttempt.State.choices, required=False)
    granted = serializers.BooleanField(required=False, allow_null=True, default=None)
    reason = serializers.ChoiceField(choices=[reason.value for reason in Reason], required=False)
    since = serializers.DateTimeField(required=False, help_text="Received at or after.")
    until = serializers.DateTimeField(required=False, help_text="Received before.")


class AttemptsView(AccessView):
    """POST is a terminal's, GET an integrator's: each method names its one kind of caller."""

    scopes: ClassVar[dict[str, str]] = {"GET": Scope.ATTEMPTS_READ}
    parser_classes = (CaptureParser, JSONParser)
    pagination_class = Pages  # for the description
    _nonce_is_left_to_the_attempt = False

    @property
    def _kind(self) -> type[AccessView]:
        """While a description is written there is no request yet; the stricter kind answers then."""
        return IntegratorView if getattr(self.request, "method", "") == "GET" else TerminalView

    def get_authenticators(self) -> list[BaseAuthentication]:
        if self._kind is TerminalView:
            return [TerminalSignature(spends_nonce=False)]
        return [kind() for kind in self._kind.authentication_classes]

    def get_permissions(self) -> list[BasePermission]:
        return [kind() for kind in self._kind.permission_classes]  # type: ignore[misc]

    def get_throttles(self) -> list[BaseThrottle]:
        return [kind() for kind in self._kind.throttle_classes]

    @extend_schema(
        operation_id="attempts_list",
        summary="List attempts, newest first",
        parameters=[
            AttemptFilter,
            OpenApiParameter("limit", int, description="At most 200; 50 without it."),
            OpenApiParameter("offset", int),
        ],
        responses={
            200: AttemptRow(many=True),
            400: refusal(400, "Bad Request", "invalid", "Some fields are not valid."),
            403: refusal(403, "Forbidden", "not_allowed", "The token lacks the scope attempts:read."),
        },
        examples=[example("Let in", _ATTEMPT)],
    )
    def get(self, request: Request) -> Response:
        asked = valid(AttemptFilter, request.query_params)
        rows = AccessAttempt.objects.all()
        for name in ("id", "door", "terminal", "person", "state", "reason"):
            if name in asked:
                rows = rows.filter(**{name: asked[name]})
        if asked.get("granted") is not None:
            rows = rows.filter(granted=asked["granted"])
        if "since" in asked:
            rows = rows.filter(received_at__gte=asked["since"])
        if "until" in asked:
            rows = rows.filter(received_at__lt=asked["until"])
        pages = Pages()
        page = pages.paginate_queryset(rows, request, view=self)
        return pages.get_paginated_response(AttemptRow(page, many=True).data)

    @extend_schema(
        operation_id="attempts_submit",
        summary="May this person come in?",
        description="One signed capture in the format of docs/protocol.md, never a picture. The reply "
        "is signed by a server key over the request's nonce and expires in seconds: open on nothing else.",
        request={CONTENT_TYPE: OpenApiTypes.BINARY},
        responses={
            200: DecisionSerializer,
            202: PendingSerializer,
            401: refusal(401, "Unauthorized", "nonce_replayed", "this request was sent before"),
            413: refusal(413, "Content Too Large", "oversized", "a capture has at most 300000 bytes"),
            415: refusal(415, "Unsupported Media Type", "unsupported_media_type", "Unsupported media type."),
            503: refusal(503, "Service Unavailable", "recognition_unavailable", "No worker can be reached."),
        },
        examples=[
            example("Granted", _ANSWER),
            example("The door asks for a PIN as well", _ASKS_FOR_MORE),
            example("Not decided in time", _PENDING, status=202),
        ],
    )
    def post(self, request: Request) -> Response:
        payload: object = request.data
        if not isinstance(payload, bytes):
            raise Problem(415, "unsupported_media_type", f"a capture is sent as {CONTENT_TYPE}")
        signed = _signed(request)
        self._nonce_is_left_to_the_attempt = True
        try:
            with metrics.stage("accept"):
                attempt = services.submit_attempt(
                    terminal=_terminal(request), payload=payload, nonce=signed.nonce, at=timezone.now(),
                    signed_at=signed_at(signed),
                )  # fmt: skip
        except services.AccessRefused as refusal:
            if refusal.code == "nonce_replayed":
                raise replayed() from refusal
            raise
        if attempt.detail in UNAVAILABLE:
            raise Problem(
                503,
                "recognition_unavailable",
                "No worker can be reached; the door stays shut.",
                attempt_id=str(attempt.pk),
                granted=False,
                reason=attempt.reason,
            )
        if attempt.state == AccessAttempt.State.PENDING:
            with metrics.stage("wait"):
                attempt = _wait(attempt)
        return _answer(attempt, nonce=signed.nonce)

    def perform_authentication(self, request: Request) -> None:
        if request.method != "POST":
            return super().perform_authentication(request)
        with metrics.stage("authenticate"):
            return super().perform_authentication(request)

    def handle_exception(self, exc: Exception) -> Response:
        """A believed request that led to no attempt has spent its nonce all the same."""
        request = self.request
        signed = signed_request(getattr(request, "_request", request))
        if signed is not None and not self._nonce_is_left_to_the_attempt:
            self._nonce_is_left_to_the_attempt = True
            try:
                spend_nonce(_terminal(request), signed, timezone.now())
            except Exception as instead:  # a replay, or a database that is gone: either is the better answer
                exc = instead
        return super().handle_exception(exc)


class AttemptView(TerminalView):
    """A terminal asks again about its own attempt."""

    @extend_schema(
        operation_id="attempts_read",
        summary="What became of my attempt",
        description="After the deadline an attempt is never granted.",
        responses={
            200: DecisionSerializer,
            202: PendingSerializer,
            404: refusal(404, "Not Found", "not_found", "Nothing."),
        },
        examples=[example("Granted", _ANSWER), example("Not decided yet", _PENDING, status=202)],
    )
    def get(self, request: Request, attempt_id: uuid.UUID) -> Response:
        if not AccessAttempt.objects.filter(pk=attempt_id, terminal=_terminal(request)).exists():
            raise Http404
        return _answer(services.read_attempt(attempt_id=attempt_id, at=timezone.now()), nonce=_nonce(request))


class ProofView(TerminalView):
    """A PIN or a card after a face, or a card and its PIN instead of one."""

    throttle_classes = (TerminalRate, ProofRate)
    parser_classes = (JSONParser,)

    @extend_schema(
        operation_id="attempts_prove",
        summary="A PIN or a card",
        description="Follows an attempt that was refused with `pin_required` or `card_required`, once and until its "
        "`proof_until`; or, at a door that takes a card and its PIN without a face, stands for itself. The answer is "
        "about an attempt of its own. A wrong PIN is refused as `pin_wrong` after a face; of a card that was not "
        "accepted, or its PIN, a door hears `proof_refused` and nothing finer.",
        request=ProofInput,
        responses={
            200: DecisionSerializer,
            404: refusal(404, "Not Found", "not_found", "There is nothing here."),
            409: refusal(409, "Conflict", "proof_used", "this attempt was followed already; begin anew"),
            422: refusal(
                422,
                "Unprocessable Content",
                "proof_incomplete",
                "send what the attempt asked for, the PIN or the card",
            ),
            429: refusal(429, "Too Many Requests", "too_many_requests", "Request was throttled."),
        },
        examples=[
            example("A PIN after a face", {"attempt_id": _ANSWER["attempt_id"], "pin": "4711"}, request=True),
            example("A card and its PIN", {"card": "0012345678", "pin": "4711"}, request=True),
            example("Granted", _ANSWER),
        ],
    )
    def post(self, request: Request) -> Response:
        given = valid(ProofInput, request.data)
        signed = _signed(request)
        try:
            attempt = services.submit_proof(
                terminal=_terminal(request), nonce=signed.nonce, at=timezone.now(), **given
            )
        except AccessAttempt.DoesNotExist as error:
            raise Http404 from error
        except (SealBroken, UnknownKey) as error:
            log.error("no PIN or card can be looked at: %s", type(error).__name__)
            raise Problem(
                503, "proof_unavailable", "No PIN or card can be looked at; the door stays shut."
            ) from error
        return _answer(attempt, nonce=signed.nonce)


def describe_terminal(terminal: Terminal, *, at: datetime) -> dict[str, Any]:
    door = terminal.door
    site = door.site if door is not None else None
    return {
        "terminal_id": str(terminal.pk),
        "name": terminal.name,
        "role": terminal.role,
        "key_id": terminal.key_id,
        "door": {"id": str(door.pk), "name": door.name, "asks_for": door.asks_for}
        if door is not None
        else None,
        "site": {"id": site.pk, "name": site.name, "timezone": site.timezone} if site is not None else None,
        "profile_hash": captures.default_profile().hash,
        "profiles": list(captures.known_profiles()),
        "server_keys": [
            {"key_id": key_id, "public_key": base64.b64encode(public_key_of(seed)).decode("ascii")}
            for key_id, seed in settings.LINTEL_SIGNING_KEYS
        ],
        "server_time": at.isoformat(),
        "clock_window_s": settings.LINTEL_CLOCK_WINDOW_S,
        "attempt_deadline_ms": settings.LINTEL_ATTEMPT_DEADLINE_MS,
        "max_payload_bytes": MAX_PAYLOAD_BYTES,
    }


def _wait(attempt: AccessAttempt) -> AccessAttempt:
    """Until somebody settles the attempt or its deadline passes. No transaction and no lock is held
    meanwhile."""
    remaining = (attempt.deadline_at - timezone.now()).total_seconds()
    try:
        told = decisions.wait(attempt.pk, timeout_s=remaining)
    except decisions.DecisionsUnavailableError as error:
        raise Problem(
            503,
            "recognition_unavailable",
            "No worker can be heard; the door stays shut.",
            attempt_id=str(attempt.pk),
        ) from error
    if told is None or settings.LINTEL_GREET_BY_NAME:  # no name travels through Redis
        return services.attempt_now(attempt_id=attempt.pk)
    attempt.state, attempt.granted = AccessAttempt.State.SETTLED, told.granted
    attempt.reason, attempt.settled_at = told.reason, told.settled_at
    return attempt


def _answer(attempt: AccessAttempt, *, nonce: str) -> Response:
    now = timezone.now()
    if attempt.state == AccessAttempt.State.PENDING:
        body: dict[str, Any] = {
            "attempt_id": str(attempt.pk),
            "poll": f"/api/v1/attempts/{attempt.pk}",
            "door_id": str(attempt.door_id),
            "nonce": nonce,
        }
        return Response(body, status=202)
    granted, reason = services.answer(attempt, at=now)
    explanation = EXPLANATIONS[reason]
    ends_at = services.step_ends_at(attempt)
    # A name on a screen tells everybody who stands there: only where the installation wants it, and only with a yes.
    greeting = (
        {"name": attempt.person.full_name}
        if granted and settings.LINTEL_GREET_BY_NAME and attempt.person
        else {}
    )
    return Response(
        {
            "attempt_id": str(attempt.pk),
            "granted": granted,
            "reason": reason.value,
            "message": explanation.sentence,
            "next_step": explanation.next_step,
            **greeting,
            **({"proof_until": ends_at.isoformat()} if ends_at is not None else {}),
            "door_id": str(attempt.door_id),
            "nonce": nonce,
            "decided_at": attempt.settled_at.isoformat() if attempt.settled_at else now.isoformat(),
            "expires_at": (now + timedelta(seconds=REPLY_LIFETIME_S)).isoformat(),
        }
    )


def _terminal(request: Request) -> Terminal:
    """Who signed. The authentication class put it there, or the view would not run."""
    terminal: object = request.auth
    if not isinstance(terminal, Terminal):
        raise Problem(401, "signature_missing", "the request carries no signature")
    return terminal


def _signed(request: Request) -> SignedRequest:
    signed = signed_request(request._request)
    if signed is None:  # the authentication class ran, or this view would not
        raise Problem(401, "signature_missing", "the request carries no signature")
    return signed


def _nonce(request: Request) -> str:
    return _signed(request).nonce
