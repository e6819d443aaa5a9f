"""How the OpenAPI description says who may call. Importing this module is enough. And the address it is read at."""

from __future__ import annotations

from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.views import SpectacularAPIView
from rest_framework.request import Request

from accesscontrol.authentication import ApiTokenAuthentication, TerminalSignature


class SignatureDescription(OpenApiAuthenticationExtension):
    target_class = TerminalSignature
    name = "terminalSignature"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {
            "type": "apiKey",
            "in": "header",
            "name": "Signature",
            "description": "HTTP message signature (RFC 9421, Ed25519) of a paired terminal; see docs/protocol.md. "
            "Replies are signed the same way by the server.",
        }


class TokenDescription(OpenApiAuthenticationExtension):
    target_class = ApiTokenAuthentication
    name = "apiToken"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {
            "type": "http",
            "scheme": "bearer",
            "description": "A token that an administrator made under System, API tokens, with the scopes it needs.",
        }


class DescriptionView(SpectacularAPIView):
    """There is one version. The package's `?version=` would go as it is into a header and into the document."""

    def _get_version_parameter(self, request: Request) -> None:
        return None
