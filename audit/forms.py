"""What a reviewer may ask of the log."""

from __future__ import annotations

from typing import Any

from django import forms

from audit.sentences import kind_in_words
from audit.services import kinds_present


class FilterForm(forms.Form):
    text = forms.CharField(label="Search", required=False, max_length=200)
    kind = forms.ChoiceField(label="What", required=False)
    subject = forms.CharField(label="About", required=False, max_length=200)
    actor = forms.CharField(label="By", required=False, max_length=200)
    since = forms.DateTimeField(
        label="From", required=False, widget=forms.DateTimeInput({"type": "datetime-local"}, "%Y-%m-%dT%H:%M")
    )
    until = forms.DateTimeField(
        label="Before",
        required=False,
        widget=forms.DateTimeInput({"type": "datetime-local"}, "%Y-%m-%dT%H:%M"),
    )
    door = forms.UUIDField(required=False, widget=forms.HiddenInput)  # the one whom a link follows

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        present = kinds_present()
        families = sorted({kind.partition(".")[0] for kind in present})
        field = self.fields["kind"]
        assert isinstance(field, forms.ChoiceField)
        field.choices = [
            ("", "Everything"),
            *((family, f"{kind_in_words(family)}: all") for family in families),
            *((kind, kind_in_words(kind)) for kind in present),
        ]

    def filters(self) -> dict[str, Any]:
        """For `services.find_entries`. Call after `is_valid`."""
        return {name: value for name, value in self.cleaned_data.items() if value and name != "door"}


class ExportForm(forms.Form):
    format = forms.ChoiceField(choices=[("json", "JSON"), ("csv", "CSV")])
    with_personal = forms.BooleanField(label="With personal fields, readable", required=False)
