"""Sites, doors, terminals, rules, attempts. What must never be false is a constraint of the database, not
only of this file."""

from __future__ import annotations

import uuid
import zoneinfo
from datetime import datetime

from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import F, Q
from django.utils import timezone

from accesscontrol.policy import EXPLANATIONS, Asked, Reason, Shown, read_weekly
from enrollment.models import Person

#: What an attempt showed.
IN_WORDS = {
    Shown.FACE: "a face",
    Shown.FACE_AND_PIN: "a face and a PIN",
    Shown.FACE_AND_CARD: "a face and a card",
    Shown.CARD_AND_PIN: "a card and its PIN",
}


def require_time_zone(name: str) -> None:
    if name not in zoneinfo.available_timezones():
        raise ValidationError(f"{name} is not a time zone; write it as Europe/Vienna.")


def require_weekly(document: object) -> None:
    try:
        read_weekly(document)
    except ValueError as error:
        raise ValidationError(str(error)) from error


class Site(models.Model):
    """A place with one clock, one calendar and one switch to shut it."""

    name = models.CharField(max_length=100, unique=True)
    timezone = models.CharField(max_length=64, default="UTC", validators=[require_time_zone])
    locked_down = models.BooleanField(default=False, editable=False)
    locked_down_reason = models.CharField(max_length=200, blank=True, editable=False)
    locked_down_at = models.DateTimeField(null=True, editable=False)
    locked_down_by = models.CharField(max_length=200, blank=True, editable=False)

    class Meta:
        ordering = ["name"]
        constraints = [
            models.CheckConstraint(condition=~Q(name=""), name="site_has_a_name"),
            models.CheckConstraint(
                condition=Q(locked_down=False, locked_down_at=None)
                | Q(locked_down=True, locked_down_at__isnull=False),
                name="site_lock_down_has_a_moment",
            ),
        ]

    def __str__(self) -> str:
        return self.name


class Zone(models.Model):
    """What lies behind doors. With anti-passback nobody enters it twice without leaving it in between."""

    site = models.ForeignKey(Site, on_delete=models.CASCADE, related_name="zones")
    name = models.CharField(max_length=100)
    anti_passback = models.BooleanField(default=False)

    class Meta:
        ordering = ["site", "name"]
        constraints = [
            models.UniqueConstraint(fields=["site", "name"], name="zone_name_is_unique_in_its_site")
        ]

    def __str__(self) -> str:
        return self.name


class Door(models.Model):
    """Leads into `zone`; without a zone it leads out of all zones of the site."""

    class AsksFor(models.TextChoices):
        FACE = Asked.FACE, "A face"
        FACE_OR_CARD_AND_PIN = Asked.FACE_OR_CARD_AND_PIN, "A face, or a card and its PIN"
        FACE_AND_PIN = Asked.FACE_AND_PIN, "A face and a PIN"
        FACE_AND_CARD = Asked.FACE_AND_CARD, "A face and a card"
        CARD_AND_PIN = Asked.CARD_AND_PIN, "A card and its PIN, no face"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    site = models.ForeignKey(Site, on_delete=models.PROTECT, related_name="doors")
    zone = models.ForeignKey(Zone, on_delete=models.PROTECT, null=True, blank=True, related_name="doors")
    name = models.CharField(max_length=100)
    asks_for = models.CharField(
        "how people identify themselves", max_length=30, choices=AsksFor.choices, default=AsksFor.FACE
    )
    is_active = models.BooleanField(default=True)

    class Meta:
        ordering = ["site", "name"]
        constraints = [
            models.UniqueConstraint(fields=["site", "name"], name="door_name_is_unique_in_its_site"),
            models.CheckConstraint(
                condition=Q(asks_for__in=sorted(asked.value for asked in Asked)),
                name="door_asks_for_something_that_is_known",
            ),
        ]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        if self.zone is not None and self.zone.site_id != self.site_id:
            raise ValidationError({"zone": "This zone belongs to another site."})


