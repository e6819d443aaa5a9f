"""People, what they agreed to, and the templates that stand for their faces.

The rows are the truth. `ProtectedTemplate.active` says whether a template is in the gallery; every change of
it is a `GalleryChange` in the same transaction, and workers follow these numbers.
"""

from __future__ import annotations

import uuid
from datetime import datetime

from django.db import models
from django.db.models import Exists, F, OuterRef, Q, QuerySet
from django.utils import timezone

MOST_WORDS_IN_A_SEARCH = 8


class PersonQuerySet(models.QuerySet["Person"]):
    def with_status(self) -> PersonQuerySet:
        """Adds `has_consent_now` and `is_enrolled_now`, for lists without a query per row."""
        consents = Consent.objects.filter(person=OuterRef("pk"), withdrawn_at=None)
        templates = ProtectedTemplate.objects.filter(person=OuterRef("pk"), active=True)
        return self.annotate(has_consent_now=Exists(consents), is_enrolled_now=Exists(templates))

    def matching(self, words: str) -> PersonQuerySet:
        """People whose name, e-mail or external id contains every one of the first eight words."""
        found = self
        for word in words.split()[:MOST_WORDS_IN_A_SEARCH]:
            found = found.filter(
                Q(full_name__icontains=word) | Q(email__icontains=word) | Q(external_id__icontains=word)
            )
        return found

    def expired(self, at: datetime) -> PersonQuerySet:
        return self.filter(valid_until__lte=at)


class Person(models.Model):
    class Kind(models.TextChoices):
        EMPLOYEE = "employee", "Employee"
        VISITOR = "visitor", "Visitor"
        CONTRACTOR = "contractor", "Contractor"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    full_name = models.CharField(max_length=200)
    external_id = models.CharField(
        max_length=100,
        unique=True,
        null=True,
        blank=True,
        help_text="The number this person has in another system.",
    )
    email = models.EmailField(blank=True)
    kind = models.CharField(max_length=20, choices=Kind.choices, default=Kind.EMPLOYEE)
    is_active = models.BooleanField(default=True, help_text="An inactive person is recognised and refused.")
    valid_from = models.DateTimeField(default=timezone.now)
    valid_until = models.DateTimeField(null=True, blank=True, help_text="Empty means without end.")
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    objects = PersonQuerySet.as_manager()

    class Meta:
        ordering = ["full_name", "id"]
        verbose_name_plural = "people"
        indexes = [models.Index(fields=["full_name", "id"], name="person_by_name")]
        constraints = [
            models.CheckConstraint(condition=~Q(full_name=""), name="person_has_a_name"),
            models.CheckConstraint(
                condition=~Q(external_id=""), name="person_external_id_is_null_or_something"
            ),
            models.CheckConstraint(
                condition=Q(valid_until=None) | Q(valid_until__gt=F("valid_from")),
                name="person_is_valid_for_a_while",
            ),
        ]

    def __str__(self) -> str:
        return self.full_name

    def is_expired(self, at: datetime) -> bool:
        return self.valid_until is not None and self.valid_until <= at

    def has_consent(self) -> bool:
        return self.consents.filter(withdrawn_at=None).exists()

    def is_enrolled(self) -> bool:
        return self.templates.filter(active=True).exists()


class Consent(models.Model):
    """What a person agreed to, in the words they saw. Withdrawn, never edited."""

    class Method(models.TextChoices):
        SIGNED = "signed", "Signed on paper"
        ONLINE = "online", "Given online"
        SPOKEN = "spoken", "Spoken before a witness"

    person = models.ForeignKey(Person, on_delete=models.CASCADE, related_name="consents")
    text = models.TextField()
    version = models.CharField(max_length=50)
    language = models.CharField(max_length=20, default="en")
    method = models.CharField(max_length=20, choices=Method.choices)
    given_at = models.DateTimeField()
    recorded_by = models.CharField(max_length=200)
    withdrawn_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-given_at", "-id"]
        constraints = [
            models.CheckConstraint(condition=~Q(text="") & ~Q(version=""), name="consent_says_something"),
            models.UniqueConstraint(
                fields=["person"], condition=Q(withdrawn_at=None), name="consent_in_force_is_one_per_person"
            ),
        ]

    def __str__(self) -> str:
        return f"version {self.version}, {self.given_at:%Y-%m-%d}"


class DataKey(models.Model):
    """The key that seals one person's templates, itself wrapped. Deleting this row is the erasure of the
    templates."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    person = models.OneToOneField(Person, on_delete=models.CASCADE, related_name="data_key")
    wrapped = models.BinaryField()
    kek_id = models.CharField(max_length=100, db_index=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    def __str__(self) -> str:
        return f"data key under {self.kek_id}"


class NumberKey(models.Model):
    """The one key under which card numbers and PINs are hashed, itself wrapped like a data key. It stays when the
    key-encryption key changes, because nobody could hash the numbers again."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1, editable=False)
    wrapped = models.BinaryField()
    kek_id = models.CharField(max_length=100)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        constraints = [models.CheckConstraint(condition=Q(id=1), name="number_key_is_one")]

    def __str__(self) -> str:
        return f"number key under {self.kek_id}"


