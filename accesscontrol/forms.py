"""What people may type about doors, rules and users. Forms check shape; services keep the rules."""

from __future__ import annotations

import uuid
import zoneinfo
from datetime import date, datetime, time, timedelta
from functools import cache
from typing import Any
from urllib.parse import urlencode

from django import forms
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.core.exceptions import ValidationError
from django.db.models import Q, QuerySet
from django.forms.utils import flatatt
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe

from accesscontrol.models import (
    AccessGroup,
    AccessRule,
    Door,
    Holiday,
    Schedule,
    Site,
    Terminal,
    Zone,
)
from accesscontrol.reports import PERIODS
from accesscontrol.roles import ROLE_EXPLANATIONS, Role
from enrollment.models import Person

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
INTERVALS_PER_DAY = 3


@cache
def _zones() -> list[tuple[str, str]]:
    return [
        (name, name.replace("_", " "))
        for name in sorted(zoneinfo.available_timezones())
        if "/" in name or name == "UTC"
    ]


class LongSelect(forms.Select):
    """A select of hundreds of options, written at once: Django's own renders a template for each of them."""

    def render(self, name: str, value: Any, attrs: Any = None, renderer: Any = None) -> SafeString:
        chosen = "" if value is None else str(value)
        options = format_html_join(
            "",
            '<option value="{}"{}>{}</option>',
            (
                (key, mark_safe(" selected") if str(key) == chosen else "", label)
                for key, label in self.choices
            ),
        )
        attributes = flatatt(self.build_attrs(self.attrs, {"name": name, **(attrs or {})}))
        return format_html("<select{}>{}</select>", attributes, options)


def _choice(form: forms.BaseForm, name: str) -> Any:
    """A field whose choices are known only when the form is made."""
    return form.fields[name]


def _place(door: Door) -> str:
    return f"{door.name} ({door.site.name})"


class LocalMoment(forms.DateTimeField):
    """A date and time as the browser's own control writes it, read in the reader's time zone."""

    widget = forms.DateTimeInput(attrs={"type": "datetime-local"}, format="%Y-%m-%dT%H:%M")

    def __init__(self, **arguments: Any) -> None:
        super().__init__(input_formats=["%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M"], **arguments)


class NamedForm(forms.ModelForm[Any]):
    """A row that people know by its name; says in words that another has it. The database says it too, in its own."""

    noun: str
    among = ""  # where the name must be the only one, if not everywhere

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        name = data.get("name")
        if name and self.namesakes(data).filter(name=name).exclude(pk=self.instance.pk).exists():
            self.add_error(
                "name", f"There is already a {self.noun} called {name}{self.among}. Choose another name."
            )
        return data

    def namesakes(self, data: dict[str, Any]) -> QuerySet[Any]:
        """The rows among which the name must be the only one."""
        return self._meta.model._default_manager.all()


class CodeForm(forms.Form):
    code = forms.CharField(
        label="Code",
        max_length=20,
        widget=forms.TextInput(
            attrs={"autocomplete": "one-time-code", "autofocus": True, "spellcheck": "false"}
        ),
        help_text="Six digits from the authenticator, or a recovery code such as 1a2b3c-4d5e6f.",
    )

    def clean_code(self) -> str:
        return "".join(self.cleaned_data["code"].split()).lower()


class TimeZoneForm(forms.Form):
    zone = forms.ChoiceField(
        label="Show times in",
        required=False,
        widget=LongSelect,
        help_text="Applies to this browser. The doors always follow the zone of their site.",
    )

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        _choice(self, "zone").choices = [("", "the time zone of the site"), *_zones()]


class SiteForm(NamedForm):
    noun = "site"
    timezone = forms.ChoiceField(
        label="Time zone",
        widget=LongSelect,
        help_text="Schedules and holidays of this site follow this clock.",
    )

    class Meta:
        model = Site
        fields = ("name", "timezone")

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        _choice(self, "timezone").choices = _zones()
        if not self.instance.pk:
            self.initial["timezone"] = timezone.get_current_timezone_name()


