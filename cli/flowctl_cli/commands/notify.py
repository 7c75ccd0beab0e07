"""``flowctl notify list``, ``test``, ``dead-letters``, ``redrive`` and ``forget``."""

from typing import Annotated, Final

import msgspec
import typer

from flowctl import api, api_notify
from flowctl.errors import FlowctlError, NotFoundError, RefusedError, UserError
from flowctl.ids import check_id
from flowctl.journal.notices import StoredNotice
from flowctl.journal.subscriptions import durable
from flowctl_cli import plane
from flowctl_cli.session import DEFAULT_TIMEOUT_S, JsonOption, Session, TimeoutOption, callback, command, new_app, run
from flowctl_cli.terminal import Cell, clock_time, note, print_json, print_table

ANSWER_S: Final = 5.0

app = new_app()

TestTimeoutOption = Annotated[
    float | None,
    typer.Option(
        "--timeout",
        metavar="SECONDS",
        min=0.05,
        max=86_400,
        help="How long to wait for an answer; if left out, a little longer than the notifier waits for one.",
    ),
]
RouteArgument = Annotated[str, typer.Argument(metavar="[ROUTE]", help="Which route; all if left out.")]


@callback(
    app,
    "FLOWCTL_NOTIFY='component.*.*.*.status_changed -> https://alerts.example/hook' flowctl server",
    "flowctl notify list",
    "flowctl notify test",
    "flowctl notify dead-letters",
    "flowctl notify redrive",
    "flowctl notify forget alerts",
)
def notify(session: Session, ctx: typer.Context) -> None:
    """Show who is told of what over HTTP, try it, and send again what nobody took. docs/notify.md says more."""
    del session
    if ctx.invoked_subcommand is None:
        raise UserError("say what to do: list, test, dead-letters, redrive or forget", hint="flowctl notify list")


@command(app, "flowctl notify list", "flowctl notify list --json | jq '.routes[].last_error'", name="list")
def list_(session: Session, *, json: JsonOption = False, timeout: TimeoutOption = DEFAULT_TIMEOUT_S) -> None:
    """Show the routes: what each tells whom, how far it is, and what it does now."""
    found = run(_ask(session, "routes", api_notify.RoutesRequest(), api_notify.RoutesAnswer, timeout))
    if json:
        print_json(found)
        return
    if not found.routes:
        note("the notifier has no routes")
        return
    print_table(
        ("ROUTE", "TELLS", "WHOM", "DONE", "WAITING", "DELIVERED", "GIVEN UP", "NOW"),
        [
            (
                each.name,
                _tells(each),
                each.url,
                str(each.seq),
                str(each.waiting),
                str(each.delivered),
                Cell(str(each.given_up), "bad" if each.given_up else ""),
                each.state,
            )
            for each in found.routes
        ],
    )


@command(app, "flowctl notify test", "flowctl notify test alerts --json", name="test")
def try_(session: Session, *, route: RouteArgument = "", json: JsonOption = False, timeout: TestTimeoutOption = None) -> None:
    """Send a test event (flowctl.notify.test.v1) along the routes, once. Exits with 1 if one was not taken."""
    found = run(_try(session, _named(route), timeout))
    if json:
        print_json(found)
    else:
        print_table(("ROUTE", "WHOM", "RESULT"), [(each.name, each.url, _result(each.error)) for each in found.routes])
    _fail_if([each.error for each in found.routes], "were not taken", "`flowctl notify list` shows the routes")


class UndeliveredView(msgspec.Struct, frozen=True, kw_only=True):
    """A notice that nobody took: its number, when it was given up, and of which entry to whom it was."""

    number: int
    time_ms: int
    route: str
    seq: int
    type: str
    subject: str
    attempts: int
    error: str


@command(app, "flowctl notify dead-letters", "flowctl notify dead-letters alerts --json", name="dead-letters")
def dead_letters(
    session: Session, *, route: RouteArgument = "", json: JsonOption = False, timeout: TimeoutOption = DEFAULT_TIMEOUT_S
) -> None:
    """Show the notices that nobody took, oldest first. Works without a running server too."""
    wanted = _named(route)
    found = [stored for stored in run(_undelivered(session, timeout)) if wanted in ("", stored.notice.route)]
    if json:
        print_json([_view(stored) for stored in found])
        return
    if not found:
        note("every notice was delivered")
        return
    print_table(
        ("NUMBER", "GIVEN UP", "ROUTE", "ENTRY", "TYPE", "TRIED", "ERROR"),
        [
            (
                str(stored.number),
                clock_time(stored.time_ns),
                stored.notice.route,
                str(stored.notice.seq),
                stored.notice.type,
                str(stored.notice.attempts),
                stored.notice.error,
            )
            for stored in found
        ],
    )


