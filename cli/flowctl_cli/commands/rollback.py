"""``flowctl rollback``."""

import asyncio
import uuid
from typing import Annotated

import msgspec
import typer

from flowctl import api
from flowctl.errors import NotFoundError, RefusedError
from flowctl.ids import check_id
from flowctl.journal import subjects
from flowctl.journal.events import Aggregate, PipelineSubmitted
from flowctl.journal.log import Entry
from flowctl.journal.store import Store
from flowctl_cli import plane, rollout, terminal
from flowctl_cli.commands.up import CALL_S, PlannedOption, PlanOption, UpTimeoutOption, Wish, YesOption, pursue
from flowctl_cli.session import JsonOption, Session, command, new_app, run

app = new_app()


@command(
    app,
    "flowctl rollback orders",
    "flowctl rollback orders --to 2 --plan",
    "flowctl rollback orders --yes --no-wait --json",
)
def rollback(
    session: Session,
    *,
    pipeline: Annotated[str, typer.Argument(metavar="PIPELINE", help="Which one.")],
    to: Annotated[
        int | None,
        typer.Option("--to", metavar="REVISION", min=1, help="The revision; else the last one that was different."),
    ] = None,
    plan: PlanOption = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Return when every instance runs.")] = True,
    timeout: UpTimeoutOption = None,
    yes: YesOption = False,
    planned: PlannedOption = None,
    json: JsonOption = False,
) -> None:
    """Let a pipeline be again what an earlier revision of its file said.

    The journal has every revision. What it said then is submitted as a new revision, by the same rules as `flowctl up`: only
    what differs is replaced, what is healthy one instance after the other. `flowctl history PIPELINE --type PipelineSubmitted`
    lists the revisions.
    """
    check_id(pipeline, "pipeline")
    past, now = run(_revision(session, pipeline, to))
    request = api.Submit(
        pipeline=msgspec.Raw(msgspec.json.encode(past.pipeline)),
        source=past.source,
        expected_seq=planned,
        correlation=uuid.uuid4().hex,
    )
    if plan:
        run(rollout.show_plan(session, request, json=json, timeout_s=CALL_S))
        return
    if not json:
        terminal.note(f"{pipeline} goes back from revision {now} to what it was in revision {past.revision}")
    wish = Wish(file="", detach=True, wait=wait, timeout_s=timeout, json=json, yes=yes, planned=planned)
    raise typer.Exit(asyncio.run(pursue(session, wish, lambda: request)))


async def _revision(session: Session, name: str, to: int | None) -> tuple[PipelineSubmitted, int]:
    """What is to be submitted again, and the present revision."""
    async with plane.opened(session, timeout_s=CALL_S) as control:
        return chosen(name, await _submissions(control.store, name), to)


def chosen(name: str, submissions: list[PipelineSubmitted], to: int | None) -> tuple[PipelineSubmitted, int]:
    """The revision to go back to, and the present one. ``submissions`` are all of the pipeline's, oldest first.

    Raises:
        NotFoundError: there is no such pipeline or revision.
        RefusedError: there is nothing to go back to.
    """
    if not submissions:
        raise NotFoundError(f"there is no pipeline {name!r}", hint="`flowctl status` shows all of them")
    now = submissions[-1]
    if to is not None:
        found = next((each for each in reversed(submissions) if each.revision == to), None)
        if found is None:
            raise NotFoundError(f"{name} has no revision {to}", hint=f"it has 1 to {now.revision}")
    else:
        found = next((each for each in reversed(submissions) if each.pipeline != now.pipeline), None)
        if found is None:
            raise RefusedError(f"{name} was never anything else than in revision {now.revision}: there is nothing to go back to")
    if found.pipeline == now.pipeline:
        raise RefusedError(f"{name} is what it was in revision {found.revision} already")
    return found, now.revision


async def _submissions(store: Store, name: str) -> list[PipelineSubmitted]:
    subject = subjects.entry_subject(Aggregate.of_pipeline(name), subjects.TOKENS[PipelineSubmitted][1])
    entries: list[Entry] = [entry async for entry in store.journal.read(subject=subject)]
    return [entry.event for entry in entries if isinstance(entry.event, PipelineSubmitted)]