class ZoneForm(NamedForm):
    noun, among = "zone", " at this site"

    class Meta:
        model = Zone
        fields = ("name", "anti_passback")
        labels = {"anti_passback": "Refuse a second entry until the person has left (anti-passback)"}

    def namesakes(self, data: dict[str, Any]) -> QuerySet[Any]:
        return Zone.objects.filter(site=self.instance.site_id)


class DoorForm(NamedForm):
    noun, among = "door", " at this site"

    class Meta:
        model = Door
        fields = ("name", "site", "zone", "asks_for", "is_active")
        labels = {
            "is_active": "Switched on",
            "zone": "Zone behind the door",
            "asks_for": "How people identify themselves",
        }
        help_texts = {
            "is_active": "A door that is switched off opens for nobody.",
            "asks_for": "PINs and cards are given on a person's page. Whoever does not agree to face recognition "
            "needs a door that takes a card and its PIN.",
        }

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        _choice(self, "site").empty_label = "choose a site"
        _choice(self, "zone").empty_label = "none: it leads out"
        _choice(self, "zone").queryset = Zone.objects.select_related("site")
        _choice(self, "zone").label_from_instance = lambda zone: f"{zone.name} ({zone.site.name})"

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        site, zone = data.get("site"), data.get("zone")
        if site and zone and zone.site_id != site.pk:
            self.add_error(
                "zone", f"{zone.name} belongs to another site. Choose a zone of {site.name}, or none."
            )
        return data

    def namesakes(self, data: dict[str, Any]) -> QuerySet[Any]:
        return Door.objects.filter(site=data.get("site"))


class TerminalForm(NamedForm):
    noun = "terminal"

    class Meta:
        model = Terminal
        fields = ("name", "role", "door")
        labels = {"role": "Where it stands", "door": "Door it opens"}
        help_texts = {"door": "A desk terminal needs none; a door terminal needs one."}

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        doors = _choice(self, "door")
        doors.empty_label = "none"
        doors.queryset = Door.objects.select_related("site").order_by("site__name", "name")
        doors.label_from_instance = _place

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        if data.get("role") == "door" and not data.get("door"):
            self.add_error("door", "Choose the door that this terminal opens, or make it a desk terminal.")
        return data


class ReasonForm(forms.Form):
    """The second click of a lock-down: a reason that the audit log keeps."""

    reason = forms.CharField(
        label="Reason",
        max_length=200,
        widget=forms.TextInput(attrs={"autofocus": True, "autocomplete": "off"}),
        help_text="A few words for whoever reads the log: “smoke on the second floor”, “drill”.",
    )


class HolidayForm(forms.ModelForm[Holiday]):
    class Meta:
        model = Holiday
        fields = ("date", "name")
        widgets = {"date": forms.DateInput(attrs={"type": "date"}, format="%Y-%m-%d")}

    def clean_date(self) -> Any:
        date = self.cleaned_data["date"]
        if Holiday.objects.filter(site=self.instance.site_id, date=date).exists():
            raise ValidationError("This day is a holiday of the site already.")
        return date


