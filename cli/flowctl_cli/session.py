"""What every command starts from: the options that all of them take, and the way into the control plane."""

import asyncio
import functools
import inspect
import logging
import math
import os
import stat
import sys
from collections.abc import Callable, Coroutine
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import msgspec
import typer

from flowctl.errors import EXIT_DONE, InvalidSettingError, UserError
from flowctl.paths import default_state_dir
from flowctl_cli import server_record

DEFAULT_TIMEOUT_S: Final = 10.0
STDOUT: Final = 1

T = TypeVar("T")


class LogLevel(StrEnum):
    """How much is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


NatsOption = Annotated[
    str | None,
    typer.Option(
        "--nats",
        metavar="URL",
        help="NATS server(s) of the control plane; without it, the one of the state directory (env: FLOWCTL_NATS_URL).",
    ),
]
StateDirOption = Annotated[
    Path | None,
    typer.Option("--state-dir", metavar="DIR", help="Where flowctl keeps its state on this host (env: FLOWCTL_STATE_DIR)."),
]
LogLevelOption = Annotated[
    LogLevel | None,
    typer.Option(
        "--log-level",
        help="How much is logged, here and by what this command starts (env: FLOWCTL_LOG_LEVEL).",
        case_sensitive=False,
    ),
]
ContextOption = Annotated[
    str | None,
    typer.Option(
        "--context", metavar="NAME", help="The control plane of that name, see `flowctl context` (env: FLOWCTL_CONTEXT)."
    ),
]
# The environment is read by ``Session``: Typer would let it override an option that stands before the command.
TimeoutOption = Annotated[
    float, typer.Option("--timeout", metavar="SECONDS", min=0.05, max=86_400, help="How long to wait for an answer.")
]
AtOption = Annotated[
    str | None,
    typer.Option(
        "--at",
        metavar="TIME|SEQ",
        help="As it was then: after an entry of the journal (18231), at a time, or so long ago (`10 minutes ago`, 15m).",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class Session(msgspec.Struct, kw_only=True):
    """The options that every command takes. ``nats`` is empty for the state directory's own server.

    ``explicit_nats`` is what was said for this very command: by an option, by the environment or by naming a context; ``nats``
    may also be that of the context that was once chosen. ``monitor`` is the servers' monitoring, as far as a context knows it.
    """

    explicit_nats: str = msgspec.field(default_factory=lambda: os.environ.get("FLOWCTL_NATS_URL", ""))
    nats: str = ""
    monitor: str = ""
    context: str = msgspec.field(default_factory=lambda: os.environ.get("FLOWCTL_CONTEXT", ""))
    state_dir: Path = msgspec.field(default_factory=default_state_dir)
    log_level: str = msgspec.field(default_factory=lambda: os.environ.get("FLOWCTL_LOG_LEVEL", "").lower())

    @property
    def debug(self) -> bool:
        """Whether the user wants to see everything."""
        return self.log_level == LogLevel.DEBUG

    def environment(self) -> dict[str, str]:
        """The environment for programs that this command starts, carrying these options."""
        environment = {**os.environ, "FLOWCTL_STATE_DIR": str(self.state_dir)}
        if self.nats:
            environment["FLOWCTL_NATS_URL"] = self.nats
        if self.log_level:
            environment["FLOWCTL_LOG_LEVEL"] = self.log_level
        return environment


def merge(
    ctx: typer.Context, *, nats: str | None, state_dir: Path | None, log_level: LogLevel | None, context: str | None = None
) -> Session:
    """The session of this invocation: what was given before the command, overridden by what was given after it."""
    root = ctx.find_root()
    if not isinstance(root.obj, Session):
        root.obj = Session()
    session: Session = root.obj
    if context is not None:
        session.context = context
        session.explicit_nats = ""  # what was named on the command line comes before the environment
    if nats is not None:
        session.explicit_nats = nats
    _follow_context(session)
    if state_dir is not None:
        session.state_dir = state_dir.expanduser().absolute()
    if log_level is not None:
        session.log_level = log_level.value
    if session.log_level and session.log_level not in set(LogLevel):
        raise InvalidSettingError(f"FLOWCTL_LOG_LEVEL is {session.log_level[:40]!r}", hint=f"it can be {', '.join(LogLevel)}")
    with server_record.reading(session.state_dir):
        other = session.state_dir.exists() and not session.state_dir.is_dir()
    if other:
        raise InvalidSettingError(f"the state directory {session.state_dir} is not a directory", hint="set --state-dir")
    return session


def _follow_context(session: Session) -> None:
    """Find out which NATS servers are meant.

    Raises:
        NotFoundError: there is no context of that name.
        InvalidSettingError: the file of contexts cannot be read.
    """
    from flowctl_cli import contexts

    session.nats = session.explicit_nats
    if session.explicit_nats:
        return
    known = contexts.read() if session.context or contexts.file().exists() else contexts.Contexts()
    found = known.named(session.context or known.current)
    if found is not None:
        session.nats, session.monitor = found.nats, found.monitor
        session.explicit_nats = found.nats if session.context else ""


def new_app() -> typer.Typer:
    """The Typer app of a command's module."""
    return typer.Typer(
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["--help", "-h"]},
    )


