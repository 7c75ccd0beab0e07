"""``flowctl init``."""

from pathlib import Path
from typing import Annotated

import typer

from flowctl.errors import UserError
from flowctl_cli.session import JsonOption, Session, command, new_app
from flowctl_cli.terminal import print_json, print_table, say

app = new_app()


@command(
    app,
    "flowctl init",
    "flowctl init --list",
    "flowctl init file-to-file --output orders/pipeline.yaml",
)
def init(
    _session: Session,
    *,
    template: Annotated[str | None, typer.Argument(metavar="[TEMPLATE]", help="Which one; quickstart if left out.")] = None,
    list_: Annotated[bool, typer.Option("--list", help="Show the templates.")] = False,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FILE", help="The pipeline file to write; the template's others go beside it."),
    ] = Path("pipeline.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that exist.")] = False,
    json: JsonOption = False,
) -> None:
    """Write a new pipeline file from a template. Files that exist are left alone unless --force is given."""
    from flowctl.spec import templates
    from flowctl.spec.schema import SCHEMA_FILE, json_schema_text

    known = templates.TEMPLATES
    if list_:
        if json:
            print_json([{"name": each.name, "summary": each.summary} for each in known.values()])
        else:
            print_table(("TEMPLATE", "WHAT IT DOES"), [(each.name, each.summary) for each in known.values()])
        return
    chosen = known.get(template or next(iter(known)))
    if chosen is None:
        raise UserError(f"there is no template {template!r}", hint=f"the templates are {', '.join(known)}")
    files = {output if name == templates.PIPELINE_FILE else output.parent / name: text for name, text in chosen.files.items()}
    written = _write(files, force=force)
    schema = output.parent / SCHEMA_FILE
    if not schema.exists() or force:
        written += _write({schema: json_schema_text()}, force=True)
    if json:
        print_json({"template": chosen.name, "files": [str(path) for path in written]})
        return
    for path in written:
        say(f"wrote {path}")
    say(f"run it with: flowctl up {output}")


def _write(files: dict[Path, str], *, force: bool) -> list[Path]:
    """Write all of the files, or none if one is in the way."""
    for path in files:
        if path.is_dir() or (path.exists() and not force):
            hint = (
                "name another file with --output" if path.is_dir() else "overwrite it with --force, or name another with --output"
            )
            raise UserError(f"{path} exists already", hint=hint)
    for path, text in files.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror or error}") from error
    return list(files)
