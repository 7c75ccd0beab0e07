"""A whole control plane on several hosts: on each a nats-server of one cluster, and each service of flowctl as a process."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any

import msgspec

from cluster.places import Network, Place, on
from flowctl.journal.server_process import find_program
from support.flowctl import COMMAND, until

NATS, CLUSTER, MONITOR, REGISTRY = 14222, 16222, 18222, 18080
SERVICES = ("registry", "health", "orchestrator", "agent")
PARTS = ("nats", *SERVICES)
HOST_SILENCE_S = 5.0
"""So soon a host is missed in these tests; the default is 30 s."""

_CONFIG = """\
server_name: {name}
listen: {address}:{nats}
http: {address}:{monitor}
ping_interval: "2s"
ping_max: 2
jetstream {{ store_dir: {store}, sync_interval: always, max_file_store: 1TB }}
cluster {{
  name: flowctl
  listen: {address}:{cluster}
  routes: [{routes}]
}}
"""


class Part:
    """One process of the control plane: started, killed, held up, started again."""

    def __init__(self, place: Place, what: str, argv: list[str], environment: dict[str, str], log: Path) -> None:
        self.place = place
        self.what = what
        self._argv = argv
        self._environment = environment
        self._log = log
        self.process: subprocess.Popen[bytes] | None = None

    def __str__(self) -> str:
        return f"{self.what} of {self.place.name}"

    def start(self) -> None:
        """Start it if it does not run."""
        if self.process is None or self.process.poll() is not None:
            self.process = on(self.place, self._argv, environment=self._environment, log=self._log)

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if it runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.send(signal.SIGKILL)
        self.wait()

    def stop(self) -> None:
        """SIGTERM, and wait until it is gone."""
        self.send(signal.SIGCONT)
        self.send(signal.SIGTERM)
        self.wait()

    def wait(self) -> None:
        """Until it is gone."""
        if self.process is not None:
            self.process.wait(timeout=40)

    def log(self) -> str:
        """The end of what it wrote."""
        return self._log.read_text(errors="replace")[-3000:] if self._log.exists() else ""


class Cluster:
    """The parts by host and kind, and the operator's way to them."""

    def __init__(self, network: Network, directory: Path, *, host_silence_s: float) -> None:
        self._host_silence_s = host_silence_s
        self.network = network
        self.directory = directory
        places = network.places
        self.nats_urls = ",".join(f"nats://{place.address}:{NATS}" for place in places)
        self.monitor_urls = ",".join(f"http://{place.address}:{MONITOR}" for place in places)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("FLOWCTL_")}
        self.environment = {
            **inherited,
            "FLOWCTL_NATS_URL": self.nats_urls,
            "FLOWCTL_NATS_MONITOR_URL": self.monitor_urls,
            "FLOWCTL_STATE_DIR": str(directory / "operator"),
            "FLOWCTL_ALLOW_INSECURE_REMOTE": "true",
            "NO_COLOR": "1",
        }
        self.parts = {(place.name, what): self._part(place, what) for place in places for what in PARTS}

    def _part(self, place: Place, what: str) -> Part:
        home = self.directory / place.name
        home.mkdir(parents=True, exist_ok=True)
        if what == "nats":
            config = home / "nats.conf"
            routes = ", ".join(f"nats://{each.address}:{CLUSTER}" for each in self.network.places if each != place)
            config.write_text(
                _CONFIG.format(
                    name=place.name,
                    address=place.address,
                    nats=NATS,
                    monitor=MONITOR,
                    cluster=CLUSTER,
                    store=home / "nats",
                    routes=routes,
                )
            )
            return Part(place, what, [str(find_program()), "-c", str(config)], self.environment, home / "nats.log")
        others = [each for each in self.network.places if each != place]
        settings = {
            "STATE_DIR": str(home / "state"),
            "NAME": place.name,
            "REGISTRY_LISTEN": f"{place.address}:{REGISTRY}",
            "REGISTRY": ",".join(f"{each.address}:{REGISTRY}" for each in (place, *others)),
            "ADVERTISE_HOST": place.address,
            "HOST_SILENCE_S": f"{self._host_silence_s:g}",
            "HOST_HEARTBEAT_S": "1",
            "LABELS": f"zone={place.name}",
        }
        environment = {**self.environment, **{f"FLOWCTL_{name}": value for name, value in settings.items()}}
        return Part(place, what, [sys.executable, "-m", f"flowctl_{what}"], environment, home / f"{what}.log")

    # --- all of it ---------------------------------------------------------------------------------------------------------

    def start(self, *parts: str) -> None:
        """Start these parts, or everything; wait until the journal has a leader and, with agents, every host has joined."""
        for what in parts or PARTS:
            for part in self.of(what):
                part.start()
        until(lambda: self.nats_leader() is not None, "a leader of the journal's stream", timeout_s=60)
        if not parts or "agent" in parts:
            self.until_hosts("up", *(place.name for place in self.network.places))

    def close(self) -> None:
        """End everything."""
        for place in self.network.places:
            if self.network.can_cut:
                self.network.heal(place)
        for part in self.parts.values():
            part.send(signal.SIGCONT)
        for what in reversed(PARTS):
            for part in self.of(what):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    part.stop()
        for part in self.parts.values():
            part.kill()

    def of(self, what: str) -> list[Part]:
        """That part of every host."""
        return [self.parts[place.name, what] for place in self.network.places]

    def on(self, host: str) -> list[Part]:
        """Every part of a host."""
        return [self.parts[host, what] for what in PARTS]

    # --- looking ------------------------------------------------------------------------------------------------------------

    def run(self, *words: str, expect: int | None = 0, timeout_s: float = 90.0) -> subprocess.CompletedProcess[str]:
        """A command of the operator; ``expect`` is the exit code that it must have, None for any."""
        done = subprocess.run(
            [*COMMAND, *words],
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        if expect is not None and done.returncode != expect:
            said = f"{done.stdout}\n{done.stderr}"
            raise AssertionError(f"flowctl {' '.join(words)} exited {done.returncode}, not {expect}\n{said}")
        return done

    def json(self, *words: str) -> Any:
        """What a command says with ``--json``."""
        return json.loads(self.run(*words, "--json").stdout)

    def asked(self, *words: str) -> Any:
        """The same, or None while it cannot be answered."""
        done = self.run(*words, "--json", "--timeout", "5", expect=None)
        return json.loads(done.stdout) if done.returncode == 0 else None

    def instances(self, pipeline: str = "orders") -> dict[str, dict[str, Any]]:
        """The instances by name; empty while nobody answers."""
        status = self.asked("status", pipeline)
        return {each["instance"]: each for view in status["pipelines"] for each in view["instances"]} if status else {}

    def until_well(self, pipeline: str = "orders", *, timeout_s: float = 60.0) -> float:
        """Wait until the pipeline runs; how long that took."""
        begun = time.monotonic()

        def well() -> bool:
            status = self.asked("status", pipeline)
            return bool(status) and status["pipelines"][0]["status"] == "running"

        until(well, f"{pipeline} to run", timeout_s=timeout_s, every_s=0.2)
        return time.monotonic() - begun

    def until_hosts(self, status: str, *names: str, timeout_s: float = 60.0) -> float:
        """Wait until these hosts have that status; how long that took."""
        begun = time.monotonic()

        def there() -> bool:
            hosts: list[dict[str, Any]] = self.asked("hosts") or []
            return set(names) <= {host["name"] for host in hosts if host["status"] == status}

        try:
            until(there, f"{', '.join(names)} {status}", timeout_s=timeout_s, every_s=0.2)
        except AssertionError as error:
            logs = "\n".join(f"--- {part}\n{part.log()}" for part in self.parts.values())
            raise AssertionError(f"{error}\n{logs}") from None
        return time.monotonic() - begun

    def nats_leader(self) -> str | None:
        """Which host's server leads the journal's stream now, by the servers' own word; None if none does."""
        for place in self.network.places:
            leader = _leader(f"http://{place.address}:{MONITOR}/jsz?streams=true&accounts=true")
            if leader:
                return leader
        return None


def _leader(url: str) -> str | None:
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:
            found: dict[str, Any] = json.load(answer)
    except (OSError, ValueError):
        return None
    for account in found.get("account_details", []):
        for stream in account.get("stream_detail", []):
            if stream["name"] == "FLOWCTL_JOURNAL":
                group: dict[str, Any] = stream.get("cluster") or {}
                return group.get("leader")
    return None


class Row(msgspec.Struct):
    """A row of the sink."""

    n: int


def arrived(path: Path) -> list[int]:
    """The numbers that the sink has written, in order; a half-written last line is not there yet."""
    if not path.exists():
        return []
    return [msgspec.json.decode(line, type=Row).n for line in path.read_bytes().split(b"\n")[:-1]]


def missing(numbers: Iterable[int]) -> list[int]:
    """Which numbers below the largest never arrived."""
    seen = set(numbers)
    return [n for n in range(max(seen, default=-1) + 1) if n not in seen]


@contextlib.contextmanager
def cluster(
    network: Network, directory: Path, *, parts: tuple[str, ...] = (), host_silence_s: float = HOST_SILENCE_S
) -> Generator[Cluster]:
    """A control plane that runs (all of it, or these parts), and is ended afterwards."""
    made = Cluster(network, directory, host_silence_s=host_silence_s)
    try:
        made.start(*parts)
        yield made
    finally:
        made.close()
