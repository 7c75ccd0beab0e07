"""Instances as containers of a Docker engine. Starts, stops and finds them; the engine's events tell at once how they end.

What the engine is asked goes through threads, never through the loop. While the engine is away, what is listed is the last that
was known of it; when it is back, every run is compared with what is there.
"""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import msgspec

from flowctl.errors import DriverError
from flowctl.ids import InstanceId
from flowctl.spec.model import Driver as DriverName
from flowctl_agent.drivers import Launch, OutputChunk, Run, RunKey, segments
from flowctl_agent.drivers.docker import clearing, recipe, starting
from flowctl_agent.drivers.docker.connection import Connection
from flowctl_agent.drivers.docker.engine import Container, EngineAwayError, Event
from flowctl_agent.drivers.docker.live import Live
from flowctl_agent.drivers.docker.networks import Networks
from flowctl_agent.drivers.docker.output import Follower
from flowctl_agent.drivers.docker.recipe import Ending
from flowctl_agent.drivers.docker.records import (
    FOLDER,
    ContainerDirectory,
    ContainerRecord,
    EndRecord,
    directories,
    ended_run,
    owner_of,
    run_of,
)

KILL_S: Final = 10.0
DRAIN_S: Final = 5.0
"""How long an ended container's output is waited for."""
CLEAR_S: Final = 10.0
"""How long the removal of ended containers is waited for."""
ASK_AGAIN_S: Final = 5.0
"""After how long the engine is asked again how a run ended."""
LAST_WORDS: Final = 10
LAST_WORDS_BYTES: Final = 2_000
THREADS: Final = 16
_OVER: Final = ("exited", "dead", "removing")

log = logging.getLogger("flowctl.agent.docker")


