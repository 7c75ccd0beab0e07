"""The http sink against a real server that misbehaves by script."""

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from flowctl.errors import InvalidSettingError
from flowctl.spec.model import Backoff
from flowctl_components.http import Http, backoff_s, retry_after_s
from flowctl_sdk.faults import EventFailedError
from flowctl_sdk.testing import consume

QUICK = {"initial_s": 0.01, "max_s": 0.02}
NO_HEADERS: dict[str, str] = {}


class Hook:
    """A server that answers as the script says, 200 when it has run out; what it got is kept."""

    def __init__(self) -> None:
        self.script: list[tuple[int, dict[str, str], str]] = []
        self.got: list[tuple[str, dict[str, str], Any]] = []
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                hook.got.append((self.path, {name.lower(): value for name, value in self.headers.items()}, json.loads(body)))
                status, headers, text = hook.script.pop(0) if hook.script else (200, {}, "")
                if status == 0:
                    self.close_connection = True
                    return
                self.send_response(status)
                for name, value in {**headers, "content-length": str(len(text))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_request(self, code: object = "", size: object = "") -> None:
                """Silence."""
                del code, size

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"


@pytest.fixture
def hook() -> Iterator[Hook]:
    hook = Hook()
    thread = threading.Thread(target=hook.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield hook
    hook.server.shutdown()
    hook.server.server_close()
    thread.join()


async def test_one_request_for_each_event(hook: Hook):
    """In order, as JSON, with the event's id as the idempotency key and the headers of the configuration."""
    await consume(Http, [{"n": 1}, "text"], config={"url": hook.url, "headers": {"X-Token": "s"}})
    assert [(path, body) for path, _, body in hook.got] == [("/hook", {"n": 1}), ("/hook", "text")]
    assert [headers["idempotency-key"] for _, headers, _ in hook.got] == ["test.0:0", "test.0:1"]
    assert {(headers["x-token"], headers["content-type"]) for _, headers, _ in hook.got} == {("s", "application/json")}


async def test_batches(hook: Hook):
    """Arrays of at most max_events; the key is the same for the same events."""
    config = {"url": hook.url, "batch": True, "max_events": 2, "envelope": True}
    for _ in range(2):
        await consume(Http, [{"n": n} for n in range(5)], config=config)
    assert [[event["payload"]["n"] for event in body] for _, _, body in hook.got] == [[0, 1], [2, 3], [4]] * 2
    keys = [headers["idempotency-key"] for _, headers, _ in hook.got]
    assert keys[:3] == keys[3:]
    assert len(set(keys)) == 3


async def test_concurrent_requests(hook: Hook):
    """Several at a time deliver every event."""
    await consume(Http, [{"n": n} for n in range(40)], config={"url": hook.url, "concurrency": 8})
    assert sorted(body["n"] for _, _, body in hook.got) == list(range(40))


async def test_what_may_pass_is_tried_again(hook: Hook):
    """5xx, 429 and a dropped connection are tried again, the same body with the same key."""
    hook.script = [(503, {}, "busy"), (429, {"retry-after": "0"}, ""), (0, {}, ""), (500, {"retry-after": "nonsense"}, "")]
    await consume(Http, [{"n": 1}], config={"url": hook.url, "backoff": QUICK})
    assert len(hook.got) == 5
    assert {(headers["idempotency-key"], body["n"]) for _, headers, body in hook.got} == {("test.0:0", 1)}


@pytest.mark.parametrize(
    ("script", "sentence", "requests"),
    [
        ([(422, NO_HEADERS, "no such customer" + "x" * 500)], r"answered 422: 'no such customerx{184}'$", 1),
        ([(302, {"location": "/elsewhere"}, "")], "answered 302", 1),
        ([(500, NO_HEADERS, "down")] * 3, r"answered 500: 'down' \(after 3 attempts\)", 3),
        ([(0, NO_HEADERS, "")] * 3, r"RemoteProtocolError: .* \(after 3 attempts\)", 3),
    ],
)
async def test_what_cannot_pass_fails(hook: Hook, script: list[tuple[int, dict[str, str], str]], sentence: str, requests: int):
    """Other answers fail at once with the body's beginning, and spent attempts with the last problem."""
    hook.script = script
    with pytest.raises(EventFailedError, match=sentence):
        await consume(Http, [{"n": 1}], config={"url": hook.url, "attempts": 3, "backoff": QUICK})
    assert len(hook.got) == requests


async def test_secrets_are_not_told(hook: Hook):
    """Neither the URL's password and query nor the headers stand in an error."""
    hook.script = [(400, {}, "")]
    url = hook.url.replace("http://", "http://user:hunter2@") + "?key=hunter2"
    with pytest.raises(EventFailedError) as caught:
        await consume(Http, [{"n": 1}], config={"url": url, "headers": {"Authorization": "hunter2"}})
    assert "hunter2" not in str(caught.value)


def test_retry_after():
    """Seconds or a date, never more than five minutes, and what is neither counts as nothing (RFC 9110, 10.2.3)."""
    now = datetime(2024, 1, 1, 12, 0, 0, tzinfo=UTC)
    answers = {
        None: None,
        "7": 7,
        " 7 ": 7,
        "100000": 300,
        "Mon, 01 Jan 2024 12:00:30 GMT": 30,
        "Mon, 01 Jan 2024 11:00:00 GMT": 0,
        "soon": None,
        "-5": None,
    }
    assert {value: retry_after_s(value, now) for value in answers} == answers


def test_backoff_grows_and_is_bounded():
    """Twice as long each time, at most max_s, spread over the upper half."""
    backoff = Backoff(initial_s=1, max_s=10, multiplier=2)
    assert [backoff_s(backoff, attempt, 1.0) for attempt in range(6)] == [1, 2, 4, 8, 10, 10]
    assert backoff_s(backoff, 10_000, 0.0) == 5


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"url": "example.org/hook"}, "config.url: expected http://… or https://…"),
        ({"url": "http://x", "headers": {"X": "ä\n"}}, "config.headers: "),
        ({"url": "http://x", "method": "GET"}, "config.method: "),
        ({"url": "http://x", "backoff": {"initial": 1}}, "config.backoff: there is no field 'initial'"),
    ],
)
async def test_bad_configurations(config: dict[str, Any], sentence: str):
    """Each is refused when the component opens."""
    with pytest.raises(InvalidSettingError, match=sentence):
        await consume(Http, [{"n": 1}], config=config)
