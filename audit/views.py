"""Pages for those who review: administrators and auditors, nobody else."""

from __future__ import annotations

import json
import queue
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import wraps
from types import MappingProxyType
from typing import Any

from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.db import connection, transaction
from django.db.models import Q, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.template.loader import render_to_string
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe

from audit import export, services
from audit.forms import ExportForm, FilterForm
from audit.models import Checkpoint, Entry
from audit.paging import Key, search, stretch
from audit.sentences import Tone, kind_in_words, sentence_for, tone_for
from audit.verification import Report

READERS = ("administrator", "auditor")
PAGE_SIZE = 50
#: Beyond this the page would keep the reader waiting; `manage.py verify_audit` shows its progress.
VERIFY_ON_PAGE = 100_000
#: No index answers a word or a door: such a page reads this many entries, and the next one goes on (docs/adr/0041).
SEARCHED_AT_ONCE = 20_000
MAX_INDEX = 2**62
BY_INDEX = (Key("index", int),)
PROGRESS_TYPE = "application/x-ndjson"
PROGRESS_EVERY = 250  # entries
PROGRESS_PATIENCE_S = 30.0  # for a reader who takes nothing

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
    #: What the log itself calls whom it is about and who did it; the bare reference where it has no name.
    about: str = ""
    by: str = ""
    place: str = ""


def _line(entry: Entry, names: Mapping[str, str] = MappingProxyType({})) -> Line:
    try:
        details, commitments = entry.details, entry.commitments
    except ValueError:  # somebody wrote into the database; the page must still show the rest
        words = "This entry cannot be read. Verify the log."
        return Line(
            entry,
            words,
            Tone.NO,
            kind_in_words(entry.kind),
            {},
            {},
            {},
            frozenset(),
            entry.subject,
            entry.actor,
        )
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
        about=names.get(entry.subject, entry.subject),
        by=names.get(entry.actor, entry.actor),
        place=names.get(f"door:{details.get('door')}", ""),
    )


#: Kinds whose entries say what something or somebody is called.
NAMING = re.compile(r"person\.(registered|updated)|[a-z]+\.(created|changed)")


def names_of(references: Iterable[str]) -> dict[str, str]:
    """`door:…` -> what the newest entries about it call it. A person whose name is erased has none.

    One question for all of them; whatever no entry names stays the reference that it is.
    """
    wanted = {reference for reference in references if ":" in reference}
    found: dict[str, str] = {}
    entries = Entry.objects.filter(subject__in=wanted).exclude(kind="attempt.settled").order_by("index")
    for entry in entries.prefetch_related("personal_fields"):
        if not NAMING.fullmatch(entry.kind):
            continue
        try:
            name = services.open_personal(entry).get("full_name") or entry.details.get("name")
        except ValueError:
            continue
        if isinstance(name, str) and name:
            found[entry.subject] = name
    return found


def _references(entry: Entry) -> list[str]:
    try:
        door = entry.details.get("door")
    except ValueError:
        door = None
    return [entry.subject, entry.actor, f"door:{door}" if door else ""]


def _found(form: FilterForm) -> QuerySet[Entry]:
    """Call after `is_valid`. A door is followed through what happened at it and what was done to it."""
    found = services.find_entries(**form.filters())
    door = form.cleaned_data.get("door")
    if door:
        here = Q(kind="attempt.settled", details_json__contains=f'"door":"{door}"')
        found = found.filter(here | Q(subject=f"door:{door}"))
    return found


