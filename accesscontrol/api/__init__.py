"""The machine interface, version 1. Terminals prove themselves by signature, integrators by token; see
`api_urls`."""

from accesscontrol.problems import problem_response

__all__ = ["problem_response"]
