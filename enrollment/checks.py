"""What `manage.py check`, and every command that serves, says about the language files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register
from django.core.exceptions import ImproperlyConfigured

from enrollment import languages


@register()
def check_languages(app_configs: Any, **options: Any) -> list[CheckMessage]:
    """A gap in a file is a warning, because English fills it; a file that cannot be used is an error."""
    try:
        languages.known()
    except ImproperlyConfigured as error:
        return [Error(str(error), id="enrollment.E001")]
    own = settings.LINTEL_LANGUAGES_DIR
    return [
        Warning(problem, hint="docs/languages.md", id="enrollment.W001")
        for problem in languages.problems(Path(own) if own else None)
    ]