class Terminal(models.Model):
    """A device that sees faces or reads cards and speaks for one door, or for the enrollment desk. Trusted by its key
    alone.

    `site` is where it was paired: moved to a door of another site, it opens nothing until it is paired again.
    """

    class Role(models.TextChoices):
        DOOR = "door", "At a door"
        DESK = "desk", "At the enrollment desk"

    class State(models.TextChoices):
        PENDING = "pending", "Waiting to be paired"
        ACTIVE = "active", "In use"
        REVOKED = "revoked", "Revoked"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=100, unique=True)
    role = models.CharField(max_length=10, choices=Role.choices, default=Role.DOOR)
    door = models.ForeignKey(Door, on_delete=models.PROTECT, null=True, blank=True, related_name="terminals")
    site = models.ForeignKey(
        Site, on_delete=models.PROTECT, null=True, editable=False, related_name="terminals"
    )
    state = models.CharField(max_length=10, choices=State.choices, default=State.PENDING, editable=False)
    key_id = models.CharField(max_length=128, unique=True, null=True, editable=False)
    public_key = models.BinaryField(null=True)
    previous_key_id = models.CharField(max_length=128, unique=True, null=True, editable=False)
    previous_public_key = models.BinaryField(null=True)
    previous_key_until = models.DateTimeField(null=True, editable=False)
    paired_at = models.DateTimeField(null=True, editable=False)
    revoked_at = models.DateTimeField(null=True, editable=False)
    last_seen_at = models.DateTimeField(null=True, editable=False)
    software = models.CharField(max_length=100, blank=True, editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ["name"]
        constraints = [
            models.CheckConstraint(
                condition=~Q(state="active") | Q(key_id__isnull=False, public_key__isnull=False),
                name="terminal_in_use_has_a_key",
            ),
            models.CheckConstraint(
                condition=~Q(role="door") | Q(door__isnull=False), name="terminal_at_a_door_names_its_door"
            ),
        ]

    def __str__(self) -> str:
        return self.name

    def public_key_for(self, key_id: str, at: datetime) -> bytes | None:
        """The key that may sign under `key_id` at this moment: the present one, or the previous within its
        grace."""
        if key_id == self.key_id and self.public_key is not None:
            return bytes(self.public_key)
        if (
            key_id == self.previous_key_id
            and self.previous_public_key is not None
            and self.previous_key_until is not None
            and at < self.previous_key_until
        ):
            return bytes(self.previous_public_key)
        return None


class PairingCode(models.Model):
    """What lets an unknown device become this terminal, once. Only a hash is kept."""

    terminal = models.ForeignKey(Terminal, on_delete=models.CASCADE, related_name="pairing_codes")
    code_hash = models.CharField(max_length=64, unique=True)
    issued_by = models.CharField(max_length=200)
    issued_at = models.DateTimeField()
    expires_at = models.DateTimeField()
    used_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["-issued_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["terminal"], condition=Q(used_at=None), name="pairing_code_unused_is_one_per_terminal"
            )
        ]

    def __str__(self) -> str:
        return f"pairing code of {self.terminal_id}"


class UsedNonce(models.Model):
    """A nonce that a terminal has spent. The constraint decides races between copies of one request."""

    terminal = models.ForeignKey(Terminal, on_delete=models.CASCADE, related_name="used_nonces")
    nonce = models.CharField(max_length=128)
    expires_at = models.DateTimeField(db_index=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["terminal", "nonce"], name="nonce_is_used_once")]

    def __str__(self) -> str:
        return self.nonce


class Schedule(models.Model):
    """Permitted hours of a week, on the clock of whichever site the door stands at; closed on that site's
    holidays."""

    name = models.CharField(max_length=100, unique=True)
    weekly = models.JSONField(
        default=list,
        blank=True,
        validators=[require_weekly],
        help_text='[{"day": 0, "from": "22:00", "to": "06:00"}]: Monday is 0, this one ends on Tuesday.',
    )

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class Holiday(models.Model):
    site = models.ForeignKey(Site, on_delete=models.CASCADE, related_name="holidays")
    date = models.DateField()
    name = models.CharField(max_length=100)

    class Meta:
        ordering = ["date"]
        constraints = [
            models.UniqueConstraint(fields=["site", "date"], name="holiday_is_one_per_site_and_day")
        ]

    def __str__(self) -> str:
        return f"{self.name} ({self.date})"


