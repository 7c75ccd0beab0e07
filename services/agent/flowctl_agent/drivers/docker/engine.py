"""The Docker engine's API, blocking and in plain values. The only module that imports ``docker``, and only once it is needed.

Every call may block for as long as the engine takes and belongs in a thread. What the engine says is turned into three errors:
it does not answer, it refuses what it was asked for, or it failed.
"""

import contextlib
import io
import socket
import struct
import tarfile
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec
from msgspec import field

from flowctl.errors import DriverError

if TYPE_CHECKING:
    from docker.errors import APIError
    from requests import Response

USUAL_URL: Final = "unix:///var/run/docker.sock"
CALL_S: Final = 60.0
CONNECTIONS: Final = 64
AWAY: Final = "the Docker engine does not answer"
WAY_OUT: Final = "is it running, and may this user use it?"
_FRAME: Final = struct.Struct(">BxxxL")
_PASSWD_BYTES: Final = 1_048_576


class EngineAwayError(DriverError):
    """Nothing answers where the engine should be, or it is only just starting."""


class EngineRefusedError(DriverError):
    """What was asked for cannot be had, however often it is asked for. ``status`` is the engine's HTTP status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Image(msgspec.Struct, frozen=True):
    """What an image says about itself, as far as it matters for starting it."""

    id: str
    user: str
    has_program: bool


class Container(msgspec.Struct, frozen=True, kw_only=True):
    """A container as the engine knows it. ``state`` is the engine's word; times are RFC 3339 texts."""

    id: str
    labels: dict[str, str]
    state: str
    code: int = 0
    oom_killed: bool = False
    error: str = ""
    started: str = ""
    finished: str = ""


class Network(msgspec.Struct, frozen=True, kw_only=True):
    """A network with its subnet and the host's address in it; ``taken`` are the addresses of the containers in it."""

    id: str
    name: str
    labels: dict[str, str]
    subnet: str
    gateway: str
    taken: list[str] = field(default_factory=list[str])


class Event(msgspec.Struct, frozen=True):
    """Something that happened to a container: the engine's word for it, and when (Unix ns by the engine)."""

    action: str
    container: str
    labels: dict[str, str]
    time_ns: int


class Frame(msgspec.Struct, frozen=True):
    """A piece of a container's output as the engine cuts it: at most a line, with its end if it has one, and its time."""

    stream: str
    time: bytes
    data: bytes


class Following:
    """An endless answer of the engine, that another thread may cut off."""

    def __init__(self, response: "Response") -> None:
        self._response = response
        self._closed = False

    def read(self, size: int) -> bytes:
        """Exactly ``size`` bytes, fewer at the end."""
        try:
            return cast("bytes", self._response.raw.read(size))
        except Exception:  # noqa: BLE001  # whatever the transport raises, nothing more will come
            return b""

    def lines(self) -> Iterator[bytes]:
        """Line by line, until the end."""
        try:
            yield from self._response.iter_lines(chunk_size=1)
        except Exception:  # noqa: BLE001  # as above
            return

    def close(self) -> None:
        """End it for whoever reads."""
        from docker.types import CancellableStream

        if not self._closed:
            self._closed = True
            with contextlib.suppress(Exception):  # it may have ended by itself
                CancellableStream(iter(()), self._response).close()
            with contextlib.suppress(Exception):
                self._response.close()


