"""The SQLite sink: every event is one row, because the row and the event's id are one transaction."""

import functools
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flowctl.errors import ComponentError, InvalidSettingError
from flowctl.ids import InstanceId
from flowctl_components.sqlite import Sqlite
from flowctl_sdk import Context, Event
from flowctl_sdk.testing import consume
from support.flowctl import Flowctl, control_plane, until
from support.programs_of import program_of

PIPELINE = """\
apiVersion: flowctl/v1
kind: Pipeline
metadata: {name: rows}
spec:
  sources:
    - {id: numbers, type: generator, config: {count: 8000, rate: 2000}}
  processors:
    - {id: twice, type: map, inputs: [numbers], config: {select: "[{n: seq}, {n: seq}]", each: true}}
  sinks:
    - {id: database, type: sqlite, inputs: [twice], config: {path: rows.db, table: numbers, columns: {n: n}}}
"""


def rows(path: Path, query: str) -> list[tuple[Any, ...]]:
    database = sqlite3.connect(path)
    try:
        return database.execute(query).fetchall()
    finally:
        database.close()


async def opened(tmp_path: Path, **config: Any) -> Sqlite:
    sink = Sqlite()
    given = {"path": str(tmp_path / "out.db"), **config}
    await sink.open(Context(config=given, instance=InstanceId("test", "database", 0), state_dir=tmp_path / "own"))
    return sink


async def test_payloads_are_stored_as_json(tmp_path: Path):
    """Without columns a row has the event's facts and its payload as JSON; text and bytes become JSON too."""
    sink = await opened(tmp_path)
    event = Event(b'{"n": 1}', 1_700_000_000_123_456_789, 5, "numbers.0", "/double.0", "even", {"k": "v"})
    await sink.write([event, Event(b"\xff", 0, 6, "numbers.0")])
    await sink.close()
    assert rows(tmp_path / "out.db", "SELECT event_id, run, time, type, metadata, payload FROM events ORDER BY event_id") == [
        ("numbers.0:5/double.0", "", "2023-11-14T22:13:20.123456Z", "even", '{"k":"v"}', '{"n": 1}'),
        ("numbers.0:6", "", "1970-01-01T00:00:00.000000Z", "", "{}", '{"base64":"/w=="}'),
    ]


async def test_columns_are_expressions(tmp_path: Path):
    """Each column has what its expression gives; values keep their type, and structures become JSON."""
    columns = {"n": "n", "who": "customer.name", "tags": "tags", "paid": "paid", "share": "share", "none": "no.such"}
    payload = {"n": 3, "customer": {"name": "Ada"}, "tags": ["a", "b"], "paid": True, "share": 0.5}
    await consume(Sqlite, [payload], config={"path": str(tmp_path / "deep" / "out.db"), "table": "orders", "columns": columns})
    found = rows(tmp_path / "deep" / "out.db", "SELECT n, who, tags, paid, share, none FROM orders")
    assert found == [(3, "Ada", '["a","b"]', 1, 0.5, None)]


async def test_expressions_over_the_envelope(tmp_path: Path):
    """With ``envelope`` a column may hold the event's type or time."""
    sink = await opened(tmp_path, columns={"kind": "type", "n": "payload.n"}, envelope=True)
    await sink.write([Event(b'{"n":1}', 0, 0, "a.0", "", "order")])
    await sink.close()
    assert rows(tmp_path / "out.db", "SELECT kind, n FROM events") == [("order", 1)]


async def test_an_event_that_comes_again_is_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The same id of the same run is passed over, in one batch or after a restart; another run's is another event."""
    events = [Event(b"%d" % n, 0, n, "numbers.0") for n in range(4)]
    for name in ("7", "7", "8"):
        monkeypatch.setenv("FLOWCTL_RUN", name)
        sink = await opened(tmp_path)
        await sink.write(events)
        await sink.write(events[2:])
        await sink.close()
    counted = rows(tmp_path / "out.db", "SELECT run, count(*), count(DISTINCT event_id) FROM events GROUP BY run ORDER BY run")
    assert counted == [("7", 4, 4), ("8", 4, 4)]


