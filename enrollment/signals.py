"""What enrollment tells whoever listens, without knowing them."""

from django.dispatch import Signal

#: Sent after commit, from web processes and workers alike, with `progress`: what `services.describe_progress` returns.
enrollment_progress = Signal()