class Pin(models.Model):
    """A person's PIN, as a slow hash of a keyed hash: not even its length can be read back.

    `failures`: wrong tries in a row. A try is counted before it is looked at, so that many at once are not free.
    """

    person = models.OneToOneField(Person, on_delete=models.CASCADE, related_name="pin")
    hash = models.CharField(max_length=200)
    failures = models.PositiveIntegerField(default=0)
    locked_until = models.DateTimeField(null=True, blank=True)
    set_at = models.DateTimeField()
    set_by = models.CharField(max_length=200)

    class Meta:
        constraints = [models.CheckConstraint(condition=~Q(hash=""), name="pin_has_a_hash")]

    def __str__(self) -> str:
        return f"PIN of {self.person_id}"

    def is_locked(self, at: datetime) -> bool:
        return self.locked_until is not None and at < self.locked_until


class Card(models.Model):
    """A card that stands for a person. Its number is kept as a keyed hash; the last characters are for the eye."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    person = models.ForeignKey(Person, on_delete=models.CASCADE, related_name="cards")
    number_hash = models.CharField(max_length=64, unique=True, editable=False)
    ends_with = models.CharField(max_length=4, editable=False)
    added_at = models.DateTimeField()
    added_by = models.CharField(max_length=200)
    blocked_at = models.DateTimeField(null=True, blank=True)
    blocked_by = models.CharField(max_length=200, blank=True)

    class Meta:
        ordering = ["added_at", "id"]

    def __str__(self) -> str:
        return f"card …{self.ends_with}"


class Enrollment(models.Model):
    class State(models.TextChoices):
        OPEN = "open", "Taking captures"
        DUPLICATE_FOUND = "duplicate_found", "Waiting for a decision"
        COMPLETED = "completed", "Completed"
        CANCELLED = "cancelled", "Cancelled"
        EXPIRED = "expired", "Expired"
        REFUSED = "refused", "Refused"

    UNFINISHED = (State.OPEN, State.DUPLICATE_FOUND)

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    person = models.ForeignKey(Person, on_delete=models.CASCADE, related_name="enrollments")
    terminal_id = models.UUIDField(null=True, blank=True, db_index=True)
    state = models.CharField(max_length=20, choices=State.choices, default=State.OPEN)
    captures_wanted = models.PositiveSmallIntegerField(default=3)
    captures_accepted = models.PositiveSmallIntegerField(default=0)
    captures_received = models.PositiveSmallIntegerField(default=0)
    disagreements = models.PositiveSmallIntegerField(
        default=0, help_text="Captures in a row that did not look like the accepted ones."
    )
    last_reason = models.CharField(max_length=50, blank=True)
    duplicate_of = models.ForeignKey(
        Person, on_delete=models.SET_NULL, null=True, blank=True, related_name="duplicates_found"
    )
    duplicate_score = models.FloatField(null=True, blank=True)
    started_by = models.CharField(max_length=200)
    started_at = models.DateTimeField()
    expires_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-started_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["person"],
                condition=Q(state__in=["open", "duplicate_found"]),
                name="enrollment_unfinished_is_one_per_person",
            ),
            models.UniqueConstraint(
                fields=["terminal_id"], condition=Q(state="open"), name="enrollment_open_is_one_per_terminal"
            ),
            models.CheckConstraint(
                condition=Q(captures_wanted__range=(1, 10)), name="enrollment_wants_1_to_10_captures"
            ),
            models.CheckConstraint(
                condition=Q(captures_accepted__lte=F("captures_wanted")),
                name="enrollment_accepts_what_it_wants",
            ),
            models.CheckConstraint(
                condition=Q(state__in=["open", "duplicate_found"], finished_at=None)
                | (~Q(state__in=["open", "duplicate_found"]) & Q(finished_at__isnull=False)),
                name="enrollment_is_finished_or_not",
            ),
        ]

    def __str__(self) -> str:
        return f"enrollment {self.id} ({self.state})"

    @property
    def is_unfinished(self) -> bool:
        return self.state in self.UNFINISHED

    @property
    def adds_to_templates(self) -> bool:
        """The face is known to be this person's own: what this enrollment takes joins the templates there are."""
        return self.duplicate_of_id is not None and self.duplicate_of_id == self.person_id

    @property
    def has_all_captures(self) -> bool:
        return self.captures_accepted >= self.captures_wanted