@command(app, "flowctl notify redrive", "flowctl notify redrive alerts", "flowctl notify redrive --id 3 --id 4", name="redrive")
def redrive(
    session: Session,
    *,
    route: RouteArgument = "",
    number: Annotated[list[int] | None, typer.Option("--id", metavar="N", min=1, help="Only this one; repeatable.")] = None,
    json: JsonOption = False,
    timeout: TimeoutOption = 60.0,
) -> None:
    """Send undelivered notices once more; those that are taken are forgotten. Exits with 1 if one was not taken."""
    request = api_notify.RedriveNotices(route=_named(route), numbers=number or [])
    found = run(_ask(session, "redrive", request, api_notify.RedrivenNotices, timeout))
    if json:
        print_json(found)
    elif not found.notices:
        note("there is nothing to redrive")
    else:
        print_table(
            ("NUMBER", "ENTRY", "RESULT"), [(str(each.number), str(each.seq), _result(each.error)) for each in found.notices]
        )
    _fail_if([each.error for each in found.notices], "were not taken again", "`flowctl notify dead-letters` shows them")


class ForgottenView(msgspec.Struct, frozen=True, kw_only=True):
    """The route whose place in the journal is kept no more, and how many of its undelivered notices went with it."""

    route: str
    notices: int


@command(app, "flowctl notify forget alerts", "flowctl notify forget alerts --json", name="forget")
def forget(
    session: Session,
    *,
    route: Annotated[str, typer.Argument(metavar="ROUTE", help="A route that was taken out of the settings.")],
    json: JsonOption = False,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_S,
) -> None:
    """Forget how far a route was that is no longer in the settings, and what of it nobody took.

    Otherwise a route of the same name would go on there one day. Refused while a notifier serves the route.
    """
    found = run(_forget(session, check_id(route, "route"), timeout))
    if json:
        print_json(found)
    else:
        note(f"route {route} is forgotten, and what of it nobody took: {found.notices}")


async def _forget(session: Session, route: str, timeout_s: float) -> ForgottenView:
    async with plane.opened(session, timeout_s=timeout_s, offline=True) as control:
        for answer in await control.ask_everybody(api.NOTIFY, "routes", api_notify.RoutesRequest(), api_notify.RoutesAnswer):
            if any(each.name == route for each in answer.routes):
                hint = "take it out of the settings, start the notifier again, and then forget it"
                raise RefusedError(f"a notifier serves route {route}", hint=hint)
        store = control.store
        undelivered = [stored.number for stored in await store.notices.read() if stored.notice.route == route]
        if not await store.subscriptions.forget(durable(route)) and not undelivered:
            raise NotFoundError(f"there is no route {route!r}, and there was none", hint="`flowctl notify list` shows them")
        for number in undelivered:
            await store.notices.remove(number)
        return ForgottenView(route=route, notices=len(undelivered))


async def _ask(session: Session, verb: str, request: api.Request, answer: type[plane.Answer], timeout_s: float) -> plane.Answer:
    async with plane.opened(session, timeout_s=timeout_s) as control:
        return await control.ask(api.NOTIFY, verb, request, answer)


async def _try(session: Session, route: str, timeout_s: float | None) -> api_notify.TriedRoutes:
    """The notifier's own patience comes first: that an address does not answer is what it has to say."""
    if timeout_s is None:
        routes = await _ask(session, "routes", api_notify.RoutesRequest(), api_notify.RoutesAnswer, DEFAULT_TIMEOUT_S)
        timeout_s = routes.timeout_s + ANSWER_S
    return await _ask(session, "test", api_notify.TryRoutes(route=route), api_notify.TriedRoutes, timeout_s)


async def _undelivered(session: Session, timeout_s: float) -> list[StoredNotice]:
    async with plane.opened(session, timeout_s=timeout_s, offline=True) as control:
        return await control.store.notices.read()


def _named(route: str) -> str:
    """The route that is meant; all if it is empty.

    Raises:
        InvalidIdError: no route can have that name.
    """
    return check_id(route, "route") if route else ""


def _view(stored: StoredNotice) -> UndeliveredView:
    notice = stored.notice
    return UndeliveredView(
        number=stored.number,
        time_ms=stored.time_ns // 1_000_000,
        route=notice.route,
        seq=notice.seq,
        type=notice.type,
        subject=notice.subject,
        attempts=notice.attempts,
        error=notice.error,
    )


def _tells(route: api_notify.RouteView) -> str:
    return " ".join([route.subject.removeprefix("flowctl.journal."), *(f"{key}={value}" for key, value in route.where.items())])


def _result(error: str) -> Cell:
    return Cell(error, "bad") if error else Cell("taken", "good")


def _fail_if(errors: list[str], what: str, hint: str) -> None:
    failed = sum(bool(error) for error in errors)
    if failed:
        raise FlowctlError(f"{failed} of {len(errors)} {what}", hint=hint)