class ScheduleForm(NamedForm):
    """A week of permitted hours: up to three stretches a day, each a pair of time controls.

    `weekly` is stored as [{"day": 0, "from": "07:00", "to": "19:00"}], Monday being 0; "24:00" ends a day,
    and an end before its beginning lies on the next day.
    """

    noun = "schedule"

    class Meta:
        model = Schedule
        fields = ("name",)

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        stored: dict[int, list[dict[str, str]]] = {day: [] for day in range(7)}
        for interval in self.instance.weekly or []:
            stored[interval["day"]].append(interval)
        for day, name in enumerate(DAYS):
            for slot in range(INTERVALS_PER_DAY):
                known = stored[day][slot] if slot < len(stored[day]) else {"from": "", "to": ""}
                for end, words in (("from", "from"), ("to", "until")):
                    label = f"{name}, stretch {slot + 1}, {words}"
                    self.fields[f"{end}_{day}_{slot}"] = forms.CharField(
                        required=False,
                        label=label,
                        initial="00:00"
                        if known[end] == "24:00"
                        else known[end],  # how the browser writes midnight
                        widget=forms.TimeInput(attrs={"type": "time", "aria-label": label}),
                    )

    def days(self) -> list[dict[str, Any]]:
        """The week for the template: each day with its pairs of bound fields and the errors of that day."""
        return [
            {
                "name": name,
                "slots": [
                    {"from": self[f"from_{day}_{slot}"], "to": self[f"to_{day}_{slot}"]}
                    for slot in range(INTERVALS_PER_DAY)
                ],
                "errors": [
                    error for slot in range(INTERVALS_PER_DAY) for error in self[f"from_{day}_{slot}"].errors
                ],
            }
            for day, name in enumerate(DAYS)
        ]

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        weekly: list[dict[str, Any]] = []
        for day, name in enumerate(DAYS):
            previous_end: str | None = None
            stretches = sorted(
                (data.get(f"from_{day}_{slot}", ""), data.get(f"to_{day}_{slot}", ""), slot)
                for slot in range(INTERVALS_PER_DAY)
            )
            for start, end, slot in stretches:
                if not start and not end:
                    continue
                problem = _problem(name, start, end, previous_end)
                if problem:
                    self.add_error(f"from_{day}_{slot}", problem)
                    continue
                end = "24:00" if end == "00:00" else end
                weekly.append({"day": day, "from": start, "to": end})
                previous_end = end if start < end else "24:00"
        if not weekly and not self.errors:
            self.add_error(
                None, "A schedule without any hours would open for nobody. Enter at least one stretch."
            )
        self.instance.weekly = weekly
        return data


def _problem(day: str, start: str, end: str, previous_end: str | None) -> str | None:
    """Why this stretch of `day` cannot be, in words; None when it can. Times compare as HH:MM text."""
    if not start or not end:
        return f"{day}: enter both a beginning and an end, or neither."
    try:
        time.fromisoformat(start)
        time.fromisoformat(end)
    except ValueError:
        return f"{day}: write times as 07:30."
    if start == end != "00:00":
        return f"{day}: {start} to {end} has no length."
    if previous_end and start < previous_end:
        return f"{day}: {start} lies inside the stretch that ends at {previous_end}."
    return None


class GroupForm(NamedForm):
    noun = "group"

    class Meta:
        model = AccessGroup
        fields = ("name",)


class RuleForm(NamedForm):
    noun = "rule"
    valid_from = LocalMoment(label="From", required=False)
    valid_until = LocalMoment(label="Until", required=False)

    class Meta:
        model = AccessRule
        fields = ("name", "group", "doors", "schedule", "valid_from", "valid_until", "is_active")
        labels = {"group": "Who", "doors": "Which doors", "schedule": "When", "is_active": "In force"}
        widgets = {"doors": forms.CheckboxSelectMultiple}
        help_texts = {"schedule": "Without a schedule the rule holds at any hour, holidays included."}

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        _choice(self, "schedule").empty_label = "always"
        _choice(self, "group").empty_label = "choose a group"
        self.fields["doors"].required = True
        self.fields["doors"].error_messages["required"] = (
            "Choose at least one door, or the rule opens nothing."
        )
        _choice(self, "doors").queryset = Door.objects.select_related("site").order_by("site__name", "name")
        _choice(self, "doors").label_from_instance = _place

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        first, last = data.get("valid_from"), data.get("valid_until")
        if first and last and last <= first:
            self.add_error("valid_until", "The end must be later than the beginning.")
        return data


class WallClock(forms.Field):
    """A date and time as a clock on some wall shows it: read without a zone, which the caller knows."""

    widget = forms.DateTimeInput(attrs={"type": "datetime-local"}, format="%Y-%m-%dT%H:%M")

    def to_python(self, value: Any) -> datetime | None:
        if value in self.empty_values:
            return None
        try:
            return datetime.fromisoformat(str(value)).replace(tzinfo=None)
        except ValueError:
            raise ValidationError("Enter a date and a time, such as 2026-11-28 07:00.") from None


