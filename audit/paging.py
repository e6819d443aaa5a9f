"""Long lists, newest first, without counting them: a page begins where another ended.

An offset would make the database walk over everything before it, and a count over everything there is. Rows that
arrive meanwhile push nothing from one page to the next.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.db.models import Q, QuerySet

SEPARATOR = "~"


@dataclass(frozen=True)
class Key:
    """A column that orders a list, and how its value becomes text in an address and back (raises ValueError)."""

    name: str
    read: Callable[[str], Any]
    write: Callable[[Any], str] = str


@dataclass(frozen=True)
class Stretch:
    """Some rows of a long list; `newer` and `older` are the cursors of its neighbours, empty where there are none."""

    rows: list[Any]
    newer: str
    older: str
    #: A search paused before the row with this number: its bound made it stop and nothing else. `older` leads on.
    paused_at: int | None = None


def stretch(rows: QuerySet[Any], keys: Sequence[Key], asked: Mapping[str, Any], *, size: int) -> Stretch:
    """The rows after `?before=` or before `?after=`, else the newest. A cursor that makes no sense counts as none.

    The keys together are unique, the first has an index, and all descend.
    """
    newest_first = [f"-{key.name}" for key in keys]
    after = _read(str(asked.get("after", "")), keys)
    if after is not None:
        back = [key.name for key in keys]
        found = list(rows.filter(_beyond(keys, after, "gt")).order_by(*back)[: size + 1])
        more = len(found) > size
        shown = found[:size][::-1]
        if len(shown) == size:
            return Stretch(shown, _cursor(keys, shown, 0) if more else "", _cursor(keys, shown, -1))
        # Fewer are newer than a page holds: the newest page is the page one meant.
    before = _read(str(asked.get("before", "")), keys) if after is None else None
    wanted = rows.filter(_beyond(keys, before, "lt")) if before is not None else rows
    found = list(wanted.order_by(*newest_first)[: size + 1])
    shown = found[:size]
    return Stretch(
        shown,
        newer=_cursor(keys, shown, 0) if before is not None and shown else "",
        older=_cursor(keys, shown, -1) if len(found) > size else "",
    )


def search(
    rows: QuerySet[Any], key: Key, asked: Mapping[str, Any], *, newest: int, size: int, at_once: int
) -> Stretch:
    """As `stretch`, for filters that no index answers: reads `at_once` rows of the log at most, and then pauses.

    `key` numbers the rows from 0 without gaps, `newest` is the last one's. However long the log, a page costs the
    same; who asks goes on where it paused. It only leads back: `newer` stays empty.
    """
    before = _read(str(asked.get("before", "")), [key])
    start = newest + 1 if before is None else min(max(before[0], 0), newest + 1)
    lowest = max(0, start - at_once)
    within = rows.filter(**{f"{key.name}__lt": start, f"{key.name}__gte": lowest})
    found = list(within.order_by(f"-{key.name}")[: size + 1])
    shown = found[:size]
    if len(found) > size:
        return Stretch(shown, "", _cursor([key], shown, -1))
    return Stretch(shown, "", key.write(lowest), lowest) if lowest else Stretch(shown, "", "")


def _cursor(keys: Sequence[Key], rows: Sequence[Any], place: int) -> str:
    return SEPARATOR.join(key.write(getattr(rows[place], key.name)) for key in keys) if rows else ""


def _read(text: str, keys: Sequence[Key]) -> list[Any] | None:
    parts = text.split(SEPARATOR)
    if not text or len(parts) != len(keys):
        return None
    try:
        return [key.read(part) for key, part in zip(keys, parts, strict=True)]
    except (ValueError, OverflowError):
        return None


def _beyond(keys: Sequence[Key], values: Sequence[Any], side: str) -> Q:
    """Rows strictly on one side of a cursor. The first condition is said twice, so that an index can be used."""
    condition = Q()
    equal: dict[str, Any] = {}
    for key, value in zip(keys, values, strict=True):
        condition |= Q(**equal, **{f"{key.name}__{side}": value})
        equal[key.name] = value
    return Q(**{f"{keys[0].name}__{side}e": values[0]}) & condition
