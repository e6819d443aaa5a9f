"""What people at the desk type about other people. Forms check shape; services keep the rules."""

from __future__ import annotations

from typing import Any

from django import forms
from django.utils import timezone

from enrollment.languages import ConsentText
from enrollment.models import Consent, Person
from enrollment.pins import PIN_LEAST, PIN_MOST, pin_problem, read_card_number
from enrollment.services import MAX_REASON


class LocalMoment(forms.DateTimeField):
    """A date and time as the browser's own control writes it, read in the reader's time zone."""

    widget = forms.DateTimeInput(attrs={"type": "datetime-local"}, format="%Y-%m-%dT%H:%M")

    def __init__(self, **arguments: Any) -> None:
        super().__init__(input_formats=["%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M"], **arguments)


class PersonForm(forms.ModelForm[Person]):
    valid_from = LocalMoment(label="Valid from", required=False, help_text="Empty means from now on.")
    valid_until = LocalMoment(label="Valid until", required=False, help_text="Empty means without end.")

    class Meta:
        model = Person
        fields = ("full_name", "kind", "email", "external_id", "valid_from", "valid_until", "is_active")
        labels = {"full_name": "Full name", "external_id": "Number elsewhere", "is_active": "Switched on"}
        help_texts = {
            "external_id": "The number this person has in another system, such as a badge or staff number.",
            "is_active": "A person who is switched off is recognised and refused.",
        }
        widgets = {"full_name": forms.TextInput(attrs={"autocomplete": "off", "autofocus": True})}

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        if self.instance._state.adding:
            del self.fields["is_active"]
            self.initial["valid_from"] = None

    def clean_full_name(self) -> str:
        return " ".join(self.cleaned_data["full_name"].split())

    def clean_valid_from(self) -> Any:
        if self.cleaned_data["valid_from"]:
            return self.cleaned_data["valid_from"]
        return timezone.now() if self.instance._state.adding else self.instance.valid_from

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        first, last = data.get("valid_from"), data.get("valid_until")
        if first and last and last <= first:
            self.add_error("valid_until", "The end must be later than the beginning.")
        return data


class ConsentForm(forms.Form):
    """How somebody agreed, and to which version. The text itself is ours, never what the browser sends back."""

    method = forms.ChoiceField(
        label="How it was given", choices=Consent.Method.choices, initial=Consent.Method.SIGNED
    )
    agreed = forms.BooleanField(
        error_messages={"required": "Without the person's agreement nothing can be recorded."}
    )
    version = forms.CharField(required=False, max_length=50)

    def __init__(self, *arguments: Any, shown: ConsentText, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.shown = shown
        self.fields["agreed"].label = shown.agreement

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        if data.get("version") != self.shown.version:
            # the tick was for the words before
            self.data = {name: value for name, value in self.data.items() if name != "agreed"}
            raise forms.ValidationError(
                "The text was changed while it was read. Read it as it stands now, then go on."
            )
        return data


class DifferentPersonForm(forms.Form):
    """Why a face that looks like somebody else's is another person's all the same."""

    reason = forms.CharField(
        label="Why are they two different people?",
        max_length=MAX_REASON,
        widget=forms.TextInput(attrs={"autocomplete": "off"}),
        help_text="For example: identical twins, both showed a passport. It is kept in the audit log.",
        error_messages={"required": "Without a reason nobody can check this decision later."},
    )


class EraseForm(forms.Form):
    """Typing the name is the second thought before something that cannot be undone."""

    name = forms.CharField(
        label="Type the person's full name to confirm",
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
    )

    def __init__(self, *arguments: Any, person: Person, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.person = person

    def clean_name(self) -> str:
        typed = " ".join(self.cleaned_data["name"].split())
        if typed.casefold() != self.person.full_name.casefold():
            raise forms.ValidationError(f"That is not the name. Type “{self.person.full_name}” or cancel.")
        return typed


class PinForm(forms.Form):
    """The person types it; what was typed is never shown again, not even after a mistake."""

    pin = forms.CharField(
        label="PIN",
        max_length=16,
        strip=False,
        widget=forms.PasswordInput(
            attrs={"inputmode": "numeric", "autocomplete": "new-password", "autofocus": True}
        ),
        help_text=f"{PIN_LEAST} to {PIN_MOST} digits, typed by the person. Nobody can read it afterwards.",
    )
    again = forms.CharField(
        label="The same again",
        max_length=16,
        strip=False,
        widget=forms.PasswordInput(attrs={"inputmode": "numeric", "autocomplete": "new-password"}),
    )

    def clean_pin(self) -> str:
        pin: str = self.cleaned_data["pin"]
        if problem := pin_problem(pin):
            raise forms.ValidationError(problem)
        return pin

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        if "pin" in data and "again" in data and data["pin"] != data["again"]:
            self.add_error("again", "The two are not the same. Type both once more.")
        return data


class CardForm(forms.Form):
    number = forms.CharField(
        label="Card number",
        max_length=64,
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false", "autofocus": True}),
        help_text="Hold the card to a reader that types, or copy the number from the card. Only its last four "
        "characters can be read afterwards.",
    )

    def clean_number(self) -> str:
        try:
            return read_card_number(self.cleaned_data["number"])
        except ValueError as error:
            raise forms.ValidationError(str(error)) from error


class PeopleFilterForm(forms.Form):
    STATUS = (
        ("", "any status"),
        ("enrolled", "enrolled"),
        ("not_enrolled", "not enrolled yet"),
        ("no_consent", "no consent"),
        ("inactive", "switched off"),
        ("expired", "no longer valid"),
    )
    q = forms.CharField(
        label="Search",
        required=False,
        max_length=100,
        widget=forms.TextInput(attrs={"type": "search", "placeholder": "name, e-mail or number"}),
    )
    kind = forms.ChoiceField(required=False, choices=[("", "everybody"), *Person.Kind.choices])
    status = forms.ChoiceField(required=False, choices=STATUS)
