"""What other tools see: the journal is readable by any NATS client with nothing of flowctl's."""

import asyncio
import json
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.client import Client

from support.flowctl import control_plane
from support.pipelines import linear

pytestmark = pytest.mark.timeout(120)


async def messages(url: str, subject: str) -> list[tuple[str, dict[str, str], Any]]:
    """Subject, headers and JSON of every stored entry that the subject filter covers."""
    client: Client = await nats.connect(url)  # pyright: ignore[reportUnknownMemberType] - its options are untyped
    try:
        stream = client.jetstream()  # pyright: ignore[reportUnknownMemberType] - its options are untyped
        subscription = await stream.pull_subscribe(subject, stream="FLOWCTL_JOURNAL")
        found: list[tuple[str, dict[str, str], Any]] = []
        while True:
            try:
                batch = await subscription.fetch(500, timeout=1)
            except TimeoutError:
                return found
            found += [(message.subject, dict(message.headers or {}), json.loads(message.data)) for message in batch]
    finally:
        await client.close()


def test_any_nats_client_reads_the_journal(tmp_path: Path):
    """Entries are JSON with CloudEvents 1.0 headers, under subjects that one wildcard selects."""
    with control_plane(tmp_path) as flowctl:
        file = flowctl.write("pipeline.yaml", linear("open", tmp_path / "out.jsonl", count=10))
        flowctl.run("up", "--detach", str(file))
        flowctl.until_status("open", "completed")
        url = flowctl.server["nats_url"]
        registered = asyncio.run(messages(url, "flowctl.journal.component.open.*.*.registered"))
        assert sorted(subject.split(".")[4] for subject, _, _ in registered) == ["double", "keep", "numbers"]
        for _, headers, data in registered:
            assert headers["ce-specversion"] == "1.0"
            assert headers["ce-type"] == "flowctl.component.registered.v1"
            assert headers["ce-id"]
            assert headers["ce-source"].startswith("/flowctl/")
            assert headers["ce-time"].endswith("Z")
            assert headers["content-type"] == "application/json"
            assert data["type"] == "ComponentRegistered"
            assert data["incarnation"] == 1
        statuses = asyncio.run(messages(url, "flowctl.journal.pipeline.open.status_changed"))
        assert [data["status"] for _, _, data in statuses][-1] == "completed"
