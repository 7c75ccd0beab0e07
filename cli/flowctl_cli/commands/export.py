"""``flowctl export``."""

import os
import shlex
import shutil
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from flowctl.errors import UserError
from flowctl_cli.session import Session, command, new_app
from flowctl_cli.terminal import write

app = new_app()


class Form(StrEnum):
    """What a pipeline can be written as."""

    COMPOSE = "compose"
    SYSTEMD = "systemd"


@command(
    app,
    "flowctl export compose pipeline.yaml > compose.yaml",
    "flowctl export compose pipeline.yaml --writable out > compose.yaml",
    "flowctl export systemd pipeline.yaml > flowctl-orders.service",
)
def export(
    _session: Session,
    *,
    form: Annotated[Form, typer.Argument(help="What to write: a Compose file or a systemd unit.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The pipeline file.")],
    image: Annotated[
        str | None, typer.Option("--image", metavar="NAME", help="Of compose: the image; the one of this version if left out.")
    ] = None,
    writable: Annotated[
        list[Path] | None,
        typer.Option(
            "--writable", metavar="DIR", help="A directory beside the file that components may write to; may be given again."
        ),
    ] = None,
) -> None:
    """Write a file that runs a pipeline as a service: a Compose file, or a systemd unit. Both are hardened and hold no secret."""
    from flowctl import __version__
    from flowctl.spec.load import load
    from flowctl_cli import exports

    if str(file) == "-":
        raise UserError("standard input cannot be run again later", hint="name a file")
    if form is Form.SYSTEMD and image is not None:
        raise UserError("--image belongs to compose", hint="flowctl export compose FILE --image NAME")
    pipeline, path = load(file).pipeline, file.absolute()
    folders = [_folder(path.parent, each) for each in writable or []]
    if form is Form.COMPOSE:
        write(exports.compose(pipeline, path, image or f"flowctl:{__version__}", folders))
        return
    found = shutil.which("flowctl", path=str(Path(sys.executable).parent)) or shutil.which("flowctl")
    if found is None:
        raise UserError("the program flowctl is not on the PATH", hint="install it where the service can run it")
    write(exports.systemd(pipeline, path, Path(found).absolute(), folders))


def _folder(parent: Path, named: Path) -> Path:
    """A directory below the pipeline file's, as an absolute path."""
    folder = Path(os.path.normpath(parent / named))
    if folder == parent or not folder.is_relative_to(parent):
        raise UserError(
            f"--writable {named} is not below the directory of the pipeline file", hint="name a directory beside the file"
        )
    if not folder.is_dir():
        raise UserError(f"--writable {named}: there is no such directory", hint=f"mkdir {shlex.quote(str(folder))}")
    return folder
