"""A roster: people in a CSV file. First it is read and judged, row by row, and nothing changes; then everybody in it is
registered in one transaction, or nobody is.

Which groups there are, and how one joins them, is another app's to know: LINTEL_MEMBERSHIP names the module with
`group_names` and `join_groups`.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, time, timedelta, tzinfo
from importlib import import_module
from typing import Any

from django.conf import settings
from django.db import transaction
from django.utils import timezone
from django.utils.dateparse import parse_date, parse_datetime

import audit.services
from audit.verify_export import escape_cell
from enrollment import services
from enrollment.invitations import LIFETIME, Issued, issue_invitation, link_to
from enrollment.models import Person
from enrollment.services import EnrollmentRefused

DEFAULT_MEMBERSHIP = "accesscontrol.membership"
MAX_ROWS = 2000  # a file beyond this is two files; each row is several queries and an audit entry
MAX_CONTACT = 254

#: Column -> what the first line may call it. Capitals, blanks and hyphens do not matter.
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "full_name": ("full_name", "name"),
    "external_id": ("external_id", "reference", "number"),
    "email": ("email", "e_mail", "mail"),
    "phone": ("phone", "telephone", "mobile"),
    "kind": ("kind",),
    "groups": ("groups", "group"),
    "valid_from": ("valid_from", "from"),
    "valid_until": ("valid_until", "valid_to", "until", "to"),
}
EXAMPLE = (
    "name,reference,email,phone,kind,groups,valid_from,valid_until\n"
    "Ada Example,E-1815,ada@example.org,,employee,Staff,,\n"
    '"Visitor, Bo",,,+43 660 0000000,visitor,Visitors|Ground floor,2027-01-11,2027-01-12\n'
)


LINK_COLUMNS = ("name", "reference", "contact", "expires", "link")


@dataclass(frozen=True)
class RowError:
    line: int  # of the file, the header being line 1
    message: str


@dataclass(frozen=True)
class Row:
    line: int
    person: dict[str, Any]  # arguments of services.register_person
    groups: tuple[str, ...] = ()
    contact: str = ""
    note: str = ""  # worth a look, and no error

    @property
    def kind_name(self) -> str:
        return str(Person.Kind(self.person["kind"]).label)


@dataclass(frozen=True)
class Roster:
    rows: list[Row] = field(default_factory=list)
    errors: list[RowError] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        return bool(self.rows) and not self.errors


@dataclass(frozen=True)
class Registered:
    row: Row
    person: Person
    invitation: Issued | None


class RosterRefused(Exception):
    """Nobody was registered; `errors` says why, by line."""

    def __init__(self, errors: Sequence[RowError]) -> None:
        super().__init__(f"{len(errors)} lines are wrong")
        self.errors = list(errors)


def read_roster(lines: Iterable[str], *, zone: tzinfo, at: datetime) -> Roster:
    """Every row of the file, or what is wrong with it, judged against the people and groups there are now.

    A day without a clock time is a whole day in `zone`: validity begins at its start and ends at its end.
    """
    text = list(lines)
    delimiter = _delimiter(text[0]) if text else ","
    reader = csv.reader(text, delimiter=delimiter, strict=True)
    try:
        columns = _columns(next(reader, []))
    except ValueError as error:
        return Roster(errors=[RowError(1, str(error))])
    except csv.Error as error:
        return Roster(errors=[RowError(reader.line_num or 1, f"this is not CSV: {error}")])
    known_groups = {name.casefold(): name for name in _membership().group_names()}
    rows: list[Row] = []
    errors: list[RowError] = []
    seen: dict[str, int] = {}
    while True:
        try:
            cells = next(reader, None)
            if cells is None:
                break
            if not any(cell.strip() for cell in cells):
                continue
            if len(rows) + len(errors) >= MAX_ROWS:
                errors.append(RowError(reader.line_num, f"a file has at most {MAX_ROWS} people; split it"))
                break
            row = _row(reader.line_num, cells, columns, known_groups, zone=zone, at=at)
            external_id = row.person["external_id"]
            if external_id and external_id in seen:
                raise ValueError(f"the reference {external_id} stands in line {seen[external_id]} already")
            seen[external_id] = row.line
            rows.append(row)
        except (EnrollmentRefused, ValueError) as error:
            errors.append(RowError(reader.line_num, str(error)))
        except csv.Error as error:
            errors.append(RowError(reader.line_num, f"this is not CSV: {error}"))
            break
    if not rows and not errors:
        errors.append(RowError(1, "there is nobody below the first line"))
    return Roster(rows, errors)


def register_roster(
    *, roster: Roster, actor: str, at: datetime, invite: bool = False, lifetime: timedelta = LIFETIME
) -> list[Registered]:
    """Registers everybody, with groups and, if wanted, an invitation each. One transaction: all of them, or
    RosterRefused."""
    if not roster.is_good:
        raise RosterRefused(roster.errors or [RowError(1, "there is nobody in this file")])
    done: list[Registered] = []
    errors: list[RowError] = []
    with transaction.atomic():
        for row in roster.rows:
            try:
                with transaction.atomic():
                    person = services.register_person(**row.person, actor=actor, at=at)
                    _membership().join_groups(person=person, names=row.groups, actor=actor, at=at)
                    issued = (
                        issue_invitation(
                            person=person, contact=row.contact, actor=actor, at=at, lifetime=lifetime
                        )
                        if invite
                        else None
                    )
                done.append(Registered(row, person, issued))
            except (EnrollmentRefused, ValueError) as error:
                errors.append(RowError(row.line, str(error)))
        if errors:
            transaction.set_rollback(True)
        else:
            audit.services.record(
                kind="people.imported", actor=actor, at=at, details={"people": len(done), "invited": invite}
            )
    if errors:
        raise RosterRefused(errors)
    return done


def link_row(issued: Issued, *, base: str) -> tuple[str, ...]:
    """One row of LINK_COLUMNS. Cells never begin like a formula."""
    person, invitation = issued.invitation.person, issued.invitation
    expires = timezone.localtime(invitation.expires_at)
    cells = (person.full_name, person.external_id or "", invitation.contact, f"{expires:%Y-%m-%d %H:%M}")
    return (*(escape_cell(cell) for cell in cells), link_to(issued, base=base))


def _delimiter(first: str) -> str:
    """Spreadsheets of half of Europe write semicolons."""
    return max((",", ";", "\t"), key=first.count)


def _columns(header: Sequence[str]) -> list[str]:
    names = {alias: column for column, aliases in COLUMNS.items() for alias in aliases}
    written = [re.sub(r"[\s-]+", "_", name.strip().lstrip("\ufeff").lower()) for name in header]
    unknown = [name.strip() for name, key in zip(header, written, strict=True) if key not in names]
    columns = [names.get(key, "") for key in written]
    if unknown or "full_name" not in columns:
        known = ", ".join(
            aliases[-1] if column == "full_name" else column for column, aliases in COLUMNS.items()
        )
        what = f"; it has {', '.join(repr(name) for name in unknown)}" if unknown else ""
        raise ValueError(f"the first line must name columns out of: {known} (name at least){what}")
    if len(set(columns)) != len(columns):
        raise ValueError("the first line names one column twice")
    return columns


def _row(
    line: int,
    cells: Sequence[str],
    columns: Sequence[str],
    known_groups: Mapping[str, str],
    *,
    zone: tzinfo,
    at: datetime,
) -> Row:
    if len(cells) > len(columns):
        raise ValueError("more values than columns")
    values = dict.fromkeys(COLUMNS, "")
    values |= {column: cell.strip() for column, cell in zip(columns, cells, strict=False)}
    if any("\x00" in value for value in values.values()):
        raise ValueError("a value holds a character that is no text")
    if not values["full_name"]:
        raise ValueError("the name is blank")
    person: dict[str, Any] = {
        "full_name": " ".join(values["full_name"].split()),
        "external_id": values["external_id"] or None,
        "email": values["email"],
        "kind": values["kind"].lower() or Person.Kind.EMPLOYEE.value,
        "valid_from": _moment(values["valid_from"], "valid_from", zone=zone),
        "valid_until": _moment(values["valid_until"], "valid_until", zone=zone, ends=True),
    }
    if person["valid_until"] is not None and person["valid_until"] <= at:
        raise ValueError("valid until lies in the past")
    if person["valid_until"] is not None and person["valid_until"] <= (person["valid_from"] or at):
        raise ValueError("valid until lies before valid from")
    services.check_person(Person(**{**person, "valid_from": person["valid_from"] or at}))
    phone = values["phone"]
    if len(phone) > MAX_CONTACT or (phone and not re.fullmatch(r"\+?[0-9][0-9 ()/.-]{3,}", phone)):
        raise ValueError(f"phone: {phone!r} is not a phone number")
    known = Person.objects.filter(full_name__iexact=person["full_name"]).exists()
    return Row(
        line=line,
        person=person,
        groups=_groups(values["groups"], known_groups),
        contact=values["email"] or phone,
        note="Somebody of this name is on record already." if known else "",
    )


def _groups(text: str, known: Mapping[str, str]) -> tuple[str, ...]:
    wanted = [name.strip() for name in re.split(r"[|;]", text) if name.strip()]
    unknown = [name for name in wanted if name.casefold() not in known]
    if unknown:
        raise ValueError(f"there is no group {', '.join(repr(name) for name in unknown)}; make it first")
    return tuple(dict.fromkeys(known[name.casefold()] for name in wanted))


def _moment(text: str, name: str, *, zone: tzinfo, ends: bool = False) -> datetime | None:
    """ISO 8601, or a day as 31.12.2026."""
    if not text:
        return None
    if found := re.fullmatch(r"(\d{1,2})\.(\d{1,2})\.(\d{4})", text):
        text = f"{found[3]}-{found[2]:0>2}-{found[1]:0>2}"
    try:
        if day := parse_date(text):
            return datetime.combine(day + timedelta(days=1 if ends else 0), time(), tzinfo=zone)
        moment = parse_datetime(text)
    except (ValueError, OverflowError):
        moment = None
    if moment is None:
        raise ValueError(f"{name.replace('_', ' ')}: {text!r} is not a date such as 2026-12-31")
    return moment if moment.tzinfo else moment.replace(tzinfo=zone)


def _membership() -> Any:
    return import_module(getattr(settings, "LINTEL_MEMBERSHIP", DEFAULT_MEMBERSHIP))
