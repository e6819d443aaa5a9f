"""Examples in the OpenAPI description. Here because every app with an API may import this one."""

from __future__ import annotations

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiExample, OpenApiResponse


def example(name: str, value: object, *, request: bool = False, status: int | None = None) -> OpenApiExample:
    """An answer of 200 or 201 unless `status` says which."""
    codes = [str(status)] if status else None
    return OpenApiExample(name, value, request_only=request, response_only=not request, status_codes=codes)


def refusal(status: int, title: str, code: str, detail: str) -> OpenApiResponse:
    """A documented refusal, with an example of its problem."""
    body = {
        "type": f"urn:lintel:problem:{code}",
        "title": title,
        "status": status,
        "code": code,
        "detail": detail,
    }
    problem = OpenApiExample(code, body, response_only=True, media_type="application/problem+json")
    return OpenApiResponse(
        OpenApiTypes.OBJECT, "Refused; `code` says why and stays the same between versions.", [problem]
    )
