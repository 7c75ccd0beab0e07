"""Log lines on standard error: one JSON object each for machines, one short line each for people."""

import logging
import sys
import time

import msgspec

from flowctl.ids import InstanceId


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, message, who, and what was given as ``extra={"fields": {…}}``."""

    def __init__(self, instance: InstanceId, incarnation: int) -> None:
        super().__init__()
        self._who = {
            "pipeline": instance.pipeline,
            "component": instance.component,
            "index": instance.index,
            "incarnation": incarnation,
        }

    def format(self, record: logging.LogRecord) -> str:
        """See ``logging.Formatter``."""
        line: dict[str, object] = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **self._who,
            "logger": record.name,
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line).decode()


class ConsoleFormatter(logging.Formatter):
    """``12:30:01 info  numbers.0: message``."""

    def __init__(self, instance: InstanceId) -> None:
        super().__init__()
        self._who = f"{instance.component}.{instance.index}"

    def format(self, record: logging.LogRecord) -> str:
        """See ``logging.Formatter``."""
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        line = f"{clock} {record.levelname.lower():<7} {self._who}: {record.getMessage()}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def set_up_logs(instance: InstanceId, incarnation: int, level: str, style: str) -> logging.Logger:
    """Send everything at ``level`` and above to standard error in ``style`` (json or console); returns the author's logger."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(instance, incarnation) if style == "json" else ConsoleFormatter(instance))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO if level == "debug" else level.upper())
    # Other libraries' debugging is not what --log-level debug asks for.
    logging.getLogger("flowctl").setLevel(level.upper())
    return logging.getLogger("flowctl.component")
