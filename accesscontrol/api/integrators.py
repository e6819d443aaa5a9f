"""What connected systems call about doors and rules. People and audit have their own APIs, routed beside this
one."""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from typing import Any, ClassVar

from django.db.models import QuerySet
from django.shortcuts import get_object_or_404
from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from accesscontrol import services
from accesscontrol.api.base import IntegratorView, Pages, valid
from accesscontrol.membership import add_member, remove_member
from accesscontrol.models import AccessGroup, AccessRule, Door, Schedule, Scope, Site, Terminal
from accesscontrol.problems import UNPROCESSABLE, Problem
from audit.openapi import example, refusal
from enrollment.models import Person

PAGE_PARAMETERS = [
    OpenApiParameter("limit", int, description="At most 200; 50 without it."),
    OpenApiParameter("offset", int),
]
NOT_ALLOWED = refusal(403, "Forbidden", "not_allowed", "The token lacks the scope.")
NOT_FOUND = refusal(404, "Not Found", "not_found", "There is nothing here.")
INVALID = refusal(400, "Bad Request", "invalid", "Some fields are not valid.")
_SITE = {
    "id": 1,
    "name": "Headquarters",
    "timezone": "Europe/Vienna",
    "locked_down": False,
    "locked_down_reason": "",
    "locked_down_at": None,
}
_DOOR = {
    "id": "0a6f7f0e-52a0-4c55-9f7e-2c1f5b0e9d11",
    "name": "Front door",
    "site": 1,
    "zone": None,
    "asks_for": "face",
    "is_active": True,
}
_TERMINAL = {
    "id": "b3e2f5b0-4a6e-4a7d-8d3c-0b6d7c9f2e10",
    "name": "Front door, outside",
    "role": "door",
    "door": _DOOR["id"],
    "state": "active",
    "paired_at": "2026-11-24T08:00:00Z",
    "revoked_at": None,
    "last_seen_at": "2026-11-24T09:30:12Z",
    "software": "lintel-terminal 0.1",
}
_SCHEDULE = {"id": 1, "name": "Office hours", "weekly": [{"day": 0, "from": "07:00", "to": "19:00"}]}
_RULE = {
    "id": 7,
    "name": "Staff, front door",
    "group": 3,
    "doors": ["0a6f7f0e-52a0-4c55-9f7e-2c1f5b0e9d11"],
    "schedule": 1,
    "is_active": True,
    "valid_from": None,
    "valid_until": None,
}


class SiteRow(serializers.ModelSerializer[Site]):
    class Meta:
        model = Site
        fields = ("id", "name", "timezone", "locked_down", "locked_down_reason", "locked_down_at")


class DoorRow(serializers.ModelSerializer[Door]):
    class Meta:
        model = Door
        fields = ("id", "name", "site", "zone", "asks_for", "is_active")


class TerminalRow(serializers.ModelSerializer[Terminal]):
    class Meta:
        model = Terminal
        fields = (
            "id",
            "name",
            "role",
            "door",
            "state",
            "paired_at",
            "revoked_at",
            "last_seen_at",
            "software",
        )


class ScheduleRow(serializers.ModelSerializer[Schedule]):
    class Meta:
        model = Schedule
        fields = ("id", "name", "weekly")


class GroupRow(serializers.ModelSerializer[AccessGroup]):
    class Meta:
        model = AccessGroup
        fields = ("id", "name")


class RuleRow(serializers.ModelSerializer[AccessRule]):
    class Meta:
        model = AccessRule
        fields = ("id", "name", "group", "doors", "schedule", "is_active", "valid_from", "valid_until")


class RuleInput(serializers.Serializer[Any]):
    name = serializers.CharField(max_length=100)
    group = serializers.PrimaryKeyRelatedField(queryset=AccessGroup.objects.all())
    doors = serializers.PrimaryKeyRelatedField(queryset=Door.objects.all(), many=True)
    schedule = serializers.PrimaryKeyRelatedField(
        queryset=Schedule.objects.all(), allow_null=True, required=False
    )
    is_active = serializers.BooleanField(required=False)
    valid_from = serializers.DateTimeField(required=False, allow_null=True)
    valid_until = serializers.DateTimeField(required=False, allow_null=True)


