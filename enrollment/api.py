"""The API of people and their enrollment, for integrators and for terminals at the desk.

Who may call is not decided here: accesscontrol gives each view its authentication and permission when it
routes to it (`PeopleView.as_view(authentication_classes=[...])`). A view that was given none answers nobody.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from typing import Any, ClassVar

from django.core.exceptions import RequestDataTooBig
from django.http import Http404
from django.shortcuts import get_object_or_404
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import serializers, status
from rest_framework.exceptions import APIException, ParseError, UnsupportedMediaType
from rest_framework.pagination import LimitOffsetPagination
from rest_framework.parsers import BaseParser
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from audit.openapi import example, refusal
from enrollment import payloads, proofs, services
from enrollment.models import Card, Consent, Enrollment, Person
from recognition.payload import CONTENT_TYPE, MAX_PAYLOAD_BYTES, PayloadError

PEOPLE_READ = "people:read"
PEOPLE_WRITE = "people:write"
PEOPLE_ERASE = "people:erase"
MAX_OFFSET = 1_000_000_000  # beyond every table, within every database's integers
MAX_QUERY = 200  # characters
QUALITY_HEADER = "Lintel-Capture-Quality"
_QUALITY = re.compile(r"score=(0(?:\.\d{1,6})?|1(?:\.0{1,6})?)")

STATUS_OF_REFUSAL = {
    "person_unknown": status.HTTP_404_NOT_FOUND,
    "enrollment_unknown": status.HTTP_404_NOT_FOUND,
    "person_invalid": status.HTTP_422_UNPROCESSABLE_ENTITY,
    "consent_invalid": status.HTTP_422_UNPROCESSABLE_ENTITY,
    "captures_wanted_invalid": status.HTTP_422_UNPROCESSABLE_ENTITY,
    "card_malformed": status.HTTP_422_UNPROCESSABLE_ENTITY,
}


class Refused(APIException):
    """A refusal as the API says it: a status and the service's stable code. Everything not named above is
    a conflict."""

    def __init__(self, code: str, message: str, status_code: int = status.HTTP_409_CONFLICT) -> None:
        super().__init__(detail=message, code=code)
        self.status_code = status_code
        self.code = code


class Nobody(BasePermission):
    """Deny by default: stays until accesscontrol says who may call."""

    def has_permission(self, request: Request, view: APIView) -> bool:
        return False


class EnrollmentView(APIView):
    """Translates refusals of the services; `scopes` says what an integrator's token must hold, by method."""

    authentication_classes = ()
    permission_classes = (Nobody,)
    metadata_class = None
    scopes: ClassVar[dict[str, str]] = {}

    def handle_exception(self, exc: Exception) -> Response:
        if isinstance(exc, services.EnrollmentRefused):
            exc = Refused(exc.code, exc.message, STATUS_OF_REFUSAL.get(exc.code, status.HTTP_409_CONFLICT))
        elif isinstance(exc, payloads.PayloadStoreUnavailable):
            exc = Refused(exc.code, str(exc), status.HTTP_503_SERVICE_UNAVAILABLE)
        return super().handle_exception(exc)

    @property
    def actor(self) -> str:
        """How the audit log names the caller."""
        return str(self.request.user)


class PeoplePagination(LimitOffsetPagination):
    default_limit = 50
    max_limit = 200

    def get_offset(self, request: Request) -> int:
        return min(super().get_offset(request), MAX_OFFSET)


class PersonSerializer(serializers.ModelSerializer[Person]):
    has_consent = serializers.BooleanField(source="has_consent_now", read_only=True)
    is_enrolled = serializers.BooleanField(source="is_enrolled_now", read_only=True)

    class Meta:
        model = Person
        fields = (
            "id",
            "full_name",
            "external_id",
            "email",
            "kind",
            "is_active",
            "valid_from",
            "valid_until",
            "has_consent",
            "is_enrolled",
            "created_at",
        )


