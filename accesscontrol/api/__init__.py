"""The machine interface, version 1. Terminals prove themselves by signature, integrators by token; see
`api_urls`."""

from accesscontrol.api import description
from accesscontrol.problems import problem_response

__all__ = ["description", "problem_response"]