async def test_a_batch_is_stored_whole_or_not_at_all(tmp_path: Path):
    """A rule of the user's own table that one row breaks is an error, never a row that is missing; the rest is rolled back."""
    database = sqlite3.connect(tmp_path / "out.db")
    database.execute("CREATE TABLE events (event_id, run, n CHECK (n < 10), PRIMARY KEY (run, event_id))")
    database.close()
    sink = await opened(tmp_path, columns={"n": "n"})
    with pytest.raises(sqlite3.IntegrityError):
        await sink.write([Event(b'{"n":1}', 0, 0, "a.0"), Event(b'{"n":99}', 0, 1, "a.0")])
    assert rows(tmp_path / "out.db", "SELECT count(*) FROM events") == [(0,)]
    await sink.write([Event(b'{"n":1}', 0, 0, "a.0")])
    await sink.close()
    assert rows(tmp_path / "out.db", "SELECT n FROM events") == [(1,)]


async def test_a_number_beyond_sqlite_is_an_error_of_the_event(tmp_path: Path):
    """Nothing is rounded: a number of more than 64 bits is refused with the column and the event."""
    sink = await opened(tmp_path, columns={"n": "n"})
    with pytest.raises(ValueError, match=r"column 'n' of event a\.0:0: 9223372036854775808 is more than"):
        await sink.write([Event(b'{"n":9223372036854775808}', 0, 0, "a.0")])
    await sink.close()


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"table": "a b"}, "'a b' cannot be a table's name"),
        ({"table": "sqlite_master"}, "cannot be a table's name"),
        ({"columns": {}}, "it is empty"),
        ({"columns": {'n"); --': "n"}}, "cannot be a column's name"),
        ({"columns": {"Run": "n"}}, "every table has a column 'run' already"),
        ({"columns": {"n": "n", "N": "n"}}, "'N' and 'n' are the same column"),
        ({"columns": {"n": "a["}}, "config.columns.n"),
        ({"envelope": True}, "it goes with 'columns'"),
        ({"path": "."}, "is a directory"),
    ],
)
async def test_a_bad_configuration_is_refused(tmp_path: Path, config: dict[str, Any], said: str):
    """Each has one sentence that names the field."""
    with pytest.raises(InvalidSettingError, match=r"database: config\.") as caught:
        await opened(tmp_path, **config)
    assert said in str(caught.value)


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path):
    """It is left as it is."""
    (tmp_path / "out.db").write_text("my precious notes, which are longer than a database's first page is not\n" * 20)
    with pytest.raises(InvalidSettingError, match=r"config\.path: .* cannot be used: file is not a database"):
        await opened(tmp_path)
    assert (tmp_path / "out.db").read_text().startswith("my precious notes")


async def test_a_table_of_another_shape_is_refused(tmp_path: Path):
    """A table that lacks a column or the key is named with what it needs."""
    database = sqlite3.connect(tmp_path / "out.db")
    database.execute("CREATE TABLE keyless (event_id, run, n)")
    database.execute("CREATE TABLE narrow (event_id, run, PRIMARY KEY (run, event_id))")
    database.close()
    for table, said in (("keyless", "ON CONFLICT"), ("narrow", "no column named n")):
        with pytest.raises(InvalidSettingError, match=said) as caught:
            await opened(tmp_path, table=table, columns={"n": "n"})
        assert "it needs these columns: event_id, run, n" in str(caught.value)


async def test_a_locked_database_is_no_fault_of_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Another program's long transaction fails the start so that it is tried again, not for ever."""
    monkeypatch.setattr("flowctl_components.sqlite._BUSY_TIMEOUT_S", 0.05)
    other = sqlite3.connect(tmp_path / "out.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(ComponentError, match="locked by another program"):
        await opened(tmp_path)
    other.close()


@pytest.fixture
def flowctl(tmp_path: Path) -> Iterator[Flowctl]:
    with control_plane(tmp_path) as own:
        yield own


def test_every_event_once_whatever_is_killed(flowctl: Flowctl):
    """kill -9 of sink, processor and source, twice each, while data flows: the table has every event of the run once."""
    pipeline = flowctl.write("pipeline.yaml", PIPELINE)
    flowctl.run("up", str(pipeline), "--detach", "--wait")
    path = flowctl.directory / "rows.db"

    def stored_beyond(count: int) -> int:
        try:
            found: int = rows(path, "SELECT count(*) FROM numbers")[0][0]
        except sqlite3.OperationalError:
            return 0
        return found if found > count else 0

    stored = 0
    for victim in ("database", "twice", "numbers") * 2:
        stored = until(functools.partial(stored_beyond, stored + 300), "progress")
        until(functools.partial(program_of, flowctl, victim), f"{victim} to run").kill()
    flowctl.until_status("rows", "completed", timeout_s=60)
    found = rows(path, "SELECT event_id, n FROM numbers")
    assert len(found) == 16_000
    assert set(found) == {(f"numbers.0:{n}/twice.{way}", n) for n in range(8000) for way in (0, 1)}
