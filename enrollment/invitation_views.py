"""Pages of invitations. At the desk: a file of people becomes links, and links are watched, renewed and taken back. On
the invited person's phone: the link is opened, consent is given, a face becomes noise, and the person is enrolled.

The guest's pages are open to everybody and tell nobody anything: who a page is for stands in the session, and only the
link's token puts it there. Which profile captures are drawn under, and which captures are accepted, accesscontrol gives
with the route.
"""

from __future__ import annotations

import base64
import csv
import io
import secrets
import uuid
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from functools import wraps
from typing import Any
from urllib.parse import quote

import qrcode
import qrcode.image.svg
from django import forms
from django.conf import settings
from django.contrib import messages
from django.core.cache import cache
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods, require_POST, require_safe
from rest_framework.authentication import SessionAuthentication
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.throttling import SimpleRateThrottle

from enrollment import invitations, languages, roster, services
from enrollment.api import BrowserCapturesView, TerminalProgressSerializer
from enrollment.camera import allow_camera
from enrollment.invitations import LIFETIME, LONGEST_LIFETIME, Issued
from enrollment.languages import Language
from enrollment.models import Enrollment, Invitation, Person
from enrollment.services import EnrollmentRefused

PAGE_SIZE = 50
MAX_FILE_BYTES = 256 * 1024
MOST_ERRORS_SHOWN = 100  # on the page; its file has them all
SESSION_INVITATION = "invitation"
SESSION_LANGUAGE = "invitation_language"
SESSION_IMPORT = "import_once"
GUEST_SESSION_S = 3600
OPENINGS_PER_MINUTE = 20  # of links, per address: far more than people, far less than a guess needs
CAPTURE_RATE = "120/min"

LOCAL_HOSTS = ("127.0.0.1", "localhost", "[::1]")


# At the desk


class ImportForm(forms.Form):
    file = forms.FileField(
        label="CSV file",
        required=False,
        widget=forms.ClearableFileInput(attrs={"accept": ".csv,text/csv"}),
        help_text="UTF-8, separated by commas or semicolons, as a spreadsheet saves it.",
    )
    text = forms.CharField(
        label="Or paste the rows",
        required=False,
        strip=False,
        widget=forms.Textarea(attrs={"rows": 6, "spellcheck": "false", "class": "code"}),
    )
    invite = forms.BooleanField(
        label="Make an invitation link for each person",
        required=False,
        initial=True,
        help_text="With it they agree and enroll on their own phone. Without it you enroll them at the desk.",
    )
    days = forms.IntegerField(
        label="A link works for so many days",
        min_value=1,
        max_value=LONGEST_LIFETIME.days,
        initial=LIFETIME.days,
    )

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        file = data.get("file")
        if file is not None:
            if file.size > MAX_FILE_BYTES:
                raise forms.ValidationError(f"The file has more than {MAX_FILE_BYTES // 1024} KB. Split it.")
            try:
                data["text"] = file.read().decode("utf-8-sig")
            except UnicodeDecodeError:
                raise forms.ValidationError(
                    "The file is not UTF-8. Save it again as “CSV UTF-8” and choose that."
                ) from None
        text = (data.get("text") or "").replace("\r\n", "\n")
        if not text.strip():
            raise forms.ValidationError("Choose a file or paste its rows.")
        if len(text.encode()) > MAX_FILE_BYTES:
            raise forms.ValidationError(f"That is more than {MAX_FILE_BYTES // 1024} KB. Split it.")
        data["text"] = text
        return data


class InviteForm(forms.Form):
    contact = forms.CharField(
        label="Sent to",
        required=False,
        max_length=254,
        help_text="An e-mail address or a phone, for your own memory. Lintel itself sends nothing.",
    )
    days = forms.IntegerField(
        label="The link works for so many days",
        min_value=1,
        max_value=LONGEST_LIFETIME.days,
        initial=LIFETIME.days,
    )


class FilterForm(forms.Form):
    q = forms.CharField(
        label="Search",
        required=False,
        max_length=100,
        widget=forms.TextInput(attrs={"type": "search", "placeholder": "name, e-mail or number"}),
    )
    state = forms.ChoiceField(required=False, choices=[("", "any state"), *Invitation.State.choices])


