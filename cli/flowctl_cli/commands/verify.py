"""``flowctl verify``."""

import asyncio
from pathlib import Path
from typing import Annotated, Any

import typer

from flowctl import api, paths
from flowctl.errors import EXIT_FAILED, DamagedFileError, RefusedError, UserError
from flowctl.journal.audit import Anchor, Difference
from flowctl.journal.blocks import StoredRecord, created, journal_dir, read_blocks
from flowctl.seen import SeenFile
from flowctl.snapshotting import schema
from flowctl.verification import Report, Verifier, compare_runs, compare_snapshots, verify_entries
from flowctl_cli import plane
from flowctl_cli.bundles import opened_bundle
from flowctl_cli.progress import ProgressLine
from flowctl_cli.session import DEFAULT_TIMEOUT_S, JsonOption, Session, TimeoutOption, command, new_app, run
from flowctl_cli.terminal import note, print_json, say

app = new_app()

SERVICES = (api.REGISTRY, api.HEALTH, api.ORCHESTRATOR, api.AGENT)
SHOWN = 50


@command(
    app,
    "flowctl verify",
    "flowctl verify --json | jq .anchor",
    "flowctl verify --anchor 18231:5f0c…",
    "flowctl verify journal.zip",
    "flowctl verify --offline --state-dir /var/lib/flowctl",
)
def verify(
    session: Session,
    *,
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="An exported journal; without it, the live control plane.")
    ] = None,
    anchor: Annotated[
        list[str] | None,
        typer.Option("--anchor", metavar="SEQ:DIGEST", help="What an earlier verification printed; repeatable."),
    ] = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Read the files of the state directory's stopped server, without starting it.")
    ] = False,
    json: JsonOption = False,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_S,
) -> None:
    """Prove that everything is as the journal says, and that the journal is what was written. Exits with 1 if anything differs.

    Checks every entry's place, hash chain and seal; rebuilds all state from nothing and compares it with the live state of each
    service, with every snapshot and with what the drivers run. Keep the anchor that it prints where nobody who can write the
    journal can write: only an anchor shows that the end was cut off or that everything since some entry was rewritten.
    """
    anchors = [_anchor(text) for text in anchor or []]
    if file is not None and offline:
        raise UserError("a FILE and --offline are two journals")
    if file is not None:
        report = _file(file, anchors)
    elif offline:
        report = _offline(session, anchors)
    else:
        report = run(_live(session, anchors, timeout_s=timeout))
    if json:
        print_json(report)
    else:
        _show(report)
    if report.differences_total:
        raise typer.Exit(EXIT_FAILED)


def _anchor(text: str) -> Anchor:
    anchor = Anchor.parse(text)
    if anchor is None:
        raise UserError(f"{text[:80]!r} is no anchor", hint="it is SEQ:DIGEST, as `flowctl verify` prints it")
    return anchor


def _file(file: Path, anchors: list[Anchor]) -> Report:
    progress = ProgressLine()
    with opened_bundle(file) as reader:
        manifest = reader.manifest
        verifier = Verifier(anchors=anchors, after=max(0, manifest.first_seq - 1), digest=manifest.before)
        try:
            for record in reader.records():
                verifier.add(record)
                if record.seq % 1_000 == 0:
                    progress("verifying", verifier.audit.entries, manifest.entries)
            for _ in reader.heartbeats():
                pass
            reader.snapshot()
        except DamagedFileError as error:
            verifier.audit.report(Difference("file", verifier.audit.seq + 1, str(error)))
        finally:
            progress.clear()
        verifier.finish()
    return verifier.report()


def _offline(session: Session, anchors: list[Anchor]) -> Report:
    if session.nats:
        raise UserError("--offline reads files of this host, and --nats names a server", hint="leave one of them out")
    if plane.nats_url(session):
        raise RefusedError("the server of the state directory runs", hint="stop it first, or leave --offline out")
    directory = journal_dir(paths.nats_dir(session.state_dir))
    seen = SeenFile(session.state_dir).read()  # what the services saw last is an anchor too
    if seen is not None and seen.seq:
        anchors = [*anchors, Anchor(seen.seq, seen.digest)]
    progress, verifier = ProgressLine(), Verifier(anchors=anchors)
    try:
        for found in read_blocks(directory):
            if isinstance(found, StoredRecord):
                verifier.add(found.record)
                if found.record.seq % 1_000 == 0:
                    progress("verifying", found.record.seq, 0)
            else:
                verifier.audit.report(found)
    finally:
        progress.clear()
    verifier.finish(last_seen=seen.seq if seen is not None else 0)
    if seen is not None and seen.created != created(directory):
        detail = "the journal is another one than the one that was seen in this state directory"
        verifier.audit.report(Difference("end", 0, detail, "", seen.created, created(directory)))
    return verifier.report()


async def _live(session: Session, anchors: list[Anchor], *, timeout_s: float) -> Report:
    progress = ProgressLine()
    async with plane.opened(session, timeout_s=timeout_s, offline=True) as control:
        journal = control.store.journal
        answers = await asyncio.gather(
            *(control.ask_everybody(service, "digest", api.DigestRequest(), api.DigestAnswer) for service in SERVICES)
        )
        heads = await control.store.snapshots.heads(schema())
        last = await journal.last_sequence()
        wanted = [answer for each in answers for answer in each]
        verifier = Verifier(anchors=anchors, wanted=wanted, keep=[head.seq for head in heads])
        try:
            await verify_entries(verifier, journal.records(upto=last), upto=last, progress=progress)
            verifier.finish(last_seen=last)
            await compare_snapshots(verifier, control.store.snapshots, heads)

            async def runs() -> list[api.RunsAnswer]:
                return await control.ask_everybody(api.AGENT, "runs", api.RunsRequest(), api.RunsAnswer)

            await compare_runs(verifier, journal, runs, asyncio.sleep)
        finally:
            progress.clear()
        for service, found in zip(SERVICES, answers, strict=True):
            if not found:
                note(f"no {service} runs: nothing to compare with")
    return verifier.report()


def _show(report: Report) -> None:
    say(f"{report.entries} entries up to {report.last_seq}, {report.seals} seals; sealed up to {report.sealed_upto}")
    extra: list[tuple[int, Any]] = [
        (report.unknown, "unknown to this version"),
        (report.poison, "that cannot be read"),
        (report.anchors_checked, "anchors passed"),
    ]
    for count, what in extra:
        if count:
            say(f"{count} {what}" if "anchors" in what else f"{count} entries {what}")
    for each in report.compared:
        say(f"{each.what} {'agrees' if each.agrees else 'DIFFERS'} at entry {each.seq}")
    for difference in report.differences[:SHOWN]:
        say(f"DIFFERENCE ({difference.check}) at entry {difference.seq}: {difference.detail}")
        if difference.expected or difference.found:
            say(f"  expected {difference.expected or 'nothing'}")
            say(f"  found    {difference.found or 'nothing'}")
    if report.differences_total > SHOWN:
        say(f"… and {report.differences_total - SHOWN} more differences; --json shows up to 1,000")
    say("NOT as it should be" if report.differences_total else "everything is as the journal says")
    say(f"anchor {report.anchor}")