class ListView(IntegratorView, ABC):
    """A page of rows. Subclasses say which."""

    row: type[serializers.ModelSerializer[Any]]
    pagination_class = Pages  # for the description

    @abstractmethod
    def rows(self) -> QuerySet[Any]:
        """The rows to list, in their order."""

    def page(self, request: Request) -> Response:
        pages = Pages()
        page = pages.paginate_queryset(self.rows(), request, view=self)
        return pages.get_paginated_response(self.row(page, many=True).data)


class SitesView(ListView):
    scopes: ClassVar[dict[str, str]] = {"GET": Scope.DOORS_READ}
    row = SiteRow

    def rows(self) -> QuerySet[Site]:
        return Site.objects.all()

    @extend_schema(
        operation_id="sites_list", summary="List sites", parameters=PAGE_PARAMETERS,
        responses={200: SiteRow(many=True), 403: NOT_ALLOWED}, examples=[example("A site", _SITE)],
    )  # fmt: skip
    def get(self, request: Request) -> Response:
        return self.page(request)


class DoorsView(ListView):
    scopes: ClassVar[dict[str, str]] = {"GET": Scope.DOORS_READ}
    row = DoorRow

    def rows(self) -> QuerySet[Door]:
        return Door.objects.all()

    @extend_schema(
        operation_id="doors_list", summary="List doors", parameters=PAGE_PARAMETERS,
        responses={200: DoorRow(many=True), 403: NOT_ALLOWED}, examples=[example("A door", _DOOR)],
    )  # fmt: skip
    def get(self, request: Request) -> Response:
        return self.page(request)


class DoorView(IntegratorView):
    scopes: ClassVar[dict[str, str]] = {"GET": Scope.DOORS_READ}

    @extend_schema(
        operation_id="doors_read",
        summary="Read one door",
        responses={200: DoorRow, 403: NOT_ALLOWED, 404: NOT_FOUND},
        examples=[example("A door", _DOOR)],
    )
    def get(self, request: Request, door_id: uuid.UUID) -> Response:
        return Response(DoorRow(get_object_or_404(Door, pk=door_id)).data)


class TerminalsView(ListView):
    scopes: ClassVar[dict[str, str]] = {"GET": Scope.DOORS_READ}
    row = TerminalRow

    def rows(self) -> QuerySet[Terminal]:
        return Terminal.objects.all()

    @extend_schema(
        operation_id="terminals_list", summary="List terminals", parameters=PAGE_PARAMETERS,
        responses={200: TerminalRow(many=True), 403: NOT_ALLOWED},
        examples=[example("A terminal", _TERMINAL)],
    )  # fmt: skip
    def get(self, request: Request) -> Response:
        return self.page(request)


class SchedulesView(ListView):
    scopes: ClassVar[dict[str, str]] = {"GET": Scope.RULES_READ}
    row = ScheduleRow

    def rows(self) -> QuerySet[Schedule]:
        return Schedule.objects.all()

    @extend_schema(
        operation_id="schedules_list", summary="List schedules", parameters=PAGE_PARAMETERS,
        responses={200: ScheduleRow(many=True), 403: NOT_ALLOWED},
        examples=[example("A schedule", _SCHEDULE)],
    )  # fmt: skip
    def get(self, request: Request) -> Response:
        return self.page(request)


class GroupsView(ListView):
    scopes: ClassVar[dict[str, str]] = {"GET": Scope.RULES_READ}
    row = GroupRow

    def rows(self) -> QuerySet[AccessGroup]:
        return AccessGroup.objects.all()

    @extend_schema(
        operation_id="groups_list", summary="List groups", parameters=PAGE_PARAMETERS,
        responses={200: GroupRow(many=True), 403: NOT_ALLOWED},
        examples=[example("A group", {"id": 3, "name": "Staff"})],
    )  # fmt: skip
    def get(self, request: Request) -> Response:
        return self.page(request)


