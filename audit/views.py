"""Pages for those who review: administrators and auditors, nobody else."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import wraps
from typing import Any

from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.db import transaction
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe

from audit import export, services
from audit.forms import ExportForm, FilterForm
from audit.models import Checkpoint, Entry
from audit.sentences import Tone, kind_in_words, sentence_for, tone_for

READERS = ("administrator", "auditor")
PAGE_SIZE = 50
#: Beyond this the page would keep the reader waiting; `manage.py verify_audit` shows its progress.
VERIFY_ON_PAGE = 100_000
MAX_INDEX = 2**62

View = Callable[..., HttpResponseBase]


def readers_only(view: View) -> View:
    @never_cache
    @wraps(view)
    def guarded(request: HttpRequest, *arguments: Any, **keywords: Any) -> HttpResponseBase:
        user = request.user
        if not user.is_authenticated:
            return redirect_to_login(request.get_full_path())
        if not user.is_active or not (user.is_superuser or user.groups.filter(name__in=READERS).exists()):
            raise PermissionDenied
        return view(request, *arguments, **keywords)

    return guarded


@dataclass(frozen=True)
class Line:
    """An entry as the page shows it."""

    entry: Entry
    sentence: str
    tone: Tone
    kind: str
    details: dict[str, Any]
    commitments: dict[str, str]
    personal: dict[str, Any]
    erased: frozenset[str]


def _line(entry: Entry) -> Line:
    try:
        details, commitments = entry.details, entry.commitments
    except ValueError:  # somebody wrote into the database; the page must still show the rest
        words = "This entry cannot be read. Verify the log."
        return Line(entry, words, Tone.NO, kind_in_words(entry.kind), {}, {}, {}, frozenset())
    personal = services.open_personal(entry)
    erased = frozenset(commitments) - {item.name for item in entry.personal_fields.all()}
    sentence = sentence_for(
        kind=entry.kind,
        actor=entry.actor,
        subject=entry.subject,
        details=details,
        personal=personal,
        erased=erased,
    )
    return Line(
        entry=entry,
        sentence=sentence,
        tone=tone_for(kind=entry.kind, details=details),
        kind=kind_in_words(entry.kind),
        details=details,
        commitments=commitments,
        personal=personal,
        erased=erased,
    )


@readers_only
@require_safe
def entries(request: HttpRequest) -> HttpResponse:
    form = FilterForm(request.GET)
    filters = form.filters() if form.is_valid() else {}
    found = services.find_entries(**filters).order_by("-index") if form.is_valid() else Entry.objects.none()
    page = Paginator(found.prefetch_related("personal_fields"), PAGE_SIZE).get_page(request.GET.get("page"))
    context = {
        "form": form,
        "export_form": ExportForm(),
        "filtered": bool(filters) or not form.is_valid(),
        "page": page,
        "lines": [_line(entry) for entry in page],
        "latest": services.latest_checkpoint(),
    }
    return render(request, "audit/entries.html", context, status=200 if form.is_valid() else 422)


@readers_only
@require_safe
def entry(request: HttpRequest, index: int) -> HttpResponse:
    if index > MAX_INDEX:
        raise Http404
    found = get_object_or_404(Entry.objects.prefetch_related("personal_fields"), pk=index)
    under = services.latest_checkpoint(covering=found)
    line = _line(found)
    context = {
        "line": line,
        "entry": found,
        "leaf": found.leaf.hex(),
        "commitments": [
            {"name": name, "commitment": value, "value": line.personal.get(name), "state": _state(name, line)}
            for name, value in line.commitments.items()
        ],
        "details": sorted(line.details.items()),
        "under": under,
        "path": services.prove_inclusions([index], size=under.size)[0] if under else [],
        "keys": [str(key) for key in services.verifier_keys(under.note.partition("\n")[0])] if under else [],
        "newer": Entry.objects.filter(pk=index + 1).exists(),
    }
    return render(request, "audit/entry.html", context)


def _state(name: str, line: Line) -> str:
    if name in line.erased:
        return "erased"
    return "readable" if name in line.personal else "unreadable"


@readers_only
@require_POST
def sign(request: HttpRequest) -> HttpResponse:
    """A checkpoint now, for entries that none covers yet."""
    services.checkpoint(timezone.now())
    index = request.POST.get("index", "")
    return redirect("audit:entry", index=int(index)) if index.isdecimal() else redirect("audit:checkpoints")


@readers_only
@require_safe
def checkpoints(request: HttpRequest) -> HttpResponse:
    page = Paginator(Checkpoint.objects.order_by("-number"), PAGE_SIZE).get_page(request.GET.get("page"))
    keys = [str(key) for key in services.verifier_keys()]
    return render(request, "audit/checkpoints.html", {"page": page, "keys": keys})


@readers_only
@require_POST
def verify(request: HttpRequest) -> HttpResponse:
    count = Entry.objects.count()
    if count > VERIFY_ON_PAGE:
        return render(request, "audit/verified.html", {"too_long": True, "count": count})
    report = services.verify_all()
    return render(request, "audit/verified.html", {"report": report, "at": timezone.now()})


@readers_only
@require_POST
def export_entries(request: HttpRequest) -> HttpResponseBase:
    """Who exported what is itself recorded, and stands in the export."""
    form, wanted = FilterForm(request.POST), ExportForm(request.POST)
    if not form.is_valid() or not wanted.is_valid():
        return HttpResponse(
            "This export cannot be made: check the filters.", status=422, content_type="text/plain"
        )
    at, filters = timezone.now(), form.filters()
    stated = {name: str(value) for name, value in filters.items()}
    as_format, with_personal = wanted.cleaned_data["format"], wanted.cleaned_data["with_personal"]
    with transaction.atomic():
        services.record(
            kind="audit.exported",
            actor=request.user.get_username(),
            at=at,
            details={
                "format": as_format,
                "with_personal": with_personal,
                "filters": stated,
                "entries": services.find_entries(**filters).count(),
            },
        )
        under = services.checkpoint(at)
    found = services.find_entries(**filters)
    lines: Iterable[str]
    if as_format == "csv":
        lines = export.as_csv(found=found, under=under, with_personal=with_personal)
    else:
        lines = export.as_json(found=found, under=under, with_personal=with_personal, filters=stated)
    content_type = "text/csv; charset=utf-8" if as_format == "csv" else "application/json"
    response = StreamingHttpResponse(lines, content_type=content_type)
    response["Content-Disposition"] = f'attachment; filename="audit-{at:%Y%m%d-%H%M%S}.{as_format}"'
    return response
