"""A roster: people in a CSV file. First it is read and judged, row by row, and nothing changes; then everybody in it is
registered in one transaction, or nobody is.

What is wrong is said by line and column, everything at once: whoever mends a file mends it in one go. A card's number
comes in here and is kept nowhere but as its hash; an error shows its end alone. PINs are never imported.

Which groups there are, and how one joins them, is another app's to know: LINTEL_MEMBERSHIP names the module with
`group_names` and `join_groups`.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, time, timedelta, tzinfo
from importlib import import_module
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils import timezone
from django.utils.dateparse import parse_date, parse_datetime

import audit.services
from audit.verify_export import escape_cell
from enrollment import proofs, services
from enrollment.invitations import LIFETIME, Issued, issue_invitation, link_to
from enrollment.models import Person
from enrollment.pins import CARD_LEAST, CARD_MOST, CARD_SHOWN, read_card_number
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
    "card": ("card", "card_number", "badge"),
    "kind": ("kind",),
    "groups": ("groups", "group"),
    "valid_from": ("valid_from", "from"),
    "valid_until": ("valid_until", "valid_to", "until", "to"),
}
EXAMPLE = (
    "name,reference,email,phone,card,kind,groups,valid_from,valid_until\n"
    "Ada Example,E-1815,ada@example.org,,0048151623,employee,Staff,,\n"
    '"Visitor, Bo",,,+43 660 0000000,,visitor,Visitors|Ground floor,2027-01-11,2027-01-12\n'
)
#: A spreadsheet's way to write a long number, and the end of it: 4.81516E+09.
ROUNDED = re.compile(r"\d+([.,]\d+)?E\+\d+", re.IGNORECASE)
MOST_SHOWN = 40  # characters of a value, in a sentence about it

LINK_COLUMNS = ("name", "reference", "contact", "expires", "link")
ERROR_COLUMNS = ("line", "column", "value", "problem")
#: Which column a refusal of a service is about.
COLUMN_OF_REFUSAL: Mapping[str, str] = {
    "external_id_taken": "external_id",
    "card_taken": "card",
    "card_malformed": "card",
}


@dataclass(frozen=True)
class RowError:
    """One thing that is wrong. `column` is what the file calls it, empty for a whole line; `value` what stands there,
    of a card's number the end alone."""

    line: int  # of the file, the header being line 1
    message: str  # the value's problem, from a small letter on
    column: str = ""
    value: str = ""

    @property
    def sentence(self) -> str:
        where = f"Line {self.line}, column {self.column}" if self.column else f"Line {self.line}"
        return f"{where}: {self.message}."


class RowWrong(Exception):
    """Everything that is wrong with one row."""

    def __init__(self, errors: Sequence[RowError]) -> None:
        super().__init__(f"{len(errors)} values are wrong")
        self.errors = list(errors)


