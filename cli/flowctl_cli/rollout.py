"""What a submission would do, shown before it is done; and the user's yes or no to it."""

import asyncio
import sys
from collections import Counter
from typing import Final

import msgspec

from flowctl import api
from flowctl.api import PreviewView, Step
from flowctl.errors import ControlPlaneUnreachableError
from flowctl.journal.store import Store
from flowctl_cli import plane, terminal
from flowctl_cli.plane import Plane
from flowctl_cli.session import Session
from flowctl_cli.terminal import Cell, Row, Style

_LOOKS: Final[dict[str, Style]] = {"start": "good", "replace": "busy", "stop": "bad", "keep": "faint"}
_SIGNS: Final = {"start": "+", "replace": "~", "stop": "-", "keep": " "}
_HEAD: Final = ("", "INSTANCE", "HOST", "ABOUT")


async def show_plan(session: Session, request: api.Submit, *, json: bool, timeout_s: float) -> None:
    """Print what the submission would do. Starts no control plane: what a stopped one knew is read from its journal.

    Raises:
        FlowctlError: what the orchestrator says to the submission.
    """
    view, answered = await _preview(session, request, timeout_s=timeout_s)
    if json:
        terminal.print_json(view)
        return
    for line in sentences(view):
        terminal.say(line)
    terminal.print_table(_HEAD, rows(view))
    if view.change != "unchanged" and answered:  # a control plane that starts first changes what the plan stands on
        terminal.note(f"do exactly this with `flowctl up … --planned {view.seq}`")


async def agreed(control: Plane, request: api.Submit, interrupted: asyncio.Event) -> api.Submit | None:
    """The submission as the user agrees to it, bound to the plan that was shown; None if not.

    What does not change a running pipeline is not asked about.
    """
    question = api.Preview(pipeline=request.pipeline, fresh=request.fresh, actor=request.actor)
    view = await control.ask(api.ORCHESTRATOR, "preview", question, PreviewView)
    if view.change != "changed":
        return request
    for line in sentences(view):
        terminal.say(line)
    terminal.print_table(_HEAD, rows(view))
    sys.stdout.write("Go on? [y/N] ")
    sys.stdout.flush()
    answer = await _line(interrupted)
    if answer.strip().lower() not in ("y", "yes"):
        return None
    return msgspec.structs.replace(request, expected_seq=view.seq)


def sentences(view: PreviewView) -> list[str]:
    """The plan in a line."""
    counts = Counter(step.action for step in view.steps)
    if view.change == "unchanged":
        return [f"{view.pipeline} runs already, exactly so (revision {view.revision})"]
    words = (("start", "to start"), ("replace", "to replace"), ("stop", "to stop"), ("keep", "to leave alone"))
    parts = [f"{counts[action]} {text}" for action, text in words if counts[action]]
    verb = "would become" if view.change == "changed" else "would run as"
    return [f"{view.pipeline} {verb} revision {view.revision}: {', '.join(parts)} (as of journal entry {view.seq})"]


def rows(view: PreviewView) -> list[Row]:
    """The plan as a table: what happens first, then what is left alone."""
    order = sorted(view.steps, key=lambda step: step.action == "keep")
    return [
        (Cell(_SIGNS[step.action], _LOOKS[step.action]), Cell(step.instance, _LOOKS[step.action]), step.host, _about(step))
        for step in order
    ]


def _about(step: Step) -> str:
    words = [step.action if step.action != "keep" else "unchanged"]
    if step.rolling:
        words.append("when those replaced before it are healthy")
    if step.fields:
        words.append(f"changed: {', '.join(step.fields)}")
    if step.waiting_for:
        words.append(f"waits: {step.waiting_for}")
    return "; ".join(words)


async def _preview(session: Session, request: api.Submit, *, timeout_s: float) -> tuple[PreviewView, bool]:
    """The plan, and whether it is an orchestrator's that runs."""
    if not plane.nats_url(session) and not plane.has_store(session):
        return await _worked_out(None, request), False
    async with plane.opened(session, timeout_s=timeout_s, offline=True) as control:
        try:
            question = api.Preview(pipeline=request.pipeline, fresh=request.fresh, actor=request.actor)
            return await control.ask(api.ORCHESTRATOR, "preview", question, PreviewView), True
        except ControlPlaneUnreachableError:
            return await _worked_out(control.store, request), False


async def _worked_out(store: Store | None, request: api.Submit) -> PreviewView:
    """The preview without an orchestrator: from the journal, or from nothing."""
    from flowctl.decision import Rejected
    from flowctl.fleet import Fleet
    from flowctl.past import fleet_at
    from flowctl.projection import refusal
    from flowctl.spec.model import Pipeline
    from flowctl_orchestrator.preview import preview

    fleet = Fleet() if store is None else await fleet_at(store, await store.journal.last_sequence())
    pipeline = msgspec.json.decode(bytes(request.pipeline), type=Pipeline)
    found = preview(fleet, pipeline, fleet.time_ns, fresh=request.fresh)
    if isinstance(found, Rejected):
        raise refusal(found)
    return found


async def _line(interrupted: asyncio.Event) -> str:
    """A line that the user types, empty at the end of input or when interrupted."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    descriptor = sys.stdin.fileno()
    loop.add_reader(descriptor, ready.set)
    waits = [asyncio.ensure_future(ready.wait()), asyncio.ensure_future(interrupted.wait())]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        loop.remove_reader(descriptor)
        for wait in waits:
            wait.cancel()
    return sys.stdin.readline() if ready.is_set() else ""