@sensitive_post_parameters("text")  # card numbers may stand there
@never_cache
@require_http_methods(["GET", "POST"])
def people_import(request: HttpRequest) -> HttpResponse:
    """Choose a file, look at what would happen, then let it happen. Between the two nothing is kept but in the page."""
    form = ImportForm(request.POST or None, request.FILES or None)
    if request.method == "POST" and form.is_valid():
        found = roster.read_roster(
            form.cleaned_data["text"].splitlines(keepends=True),
            zone=timezone.get_current_timezone(),
            at=timezone.now(),
        )
        if "register" in request.POST and found.is_good:
            return _register(request, form, found)
        once = request.session[SESSION_IMPORT] = secrets.token_urlsafe(16)
        context = {"form": form, "text": form.cleaned_data["text"], "once": once, **_judged(found)}
        return render(request, "invitations/preview.html", context, status=200 if found.is_good else 422)
    context = {"form": form, "example": roster.EXAMPLE}
    return render(request, "invitations/import.html", context, status=422 if form.is_bound else 200)


def _register(request: HttpRequest, form: ImportForm, found: roster.Roster) -> HttpResponse:
    once = request.session.pop(SESSION_IMPORT, None)
    if once is None or not secrets.compare_digest(once, request.POST.get("once", "")):
        messages.warning(request, "This file was registered already. Nobody was registered twice.")
        return redirect("invitations")
    try:
        done = roster.register_roster(
            roster=found,
            actor=_actor(request),
            at=timezone.now(),
            invite=form.cleaned_data["invite"],
            lifetime=timedelta(days=form.cleaned_data["days"]),
        )
    except roster.RosterRefused as refusal:
        judged = _judged(roster.Roster(errors=refusal.errors))
        context = {"form": form, "text": form.cleaned_data["text"], **judged}
        return render(request, "invitations/preview.html", context, status=409)
    people = f"{len(done)} {'person is' if len(done) == 1 else 'people are'} on record."
    issued = [registered.invitation for registered in done if registered.invitation is not None]
    if not issued:
        messages.success(request, people)
        return redirect("people")
    return _show_links(request, issued, title="Invitation links", said=people)


def _judged(found: roster.Roster) -> dict[str, Any]:
    """A roster as its page shows it: a long list of errors in part, and all of them as a file."""
    wrong_lines = len({error.line for error in found.errors})
    rows = [roster.error_row(error) for error in found.errors]
    return {
        "roster": found,
        "errors": found.errors[:MOST_ERRORS_SHOWN],
        "errors_left_out": max(0, len(found.errors) - MOST_ERRORS_SHOWN),
        "errors_file": _as_file(roster.ERROR_COLUMNS, rows) if rows else "",
        "wrong_lines": wrong_lines,
        "has_cards": any(row.card for row in found.rows),
    }