class PersonInput(serializers.Serializer[Any]):
    full_name = serializers.CharField(max_length=200)
    external_id = serializers.CharField(max_length=100, required=False, allow_null=True, allow_blank=True)
    email = serializers.EmailField(required=False, allow_blank=True)
    kind = serializers.ChoiceField(choices=Person.Kind.choices, required=False)
    is_active = serializers.BooleanField(required=False)
    valid_from = serializers.DateTimeField(required=False)
    valid_until = serializers.DateTimeField(required=False, allow_null=True)


class ConsentSerializer(serializers.ModelSerializer[Consent]):
    class Meta:
        model = Consent
        fields = ("id", "text", "version", "language", "method", "given_at", "recorded_by", "withdrawn_at")


class ConsentInput(serializers.Serializer[Any]):
    text = serializers.CharField(max_length=20_000)
    version = serializers.CharField(max_length=50)
    language = serializers.CharField(max_length=20, default="en")
    method = serializers.ChoiceField(choices=Consent.Method.choices)
    given_at = serializers.DateTimeField(required=False)


class CardSerializer(serializers.ModelSerializer[Card]):
    """A card as anybody may see it: its number is kept as a hash, and the end of it for the eye."""

    class Meta:
        model = Card
        fields = ("id", "ends_with", "added_at", "added_by", "blocked_at")


class CardNumberField(serializers.CharField):
    """Text alone: in JSON a number has no leading zeros, so a card's would be lost before it gets here."""

    def to_internal_value(self, data: object) -> str:
        if not isinstance(data, str):
            self.fail("invalid")
        return str(super().to_internal_value(data))


class CardInput(serializers.Serializer[Any]):
    number = CardNumberField(
        max_length=64,
        help_text="8 to 32 digits or letters, as a string; spaces, dashes and colons do not count.",
    )


class EnrollmentInput(serializers.Serializer[Any]):
    terminal_id = serializers.UUIDField(required=False, allow_null=True, default=None)
    captures_wanted = serializers.IntegerField(min_value=1, max_value=10, default=3)


class DuplicateSerializer(serializers.Serializer[Any]):
    person_id = serializers.UUIDField()
    full_name = serializers.CharField()
    score = serializers.FloatField()


class ProgressSerializer(serializers.Serializer[Any]):
    """What `services.describe_progress` returns."""

    enrollment_id = serializers.UUIDField()
    person_id = serializers.UUIDField()
    person_name = serializers.CharField()
    terminal_id = serializers.UUIDField(allow_null=True)
    state = serializers.ChoiceField(choices=Enrollment.State.choices)
    captures_wanted = serializers.IntegerField()
    captures_accepted = serializers.IntegerField()
    captures_pending = serializers.IntegerField()
    reason = serializers.CharField(allow_blank=True)
    message = serializers.CharField()
    duplicate_of = DuplicateSerializer(allow_null=True)
    expires_at = serializers.DateTimeField()


class TerminalProgressSerializer(serializers.Serializer[Any]):
    """What a terminal at the desk may know: whom to look at, never whom a face was mistaken for."""

    enrollment_id = serializers.UUIDField()
    person_name = serializers.CharField()
    state = serializers.ChoiceField(choices=Enrollment.State.choices)
    captures_wanted = serializers.IntegerField()
    captures_accepted = serializers.IntegerField()
    captures_pending = serializers.IntegerField()
    reason = serializers.CharField(allow_blank=True)
    message = serializers.CharField()
    expires_at = serializers.DateTimeField()


