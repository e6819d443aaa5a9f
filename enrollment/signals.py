"""What enrollment tells whoever listens, without knowing them."""

from django.dispatch import Signal

#: Sent after commit, by web processes and workers, with `progress`: the dictionary of
#: `services.describe_progress`.
enrollment_progress = Signal()
