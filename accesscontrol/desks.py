"""Where faces may be enrolled. Enrollment, which knows no terminals, asks here before it begins at one."""

from __future__ import annotations

import uuid

from accesscontrol.authentication import TERMINAL_MAY
from accesscontrol.models import Terminal


def may_enroll(terminal_id: uuid.UUID) -> bool:
    """Whether this terminal exists, is in use, and could fetch an enrollment at all. One that is revoked a moment later
    is refused by its signature."""
    roles = TERMINAL_MAY["api_terminal_enrollment"]
    return Terminal.objects.filter(pk=terminal_id, state=Terminal.State.ACTIVE, role__in=roles).exists()