class AccessGroup(models.Model):
    name = models.CharField(max_length=100, unique=True)
    members = models.ManyToManyField(Person, blank=True, related_name="access_groups")

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class AccessRule(models.Model):
    """Lets a group through doors at the hours of a schedule; without a schedule at any hour, holidays
    included."""

    name = models.CharField(max_length=100, unique=True)
    group = models.ForeignKey(AccessGroup, on_delete=models.CASCADE, related_name="rules")
    doors = models.ManyToManyField(Door, blank=True, related_name="rules")
    schedule = models.ForeignKey(
        Schedule, on_delete=models.PROTECT, null=True, blank=True, related_name="rules"
    )
    is_active = models.BooleanField(default=True)
    valid_from = models.DateTimeField(null=True, blank=True)
    valid_until = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["name"]
        constraints = [
            models.CheckConstraint(
                condition=Q(valid_from=None) | Q(valid_until=None) | Q(valid_until__gt=F("valid_from")),
                name="rule_is_valid_for_a_while",
            )
        ]

    def __str__(self) -> str:
        return self.name


class AccessAttempt(models.Model):
    """What was shown at one door once, mostly a capture, and what came of it. Settled once, never again.

    `payload_key` leads to the capture while it waits for a worker, and is emptied when the attempt settles. Where a
    door asks for a PIN or a card after the face, that is an attempt of its own which `follows` the first one: one
    refusal that asks for more is answered once, which the database sees to.
    """

    class State(models.TextChoices):
        PENDING = "pending", "Not decided yet"
        SETTLED = "settled", "Decided"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    terminal = models.ForeignKey(Terminal, on_delete=models.PROTECT, related_name="attempts")
    door = models.ForeignKey(Door, on_delete=models.PROTECT, related_name="attempts")
    nonce = models.CharField(max_length=128)
    state = models.CharField(max_length=10, choices=State.choices, default=State.PENDING)
    granted = models.BooleanField(default=False)
    reason = models.CharField(
        max_length=40, blank=True, choices=[(reason.value, reason.value) for reason in Reason]
    )
    detail = models.CharField(
        max_length=60, blank=True, help_text="A finer code, such as why a payload was refused."
    )
    person = models.ForeignKey(
        Person, on_delete=models.SET_NULL, null=True, blank=True, related_name="attempts"
    )
    score = models.FloatField(null=True, blank=True)
    threshold = models.FloatField(null=True, blank=True)
    shown = models.CharField(
        max_length=20,
        choices=[(shown.value, words) for shown, words in IN_WORDS.items()],
        default=Shown.FACE.value,
    )
    follows = models.OneToOneField(
        "self", on_delete=models.PROTECT, null=True, blank=True, related_name="followed_by"
    )
    gallery_size = models.PositiveIntegerField(null=True, blank=True)
    model = models.CharField(max_length=200, blank=True)
    profile_hash = models.CharField(max_length=64, blank=True)
    payload_bytes = models.PositiveIntegerField()
    payload_key = models.CharField(max_length=100, blank=True, editable=False)
    received_at = models.DateTimeField()
    deadline_at = models.DateTimeField()
    settled_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-received_at", "-id"]
        indexes = [
            models.Index(fields=["-received_at", "-id"], name="attempt_newest"),
            models.Index(fields=["door", "-received_at"], name="attempt_at_door"),
            models.Index(fields=["person", "-received_at"], name="attempt_of_person"),
            models.Index(fields=["deadline_at"], condition=Q(state="pending"), name="attempt_pending"),
        ]
        constraints = [
            models.UniqueConstraint(fields=["terminal", "nonce"], name="attempt_has_its_own_nonce"),
            models.CheckConstraint(
                condition=Q(state="pending", settled_at=None, reason="", granted=False)
                | (Q(state="settled", settled_at__isnull=False) & ~Q(reason="")),
                name="attempt_is_settled_or_open",
            ),
            models.CheckConstraint(
                condition=Q(granted=False) & ~Q(reason="granted")
                | Q(granted=True, reason="granted", settled_at__lt=F("deadline_at"))
                & (
                    Q(shown=Shown.CARD_AND_PIN.value, score=None)
                    | ~Q(shown=Shown.CARD_AND_PIN.value)
                    & Q(score__isnull=False, threshold__isnull=False, score__gte=F("threshold"))
                ),
                name="attempt_is_granted_above_threshold_and_in_time",
            ),
            models.CheckConstraint(
                condition=Q(shown__in=["face_and_pin", "face_and_card"], follows__isnull=False)
                | Q(shown__in=["face", "card_and_pin"], follows=None),
                name="attempt_follows_the_face_that_it_completes",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.id}: {self.reason or self.state}"

    @property
    def explanation(self) -> str:
        return EXPLANATIONS[Reason(self.reason)].sentence if self.reason else "Not decided yet."

    @property
    def next_step(self) -> str:
        return EXPLANATIONS[Reason(self.reason)].next_step if self.reason else ""


class Presence(models.Model):
    """The zone that a person was last let into. Absent: outside every zone of the site, as far as doors
    know."""

    person = models.ForeignKey(Person, on_delete=models.CASCADE, related_name="presences")
    site = models.ForeignKey(Site, on_delete=models.CASCADE, related_name="presences")
    zone = models.ForeignKey(Zone, on_delete=models.CASCADE, related_name="presences")
    since = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["person", "site"], name="presence_is_one_place_per_site")
        ]

    def __str__(self) -> str:
        return f"{self.person_id} in {self.zone_id}"


