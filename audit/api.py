"""The audit log for connected systems: entries as the tree knows them, and proofs. Never a personal value.

Who may call is decided where accesscontrol routes to these views; a view that was given nobody answers
nobody.
"""

from __future__ import annotations

from typing import Any, ClassVar

from drf_spectacular.utils import extend_schema, extend_schema_serializer
from rest_framework import serializers, status
from rest_framework.exceptions import APIException
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from audit import services
from audit.models import Checkpoint, Entry
from audit.openapi import example, refusal

MAX_INDEX = 2**62  # within every database's integers
MAX_LIMIT = 500


_NOTE = "lintel.local/audit\n128\nZ3V0ZW4gVGFn...\n\n\u2014 lintel.local/audit qk2x...\n"
_ENTRY = {
    "version": 1,
    "index": 127,
    "at": "2026-11-24T08:00:00.120000Z",
    "kind": "person.registered",
    "actor": "token:HR",
    "subject": "person:3f0b7a52-6f5e-4d0a-9d53-0d1f4b0c8a11",
    "details": {"kind": "employee"},
    "personal": {"full_name": "5d41...c592"},
    "leaf_hash": "9f86...0a08",
}
_ENTRIES = {
    "entries": [_ENTRY],
    "next_after": None,
    "checkpoint": {"size": 128, "root": "2c26...7ae", "note": _NOTE},
}
_INCLUSION = {
    "path": ["ba78...15ad", "e3b0...b855"],
    "checkpoint": _NOTE,
    "public_keys": ["lintel.local/audit+8f2c...+AQ..."],
    "entry": {name: value for name, value in _ENTRY.items() if name != "leaf_hash"},
    "leaf_hash": _ENTRY["leaf_hash"],
}
_CONSISTENCY = {
    "first": 64,
    "second": 128,
    "path": ["ba78...15ad"],
    "checkpoint": _NOTE,
    "public_keys": _INCLUSION["public_keys"],
}


class NotProvable(APIException):
    """The log cannot prove what was asked."""

    def __init__(self, code: str, detail: str, status_code: int) -> None:
        super().__init__(detail=detail, code=code)
        self.status_code = status_code
        self.code = code


class Nobody(BasePermission):
    """Deny by default: stays until accesscontrol says who may call."""

    def has_permission(self, request: Request, view: APIView) -> bool:
        return False


class AuditView(APIView):
    authentication_classes = ()
    permission_classes = (Nobody,)
    metadata_class = None
    scopes: ClassVar[dict[str, str]] = {"GET": "audit:read"}


class EntrySerializer(serializers.Serializer[Any]):
    version = serializers.IntegerField()
    index = serializers.IntegerField()
    at = serializers.CharField(help_text="UTC, to the microsecond.")
    kind = serializers.CharField()
    actor = serializers.CharField()
    subject = serializers.CharField(allow_blank=True)
    details = serializers.DictField()
    personal = serializers.DictField(
        child=serializers.CharField(), help_text="Commitments (HMAC-SHA256, hex); the values stay here."
    )
    leaf_hash = serializers.CharField(help_text="SHA-256 of 0x00 and the RFC 8785 text of the other fields.")


class CheckpointSerializer(serializers.Serializer[Any]):
    size = serializers.IntegerField()
    root = serializers.CharField(help_text="Hex.")  # type: ignore[assignment]  # a field, not the property
    note = serializers.CharField(help_text="Signed note, C2SP tlog-checkpoint.")


class EntriesView(AuditView):
    """Entries in the order they were recorded."""

    class Query(serializers.Serializer[Any]):
        kind = serializers.CharField(
            required=False, max_length=64, help_text="Exact, or a family such as person."
        )
        subject = serializers.CharField(required=False, max_length=200)
        actor = serializers.CharField(required=False, max_length=200)
        since = serializers.DateTimeField(required=False)
        until = serializers.DateTimeField(required=False, help_text="Exclusive.")
        text = serializers.CharField(required=False, max_length=200)
        after = serializers.IntegerField(
            required=False, min_value=-1, max_value=MAX_INDEX, help_text="Entries after this index."
        )
        limit = serializers.IntegerField(required=False, min_value=1, max_value=MAX_LIMIT, default=100)

    @extend_schema_serializer(component_name="AuditEntries")
    class Answer(serializers.Serializer[Any]):
        entries = EntrySerializer(many=True)
        next_after = serializers.IntegerField(
            allow_null=True, help_text="The `after` of the next page; null on the last."
        )
        checkpoint = CheckpointSerializer(allow_null=True, help_text="The latest one.")

    @extend_schema(
        operation_id="audit_entries",
        summary="Read the audit log",
        parameters=[Query],
        responses={200: Answer},
        examples=[example("One entry", _ENTRIES)],
        tags=["audit"],
    )
    def get(self, request: Request) -> Response:
        query = self.Query(data=request.query_params)
        query.is_valid(raise_exception=True)
        filters = dict(query.validated_data)
        after, limit = filters.pop("after", -1), filters.pop("limit")
        found = list(services.find_entries(**filters).filter(index__gt=after)[: limit + 1])
        page = found[:limit]
        return Response(
            {
                "entries": [entry.as_object() | {"leaf_hash": entry.leaf.hex()} for entry in page],
                "next_after": page[-1].index if len(found) > limit else None,
                "checkpoint": _checkpoint_json(services.latest_checkpoint()),
            }
        )


