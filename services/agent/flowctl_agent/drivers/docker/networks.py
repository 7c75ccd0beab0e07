"""The network of each pipeline on this host: where its containers are, and how they and the host's own programs meet.

A pipeline has a bridge of its own, of whose addresses this agent gives one to each container before it starts. Where hosts are
known by the loopback address, containers are reached at their own addresses and the host's programs at the bridge's, and a relay
on the bridge's address leads to the registry, for the subnet's own addresses only. Otherwise the containers' ports are published
at the host's address, and the registry is reached where everybody reaches it.
"""

import asyncio
import contextlib
import ipaddress
import logging
import socket
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from flowctl.errors import DriverError
from flowctl.settings import is_loopback
from flowctl_agent.drivers import Launch
from flowctl_agent.drivers.docker import recipe
from flowctl_agent.drivers.docker.engine import Engine, EngineAwayError, Network
from flowctl_agent.drivers.docker.recipe import Ports, Spot
from flowctl_agent.drivers.docker.relay import Relay

TRIES: Final = 5
HOST: Final = "host"

R = TypeVar("R")
Call = Callable[[Callable[[Engine], R]], Awaitable[R]]
"""Calls the engine in a thread."""

log = logging.getLogger("flowctl.agent.docker")


class _Known(msgspec.Struct):
    """A network that is there, its relays (by the registry's address), and the addresses promised to what has not started yet."""

    network: Network
    relays: dict[str, Relay]
    promised: set[str]


class Networks:
    """The networks of one agent. ``registry`` may be several addresses with commas."""

    def __init__(self, owner: str, call: Call[Any], *, registry: str, advertise_host: str, memory: Path) -> None:
        self._owner = owner
        self._call = call
        self._registry = [address for address in registry.split(",") if address]
        self._advertise_host = advertise_host
        self._memory = memory
        self._known: dict[str, _Known] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._last: dict[str, int] = {}

    async def spot(self, launch: Launch) -> Spot:
        """Where a container is to be. Its address is promised to it until ``release``.

        Raises:
            DriverError: there is no network for it.
        """
        pipeline = launch.key.instance.pipeline
        data, health = _port(launch.env.get("FLOWCTL_LISTEN", "")), _port(launch.env.get("FLOWCTL_HEALTH_LISTEN", ""))
        if launch.container.network == HOST:
            return Spot(
                network=HOST,
                address="",
                registry=",".join(self._registry),
                listen=launch.env.get("FLOWCTL_LISTEN", "127.0.0.1:0").rpartition(":")[0],
                advertise=self._advertise_host,
                ports=Ports(data, health),
            )
        known = await self._ensure(pipeline)
        address = self._choose(pipeline, known)
        known.promised.add(address)
        try:
            ports = self._ports(data, health)
            registry = ",".join([await self._registry_for(pipeline, known, each) for each in self._registry])
        except BaseException:
            known.promised.discard(address)
            raise
        return Spot(
            network=known.network.name,
            address=address,
            registry=registry,
            listen="0.0.0.0",  # noqa: S104  # within the container's own network
            advertise=address if self._local else self._advertise_host,
            ports=ports,
        )

    def release(self, pipeline: str, spot: Spot) -> None:
        """The container has its address, or will never have it."""
        known = self._known.get(pipeline)
        if known is not None:
            known.promised.discard(spot.address)

    async def gateway(self, pipeline: str) -> str | None:
        """The address at which containers of the pipeline reach this host's programs; None if the advertised one will do.

        Raises:
            DriverError: there is no such network, and none could be made.
        """
        if not self._local:
            return None
        known = await self._ensure(pipeline)
        _check_here(known.network)
        return known.network.gateway

    async def reopen(self) -> None:
        """After a start of this agent or of the engine: the networks that are there, and their relays."""
        label = recipe.owned(self._owner)
        for network in await self._call(lambda engine: engine.networks(label)):
            pipeline = network.labels.get(recipe.PIPELINE, "")
            async with self._lock(pipeline):
                known = self._known.setdefault(pipeline, _Known(network, {}, set()))
                known.network = network
            for address in self._registry:
                with contextlib.suppress(DriverError):  # said when something is started there
                    await self._registry_for(pipeline, known, address)

    async def tidy(self, pipelines: Collection[str]) -> None:
        """Remove the networks and volumes of all other pipelines. What is in use stays."""
        label = recipe.owned(self._owner)
        for network in await self._call(lambda engine: engine.networks(label)):
            pipeline = network.labels.get(recipe.PIPELINE, "")
            if pipeline in pipelines or network.taken:
                continue
            async with self._lock(pipeline):
                known = self._known.get(pipeline)
                if known is not None and known.promised:
                    continue
                self._known.pop(pipeline, None)
                for relay in known.relays.values() if known is not None else ():
                    await relay.close()
                await self._call(lambda engine, name=network.id: engine.remove_network(name))
        for name, labels in (await self._call(lambda engine: engine.volumes(label))).items():
            if labels.get(recipe.PIPELINE, "") not in pipelines:
                await self._call(lambda engine, name=name: engine.remove_volume(name))

    async def close(self) -> None:
        """Relay no more. The networks stay."""
        for known in self._known.values():
            for relay in known.relays.values():
                await relay.close()
        self._known.clear()

    @property
    def _local(self) -> bool:
        return is_loopback(self._advertise_host)

    def _lock(self, pipeline: str) -> asyncio.Lock:
        return self._locks.setdefault(pipeline, asyncio.Lock())

    async def _ensure(self, pipeline: str) -> _Known:
        name = recipe.network_name(self._owner, pipeline)
        labels = recipe.pipeline_labels(self._owner, pipeline)
        async with self._lock(pipeline):
            network = await self._call(lambda engine: engine.network(name) or _created(engine, name, labels))
            known = self._known.setdefault(pipeline, _Known(network, {}, set()))
            known.network = network
            return known

    def _choose(self, pipeline: str, known: _Known) -> str:
        """The next free address, those that were given up last coming last: stale peers must not meet strangers."""
        network = ipaddress.ip_network(known.network.subnet)
        taken = {known.network.gateway, *known.network.taken, *known.promised}
        size = network.num_addresses - 2
        for step in range(size):
            number = (self._last.get(pipeline, 0) + step) % size + 1
            address = str(network.network_address + number)
            if address not in taken:
                self._last[pipeline] = number
                return address
        raise DriverError(f"the network {known.network.name} has no free address")

    def _ports(self, data: int, health: int) -> Ports:
        if self._local:
            return Ports(data, health, "127.0.0.1" if data or health else "")
        host = self._advertise_host.strip("[]")
        try:
            published = str(ipaddress.ip_address(host))
        except ValueError:
            published = "0.0.0.0"  # noqa: S104  # a name says nothing about the interface
        with contextlib.ExitStack() as held:
            return Ports(data or _free_port(published, held), health or _free_port(published, held), published)

    async def _registry_for(self, pipeline: str, known: _Known, address: str) -> str:
        """How the containers of a network reach the registry."""
        host, _, port = address.rpartition(":")
        if not is_loopback(host):
            return address
        async with self._lock(pipeline):
            relay = known.relays.get(address)
            if relay is None:
                _check_here(known.network)
                memory = self._memory / f"{pipeline}.{port}.port"
                relay = Relay(known.network.gateway, known.network.subnet, host.strip("[]"), int(port))
                await relay.open([_remembered(memory) or int(port), int(port), 0])
                memory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                memory.write_text(f"{relay.port}\n")
                known.relays[address] = relay
            return f"{known.network.gateway}:{relay.port}"