def _as_file(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """CSV inside an address: made for this reader, and kept nowhere."""
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(header)
    writer.writerows(rows)
    return f"data:text/csv;charset=utf-8,{quote(chr(0xFEFF) + file.getvalue())}"


@require_safe
def people_import_example(request: HttpRequest) -> HttpResponse:
    response = HttpResponse("\ufeff" + roster.EXAMPLE, content_type="text/csv; charset=utf-8")
    response["Content-Disposition"] = 'attachment; filename="people.csv"'
    return response


@require_safe
def invitation_list(request: HttpRequest) -> HttpResponse:
    form = FilterForm(request.GET)
    asked = form.cleaned_data if form.is_valid() else {}
    now = timezone.now()
    found = Invitation.objects.select_related("person", "enrollment")
    if asked.get("q"):
        found = found.filter(person__in=Person.objects.matching(asked["q"]))
    if asked.get("state"):
        found = invitations.in_state(found, asked["state"], now)
    page = Paginator(found, PAGE_SIZE).get_page(request.GET.get("page"))
    rows = [(invitation, Invitation.State(invitation.state_at(now))) for invitation in page]
    context = {"page": page, "rows": rows, "form": form, "filtered": any(asked.values())}
    return render(request, "invitations/list.html", context)


@never_cache
@require_http_methods(["GET", "POST"])
def invitation_create(request: HttpRequest, person_id: uuid.UUID) -> HttpResponse:
    """A link for one person, shown once. Sending again is the same: the earlier link stops working."""
    person = get_object_or_404(Person, pk=person_id)
    now = timezone.now()
    earlier = person.invitations.first()
    open_one = earlier is not None and earlier.is_open(now)
    initial = {"contact": (earlier.contact if earlier else "") or person.email, "days": LIFETIME.days}
    form = InviteForm(request.POST or None, initial=initial)
    if request.method == "POST" and form.is_valid():
        try:
            issued = invitations.issue_invitation(
                person=person,
                actor=_actor(request),
                at=now,
                contact=form.cleaned_data["contact"],
                lifetime=timedelta(days=form.cleaned_data["days"]),
            )
        except EnrollmentRefused as refusal:
            form.add_error(None, f"{refusal.message.capitalize()}.")
        else:
            return _show_links(request, [issued], title=f"Invitation for {person.full_name}")
    explanation = (
        "There is an open link already. A new one takes its place; the old one stops working."
        if open_one
        else f"With the link {person.full_name} agrees and enrolls on a phone or computer of their own."
    )
    context = {
        "form": form,
        "title": f"Invite {person.full_name}",
        "explanation": explanation,
        "back": reverse("person", args=[person_id]),
        "back_label": person.full_name,
        "verb": "Make a new link" if open_one else "Make the link",
    }
    return render(request, "form.html", context, status=422 if form.is_bound else 200)


@require_http_methods(["GET", "POST"])
def invitation_revoke(request: HttpRequest, invitation_id: uuid.UUID) -> HttpResponse:
    invitation = get_object_or_404(Invitation.objects.select_related("person"), pk=invitation_id)
    name = invitation.person.full_name
    if request.method == "POST":
        invitations.revoke_invitation(invitation=invitation, actor=_actor(request), at=timezone.now())
        messages.success(request, f"The link of {name} opens nothing any more.")
        return redirect("invitations")
    context = {
        "title": f"Take the invitation of {name} back?",
        "explanation": "The link stops working at once, also for somebody who has it open.",
        "consequences": [
            "Captures taken through it and not finished are discarded.",
            "The person stays on record. A new invitation can be made at any time.",
        ],
        "verb": "Take it back",
        "danger": True,
        "back": reverse("invitations"),
    }
    return render(request, "confirm.html", context)


def _show_links(request: HttpRequest, issued: list[Issued], *, title: str, said: str = "") -> HttpResponse:
    base = _address(request)
    links = [(one.invitation, invitations.link_to(one, base=base)) for one in issued]
    host = request.get_host().rpartition(":")[0] or request.get_host()
    context = {
        "title": title,
        "said": said,
        "links": links,
        "file": _as_file(roster.LINK_COLUMNS, [roster.link_row(one, base=base) for one in issued]),
        "qr": _qr(links[0][1]) if len(links) == 1 else None,
        "only_here": host in LOCAL_HOSTS and base.startswith(f"{request.scheme}://{request.get_host()}"),
        "insecure": base.startswith("http://") and host not in LOCAL_HOSTS,
    }
    return render(request, "invitations/links.html", context)


def _address(request: HttpRequest) -> str:
    """The server as phones reach it: the public address where one is set for sure, else as this reader reaches it."""
    if settings.LINTEL_MODE == "production":
        return str(settings.LINTEL_PUBLIC_URL)
    return f"{request.scheme}://{request.get_host()}"


def _qr(link: str) -> str:
    drawn = qrcode.make(link, image_factory=qrcode.image.svg.SvgPathImage, border=2)
    return "data:image/svg+xml;base64," + base64.b64encode(drawn.to_string()).decode("ascii")


# On the invited person's phone


def guest_page(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    """Never from a cache. `?language=` chooses the guest's language."""

    @never_cache
    @wraps(view)
    def page(request: HttpRequest, *arguments: Any, **named: Any) -> HttpResponse:
        chosen = languages.find(request.GET.get("language", ""))
        if chosen is not None:
            request.session[SESSION_LANGUAGE] = chosen.tag
        return view(request, *arguments, **named)

    return page


def _language(request: HttpRequest) -> Language:
    """Chosen before, else the one that the browser likes best."""
    chosen = languages.find(request.session.get(SESSION_LANGUAGE, ""))
    return chosen or languages.preferred(request.headers.get("Accept-Language", ""))


@guest_page
@require_safe
def guest(request: HttpRequest) -> HttpResponse:
    """The step that this guest is at. Without a session it is the page that a link opens, the same for everybody."""
    invitation = _invitation(request)
    if invitation is None:
        return _render(request, "invitations/guest_open.html")
    try:
        if not _agreed(invitation):
            _require_open(invitation)
            return _render(request, "invitations/guest_consent.html", invitation=invitation)
        return _camera(request, invitation)
    except EnrollmentRefused as refusal:
        return _over(request, refusal.code)


def _camera(request: HttpRequest, invitation: Invitation) -> HttpResponse:
    current = invitation.enrollment
    if current is not None and current.state in (
        Enrollment.State.COMPLETED,
        Enrollment.State.DUPLICATE_FOUND,
    ):
        return _render(request, "invitations/guest_done.html", **_progress(current))
    enrollment = invitations.begin(invitation=invitation, at=timezone.now())
    page = _render(request, "invitations/guest_camera.html", invitation=invitation, **_progress(enrollment))
    allow_camera(page)  # consent comes first, for the browser as well
    return page


@guest_page
@sensitive_post_parameters("token")
@require_POST
def guest_open(request: HttpRequest) -> HttpResponse:
    """Spends nothing: a link opens as often as its person likes, until the captures are in."""
    if not _within_rate(request):
        return _over(request, "too_many_requests", status=429)
    request.session.pop(SESSION_INVITATION, None)
    try:
        invitation = invitations.open_invitation(token=request.POST.get("token", ""), at=timezone.now())
    except EnrollmentRefused as refusal:
        return _over(request, refusal.code)
    request.session.cycle_key()
    request.session[SESSION_INVITATION] = str(invitation.pk)
    if not request.user.is_authenticated:
        request.session.set_expiry(GUEST_SESSION_S)
    return redirect("invitation")


@guest_page
@require_POST
def guest_consent(request: HttpRequest) -> HttpResponse:
    invitation = _invitation(request)
    if invitation is None:
        return redirect("invitation")
    try:
        if request.POST.get("answer") == "no":
            invitations.decline(invitation=invitation, at=timezone.now())
            return _over(request, "invitation_declined", status=200)
        own_words = request.POST.get("own_words", "")
        language = languages.find(request.POST.get("language", "")) or _language(request)
        changed = request.POST.get("version") != language.consent.version
        if changed or request.POST.get("agreed") != "yes":
            # Agreed to are the words that were on the page, not those that have taken their place since.
            context = {"invitation": invitation, "missing": True, "changed": changed, "own_words": own_words}
            return _render(
                request, "invitations/guest_consent.html", status=422, language=language, **context
            )
        invitations.agree(
            invitation=invitation, text=language.consent, own_words=own_words, at=timezone.now()
        )
    except EnrollmentRefused as refusal:
        return _over(request, refusal.code)
    return redirect("invitation")


@guest_page
@require_safe
def guest_progress(request: HttpRequest) -> HttpResponse:
    """What the camera's script puts below the picture after every capture."""
    invitation = _invitation(request)
    enrollment = invitation.enrollment if invitation is not None else None
    if enrollment is None:
        return _render(request, "invitations/_guest_progress.html", status=409)
    return _render(request, "invitations/_guest_progress.html", **_progress(enrollment))


class GuestSession(SessionAuthentication):
    """The invitation of this session, with the page's CSRF token. `request.auth` is the invitation."""

    def authenticate(self, request: Request) -> tuple[Any, Any] | None:
        invitation = _invitation(request._request)
        if invitation is None:
            return None
        self.enforce_csrf(request)
        return invitations.actor_of(invitation), invitation

    def authenticate_header(self, request: Request) -> str:
        return 'Session realm="lintel"'


class IsInvited(BasePermission):
    def has_permission(self, request: Request, view: Any) -> bool:
        return isinstance(request.auth, Invitation)


class GuestRate(SimpleRateThrottle):
    scope = "invitation"
    rate = CAPTURE_RATE

    def get_cache_key(self, request: Request, view: Any) -> str | None:
        return f"lintel:rate:invitation:{request.auth.pk}" if isinstance(request.auth, Invitation) else None


class GuestCapturesView(BrowserCapturesView):
    """Captures from an invited person's phone. Tells what a terminal may know: never whom a face was mistaken for."""

    authentication_classes = (GuestSession,)  # type: ignore[assignment]
    permission_classes = (IsInvited,)  # type: ignore[assignment]
    throttle_classes = (GuestRate,)

    def get(self, request: Request) -> Response:  # type: ignore[override]
        return Response(self._told(self._enrollment(request)))

    def post(self, request: Request) -> Response:  # type: ignore[override]
        _require_open(self._guest(request))
        enrollment = self.take(request, self._enrollment(request))
        return Response(self._told(enrollment), status=202)

    def _guest(self, request: Request) -> Invitation:
        invitation: Any = request.auth
        return invitation

    def _enrollment(self, request: Request) -> Enrollment:
        enrollment = self._guest(request).enrollment
        if enrollment is None:
            raise EnrollmentRefused("enrollment_unknown", "no enrollment was begun")
        return enrollment

    def _told(self, enrollment: Enrollment) -> dict[str, Any]:
        progress = services.describe_progress(enrollment)
        return {name: progress[name] for name in TerminalProgressSerializer().get_fields()}


def _invitation(request: HttpRequest) -> Invitation | None:
    known = request.session.get(SESSION_INVITATION)
    if known is None:
        return None
    return Invitation.objects.filter(pk=known).select_related("person", "enrollment__person").first()


def _agreed(invitation: Invitation) -> bool:
    consents = invitation.person.consents.filter(withdrawn_at=None)
    return consents.filter(recorded_by=invitations.actor_of(invitation)).exists()


def _require_open(invitation: Invitation) -> None:
    refusal = invitations.REFUSALS.get(invitation.state_at(timezone.now()))
    if refusal is not None:
        raise EnrollmentRefused(*refusal)


def _progress(enrollment: Enrollment) -> dict[str, Any]:
    return {
        "enrollment": enrollment,
        "steps": [number < enrollment.captures_accepted for number in range(enrollment.captures_wanted)],
    }


def _over(request: HttpRequest, code: str, *, status: int = 410) -> HttpResponse:
    """Kindly: what is the matter, and what to do. An unknown link is 404, one that has ended 410."""
    language = _language(request)
    known = f"{code}_next" in language.sections["guest"]
    said = {"said": code if known else "otherwise", "said_next": f"{code if known else 'otherwise'}_next"}
    status = 404 if code == "invitation_unknown" else status
    return _render(request, "invitations/guest_over.html", status=status, code=code, **said)


def _render(request: HttpRequest, template: str, *, status: int = 200, **context: Any) -> HttpResponse:
    language = context.setdefault("language", _language(request))
    context |= {
        "text": language.consent,
        "languages": languages.known(),
        "sentences": language.sections["camera"],
        "most_own_words": invitations.MAX_OWN_WORDS,
    }
    return render(request, template, context, status=status)


def _within_rate(request: HttpRequest) -> bool:
    """A count per address and minute. Two processes without a shared cache count apart, which doubles little."""
    minute = int(timezone.now().timestamp()) // 60
    key = f"lintel:rate:invitation_open:{request.META.get('REMOTE_ADDR', '')}:{minute}"
    cache.add(key, 0, timeout=120)
    try:
        return cache.incr(key) <= OPENINGS_PER_MINUTE
    except ValueError:  # the cache lost it in between
        return True


def _actor(request: HttpRequest) -> str:
    return request.user.get_username()
