"""Log messages: for people on a terminal, JSON lines otherwise. Modules log through the standard library's ``logging``."""

import logging
import logging.handlers
import os
import sys
from pathlib import Path
from typing import Final, Literal

import structlog

LOG_FILE_BYTES: Final = 10_000_000
LOG_FILES: Final = 3


def setup_logging(level: str, log_format: Literal["auto", "console", "json"], *, service: str, file: Path | None = None) -> None:
    """Send every module's messages to stderr in the chosen format, or to ``file``, which is rotated.

    With a ``file`` this process' own stdout and stderr go there too, so that nothing that a library or a crash prints is lost.

    Raises:
        OSError: the file cannot be written.
    """
    terminal = file is None and sys.stderr.isatty()
    console = log_format == "console" or (log_format == "auto" and terminal)
    shared: list[structlog.types.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="%H:%M:%S.%f" if console else "iso", utc=not console),
    ]
    if console:
        colours = terminal and not os.environ.get("NO_COLOR")
        final: list[structlog.types.Processor] = [structlog.dev.ConsoleRenderer(colors=colours)]
    else:
        shared.append(_service_name(service))
        final = [
            structlog.processors.format_exc_info,
            structlog.processors.EventRenamer("message"),
            structlog.processors.JSONRenderer(),
        ]
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *final]
    )
    handler: logging.Handler = logging.StreamHandler() if file is None else _OwnOutputFile(file)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("flowctl").setLevel(level.upper())
    for package in ("registry", "health", "orchestrator", "agent", "notify", "sdk", "components", "cli"):
        logging.getLogger(f"flowctl_{package}").setLevel(level.upper())


class _OwnOutputFile(logging.handlers.RotatingFileHandler):
    """A rotated file that also receives what this process writes to its stdout and stderr."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        super().__init__(path, maxBytes=LOG_FILE_BYTES, backupCount=LOG_FILES, encoding="utf-8")
        self._take_output()

    def doRollover(self) -> None:  # noqa: N802 - the base class names it so
        """Begin a new file."""
        super().doRollover()
        self._take_output()

    def _take_output(self) -> None:
        stream = self.stream or self._open()
        for number in (1, 2):
            os.dup2(stream.fileno(), number)


def _service_name(service: str) -> structlog.types.Processor:
    def add(_logger: object, _name: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
        return {**event, "service": service}

    return add