class Engine:
    """One engine. ``url`` empty: what ``DOCKER_HOST`` says, or the usual socket. Threads may share it."""

    def __init__(self, url: str) -> None:
        """Raises EngineAwayError if nothing answers."""
        from docker import APIClient
        from docker.errors import DockerException
        from docker.utils import kwargs_from_env

        try:
            options: dict[str, Any] = {"version": "auto", "timeout": int(CALL_S), "max_pool_size": CONNECTIONS}
            options |= {"base_url": url} if url else cast("dict[str, Any]", kwargs_from_env())
            _knock(options.get("base_url") or USUAL_URL)
            self._api: Any = APIClient(**options, num_pools=CONNECTIONS)
        except DockerException as error:
            raise EngineAwayError(AWAY, hint=WAY_OUT) from error
        self._follow_base = f"{self._api.base_url}/v{self._api.api_version}"

    def close(self) -> None:
        """Let go of the connections."""
        self._api.close()

    def ping(self) -> None:
        """Raises EngineAwayError if it does not answer."""
        with _translated():
            self._api.ping()

    # --- images

    def image(self, name: str) -> Image | None:
        """The image, if this engine has it."""
        with _translated():
            try:
                found = self._api.inspect_image(name)
            except _not_found():
                return None
        config = _table(found, "Config")
        return Image(found["Id"], config.get("User") or "", bool(config.get("Entrypoint") or config.get("Cmd")))

    def pull(self, name: str) -> None:
        """Fetch an image by tag or digest; without either the tag ``latest``, not all of them."""
        last = name.rpartition("/")[2]
        tag = None if "@" in last or ":" in last else "latest"
        with _translated():
            for told in self._api.pull(name, tag=tag, stream=True, decode=True):
                if "error" in told:
                    raise DriverError(str(told["error"]))

    # --- containers

    def create(self, name: str, config: dict[str, Any]) -> str:
        """Create a container that does not run yet; its id."""
        with _translated():
            return str(self._api.create_container_from_config(config, name)["Id"])

    def put(self, container: str, directory: str, archive: bytes) -> None:
        """Unpack a tar archive into a directory of a container's volume."""
        with _translated():
            self._api.put_archive(container, directory, archive)

    def read_file(self, container: str, path: str) -> bytes | None:
        """A small file of a container, running or not; None if it has none there."""
        with _translated():
            try:
                chunks, _ = self._api.get_archive(container, path)
            except _not_found():
                return None
            data = b""
            for chunk in chunks:
                data += chunk
                if len(data) > _PASSWD_BYTES:
                    return None
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            member = next((entry for entry in archive if entry.isfile()), None)
            file = archive.extractfile(member) if member is not None else None
            return file.read() if file is not None else None

    def start(self, container: str) -> None:
        """Start a container that was created."""
        with _translated():
            self._api.start(container)

    def kill(self, container: str, number: int) -> None:
        """Send a signal, which a paused container could not obey; nothing happens if it has ended."""
        with _translated(ignore=(404, 409)):
            self._api.kill(container, number)
        with _translated(ignore=(404, 409, 500)):
            self._api.unpause(container)

    def remove(self, container: str) -> None:
        """Remove a container, by force, and what only it has; nothing happens if it is gone or going."""
        with _translated(ignore=(404, 409)):
            self._api.remove_container(container, v=True, force=True)

    def inspect(self, container: str) -> Container | None:
        """The container, if there is one."""
        with _translated():
            try:
                found = self._api.inspect_container(container)
            except _not_found():
                return None
        return _container(found)

    def containers(self, label: str) -> list[Container]:
        """Every container with a label, running or not."""
        with _translated():
            ids = [str(each["Id"]) for each in self._api.containers(all=True, filters={"label": label})]
        found = (self.inspect(each) for each in ids)
        return [each for each in found if each is not None]

    # --- networks and volumes

    def create_network(self, name: str, labels: dict[str, str], subnet: str = "", gateway: str = "") -> None:
        """Create a bridge network; without a subnet the engine chooses one."""
        from docker.types import IPAMConfig, IPAMPool

        ipam = IPAMConfig(pool_configs=[IPAMPool(subnet=subnet, gateway=gateway)]) if subnet else None
        with _translated():
            self._api.create_network(name, driver="bridge", ipam=ipam, labels=labels, check_duplicate=True)

    def network(self, name: str) -> Network | None:
        """The network, if there is one of exactly this name."""
        with _translated():
            try:
                return _network(self._api.inspect_network(name))
            except _not_found():
                return None

    def networks(self, label: str) -> list[Network]:
        """Every network with a label."""
        with _translated():
            names = [str(each["Id"]) for each in self._api.networks(filters={"label": label})]
        found = (self.network(each) for each in names)
        return [each for each in found if each is not None]

    def remove_network(self, name: str) -> None:
        """Remove a network; nothing happens if it is gone or somebody is in it."""
        with _translated(ignore=(403, 404, 409)):
            self._api.remove_network(name)

    def volumes(self, label: str) -> dict[str, dict[str, str]]:
        """Every volume with a label, with all its labels."""
        with _translated():
            found = self._api.volumes(filters={"label": label})
        return {each["Name"]: _table(each, "Labels") for each in _rows(found, "Volumes")}

    def remove_volume(self, name: str) -> None:
        """Remove a volume; nothing happens if it is gone or in use."""
        with _translated(ignore=(404, 409)):
            self._api.remove_volume(name)

    # --- what does not end

    def follow_events(self, label: str) -> tuple[Following, Iterator[Event]]:
        """What happens from now on to containers with a label."""
        filters = msgspec.json.encode({"type": ["container"], "label": [label], "event": ["die", "oom"]}).decode()
        following = self._follow("/events", {"filters": filters})
        return following, _events(following)

    def follow_output(self, container: str, since: str) -> tuple[Following, Iterator[Frame]]:
        """What a container wrote from an instant on (``seconds.nanoseconds``), and writes until it ends."""
        params = {"follow": "1", "stdout": "1", "stderr": "1", "timestamps": "1", "since": since or "0"}
        following = self._follow(f"/containers/{container}/logs", params)
        return following, _frames(following)

    def _follow(self, path: str, params: dict[str, str]) -> Following:
        with _translated():
            response = self._api.get(f"{self._follow_base}{path}", params=params, stream=True, timeout=(CALL_S, None))
            if response.status_code != 200:
                raise EngineRefusedError(response.text[:500].strip(), response.status_code)
            return Following(response)


