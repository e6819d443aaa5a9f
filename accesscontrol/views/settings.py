"""What this installation runs with: models, thresholds, keys, and how long it keeps what. Reads the settings;
only retention does something, after it was shown and asked."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib import messages
from django.db.models import Count, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_safe

from accesscontrol.calibration import Calibration, needed_fmr
from accesscontrol.forms import RetentionForm
from accesscontrol.keys import key_lists
from accesscontrol.models import ApiToken, Terminal
from accesscontrol.reports import SCORE_BINS, report
from accesscontrol.shelf import ShelfModel, model_in_use, shelf
from accesscontrol.templatetags.lintel import percent
from accesscontrol.views.common import actor_of, confirm
from enrollment.models import Person, ProtectedTemplate
from enrollment.services import RetentionReport, apply_retention

TARGETS = (0.001, 0.003, 0.01, 0.03, 0.1)  # FPIR
GALLERY_SIZES = (100, 1_000, 10_000, 100_000)  # people
LOOK_BACK_DAYS = 30
#: People whom one click may erase; more would keep the browser waiting, and the command does not.
MOST_ERASED_BY_PAGE = 100
SHOWN_NAMES = 20


@require_safe
def overview(request: HttpRequest) -> HttpResponse:
    now = timezone.now()
    lists = key_lists(now)
    context = {
        "model": model_in_use(),
        "aim": settings.LINTEL_TARGET_FPIR,
        "templates": _templates(model_in_use()).count(),
        "keys": lists,
        "keys_tone": next((tone for tone in ("no", "warn") if any(k.tone == tone for k in lists)), "yes"),
        "expired": Person.objects.expired(now).count(),
        "tokens": ApiToken.objects.filter(revoked_at=None).count(),
    }
    return render(request, "settings/overview.html", context)


@require_safe
def models(request: HttpRequest) -> HttpResponse:
    counted = dict(
        ProtectedTemplate.objects.filter(active=True).order_by().values_list("model").annotate(Count("pk"))
    )
    rows = [(model, counted.pop(model.identity, 0)) for model in shelf()]
    return render(request, "settings/models.html", {"models": rows, "left_over": sorted(counted.items())})


@require_safe
def thresholds(request: HttpRequest) -> HttpResponse:
    """What each target costs: from the model's calibration, and from the scores at these very doors."""
    model = model_in_use()
    present = max(1, _people_enrolled(model))
    aim = settings.LINTEL_TARGET_FPIR
    profile = model.profiles[0] if model.profiles else None
    calibration = profile.calibration if profile else None
    context: dict[str, Any] = {
        "model": model, "profile": profile, "calibration": calibration, "present": present, "aim": aim,
        "look_back": LOOK_BACK_DAYS,
    }  # fmt: skip
    if calibration is not None:
        targets = sorted({*TARGETS, aim})
        let_in = report(days=LOOK_BACK_DAYS, at=timezone.now()).scores_let_in
        context |= {
            "targets": targets,
            "sizes": [
                (size, size == present, [_cell(calibration, size, target) for target in targets])
                for size in sorted({*GALLERY_SIZES, present})
            ],
            "costs": [
                (target, target == aim, *_cost(calibration, present, target, let_in)) for target in targets
            ],
            "let_in": sum(let_in),
            "reach": calibration.largest_gallery(aim),
            "needed": needed_fmr(gallery_size=present, target_fpir=aim),
        }
    return render(request, "settings/thresholds.html", context)


def _people_enrolled(model: ShelfModel) -> int:
    """Whom a search compares with: thresholds are calibrated on the best score of each person's templates."""
    return _templates(model).order_by().values("person").distinct().count()


def _templates(model: ShelfModel) -> QuerySet[ProtectedTemplate]:
    return ProtectedTemplate.objects.filter(active=True, model=model.identity)


def _cell(calibration: Calibration, size: int, target: float) -> dict[str, Any]:
    threshold = calibration.threshold_for(gallery_size=size, target_fpir=target)
    return {"target": target, "value": threshold.value, "measured": threshold.measured}