_PERSON = {
    "id": "3f0b7a52-6f5e-4d0a-9d53-0d1f4b0c8a11",
    "full_name": "Ada Lovelace",
    "external_id": "E-1815",
    "email": "ada@example.org",
    "kind": "employee",
    "is_active": True,
    "valid_from": "2026-11-24T08:00:00Z",
    "valid_until": None,
    "has_consent": True,
    "is_enrolled": False,
    "created_at": "2026-11-24T08:00:00Z",
}
_PROGRESS = {
    "enrollment_id": "77e1ee53-4a54-4bd4-8f36-f1dcbd4f5b20",
    "person_id": _PERSON["id"],
    "person_name": "Ada Lovelace",
    "terminal_id": "b3e2f5b0-4a6e-4a7d-8d3c-0b6d7c9f2e10",
    "state": "open",
    "captures_wanted": 3,
    "captures_accepted": 1,
    "captures_pending": 0,
    "reason": "capture_accepted",
    "message": "Good. Hold still for the next one.",
    "duplicate_of": None,
    "expires_at": "2026-11-24T08:15:00Z",
}
_COMPLETED = _PROGRESS | {
    "state": "completed",
    "captures_accepted": 3,
    "reason": "completed",
    "message": services.MESSAGES["completed"],
}
_CANCELLED = _PROGRESS | {
    "state": "cancelled",
    "reason": "cancelled",
    "message": services.MESSAGES["cancelled"],
}
_TERMINAL_PROGRESS = {
    name: value
    for name, value in _PROGRESS.items()
    if name not in ("person_id", "terminal_id", "duplicate_of")
}
_CERTIFICATE = {
    "format": 1,
    "person_id": _PERSON["id"],
    "erased_at": "2026-11-24T09:00:00+00:00",
    "erased_by": "hr-system",
    "payloads_discarded": 0,
    "templates_deleted": 4,
    "data_key_shredded": True,
    "consents_deleted": 1,
    "enrollments_deleted": 1,
    "gallery_sequence": 128,
}
_CONSENT = {
    "id": 12,
    "text": "I agree that ...",
    "version": "2026-11",
    "language": "en",
    "method": "signed",
    "given_at": "2026-11-24T08:00:00Z",
    "recorded_by": "token:HR",
    "withdrawn_at": None,
}
_CARD = {
    "id": "9d0d4a3e-64f5-4c5e-8a7c-1f2f6d0b7c55",
    "ends_with": "1623",
    "added_at": "2026-11-25T08:00:00Z",
    "added_by": "token:HR",
    "blocked_at": None,
}
CARD_REFUSED = {
    409: refusal(409, "Conflict", "card_taken", "this card is in use already"),
    422: refusal(
        422, "Unprocessable Entity", "card_malformed", "A card number has 8 to 32 digits or letters."
    ),
}
CONFLICT = refusal(409, "Conflict", "consent_missing", "record this person's consent first")


# For integrators


class PeopleView(EnrollmentView):
    """List, search and register people."""

    scopes: ClassVar[dict[str, str]] = {"GET": PEOPLE_READ, "POST": PEOPLE_WRITE}
    pagination_class = PeoplePagination  # for the description

    @extend_schema(
        operation_id="people_list",
        summary="List or search people",
        parameters=[
            OpenApiParameter("q", str, description="Words that name, e-mail or external id must contain."),
            OpenApiParameter("external_id", str, description="Exactly this external id."),
            OpenApiParameter("limit", int, description="At most 200; 50 without it."),
            OpenApiParameter("offset", int),
        ],
        responses={200: PersonSerializer(many=True)},
        examples=[example("One person", _PERSON)],
    )
    def get(self, request: Request) -> Response:
        people = Person.objects.with_status().matching(_text(request, "q"))
        if external_id := _text(request, "external_id"):
            people = people.filter(external_id=external_id)
        pagination = PeoplePagination()
        page = pagination.paginate_queryset(people, request, view=self)
        return pagination.get_paginated_response(PersonSerializer(page, many=True).data)

    @extend_schema(
        operation_id="people_register",
        summary="Register a person",
        request=PersonInput,
        responses={201: PersonSerializer, 409: CONFLICT},
        examples=[
            example("New employee", {"full_name": "Ada Lovelace", "external_id": "E-1815"}, request=True),
            example("Registered", _PERSON),
        ],
    )
    def post(self, request: Request) -> Response:
        person = services.register_person(**_valid(PersonInput, request), actor=self.actor, at=timezone.now())
        return Response(PersonSerializer(_with_status(person.id)).data, status=status.HTTP_201_CREATED)


