"""What every response carries, and whose address a request really comes from."""

from __future__ import annotations

from collections.abc import Callable

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.urls import resolve

from enrollment.camera import CAPTURE_WORKERS

GetResponse = Callable[[HttpRequest], HttpResponse]

#: Nothing from elsewhere, nothing inline, nothing evaluated. `data:` pictures are the drawn QR codes of sign-in.
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "font-src 'self'",
        "connect-src 'self'",
        "manifest-src 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
        "object-src 'none'",
    )
)
#: On pages that take captures, and for the worker that does the work there: WebAssembly, still never eval.
CAMERA_SECURITY_POLICY = (
    CONTENT_SECURITY_POLICY.replace("script-src 'self'", "script-src 'self' 'wasm-unsafe-eval'")
    + "; worker-src 'self'"
)
ATTEMPTS = "/api/v1/attempts"
UNKNOWN_ADDRESS = "0.0.0.0"  # noqa: S104 (an address nobody has, not one to listen on)
PERMISSIONS_POLICY = "camera=(), microphone=(), geolocation=(), payment=(), usb=()"
CAMERA_PERMISSIONS_POLICY = PERMISSIONS_POLICY.replace("camera=()", "camera=(self)")


class SecurityHeaders:
    """Sets the Content-Security-Policy and Permissions-Policy of every response, static files included."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        camera = getattr(response, "uses_camera", False)
        captures = camera or request.path in _capture_workers()
        response.headers.setdefault(
            "Content-Security-Policy", CAMERA_SECURITY_POLICY if captures else CONTENT_SECURITY_POLICY
        )
        response.headers.setdefault(
            "Permissions-Policy", CAMERA_PERMISSIONS_POLICY if camera else PERMISSIONS_POLICY
        )
        return response


def _capture_workers() -> frozenset[str]:
    return frozenset(settings.STATIC_URL + worker for worker in CAPTURE_WORKERS)


class AttemptsAtOnce:
    """Answers the addresses of attempts without what only pages need: sessions, cookies, messages, languages, people.

    Whoever asks there proves it by a signature or a token, and a person at a door waits for everything in between.
    """

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if request.path_info != ATTEMPTS and not request.path_info.startswith(f"{ATTEMPTS}/"):
            return self.get_response(request)
        request.get_host()  # refuses a name that is not ours, as Django's own middleware does for the rest
        request.resolver_match = match = resolve(request.path_info)
        response: HttpResponse = match.func(request, *match.args, **match.kwargs)
        if hasattr(response, "render"):
            response.render()
        return response


class ClientAddress:
    """Replaces REMOTE_ADDR by the address that the outermost trusted proxy saw.

    Only the last LINTEL_PROXY_HOPS entries of X-Forwarded-For are ours; everything before them is the client's claim.
    """

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        hops = settings.LINTEL_PROXY_HOPS
        header = request.META.get("HTTP_X_FORWARDED_FOR", "")
        if hops and header:
            forwarded = [part.strip() for part in header.split(",")]
            # Fewer entries than proxies: somebody came in past one of them, and who it is cannot be known.
            request.META["REMOTE_ADDR"] = forwarded[-hops] if len(forwarded) >= hops else UNKNOWN_ADDRESS
        return self.get_response(request)
