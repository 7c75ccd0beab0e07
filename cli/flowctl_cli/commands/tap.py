"""``flowctl tap``."""

import contextlib
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Final

import typer

from flowctl.errors import UserError
from flowctl_cli import plane
from flowctl_cli.session import DEFAULT_TIMEOUT_S, JsonOption, Session, TimeoutOption, command, new_app, run
from flowctl_cli.targets import Target
from flowctl_cli.terminal import clock_time, coloured, note, one_line, paint, say

if TYPE_CHECKING:
    from flowctl_sdk import Event

SHOWN_EVENTS_PER_S: Final = 100
FILTERED_EVENTS_PER_S: Final = 5_000
SHOWN_PAYLOAD: Final = 4_000

app = new_app()


@command(
    app,
    "flowctl tap orders.enrich",
    "flowctl tap orders.enrich.0 --limit 10 --json | jq .payload",
    "flowctl tap orders.database --filter 'total > `100`'",
    "flowctl tap orders.numbers --envelope --filter \"type == 'order'\"",
)
def tap(
    session: Session,
    *,
    target: Annotated[str, typer.Argument(metavar="PIPELINE.COMPONENT[.INDEX]", help="Whose events.")],
    filter_: Annotated[
        str | None,
        typer.Option("--filter", metavar="JMESPATH", help="Show only events for which this is true, over the payload."),
    ] = None,
    envelope: Annotated[
        bool, typer.Option("--envelope", help="Let --filter see {id, time, type, metadata, payload} instead of the payload.")
    ] = False,
    limit: Annotated[int | None, typer.Option("--limit", metavar="N", min=1, help="End after N events.")] = None,
    rate: Annotated[
        int | None,
        typer.Option(
            "--rate", metavar="N", min=1, max=10_000, help="At most N events a second of each instance; 100, with --filter 5000."
        ),
    ] = None,
    json: JsonOption = False,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_S,
) -> None:
    """Show live events that leave a component; for a sink, those that its inputs send.

    Of a fast stream a sample is shown, and how many passed unseen is said; a tap never slows the stream. It follows the component
    through restarts until Ctrl-C, or until the component has ended. With --json one object a line.
    """
    named = Target.parse(target)
    if named.component is None:
        raise UserError(
            f"{target!r} names no component", hint=f"for example {target}.numbers; `flowctl status {target}` has them"
        )
    if envelope and filter_ is None:
        raise UserError("--envelope says what --filter sees, and there is no --filter")
    wanted = _predicate(filter_, envelope=envelope) if filter_ is not None else None
    events_per_s = rate or (FILTERED_EVENTS_PER_S if wanted else SHOWN_EVENTS_PER_S)
    run(_show(session, named, wanted, limit=limit, events_per_s=events_per_s, json=json, timeout_s=timeout))


async def _show(
    session: Session,
    target: Target,
    wanted: "Callable[[Event], bool] | None",
    *,
    limit: int | None,
    events_per_s: int,
    json: bool,
    timeout_s: float,
) -> None:
    from flowctl_cli.tapping import Tapping

    shown = unseen = 0
    show = _print_json if json else _print
    try:
        async with plane.opened(session, timeout_s=timeout_s) as control:
            tapping = Tapping(control, target, events_per_s=events_per_s, say=note)
            async with contextlib.aclosing(tapping.samples()) as samples:
                async for sample in samples:
                    if sample.skipped and not unseen:
                        note(f"a sample: more pass than the {events_per_s} events a second that are looked at (--rate)")
                    unseen += sample.skipped
                    for event in sample.events:
                        if wanted is not None and not wanted(event):
                            continue
                        show(event)
                        shown += 1
                        if shown == limit:
                            return
    finally:
        if unseen:
            note(f"{shown} shown; {unseen} others passed unseen")


def _predicate(text: str, *, envelope: bool) -> "Callable[[Event], bool]":
    """Whether an event is wanted; one that the expression fails on is not.

    Raises:
        UserError: it is no expression.
    """
    import jmespath
    import jmespath.exceptions

    from flowctl_components.expression import is_true
    from flowctl_components.line import envelope as envelope_of
    from flowctl_components.line import readable

    try:
        search = jmespath.compile(text).search
    except jmespath.exceptions.JMESPathError as error:
        raise UserError(f"--filter: {text!r} is not a JMESPath expression: {' '.join(str(error).split())}") from error

    def wanted(event: "Event") -> bool:
        try:
            return is_true(search(envelope_of(event) if envelope else readable(event.payload)))
        except jmespath.exceptions.JMESPathError:
            return False

    return wanted


def _print_json(event: "Event") -> None:
    from flowctl_components.line import envelope_line

    say(envelope_line(event).decode())


def _print(event: "Event") -> None:
    from flowctl_components.line import payload_line

    payload = one_line(payload_line(event.payload[:SHOWN_PAYLOAD] if _is_long(event) else event.payload).decode(errors="replace"))
    about = [clock_time(event.time_ns), event.id]
    if event.type:
        about.append(f"[{event.type}]")
    about += [f"{name}={value}" for name, value in (event.metadata or {}).items()]
    head = one_line(" ".join(about))
    size = f" … ({len(event.payload):,} bytes)" if _is_long(event) else ""
    say(f"{paint(head, 'faint') if coloured(sys.stdout) else head} {payload}{size}")


def _is_long(event: "Event") -> bool:
    return len(event.payload) > SHOWN_PAYLOAD