@dataclass(frozen=True)
class Row:
    line: int
    person: dict[str, Any]  # arguments of services.register_person
    groups: tuple[str, ...] = ()
    contact: str = ""
    card: str = field(default="", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)  # column -> what the file calls it
    note: str = ""  # worth a look, and no error

    @property
    def kind_name(self) -> str:
        return str(Person.Kind(self.person["kind"]).label)

    @property
    def card_ends_with(self) -> str:
        return self.card[-CARD_SHOWN:]

    def wrong(self, refusal: EnrollmentRefused | ValueError) -> RowError:
        """What a service said about this row, by the column that it is about."""
        column = COLUMN_OF_REFUSAL.get(getattr(refusal, "code", ""), "")
        value = {"external_id": self.person["external_id"], "card": _end_of(self.card)}.get(column, "")
        return RowError(self.line, _problem(str(refusal)), self.headers.get(column, column), value or "")


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
    """Every row of the file, or all that is wrong with it, judged against the people, cards and groups there are now.

    A day without a clock time is a whole day in `zone`: validity begins at its start and ends at its end.
    """
    text = list(lines)
    delimiter = _delimiter(text[0]) if text else ","
    reader = csv.reader(text, delimiter=delimiter, strict=True)
    try:
        headers = _headers(next(reader, []))
    except RowWrong as wrong:
        return Roster(errors=wrong.errors)
    except csv.Error as error:
        return Roster(errors=[RowError(reader.line_num or 1, f"this is not CSV: {error}")])
    known_groups = {name.casefold(): name for name in _membership().group_names()}
    rows: list[Row] = []
    errors: list[RowError] = []
    seen: dict[tuple[str, str], int] = {}
    count = 0
    while True:
        try:
            cells = next(reader, None)
            if cells is None:
                break
            if not any(cell.strip() for cell in cells):
                continue
            count += 1
            if count > MAX_ROWS:
                errors.append(RowError(reader.line_num, f"a file has at most {MAX_ROWS} people; split it"))
                break
            rows.append(_row(reader.line_num, cells, headers, known_groups, seen, zone=zone, at=at))
        except RowWrong as wrong:
            errors += wrong.errors
        except csv.Error as error:
            errors.append(RowError(reader.line_num, f"this is not CSV: {error}"))
            break
    if not rows and not errors:
        errors.append(RowError(1, "there is nobody below the first line"))
    return Roster(rows, errors)


