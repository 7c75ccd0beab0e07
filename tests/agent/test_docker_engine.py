"""What the docker package raises, in our words, on a client that is not real."""

from collections.abc import Iterator
from typing import Any

import pytest
from urllib3 import HTTPConnectionPool
from urllib3.exceptions import HTTPError, ProtocolError, ReadTimeoutError

from flowctl.errors import DriverError
from flowctl_agent.drivers.docker.engine import Engine


class Client:
    """The docker package's client, whose answer to a pull breaks off."""

    base_url = "http://engine"
    api_version = "1.47"
    broken: HTTPError

    def __init__(self, **_options: Any) -> None: ...

    def pull(self, _name: str, **_options: Any) -> Iterator[dict[str, str]]:
        """The beginning of an answer."""
        yield {"status": "Pulling from library/busybox"}
        raise self.broken


@pytest.mark.parametrize(
    "error", [ProtocolError("Connection broken"), ReadTimeoutError(HTTPConnectionPool("engine"), "/images", "Read timed out.")]
)
def test_a_pull_that_breaks_off_can_be_tried_again(monkeypatch: pytest.MonkeyPatch, error: HTTPError):
    """The transport's own error comes through in the middle of an answer: it is the driver's error like any other."""
    monkeypatch.setattr("docker.APIClient", Client)
    monkeypatch.setattr(Client, "broken", error, raising=False)
    with pytest.raises(DriverError, match="the Docker engine failed") as caught:
        Engine("tcp://192.0.2.1:2375").pull("busybox")
    assert caught.value.__cause__ is error
