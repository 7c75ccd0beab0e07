"""Processor ``exec``: any program as a processor, one line for each event on its standard input and one on its standard output.

Configuration::

    command: [sed, -u, 's/colour/color/g']      # program and arguments; no shell
    format: lines           # json | lines
    env: {LC_ALL: C}        # added to the component's environment
    timeout_s: 60           # for the answers to one batch of events

``lines``: a line in is a payload, the line that the program answers with is the new one, and an empty answer drops the
event. Payloads with line breaks cannot be put so.

``json``, the default: a line in is ``{"id", "time", "type", "metadata", "payload"}``; the answer is ``{"payload": …}``, with
``type`` and ``metadata`` if they change; or a list of such objects; or ``null`` to drop the event.

The program must answer every line with one line, in order, and keep back neither what it reads nor what it prints:
``sed -u``, ``mawk -W interactive``, a flush after each line. Lines are written ahead of the answers, so neither side can
block the other. What it prints on standard error goes to the log.

Guarantee: order is kept. The program's end before the component's is the component's failure, whatever ``on_error`` says, with
its exit code and its last words, and the component's ``restart`` rule says what follows. One that does not answer in time,
prints more lines than it was asked for, or a line that is no answer, is killed: which answer belongs to which event is not
certain any more. ``on_error`` says what becomes of the events, and a fresh program gets the next ones. The program's standard
input is closed when the component ends.
"""

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, field

from flowctl.errors import ComponentError
from flowctl_components.config import Config, invalid, read_config
from flowctl_components.line import encode, envelope_line
from flowctl_components.program import Program
from flowctl_sdk import Context, Event, Processor, run
from flowctl_sdk.faults import ComponentFailedError


class ExecConfig(Config, frozen=True, kw_only=True):
    """See the module."""

    command: Annotated[list[str], Meta(min_length=1)]
    format: Literal["json", "lines"] = "json"
    env: dict[str, str] = field(default_factory=dict[str, str])
    timeout_s: Annotated[float, Meta(gt=0, le=86_400)] = 60.0


class Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a program says of one event in format json."""

    payload: Any
    type: str | None = None
    metadata: dict[str, str] | None = None


_decode: Final = msgspec.json.Decoder().decode


class Exec(Processor):
    """Any program as a processor."""

    batch = True
    _program: Program | None = None

    async def open(self, ctx: Context) -> None:
        """Start the program."""
        self._log = ctx.log
        self._config = config = read_config(ctx, ExecConfig)
        try:
            self._program = await Program.start(config.command, config.env, ctx.log)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise invalid(ctx, "command", f"cannot start {config.command[0]!r}: {reason}") from error

    async def process(self, events: list[Event]) -> list[object]:
        """The program's answers to the events, one each."""
        if self._program is None:
            raise RuntimeError("process() before open()")
        questions = [self._question(event) for event in events]
        if self._program.spent:
            self._program = await self._fresh(self._program)
        answers = await self._program.ask(questions, self._config.timeout_s)
        try:
            return [self._result(event, answer) for event, answer in zip(events, answers, strict=True)]
        except ComponentError:
            # A line too many may have pushed the others out of their places.
            self._program.kill()
            raise

    async def close(self) -> None:
        """End the program."""
        if self._program is not None:
            await self._program.close()

    async def _fresh(self, spent: Program) -> Program:
        """Another program in the place of one that was killed."""
        await spent.close()
        self._log.warning("starting %s anew", spent.name)
        try:
            return await Program.start(self._config.command, self._config.env, self._log)
        except OSError as error:
            raise ComponentFailedError(f"cannot start {spent.name!r} anew: {error.strerror}") from error

    def _question(self, event: Event) -> bytes:
        if self._config.format == "json":
            return envelope_line(event)
        if b"\n" in event.payload:
            raise ValueError(f"the payload of event {event.id} has a line break, which format lines cannot hand over")
        return event.payload

    def _result(self, event: Event, line: bytes) -> object:
        if self._config.format == "lines":
            return line.removesuffix(b"\r") or None
        try:
            value = _decode(line)
            if value is None:
                return None
            if isinstance(value, list):
                return [_made(event, answer) for answer in msgspec.convert(value, list[Answer])]
            return _made(event, msgspec.convert(value, Answer))
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            expected = '{"payload": …}, a list of those, or null'
            raise ComponentError(
                f"{self._config.command[0]!r} answered event {event.id} with {line[:120]!r}: {error}; expected {expected}"
            ) from error


def _made(event: Event, answer: Answer) -> bytes | Event:
    payload = encode(answer.payload)
    if answer.type is None and answer.metadata is None:
        return payload
    return event.replace(payload, type=answer.type, metadata=answer.metadata)


if __name__ == "__main__":
    run(Exec())
