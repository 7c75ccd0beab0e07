"""A sink as a class: rows in SQLite, each event once, because its id is the key and goes in with the same transaction."""

import asyncio
import sqlite3
from pathlib import Path

from flowctl_sdk import Context, Event, Sink, run


class Database(Sink):
    """Events as rows of a table."""

    async def open(self, ctx: Context) -> None:
        """Open the database, and make the table if it is not there."""
        path = Path(ctx.config.get("path", "events.db"))
        path.parent.mkdir(parents=True, exist_ok=True)
        self._database = sqlite3.connect(path, check_same_thread=False)
        self._database.execute("CREATE TABLE IF NOT EXISTS events (id TEXT PRIMARY KEY, payload TEXT NOT NULL)")

    async def write(self, events: list[Event]) -> None:
        """Returns when the rows are on disk. A row that is there already came again after a failure."""
        await asyncio.to_thread(self._insert, [(event.id, event.payload.decode()) for event in events])

    async def close(self) -> None:
        """Close the database."""
        self._database.close()

    def _insert(self, rows: list[tuple[str, str]]) -> None:
        with self._database:
            self._database.executemany("INSERT OR IGNORE INTO events VALUES (?, ?)", rows)


if __name__ == "__main__":
    run(Database)
