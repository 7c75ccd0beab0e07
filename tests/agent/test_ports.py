"""Ports of a range: free ones, each for one program."""

import contextlib
import socket

import pytest

from flowctl.errors import UserError
from flowctl.ids import InstanceId
from flowctl_agent.drivers import RunKey
from flowctl_agent.ports import PortRange

HOST = "127.0.0.1"


def free_run(length: int) -> int:
    """The first of so many neighbouring free ports."""
    for first in range(21_000, 30_000, length):
        with contextlib.ExitStack() as stack:
            try:
                for port in range(first, first + length):
                    stack.enter_context(socket.socket()).bind((HOST, port))
            except OSError:
                continue
            return first
    raise AssertionError("no ports are free")


def run(index: int, incarnation: int = 1) -> RunKey:
    """The key of a run."""
    return RunKey(InstanceId("orders", "pass", index), incarnation)


def test_a_port_is_one_runs_until_that_has_ended():
    """Before it listens, and before its driver knows of it, too; a run that nobody knows gives it back after a while."""
    first = free_run(4)
    ports = PortRange(first, first + 3, HOST)
    mine = {ports.take(run(0), {}, 0.0), ports.take(run(0), {}, 0.0)}
    others = {ports.take(run(1), {run(0): True}, 1.0), ports.take(run(1), {run(0): True}, 1.0)}
    assert mine | others == set(range(first, first + 4))
    with pytest.raises(UserError, match="each component needs two"):
        ports.take(run(2), {run(0): True}, 2.9)
    with pytest.raises(UserError, match=f"no port from {first} to {first + 3} is free"):
        ports.take(run(2), {run(0): True, run(1): True}, 1_000.0)
    assert {ports.take(run(2), {run(0): False, run(1): True}, 2.0) for _ in range(2)} == mine
    assert {ports.take(run(3), {run(2): True}, 3.0) for _ in range(2)} == others


def test_a_run_that_nobody_knows_keeps_its_ports_longer_while_there_are_others():
    """It may be about to start, however slow the host is."""
    first = free_run(4)
    ports = PortRange(first, first + 3, HOST)
    mine = [ports.take(run(0), {}, 0.0) for _ in range(2)]
    others = [ports.take(run(1), {}, 0.0) for _ in range(2)]
    assert [ports.take(run(2, n), {run(1): False}, 10.0) for n in (1, 2)] == others, "run 0 may be about to start"
    assert ports.take(run(3), {run(2, 1): True, run(2, 2): True}, 10.0) == mine[0], "there is no other one"


def test_what_was_given_back_longest_ago_is_given_next():
    """So that whoever comes late to an old address rarely meets somebody new."""
    first = free_run(4)
    ports = PortRange(first, first + 3, HOST)
    assert [ports.take(run(0, n), {run(0, n - 1): False}, 0.0) for n in range(1, 5)] == list(range(first, first + 4))


def test_what_somebody_listens_on_is_left_out():
    """Whoever it is."""
    first = free_run(3)
    with contextlib.ExitStack() as stack:
        for port in (first, first + 2):
            listener = stack.enter_context(socket.socket())
            listener.bind((HOST, port))
            listener.listen()
        assert PortRange(first, first + 2, HOST).take(run(0), {}, 0.0) == first + 1
        listener = stack.enter_context(socket.socket())
        listener.bind((HOST, first + 1))
        listener.listen()
        with pytest.raises(UserError, match=rf"no port from {first} to {first + 2} is free on this host"):
            PortRange(first, first + 2, HOST).take(run(0), {}, 0.0)


def test_no_range():
    """Any free port, as the program finds one."""
    assert PortRange.of("", HOST) is None
