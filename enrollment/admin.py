"""Read-only: every change goes through the services, where it is checked and recorded. Sealed bytes are
never shown."""

from __future__ import annotations

from django.contrib import admin
from django.db.models import Model
from django.http import HttpRequest

from enrollment.models import (
    Consent,
    Enrollment,
    ErasureCertificate,
    GalleryChange,
    Person,
    ProtectedTemplate,
)


class ReadOnlyAdmin(admin.ModelAdmin):
    def has_add_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


@admin.register(Person)
class PersonAdmin(ReadOnlyAdmin):
    list_display = ("full_name", "kind", "external_id", "is_active", "valid_from", "valid_until")
    list_filter = ("kind", "is_active")
    search_fields = ("full_name", "external_id", "email")


@admin.register(Consent)
class ConsentAdmin(ReadOnlyAdmin):
    list_display = ("person", "version", "method", "given_at", "withdrawn_at")


@admin.register(Enrollment)
class EnrollmentAdmin(ReadOnlyAdmin):
    list_display = (
        "person",
        "state",
        "captures_accepted",
        "captures_wanted",
        "last_reason",
        "started_by",
        "started_at",
    )
    list_filter = ("state",)


@admin.register(ProtectedTemplate)
class ProtectedTemplateAdmin(ReadOnlyAdmin):
    list_display = ("id", "person", "kind", "active", "model", "gallery_key_id", "created_at")
    list_filter = ("active", "kind")
    exclude = ("sealed",)


@admin.register(GalleryChange)
class GalleryChangeAdmin(ReadOnlyAdmin):
    list_display = ("sequence", "kind", "template_id", "person_id", "at")


@admin.register(ErasureCertificate)
class ErasureCertificateAdmin(ReadOnlyAdmin):
    list_display = ("person_id", "erased_at")
