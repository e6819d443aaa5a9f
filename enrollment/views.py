"""Pages about people: the list, their data, consent, the progress of an enrollment, erasure."""

from __future__ import annotations

import json
import uuid
from typing import Any

from django.contrib import messages
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from enrollment import languages, proofs, services
from enrollment.camera import allow_camera
from enrollment.forms import (
    CardForm,
    ConsentForm,
    DifferentPersonForm,
    EraseForm,
    PeopleFilterForm,
    PersonForm,
    PinForm,
)
from enrollment.models import Card, Enrollment, ErasureCertificate, Person
from enrollment.services import EnrollmentRefused

PAGE_SIZE = 50
FORM_METHODS = ["GET", "POST"]


@require_safe
def people(request: HttpRequest) -> HttpResponse:
    form = PeopleFilterForm(request.GET)
    asked = form.cleaned_data if form.is_valid() else {}
    found = _with_status(asked.get("status", ""), Person.objects.with_status().matching(asked.get("q", "")))
    if asked.get("kind"):
        found = found.filter(kind=asked["kind"])
    # The page is cut first: a sort would otherwise carry the state of everybody's consent and templates along.
    page: Any = Paginator(found.values_list("pk", flat=True), PAGE_SIZE).get_page(request.GET.get("page"))
    shown = Person.objects.with_status().in_bulk(list(page))
    page.object_list = [shown[pk] for pk in page if pk in shown]
    now = timezone.now()
    for person in page:
        person.expired_now = person.is_expired(now)
    return render(request, "people/list.html", {"page": page, "form": form, "filtered": any(asked.values())})


def _with_status(status: str, found: QuerySet[Any]) -> QuerySet[Any]:
    if status == "enrolled":
        return found.filter(is_enrolled_now=True)
    if status == "not_enrolled":
        return found.filter(is_enrolled_now=False)
    if status == "no_consent":
        return found.filter(has_consent_now=False)
    if status == "inactive":
        return found.filter(is_active=False)
    if status == "expired":
        return found.filter(valid_until__lte=timezone.now())
    return found


@require_http_methods(FORM_METHODS)
def person_create(request: HttpRequest) -> HttpResponse:
    form = PersonForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        try:
            person = services.register_person(**form.cleaned_data, actor=_actor(request), at=timezone.now())
        except EnrollmentRefused as refusal:
            form.add_error(_field_of(refusal), refusal.message)
        else:
            messages.success(
                request, f"{person.full_name} is on record. Record consent next, then enroll the face."
            )
            return redirect("person", person.pk)
    context = {
        "form": form,
        "title": "Add a person",
        "back": reverse("people"),
        "back_label": "People",
        "verb": "Add",
    }
    return render(request, "form.html", context, status=422 if form.is_bound else 200)


@require_http_methods(FORM_METHODS)
def person_edit(request: HttpRequest, person_id: uuid.UUID) -> HttpResponse:
    person = get_object_or_404(Person, pk=person_id)
    name = person.full_name
    form = PersonForm(request.POST or None, instance=person)
    if request.method == "POST" and form.is_valid():
        changes = {field: form.cleaned_data[field] for field in form.changed_data}
        try:
            services.update_person(person=person, changes=changes, actor=_actor(request), at=timezone.now())
        except EnrollmentRefused as refusal:
            form.add_error(_field_of(refusal), refusal.message)
        else:
            messages.success(request, f"{form.cleaned_data['full_name']} is saved.")
            return redirect("person", person_id)
    back = reverse("person", args=[person_id])
    context = {"form": form, "title": f"Edit {name}", "back": back, "back_label": name}
    return render(request, "form.html", context, status=422 if form.is_bound else 200)


