"""A full disk under the journal's leader, then under all NATS servers: nothing false is acknowledged, and it is said."""

from pathlib import Path

import pytest

from cluster.disks import play, three_on_small_disks
from cluster.places import why_no_namespaces
from cluster.registrars import Registrars
from support.disks import why_no_disks
from support.flowctl import until

pytestmark = [pytest.mark.timeout(180), pytest.mark.xdist_group("cluster")]

REPORTED_S = 10.0


def test_full_disks(tmp_path: Path):
    """One costs nothing but an election; with all of them nothing is taken. Each is reported soon, with what to do."""
    reason = why_no_namespaces() or why_no_disks()
    if reason is not None:
        pytest.skip(reason)
    with three_on_small_disks(tmp_path) as three:
        registrars = Registrars(three)
        try:
            until(lambda: registrars.total() > 3, "registrations")
            leader = until(three.nats_leader, "a leader")
            one = play(three, [leader], registrars, survives=True)
            every = play(three, [place.name for place in three.network.places], registrars, survives=False)
        finally:
            registrars.end()
    assert one.lost == every.lost == 0
    assert one.reported_s <= REPORTED_S
    assert every.reported_s <= REPORTED_S
