from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.db.models.signals import post_delete


class AccessControlConfig(AppConfig):
    name = "accesscontrol"
    verbose_name = "Doors and access"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from accesscontrol import live, sentences  # their models exist only now

        live.connect_signals()
        sentences.tell_the_log()
        post_delete.connect(_forget_account, sender=settings.AUTH_USER_MODEL, dispatch_uid="lintel.forget")


def _forget_account(sender: Any, instance: Any, **more: Any) -> None:
    """What the audit log holds about an account that is deleted, such as names at failed sign-ins, goes with it."""
    from audit.services import forget

    forget(f"user:{instance.pk}")
