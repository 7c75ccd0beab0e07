"""How the services are asked: what may be put twice is, what may not is put once and waited for; and for how long."""

import contextlib
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from flowctl import api, api_notify, endpoints
from flowctl.errors import DeadlineError
from flowctl_cli import plane
from flowctl_cli.__main__ import run
from flowctl_cli.session import Session
from support.fake_plane import FakePlane


@pytest.mark.parametrize(
    ("request_", "once"),
    [
        (api_notify.TryRoutes(route="alerts"), True),
        (api_notify.RedriveNotices(), True),
        (api_notify.RoutesRequest(), False),
    ],
)
async def test_what_would_be_done_twice_is_asked_once(monkeypatch: pytest.MonkeyPatch, request_: api.Request, once: bool):
    """Within the whole deadline; a question that only reads is put again as soon as one attempt has had its time."""
    waited: list[float] = []

    async def call(*_: Any, timeout_s: float) -> None:
        waited.append(timeout_s)
        raise DeadlineError("too slow")

    monkeypatch.setattr(endpoints, "call", call)
    monkeypatch.setattr(plane, "AGAIN_S", 0.01)
    monkeypatch.setattr(plane, "ATTEMPT_S", 0.1)
    asked = plane.NatsPlane(FakePlane({}).store, lambda: None, 0.2)
    with pytest.raises(DeadlineError, match="did not answer within"):
        await asked.ask(api.NOTIFY, "any", request_, api_notify.TriedRoutes)
    assert (len(waited) == 1) is once
    assert waited[0] == pytest.approx(0.2 if once else 0.1, abs=0.01)


@pytest.mark.parametrize(("words", "wanted"), [([], 95.0), (["--timeout", "7"], 7.0)])
def test_a_test_waits_longer_than_the_notifier(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], wanted: float
):
    """So an address that hangs is exit code 1 with the reason, and not a deadline of the command's own."""
    fake = FakePlane(
        {
            "notify.routes": api_notify.RoutesAnswer(routes=[], timeout_s=90.0),
            "notify.test": api_notify.TriedRoutes(
                routes=[api_notify.TriedRoute(name="a", url="http://h/…", error="no answer within 90 s")]
            ),
        }
    )
    deadlines: list[float] = []

    @contextlib.asynccontextmanager
    async def opened(session: Session, *, timeout_s: float, offline: bool = False) -> AsyncGenerator[FakePlane]:
        del session, offline
        deadlines.append(timeout_s)
        yield fake

    monkeypatch.setattr(plane, "opened", opened)
    assert run(["notify", "test", *words]) == 1
    assert deadlines[-1] == wanted
    assert "no answer within 90 s" in capsys.readouterr().out
