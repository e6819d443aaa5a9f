"""The kiosk: a full-screen page that is a door terminal. It carries no data; whatever it learns, it learns over the
API with its own key (docs/protocol.md). So everybody may open it, and nobody can do anything with it unpaired."""

from __future__ import annotations

from pathlib import Path

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.templatetags.static import static
from django.urls import reverse
from django.utils.cache import patch_vary_headers
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from enrollment import languages
from enrollment.camera import uses_camera

SERVICE_WORKER = Path(__file__).resolve().parent.parent / "static" / "kiosk" / "service-worker.js"


@uses_camera
@require_safe
def kiosk(request: HttpRequest) -> HttpResponse:
    """The same page for everybody, so that it can be kept for when the network is gone, with all it says in every
    language."""
    context = {
        "language": languages.reference(),
        "languages": languages.known(),
        "sentences": [language.for_browser("kiosk") for language in languages.known()],
    }
    response = render(request, "kiosk/kiosk.html", context)
    response["Cache-Control"] = "no-cache"
    return response


@require_safe
def kiosk_manifest(request: HttpRequest) -> HttpResponse:
    here = reverse("kiosk")
    language = languages.preferred(request.headers.get("Accept-Language", ""))
    document = {
        "id": here,
        "name": language.say("kiosk", "app_name"),
        "short_name": "Lintel",
        "description": language.say("kiosk", "app_description"),
        "lang": language.tag,
        "dir": language.direction,
        "start_url": here,
        "scope": here,
        "display": "fullscreen",
        "display_override": ["fullscreen", "standalone"],
        "orientation": "any",
        "background_color": "#17211e",
        "theme_color": "#17211e",
        "icons": [
            {"src": static("kiosk/icon-192.png"), "sizes": "192x192", "type": "image/png"},
            {"src": static("kiosk/icon-512.png"), "sizes": "512x512", "type": "image/png"},
            {
                "src": static("kiosk/icon-512.png"),
                "sizes": "512x512",
                "type": "image/png",
                "purpose": "maskable",
            },
        ],
    }
    response = JsonResponse(document, content_type="application/manifest+json")
    patch_vary_headers(response, ["Accept-Language"])
    response["Cache-Control"] = "no-cache"
    return response


@never_cache
@require_safe
def kiosk_worker(request: HttpRequest) -> HttpResponse:
    """Served from beneath /kiosk/, because that is how far a service worker may reach."""
    return HttpResponse(SERVICE_WORKER.read_bytes(), content_type="text/javascript; charset=utf-8")
