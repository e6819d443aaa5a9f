"""Is it alive, is it ready, and what has it measured: for supervisors, proxies and Prometheus."""

from __future__ import annotations

import hmac
import ipaddress
import time
from collections.abc import Callable

import structlog
from django.conf import settings
from django.core.cache import cache
from django.db import connection
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from prometheus_client import CONTENT_TYPE_LATEST

from accesscontrol.metrics import exposition

#: Cache entry that every recognition worker renews with each of its heartbeats.
WORKER_HEARD_KEY = "lintel:recognition-worker-heard"
WORKER_HEARD_TTL_S = 30
#: What a proxy adds to a request that it passes on.
FORWARDED = ("X-Forwarded-For", "X-Real-IP", "Forwarded", "Via")
log = structlog.get_logger(__name__)


@never_cache
@require_safe
def healthz(request: HttpRequest) -> HttpResponse:
    """200 while this process answers at all. Touches nothing else, so that a slow database restarts no server."""
    return JsonResponse({"status": "ok"})


@never_cache
@require_safe
def readyz(request: HttpRequest) -> HttpResponse:
    """200 when a door asked now would get an answer, else 503. Says which part is missing, never why in detail."""
    parts: dict[str, Callable[[], bool]] = {"database": _database_answers}
    if settings.LINTEL_MODE == "production":
        parts["redis"] = _redis_answers
        parts["recognition_worker"] = _worker_was_heard
    checks = {name: _holds(name, check) for name, check in parts.items()}
    ready = all(checks.values())
    body = {
        "status": "ready" if ready else "not_ready",
        "checks": {k: "ok" if v else "failed" for k, v in checks.items()},
    }
    return JsonResponse(body, status=200 if ready else 503)


@never_cache
@require_safe
def metrics(request: HttpRequest) -> HttpResponse:
    """Prometheus exposition, for this machine or whoever holds the metrics token; 404 for everyone else."""
    if not (_from_this_machine(request) or _holds_metrics_token(request)):
        return HttpResponse(status=404)
    return HttpResponse(exposition(), content_type=CONTENT_TYPE_LATEST)


def _holds(name: str, check: Callable[[], bool]) -> bool:
    try:
        return check()
    except Exception as problem:  # whatever a driver raises, the part is not there
        log.warning("not_ready", part=name, error=type(problem).__name__)
        return False


def _database_answers() -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        return bool(cursor.fetchone() == (1,))


def _redis_answers() -> bool:
    stamp = str(time.time())
    cache.set("lintel:readyz", stamp, timeout=10)
    return bool(cache.get("lintel:readyz"))


def _worker_was_heard() -> bool:
    return cache.get(WORKER_HEARD_KEY) is not None


def _from_this_machine(request: HttpRequest) -> bool:
    """Not through a proxy on this machine that nobody told us about: all the world would come from here."""
    if settings.LINTEL_PROXY_HOPS == 0 and any(name in request.headers for name in FORWARDED):
        return False
    try:
        return ipaddress.ip_address(request.META.get("REMOTE_ADDR", "")).is_loopback
    except ValueError:
        return False


def _holds_metrics_token(request: HttpRequest) -> bool:
    token = settings.LINTEL_METRICS_TOKEN
    scheme, _, offered = request.headers.get("Authorization", "").partition(" ")
    return bool(token) and scheme == "Bearer" and hmac.compare_digest(offered.encode(), token.encode())
