"""``flowctl logs``."""

import asyncio
import sys
from collections import deque
from collections.abc import Callable
from typing import Annotated, Final

import msgspec
import typer

from flowctl.errors import JournalUnavailableError, UserError
from flowctl.instants import Instant, parse_instant
from flowctl.journal.logs import LogLine, Logs
from flowctl.past import moment
from flowctl_cli import plane
from flowctl_cli.session import DEFAULT_TIMEOUT_S, AtOption, JsonOption, Session, TimeoutOption, command, new_app, run
from flowctl_cli.targets import Target
from flowctl_cli.terminal import clock_time, coloured, note, one_line, paint, say

RESUME_LINES: Final = 10_000

app = new_app()


@command(
    app,
    "flowctl logs orders",
    "flowctl logs orders.enrich -f",
    "flowctl logs orders.enrich.0 --tail 20 --json",
    "flowctl logs orders --at '10 minutes ago' --tail 50",
)
def logs(
    session: Session,
    *,
    target: Annotated[str, typer.Argument(metavar="PIPELINE[.COMPONENT[.INDEX]]", help="Whose output.")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with every new line until Ctrl-C.")] = False,
    tail: Annotated[int | None, typer.Option("--tail", metavar="N", min=0, help="Only the last N lines; all by default.")] = None,
    at: AtOption = None,
    times: Annotated[bool, typer.Option("--times", help="Put the time before each line.")] = False,
    json: JsonOption = False,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_S,
) -> None:
    """Show what instances print, also of those that have ended; with --at what they had printed by then.

    Works without a running server too, unless --follow is given.
    """
    instant = parse_instant(at) if at is not None else None
    if follow and instant is not None:
        raise UserError("--follow goes on with what is new, and --at ends with what was then", hint="leave one of them out")
    printer = LinePrinter(times=times, json=json)
    run(_show(session, Target.parse(target), printer, instant, follow=follow, tail=tail, timeout_s=timeout))
    if printer.count == 0 and not json:
        note(f"{target} {'has' if instant is None else 'had'} printed nothing that is kept")


class LogView(msgspec.Struct, frozen=True, kw_only=True):
    """One line of output. ``stream`` is ``stdout`` or ``stderr``; ``time_ms`` Unix milliseconds."""

    instance: str
    component: str
    index: int
    incarnation: int
    stream: str
    time_ms: int
    text: str


async def _show(
    session: Session,
    target: Target,
    printer: "LinePrinter",
    instant: Instant | None,
    *,
    follow: bool,
    tail: int | None,
    timeout_s: float,
) -> None:
    async with plane.opened(session, timeout_s=timeout_s, offline=not follow) as control:
        logs = control.store.logs
        if follow:
            await follow_lines(logs, target, printer.print, tail=tail)
            return
        if instant is None:
            async for line in logs.read(target.pipeline, component=target.component, index=target.index, tail=tail):
                printer.print(line)
            return
        end = await moment(control.store, instant)
        last: deque[LogLine] = deque(maxlen=tail)
        async for line in logs.read(target.pipeline, component=target.component, index=target.index):
            if line.time_ns <= end.time_ns:
                last.append(line)
        for line in last:
            printer.print(line)


async def follow_lines(logs: Logs, target: Target, show: Callable[[LogLine], None], *, tail: int | None) -> None:
    """Show stored lines and then every new one, for ever; goes on where it was when the journal went away and came back."""
    shown = Shown()
    while True:
        try:
            async for line in logs.read(target.pipeline, component=target.component, index=target.index, tail=tail, follow=True):
                if shown.takes(line):
                    show(line)
        except JournalUnavailableError as error:
            note(f"waiting for the journal: {error.message}")
            if shown.resume():
                tail = RESUME_LINES
            await asyncio.sleep(1.0)


class Shown:
    """What has been shown already. Lines are known by their ids: many may carry the same time."""

    def __init__(self) -> None:
        self._ids: dict[str, None] = {}
        self._last_ns = 0
        self._resuming = False

    def resume(self) -> bool:
        """Reading begins again, somewhere before the last line that was shown; false if there was none."""
        self._resuming = bool(self._ids)
        return self._resuming

    def takes(self, line: LogLine) -> bool:
        """Is this line to be shown now? If so it counts as shown."""
        if line.id and line.id in self._ids:
            self._resuming = False
            return False
        if self._resuming and line.time_ns < self._last_ns:
            return False  # from before the first line that was asked for
        self._last_ns = line.time_ns
        if line.id:
            self._ids[line.id] = None
        if len(self._ids) > RESUME_LINES:
            del self._ids[next(iter(self._ids))]
        return True


_HUES: Final = ("36", "35", "34", "33", "32", "96", "95", "94")


class LinePrinter:
    """Prints lines of output, each after the name of its instance; every component has its own colour on a terminal."""

    def __init__(self, *, times: bool = False, json: bool = False) -> None:
        self._times = times
        self._json = json
        self._colour = coloured(sys.stdout)
        self._width = 0
        self._hues: dict[str, str] = {}
        self.count = 0

    def print(self, line: LogLine) -> None:
        """Print one line."""
        self.count += 1
        say(self._as_json(line) if self._json else self.render(line))

    def render(self, line: LogLine) -> str:
        """The line as text."""
        name = str(line.instance)
        self._width = max(self._width, len(name))
        label = name.ljust(self._width)
        time = f"{clock_time(line.time_ns)} " if self._times else ""
        text = one_line(line.text)
        if not self._colour:
            return f"{time}{label} | {text}"
        hue = self._hues.setdefault(line.instance.component, _HUES[len(self._hues) % len(_HUES)])
        return f"{paint(time, 'faint')}\x1b[{hue}m{label} |\x1b[0m {text}"

    @staticmethod
    def _as_json(line: LogLine) -> str:
        view = LogView(
            instance=str(line.instance),
            component=line.instance.component,
            index=line.instance.index,
            incarnation=line.incarnation,
            stream=line.stream,
            time_ms=line.time_ns // 1_000_000,
            text=line.text,
        )
        return msgspec.json.encode(view).decode()