class PersonView(EnrollmentView):
    """One person."""

    scopes: ClassVar[dict[str, str]] = {"GET": PEOPLE_READ, "PATCH": PEOPLE_WRITE}

    @extend_schema(
        operation_id="people_read",
        summary="Read one person",
        responses={200: PersonSerializer},
        examples=[example("Person", _PERSON)],
    )
    def get(self, request: Request, person_id: uuid.UUID) -> Response:
        return Response(PersonSerializer(_with_status(person_id)).data)

    @extend_schema(
        operation_id="people_update",
        summary="Change a person",
        description="Fields left out stay. An end of validity in the past takes the face out of the gallery.",
        request=PersonInput(partial=True),
        responses={200: PersonSerializer, 409: CONFLICT},
        examples=[
            example("Last day", {"valid_until": "2026-12-31T23:00:00Z"}, request=True),
            example("Changed", _PERSON),
        ],
    )
    def patch(self, request: Request, person_id: uuid.UUID) -> Response:
        services.update_person(
            person=get_object_or_404(Person, pk=person_id),
            changes=_valid(PersonInput, request, partial=True),
            actor=self.actor,
            at=timezone.now(),
        )
        return Response(PersonSerializer(_with_status(person_id)).data)


class PersonConsentsView(EnrollmentView):
    """What a person agreed to."""

    scopes: ClassVar[dict[str, str]] = {"GET": PEOPLE_READ, "POST": PEOPLE_WRITE, "DELETE": PEOPLE_WRITE}

    @extend_schema(
        operation_id="people_consents_list",
        summary="List a person's consents",
        responses={200: ConsentSerializer(many=True)},
        examples=[example("On paper", _CONSENT)],
    )
    def get(self, request: Request, person_id: uuid.UUID) -> Response:
        person = get_object_or_404(Person, pk=person_id)
        return Response(ConsentSerializer(person.consents.all(), many=True).data)

    @extend_schema(
        operation_id="people_consents_record",
        summary="Record a consent",
        description="Takes the place of the consent in force, which is kept.",
        request=ConsentInput,
        responses={201: ConsentSerializer, 409: CONFLICT},
        examples=[
            example(
                "On paper",
                {"text": "I agree that ...", "version": "2026-11", "language": "en", "method": "signed"},
                request=True,
            ),
            example("Recorded", _CONSENT),
        ],
    )
    def post(self, request: Request, person_id: uuid.UUID) -> Response:
        consent = services.record_consent(
            person=get_object_or_404(Person, pk=person_id),
            **_valid(ConsentInput, request),
            actor=self.actor,
            at=timezone.now(),
        )
        return Response(ConsentSerializer(consent).data, status=status.HTTP_201_CREATED)

    @extend_schema(
        operation_id="people_consents_withdraw",
        summary="Withdraw the consent in force",
        description="The face leaves the gallery at once; its templates and their key are destroyed.",
        responses={204: None, 409: CONFLICT},
    )
    def delete(self, request: Request, person_id: uuid.UUID) -> Response:
        person = get_object_or_404(Person, pk=person_id)
        services.withdraw_consent(person=person, actor=self.actor, at=timezone.now())
        return Response(status=status.HTTP_204_NO_CONTENT)


class PersonCardsView(EnrollmentView):
    """The cards of one person. A number is written here and can be read nowhere."""

    scopes: ClassVar[dict[str, str]] = {"GET": PEOPLE_READ, "PUT": PEOPLE_WRITE, "DELETE": PEOPLE_WRITE}

    @extend_schema(
        operation_id="people_cards_list",
        summary="List a person's cards",
        description="Blocked ones too.",
        responses={200: CardSerializer(many=True)},
        examples=[example("One card", _CARD)],
    )
    def get(self, request: Request, person_id: uuid.UUID) -> Response:
        person = get_object_or_404(Person, pk=person_id)
        return Response(CardSerializer(person.cards.all(), many=True).data)

    @extend_schema(
        operation_id="people_cards_set",
        summary="Set or replace a person's card",
        description="Afterwards this is the one card that works for this person; others that worked are taken back. "
        "Blocked ones stay blocked, and one of them is refused (`card_blocked`): the desk unblocks it. Setting the "
        "same number again changes nothing. PINs are never set here.",
        request=CardInput,
        responses={200: CardSerializer, **CARD_REFUSED},
        examples=[
            example("A card", {"number": "0048-151623"}, request=True),
            example("Set", _CARD),
        ],
    )
    def put(self, request: Request, person_id: uuid.UUID) -> Response:
        card = proofs.set_card(
            person=get_object_or_404(Person, pk=person_id),
            number=_valid(CardInput, request)["number"],
            actor=self.actor,
            at=timezone.now(),
        )
        return Response(CardSerializer(card).data)

    @extend_schema(
        operation_id="people_cards_remove",
        summary="Take a person's cards back",
        description="Every card that works; blocked ones stay blocked. Without a card nothing happens.",
        responses={204: None},
    )
    def delete(self, request: Request, person_id: uuid.UUID) -> Response:
        person = get_object_or_404(Person, pk=person_id)
        proofs.remove_cards(person=person, actor=self.actor, at=timezone.now())
        return Response(status=status.HTTP_204_NO_CONTENT)