class Invitation(models.Model):
    """Lets a person agree and enroll on a device of their own, once. Of the link's token only a hash is kept.

    Whatever ends it first, ends it: used, declined, revoked, or the clock.
    """

    class State(models.TextChoices):
        SENT = "sent", "Not opened yet"
        OPENED = "opened", "Opened"
        USED = "used", "Used"
        DECLINED = "declined", "Declined"
        REVOKED = "revoked", "Revoked"
        EXPIRED = "expired", "Expired"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    person = models.ForeignKey(Person, on_delete=models.CASCADE, related_name="invitations")
    token_hash = models.CharField(max_length=64, unique=True, editable=False)
    contact = models.CharField(
        max_length=254, blank=True, help_text="Where somebody sends the link: an e-mail address or a phone."
    )
    enrollment = models.ForeignKey(
        Enrollment, on_delete=models.SET_NULL, null=True, blank=True, related_name="invitations"
    )
    created_by = models.CharField(max_length=200)
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField()
    opened_at = models.DateTimeField(null=True, blank=True)
    used_at = models.DateTimeField(null=True, blank=True)
    declined_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at", "-id"]
        constraints = [
            models.UniqueConstraint(
                fields=["person"],
                condition=Q(used_at=None, declined_at=None, revoked_at=None),
                name="invitation_unended_is_one_per_person",
            ),
            models.CheckConstraint(
                condition=Q(expires_at__gt=F("created_at")), name="invitation_lives_for_a_while"
            ),
        ]

    def __str__(self) -> str:
        return f"invitation {self.id}"

    def state_at(self, at: datetime) -> Invitation.State:
        for moment, state in (
            (self.used_at, self.State.USED),
            (self.declined_at, self.State.DECLINED),
            (self.revoked_at, self.State.REVOKED),
        ):
            if moment is not None:
                return state
        if self.expires_at <= at:
            return self.State.EXPIRED
        return self.State.OPENED if self.opened_at is not None else self.State.SENT

    def is_open(self, at: datetime) -> bool:
        return self.state_at(at) in (self.State.SENT, self.State.OPENED)


class PendingCapture(models.Model):
    """A capture on its way to a worker. The features themselves are in the payload store, for seconds."""

    payload_key = models.CharField(primary_key=True, max_length=100)
    enrollment = models.ForeignKey(Enrollment, on_delete=models.CASCADE, related_name="pending_captures")
    quality = models.FloatField(null=True, blank=True)
    received_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"capture received {self.received_at:%H:%M:%S}"


class ProtectedTemplate(models.Model):
    """One sealed template. Its id is its id in the search index; the seal is bound to this id and this
    person."""

    class Kind(models.TextChoices):
        CAPTURE = "capture", "One capture"
        FUSED = "fused", "Mean of the captures"

    id = models.BigAutoField(primary_key=True)
    person = models.ForeignKey(Person, on_delete=models.CASCADE, related_name="templates")
    enrollment = models.ForeignKey(Enrollment, on_delete=models.PROTECT, related_name="templates")
    kind = models.CharField(max_length=10, choices=Kind.choices, default=Kind.CAPTURE)
    sealed = models.BinaryField()
    active = models.BooleanField(default=False, help_text="In the gallery.")
    model = models.CharField(max_length=200)
    profile_hash = models.CharField(max_length=64)
    gallery_key_id = models.CharField(max_length=100)
    quality = models.FloatField(null=True, blank=True)
    created_at = models.DateTimeField()

    class Meta:
        ordering = ["id"]
        indexes = [
            models.Index(fields=["model"], condition=Q(active=True), name="template_in_gallery"),
            # Who is enrolled, without looking at a row: rows are long, and most pages about people ask.
            models.Index(fields=["person"], condition=Q(active=True), name="template_of_person"),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["enrollment"], condition=Q(kind="fused"), name="template_fused_is_one_per_enrollment"
            )
        ]

    def __str__(self) -> str:
        return f"template {self.id} ({self.kind})"


class GalleryChange(models.Model):
    """One step of the gallery, in the order of `sequence`. Holds ids only; survives the person it is
    about."""

    class Kind(models.TextChoices):
        ADD = "add", "Template added"
        REMOVE = "remove", "Template removed"
        RELOAD = "reload", "Load everything again"

    sequence = models.BigAutoField(primary_key=True)
    kind = models.CharField(max_length=10, choices=Kind.choices)
    template_id = models.BigIntegerField(null=True, blank=True)
    person_id = models.UUIDField(null=True, blank=True)
    at = models.DateTimeField()

    class Meta:
        ordering = ["sequence"]
        constraints = [
            models.CheckConstraint(
                condition=Q(kind="reload") | Q(template_id__isnull=False, person_id__isnull=False),
                name="gallery_change_names_its_template",
            )
        ]

    def __str__(self) -> str:
        return f"{self.sequence}: {self.kind} {self.template_id}"


class ErasureCertificate(models.Model):
    """What remains of an erased person: a random number and the proof that the rest is gone."""

    person_id = models.UUIDField(primary_key=True)
    erased_at = models.DateTimeField()
    certificate = models.JSONField()

    class Meta:
        ordering = ["-erased_at"]

    def __str__(self) -> str:
        return f"erasure of {self.person_id}"


def templates_in_gallery(model: str) -> QuerySet[ProtectedTemplate]:
    """What every index must hold, in id order."""
    return ProtectedTemplate.objects.filter(active=True, model=model).select_related(None).order_by("id")
