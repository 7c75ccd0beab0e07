"""Several drivers as one: each launch names its own, and a run is found with whoever has it.

That two runs of one instance never live at once holds across drivers too: an instance may change from one to the other.
"""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from flowctl.errors import DriverError
from flowctl.ids import InstanceId
from flowctl.spec.model import Driver as DriverName
from flowctl_agent.drivers import Driver, Launch, OutputChunk, Run, RunKey


class Drivers:
    """The drivers of a host. Offers what a ``Driver`` offers, about the runs of all."""

    def __init__(self, drivers: Sequence[Driver]) -> None:
        self._drivers: dict[DriverName, Driver] = {driver.name: driver for driver in drivers}
        self._of: dict[InstanceId, dict[RunKey, Driver]] = {}

    @property
    def names(self) -> frozenset[DriverName]:
        """Which drivers there are."""
        return frozenset[DriverName](self._drivers)

    def get(self, name: DriverName) -> Driver | None:
        """One of them, if there is one of that name."""
        return self._drivers.get(name)

    async def open(self) -> None:
        """See ``Driver``."""
        for driver in self._drivers.values():
            await driver.open()

    async def close(self) -> None:
        """See ``Driver``."""
        for driver in self._drivers.values():
            await driver.close()

    async def start(self, launch: Launch) -> Run:
        """See ``Driver``."""
        driver = self._drivers.get(launch.driver)
        if driver is None:
            raise DriverError(f"this host does not offer the driver {launch.driver}")
        if any(run.live for run in await self.list(launch.key.instance)):
            raise DriverError(f"{launch.key.instance} runs already")
        self._note(launch.key, driver)
        return await driver.start(launch)

    async def stop(self, key: RunKey, timeout_s: float) -> None:
        """See ``Driver``."""
        await self._with(key).stop(key, timeout_s)

    async def list(self, instance: InstanceId | None = None) -> "list[Run]":
        """See ``Driver``."""
        found: list[Run] = []
        for driver in self._drivers.values():
            for run in await driver.list(instance):
                self._note(run.key, driver)
                found.append(run)
        return sorted(found, key=lambda run: run.key)

    async def forget(self, key: RunKey) -> None:
        """See ``Driver``."""
        await self._with(key).forget(key)
        known = self._of.get(key.instance, {})
        for gone in [each for each, driver in known.items() if not driver.directory(each).exists()]:
            del known[gone]

    async def tidy(self, pipelines: Collection[str]) -> None:
        """See ``Driver``."""
        for driver in self._drivers.values():
            await driver.tidy(pipelines)

    def absence(self, name: DriverName) -> str | None:
        """Why a driver can do nothing now; None if it can, or is not one of these."""
        driver = self._drivers.get(name)
        return driver.absence() if driver is not None else None

    def on_exit(self, listener: Callable[[Run], None]) -> None:
        """See ``Driver``."""
        for driver in self._drivers.values():
            driver.on_exit(listener)

    def on_output(self, listener: Callable[[RunKey], None]) -> None:
        """See ``Driver``."""
        for driver in self._drivers.values():
            driver.on_output(listener)

    def outputs(self) -> "list[RunKey]":
        """See ``Driver``."""
        found: list[RunKey] = []
        for driver in self._drivers.values():
            for key in driver.outputs():
                self._of.setdefault(key.instance, {}).setdefault(key, driver)
                found.append(key)
        return found

    def read_output(self, key: RunKey, position: int, limit_bytes: int) -> OutputChunk:
        """See ``Driver``."""
        return self._with(key).read_output(key, position, limit_bytes)

    def directory(self, key: RunKey) -> Path:
        """See ``Driver``."""
        return self._with(key).directory(key)

    def _note(self, key: RunKey, driver: Driver) -> None:
        self._of.setdefault(key.instance, {})[key] = driver

    def _with(self, key: RunKey) -> Driver:
        """Whoever has the run; who is asked about an unknown one answers that there is none."""
        known = self._of.get(key.instance, {}).get(key)
        if known is not None:
            return known
        return next(
            (driver for driver in self._drivers.values() if driver.directory(key).exists()), next(iter(self._drivers.values()))
        )