class PersonEnrollmentsView(EnrollmentView):
    """Enrollments of one person."""

    scopes: ClassVar[dict[str, str]] = {"GET": PEOPLE_READ, "POST": PEOPLE_WRITE}

    @extend_schema(
        operation_id="people_enrollments_list",
        summary="List a person's enrollments",
        responses={200: ProgressSerializer(many=True)},
        examples=[example("One", _PROGRESS)],
    )
    def get(self, request: Request, person_id: uuid.UUID) -> Response:
        person = get_object_or_404(Person, pk=person_id)
        found = person.enrollments.select_related("person", "duplicate_of")
        return Response([services.describe_progress(enrollment) for enrollment in found])

    @extend_schema(
        operation_id="people_enrollments_begin",
        summary="Begin an enrollment",
        description="The terminal asks for it by itself. Refused without consent (`consent_missing`).",
        request=EnrollmentInput,
        responses={201: ProgressSerializer, 409: CONFLICT},
        examples=[
            example(
                "At a desk", {"terminal_id": _PROGRESS["terminal_id"], "captures_wanted": 3}, request=True
            ),
            example("Begun", _PROGRESS),
        ],
    )
    def post(self, request: Request, person_id: uuid.UUID) -> Response:
        enrollment = services.begin_enrollment(
            person=get_object_or_404(Person, pk=person_id),
            **_valid(EnrollmentInput, request),
            actor=self.actor,
            at=timezone.now(),
        )
        return Response(services.describe_progress(enrollment), status=status.HTTP_201_CREATED)


class EnrollmentDetailView(EnrollmentView):
    """How far an enrollment is."""

    scopes: ClassVar[dict[str, str]] = {"GET": PEOPLE_READ}

    @extend_schema(
        operation_id="enrollments_read",
        summary="Read the progress of an enrollment",
        responses={200: ProgressSerializer},
        examples=[example("Progress", _PROGRESS)],
    )
    def get(self, request: Request, enrollment_id: uuid.UUID) -> Response:
        return Response(services.describe_progress(_enrollment(enrollment_id)))


class EnrollmentCompleteView(EnrollmentView):
    """A person's decision about a duplicate."""

    scopes: ClassVar[dict[str, str]] = {"POST": PEOPLE_WRITE}

    class Input(serializers.Serializer[Any]):
        accept_duplicate = serializers.BooleanField(default=False)
        reason = serializers.CharField(max_length=services.MAX_REASON, default="", allow_blank=True)

    @extend_schema(
        operation_id="enrollments_complete",
        summary="Complete an enrollment that waits for a decision",
        description="Without a duplicate they complete by themselves. Completing twice changes nothing. "
        "Whoever says that a duplicate is another person says why (`reason_missing`).",
        request=Input,
        responses={200: ProgressSerializer, 409: CONFLICT},
        examples=[
            example(
                "They are twins",
                {"accept_duplicate": True, "reason": "Identical twins; both showed a passport."},
                request=True,
            ),
            example("Completed", _COMPLETED),
        ],
    )
    def post(self, request: Request, enrollment_id: uuid.UUID) -> Response:
        enrollment = services.complete_enrollment(
            enrollment=_enrollment(enrollment_id),
            **_valid(self.Input, request),
            actor=self.actor,
            at=timezone.now(),
        )
        return Response(services.describe_progress(enrollment))


