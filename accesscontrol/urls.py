"""Every address of the server. The gate in `accesscontrol.gate` decides who may open a page."""

from __future__ import annotations

from django.contrib import admin
from django.urls import include, path
from drf_spectacular.views import SpectacularSwaggerSplitView

from accesscontrol import health, live
from accesscontrol.api.description import DescriptionView

handler400 = "accesscontrol.problems.bad_request"
handler404 = "accesscontrol.problems.page_not_found"
handler500 = "accesscontrol.problems.server_error"

urlpatterns = [
    path("api/v1/", include("accesscontrol.api_urls")),  # first: a door waits for every address tried before
    path("healthz", health.healthz, name="healthz"),
    path("readyz", health.readyz, name="readyz"),
    path("metrics", health.metrics, name="metrics"),
    path("admin/", admin.site.urls),
    path("events/", live.events, name="events"),
    path("api/schema/", DescriptionView.as_view(), name="schema"),
    path(
        "api/docs/",
        SpectacularSwaggerSplitView.as_view(template_name="api/documentation.html"),
        name="api_documentation",
    ),
    path("", include("accesscontrol.pages")),
    path("audit/", include("audit.urls")),
]