class EntryQuestionForm(forms.Form):
    """`Who may enter this door then?` The hour is one of the clock at the door."""

    door = forms.ModelChoiceField(queryset=Door.objects.none(), empty_label="choose a door")
    at = WallClock(label="When, on the clock of the site")
    answer = forms.ChoiceField(
        label="Show",
        required=False,
        choices=[("", "everybody"), ("may", "who may enter"), ("refused", "who is refused")],
    )

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        _choice(self, "door").queryset = Door.objects.select_related("site").order_by("site__name", "name")
        _choice(self, "door").label_from_instance = _place


class DoorHourForm(forms.Form):
    """The same question on the page of a door: one of the coming days, by name, and an hour."""

    day = forms.ChoiceField(label="Day")
    hour = forms.TimeField(
        label="Time", widget=forms.TimeInput(attrs={"type": "time"}, format="%H:%M"), input_formats=["%H:%M"]
    )

    def __init__(self, *arguments: Any, first: date, days: int, **named: Any) -> None:
        super().__init__(*arguments, **named)
        known = [first + timedelta(days=number) for number in range(days)]
        _choice(self, "day").choices = [
            (day.isoformat(), f"{'today' if day == first else f'{day:%A}'}, {day.day} {day:%B}")
            for day in known
        ]

    def moment(self, zone: zoneinfo.ZoneInfo) -> datetime:
        """Call after `is_valid`."""
        return datetime.combine(date.fromisoformat(self.cleaned_data["day"]), self.cleaned_data["hour"], zone)


OUTCOMES = [("", "any"), ("granted", "let in"), ("refused", "refused"), ("pending", "not decided yet")]


class LiveFilterForm(forms.Form):
    """What the live page leaves out."""

    q = forms.CharField(
        label="Person", required=False, max_length=100, widget=forms.TextInput(attrs={"type": "search"})
    )
    door = forms.ModelChoiceField(queryset=Door.objects.none(), required=False, empty_label="any door")
    outcome = forms.ChoiceField(label="Decision", required=False, choices=OUTCOMES)

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        _choice(self, "door").queryset = Door.objects.select_related("site").order_by("site__name", "name")
        _choice(self, "door").label_from_instance = _place


class AttemptFilterForm(forms.Form):
    q = forms.CharField(label="Person", required=False, max_length=100)
    person = forms.ModelChoiceField(
        queryset=Person.objects.all(), required=False, widget=forms.HiddenInput()
    )  # the one whom a link follows; names are not unique
    door = forms.ModelChoiceField(
        queryset=Door.objects.select_related("site").order_by("site__name", "name"),
        required=False,
        empty_label="any door",
    )
    outcome = forms.ChoiceField(label="Decision", required=False, choices=OUTCOMES)
    reason = forms.ChoiceField(required=False)
    day = forms.DateField(required=False, widget=forms.DateInput(attrs={"type": "date"}))

    def __init__(self, *arguments: Any, reasons: list[tuple[str, str]], **named: Any) -> None:
        super().__init__(*arguments, **named)
        _choice(self, "reason").choices = [("", "any reason"), *reasons]
        _choice(self, "door").label_from_instance = _place


class ReportForm(forms.Form):
    days = forms.TypedChoiceField(
        label="Period",
        coerce=int,
        choices=[(1, "today"), *((days, f"the last {days} days") for days in PERIODS if days > 1)],
    )
    door = forms.ModelChoiceField(queryset=Door.objects.none(), required=False, empty_label="all doors")

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        _choice(self, "door").queryset = Door.objects.select_related("site").order_by("site__name", "name")
        _choice(self, "door").label_from_instance = _place


class RetentionForm(forms.Form):
    """How long to keep what. Both counts are of days since something ended."""

    people_days = forms.IntegerField(
        label="Erase people",
        min_value=0,
        max_value=36_500,
        initial=30,
        help_text="Days after their validity ended. People without an end are never erased by this.",
    )
    enrollments_days = forms.IntegerField(
        label="Delete records of enrollments",
        min_value=0,
        max_value=36_500,
        initial=365,
        help_text="Days after they ended. Records whose templates are in use stay.",
    )

    def as_query(self) -> str:
        return urlencode(self.cleaned_data)

    def hidden(self) -> RetentionForm:
        """The same answers, for a page that only asks whether."""
        for field in self.fields.values():
            field.widget = forms.HiddenInput()
        return self