@require_http_methods(FORM_METHODS)
def consent_create(request: HttpRequest, person_id: uuid.UUID) -> HttpResponse:
    """Shows the text in one language and records that the person agreed to exactly this text."""
    person = get_object_or_404(Person, pk=person_id)
    asked = request.POST.get("language") or request.GET.get("language") or ""
    language = languages.find(asked) or languages.reference()
    shown = language.consent
    then = request.POST.get("then") or request.GET.get("then") or ""
    form = ConsentForm(request.POST or None, shown=shown)
    if request.method == "POST" and form.is_valid():
        try:
            services.record_consent(
                person=person,
                text=shown.text,
                version=shown.version,
                language=shown.language,
                method=form.cleaned_data["method"],
                actor=_actor(request),
                at=timezone.now(),
            )
        except EnrollmentRefused as refusal:
            form.add_error(None, refusal.message)
        else:
            messages.success(request, f"The consent of {person.full_name} is recorded.")
            return redirect("enrollment_begin" if then == "enroll" else "person", person_id)
    context = {
        "person": person,
        "language": language,
        "texts": [each.consent for each in languages.known()],
        "shown": shown,
        "form": form,
        "then": then,
    }
    return render(request, "people/consent.html", context, status=422 if form.is_bound else 200)


@require_http_methods(FORM_METHODS)
def consent_withdraw(request: HttpRequest, person_id: uuid.UUID) -> HttpResponse:
    person = get_object_or_404(Person, pk=person_id)
    if request.method == "POST":
        try:
            services.withdraw_consent(person=person, actor=_actor(request), at=timezone.now())
        except EnrollmentRefused as refusal:
            messages.error(request, _sentence(refusal))
        else:
            messages.success(
                request, f"Consent withdrawn. {person.full_name}'s templates and their key are destroyed."
            )
        return redirect("person", person_id)
    context = {
        "title": f"Withdraw the consent of {person.full_name}?",
        "explanation": "The person asks not to be recognised any more. This takes effect at once.",
        "consequences": [
            "All face templates and the key they are sealed with are destroyed; this cannot be undone.",
            "Doors no longer recognise this person. A PIN and cards stay: they are the other way in.",
            "The name and the entries in the audit log stay. To remove those too, erase the person.",
        ],
        "verb": "Withdraw consent",
        "danger": True,
        "back": reverse("person", args=[person_id]),
    }
    return render(request, "confirm.html", context)


@sensitive_post_parameters("pin", "again")
@never_cache
@require_http_methods(FORM_METHODS)
def pin_set(request: HttpRequest, person_id: uuid.UUID) -> HttpResponse:
    person = get_object_or_404(Person, pk=person_id)
    back = reverse("person", args=[person_id])
    form = PinForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        try:
            proofs.set_pin(
                person=person, pin=form.cleaned_data["pin"], actor=_actor(request), at=timezone.now()
            )
        except EnrollmentRefused as refusal:
            form.add_error(None, _sentence(refusal))
        else:
            messages.success(request, f"{person.full_name} has a new PIN. Wrong tries are forgotten.")
            return redirect(back)
    context = {
        "form": form,
        "title": f"Set the PIN of {person.full_name}",
        "explanation": "Turn the keyboard over to the person. A new PIN takes the place of the one before.",
        "back": back,
        "back_label": person.full_name,
    }
    return render(request, "form.html", context, status=422 if form.is_bound else 200)


@require_http_methods(FORM_METHODS)
def pin_clear(request: HttpRequest, person_id: uuid.UUID) -> HttpResponse:
    person = get_object_or_404(Person, pk=person_id)
    back = reverse("person", args=[person_id])
    if request.method == "POST":
        if proofs.clear_pin(person=person, actor=_actor(request), at=timezone.now()):
            messages.success(request, f"{person.full_name} has no PIN any more.")
        return redirect(back)
    context = {
        "title": f"Take the PIN of {person.full_name} away?",
        "explanation": "Doors that ask for a PIN refuse them until a new one is set.",
        "consequences": ["Cards of theirs stay, and open nothing where a PIN belongs to them."],
        "verb": "Take the PIN away",
        "danger": True,
        "back": back,
    }
    return render(request, "confirm.html", context)


@sensitive_post_parameters("number")
@never_cache
@require_http_methods(FORM_METHODS)
def card_add(request: HttpRequest, person_id: uuid.UUID) -> HttpResponse:
    person = get_object_or_404(Person, pk=person_id)
    back = reverse("person", args=[person_id])
    form = CardForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        try:
            card = proofs.add_card(
                person=person, number=form.cleaned_data["number"], actor=_actor(request), at=timezone.now()
            )
        except EnrollmentRefused as refusal:
            form.add_error("number", _sentence(refusal))
        else:
            messages.success(request, f"{person.full_name} has the card that ends with {card.ends_with}.")
            return redirect(back)
    context = {
        "form": form,
        "title": f"Give {person.full_name} a card",
        "back": back,
        "back_label": person.full_name,
    }
    return render(request, "form.html", context, status=422 if form.is_bound else 200)


