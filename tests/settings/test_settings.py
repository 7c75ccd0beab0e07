"""What settings may say, and how a wrong one is told of."""

import pytest

from flowctl.errors import InvalidSettingError
from flowctl.settings import AgentSettings, RegistrySettings, ServerSettings, Settings, is_loopback, load_settings


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (RegistrySettings, "registry_listen", "0.0.0.0:8080"),
        (RegistrySettings, "registry_listen", "[::]:8080"),
        (ServerSettings, "registry_listen", "registry.example.org:8080"),
        (AgentSettings, "advertise_host", "10.0.0.7"),
        (AgentSettings, "advertise_host", "worker-7"),
        (Settings, "http_listen", "192.168.1.1:9090"),
    ],
)
def test_nothing_listens_beyond_loopback_unless_asked_to(
    kind: type[Settings], name: str, value: str, monkeypatch: pytest.MonkeyPatch
):
    """Nothing is encrypted and nobody is asked who calls: such an address is refused, with the way out; the way out works."""
    with pytest.raises(InvalidSettingError) as caught:
        load_settings(kind, None, **{name: value})
    assert caught.value.message.startswith(f"{name}: expected a loopback address")
    assert "allow_insecure_remote" in caught.value.message
    monkeypatch.setenv("FLOWCTL_ALLOW_INSECURE_REMOTE", "true")
    assert getattr(load_settings(kind, None, **{name: value}), name) == value


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "[::1]", "localhost"])
def test_loopback_addresses(host: str):
    """All of 127.0.0.0/8, ::1 and the name that everybody knows."""
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "localhost.example.org", ""])
def test_addresses_that_others_reach(host: str):
    """The wildcard reaches everybody, and a name may be anybody's."""
    assert not is_loopback(host)
