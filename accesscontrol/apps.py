from django.apps import AppConfig


class AccessControlConfig(AppConfig):
    name = "accesscontrol"
    verbose_name = "Doors and access"
    default_auto_field = "django.db.models.BigAutoField"
