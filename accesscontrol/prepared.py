"""Queries that every attempt asks, compiled once per process and, on Postgres, planned once per connection.

Django's query builder takes ten times as long as the database for a row found by its key, Postgres plans a join of five
tables for longer than it runs it, and a person at a door waits for both. What is asked stays written in the ORM's
words, so it follows the models on both databases; only the building is done once, with `Given` where a value will
stand. Nothing is remembered between two askings but the text: every asking reads the database.

On Postgres each query is a prepared statement of its connection, so a pooler in between must pool sessions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import count
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

from django.db import InterfaceError, OperationalError, connection, models, transaction
from django.db.models import Expression, QuerySet
from django.db.models.sql import UpdateQuery

Row = TypeVar("Row", bound=models.Model)
Answer = TypeVar("Answer")

_numbers = count(1)
#: Which statements a connection to Postgres knows by name. A connection is used by one thread at a time.
_known: WeakKeyDictionary[Any, set[str]] = WeakKeyDictionary()


class Given(Expression):
    """Stands in a query for the value that is passed under `name` whenever it is asked."""

    def __init__(self, name: str, field: models.Field[Any, Any]) -> None:
        super().__init__(output_field=field)
        self.name = name

    def as_sql(self, compiler: Any, connection: Any) -> tuple[str, Any]:
        return "%s", [self]


class _Statement:
    """Text with one %s for each parameter: a `Given`, or a constant."""

    def __init__(self, text: str, parameters: Sequence[Any]) -> None:
        self.text, self._parameters = text, parameters
        self.given = [one for one in parameters if isinstance(one, Given)]
        self.name = f"lintel_{next(_numbers)}"
        marks = ", ".join(["%s"] * len(self.given))
        self._by_name = f"EXECUTE {self.name}({marks})" if marks else f"EXECUTE {self.name}"

    def bind(self, values: dict[str, Any]) -> tuple[str, list[Any]]:
        """What to execute now, and its parameters."""
        if connection.vendor != "postgresql":
            return self.text, [_value(one, values) for one in self._parameters]
        self._make_known()
        return self._by_name, [_value(one, values) for one in self.given]

    def _make_known(self) -> None:
        connection.ensure_connection()
        known = _known.setdefault(connection.connection, set())
        if self.name in known:
            return
        types = ", ".join(str(one.output_field.db_type(connection)) for one in self.given)
        numbers = iter(range(1, len(self.given) + 1))
        # %s stays where a constant stands: the driver writes it into the text.
        marks = [f"${next(numbers)}" if isinstance(one, Given) else "%s" for one in self._parameters]
        pieces = self.text.split("%s")
        text = pieces[0] + "".join(mark + piece for mark, piece in zip(marks, pieces[1:], strict=True))
        signature = f"{self.name} ({types})" if types else self.name
        with connection.cursor() as cursor:
            cursor.execute(
                f"PREPARE {signature} AS {text}",
                [one for one in self._parameters if not isinstance(one, Given)],
            )
        known.add(self.name)


def _value(parameter: Any, values: dict[str, Any]) -> Any:
    if isinstance(parameter, Given):
        return parameter.output_field.get_db_prep_value(values[parameter.name], connection)
    return parameter


class _Prepared(Generic[Answer]):
    """What can be asked alone, `query(name=value)`, or with others at once, see `together`."""

    def __init__(self) -> None:
        self._of_vendor: dict[str, _Statement] = {}

    def __call__(self, **values: Any) -> Answer:
        with connection.cursor() as cursor:
            cursor.execute(*self.statement().bind(values))
            return self.read(cursor)

    def first(self, **values: Any) -> Answer:
        """As the first question of a request or a task, see `on_a_connection_that_lives`."""
        return on_a_connection_that_lives(lambda: self(**values))

    def asked(self, **values: Any) -> Question[Answer]:
        return Question(self, values)

    def bound(self, **values: Any) -> tuple[str, list[Any]]:
        """Text and values, for whoever has more to ask on the same way and needs no answer to this."""
        return self.statement().bind(values)

    def statement(self) -> _Statement:
        """Two threads that ask first at the same time both compile it, to the same end."""
        found = self._of_vendor.get(connection.vendor)
        if found is None:
            found = self._of_vendor[connection.vendor] = self._compile()
        return found

    def _compile(self) -> _Statement:
        raise NotImplementedError

    def read(self, cursor: Any) -> Answer:
        raise NotImplementedError


def on_a_connection_that_lives(act: Callable[[], Answer]) -> Answer:
    """What `act` returns, which is the first of a request or a task to use the database and may safely be done twice.
    On a connection to Postgres that broke since it was last used it is done again on a new one. That saves asking every
    time whether it broke."""
    if connection.vendor != "postgresql" or connection.in_atomic_block:
        return act()
    connection.health_check_done = True  # type: ignore[attr-defined]  # the stubs lack it
    used = connection.connection
    try:
        return act()
    except (OperationalError, InterfaceError):
        if used is None or not used.closed:
            raise  # such as a lock that nobody let go
        if connection.connection is used:  # the end of a transaction opens a new one by itself
            connection.close()
        return act()


@dataclass(frozen=True)
class Question(Generic[Answer]):
    query: _Prepared[Answer]
    values: dict[str, Any]


def together(*questions: Question[Any]) -> list[Any]:
    """The answers to several questions, asked in this order. On Postgres they travel at once, and each one sees what
    was committed before it began; a server next door is no reason to wait for it six times."""
    if connection.vendor != "postgresql":
        return [question.query(**question.values) for question in questions]
    bound = [question.query.statement().bind(question.values) for question in questions]
    answers = []
    with connection.cursor() as cursor:
        cursor.execute(
            "; ".join(text for text, _ in bound), [value for _, values in bound for value in values]
        )
        for question in questions:
            answers.append(question.query.read(cursor))
            cursor.nextset()
    return answers


def transaction_around_one_asking() -> AbstractContextManager[None]:
    """For a single `together` that must happen whole or not at all, with what is to be done after its commit. On
    Postgres statements that travel together are a transaction already, which saves two ways there and back."""
    if connection.vendor == "postgresql" and not connection.in_atomic_block:
        return nullcontext()
    return transaction.atomic()


class _Select(_Prepared[Answer]):
    def __init__(self, build: Callable[[], QuerySet[Any, Any]]) -> None:
        super().__init__()
        self._build = build
        self._columns: dict[str, list[tuple[int, list[Callable[..., Any]], Any]]] = {}
        self.annotations: tuple[str, ...] = ()

    def _compile(self) -> _Statement:
        compiler = self._build().query.get_compiler(connection=connection)
        statement = _Statement(*compiler.as_sql())
        converters = compiler.get_converters([expression for expression, _, _ in compiler.select])
        self._columns[connection.vendor] = [(place, *found) for place, found in converters.items()]
        self.annotations = tuple(compiler.query.annotation_select)
        return statement

    def converted(self, rows: Iterable[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        columns = self._columns[connection.vendor]
        if not columns:
            return list(rows)
        finished = []
        for row in rows:
            values = list(row)
            for place, converters, expression in columns:
                for convert in converters:
                    values[place] = convert(values[place], expression, connection)
            finished.append(tuple(values))
        return finished


class PreparedRows(_Select[list[tuple[Any, ...]]]):
    """A query of columns: `build` ends with `values_list`."""

    def read(self, cursor: Any) -> list[tuple[Any, ...]]:
        return self.converted(cursor.fetchall())


class PreparedGet(_Select["Row | None"], Generic[Row]):
    """A query of whole rows of one model, of which at most one is wanted. Annotations become attributes."""

    def __init__(self, model: type[Row], build: Callable[[], QuerySet[Row]]) -> None:
        super().__init__(build)
        self._model = model
        self._names = [field.attname for field in model._meta.concrete_fields]

    def read(self, cursor: Any) -> Row | None:
        row = cursor.fetchone()
        if row is None:
            return None
        columns = self.converted([row])[0]
        found = self._model.from_db(connection.alias, self._names, columns[: len(self._names)])
        for name, value in zip(self.annotations, columns[len(self._names) :], strict=True):
            setattr(found, name, value)
        return found


class PreparedUpdate(_Prepared[int]):
    """`build` selects the rows, `changes` names the columns and what they become; returns how many there were."""

    def __init__(self, build: Callable[[], QuerySet[Any]], changes: Callable[[], dict[str, Any]]) -> None:
        super().__init__()
        self._build, self._changes = build, changes

    def _compile(self) -> _Statement:
        query: Any = self._build().query.chain(UpdateQuery)
        query.add_update_values(self._changes())
        return _Statement(*query.get_compiler(connection=connection).as_sql())

    def read(self, cursor: Any) -> int:
        return int(cursor.rowcount)


class PreparedInsert(_Prepared[None], Generic[Row]):
    """Inserts the new `row` as it is. A number that the database gives it is not read back."""

    def __init__(self, model: type[Row]) -> None:
        super().__init__()
        self._table = model._meta.db_table
        self._fields = [field for field in model._meta.concrete_fields if not field.db_returning]

    def of(self, row: Row) -> Question[None]:
        return self.asked(**{field.attname: getattr(row, field.attname) for field in self._fields})

    def _compile(self) -> _Statement:
        columns = ", ".join(f'"{field.column}"' for field in self._fields)
        marks = ", ".join(["%s"] * len(self._fields))
        return _Statement(
            f'INSERT INTO "{self._table}" ({columns}) VALUES ({marks})',  # noqa: S608 (names are ours)
            [Given(field.attname, getattr(field, "target_field", field)) for field in self._fields],
        )

    def read(self, cursor: Any) -> None:
        return None
