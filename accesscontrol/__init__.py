"""The Django project, and everything about doors: who may open which, when, and what was decided."""

from accesscontrol.celery import app as celery_app

__all__ = ["celery_app"]
