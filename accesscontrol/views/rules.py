"""Who may enter which door when: rules, groups, schedules, and the same policy asked in advance."""

from __future__ import annotations

import uuid
from typing import Any
from zoneinfo import ZoneInfo

from django.contrib import messages
from django.db.models import Count, IntegerField, OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from accesscontrol.entry import EntryQuestion
from accesscontrol.forms import DAYS, EntryQuestionForm, GroupForm, RuleForm, ScheduleForm
from accesscontrol.membership import add_member, remove_member
from accesscontrol.models import AccessGroup, AccessRule, Schedule
from accesscontrol.views.common import PAGE_SIZE, actor_of, delete, edit, page_of
from enrollment.models import Person, PersonQuerySet

FORM_METHODS = ["GET", "POST"]


@require_safe
def rules(request: HttpRequest) -> HttpResponse:
    rows = AccessRule.objects.select_related("group", "schedule").prefetch_related("doors__site")
    counted = rows.annotate(people=members_of(OuterRef("group_id"))).order_by("name")
    return render(request, "rules/list.html", {"rules": counted, "now": timezone.now()})


def members_of(group: OuterRef) -> Coalesce:
    """How many people a group has, without joining them to everything else that is asked."""
    rows = AccessGroup.members.through.objects.filter(accessgroup_id=group).order_by()
    return _count_of(rows, "accessgroup_id")


def _count_of(rows: QuerySet[Any], by: str) -> Coalesce:
    counted = rows.values(by).annotate(number=Count("pk")).values("number")
    return Coalesce(Subquery(counted, output_field=IntegerField()), 0)


@require_http_methods(FORM_METHODS)
def rule_create(request: HttpRequest) -> HttpResponse:
    if not AccessGroup.objects.exists():
        messages.warning(
            request, "A rule speaks about a group of people, and there is none yet. Make the group first."
        )
        return redirect("group_create")
    return edit(
        request,
        RuleForm(request.POST or None, initial={"is_active": True, "group": request.GET.get("group")}),
        noun="rule",
        title="Add a rule",
        explanation="Without a rule nobody enters. A rule lets one group through some doors at some hours.",
        back=reverse("rules"),
        done="The rule “{}” is in the book.",
    )


@require_http_methods(FORM_METHODS)
def rule_edit(request: HttpRequest, rule_id: int) -> HttpResponse:
    rule = get_object_or_404(AccessRule, pk=rule_id)
    form = RuleForm(request.POST or None, instance=rule)
    title = f"Edit “{rule.name}”"
    return edit(
        request, form, noun="rule", title=title, back=reverse("rules"), done="The rule “{}” is saved."
    )


@require_http_methods(FORM_METHODS)
def rule_delete(request: HttpRequest, rule_id: int) -> HttpResponse:
    rule = get_object_or_404(AccessRule, pk=rule_id)
    words = f"People of {rule.group.name} no longer enter by this rule. Other rules still hold."
    return delete(request, rule, noun="rule", back=reverse("rules"), explanation=words)


@require_safe
def who_may_enter(request: HttpRequest) -> HttpResponse:
    """Asks the policy that decides at the door, for everybody whom a rule names there."""
    asked = "door" in request.GET
    now = timezone.localtime().replace(second=0, microsecond=0, tzinfo=None)
    data = request.GET.copy()
    data.setdefault("at", now.isoformat(timespec="minutes"))
    form = EntryQuestionForm(data if asked else None, initial={"at": now})
    context: dict[str, object] = {"form": form}
    if asked and form.is_valid():
        door = form.cleaned_data["door"]
        at = form.cleaned_data["at"].replace(tzinfo=ZoneInfo(door.site.timezone))
        question = EntryQuestion(door=door, at=at)
        may, refused = question.counts()
        context |= {
            "door": door, "at": at, "may_count": may, "refused_count": refused, "rules": question.rules(),
            **_entries(request, question, form.cleaned_data["answer"], may, refused),
        }  # fmt: skip
    return render(request, "rules/who_may_enter.html", context, status=422 if asked and form.errors else 200)


def _entries(
    request: HttpRequest, question: EntryQuestion, wanted: str, may: int, refused: int
) -> dict[str, Any]:
    """Everybody on one page where they fit, those who may enter first; else one kind of answer, in pages."""
    if not wanted and may + refused <= PAGE_SIZE:
        both = [*question.people(granted=True), *question.people(granted=False)]
        return {"wanted": "", "entries": question.decide(both)}
    wanted = wanted or ("may" if may else "refused")
    people = question.people(granted=wanted == "may")
    page = page_of(
        request, people, then=PersonQuerySet.with_status, count=may if wanted == "may" else refused
    )
    return {"wanted": wanted, "page": page, "entries": question.decide(page)}


@require_safe
def groups(request: HttpRequest) -> HttpResponse:
    rows = AccessGroup.objects.annotate(
        people=members_of(OuterRef("pk")),
        rule_count=_count_of(AccessRule.objects.filter(group=OuterRef("pk")).order_by(), "group"),
    ).order_by("name")
    return render(request, "rules/groups.html", {"groups": rows})


@require_safe
def group(request: HttpRequest, group_id: int) -> HttpResponse:
    found = get_object_or_404(AccessGroup, pk=group_id)
    words = request.GET.get("add", "").strip()[:100]
    candidates = Person.objects.matching(words).exclude(access_groups=found)[:20] if words else []
    members = Person.objects.filter(access_groups=found)
    page = page_of(request, members, then=PersonQuerySet.with_status)
    now = timezone.now()
    for person in page:
        person.expired_now = person.is_expired(now)
    rules = found.rules.select_related("schedule").prefetch_related("doors")
    context = {"group": found, "page": page, "rules": rules, "words": words, "candidates": candidates}
    return render(request, "rules/group.html", context)