@readers_only
@require_safe
def entries(request: HttpRequest) -> HttpResponse:
    form = FilterForm(request.GET)
    asked = form.cleaned_data if form.is_valid() else {}
    found = _found(form) if form.is_valid() else Entry.objects.none()
    found = found.prefetch_related("personal_fields")
    last = Entry.objects.order_by("-index").values_list("index", flat=True).first()
    size = 0 if last is None else last + 1
    door, subject = asked.get("door"), asked.get("subject")
    if (door or asked.get("text")) and not subject:  # what is about one thing is few, and has an index
        part = search(
            found, BY_INDEX[0], request.GET, newest=size - 1, size=PAGE_SIZE, at_once=SEARCHED_AT_ONCE
        )
    else:
        part = stretch(found, BY_INDEX, request.GET, size=PAGE_SIZE)
    followed = f"door:{door}" if door else subject or ""
    names = names_of({followed, *(name for entry in part.rows for name in _references(entry))})
    context = {
        "form": form,
        "export_form": ExportForm(),
        "filtered": any(asked.values()) or not form.is_valid(),
        "stretch": part,
        "lines": [_line(entry, names) for entry in part.rows],
        "latest": services.latest_checkpoint(),
        "size": size,
        "page_size": PAGE_SIZE,
        "followed": names.get(followed, followed),
    }
    if part.paused_at:
        context["paused"] = Entry.objects.filter(pk=part.paused_at).values("index", "at").first()
    return render(request, "audit/entries.html", context, status=200 if form.is_valid() else 422)


@readers_only
@require_safe
def entry(request: HttpRequest, index: int) -> HttpResponse:
    if index > MAX_INDEX:
        raise Http404
    found = get_object_or_404(Entry.objects.prefetch_related("personal_fields"), pk=index)
    under = services.latest_checkpoint(covering=found)
    names = names_of(_references(found))
    line = _line(found, names)
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
def verify(request: HttpRequest) -> HttpResponseBase:
    """The whole log, hashed anew. A page that asks for lines of JSON hears how far it is while it waits."""
    count = Entry.objects.count()
    if request.headers.get("Accept") == PROGRESS_TYPE:
        response = StreamingHttpResponse(_verify_aloud(request, count), content_type=PROGRESS_TYPE)
        response["X-Accel-Buffering"] = "no"
        return response
    if count > VERIFY_ON_PAGE:
        return render(request, "audit/verified.html", {"too_long": True, "count": count})
    report = services.verify_all()
    return render(request, "audit/verified.html", {"report": report, "at": timezone.now()})


def _verify_aloud(request: HttpRequest, count: int) -> Iterator[str]:
    """Lines of JSON: `{"checked": 500, "of": 20000}` now and then, and last `{"html": …}`, the report.

    The work runs on a thread of its own, because it reports by calling back. When the reader goes away the
    queue fills and the thread ends at its next report.
    """
    reports: queue.Queue[dict[str, Any] | Report | Exception] = queue.Queue(maxsize=100)

    def tell(checked: int) -> None:
        if checked % PROGRESS_EVERY == 0:
            reports.put({"checked": checked, "of": count}, timeout=PROGRESS_PATIENCE_S)

    def work() -> None:
        try:
            reports.put(services.verify_all(progress=tell), timeout=PROGRESS_PATIENCE_S)
        except queue.Full:
            return
        except Exception as error:
            reports.put(error)
        finally:
            connection.close()

    threading.Thread(target=work, name="verify", daemon=True).start()
    while True:
        report = reports.get()
        if isinstance(report, Exception):
            raise report
        if isinstance(report, Report):
            context = {"report": report, "at": timezone.now()}
            yield json.dumps({"html": render_to_string("audit/_report.html", context, request)}) + "\n"
            return
        yield json.dumps(report) + "\n"


@readers_only
@require_POST
def export_entries(request: HttpRequest) -> HttpResponseBase:
    """Who exported what is itself recorded, and stands in the export."""
    form, wanted = FilterForm(request.POST), ExportForm(request.POST)
    if not form.is_valid() or not wanted.is_valid():
        return render(request, "audit/not_exported.html", {"form": form}, status=422)
    at, filters = timezone.now(), {name: value for name, value in form.cleaned_data.items() if value}
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
                "entries": _found(form).count(),
            },
        )
        under = services.checkpoint(at)
    found = _found(form)
    lines: Iterable[str]
    if as_format == "csv":
        lines = export.as_csv(found=found, under=under, with_personal=with_personal)
    else:
        lines = export.as_json(found=found, under=under, with_personal=with_personal, filters=stated)
    content_type = "text/csv; charset=utf-8" if as_format == "csv" else "application/json"
    response = StreamingHttpResponse(lines, content_type=content_type)
    response["Content-Disposition"] = f'attachment; filename="audit-{at:%Y%m%d-%H%M%S}.{as_format}"'
    return response
