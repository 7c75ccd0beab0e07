"""The server that a command depends on: found, or started when none runs, started again when it is lost, let go at the end."""

import contextlib
import signal
from collections.abc import Generator
from typing import Final, Self

from flowctl.errors import RefusedError
from flowctl_cli import server_launch, server_record
from flowctl_cli.server_launch import Launch
from flowctl_cli.session import Session
from flowctl_cli.terminal import note

ENDING_S: Final = 15.0
MAX_STARTS: Final = 20


class Upkeep:
    """Use ``keeping``. ``stay`` says that the server is to outlive the command."""

    def __init__(self, session: Session, *, stay: bool) -> None:
        self._session = session
        self._stay = stay
        self._launch: Launch | None = None
        self._starts = 0

    @classmethod
    @contextlib.contextmanager
    def keeping(cls, session: Session, *, stay: bool) -> Generator[Self]:
        """Hold on to the server while the block runs; with an external NATS server there is nothing to hold on to."""
        if session.nats:
            yield cls(session, stay=stay)
            return
        with server_record.attached(session.state_dir, timeout_s=ENDING_S):
            yield cls(session, stay=stay)

    def begin(self) -> None:
        """Start a server if none runs, and do not wait for it."""
        if not self._session.nats and server_record.lock_holder(self._session.state_dir) is None:
            self._start()

    def ready(self) -> None:
        """Wait until there is a server that is ready.

        Raises:
            ControlPlaneUnreachableError, DeadlineError: there is none, and why.
        """
        if self._session.nats:
            return
        record = server_launch.await_record(self._session.state_dir, launch=self._launch)
        if self._stay:
            server_launch.send(record.pid, signal.SIGUSR1)

    def renew(self) -> None:
        """Start a server again if the one that was there is gone.

        Raises:
            RefusedError: that was tried too often.
        """
        if self._session.nats or server_record.lock_holder(self._session.state_dir) is not None:
            return
        if self._starts >= MAX_STARTS:
            raise RefusedError("the server keeps ending", hint=f"its log is {server_launch.log_file(self._session.state_dir)}")
        note("the server is gone; starting it again")
        self._start()

    def discard(self) -> None:
        """End a server that this command has started, because it is not needed after all."""
        if self._launch is not None:
            self._launch.discard()
            self._launch = None

    def _start(self) -> None:
        self._starts += 1
        self._launch = Launch(self._session, bound=not self._stay)

    def release(self) -> int | None:
        """Tell a server that this command has started that it may go; its pid, or None if there is nothing to wait for."""
        if self._launch is None or self._stay or self._launch.child.poll() is not None:
            return None
        server_launch.send(self._launch.child.pid, signal.SIGUSR2)
        return self._launch.child.pid