def _card(card_id: uuid.UUID) -> Card:
    return get_object_or_404(Card.objects.select_related("person"), pk=card_id)


@require_http_methods(FORM_METHODS)
def card_block(request: HttpRequest, card_id: uuid.UUID) -> HttpResponse:
    card = _card(card_id)
    if request.method == "POST":
        proofs.block_card(card=card, actor=_actor(request), at=timezone.now())
        messages.success(request, f"The card that ends with {card.ends_with} opens nothing any more.")
        return redirect("person", card.person_id)
    context = {
        "title": f"Block the card that ends with {card.ends_with}?",
        "explanation": f"It belongs to {card.person.full_name} and is lost or stolen.",
        "consequences": [
            "From now on it opens no door, and whoever shows it raises an alarm.",
            "Should it be found, the desk can unblock it.",
        ],
        "verb": "Block the card",
        "danger": True,
        "back": reverse("person", args=[card.person_id]),
    }
    return render(request, "confirm.html", context)


@require_http_methods(FORM_METHODS)
def card_unblock(request: HttpRequest, card_id: uuid.UUID) -> HttpResponse:
    card = _card(card_id)
    if request.method == "POST":
        proofs.unblock_card(card=card, actor=_actor(request), at=timezone.now())
        messages.success(request, f"The card that ends with {card.ends_with} works again.")
        return redirect("person", card.person_id)
    context = {
        "title": f"Unblock the card that ends with {card.ends_with}?",
        "explanation": f"Only do this with the card in your hand and {card.person.full_name} before you.",
        "verb": "Unblock the card",
        "danger": False,
        "back": reverse("person", args=[card.person_id]),
    }
    return render(request, "confirm.html", context)


@require_http_methods(FORM_METHODS)
def card_remove(request: HttpRequest, card_id: uuid.UUID) -> HttpResponse:
    card = _card(card_id)
    back = reverse("person", args=[card.person_id])
    if request.method == "POST":
        proofs.remove_card(card=card, actor=_actor(request), at=timezone.now())
        messages.success(request, "The card is nobody's any more and can be given to somebody else.")
        return redirect(back)
    context = {
        "title": f"Take back the card that ends with {card.ends_with}?",
        "explanation": f"{card.person.full_name} gave it back. A card that is lost should be blocked instead.",
        "consequences": ["It opens nothing, and raises no alarm when it is shown."],
        "verb": "Take the card back",
        "danger": True,
        "back": back,
    }
    return render(request, "confirm.html", context)


@require_http_methods(FORM_METHODS)
def person_erase(request: HttpRequest, person_id: uuid.UUID) -> HttpResponse:
    person = get_object_or_404(Person, pk=person_id)
    form = EraseForm(request.POST or None, person=person)
    if request.method == "POST" and form.is_valid():
        try:
            services.erase_person(person_id=person.pk, actor=_actor(request), at=timezone.now())
        except EnrollmentRefused as refusal:
            form.add_error(None, refusal.message)
        else:
            return redirect("erasure_certificate", person_id)
    context = {
        "title": f"Erase {person.full_name}?",
        "explanation": "Everything that identifies this person is destroyed. Nobody can bring it back.",
        "consequences": [
            "The person's key is destroyed first, so every copy of the templates becomes unreadable.",
            "Name, e-mail, number, PIN, cards, consents, enrollments and group memberships are deleted.",
            "Entries in the audit log stay in their place, with the personal fields unreadable.",
            "You get a certificate that says what was erased and when. It does not name the person.",
        ],
        "form": form,
        "verb": "Erase for good",
        "danger": True,
        "back": reverse("person", args=[person_id]),
    }
    return render(request, "confirm.html", context, status=422 if form.is_bound else 200)


@never_cache
@require_safe
def erasure_certificate(request: HttpRequest, person_id: uuid.UUID) -> HttpResponse:
    record = get_object_or_404(ErasureCertificate, pk=person_id)
    text = json.dumps(record.certificate, indent=2, ensure_ascii=False, sort_keys=True)
    if "download" in request.GET:
        response = HttpResponse(text, content_type="application/json")
        response["Content-Disposition"] = f'attachment; filename="erasure-{record.pk}.json"'
        return response
    return render(request, "people/erased.html", {"record": record, "text": text})


