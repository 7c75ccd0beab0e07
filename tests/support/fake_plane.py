"""A control plane for tests of commands: the in-memory journal, and services that answer what the test says."""

import contextlib
from collections.abc import AsyncGenerator
from typing import Any, TypeVar

import msgspec
import pytest

from flowctl import api
from flowctl.errors import ControlPlaneUnreachableError
from flowctl.journal.memory import MemoryStore
from flowctl_cli import plane
from flowctl_cli.session import Session

Answer = TypeVar("Answer", bound=msgspec.Struct)


class FakePlane:
    """See ``flowctl_cli.plane.Plane``. ``answers`` maps ``service.verb`` to an answer, an error, or a function of the request."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self.store = MemoryStore()
        self.answers = answers
        self.asked: list[tuple[str, api.Request]] = []

    async def ask(self, service: str, verb: str, request: api.Request, answer: type[Answer]) -> Answer:
        """Answer as the test says; a service without an answer does not run."""
        self.asked.append((f"{service}.{verb}", request))
        found = self.answers.get(f"{service}.{verb}")
        if found is None:
            raise ControlPlaneUnreachableError(f"no {service} is running")
        if callable(found):
            found = found(request)
        if isinstance(found, Exception):
            raise found
        return msgspec.convert(msgspec.to_builtins(found), answer)

    async def infos(self, service: str) -> list[api.Info]:
        """The one replica that there is, if it runs."""
        found = self.answers.get(f"{service}.info")
        return [found] if isinstance(found, api.Info) else []

    async def ask_everybody(self, service: str, verb: str, request: api.Request, answer: type[Answer]) -> list[Answer]:
        """One replica's answer, or nobody's."""
        try:
            return [await self.ask(service, verb, request, answer)]
        except ControlPlaneUnreachableError:
            return []


def install(monkeypatch: pytest.MonkeyPatch, control: FakePlane) -> None:
    """Let every command reach ``control``."""

    @contextlib.asynccontextmanager
    async def opened(session: Session, *, timeout_s: float, offline: bool = False) -> AsyncGenerator[FakePlane]:
        del session, timeout_s, offline
        yield control

    monkeypatch.setattr(plane, "opened", opened)
