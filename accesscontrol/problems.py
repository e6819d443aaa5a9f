"""Errors of the API as RFC 9457 problem details: `type`, `title`, `status`, `detail`, and a stable `code`.
Never a trace."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import redis
from django.core.exceptions import DisallowedHost, PermissionDenied, RequestDataTooBig, SuspiciousOperation
from django.core.signals import got_request_exception
from django.db import DatabaseError, InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse, UnreadablePostError
from django.views import defaults
from rest_framework import exceptions, status
from rest_framework.response import Response
from rest_framework.views import set_rollback

log = logging.getLogger(__name__)

CONTENT_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:lintel:problem:"
API = "/api/"
HOST_UNKNOWN = "This server is not known under that name. Use one that LINTEL_ALLOWED_HOSTS lists."

#: DRF's codes where they differ from ours.
CODES: Mapping[type[exceptions.APIException], str] = {
    exceptions.ParseError: "malformed_request",
    exceptions.NotAuthenticated: "authentication_missing",
    exceptions.AuthenticationFailed: "authentication_failed",
    exceptions.PermissionDenied: "not_allowed",
    exceptions.NotFound: "not_found",
    exceptions.MethodNotAllowed: "method_not_allowed",
    exceptions.NotAcceptable: "not_acceptable",
    exceptions.UnsupportedMediaType: "unsupported_media_type",
    exceptions.Throttled: "too_many_requests",
    exceptions.ValidationError: "invalid",
}
#: Codes that DRF gives by default and that say nothing of their own.
PLAIN = frozenset(
    {"error", "parse_error", "not_authenticated", "authentication_failed", "permission_denied", "not_found",
     "method_not_allowed", "not_acceptable", "unsupported_media_type", "throttled", "invalid"}
)  # fmt: skip


class Problem(exceptions.APIException):
    """A refusal with its status and stable code. `more` joins the body."""

    def __init__(self, status_code: int, code: str, detail: str, **more: Any) -> None:
        super().__init__(detail=detail, code=code)
        self.status_code = status_code
        self.code = code
        self.more = more


class NotBelieved(exceptions.AuthenticationFailed):
    """Who calls is not proven; the answer is 401 and the scheme to use."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail=detail, code=code)
        self.code = code


def problem_response(exc: Exception, context: Mapping[str, Any]) -> Response:
    """DRF's exception handler: every exception becomes a problem, unexpected ones a logged 500 that says
    nothing."""
    set_rollback()
    if isinstance(exc, exceptions.APIException):
        return _of_api_exception(exc)
    if isinstance(exc, Http404):
        return _problem(404, "not_found", "There is nothing here.")
    if isinstance(exc, PermissionDenied):
        return _problem(403, "not_allowed", "This is not allowed.")
    if isinstance(exc, RequestDataTooBig):
        return _problem(413, "oversized", "The request is larger than any honest one.")
    if isinstance(exc, UnreadablePostError):
        return _problem(400, "malformed_request", "The request broke off before its end.")
    if isinstance(exc, SuspiciousOperation):
        return _problem(400, "malformed_request", "The request cannot be understood.")
    if isinstance(exc, redis.RedisError):
        log.error("refused a request: Redis is gone", exc_info=exc)
        return _problem(
            503, "redis_unavailable", "A part of the server is not available. Try again.", retry_after=2
        )
    if isinstance(exc, OperationalError | InterfaceError):
        log.error("refused a request: the database does not answer", exc_info=exc)
        return _problem(
            503, "database_unavailable", "The database is not available. Try again.", retry_after=2
        )
    if isinstance(exc, DatabaseError):
        log.error("the database refused a value that validation let through", exc_info=exc)
    request = context.get("request")
    got_request_exception.send(sender=problem_response, request=getattr(request, "_request", request))
    log.error("a request failed", exc_info=exc)
    return _problem(500, "internal_error", "Something went wrong here. It is logged.")


def not_found(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
    """Any address under /api/ that leads nowhere."""
    return _before_any_view(404, "not_found", "There is no such address in this API.")


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    """What no view has seen yet: a problem under /api/, a page elsewhere."""
    if not request.path_info.startswith(API):
        return defaults.bad_request(request, exception)
    if isinstance(exception, DisallowedHost):
        return _before_any_view(400, "host_unknown", HOST_UNKNOWN)
    return _before_any_view(400, "malformed_request", "The request cannot be understood.")


def page_not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    if request.path_info.startswith(API):
        return not_found(request)
    return defaults.page_not_found(request, exception)


def server_error(request: HttpRequest) -> HttpResponse:
    if request.path_info.startswith(API):
        return _before_any_view(500, "internal_error", "Something went wrong here. It is logged.")
    return defaults.server_error(request)


def _before_any_view(status_code: int, code: str, detail: str) -> HttpResponse:
    return JsonResponse(_body(status_code, code, detail), status=status_code, content_type=CONTENT_TYPE)


def _of_api_exception(exc: exceptions.APIException) -> Response:
    codes = exc.get_codes()
    code = getattr(exc, "code", None) or (codes if isinstance(codes, str) and codes not in PLAIN else None)
    code = code or next((ours for kind, ours in CODES.items() if isinstance(exc, kind)), "refused")
    more = dict(getattr(exc, "more", {}))
    if isinstance(exc, exceptions.ValidationError):
        more["errors"] = exc.detail
        detail = "Some fields are not valid."
    else:
        detail = str(exc.detail)
    headers = {}
    if getattr(exc, "auth_header", None):
        headers["WWW-Authenticate"] = exc.auth_header  # type: ignore[attr-defined]
    retry_after = getattr(exc, "wait", None)
    return _problem(exc.status_code, code, detail, retry_after=retry_after, headers=headers, **more)


def _problem(
    status_code: int,
    code: str,
    detail: str,
    *,
    retry_after: float | None = None,
    headers: Mapping[str, str] | None = None,
    **more: Any,
) -> Response:
    all_headers = dict(headers or {})
    if retry_after is not None:
        all_headers["Retry-After"] = str(max(1, round(retry_after)))
    return Response(
        _body(status_code, code, detail, **more),
        status=status_code,
        headers=all_headers,
        content_type=CONTENT_TYPE,
    )


def _body(status_code: int, code: str, detail: str, **more: Any) -> dict[str, Any]:
    title = HTTPStatus(status_code).phrase
    return {
        "type": TYPE_PREFIX + code,
        "title": title,
        "status": status_code,
        "code": code,
        "detail": detail,
        **more,
    }


UNPROCESSABLE = status.HTTP_422_UNPROCESSABLE_ENTITY
