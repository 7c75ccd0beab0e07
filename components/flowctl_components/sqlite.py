"""Sink ``sqlite``: writes each event as a row of a SQLite table, once.

Configuration::

    path: out/orders.db         # created if absent; `{index}` stands for the replica's number
    table: events               # created if absent
    columns:                    # column: JMESPath over the payload; without it, one column `payload` with the JSON
      customer: customer.id
      total: to_number(total)
    envelope: false             # true: the expressions see {id, time, type, metadata, payload}

Besides, every row has ``event_id`` and ``run`` (which run of the pipeline, set by the agent), together the primary key; without
``columns`` also ``time``, ``type`` and ``metadata``. A table that exists must have these columns, and that key or a unique index
over it. Text, whole numbers below 2^63, other numbers and null are stored as such, true and false as 1 and 0, lists and objects
as JSON. Several replicas may write to one file; SQLite lets them in one after the other.

Guarantee: effectively once. A batch is one transaction that stores the rows and, as their key, which events they are of; an event
is acknowledged after the commit, which waits for the disk. After kill -9 of anything, an event that comes again meets its own row
and is passed over (counter ``repeated``). Another run of the pipeline has other events. Without ``FLOWCTL_RUN`` (a component
started by hand) all runs are one.
"""

import asyncio
import os
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from flowctl.errors import ComponentError
from flowctl_components.config import Config, invalid, read_config
from flowctl_components.expression import Expression
from flowctl_components.line import encode, envelope, payload_line
from flowctl_sdk import Context, Event, Sink, run

Value = str | int | float | bytes | None

_NAME: Final = re.compile(r"\A[A-Za-z_][A-Za-z0-9_]{0,62}\Z")
_KEY: Final = ("event_id", "run")
_PLAIN: Final = ("time", "type", "metadata", "payload")
_BUSY_TIMEOUT_S: Final = 20.0
_MAX_INTEGER: Final = 2**63 - 1


class SqliteConfig(Config, frozen=True, kw_only=True):
    """See the module."""

    path: Annotated[str, Meta(min_length=1)]
    table: str = "events"
    columns: dict[str, str] | None = None
    envelope: bool = False


