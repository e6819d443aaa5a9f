"""What the pages of this app share: saving a form, asking before something is done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from django.contrib import messages
from django.core.paginator import Page, Paginator
from django.db import IntegrityError
from django.db.models import Model, QuerySet
from django.forms import BaseForm, ModelForm
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone

from accesscontrol.configuration import delete_configuration, save_configuration

PAGE_SIZE = 50
SAVED_MEANWHILE = (
    "Somebody else saved a change at the same moment, so yours is not saved. "
    "Look at what is there now and try again."
)
#: Where the form of a noun leads back to, where that is a list.
BACK_LABELS = {"rule": "Rules", "schedule": "Schedules", "user": "Users"}


def actor_of(request: HttpRequest) -> str:
    """The name under which the audit log knows the signed-in user."""
    return request.user.get_username()


def sentence(message: str) -> str:
    """A refusal's message as it stands on a page: with a capital letter and a full stop."""
    return f"{message[:1].upper()}{message[1:].rstrip('.')}."


def page_of(
    request: HttpRequest,
    rows: QuerySet[Any],
    size: int = PAGE_SIZE,
    then: Callable[[Any], QuerySet[Any]] = lambda rows: rows,
    count: int | None = None,
) -> Page[Any]:
    """One page of rows. `then` adds what only the rows of this page need; a sort would carry it for all of them.

    A `count` that the caller knows already is not asked again.
    """
    paginator: Paginator[Any] = Paginator(rows.values_list("pk", flat=True), size)
    if count is not None:
        paginator.count = count
    page: Page[Any] = paginator.get_page(request.GET.get("page"))
    wanted = list(page)
    found = then(rows.model._default_manager.filter(pk__in=wanted)).in_bulk()
    page.object_list = [found[pk] for pk in wanted if pk in found]
    return page


def edit(
    request: HttpRequest,
    form: ModelForm[Any],
    *,
    noun: str,
    title: str,
    back: str,
    done: str,
    then: Callable[[Any], str] | None = None,
    template: str = "form.html",
    **context: Any,
) -> HttpResponse:
    """Shows `form`; saves a valid one with an audit entry, else shows it again as it was typed."""
    if request.method == "POST" and form.is_valid():
        try:
            thing = save_configuration(form=form, noun=noun, actor=actor_of(request), at=timezone.now())
        except IntegrityError:  # between the form's look and our write; nothing of ours is written
            form.add_error(None, SAVED_MEANWHILE)
        else:
            messages.success(request, done.format(thing))
            return redirect(then(thing) if then else back)
    context = {
        "back_label": BACK_LABELS.get(noun, "Back"),
        **context,
        "form": form,
        "title": title,
        "back": back,
    }
    return render(request, template, context, status=422 if form.is_bound else 200)


def confirm(
    request: HttpRequest,
    *,
    title: str,
    explanation: str,
    verb: str,
    back: str,
    consequences: Sequence[str] = (),
    danger: bool = True,
    form: BaseForm | None = None,
) -> HttpResponse:
    """Asks before something is done. The caller acts on POST; Cancel leads `back`."""
    context = {
        "title": title,
        "explanation": explanation,
        "verb": verb,
        "back": back,
        "consequences": consequences,
        "danger": danger,
        "form": form,
    }
    return render(request, "confirm.html", context, status=422 if form is not None and form.errors else 200)


def delete(request: HttpRequest, thing: Model, *, noun: str, back: str, explanation: str) -> HttpResponse:
    """Deletes a piece of configuration after asking."""
    if request.method == "POST":
        name = str(thing)
        delete_configuration(thing=thing, noun=noun, actor=actor_of(request), at=timezone.now())
        messages.success(request, f"“{name}” is deleted.")
        return redirect(back)
    return confirm(request, title=f"Delete “{thing}”?", explanation=explanation, verb="Delete", back=back)
