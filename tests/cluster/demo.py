"""``make cluster-demo``: three hosts on one machine, a pipeline over all of them, and what happens when parts of them die.

Without root the hosts are loopback addresses; nothing outside of this machine is touched.
"""

import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from cluster.faults import Load
from cluster.parts import HOST_SILENCE_S, PARTS, Cluster, arrived, cluster
from cluster.places import loopback
from cluster.truth import settled
from support.flowctl import until


def main() -> int:
    """Play it; the exit code says whether anything was lost."""
    with tempfile.TemporaryDirectory(prefix="flowctl-cluster-") as directory:
        say("starting three NATS servers, and three of each service, on 127.0.1.1, 127.0.1.2 and 127.0.1.3 …")
        with cluster(loopback(3), Path(directory)) as running:
            return play(running)


def play(running: Cluster) -> int:
    """The scenes, one after the other."""
    show(running, "hosts")
    load = Load(running)
    say("\n$ flowctl up --detach --wait orders.yaml     # 300 numbers a second, doubled by three replicas")
    load.begin()
    show(running, "status", "orders")

    leader = until(running.nats_leader, "a leader")
    say(f"\nkilling the NATS server of {leader}, which leads the journal (kill -9) …")
    running.parts[leader, "nats"].kill()
    took = timed(lambda: until(lambda: running.nats_leader() not in (None, leader), "another leader", timeout_s=60))
    say(f"another one leads after {took:.1f} s; events kept flowing: the next one arrived after {load.flows():.2f} s")
    running.parts[leader, "nats"].start()
    settled(running, load)

    victim = running.instances()["orders.double.0"]["host"]
    say(f"\nholding up everything of {victim} (SIGSTOP): its agent and services no longer answer …")
    for what in PARTS:
        running.parts[victim, what].send(signal.SIGSTOP)
    took = running.until_hosts("lost", victim, timeout_s=60)
    say(f"{victim} counts as lost after {took:.1f} s (host_silence_s is {HOST_SILENCE_S:g} here, 30 by default)")
    running.until_well()
    show(running, "status", "orders")
    say(f"\nletting {victim} go on; it ends what is no longer its own …")
    for what in PARTS:
        running.parts[victim, what].send(signal.SIGCONT)
    settled(running, load)

    say("\n$ flowctl hosts drain h2     # for a new kernel: one instance after the other goes elsewhere")
    say(running.run("hosts", "drain", "h2", "--timeout", "60").stdout.rstrip())
    running.run("hosts", "undrain", "h2")
    took = timed(lambda: until(lambda: running.run("doctor", expect=None).returncode == 0, "all to be well", timeout_s=60))
    say(f"\nthe NATS servers that came back have caught up, {took:.1f} s later")
    show(running, "doctor")

    say("\n$ flowctl down orders")
    numbers = load.end()
    say(f"{len(set(numbers)):,} different events arrived, none is missing; {len(numbers) - len(set(numbers)):,} came twice")
    assert arrived(load.out)
    return 0


def show(running: Cluster, *words: str) -> None:
    """A command and what it prints."""
    say(f"\n$ flowctl {' '.join(words)}")
    say(running.run(*words, expect=None).stdout.rstrip())


def timed(work: Callable[[], object]) -> float:
    """How many seconds it takes."""
    begun = time.monotonic()
    work()
    return time.monotonic() - begun


def say(text: str) -> None:
    """A line for whoever looks on."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
