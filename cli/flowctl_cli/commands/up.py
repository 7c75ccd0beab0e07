"""``flowctl up`` (and ``run``)."""

import asyncio
import signal
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from flowctl import api
from flowctl.errors import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, DeadlineError, FlowctlError, UserError
from flowctl_cli import plane, questions, rollout, show, terminal
from flowctl_cli.board import ended
from flowctl_cli.pursuit import Goal, Interrupts, Outcome, Pursuit
from flowctl_cli.session import JsonOption, Session, command, new_app, run
from flowctl_cli.upkeep import ENDING_S, Upkeep

app = new_app()

WAIT_S = 60.0
CALL_S = 15.0

FileArgument = Annotated[str, typer.Argument(metavar="FILE", help="The pipeline file; - is standard input.")]
FreshOption = Annotated[bool, typer.Option("--fresh", help="Forget checkpoints: begin from the start.")]
LogsOption = Annotated[
    bool | None,
    typer.Option(
        "--logs/--no-logs",
        help="Show everything that the instances print, or nothing; what they write to stdout if neither is given.",
        show_default=False,
    ),
]
PlanOption = Annotated[bool, typer.Option("--plan", help="Show what would be started, replaced and stopped; do nothing.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before a running pipeline is changed.")]
PlannedOption = Annotated[
    int | None,
    typer.Option(
        "--planned",
        metavar="SEQ",
        min=0,
        help="Submit only if what the plan of journal entry SEQ (from --plan --json) stands on is still so.",
    ),
]
UpTimeoutOption = Annotated[
    float | None,
    typer.Option(
        "--timeout",
        metavar="SECONDS",
        min=0.1,
        max=86_400,
        help="How long it may take until the pipeline runs: 60 with --wait, no limit in the foreground.",
    ),
]


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What the user wants of ``up``."""

    file: str
    detach: bool = False
    wait: bool = False
    timeout_s: float | None = None
    fresh: bool = False
    logs: bool | None = None
    json: bool = False
    yes: bool = False
    planned: int | None = None


@command(
    app,
    "flowctl up pipeline.yaml",
    "flowctl up pipeline.yaml --detach --wait --timeout 30",
    "flowctl up pipeline.yaml --log-level debug",
    "flowctl up pipeline.yaml --fresh",
    "flowctl up pipeline.yaml --plan",
    "flowctl up pipeline.yaml --detach --planned 18231",
)
def up(
    session: Session,
    *,
    file: FileArgument,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Return when the pipeline is submitted; it goes on by itself.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="With --detach: return when every instance runs.")] = False,
    timeout: UpTimeoutOption = None,
    fresh: FreshOption = False,
    logs: LogsOption = None,
    plan: PlanOption = False,
    yes: YesOption = False,
    planned: PlannedOption = None,
    json: JsonOption = False,
) -> None:
    """Run a pipeline and follow it until it ends; starts a server if none runs.

    Submitting a pipeline that runs already replaces only what has changed in its file, and what is healthy one instance after
    the other; on a terminal it shows the plan and asks first. Exits with 0 when the pipeline has completed or was stopped by
    somebody, with 1 and the reason of each component when it has failed. The first Ctrl-C drains and stops the pipeline, the
    second leaves it to itself; both exit with 130.
    """
    if wait and not detach:
        raise UserError("--wait goes with --detach", hint="without --detach, up follows the pipeline until it ends")
    wish = Wish(
        file=file, detach=detach, wait=wait, timeout_s=timeout, fresh=fresh, logs=logs, json=json, yes=yes, planned=planned
    )
    if plan:
        run(rollout.show_plan(session, request_of(wish), json=json, timeout_s=CALL_S))
        return
    raise typer.Exit(asyncio.run(pursue(session, wish, lambda: request_of(wish))))


async def pursue(session: Session, wish: Wish, make_request: Callable[[], api.Submit]) -> int:
    """Submit what ``make_request`` makes, and do all that the wish says; the exit code."""
    interrupts = Interrupts()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupts.hit)
    with Upkeep.keeping(session, stay=wish.detach) as upkeep:
        upkeep.begin()
        try:
            request = await asyncio.to_thread(make_request)
            await _unless_interrupted(asyncio.to_thread(upkeep.ready), interrupts.happened)
            if interrupts.count:
                upkeep.discard()
                return EXIT_INTERRUPTED
        except FlowctlError:
            upkeep.discard()
            raise
        code, others = await _submit_and_follow(session, wish, request, upkeep, interrupts)
        going = upkeep.release()
    # What was attached is so no longer: the server may go now.
    if going is not None and not others:
        from flowctl_cli.server_launch import wait_gone

        try:
            await asyncio.to_thread(wait_gone, session.state_dir, going, timeout_s=ENDING_S)
        except DeadlineError:
            terminal.note("the server still runs for another command, and ends after it")
    return code


async def _unless_interrupted(work: Any, interrupted: asyncio.Event) -> None:  # noqa: ANN401 - an awaitable
    """Wait for the work, but no longer than until the user has had enough."""
    waits = [asyncio.ensure_future(work), asyncio.ensure_future(interrupted.wait())]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    if waits[0].done():
        waits[0].result()
    waits[1].cancel()


def request_of(wish: Wish) -> api.Submit:
    """Read and check the file.

    Raises:
        InvalidSpecError: with every problem.
    """
    from flowctl.spec.load import load

    loaded = load(Path(wish.file))
    for warning in loaded.warnings:
        terminal.note(f"warning: {warning}")
    return api.Submit(
        pipeline=msgspec.Raw(msgspec.json.encode(loaded.pipeline)),
        # Relative paths start where the file is; standard input counts as a file "-" of the directory that one is in.
        source=str(Path(wish.file).absolute()),
        fresh=wish.fresh,
        expected_seq=wish.planned,
        correlation=uuid.uuid4().hex,
    )


async def _submit_and_follow(
    session: Session, wish: Wish, request: api.Submit, upkeep: Upkeep, interrupts: Interrupts
) -> tuple[int, int]:
    """The exit code, and how many other pipelines are live."""
    async with plane.opened(session, timeout_s=CALL_S) as control:
        if not (wish.yes or wish.json) and wish.planned is None and terminal.is_interactive():
            agreed = await rollout.agreed(control, request, interrupts.happened)
            if agreed is None:
                terminal.note("nothing was changed")
                return EXIT_INTERRUPTED if interrupts.count else EXIT_FAILED, 1
            request = agreed
        submitted = await control.ask(api.ORCHESTRATOR, "submit", request, api.Submitted)
        if not wish.json:
            terminal.note(_sentence(submitted))
        if wish.detach and not wish.wait:
            if wish.json:
                terminal.print_json(submitted)
            return EXIT_DONE, 1
        timeout_s = wish.timeout_s or (WAIT_S if wish.wait else None)
        goal = Goal(until_running=wish.wait, timeout_s=timeout_s, streams=_streams(session, wish))
        with show.chosen(json=wish.json, plain=session.debug) as shown:
            pursuit = Pursuit(session, submitted, goal, upkeep=upkeep, show=shown, interrupts=interrupts)
            outcome = await pursuit.run(control)
        _report(submitted, outcome, json=wish.json)
        if wish.detach:
            return outcome.code, 1
        try:
            live = [view for view in (await questions.status(control)).pipelines if not ended(view)]
        except FlowctlError:
            return outcome.code, 1
        return outcome.code, len(live)


def _streams(session: Session, wish: Wish) -> frozenset[str]:
    """Which of the instances' outputs to show."""
    if wish.json or wish.detach or wish.logs is False:
        return frozenset()
    return frozenset({"stdout", "stderr"} if wish.logs or session.debug else {"stdout"})


def _sentence(submitted: api.Submitted) -> str:
    words = {"created": "is submitted", "changed": "is changed", "unchanged": "runs already, unchanged"}
    return f"{submitted.pipeline} (revision {submitted.revision}) {words.get(submitted.change, submitted.change)}"


def _report(submitted: api.Submitted, outcome: Outcome, *, json: bool) -> None:
    if json:
        answer: dict[str, Any] = msgspec.to_builtins(submitted)
        answer |= {"exit_code": outcome.code, "summary": outcome.sentence, "status": None, "instances": []}
        if outcome.pipeline is not None:
            answer |= {"status": outcome.pipeline.status, "instances": msgspec.to_builtins(outcome.pipeline.instances)}
        terminal.print_json(answer)
    elif outcome.code in (EXIT_DONE, EXIT_INTERRUPTED):
        terminal.say(outcome.sentence)
    else:
        sys.stdout.flush()
        for line in outcome.sentence.splitlines():
            sys.stderr.write(f"{line}\n")
