"""What operations share: who may call them, how they answer, and what an answer is worth (its signature)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import wraps
from typing import Any, ClassVar

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from rest_framework import serializers
from rest_framework.pagination import LimitOffsetPagination
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.throttling import BaseThrottle
from rest_framework.views import APIView

from accesscontrol import captures, services
from accesscontrol.authentication import (
    ApiTokenAuthentication,
    HasScope,
    TerminalMay,
    TerminalRate,
    TerminalSignature,
    TokenRate,
    signed_request,
)
from accesscontrol.problems import Problem
from terminal.protocol import sign_reply

log = logging.getLogger(__name__)

REPLY_LIFETIME_S = 5
MAX_OFFSET = 1_000_000_000  # beyond every table, within every database's integers

STATUS_OF_REFUSAL = {
    "pairing_code_invalid": 403,
    "key_malformed": 422,
    "scopes_invalid": 422,
    "reason_missing": 422,
    "terminal_without_door": 403,
    "terminal_revoked": 403,
    "proof_incomplete": 422,
}

TERMINAL_ONLY: dict[str, Any] = {
    "authentication_classes": [TerminalSignature],
    "permission_classes": [TerminalMay],
    "throttle_classes": [TerminalRate],
}
INTEGRATOR_ONLY: dict[str, Any] = {
    "authentication_classes": [ApiTokenAuthentication],
    "permission_classes": [HasScope],
    "throttle_classes": [TokenRate],
}


class AccessView(APIView):
    """Translates refusals of the services."""

    metadata_class = None

    def handle_exception(self, exc: Exception) -> Response:
        if isinstance(exc, services.AccessRefused):
            exc = Problem(STATUS_OF_REFUSAL.get(exc.code, 409), exc.code, exc.message)
        elif isinstance(exc, captures.ProfilesMissingError):
            log.error("no capture can be accepted: %s", exc)
            exc = Problem(503, "recognition_unavailable", "The server has no recognition model.")
        return super().handle_exception(exc)

    @property
    def actor(self) -> str:
        return str(self.request.user)


class TerminalView(AccessView):
    """For terminals; `request.auth` is the terminal. Answers leave signed, see `signed`."""

    authentication_classes = (TerminalSignature,)
    permission_classes = (TerminalMay,)
    throttle_classes: tuple[type[BaseThrottle], ...] = (TerminalRate,)


class IntegratorView(AccessView):
    """For tokens; `scopes` says what a token must hold, by method."""

    authentication_classes = (ApiTokenAuthentication,)
    permission_classes = (HasScope,)
    throttle_classes = (TokenRate,)
    scopes: ClassVar[dict[str, str]] = {}


class Pages(LimitOffsetPagination):
    """`limit` (at most 200, 50 without it) and `offset`."""

    default_limit = 50
    max_limit = 200

    def get_offset(self, request: Request) -> int:
        return min(super().get_offset(request), MAX_OFFSET)


def valid(form: type[serializers.Serializer[Any]], data: Any, *, partial: bool = False) -> dict[str, Any]:
    """What the form makes of `data`. Raises ValidationError, which the API answers as a problem with code
    `invalid`."""
    given = form(data=data, partial=partial)
    given.is_valid(raise_exception=True)
    return dict(given.validated_data)


def signed(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    """Signs the answer to every request whose signature was verified, refusals included, bound to that
    request's nonce.

    Answers to anybody else leave unsigned: a terminal believes none of them, and its door stays shut.
    """

    @wraps(view)
    def answer(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        response = view(request, *args, **kwargs)
        proven = signed_request(request)
        if proven is None:
            return response
        if hasattr(response, "render"):
            response.render()
        created = int(timezone.now().timestamp())
        key_id, seed = settings.LINTEL_SIGNING_KEYS[0]
        proof = sign_reply(
            status=response.status_code,
            body=response.content,
            request_nonce=proven.nonce,
            key_id=key_id,
            private_key=seed,
            created=created,
            expires=created + REPLY_LIFETIME_S,
        )
        for name, value in proof.items():
            response.headers[name] = value
        response.headers["Cache-Control"] = "no-store"
        return response

    return answer
