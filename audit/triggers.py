"""Database triggers that keep the log append-only, on SQLite and on Postgres.

They stop every program that connects as the application does, and a mistaken administrator. They do not stop
somebody who may drop triggers: for that there are the tree and checkpoints kept elsewhere.

Django remakes a table on SQLite to alter it, and triggers go with the old one: a migration that alters these
tables ends with `install`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.db.backends.base.base import BaseDatabaseWrapper

#: table -> the column that counts from 0 without gaps
COUNTED = {"audit_entry": "index", "audit_checkpoint": "number"}


def _sqlite() -> list[str]:
    statements = []
    for table, column in COUNTED.items():
        for verb in ("UPDATE", "DELETE"):
            statements.append(
                f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table}"
                f" BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
            )
        # Also stops INSERT OR REPLACE, which deletes without firing the trigger above.
        statements.append(
            f"CREATE TRIGGER {table}_in_order BEFORE INSERT ON {table}"
            f' WHEN NEW."{column}" IS NOT {_next_of(table, column)}'
            f" BEGIN SELECT RAISE(ABORT, '{table} is written in order, without gaps'); END"
        )
    return statements


def _postgres() -> list[str]:
    refusal = "USING ERRCODE = 'integrity_constraint_violation'"
    statements = [
        "CREATE OR REPLACE FUNCTION audit_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$"
        f" BEGIN RAISE EXCEPTION '% is append-only', TG_TABLE_NAME {refusal}; END $$"
    ]
    for table, column in COUNTED.items():
        statements += [
            f"CREATE TRIGGER {table}_no_change BEFORE UPDATE OR DELETE ON {table}"
            " FOR EACH ROW EXECUTE FUNCTION audit_refuse_change()",
            f"CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table}"
            " FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse_change()",
            f"CREATE OR REPLACE FUNCTION {table}_check_order() RETURNS trigger LANGUAGE plpgsql AS $$"
            f' BEGIN IF NEW."{column}" IS DISTINCT FROM {_next_of(table, column)} THEN'
            f" RAISE EXCEPTION '{table} is written in order, without gaps' {refusal};"
            " END IF; RETURN NEW; END $$",
            f"CREATE TRIGGER {table}_in_order BEFORE INSERT ON {table}"
            f" FOR EACH ROW EXECUTE FUNCTION {table}_check_order()",
        ]
    return statements


def _next_of(table: str, column: str) -> str:
    return f'(SELECT COALESCE(MAX("{column}") + 1, 0) FROM {table})'  # noqa: S608 (names are ours)


def _removal(vendor: str) -> list[str]:
    if vendor == "postgresql":
        names = ("no_change", "no_truncate", "in_order")
        return [f"DROP TRIGGER IF EXISTS {table}_{name} ON {table}" for table in COUNTED for name in names]
    names = ("no_update", "no_delete", "in_order")
    return [f"DROP TRIGGER IF EXISTS {table}_{name}" for table in COUNTED for name in names]


def _run(connection: BaseDatabaseWrapper, statements: list[str]) -> None:
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


def install(connection: BaseDatabaseWrapper) -> None:
    if connection.vendor not in ("postgresql", "sqlite"):
        raise NotImplementedError(f"no triggers for {connection.vendor}: the log would not be append-only")
    dangerously_remove(connection)
    _run(connection, _postgres() if connection.vendor == "postgresql" else _sqlite())


def dangerously_remove(connection: BaseDatabaseWrapper) -> None:
    """Leaves the log open to change. For migrations, and for tests that play the intruder."""
    _run(connection, _removal(connection.vendor))


@contextmanager
def dangerously_lifted(connection: BaseDatabaseWrapper) -> Iterator[None]:
    """The log can be changed inside this block, and not after it."""
    dangerously_remove(connection)
    try:
        yield
    finally:
        install(connection)