def _knock(url: str) -> None:
    """Whether anybody listens at a socket of this host: the library would leave one behind each time that nobody does."""
    if url.startswith(("unix://", "http+unix://")):
        with socket.socket(socket.AF_UNIX) as knocking:
            try:
                knocking.connect("/" + url.partition("://")[2].lstrip("/"))
            except OSError as error:
                raise EngineAwayError(AWAY, hint=WAY_OUT) from error


def _events(following: Following) -> Generator[Event]:
    for line in following.lines():
        try:
            told = msgspec.json.decode(line)
            actor = told["Actor"]
            yield Event(told["Action"], actor["ID"], _table(actor, "Attributes"), int(told["timeNano"]))
        except (msgspec.DecodeError, KeyError, TypeError, ValueError):
            continue


def _frames(following: Following) -> Generator[Frame]:
    while len(header := following.read(_FRAME.size)) == _FRAME.size:
        stream, length = _FRAME.unpack(header)
        data = following.read(length)
        if len(data) < length:
            return
        time, _, rest = data.partition(b" ")
        yield Frame("stderr" if stream == 2 else "stdout", time, rest)


def _container(found: Any) -> Container:  # noqa: ANN401 - JSON
    state = _table(found, "State")
    return Container(
        id=found["Id"],
        labels=_table(_table(found, "Config"), "Labels"),
        state=state.get("Status") or "",
        code=int(state.get("ExitCode") or 0),
        oom_killed=bool(state.get("OOMKilled")),
        error=state.get("Error") or "",
        started=state.get("StartedAt") or "",
        finished=state.get("FinishedAt") or "",
    )


def _network(found: Any) -> Network:  # noqa: ANN401 - JSON
    pools = [each for each in _rows(_table(found, "IPAM"), "Config") if ":" not in each.get("Subnet", ":")]
    return Network(
        id=found["Id"],
        name=found["Name"],
        labels=_table(found, "Labels"),
        subnet=pools[0].get("Subnet", "") if pools else "",
        gateway=pools[0].get("Gateway", "") if pools else "",
        taken=[each.get("IPv4Address", "").partition("/")[0] for each in _table(found, "Containers").values()],
    )


def _table(found: Any, name: str) -> dict[str, Any]:  # noqa: ANN401 - JSON
    """A field that is an object, absent or null."""
    return found.get(name) or {}


def _rows(found: Any, name: str) -> list[dict[str, Any]]:  # noqa: ANN401 - JSON
    """A field that is a list of objects, absent or null."""
    return found.get(name) or []


def _not_found() -> type[Exception]:
    from docker.errors import NotFound

    return NotFound


@contextlib.contextmanager
def _translated(*, ignore: tuple[int, ...] = ()) -> Generator[None]:
    """The library's errors as ours."""
    import requests
    from docker.errors import APIError, DockerException
    from urllib3.exceptions import HTTPError  # what breaks off in the middle of a stream comes as it is

    try:
        yield
    except APIError as error:
        status = int(error.status_code or 500)
        if status not in ignore:
            raise _refused(error, status) from error
    except (requests.exceptions.ConnectionError, requests.exceptions.Timeout) as error:
        raise EngineAwayError(AWAY, hint=WAY_OUT) from error
    except (requests.exceptions.RequestException, DockerException, HTTPError, OSError) as error:
        raise DriverError(f"the Docker engine failed: {error}") from error


def _refused(error: "APIError", status: int) -> DriverError:
    said = str(error.explanation or error).strip().removesuffix(": unknown")
    said = said.replace("\n", " ")
    if status >= 500:
        return DriverError(f"the Docker engine failed: {said}")
    return EngineRefusedError(said, status)