class Alarm(models.Model):
    """Something a guard should look at. The same thing again, soon after, counts up instead of piling up."""

    class Kind(models.TextChoices):
        REPEATED_REFUSALS = "repeated_refusals", "Repeated refusals at a door"
        TERMINAL_SILENT = "terminal_silent", "A terminal is silent"
        NONCE_REPLAYED = "nonce_replayed", "A recorded request was sent again"
        SIGNATURE_REFUSED = "signature_refused", "A request with a bad signature"
        REVOKED_TERMINAL = "revoked_terminal", "A revoked terminal still calls"
        AUDIT_BROKEN = "audit_broken", "The audit log does not verify"
        PIN_LOCKED = "pin_locked", "A PIN was locked after wrong tries"
        BLOCKED_CARD = "blocked_card", "A blocked card was shown"

    kind = models.CharField(max_length=30, choices=Kind.choices)
    site = models.ForeignKey(Site, on_delete=models.CASCADE, null=True, blank=True, related_name="alarms")
    door = models.ForeignKey(Door, on_delete=models.CASCADE, null=True, blank=True, related_name="alarms")
    terminal = models.ForeignKey(
        Terminal, on_delete=models.CASCADE, null=True, blank=True, related_name="alarms"
    )
    message = models.CharField(max_length=300)
    count = models.PositiveIntegerField(default=1)
    raised_at = models.DateTimeField()
    last_at = models.DateTimeField()
    acknowledged_at = models.DateTimeField(null=True, blank=True)
    acknowledged_by = models.CharField(max_length=200, blank=True)

    class Meta:
        ordering = ["-last_at", "-id"]
        indexes = [models.Index(fields=["-last_at"], condition=Q(acknowledged_at=None), name="alarm_open")]

    def __str__(self) -> str:
        return self.message


class Scope(models.TextChoices):
    """What an integrator's token may do."""

    PEOPLE_READ = "people:read", "read people"
    PEOPLE_WRITE = "people:write", "change people and their cards, record consent, begin enrollments"
    PEOPLE_ERASE = "people:erase", "erase people for good"
    DOORS_READ = "doors:read", "read sites, zones, doors and terminals"
    RULES_READ = "rules:read", "read rules, groups and schedules"
    RULES_WRITE = "rules:write", "change rules, groups and schedules"
    ATTEMPTS_READ = "attempts:read", "read attempts"
    AUDIT_READ = "audit:read", "read the audit log and its proofs"


class ApiToken(models.Model):
    """Lets a connected system call the API within its scopes. Shown once, kept as a hash."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=100, unique=True)
    token_hash = models.CharField(max_length=64, unique=True, editable=False)
    scopes = models.JSONField(default=list)
    created_by = models.CharField(max_length=200)
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

    def is_valid(self, at: datetime) -> bool:
        return self.revoked_at is None and (self.expires_at is None or at < self.expires_at)
