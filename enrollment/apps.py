from django.apps import AppConfig


class EnrollmentConfig(AppConfig):
    name = "enrollment"
    verbose_name = "People and enrollment"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from enrollment import checks, invitations  # its models exist only now
        from enrollment.signals import enrollment_progress

        assert checks.check_languages  # importing it registers it
        enrollment_progress.connect(invitations.on_enrollment_progress, dispatch_uid="enrollment.invitations")
