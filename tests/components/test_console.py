"""The console sink prints what it is given, one JSON line for each event."""

import json

import pytest

from flowctl_components.console import Console
from flowctl_sdk.testing import consume


async def test_lines(capfdbinary: pytest.CaptureFixture[bytes]):
    """JSON as it came, text as a JSON string."""
    await consume(Console, [b'{"a": 1}', "text", b"\xff"])
    assert capfdbinary.readouterr().out == b'{"a": 1}\n"text"\n{"base64":"/w=="}\n'


async def test_pretty_and_envelope(capfdbinary: pytest.CaptureFixture[bytes]):
    """Indented over several lines, with everything that is known of the event."""
    await consume(Console, [{"a": 1}], config={"pretty": True, "envelope": True})
    out = capfdbinary.readouterr().out
    assert out.count(b"\n") > 5
    assert json.loads(out)["id"] == "test.0:0"