class GroupMemberView(IntegratorView):
    """Whom a group holds is whom its rules let in."""

    scopes: ClassVar[dict[str, str]] = {"PUT": Scope.RULES_WRITE, "DELETE": Scope.RULES_WRITE}

    @extend_schema(
        operation_id="groups_members_add", summary="Put a person into a group", request=None,
        responses={204: None, 403: NOT_ALLOWED, 404: NOT_FOUND},
    )  # fmt: skip
    def put(self, request: Request, group_id: int, person_id: uuid.UUID) -> Response:
        group, person = get_object_or_404(AccessGroup, pk=group_id), get_object_or_404(Person, pk=person_id)
        add_member(group=group, person=person, actor=self.actor, at=timezone.now())
        return Response(status=204)

    @extend_schema(
        operation_id="groups_members_remove", summary="Take a person out of a group",
        responses={204: None, 403: NOT_ALLOWED, 404: NOT_FOUND},
    )  # fmt: skip
    def delete(self, request: Request, group_id: int, person_id: uuid.UUID) -> Response:
        group, person = get_object_or_404(AccessGroup, pk=group_id), get_object_or_404(Person, pk=person_id)
        remove_member(group=group, person=person, actor=self.actor, at=timezone.now())
        return Response(status=204)


class RulesView(ListView):
    scopes: ClassVar[dict[str, str]] = {"GET": Scope.RULES_READ, "POST": Scope.RULES_WRITE}
    row = RuleRow

    def rows(self) -> QuerySet[AccessRule]:
        return AccessRule.objects.prefetch_related("doors")

    @extend_schema(
        operation_id="rules_list", summary="List rules", parameters=PAGE_PARAMETERS,
        responses={200: RuleRow(many=True), 403: NOT_ALLOWED}, examples=[example("A rule", _RULE)],
    )  # fmt: skip
    def get(self, request: Request) -> Response:
        return self.page(request)

    @extend_schema(
        operation_id="rules_create",
        summary="Create a rule",
        description="Who (a group) may pass which doors, when (a schedule; without one at any hour).",
        request=RuleInput,
        responses={201: RuleRow, 400: INVALID, 403: NOT_ALLOWED},
        examples=[
            example(
                "A rule", {name: _RULE[name] for name in ("name", "group", "doors", "schedule")}, request=True
            ),
            example("Created", _RULE),
        ],
    )
    def post(self, request: Request) -> Response:
        return Response(
            RuleRow(_save(AccessRule(), valid(RuleInput, request.data), self.actor)).data, status=201
        )


class RuleView(IntegratorView):
    scopes: ClassVar[dict[str, str]] = {
        "GET": Scope.RULES_READ, "PATCH": Scope.RULES_WRITE, "DELETE": Scope.RULES_WRITE,
    }  # fmt: skip

    @extend_schema(
        operation_id="rules_read",
        summary="Read one rule",
        responses={200: RuleRow, 403: NOT_ALLOWED, 404: NOT_FOUND},
        examples=[example("A rule", _RULE)],
    )  # fmt: skip
    def get(self, request: Request, rule_id: int) -> Response:
        return Response(RuleRow(get_object_or_404(AccessRule, pk=rule_id)).data)

    @extend_schema(
        operation_id="rules_update",
        summary="Change a rule",
        description="Fields left out stay.",
        request=RuleInput(partial=True),
        responses={200: RuleRow, 400: INVALID, 403: NOT_ALLOWED, 404: NOT_FOUND},
        examples=[example("Switch it off", {"is_active": False}, request=True), example("Changed", _RULE)],
    )
    def patch(self, request: Request, rule_id: int) -> Response:
        rule = get_object_or_404(AccessRule, pk=rule_id)
        return Response(RuleRow(_save(rule, valid(RuleInput, request.data, partial=True), self.actor)).data)

    @extend_schema(
        operation_id="rules_delete",
        summary="Delete a rule",
        responses={204: None, 403: NOT_ALLOWED, 404: NOT_FOUND},
    )
    def delete(self, request: Request, rule_id: int) -> Response:
        services.delete_rule(
            rule=get_object_or_404(AccessRule, pk=rule_id), actor=self.actor, at=timezone.now()
        )
        return Response(status=204)


def _save(rule: AccessRule, changes: dict[str, Any], actor: str) -> AccessRule:
    doors = changes.pop("doors", None)
    for name, value in changes.items():
        setattr(rule, name, value)
    if AccessRule.objects.filter(name=rule.name).exclude(pk=rule.pk).exists():
        raise Problem(409, "name_taken", "Another rule has this name.")
    if rule.valid_from and rule.valid_until and rule.valid_until <= rule.valid_from:
        raise Problem(UNPROCESSABLE, "validity_empty", "The end must be later than the beginning.")
    kept = rule.doors.all() if doors is None else doors
    return services.save_rule(rule=rule, doors=list(kept), actor=actor, at=timezone.now())