class EnrollmentCancelView(EnrollmentView):
    """Ends an enrollment."""

    scopes: ClassVar[dict[str, str]] = {"POST": PEOPLE_WRITE}

    @extend_schema(
        operation_id="enrollments_cancel",
        summary="Cancel an enrollment and discard its captures",
        request=None,
        responses={200: ProgressSerializer, 409: CONFLICT},
        examples=[example("Cancelled", _CANCELLED)],
    )
    def post(self, request: Request, enrollment_id: uuid.UUID) -> Response:
        enrollment = services.cancel_enrollment(
            enrollment=_enrollment(enrollment_id), actor=self.actor, at=timezone.now()
        )
        return Response(services.describe_progress(enrollment))


class PersonEraseView(EnrollmentView):
    """Erasure, for good."""

    scopes: ClassVar[dict[str, str]] = {"POST": PEOPLE_ERASE}

    @extend_schema(
        operation_id="people_erase",
        summary="Erase a person for good",
        description="Returns the certificate, proven by the audit log. Erasing again returns the same one.",
        request=None,
        responses={
            200: OpenApiResponse(OpenApiTypes.OBJECT, "The certificate", [example("Erased", _CERTIFICATE)])
        },
    )
    def post(self, request: Request, person_id: uuid.UUID) -> Response:
        return Response(services.erase_person(person_id=person_id, actor=self.actor, at=timezone.now()))


# For terminals; `request.auth` is the terminal


class CaptureParser(BaseParser):
    """Raw bytes, at most one more than a capture has: whatever is longer need not be read to be refused."""

    media_type = CONTENT_TYPE

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Any = None) -> Any:
        return bytes(stream.read(MAX_PAYLOAD_BYTES + 1))


class TerminalEnrollmentView(EnrollmentView):
    """What a terminal at the desk has to do."""

    @extend_schema(
        operation_id="terminals_me_enrollment",
        summary="The enrollment that waits at this terminal",
        responses={200: TerminalProgressSerializer, 204: OpenApiResponse(description="Nothing to do.")},
        examples=[example("Take captures", _TERMINAL_PROGRESS)],
    )
    def get(self, request: Request) -> Response:
        enrollment = services.open_enrollment_at(terminal_id=self.terminal_id, at=timezone.now())
        if enrollment is None:
            return Response(status=status.HTTP_204_NO_CONTENT)
        return Response(_for_terminal(enrollment))

    @property
    def terminal_id(self) -> uuid.UUID:
        terminal: Any = self.request.auth  # accesscontrol's row, which this app does not know
        return uuid.UUID(str(terminal.id))


class CapturesView(EnrollmentView):
    """Takes captures, whoever brings them: the same checks of size, type, profile and noise. Never a picture."""

    parser_classes = (CaptureParser,)
    #: Raises PayloadError for what this server does not accept; given by accesscontrol with the route.
    check_capture: Callable[[bytes], object] | None = None

    def take(self, request: Request, enrollment: Enrollment) -> Enrollment:
        quality = _quality(request.headers.get(QUALITY_HEADER))
        payload = self._payload(request)
        return services.submit_capture(
            enrollment=enrollment, payload=payload, quality=quality, at=timezone.now()
        )

    def _payload(self, request: Request) -> bytes:
        try:
            payload: Any = request.data
        except RequestDataTooBig as error:
            raise Refused("oversized", str(error), status.HTTP_413_REQUEST_ENTITY_TOO_LARGE) from error
        if not isinstance(payload, bytes):
            raise UnsupportedMediaType(request.content_type)
        if self.check_capture is None:
            raise Refused(
                "unknown_profile", "no privacy profile is accepted", status.HTTP_422_UNPROCESSABLE_ENTITY
            )
        try:
            self.check_capture(payload)
        except PayloadError as error:
            too_large = error.code == "oversized"
            raise Refused(
                error.code,
                str(error),
                status.HTTP_413_REQUEST_ENTITY_TOO_LARGE
                if too_large
                else status.HTTP_422_UNPROCESSABLE_ENTITY,
            ) from error
        return payload