@require_http_methods(FORM_METHODS)
def group_create(request: HttpRequest) -> HttpResponse:
    return edit(
        request,
        GroupForm(request.POST or None),
        noun="group",
        title="Make a group",
        explanation="People who may enter the same doors: “Staff”, “Cleaning”. Members come next.",
        back=reverse("groups"),
        done="The group “{}” is made. Add its members, then a rule.",
        then=lambda group: reverse("group", args=[group.pk]),
    )


@require_http_methods(FORM_METHODS)
def group_edit(request: HttpRequest, group_id: int) -> HttpResponse:
    found = get_object_or_404(AccessGroup, pk=group_id)
    return edit(
        request,
        GroupForm(request.POST or None, instance=found),
        noun="group",
        title=f"Rename “{found.name}”",
        back=reverse("group", args=[group_id]),
        done="“{}” is saved.",
    )


@require_http_methods(FORM_METHODS)
def group_delete(request: HttpRequest, group_id: int) -> HttpResponse:
    found = get_object_or_404(AccessGroup, pk=group_id)
    rules = list(found.rules.values_list("name", flat=True))
    words = "Its members stay on record."
    if rules:
        words += f" These rules go with it: {', '.join(rules)}."
    return delete(request, found, noun="group", back=reverse("groups"), explanation=words)


@require_POST
def group_member_add(request: HttpRequest, group_id: int, person_id: uuid.UUID) -> HttpResponse:
    found, person = get_object_or_404(AccessGroup, pk=group_id), get_object_or_404(Person, pk=person_id)
    add_member(group=found, person=person, actor=actor_of(request), at=timezone.now())
    messages.success(request, f"{person.full_name} is in {found.name} now.")
    return redirect("group", group_id)


@require_POST
def person_group_add(request: HttpRequest, person_id: uuid.UUID) -> HttpResponse:
    """The same from the person's side, where the group comes from a list."""
    person = get_object_or_404(Person, pk=person_id)
    chosen = request.POST.get("group", "")
    found = AccessGroup.objects.filter(pk=int(chosen)).first() if chosen.isdecimal() else None
    if found is None:
        messages.error(request, "Choose a group from the list.")
        return redirect("person", person_id)
    add_member(group=found, person=person, actor=actor_of(request), at=timezone.now())
    messages.success(request, f"{person.full_name} is in {found.name} now.")
    return redirect("person", person_id)


@require_POST
def group_member_remove(request: HttpRequest, group_id: int, person_id: uuid.UUID) -> HttpResponse:
    found, person = get_object_or_404(AccessGroup, pk=group_id), get_object_or_404(Person, pk=person_id)
    remove_member(group=found, person=person, actor=actor_of(request), at=timezone.now())
    messages.success(request, f"{person.full_name} is no longer in {found.name}.")
    return (
        redirect("person", person_id) if request.POST.get("back") == "person" else redirect("group", group_id)
    )


@require_safe
def schedules(request: HttpRequest) -> HttpResponse:
    rows = Schedule.objects.annotate(rule_count=Count("rules")).order_by("name")
    return render(request, "rules/schedules.html", {"schedules": [(row, describe_week(row)) for row in rows]})


def describe_week(schedule: Schedule) -> list[tuple[str, str]]:
    """A week in words, equal neighbours together: ("Monday to Friday", "07:00 to 19:00")."""
    by_day = [
        ", ".join(f"{entry['from']} to {entry['to']}" for entry in schedule.weekly if entry["day"] == day)
        for day in range(7)
    ]
    lines: list[tuple[int, int, str]] = []
    for day, hours in enumerate(by_day):
        if lines and lines[-1][2] == hours:
            lines[-1] = (lines[-1][0], day, hours)
        else:
            lines.append((day, day, hours))
    return [
        (DAYS[first] if first == last else f"{DAYS[first]} to {DAYS[last]}", hours)
        for first, last, hours in lines
        if hours
    ]


@require_http_methods(FORM_METHODS)
def schedule_create(request: HttpRequest) -> HttpResponse:
    return edit(
        request,
        ScheduleForm(request.POST or None),
        noun="schedule",
        title="Add a schedule",
        back=reverse("schedules"),
        done="The schedule “{}” is added. It counts once a rule uses it.",
        template="rules/schedule_form.html",
    )


@require_http_methods(FORM_METHODS)
def schedule_edit(request: HttpRequest, schedule_id: int) -> HttpResponse:
    found = get_object_or_404(Schedule, pk=schedule_id)
    return edit(
        request,
        ScheduleForm(request.POST or None, instance=found),
        noun="schedule",
        title=f"Edit “{found.name}”",
        back=reverse("schedules"),
        done="The schedule “{}” is saved and holds from now on.",
        template="rules/schedule_form.html",
    )


@require_http_methods(FORM_METHODS)
def schedule_delete(request: HttpRequest, schedule_id: int) -> HttpResponse:
    found = get_object_or_404(Schedule, pk=schedule_id)
    users = ", ".join(found.rules.values_list("name", flat=True))
    if users:
        messages.error(request, f"Rules still use “{found.name}”: {users}. Give them another schedule first.")
        return redirect("schedules")
    return delete(
        request,
        found,
        noun="schedule",
        back=reverse("schedules"),
        explanation="No rule uses it; no door changes.",
    )
