"""``flowctl dead-letters list``, ``show`` and ``redrive``."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from typing import Annotated

import typer

from flowctl import api
from flowctl.errors import DeadlineError, FlowctlError, NotFoundError, UserError
from flowctl.instants import Instant, parse_instant
from flowctl.journal import subjects
from flowctl.journal.events import ComponentLettersRedriven, ComponentRedriveRequested
from flowctl.journal.letters import StoredLetter
from flowctl.journal.log import Entry
from flowctl.journal.store import Store
from flowctl.past import moment
from flowctl_cli import letters, plane
from flowctl_cli.letters import Fate, LetterList, LetterView, WholeLetter
from flowctl_cli.plane import Plane
from flowctl_cli.session import DEFAULT_TIMEOUT_S, AtOption, JsonOption, Session, TimeoutOption, callback, command, new_app, run
from flowctl_cli.targets import Target
from flowctl_cli.terminal import note, print_json, print_table, say

app = new_app()

DEFAULT_LIMIT = 100
TargetArgument = Annotated[str, typer.Argument(metavar="PIPELINE[.COMPONENT]", help="Whose dead letters.")]


@callback(
    app,
    "flowctl dead-letters list orders",
    "flowctl dead-letters show orders.enrich --id 17",
    "flowctl dead-letters redrive orders.enrich --wait",
)
def dead_letters(session: Session, ctx: typer.Context) -> None:
    """Show the events that components gave up on, and send them again.

    A component with `on_error: {action: dead_letter}` puts an event aside when it has failed on it for good, and goes on.
    """
    del session
    if ctx.invoked_subcommand is None:
        raise UserError("say what to do with the dead letters: list, show or redrive", hint="flowctl dead-letters list PIPELINE")


@command(
    app,
    "flowctl dead-letters list orders",
    "flowctl dead-letters list orders.enrich --limit 10",
    "flowctl dead-letters list orders --at 'yesterday 12:00'",
    "flowctl dead-letters list orders --json | jq '.letters[].error'",
    name="list",
)
def list_(
    session: Session,
    *,
    target: TargetArgument,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, max=10_000, help="At most the N newest.")] = DEFAULT_LIMIT,
    at: AtOption = None,
    json: JsonOption = False,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_S,
) -> None:
    """Count the dead letters by component and show the newest, newest first; with --at those of then, in the state of then.

    Works without a running server too: then the state directory's store is opened for as long as this takes.
    """
    chosen = parse(target)
    instant = parse_instant(at) if at is not None else None
    found, now_ms = run(_list(session, chosen, instant, limit=limit, timeout_s=timeout))
    if json:
        print_json(found)
        return
    if not found.total:
        note(f"{chosen} has no dead letters" if instant is None else f"{chosen} had no dead letters")
        return
    for each in found.components:
        states = {"to be redriven": each.redriving, "redriven": each.redriven, "failed again": each.failed_again}
        more = "".join(f", {count} {state}" for state, count in states.items() if count)
        say(f"{chosen.pipeline}.{each.component}: {each.letters} {'letter' if each.letters == 1 else 'letters'}{more}")
    say()
    print_table(letters.HEAD, [letters.row(letter, now_ms) for letter in found.letters])
    if len(found.letters) < found.total:
        note(f"these are the newest {len(found.letters)} of {found.total}; --limit shows more")


@command(app, "flowctl dead-letters show orders --id 17", "flowctl dead-letters show orders.enrich --id 17 --json", name="show")
def show(
    session: Session,
    *,
    target: TargetArgument,
    number: Annotated[int | None, typer.Option("--id", metavar="N", min=1, help="Which one; the newest if left out.")] = None,
    at: AtOption = None,
    json: JsonOption = False,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_S,
) -> None:
    """Show one dead letter with everything: the event, the error, how often it was tried, what became of it.

    With --at what had become of it by then. Works without a running server too, as `list` does.
    """
    found = run(_show(session, parse(target), number, parse_instant(at) if at is not None else None, timeout_s=timeout))
    if json:
        print_json(found)
    else:
        for line in letters.lines(found):
            say(line)


@command(
    app,
    "flowctl dead-letters redrive orders.enrich",
    "flowctl dead-letters redrive orders.enrich --id 17 --id 18",
    "flowctl dead-letters redrive orders --wait --timeout 60",
    name="redrive",
)
def redrive(
    session: Session,
    *,
    target: TargetArgument,
    number: Annotated[
        list[int] | None, typer.Option("--id", metavar="N", min=1, help="Only this one, delivered or not; repeatable.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until each is delivered to every sink or failed again.")] = False,
    json: JsonOption = False,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_S,
) -> None:
    """Let the component process its dead letters once more: all that were never delivered, or those that are named.

    An event keeps its id, so sinks that know what they have written recognise it. An instance that does not run now gets its
    letters when it does. Every letter is redriven at least once; one that fails again stays a letter. With --wait the exit code
    is 1 if one has failed again.
    """
    chosen = parse(target)
    request = api.RedriveLetters(pipeline=chosen.pipeline, component=chosen.component, letters=number or [])
    done, failed = run(_redrive(session, chosen, request, wait=wait, timeout_s=timeout))
    if json:
        print_json(done)
    elif not done.letters:
        note("there is nothing to redrive")
    else:
        count = len(done.letters)
        what = f"{count} dead {'letter' if count == 1 else 'letters'}"
        say(f"{what} redriven" if wait else f"{what} to be redriven by {', '.join(done.instances)} (journal entry {done.seq})")
        for instance in done.absent if not wait else ():
            note(f"{instance} does not run now: it gets its letters when it does")
    if failed:
        raise FlowctlError(
            f"{failed} of {len(done.letters)} have failed again", hint=f"`flowctl dead-letters list {chosen}` shows why"
        )


def parse(text: str) -> Target:
    """Whose letters are meant.

    Raises:
        UserError: it is not PIPELINE or PIPELINE.COMPONENT.
    """
    target = Target.parse(text)
    if target.index is not None:
        raise UserError(f"{text[:80]!r} names an instance: dead letters belong to PIPELINE.COMPONENT")
    return target


async def _list(
    session: Session, target: Target, instant: Instant | None, *, limit: int, timeout_s: float
) -> tuple[LetterList, float]:
    """The letters, and when they were so (Unix milliseconds)."""
    async with _in_time(timeout_s), plane.opened(session, timeout_s=timeout_s, offline=True) as control:
        store = control.store
        at = await moment(store, instant) if instant is not None else None
        envelopes = await store.dead_letters.envelopes(target.pipeline, target.component)
        if at is not None:
            envelopes = [envelope for envelope in envelopes if envelope.time_ns <= at.time_ns]
        known = await _fates(store, target, upto=at.seq if at is not None else None)
        shown = {envelope.number for envelope in envelopes[-limit:]}
        views: list[LetterView] = []
        if shown:
            async with contextlib.aclosing(_from(store, target, min(shown))) as stored:
                async for each in stored:
                    if each.number > max(shown):
                        break
                    views += [letters.view(each, known.get(each.number, Fate()))]
        found = LetterList(total=len(envelopes), components=letters.counted(envelopes, known), letters=views[::-1][:limit])
        return found, at.time_ns / 1e6 if at is not None else time.time() * 1000


async def _from(store: Store, target: Target, number: int) -> AsyncGenerator[StoredLetter]:
    async for stored in store.dead_letters.read(target.pipeline, target.component, after=number - 1):
        yield stored


async def _show(
    session: Session, target: Target, number: int | None, instant: Instant | None, *, timeout_s: float
) -> WholeLetter:
    async with _in_time(timeout_s), plane.opened(session, timeout_s=timeout_s, offline=True) as control:
        store = control.store
        at = await moment(store, instant) if instant is not None else None
        envelopes = await store.dead_letters.envelopes(target.pipeline, target.component)
        numbers = {envelope.number for envelope in envelopes if at is None or envelope.time_ns <= at.time_ns}
        if not numbers or (number is not None and number not in numbers):
            had = "has" if at is None else "had"
            raise NotFoundError(
                f"{target} {had} no dead letters" if number is None else f"{target} {had} no dead letter {number}",
                hint=f"`flowctl dead-letters list {target.pipeline}` shows what there is",
            )
        stored = await store.dead_letters.get(max(numbers) if number is None else number)
        known = await _fates(store, target, upto=at.seq if at is not None else None)
        return letters.whole(stored, known.get(stored.number, Fate()))


async def _fates(store: Store, target: Target, *, upto: int | None = None) -> dict[int, Fate]:
    found: list[Entry] = []
    for event in (ComponentRedriveRequested, ComponentLettersRedriven):
        found += [entry async for entry in store.journal.read(upto=upto, subject=_subject(target, event))]
    return letters.fates(sorted(found, key=lambda entry: entry.seq))


def _subject(target: Target, event: type[ComponentRedriveRequested] | type[ComponentLettersRedriven]) -> str:
    token = subjects.TOKENS[event][1]
    return f"{subjects.JOURNAL_ROOT}.component.{target.pipeline}.{target.component or '*'}.*.{token}"


async def _redrive(
    session: Session, target: Target, request: api.RedriveLetters, *, wait: bool, timeout_s: float
) -> tuple[api.Redriving, int]:
    """What was asked for, and how many have failed again, if that was waited for."""
    async with plane.opened(session, timeout_s=timeout_s) as control:
        done = await control.ask(api.REGISTRY, "redrive", request, api.Redriving)
        if not wait or not done.letters:
            return done, 0
        for instance in done.absent:
            note(f"{instance} does not run now: it gets its letters when it does")
        left = set(done.letters)
        try:
            async with asyncio.timeout(timeout_s):
                return done, await _settled(control, target, done.seq, left)
        except TimeoutError:
            raise DeadlineError(
                f"{len(left)} of {len(done.letters)} dead letters were not settled within {timeout_s:g} s",
                hint="they are still under way; `flowctl dead-letters list` shows how far they are, --timeout waits longer",
            ) from None


async def _settled(control: Plane, target: Target, after: int, left: set[int]) -> int:
    failed = 0
    async for entry in control.store.journal.follow(after=after, subject=_subject(target, ComponentLettersRedriven)):
        if isinstance(entry.event, ComponentLettersRedriven):
            settled = left & set(entry.event.letters)
            left -= settled
            failed += len(settled) if entry.event.outcome == "failed" else 0
        if not left:
            break
    return failed


@contextlib.asynccontextmanager
async def _in_time(timeout_s: float) -> AsyncGenerator[None]:
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except TimeoutError:
        raise DeadlineError(f"the dead letters could not be read within {timeout_s:g} s") from None