class DockerDriver:
    """See ``Driver``. ``url`` empty: what ``DOCKER_HOST`` says, or the usual socket."""

    name: DriverName = "docker"

    def __init__(
        self,
        state_dir: Path,
        *,
        url: str,
        registry: str,
        advertise_host: str,
        log_file_bytes: int,
        log_files: int,
        kept_runs: int,
    ) -> None:
        self._state_dir = state_dir
        self._root = state_dir / FOLDER
        self._registry = registry
        self._advertise_host = advertise_host
        self._log_file_bytes = log_file_bytes
        self._log_files = log_files
        self._kept_runs = kept_runs
        self._owner = ""
        self._live: dict[RunKey, Live] = {}
        self._exited: dict[RunKey, Run] = {}
        self._starting: set[RunKey] = set()
        self._short_lived: set[RunKey] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False
        self._exit_listeners: list[Callable[[Run], None]] = []
        self._output_listeners: list[Callable[[RunKey], None]] = []
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="docker")
        self._connection = Connection(url, self._threads, self._happened, self._compare)
        self._networks: Networks | None = None

    async def open(self) -> None:
        """See ``Driver``. The engine is asked when there is something to ask."""
        try:
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._owner = owner_of(self._root)
        except OSError as error:
            raise DriverError(f"the state directory cannot be used: {error}", hint="set state_dir") from error
        self._networks = Networks(
            self._owner,
            self._connection.call,
            registry=self._registry,
            advertise_host=self._advertise_host,
            memory=self._root / "networks",
        )
        for directory in directories(self._root):
            began = directory.began()
            if directory.forgotten or began is None:
                continue
            run, ended = run_of(directory.key, began), directory.ended()
            if ended is not None:
                self._exited[run.key] = ended_run(run, ended)
            else:
                self._live[run.key] = Live(run, began, asyncio.Event())
        if self._live:
            await self._connection.connect(recipe.owned(self._owner))

    async def close(self) -> None:
        """See ``Driver``. What ends from now on is left to whoever opens the next one."""
        self._closing = True
        for live in self._live.values():
            if live.follower is not None:
                live.follower.stop()
        await self._burials()
        for late in self._tasks:
            late.cancel()
        await self._connection.close()
        followers = [live.follower for live in self._live.values() if live.follower is not None]
        for follower in followers:
            await asyncio.to_thread(follower.join, DRAIN_S)
        if self._networks is not None:
            await self._networks.close()
        self._live.clear()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def start(self, launch: Launch) -> Run:
        """See ``Driver``."""
        key = launch.key
        if any(each.instance == key.instance for each in (*self._live, *self._starting)):
            raise DriverError(f"{key.instance} runs already")
        self._starting.add(key)
        directory = ContainerDirectory(self._root, key)
        try:
            await self._connection.connect(recipe.owned(self._owner))
            if self._connection.absence is not None:
                raise EngineAwayError(self._connection.absence)
            image = await self._connection.call(lambda engine: starting.find_image(engine, launch))
            if isinstance(image, str):
                return self._not_begun(launch, directory, image)
            directory.begin(launch)
            began = await self._begin(launch, image)
            if isinstance(began, str):
                return self._not_begun(launch, directory, began)
            run = run_of(key, directory.began() or ContainerRecord.of(launch), began.id[:12])
            run = msgspec.structs.replace(run, started_ns=recipe.time_ns(began.started))
            live = Live(run, ContainerRecord.of(launch), asyncio.Event(), container=began.id)
            self._live[key] = live
            self._follow(live)
            if began.state in _OVER or key in self._short_lived:
                self._bury_soon(key)
        except OSError as error:
            raise DriverError(f"the run directory cannot be made: {error}") from error
        else:
            return run
        finally:
            self._starting.discard(key)
            self._short_lived.discard(key)

    async def _begin(self, launch: Launch, image: starting.Image) -> Container | str:
        """Create and start the container: how it is then, or why it cannot be."""
        assert self._networks is not None  # noqa: S101  # open() made it
        pipeline, name = launch.key.instance.pipeline, recipe.container_name(self._owner, launch.key)
        for left in reversed(range(starting.PORT_TRIES)):
            spot = await self._networks.spot(launch)
            config = recipe.container_config(
                self._owner, launch, image, spot, log_file_bytes=self._log_file_bytes, log_files=self._log_files
            )
            try:
                return await self._connection.call(lambda engine, config=config: starting.begin(engine, name, config, launch))
            except starting.TakenError as error:
                if not left:
                    raise DriverError(error.message) from error
            finally:
                self._networks.release(pipeline, spot)
        raise AssertionError("the last try returns or raises")

    async def stop(self, key: RunKey, timeout_s: float) -> None:
        """See ``Driver``."""
        live = self._live.get(key)
        if live is None:
            return
        await self._connection.connect(recipe.owned(self._owner))
        if not live.container and not live.ended.is_set():
            raise DriverError(f"{key} could not be ended: {self._connection.absence or 'its container is not known yet'}")
        with contextlib.suppress(OSError):
            ContainerDirectory(self._root, key).mark_stopping()
        for number, patience_s in ((signal.SIGTERM, timeout_s), (signal.SIGKILL, KILL_S), (signal.SIGKILL, KILL_S)):
            if not live.ended.is_set():
                await self._connection.call(lambda engine, number=number: engine.kill(live.container, number))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(live.ended.wait(), patience_s)
                return
        raise DriverError(f"{key} could not be ended")

    async def list(self, instance: InstanceId | None = None) -> "list[Run]":
        """See ``Driver``."""
        runs = [live.run for live in self._live.values()] + [*self._exited.values()]
        return sorted((run for run in runs if instance in (None, run.key.instance)), key=lambda run: run.key)

    async def forget(self, key: RunKey) -> None:
        """See ``Driver``."""
        if self._exited.pop(key, None) is None:
            return
        ContainerDirectory(self._root, key).mark_forgotten()
        of_instance = [each for each in directories(self._root) if each.key.instance == key.instance]
        for directory in [each for each in of_instance if each.forgotten][: -self._kept_runs]:
            directory.remove()

    async def tidy(self, pipelines: Collection[str]) -> None:
        """See ``Driver``."""
        if self._networks is None or not self._connection.used or self._connection.absence is not None:
            return
        await self._burials()
        busy = {key.instance.pipeline for key in (*self._live, *self._starting)}
        await self._networks.tidy({*pipelines, *busy})

    def absence(self) -> str | None:
        """See ``Driver``."""
        return self._connection.absence

    async def gateway(self, pipeline: str) -> str | None:
        """The address at which a pipeline's containers reach this host's programs; None if the advertised one will do.

        Raises:
            DriverError: there is no network to be had.
        """
        await self._connection.connect(recipe.owned(self._owner))
        if self._networks is None or self._connection.absence is not None:
            raise EngineAwayError(self._connection.absence or "the driver is not open")
        return await self._networks.gateway(pipeline)

    def on_exit(self, listener: Callable[[Run], None]) -> None:
        """See ``Driver``."""
        self._exit_listeners.append(listener)

    def on_output(self, listener: Callable[[RunKey], None]) -> None:
        """See ``Driver``."""
        self._output_listeners.append(listener)

    def outputs(self) -> "list[RunKey]":
        """See ``Driver``."""
        return [directory.key for directory in directories(self._root)]

    def read_output(self, key: RunKey, position: int, limit_bytes: int) -> OutputChunk:
        """See ``Driver``."""
        return segments.read(self.directory(key), position, limit_bytes)

    def directory(self, key: RunKey) -> Path:
        """See ``Driver``."""
        return ContainerDirectory(self._root, key).path

    # --- what the engine says

    async def _compare(self) -> None:
        """The engine has come, or come back: what is there, against what is known."""
        label = recipe.owned(self._owner)
        expected, beginning = [*self._live], {*self._starting}  # of what starts meanwhile, the answer may be too old
        found = await self._connection.call(lambda engine: engine.containers(label))
        there: set[RunKey] = set()
        for container in found:
            key = recipe.key_of(container.labels)
            if key is None or key in beginning or key in self._starting:
                continue
            there.add(key)
            await self._compare_one(key, container)
        for key in expected:
            if key not in there:
                await self._bury(key)
        if self._networks is not None and found:
            await self._networks.reopen()

    async def _compare_one(self, key: RunKey, container: Container) -> None:
        directory = ContainerDirectory(self._root, key)
        live = self._live.get(key)
        if live is not None and live.container == container.id and container.state == "created":
            return  # it was started since the engine was asked
        if container.state == "created" or (live is None and container.state in _OVER):
            await self._connection.call(lambda engine: clearing.clear(engine, container.id))
            if live is not None:
                await self._bury(key)
            return
        if live is None:  # its directory is gone, or says that it is over: the container is what counts
            began = directory.began() or ContainerRecord(assignment=0, argv=[], image="", stop_timeout_s=30.0)
            live = self._live[key] = Live(run_of(key, began), began, asyncio.Event())
        started_ns = recipe.time_ns(container.started)
        live.container = container.id
        live.run = msgspec.structs.replace(live.run, handle=container.id[:12], started_ns=started_ns)
        self._follow(live)
        if container.state in _OVER:
            await self._bury(key)
        else:
            log.info("adopted", extra={"run": str(key), "container": container.id[:12]})

    def _happened(self, event: Event) -> None:
        """The engine tells of a container."""
        key = recipe.key_of(event.labels)
        if key in self._starting and event.action != "oom":
            self._short_lived.add(key)
        live = self._live.get(key) if key is not None else None
        if key is None or live is None or (live.container and live.container != event.container):
            return
        if not live.container:  # it ends while it is still being looked for
            live.container = event.container
            live.run = msgspec.structs.replace(live.run, handle=event.container[:12])
        if event.action == "oom":
            live.oom = True
        else:
            self._bury_soon(key)

    def _bury_soon(self, key: RunKey) -> None:
        if self._closing:
            return
        task = asyncio.create_task(self._bury(key), name=f"exit-{key}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _bury(self, key: RunKey) -> None:
        """A run has ended: gather how, write it down, remove the container, say so. Waits while the engine is away."""
        live = self._live.get(key)
        if live is None or live.burying:
            return
        live.burying = True
        try:
            ending, words = await self._post_mortem(key, live)
        except DriverError as error:  # it may be the engine's failure in this alone
            if live.again is None:
                log.warning("how %s ended could not be asked: %s", key, error)
            live.ask_again(ASK_AGAIN_S, lambda: self._bury_soon(key))
            return
        finally:
            live.burying = False  # nobody else comes between this and its end
        record = EndRecord(ending=ending, last_words=words, handle=live.run.handle)
        written = True
        try:
            ContainerDirectory(self._root, key).mark_ended(record)
        except OSError as error:  # the container is kept instead
            written = False
            log.warning("how %s ended could not be written down: %s", key, error)
        self._live.pop(key, None)
        run = self._exited[key] = ended_run(live.run, record)
        live.ended.set()
        for heard in self._output_listeners:
            heard(key)
        for listener in self._exit_listeners:
            listener(run)
        if written and live.container:
            with contextlib.suppress(EngineAwayError):  # it is removed when the engine is back
                await self._connection.call(lambda engine: clearing.clear(engine, live.container))

    async def _burials(self) -> None:
        """Wait a while for those that are under way."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CLEAR_S)

    async def _post_mortem(self, key: RunKey, live: Live) -> "tuple[Ending, list[str]]":
        directory = ContainerDirectory(self._root, key)
        found: Container | None = None
        if live.container:
            found = await self._connection.call(lambda engine: engine.inspect(live.container))
        if live.drained is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(live.drained.wait(), DRAIN_S)
        words = segments.last_words(directory.path, LAST_WORDS, LAST_WORDS_BYTES)
        ending = recipe.ending_of(found, live.began.argv, live.began.image, words, oom=live.oom)
        return recipe.asked_to_end(ending) if directory.stopping else ending, words

    def _follow(self, live: Live) -> None:
        """Follow the output, if nobody does."""
        if live.drained is not None and not live.drained.is_set():
            return
        live.drained = asyncio.Event()
        key, container, directory = live.run.key, live.container, ContainerDirectory(self._root, live.run.key)
        live.follower = Follower(
            directory.path,
            lambda since: self._connection.engine().follow_output(container, since),
            file_bytes=self._log_file_bytes,
            files=self._log_files,
            secrets=directory.redacted(),
            wrote=lambda: [heard(key) for heard in self._output_listeners],
            ended=live.drained.set,
        )
        live.follower.start()

    def _not_begun(self, launch: Launch, directory: ContainerDirectory, failure: str) -> Run:
        """A run that could not even begin."""
        run = self._exited[launch.key] = directory.never_began(launch, Ending(code=127, failure=failure))
        return run
