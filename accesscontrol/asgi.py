"""The server's entry point under an ASGI server such as uvicorn."""

import os

from django.core.asgi import get_asgi_application
from django.core.exceptions import ImproperlyConfigured

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "accesscontrol.settings")
application = get_asgi_application()

from django.conf import settings  # noqa: E402 (settings exist only after Django has been set up)

if settings.LINTEL_SECRETS_ARE_EPHEMERAL:
    raise ImproperlyConfigured("There are no secrets yet. Run `python manage.py set_up` first.")