class UserForm(forms.ModelForm[Any]):
    roles = forms.MultipleChoiceField(
        required=False,
        widget=forms.CheckboxSelectMultiple,
        choices=[(role.value, f"{role.value.capitalize()}: {ROLE_EXPLANATIONS[role]}") for role in Role],
        help_text="A user without a role can sign in and change the password, nothing else.",
    )

    class Meta:
        model = get_user_model()
        fields = ("username", "first_name", "last_name", "email", "is_active")
        labels = {"is_active": "May sign in", "username": "User name"}
        help_texts = {
            "username": "What they type to sign in.",
            "is_active": "Take this away instead of deleting.",
        }
        error_messages = {"username": {"unique": "There is already a user of this name. Choose another one."}}

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        if self.instance.pk:
            self.initial["roles"] = list(self.instance.groups.values_list("name", flat=True))
        else:
            del self.fields["is_active"]

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        steps_down = Role.ADMINISTRATOR not in data.get("roles", []) or not data.get("is_active", True)
        if (
            steps_down
            and self.instance.pk
            and _administers(self.instance)
            and not _others(self.instance).exists()
        ):
            self.add_error(None, "This is the last administrator. Make someone else an administrator first.")
        return data

    def _save_m2m(self) -> None:
        super()._save_m2m()  # type: ignore[misc]  # the stubs leave it out
        self.instance.groups.set(
            [Group.objects.get_or_create(name=name)[0] for name in self.cleaned_data["roles"]]
        )


def _others(user: Any) -> QuerySet[Any]:
    holds = Q(is_superuser=True) | Q(groups__name=Role.ADMINISTRATOR)
    return get_user_model().objects.filter(holds, is_active=True).exclude(pk=user.pk)


def _administers(user: Any) -> bool:
    return bool(user.is_superuser or user.groups.filter(name=Role.ADMINISTRATOR).exists())


class TokenForm(forms.Form):
    """A token for a connected system; the choices come from the API's own list of scopes."""

    name = forms.CharField(max_length=100, help_text="Which system will use it: “visitor desk”, “HR import”.")
    scopes = forms.MultipleChoiceField(
        label="May", widget=forms.CheckboxSelectMultiple, help_text="Grant the least that the system needs."
    )

    def __init__(self, *arguments: Any, scopes: list[tuple[str, str]], **named: Any) -> None:
        super().__init__(*arguments, **named)
        _choice(self, "scopes").choices = scopes


class EnrollmentForm(forms.Form):
    """Which camera takes the captures, how many, and what becomes of the templates there are."""

    REPLACE, ADD = "replace", "add"
    BROWSER = "browser"
    terminal = forms.ChoiceField(label="Camera")
    captures_wanted = forms.IntegerField(
        label="Captures",
        min_value=1,
        max_value=10,
        initial=3,
        help_text="Three are usual. More make recognition steadier in changing light.",
    )
    templates = forms.ChoiceField(
        label="The templates there are",
        choices=[
            (REPLACE, "Replace them: the person looks different now"),
            (ADD, "Keep them and add to them: other light, with glasses, with a beard"),
        ],
        initial=REPLACE,
        widget=forms.RadioSelect,
    )

    def __init__(self, *arguments: Any, enrolled: bool = False, **named: Any) -> None:
        super().__init__(*arguments, **named)
        working = Terminal.objects.filter(state=Terminal.State.ACTIVE).order_by("-role", "name")
        _choice(self, "terminal").choices = [
            (self.BROWSER, "this device’s camera"),
            *((str(one.pk), f"{one.name} ({one.get_role_display().lower()})") for one in working),
        ]
        if not enrolled:
            del self.fields["templates"]

    @property
    def terminal_id(self) -> uuid.UUID | None:
        """None: this browser takes the captures. Call after `is_valid`."""
        chosen = self.cleaned_data["terminal"]
        return None if chosen == self.BROWSER else uuid.UUID(chosen)

    @property
    def adds(self) -> bool:
        return bool(self.cleaned_data.get("templates") == self.ADD)
