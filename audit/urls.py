"""Addresses of the audit pages."""

from __future__ import annotations

from django.urls import path

from audit import views

app_name = "audit"
urlpatterns = [
    path("", views.entries, name="entries"),
    path("entries/<int:index>/", views.entry, name="entry"),
    path("checkpoints/", views.checkpoints, name="checkpoints"),
    path("sign/", views.sign, name="sign"),
    path("verify/", views.verify, name="verify"),
    path("export/", views.export_entries, name="export"),
]