def register_roster(
    *, roster: Roster, actor: str, at: datetime, invite: bool = False, lifetime: timedelta = LIFETIME
) -> list[Registered]:
    """Registers everybody, with cards, groups and, if wanted, an invitation each. One transaction: all of them, or
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
                    if row.card:
                        proofs.add_card(person=person, number=row.card, actor=actor, at=at)
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
                errors.append(row.wrong(error))
        if errors:
            transaction.set_rollback(True)
        else:
            audit.services.record(
                kind="people.imported",
                actor=actor,
                at=at,
                details={
                    "people": len(done),
                    "cards": sum(bool(each.row.card) for each in done),
                    "invited": invite,
                },
            )
    if errors:
        raise RosterRefused(errors)
    return done


def error_row(error: RowError) -> tuple[str, ...]:
    """One row of ERROR_COLUMNS. No cell begins like a formula, wherever a spreadsheet cuts it."""
    cells = (str(error.line), error.column, error.value, error.sentence)
    return tuple(_harmless(cell) for cell in cells)


def link_row(issued: Issued, *, base: str) -> tuple[str, ...]:
    """One row of LINK_COLUMNS. No cell begins like a formula, wherever a spreadsheet cuts it."""
    person, invitation = issued.invitation.person, issued.invitation
    expires = timezone.localtime(invitation.expires_at)
    cells = (person.full_name, person.external_id or "", invitation.contact, f"{expires:%Y-%m-%d %H:%M}")
    return (*(_harmless(cell) for cell in cells), link_to(issued, base=base))


def _harmless(cell: str) -> str:
    """Where lists are written with semicolons, a spreadsheet cuts a comma's file at semicolons and new lines, quoted or
    not: what follows one is a cell to it and is escaped as such."""
    return "".join(escape_cell(piece) for piece in re.split(r"(?<=[;\t\r\n])", cell))


def _delimiter(first: str) -> str:
    """Spreadsheets of half of Europe write semicolons."""
    return max((",", ";", "\t"), key=first.count)


def _headers(header: Sequence[str]) -> dict[str, str]:
    """Column -> what the first line calls it, in the order of the cells. Raises RowWrong."""
    names = {alias: column for column, aliases in COLUMNS.items() for alias in aliases}
    written = [name.strip().lstrip("\ufeff") for name in header]
    keys = [re.sub(r"[\s-]+", "_", name.lower()) for name in written]
    known = ", ".join(aliases[-1] if column == "full_name" else column for column, aliases in COLUMNS.items())
    errors = []
    for at, (name, key) in enumerate(zip(written, keys, strict=True)):
        if key in ("pin", "pins", "pin_code"):
            why = "PINs are never imported: everybody sets their own at the desk, so take this column out"
            errors.append(RowError(1, why, name, name))
        elif key not in names:
            errors.append(RowError(1, f"there is no column {_quoted(name)}; there are {known}", name, name))
        elif names[key] in [names.get(other) for other in keys[:at]]:
            errors.append(RowError(1, "the first line names this column twice", name, name))
    if "full_name" not in [names.get(key) for key in keys]:
        errors.append(RowError(1, f"the first line must name columns out of {known}, name at least", "name"))
    if errors:
        raise RowWrong(errors)
    return {names[key]: name for name, key in zip(written, keys, strict=True)}


def _row(
    line: int,
    cells: Sequence[str],
    headers: Mapping[str, str],
    known_groups: Mapping[str, str],
    seen: dict[tuple[str, str], int],
    *,
    zone: tzinfo,
    at: datetime,
) -> Row:
    """One person. `seen`: which line had which reference and which card first. Raises RowWrong with all there is."""
    if len(cells) > len(headers):
        # one comma too many moves a card's number to where no column says that it is one
        more = "" if "card" in headers else " ".join(cells[len(headers) :]).strip()
        raise RowWrong([RowError(line, "there are more values than columns", "", more[:MOST_SHOWN])])
    values = dict.fromkeys(COLUMNS, "")
    values |= {column: cell.strip() for column, cell in zip(headers, cells, strict=False)}
    errors: list[RowError] = []

    def wrong(column: str, message: object) -> None:
        value = _end_of(values[column]) if column == "card" else values[column][:MOST_SHOWN]
        errors.append(
            RowError(line, _problem(message), headers.get(column, column), value.replace("\x00", ""))
        )

    def read(column: str, reads: Callable[[str], Any]) -> Any:
        try:
            return reads(values[column])
        except ValueError as error:
            wrong(column, error)
            return None

    for column, value in values.items():
        if "\x00" in value:
            wrong(column, "it holds a character that is no text")
    if errors:
        raise RowWrong(errors)
    if not values["full_name"]:
        wrong("full_name", "the name is blank")
    person: dict[str, Any] = {
        "full_name": " ".join(values["full_name"].split()),
        "external_id": values["external_id"] or None,
        "email": values["email"],
        "kind": values["kind"].lower() or Person.Kind.EMPLOYEE.value,
        "valid_from": read("valid_from", lambda text: _moment(text, zone=zone)),
        "valid_until": read("valid_until", lambda text: _moment(text, zone=zone, ends=True)),
    }
    until = person["valid_until"]
    if until is not None and until <= at:
        wrong("valid_until", "valid until lies in the past")
    elif until is not None and until <= (person["valid_from"] or at):
        wrong("valid_until", "valid until lies before valid from")
    card = read("card", _card)
    groups = read("groups", lambda text: _groups(text, known_groups))
    read("phone", _phone)
    for column, message in _problems_of(person, at=at):
        if column != "full_name" or values["full_name"]:
            wrong(column, message)
    for column, name, found in (("external_id", "reference", person["external_id"]), ("card", "card", card)):
        if found and (first := seen.setdefault((column, found), line)) != line:
            wrong(column, f"this {name} stands in line {first} already")
    if card and not any(error.column == headers.get("card") for error in errors) and proofs.find_card(card):
        wrong("card", "this card is in use already")
    if errors:
        order = {name: place for place, name in enumerate(headers.values())}
        raise RowWrong(sorted(errors, key=lambda error: order.get(error.column, len(order))))
    known = Person.objects.filter(full_name__iexact=person["full_name"]).exists()
    return Row(
        line=line,
        person=person,
        groups=groups,
        contact=values["email"] or values["phone"],
        card=card or "",
        headers=headers,
        note="Somebody of this name is on record already." if known else "",
    )


def _problems_of(person: Mapping[str, Any], *, at: datetime) -> list[tuple[str, str]]:
    """What the rules for people say, by column; of the dates nothing, which were read before."""
    try:
        services.check_person(Person(**{**person, "valid_from": at, "valid_until": None}))
    except EnrollmentRefused as refusal:
        if refusal.code == "external_id_taken":  # and what else is wrong?
            rest = _problems_of({**person, "external_id": None}, at=at)
            return [("external_id", refusal.message), *rest]
        if not isinstance(refusal.__cause__, ValidationError):
            return [("full_name", refusal.message)]
        by_field = refusal.__cause__.message_dict
        return [
            (name if name in COLUMNS else "full_name", text) for name in by_field for text in by_field[name]
        ]
    return []


def _card(text: str) -> str:
    """The number as it is kept, or a ValueError that says what is wrong with this one, and never repeats it."""
    if not text:
        return ""
    if ROUNDED.fullmatch(text):
        raise ValueError(
            "a spreadsheet rounded this number and its digits are lost; format the column as text and type it again"
        )
    try:
        return read_card_number(text)
    except ValueError:
        bare = re.sub(r"[\s:-]", "", text)
        strange = next((sign for sign in bare if not (sign.isascii() and sign.isalnum())), None)
        if strange is not None:
            raise ValueError(
                f"{_quoted(strange)} is neither a digit nor a letter, and a card number has nothing else"
            ) from None
        raise ValueError(
            f"a card number has {CARD_LEAST} to {CARD_MOST} digits or letters, and this one has {len(bare)}"
        ) from None


def _phone(text: str) -> str:
    if len(text) > MAX_CONTACT or (text and not re.fullmatch(r"\+?[0-9][0-9 ()/.-]{3,}", text)):
        raise ValueError(f"{_quoted(text)} is not a phone number")
    return text


def _groups(text: str, known: Mapping[str, str]) -> tuple[str, ...]:
    wanted = [name.strip() for name in re.split(r"[|;]", text) if name.strip()]
    unknown = [name for name in wanted if name.casefold() not in known]
    if unknown:
        raise ValueError(f"there is no group {', '.join(_quoted(name) for name in unknown)}; make it first")
    return tuple(dict.fromkeys(known[name.casefold()] for name in wanted))


def _moment(text: str, *, zone: tzinfo, ends: bool = False) -> datetime | None:
    """ISO 8601, or a day as 31.12.2026."""
    if not text:
        return None
    written = text
    if found := re.fullmatch(r"(\d{1,2})\.(\d{1,2})\.(\d{4})", text):
        text = f"{found[3]}-{found[2]:0>2}-{found[1]:0>2}"
    try:
        if day := parse_date(text):
            return datetime.combine(day + timedelta(days=1 if ends else 0), time(), tzinfo=zone)
        moment = parse_datetime(text)
    except (ValueError, OverflowError):
        moment = None
    if moment is None:
        raise ValueError(f"{_quoted(written)} is not a date such as 2026-12-31")
    return moment if moment.tzinfo else moment.replace(tzinfo=zone)


def _end_of(card: str) -> str:
    """What may be seen of a card's number: its last characters."""
    bare = re.sub(r"[\s:-]", "", card)
    return f"…{bare[-CARD_SHOWN:]}" if bare else ""


def _quoted(text: str) -> str:
    return f"“{text if len(text) <= MOST_SHOWN else text[:MOST_SHOWN] + '…'}”"


def _problem(message: object) -> str:
    """The middle of a sentence: from a small letter on, and without its full stop."""
    text = str(message).strip().rstrip(".")
    return text if text[:2].isupper() else text[:1].lower() + text[1:]


def _membership() -> Any:
    return import_module(getattr(settings, "LINTEL_MEMBERSHIP", DEFAULT_MEMBERSHIP))