@never_cache
@require_safe
def enrollment(request: HttpRequest, enrollment_id: uuid.UUID) -> HttpResponse:
    """An enrollment under way: with this browser's camera, or followed live while a terminal takes the captures."""
    context = _progress(enrollment_id)
    response = render(request, "people/enrollment.html", context)
    if context["in_this_browser"]:
        allow_camera(response)
    return response


@never_cache
@require_safe
def enrollment_progress(request: HttpRequest, enrollment_id: uuid.UUID) -> HttpResponse:
    return render(request, "people/_enrollment.html", _progress(enrollment_id))


def _progress(enrollment_id: uuid.UUID) -> dict[str, Any]:
    found = get_object_or_404(Enrollment.objects.select_related("person", "duplicate_of"), pk=enrollment_id)
    steps = [number < found.captures_accepted for number in range(found.captures_wanted)]
    advice = services.MESSAGES.get(found.last_reason, "") if found.last_reason else ""
    consent = found.person.consents.filter(withdrawn_at=None).first()
    language = (languages.nearest(consent.language) if consent else None) or languages.reference()
    return {
        "enrollment": found,
        "steps": steps,
        "advice": advice,
        "sentences": language.sections["camera"],
        "in_this_browser": found.terminal_id is None and found.state == Enrollment.State.OPEN,
        "language": language,
        "different": DifferentPersonForm(),
    }


@require_POST
def enrollment_retake(request: HttpRequest, enrollment_id: uuid.UUID) -> HttpResponse:
    found = get_object_or_404(Enrollment, pk=enrollment_id)
    try:
        services.retake_captures(enrollment=found, actor=_actor(request), at=timezone.now())
    except EnrollmentRefused as refusal:
        messages.error(request, _sentence(refusal))
    return redirect("enrollment", enrollment_id)


@require_POST
def enrollment_attach(request: HttpRequest, enrollment_id: uuid.UUID) -> HttpResponse:
    """The duplicate is the same person: the captures go to the entry that exists."""
    found = get_object_or_404(Enrollment.objects.select_related("person"), pk=enrollment_id)
    left_without_face = found.person
    try:
        done = services.attach_to_duplicate(enrollment=found, actor=_actor(request), at=timezone.now())
    except EnrollmentRefused as refusal:
        messages.error(request, _sentence(refusal))
        return redirect("enrollment", enrollment_id)
    messages.success(
        request,
        f"The captures were added to {done.person.full_name}. {left_without_face.full_name} has no face on record; "
        "an administrator can erase that entry if it is not needed.",
    )
    return redirect("person", done.person_id)


@require_POST
def enrollment_complete(request: HttpRequest, enrollment_id: uuid.UUID) -> HttpResponse:
    """An administrator says that the duplicate is a different person, and why."""
    found = get_object_or_404(Enrollment, pk=enrollment_id)
    form = DifferentPersonForm(request.POST)
    if not form.is_valid():
        context = {**_progress(enrollment_id), "different": form}
        return render(request, "people/enrollment.html", context, status=422)
    try:
        services.complete_enrollment(
            enrollment=found,
            accept_duplicate=True,
            reason=form.cleaned_data["reason"],
            actor=_actor(request),
            at=timezone.now(),
        )
    except EnrollmentRefused as refusal:
        messages.error(request, _sentence(refusal))
    return redirect("enrollment", enrollment_id)


@require_POST
def enrollment_cancel(request: HttpRequest, enrollment_id: uuid.UUID) -> HttpResponse:
    found = get_object_or_404(Enrollment, pk=enrollment_id)
    try:
        services.cancel_enrollment(enrollment=found, actor=_actor(request), at=timezone.now())
    except EnrollmentRefused as refusal:
        messages.error(request, _sentence(refusal))
    return redirect("enrollment", enrollment_id)


def _field_of(refusal: EnrollmentRefused) -> str | None:
    return "external_id" if refusal.code == "external_id_taken" else None


def _sentence(refusal: EnrollmentRefused) -> str:
    return f"{refusal.message[:1].upper()}{refusal.message[1:].rstrip('.')}."


def _actor(request: HttpRequest) -> str:
    return request.user.get_username()
