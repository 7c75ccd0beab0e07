"""What `flowctl status --watch --json` says, line by line: how a schedule knows what the control plane takes for true."""

import contextlib
import json
import subprocess
import threading
import time
from typing import Any

from support.flowctl import COMMAND, Flowctl


class Watch:
    """A `status --watch` of one pipeline that is started again when it ends, as it does while nobody can be reached."""

    def __init__(self, flowctl: Flowctl, pipeline: str, *, every_s: float = 0.2) -> None:
        self._flowctl = flowctl
        self._pipeline = pipeline
        self._words = ("status", pipeline, "--watch", "--every", str(every_s), "--edges", "--json")
        self._news = threading.Condition()
        self._views = 0
        self._view: dict[str, Any] = {}
        self._closed = False
        self._process: subprocess.Popen[str] | None = None
        self._thread = threading.Thread(target=self._follow, name="watch", daemon=True)
        self._thread.start()

    def next(self, timeout_s: float) -> dict[str, Any]:
        """The next look at the pipeline that begins from now on; the last one known if none comes in time."""
        deadline = time.monotonic() + timeout_s
        with self._news:
            # The one that is on its way may have been asked for before.
            wanted = self._views + 2
            self._news.wait_for(lambda: self._views >= wanted or self._closed, max(0.0, deadline - time.monotonic()))
            return self._view

    @property
    def views(self) -> int:
        """How many looks there were."""
        return self._views

    def close(self) -> None:
        """End it."""
        self._closed = True
        with contextlib.suppress(ProcessLookupError):
            if self._process is not None:
                self._process.kill()
        self._thread.join(10)

    def _follow(self) -> None:
        while not self._closed:
            with (self._flowctl.directory / "watch.log").open("ab") as log:
                self._process = subprocess.Popen(
                    [*COMMAND, *self._words],
                    cwd=self._flowctl.directory,
                    env=self._flowctl.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                )
            assert self._process.stdout is not None
            for line in self._process.stdout:
                with self._news:
                    found = [view for view in json.loads(line)["pipelines"] if view["name"] == self._pipeline]
                    self._view = found[0] if found else {}
                    self._views += 1
                    self._news.notify_all()
            self._process.wait()
            self._process.stdout.close()
