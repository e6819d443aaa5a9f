"""Pages on which a camera runs (docs/adr/0020-capture-in-a-browser.md).

Every page of Lintel forbids camera and WebAssembly. A view that takes captures says so with `uses_camera`; the
middleware of accesscontrol then allows exactly these two and a worker of our own, on that page alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

from django.http import HttpResponseBase

#: Scripts whose own response decides what they may do: a worker does not inherit its page's policy.
CAPTURE_WORKERS = ("enrollment/capture-worker.js",)


def allow_camera(response: HttpResponseBase) -> None:
    """The page of this response may open the camera and run the capture worker."""
    response.uses_camera = True  # type: ignore[attr-defined]


def uses_camera(view: Callable[..., HttpResponseBase]) -> Callable[..., HttpResponseBase]:
    """For a view whose every page takes captures."""

    @wraps(view)
    def marked(*args: object, **kwargs: object) -> HttpResponseBase:
        response = view(*args, **kwargs)
        allow_camera(response)
        return response

    return marked
