"""``flowctl validate``."""

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from flowctl.errors import EXIT_USER, InvalidSpecError, UserError
from flowctl_cli.session import JsonOption, Session, command, new_app
from flowctl_cli.terminal import note, print_error, print_json, say

app = new_app()


class ProblemView(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is wrong, where, and the way out."""

    place: str | None
    message: str
    hint: str | None


class FileView(msgspec.Struct, frozen=True, kw_only=True):
    """One file: whether it can be obeyed, and what is wrong or probably not meant."""

    file: str
    valid: bool
    pipeline: str | None
    problems: list[ProblemView]
    warnings: list[ProblemView]


@command(app, "flowctl validate pipeline.yaml", "flowctl validate pipelines/*.yaml --json")
def validate(
    _session: Session,
    *,
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Pipeline files; - is standard input.")],
    json: JsonOption = False,
) -> None:
    """Check pipeline files and show every problem in them."""
    views = [check(file) for file in files]
    if json:
        print_json(views)
    else:
        for view in views:
            _show(view)
    if not all(view.valid for view in views):
        raise typer.Exit(EXIT_USER)


def check(file: str) -> FileView:
    """Load one file and say what came of it."""
    from flowctl.spec.load import load

    try:
        loaded = load(Path(file))
    except InvalidSpecError as error:
        return FileView(file=file, valid=False, pipeline=None, problems=[_problem(each) for each in error.problems], warnings=[])
    warnings = [_problem(each) for each in loaded.warnings]
    return FileView(file=file, valid=True, pipeline=loaded.pipeline.name, problems=[], warnings=warnings)


def _problem(error: UserError) -> ProblemView:
    return ProblemView(place=error.place, message=error.message, hint=error.hint)


def _show(view: FileView) -> None:
    for problem in view.problems:
        print_error(UserError(problem.message, place=problem.place, hint=problem.hint))
    for warning in view.warnings:
        note(f"warning: {UserError(warning.message, place=warning.place, hint=warning.hint)}")
    if view.valid:
        say(f"{view.file}: the pipeline {view.pipeline} is valid")
