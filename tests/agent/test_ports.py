"""Ports of a range: free ones, each for one program."""

import contextlib
import socket

import pytest

from flowctl.errors import UserError
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


def test_no_port_is_given_out_twice_in_a_row():
    """What was given out may not listen yet; the next ones are others."""
    first = free_run(8)
    ports = PortRange(first, first + 7, HOST)
    taken = [ports.take() for _ in range(4)]
    assert len(set(taken)) == 4
    assert set(taken) <= set(range(first, first + 8))


def test_what_somebody_listens_on_is_left_out():
    """And when nothing is left the message names the range and the way out."""
    first = free_run(3)
    with contextlib.ExitStack() as stack:
        for port in (first, first + 2):
            listener = stack.enter_context(socket.socket())
            listener.bind((HOST, port))
            listener.listen()
        assert PortRange(first, first + 2, HOST).take() == first + 1
        listener = stack.enter_context(socket.socket())
        listener.bind((HOST, first + 1))
        listener.listen()
        with pytest.raises(UserError, match=rf"no port from {first} to {first + 2} is free on this host"):
            PortRange(first, first + 2, HOST).take()


def test_no_range():
    """Any free port, as the program finds one."""
    assert PortRange.of("", HOST) is None
