from collections.abc import Mapping
from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.db.models.signals import post_delete


class AccessControlConfig(AppConfig):
    name = "accesscontrol"
    verbose_name = "Doors and access"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from accesscontrol import live  # its models exist only now

        live.connect_signals()
        _say_reasons_in_words()
        post_delete.connect(_forget_account, sender=settings.AUTH_USER_MODEL, dispatch_uid="lintel.forget")


def _say_reasons_in_words() -> None:
    """The audit log knows no door's reasons; here they get the words that every other page has for them."""
    from accesscontrol.templatetags.lintel import reason_words
    from audit.sentences import Tone, describe

    def sentence(facts: Mapping[str, Any]) -> str:
        if facts.get("granted") is True:
            return "Let in at a door"
        return f"Kept out at a door: {reason_words(str(facts.get('reason') or 'no reason recorded'))}"

    describe("attempt.settled", sentence, lambda facts: Tone.YES if facts.get("granted") is True else Tone.NO)


def _forget_account(sender: Any, instance: Any, **more: Any) -> None:
    """What the audit log holds about an account that is deleted, such as names at failed sign-ins, goes with it."""
    from audit.services import forget

    forget(f"user:{instance.pk}")