def _cost(
    calibration: Calibration, size: int, target: float, let_in: list[int]
) -> tuple[dict[str, Any], str]:
    """The threshold, and the share of those let in lately whose score lies below it (to half a bin)."""
    cell = _cell(calibration, size, target)
    total = sum(let_in)
    if not total:
        return cell, ""
    edge = (cell["value"] + 1) * SCORE_BINS / 2
    below = sum(count for place, count in enumerate(let_in) if place + 0.5 < edge)
    return cell, percent(below / total)


@require_safe
def keys(request: HttpRequest) -> HttpResponse:
    terminals = (
        Terminal.objects.filter(state=Terminal.State.ACTIVE).select_related("door").order_by("paired_at")
    )
    return render(
        request, "settings/keys.html", {"lists": key_lists(timezone.now()), "terminals": terminals[:10]}
    )


@require_safe
def retention(request: HttpRequest) -> HttpResponse:
    """A rehearsal: `?people_days=30&enrollments_days=365` says what would go, and nothing goes."""
    asked = bool(request.GET)
    form = RetentionForm(request.GET if asked else None)
    context: dict[str, Any] = {"form": form, "most": MOST_ERASED_BY_PAGE}
    if asked and form.is_valid():
        found = _rehearse(form)
        context |= {
            "found": found,
            "count": len(found.people_erased),
            "names": _names(found),
            "more": max(0, len(found.people_erased) - SHOWN_NAMES),
            "nothing": _is_nothing(found),
        }
    return render(request, "settings/retention.html", context, status=422 if asked and form.errors else 200)


def _is_nothing(found: RetentionReport) -> bool:
    return not (
        found.people_erased or found.people_expired or found.enrollments_expired or found.enrollments_deleted
    )


def _names(found: RetentionReport) -> list[Person]:
    return list(Person.objects.filter(pk__in=found.people_erased[:SHOWN_NAMES]))


def _rehearse(form: RetentionForm) -> RetentionReport:
    return apply_retention(
        actor="nobody",
        at=timezone.now(),
        keep_people_days=form.cleaned_data["people_days"],
        keep_enrollments_days=form.cleaned_data["enrollments_days"],
        dry_run=True,
    )


@require_http_methods(["GET", "POST"])
def retention_apply(request: HttpRequest) -> HttpResponse:
    """Asks with the numbers of this moment; acts on POST."""
    form = RetentionForm(request.POST if request.method == "POST" else request.GET or None)
    if not form.is_bound or not form.is_valid():
        return redirect("settings_retention")
    back = f"{reverse('settings_retention')}?{form.as_query()}"
    found = _rehearse(form)
    if _is_nothing(found):  # whoever comes here by an old link, or was overtaken by the nightly run
        messages.success(request, "By these rules nothing is due, so nothing was changed.")
        return redirect(back)
    if len(found.people_erased) > MOST_ERASED_BY_PAGE:
        messages.error(
            request,
            f"{len(found.people_erased)} people are too many for a page. Run: manage.py apply_retention "
            f"--people-days {form.cleaned_data['people_days']} "
            f"--enrollments-days {form.cleaned_data['enrollments_days']}",
        )
        return redirect(back)
    if request.method == "POST":
        done = apply_retention(
            actor=actor_of(request),
            at=timezone.now(),
            keep_people_days=form.cleaned_data["people_days"],
            keep_enrollments_days=form.cleaned_data["enrollments_days"],
        )
        messages.success(
            request,
            f"Done: {len(done.people_erased)} people erased, {done.people_expired} taken out of the gallery, "
            f"{done.enrollments_expired} enrollments ended, {done.enrollments_deleted} records deleted.",
        )
        return redirect("settings_retention")
    names = ", ".join(person.full_name for person in _names(found))
    people = len(found.people_erased)
    more = f" and {people - SHOWN_NAMES} more" if people > SHOWN_NAMES else ""
    return confirm(
        request,
        title="Apply the retention rules now?",
        explanation="Erasure cannot be undone: keys, templates, consents and names go for good.",
        consequences=[
            f"{people} {'person is' if people == 1 else 'people are'} erased"
            + (f": {names}{more}." if names else "."),
            f"{found.people_expired} people whose time is over are taken out of the gallery.",
            f"{found.enrollments_expired} enrollments that nobody finished end, "
            f"and {found.enrollments_deleted} old records of enrollments are deleted.",
        ],
        verb="Erase and delete now",
        back=back,
        form=form.hidden(),
    )