class TerminalCapturesView(CapturesView, TerminalEnrollmentView):
    """Captures for an enrollment at this terminal, and what became of them."""

    @extend_schema(
        operation_id="enrollments_captures_progress",
        summary="What became of the captures",
        responses={200: TerminalProgressSerializer},
        examples=[example("One accepted", _TERMINAL_PROGRESS)],
    )
    def get(self, request: Request, enrollment_id: uuid.UUID) -> Response:  # type: ignore[override]
        return Response(_for_terminal(self._enrollment_here(enrollment_id)))

    @extend_schema(
        operation_id="enrollments_captures_submit",
        summary="Hand in one capture",
        description="Perturbed features in the wire format of docs/protocol.md; a picture is never accepted. "
        "A worker looks at it; ask again for the result.",
        request={CONTENT_TYPE: OpenApiTypes.BINARY},
        parameters=[
            OpenApiParameter(QUALITY_HEADER, str, OpenApiParameter.HEADER, description="`score=0.87`")
        ],
        responses={202: TerminalProgressSerializer, 409: CONFLICT},
        examples=[example("On its way", _TERMINAL_PROGRESS | {"captures_pending": 1}, status=202)],
    )
    def post(self, request: Request, enrollment_id: uuid.UUID) -> Response:
        enrollment = self.take(request, self._enrollment_here(enrollment_id))
        return Response(_for_terminal(enrollment), status=status.HTTP_202_ACCEPTED)

    def _enrollment_here(self, enrollment_id: uuid.UUID) -> Enrollment:
        """Another terminal's enrollment is one that does not exist."""
        return get_object_or_404(
            Enrollment.objects.select_related("person"), pk=enrollment_id, terminal_id=self.terminal_id
        )


# For a browser with a camera; accesscontrol proves the session and its CSRF token


@extend_schema(exclude=True)  # the pages' own, not for other systems
class BrowserCapturesView(CapturesView):
    """Captures that a page takes, and what became of them. An enrollment at a terminal takes none from here."""

    def get(self, request: Request, enrollment_id: uuid.UUID) -> Response:
        return Response(services.describe_progress(self.enrollment_here(enrollment_id)))

    def post(self, request: Request, enrollment_id: uuid.UUID) -> Response:
        enrollment = self.take(request, self.enrollment_here(enrollment_id))
        return Response(services.describe_progress(enrollment), status=status.HTTP_202_ACCEPTED)

    def enrollment_here(self, enrollment_id: uuid.UUID) -> Enrollment:
        return get_object_or_404(
            Enrollment.objects.select_related("person", "duplicate_of"), pk=enrollment_id, terminal_id=None
        )


def _for_terminal(enrollment: Enrollment) -> dict[str, Any]:
    progress = services.describe_progress(enrollment)
    return {name: progress[name] for name in TerminalProgressSerializer().get_fields()}


def _enrollment(enrollment_id: uuid.UUID) -> Enrollment:
    return get_object_or_404(Enrollment.objects.select_related("person", "duplicate_of"), pk=enrollment_id)


def _with_status(person_id: uuid.UUID) -> Person:
    person = Person.objects.with_status().filter(pk=person_id).first()
    if person is None:
        raise Http404
    return person


def _valid(
    form: type[serializers.Serializer[Any]], request: Request, *, partial: bool = False
) -> dict[str, Any]:
    given = form(data=request.data, partial=partial)
    given.is_valid(raise_exception=True)
    return dict(given.validated_data)


def _text(request: Request, name: str) -> str:
    """A query parameter. PostgreSQL fails on NUL characters, which have no place in any of ours."""
    value: str = request.query_params.get(name, "")
    if "\x00" in value or len(value) > MAX_QUERY:
        raise ParseError(f"{name} has at most {MAX_QUERY} characters and no NUL among them")
    return value


def _quality(header: str | None) -> float | None:
    """What the terminal thinks of its own capture: 0 to 1, kept for the record, trusted for nothing."""
    if header is None:
        return None
    found = _QUALITY.fullmatch(header.strip())
    if found is None:
        raise ParseError(f"{QUALITY_HEADER} is written score=0.87")
    return float(found[1])
