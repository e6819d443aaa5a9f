from django.apps import AppConfig


class AccessControlConfig(AppConfig):
    name = "accesscontrol"
    verbose_name = "Doors and access"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from accesscontrol import live  # its models exist only now

        live.connect_signals()