class ProofsView(AuditView):
    """RFC 6962 proofs: that an entry is in the log, or that the log has only grown."""

    class Query(serializers.Serializer[Any]):
        index = serializers.IntegerField(
            required=False, min_value=0, max_value=MAX_INDEX, help_text="Inclusion of this entry."
        )
        first = serializers.IntegerField(
            required=False, min_value=0, max_value=MAX_INDEX, help_text="Consistency from a tree of this size"
        )
        second = serializers.IntegerField(
            required=False,
            min_value=0,
            max_value=MAX_INDEX,
            help_text="to one of this size; by default the latest checkpoint's.",
        )

        def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
            if ("index" in attrs) == ("first" in attrs):
                raise serializers.ValidationError("ask with index, or with first (and second)")
            return attrs

    @extend_schema_serializer(component_name="AuditProof")
    class Answer(serializers.Serializer[Any]):
        path = serializers.ListField(child=serializers.CharField(), help_text="Hashes, hex.")
        checkpoint = serializers.CharField(help_text="Signed note under which the proof holds.")
        public_keys = serializers.ListField(child=serializers.CharField())
        entry = serializers.DictField(required=False)
        leaf_hash = serializers.CharField(required=False)
        first = serializers.IntegerField(required=False)
        second = serializers.IntegerField(required=False)

    @extend_schema(
        operation_id="audit_proofs",
        summary="Prove inclusion or consistency",
        parameters=[Query],
        responses={
            200: Answer,
            404: refusal(404, "Not Found", "entry_unknown", "The log has no such entry."),
            409: refusal(
                409, "Conflict", "not_covered", "No checkpoint covers this entry yet. Ask again later."
            ),
        },
        examples=[
            example("An entry is in the log", _INCLUSION),
            example("The log has only grown", _CONSISTENCY),
        ],
        tags=["audit"],
    )
    def get(self, request: Request) -> Response:
        query = self.Query(data=request.query_params)
        query.is_valid(raise_exception=True)
        asked = query.validated_data
        return Response(self._inclusion(asked["index"]) if "index" in asked else self._consistency(asked))

    def _inclusion(self, index: int) -> dict[str, Any]:
        entry = Entry.objects.filter(index=index).first()
        if entry is None:
            raise NotProvable("entry_unknown", "The log has no such entry.", status.HTTP_404_NOT_FOUND)
        under = services.latest_checkpoint(covering=entry)
        if under is None:  # a question signs nothing
            detail = "No checkpoint covers this entry yet. Ask again later."
            raise NotProvable("not_covered", detail, status.HTTP_409_CONFLICT)
        return services.prove_inclusion(entry, under=under)

    def _consistency(self, asked: dict[str, Any]) -> dict[str, Any]:
        latest = services.latest_checkpoint()
        second = asked.get("second", latest.size if latest else 0)
        under = Checkpoint.objects.filter(size=second).first()
        if under is None or asked["first"] > second:
            detail = "No checkpoint has that size, or the first is larger than the second."
            raise NotProvable("size_unknown", detail, status.HTTP_404_NOT_FOUND)
        return {
            "first": asked["first"],
            "second": second,
            "path": services.prove_consistency(asked["first"], second),
            "checkpoint": under.note,
            "public_keys": [str(key) for key in services.verifier_keys(under.note.partition("\n")[0])],
        }


def _checkpoint_json(latest: Checkpoint | None) -> dict[str, Any] | None:
    return (
        None
        if latest is None
        else {"size": latest.size, "root": bytes(latest.root).hex(), "note": latest.note}
    )