def _created(engine: Engine, name: str, labels: dict[str, str]) -> Network:
    """A new network on a subnet that the engine finds free: addresses can be chosen only where the subnet was given."""
    last: DriverError | None = None
    for _ in range(TRIES):
        engine.create_network(name, labels)
        found = engine.network(name)
        engine.remove_network(name)
        if found is None or not found.subnet:
            raise DriverError(f"the Docker engine gave the network {name} no IPv4 subnet")
        gateway = found.gateway or str(ipaddress.ip_network(found.subnet).network_address + 1)
        try:
            engine.create_network(name, labels, found.subnet, gateway.partition("/")[0])
        except EngineAwayError:
            raise
        except DriverError as error:  # somebody else took it in between
            last = error
            continue
        network = engine.network(name)
        if network is not None:
            return network
    raise last or DriverError(f"the network {name} could not be made")


def _check_here(network: Network) -> None:
    """Whether the bridge's address is one of this host's. Raises DriverError."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((network.gateway, 0))
        except OSError as error:
            raise DriverError(
                f"this host does not have the address {network.gateway} of the network {network.name}:"
                " the Docker engine is a desktop's, a rootless or a remote one",
                hint="set registry and advertise_host to addresses that its containers reach",
            ) from error


def _free_port(address: str, held: contextlib.ExitStack) -> int:
    """A port that is free at this address now."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    probe = held.enter_context(socket.socket(family))
    try:
        probe.bind((address, 0))
    except OSError as error:
        raise DriverError(f"no port is free at {address}: {error.strerror}", hint="set advertise_host") from error
    return int(probe.getsockname()[1])


def _port(address: str) -> int:
    port = address.rpartition(":")[2]
    return int(port) if port.isdecimal() else 0


def _remembered(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0