class Sqlite(Sink):
    """Writes each event as a row of a SQLite table, once."""

    _database: sqlite3.Connection | None = None

    async def open(self, ctx: Context) -> None:
        """Open the database, and make the table if it is not there."""
        self._ctx = ctx
        config = read_config(ctx, SqliteConfig)
        if config.envelope and config.columns is None:
            raise invalid(ctx, "envelope", "it goes with 'columns', which is not there")
        _check_names(ctx, config)
        self._values = (
            _plain_values if config.columns is None else _mapped_values(ctx, config.columns, on_envelope=config.envelope)
        )
        self._columns = (*_KEY, *(_PLAIN if config.columns is None else config.columns))
        self._table = config.table
        self._run = os.environ.get("FLOWCTL_RUN", "")
        self._path = Path.cwd() / config.path.replace("{index}", str(ctx.instance.index))
        if self._path.is_dir():
            raise invalid(ctx, "path", f"{self._path} is a directory")
        await asyncio.to_thread(self._open)

    async def write(self, events: list[Event]) -> None:
        """Store the batch in one transaction; returns when that is on disk."""
        repeated = await asyncio.to_thread(self._insert, [(event.id, self._run, *self._values(event)) for event in events])
        if repeated:
            self._ctx.counter("repeated", repeated)

    async def close(self) -> None:
        """Close the database."""
        if self._database is not None:
            self._database.close()

    def _open(self) -> None:
        names = ", ".join(f'"{name}"' for name in self._columns)
        marks = ", ".join("?" * len(self._columns))
        # Only a row of the same event is passed over: OR IGNORE would pass over what breaks any other rule of the table too.
        self._statement = f'INSERT INTO "{self._table}" ({names}) VALUES ({marks}) ON CONFLICT (run, event_id) DO NOTHING'  # noqa: S608
        kinds = {"event_id": " TEXT NOT NULL", "run": " TEXT NOT NULL"}
        columns = ", ".join(f'"{name}"{kinds.get(name, "")}' for name in self._columns)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._database = database = sqlite3.connect(
                self._path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = FULL")
            database.execute(f'CREATE TABLE IF NOT EXISTS "{self._table}" ({columns}, PRIMARY KEY (run, event_id)) WITHOUT ROWID')
        except (OSError, sqlite3.Error) as error:
            if _is_busy(error):
                raise ComponentError(f"{self._path} is locked by another program", hint="end its transaction") from error
            raise invalid(self._ctx, "path", f"{self._path} cannot be used: {error}") from error
        try:
            # Compiles the statement and runs nothing.
            database.execute(f"EXPLAIN {self._statement}", [None] * len(self._columns))
        except sqlite3.Error as error:
            hint = (
                "it needs these columns: " + ", ".join(self._columns) + "; and a primary key or unique index over (run, event_id)"
            )
            raise invalid(
                self._ctx, "table", f"the table {self._table!r} of {self._path} cannot be used: {error}", hint
            ) from error

    def _insert(self, rows: list[tuple[Value, ...]]) -> int:
        """Store the rows; returns how many were there already."""
        database = self._database
        if database is None:
            raise RuntimeError("write() before open()")
        before = database.total_changes
        database.execute("BEGIN IMMEDIATE")
        try:
            database.executemany(self._statement, rows)
            database.execute("COMMIT")
        except BaseException:
            if database.in_transaction:
                database.execute("ROLLBACK")
            raise
        return len(rows) - (database.total_changes - before)


def _check_names(ctx: Context, config: SqliteConfig) -> None:
    rule = "letters, digits and '_', not beginning with a digit, at most 63 characters"
    if not _NAME.match(config.table) or config.table.lower().startswith("sqlite_"):
        raise invalid(ctx, "table", f"{config.table[:80]!r} cannot be a table's name here: {rule}, and not sqlite_…")
    if config.columns is None:
        return
    if not config.columns:
        raise invalid(ctx, "columns", "it is empty", hint="leave it out to store the payload as JSON")
    seen = {name: name for name in _KEY}
    for name in config.columns:
        if not _NAME.match(name):
            raise invalid(ctx, "columns", f"{name[:80]!r} cannot be a column's name here: {rule}")
        if name.lower() in _KEY:
            raise invalid(ctx, "columns", f"every table has a column {name.lower()!r} already: it says which event a row is of")
        if name.lower() in seen:
            raise invalid(
                ctx, "columns", f"{name!r} and {seen[name.lower()]!r} are the same column: SQLite does not tell case apart"
            )
        seen[name.lower()] = name


def _plain_values(event: Event) -> tuple[Value, ...]:
    """Time, type, metadata and payload: see ``_PLAIN``."""
    facts = envelope(event)
    return facts["time"], event.type, encode(event.metadata or {}).decode(), payload_line(event.payload).decode()


def _mapped_values(ctx: Context, columns: dict[str, str], *, on_envelope: bool) -> Callable[[Event], tuple[Value, ...]]:
    expressions = [(name, Expression(ctx, f"columns.{name}", text, on_envelope=on_envelope)) for name, text in columns.items()]

    def values(event: Event) -> tuple[Value, ...]:
        return tuple(_stored(name, expression.value(event), event) for name, expression in expressions)

    return values


def _stored(column: str, value: object, event: Event) -> Value:
    if value is None or isinstance(value, str | float):
        return value
    if isinstance(value, int):
        if abs(value) > _MAX_INTEGER:
            raise ValueError(f"column {column!r} of event {event.id}: {value} is more than SQLite's 64-bit numbers hold")
        return int(value)
    return msgspec.json.encode(value).decode()


def _is_busy(error: Exception) -> bool:
    return getattr(error, "sqlite_errorname", "").startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))


if __name__ == "__main__":
    run(Sqlite())
