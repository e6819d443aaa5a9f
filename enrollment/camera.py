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


def uses_camera(view: Callable[..., HttpResponseBase]) -> Callable[..., HttpResponseBase]:
    """Marks the view's responses: their page may open the camera and run the capture worker."""

    @wraps(view)
    def marked(*args: object, **kwargs: object) -> HttpResponseBase:
        response = view(*args, **kwargs)
        response.uses_camera = True  # type: ignore[attr-defined]
        return response

    return marked
