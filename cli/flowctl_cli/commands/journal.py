"""``flowctl journal export``, ``flowctl journal import``."""

import contextlib
import os
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from flowctl import paths
from flowctl.errors import InvalidSettingError, RefusedError, UserError
from flowctl.journal.bundle import Manifest
from flowctl.journal.store import Store
from flowctl.journal.transfer import Imported, export_journal, import_journal
from flowctl.past import AtSequence, parse_instant, resolve
from flowctl_cli import plane, server_record
from flowctl_cli.bundles import opened_bundle
from flowctl_cli.journal_import import import_journal as import_client
from flowctl_cli.journal_import import wants_websockets
from flowctl_cli.progress import ProgressLine
from flowctl_cli.session import DEFAULT_TIMEOUT_S, JsonOption, Session, TimeoutOption, callback, command, new_app, run
from flowctl_cli.terminal import print_json, say

app = new_app()


@callback(app, "flowctl journal export journal.zip", "flowctl journal import journal.zip --state-dir ./restored")
def journal(session: Session, ctx: typer.Context) -> None:  # noqa: ARG001 - it is the callback's shape
    """Take the journal out into a file, or in from one."""
    if ctx.invoked_subcommand is None:
        say(ctx.get_help())


@command(
    app,
    "flowctl journal export journal.zip",
    "flowctl journal export incident.zip --from 2026-03-01T12:00:00Z --to 18231 --heartbeats",
    name="export",
)
def export(
    session: Session,
    *,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to; a file that is there is not overwritten.")],
    from_: Annotated[
        str | None, typer.Option("--from", metavar="TIME|SEQ", help="Begin with this entry, or after this time.")
    ] = None,
    to: Annotated[str | None, typer.Option("--to", metavar="TIME|SEQ", help="End with this entry, or at this time.")] = None,
    heartbeats: Annotated[bool, typer.Option("--heartbeats", help="With the heartbeats of that time that are left.")] = False,
    json: JsonOption = False,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_S,
) -> None:
    """Write the journal, or a part of it, to one file: a ZIP archive of JSON lines with checksums.

    Works without a running server too. A file from the first entry on can be imported; any can be verified and replayed.
    """
    with _writing(file):
        exists = file.exists()
    if exists:
        raise UserError("it exists already", place=str(file), hint="name another file")
    manifest = run(_export(session, file, from_, to, heartbeats=heartbeats, timeout_s=timeout))
    if json:
        print_json({name: value for name, value in msgspec.to_builtins(manifest).items() if name != "members"})
        return
    size = file.stat().st_size
    say(f"{file}: entries {manifest.first_seq} to {manifest.last_seq}, {manifest.heartbeats} heartbeats, {size:,} bytes")
    say(f"anchor {manifest.last_seq}:{manifest.digest}")


async def _export(
    session: Session, file: Path, from_: str | None, to: str | None, *, heartbeats: bool, timeout_s: float
) -> Manifest:
    beginning = parse_instant(from_) if from_ else None
    ending = parse_instant(to) if to else None
    progress = ProgressLine()
    async with plane.opened(session, timeout_s=timeout_s, offline=True) as control:
        store = control.store
        upto = await store.journal.last_sequence() if ending is None else await resolve(store, ending)
        after = 0
        if isinstance(beginning, AtSequence):
            after = max(0, beginning.seq - 1)
        elif beginning is not None:
            after = await resolve(store, beginning)
        if after >= upto:
            raise UserError(f"there are no entries from {after + 1} to {upto}")
        unfinished = file.with_name(f".flowctl-export-{os.getpid()}")
        with _writing(file):
            out = unfinished.open("xb")
        try:
            with _writing(file), out:
                manifest = await export_journal(store, out, after=after, upto=upto, heartbeats=heartbeats, progress=progress)
                out.flush()
                os.fsync(out.fileno())
                unfinished.rename(file)
        finally:
            progress.clear()
            unfinished.unlink(missing_ok=True)
    return manifest


@contextlib.contextmanager
def _writing(file: Path) -> Generator[None]:
    """What the block does to the file, or beside it.

    Raises:
        UserError: the system refuses it.
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"it cannot be written: {error.strerror or error}", place=str(file.parent)) from error


@command(
    app,
    "flowctl journal import journal.zip --state-dir ./restored",
    "flowctl journal import journal.zip --nats nats://10.0.0.5:4222",
    name="import",
)
def import_(
    session: Session,
    *,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `flowctl journal export` wrote.")],
    unverified: Annotated[bool, typer.Option("--unverified", help="Import it even if its entries do not fit together.")] = False,
    json: JsonOption = False,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_S,
) -> None:
    """Store an exported journal in an empty one: the same entries, sequences, times and hashes, and so the same state.

    Nothing is stored before the whole file was checked. After an interruption the same command goes on; until then no service
    starts on what is there.
    """
    done = run(_import(session, file, unverified=unverified, timeout_s=timeout))
    if json:
        print_json(done)
    elif done.stored:
        say(f"{done.stored} of {done.entries} entries imported; the journal is what was exported")
        say(f"anchor {done.entries}:{done.digest}")
    else:
        say(f"all {done.entries} entries are there already")


async def _import(session: Session, file: Path, *, unverified: bool, timeout_s: float) -> Imported:
    progress = ProgressLine()
    with opened_bundle(file) as reader:
        async with _empty_store(session, timeout_s=timeout_s) as store:
            try:
                return await import_journal(store.journal, reader, unverified=unverified, progress=progress)
            finally:
                progress.clear()


@contextlib.asynccontextmanager
async def _empty_store(session: Session, *, timeout_s: float) -> AsyncGenerator[Store]:
    """The journal to import into: that of the named NATS server, else the state directory's, whose server must not run."""
    from flowctl.settings import Settings, load_settings

    async with contextlib.AsyncExitStack() as stack:
        settings = load_settings(Settings)
        url, monitor_url, synced = session.nats, settings.nats_monitor_url, settings.nats_assume_synced
        if not url:
            from flowctl.journal.embedded import EmbeddedNats

            try:
                session.state_dir.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InvalidSettingError(f"{session.state_dir} cannot be made: {error.strerror}") from error
            try:
                stack.callback(server_record.ServerLock(session.state_dir).release)
            except RefusedError as error:
                raise RefusedError(
                    "a server runs for the state directory, so its journal is not empty",
                    hint="import into another state directory, or stop the server first",
                ) from error
            nats = EmbeddedNats(paths.nats_dir(session.state_dir))
            await nats.start()
            stack.push_async_callback(nats.stop)
            url, monitor_url, synced = nats.url, nats.monitor_url, False
        import_client(websockets=wants_websockets(url))
        from flowctl.journal.jetstream import JetStreamStore

        store = await JetStreamStore.connect(
            url,
            name=f"flowctl-import-{os.getpid()}",
            connect_timeout_s=min(timeout_s, 5.0),
            request_timeout_s=timeout_s,
            monitor_url=monitor_url or None,
            assume_synced=synced and not monitor_url,
            importing=True,
        )
        stack.push_async_callback(store.close)
        yield store
