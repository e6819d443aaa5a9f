"""How the OpenAPI description writes an operation down. Views load it, so it loads no view."""

from __future__ import annotations

from typing import Any

from drf_spectacular.openapi import AutoSchema

from accesscontrol.problems import CONTENT_TYPE


class Operation(AutoSchema):
    """Every refusal is a problem document, whatever an operation answers otherwise."""

    def _get_response_for_code(
        self,
        serializer: Any,
        status_code: str,
        media_types: list[str] | None = None,
        direction: str = "response",
    ) -> Any:
        types = [CONTENT_TYPE] if status_code >= "400" else media_types
        return super()._get_response_for_code(serializer, status_code, types, direction)