def command(app: typer.Typer, *examples: str, name: str | None = None) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a command that takes a ``Session`` as its first argument and gets the options that all commands share.

    ``examples`` are command lines for its help.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        app.command(name, epilog=_epilog(examples))(_with_session(function))
        return function

    return register


def callback(app: typer.Typer, *examples: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Like ``command``, for a group that does something by itself; it also receives the Typer context."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        app.callback(invoke_without_command=True, epilog=_epilog(examples))(_with_session(function, pass_context=True))
        return function

    return register


def _epilog(examples: tuple[str, ...]) -> str:
    # The backspace character tells Typer to leave the paragraph's lines as they are.
    return "\n".join(["\b", "Examples:", *(f"  {example}" for example in examples)])


def _with_session(function: Callable[..., None], *, pass_context: bool = False) -> Callable[..., None]:
    signature = inspect.signature(function, eval_str=True)
    own = list(signature.parameters.values())[2 if pass_context else 1 :]

    @functools.wraps(function)
    def run(
        ctx: typer.Context,
        nats: str | None,
        state_dir: Path | None,
        log_level: LogLevel | None,
        context: str | None,
        **options: Any,  # noqa: ANN401
    ) -> None:
        session = merge(ctx, nats=nats, state_dir=state_dir, log_level=log_level, context=context)
        setup_logging(session)
        _check_spans(ctx, options)
        before = (session, ctx) if pass_context else (session,)
        try:
            function(*before, **options)
        except BrokenPipeError:
            # The reader of our output has had enough (flowctl history | head).
            give_up_stdout()
            raise typer.Exit(EXIT_DONE) from None

    keyword = inspect.Parameter.KEYWORD_ONLY
    shared = [
        inspect.Parameter(name, keyword, default=None, annotation=annotation)
        for name, annotation in (
            ("nats", NatsOption),
            ("context", ContextOption),
            ("state_dir", StateDirOption),
            ("log_level", LogLevelOption),
        )
    ]
    context = inspect.Parameter("ctx", keyword, annotation=typer.Context)
    parameters = [context, *(each.replace(kind=keyword) for each in own), *shared]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    return run


def _check_spans(ctx: typer.Context, options: dict[str, Any]) -> None:
    """Refuse what is no length of time: NaN lies between all bounds."""
    for parameter in ctx.command.params:
        value = options.get(parameter.name or "")
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{parameter.opts[0]} {value}: that is no length of time", hint="for example 2.5")


def setup_logging(session: Session) -> None:
    """Send flowctl's own messages to stderr: warnings, or as much as the user wants."""
    level = session.log_level if session.debug else LogLevel.ERROR
    logging.basicConfig(format="%(asctime)s %(levelname)-7s %(name)s: %(message)s", datefmt="%H:%M:%S", level=logging.ERROR)
    for name in ("flowctl", "flowctl_cli"):
        logging.getLogger(name).setLevel(level.upper())


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's asynchronous part.

    Raises:
        BrokenPipeError: the reader of our output went away, also while there was nothing to write.
    """
    return asyncio.run(_while_read(work))


async def _while_read(work: Coroutine[Any, Any, T]) -> T:
    """Work for as long as somebody can read what comes of it: a pipe's writing end reports when the last reader closes it."""
    task = asyncio.ensure_future(work)
    gone = False

    def leave() -> None:
        nonlocal gone
        gone = True
        task.cancel()

    loop = asyncio.get_running_loop()
    watched = sys.platform.startswith("linux") and _is_pipe(STDOUT)
    if watched:
        loop.add_reader(STDOUT, leave)
    try:
        return await task
    except asyncio.CancelledError:
        if gone:
            raise BrokenPipeError from None
        raise
    finally:
        if watched:
            loop.remove_reader(STDOUT)


def give_up_stdout() -> None:
    """Let what is still to be written to stdout go nowhere: its reader has gone."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), STDOUT)


def _is_pipe(descriptor: int) -> bool:
    try:
        return stat.S_ISFIFO(os.fstat(descriptor).st_mode)
    except OSError:
        return False
