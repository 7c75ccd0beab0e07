"""The judge of the fault schedules sees each kind of breach; tried on files and counters that no pipeline has written."""

from pathlib import Path

import msgspec
import pytest

from chaos.balance import Account, End, Share, unbalanced
from chaos.oracle import judge, key_of
from chaos.plan import Part, Plan
from chaos.record import record
from chaos.schedule import Outcome
from chaos.theatre import Play

EVENTS = 3_000


class Fabricated:
    """A run of s → p (gives up on some) → k and, as far as it keeps up, → d, in which all went well."""

    def __init__(self, directory: Path) -> None:
        self.out = directory
        self.good = [n for n in range(EVENTS) if n % 251 != 7]
        self.plan = Plan(
            seed=1,
            focus="all",
            shape="lossy",
            parts=(
                Part(name="s", kind="source", program="numbered"),
                Part(name="p", kind="processor", program="picky", inputs=("s",)),
                Part(name="k", kind="sink", program="store", inputs=("p",)),
                Part(name="d", kind="sink", program="store", inputs=("p",), drops=True),
            ),
            events=EVENTS,
            burst=100,
            outbox=512,
            lasts_ms=1_000,
            faults=(),
        )
        self.lines = {name: [self.line(n) for n in self.good] for name in ("k", "d")}
        self.accounts = {name: self.account(name) for name in ("s", "p", "k", "d")}
        self.letters = [("p", f"s.0:{n}", 2) for n in range(EVENTS) if n % 251 == 7]
        self.resending: list[str] = []

    def line(self, n: int) -> str:
        """The record of one event."""
        return f"s.0:{n}/p.0 {n} {key_of(n)} {n}\n"

    def account(self, name: str) -> Account:
        """What an instance said of itself last."""
        into, out = {"s": (0, EVENTS), "p": (EVENTS, len(self.good))}.get(name, (len(self.good), 0))
        bad = EVENTS - len(self.good) if name == "p" else 0
        counters = {"events_in_total": into, "events_out_total": out, "processed_total": into - bad}
        peers = {"s": [("p.0", out)], "p": [("s.0", into), ("k.0", out), ("d.0", out)]}.get(name, [("p.0", into)])
        return Account(
            instance=f"{name}.0",
            incarnation=1,
            ending="completed",
            counters={**counters, "filtered_total": 0, "dead_lettered_total": bad, "in_hand": 0},
            ends=[self.end(peer, name in {"s", "p"} and peer != "s.0", count) for peer, count in peers],
            shares=[
                Share(component=peer[:-2], offered=out, acked=out, in_flight=0, dropped=0, skipped=0)
                for peer, _ in peers
                if out and peer != "s.0"
            ],
        )

    def end(self, peer: str, out: bool, count: int) -> End:
        """One end of an edge."""
        return End(
            peer=peer,
            out=out,
            events=count,
            acked=count,
            in_flight=0,
            superseded=0,
            dropped=0,
            sequence=(1, 1),
            next=count,
            done=count,
        )

    @property
    def play(self) -> Play:
        """What happened."""
        return Play(
            seconds=1.0,
            done={},
            resending=self.resending,
            voids=[],
            accounts=list(self.accounts.values()),
            replicas=dict.fromkeys(self.accounts, 1),
            letters=self.letters,
            beats=4,
            problems=[],
        )

    def outcome(self, sabotage: str = "") -> Outcome:
        """What the oracle says."""
        for name, lines in self.lines.items():
            (self.out / f"{name}.0.1").write_text("".join(lines))
        return Outcome(plan=self.plan, sabotage=sabotage, play=self.play, verdict=judge(self.plan, self.play, self.out))

    def problems(self) -> list[str]:
        """What the oracle complains of."""
        return self.outcome().verdict.problems


@pytest.fixture
def fabricated(tmp_path: Path) -> Fabricated:
    """A run in which all went well."""
    made = Fabricated(tmp_path)
    assert made.problems() == []
    return made


def test_a_loss(fabricated: Fabricated):
    """One event that is missing, or whose line was cut short by a kill, is named."""
    fabricated.lines["k"][-1] = fabricated.lines["k"][-1].rstrip("\n")
    assert fabricated.problems()[0] == f"k: lost 1 of {len(fabricated.good)} events: s.0:{EVENTS - 1}/p.0"


@pytest.mark.parametrize(
    ("window", "missing", "skipped", "fits"),
    [(0, 5, 5, True), (0, 5, 4, False), (7, 5, 1, True), (7, 8, 1, False), (7, 1, 2, False)],
)
def test_what_went_by_before_a_sink_was_there(fabricated: Fabricated, *, window: int, missing: int, skipped: int, fits: bool):
    """Exactly what its senders counted; of a window up to as many events as it has."""
    parts = {part.name: part for part in fabricated.plan.parts}
    parts["k"] = msgspec.structs.replace(parts["k"], stays=False)
    parts["p"] = msgspec.structs.replace(parts["p"], window=window)
    fabricated.plan = msgspec.structs.replace(fabricated.plan, parts=tuple(parts.values()))
    account = fabricated.accounts["p"]
    shares = [msgspec.structs.replace(each, skipped=skipped if each.component == "k" else 0) for each in account.shares]
    fabricated.accounts["p"] = msgspec.structs.replace(account, shares=shares)
    del fabricated.lines["k"][:missing]
    said = f"k: {missing} events are missing, and {skipped} went by before it was there"
    assert (said not in fabricated.problems()) == fits


def test_a_duplicate_without_a_reason(fabricated: Fabricated):
    """An event that came twice although nothing on its way can have caused that."""
    fabricated.lines["k"].append(fabricated.line(8))
    assert "s.0:8/p.0 2 times with 0 resending faults" in fabricated.problems()[0]
    fabricated.resending.append("p")
    assert not [problem for problem in fabricated.problems() if "too often" in problem]


def test_disorder(fabricated: Fabricated):
    """Two events of one key whose order was not kept."""
    lines = fabricated.lines["k"]
    first, second = lines.index(fabricated.line(0)), lines.index(fabricated.line(16))
    lines[first] = fabricated.line(16).replace(" 16\n", " 0\n")
    lines[second] = fabricated.line(0).replace(" 0\n", " 16\n").replace("s.0:0/p.0 16", "s.0:0/p.0 0")
    assert "out of order" in fabricated.problems()[0]


def test_what_nobody_sent(fabricated: Fabricated):
    """An event that no source emitted, and one with the content of another."""
    fabricated.lines["k"][3] = fabricated.lines["k"][3].replace("s.0:3/p.0 3 ", "s.0:3/p.0 4 ")
    fabricated.lines["k"].append("s.9:1/p.0 1 k15 99999\n")
    assert {problem.partition(": ")[2].partition(":")[0] for problem in fabricated.problems()} >= {
        "1 events that nobody emitted",
        "1 events with another's content",
    }


def test_a_drop_that_was_not_counted(fabricated: Fabricated):
    """Where dropping is allowed, what is missing must have been counted, one by one; nowhere else may anything be missing."""
    del fabricated.lines["d"][10:15]
    assert "d: 5 events are missing, and 0 were counted as dropped" in fabricated.problems()
    p, d = fabricated.accounts["p"], fabricated.accounts["d"]
    count = len(fabricated.good) - 5
    shares = [msgspec.structs.replace(share, acked=count, dropped=5) if share.component == "d" else share for share in p.shares]
    ends = [fabricated.end("d.0", True, count) if end.peer == "d.0" else end for end in p.ends]
    fabricated.accounts["p"] = msgspec.structs.replace(p, shares=shares, ends=ends)
    counters = {**d.counters, "events_in_total": count, "processed_total": count}
    fabricated.accounts["d"] = msgspec.structs.replace(d, counters=counters, ends=[fabricated.end("p.0", False, count)])
    outcome = fabricated.outcome()
    assert (outcome.verdict.problems, outcome.verdict.dropped, outcome.verdict.lost) == ([], 5, 0)
    assert unbalanced(fabricated.accounts["p"]) == []


def test_a_lost_dead_letter(fabricated: Fabricated):
    """An event that neither went on nor was put aside is lost."""
    fabricated.letters.pop(0)
    outcome = fabricated.outcome()
    assert outcome.verdict.lost == 1
    assert outcome.verdict.problems[0].startswith("p: lost 1 of 12 dead letters: s.0:7")
    fabricated.letters += [("p", "s.0:7", 2), ("p", "s.0:8", 2)]
    assert "1 dead letters of sound events" in fabricated.problems()[0]


def test_an_edge_whose_ends_disagree(fabricated: Fabricated):
    """What one end has sent and the other has not received, although both are done."""
    p = fabricated.accounts["p"]
    ends = [fabricated.end("k.0", True, 2_989) if end.peer == "k.0" else end for end in p.ends]
    fabricated.accounts["p"] = msgspec.structs.replace(p, ends=ends)
    assert "p.0 → k.0: acknowledged, done, received, sent are (2989, 2988, 2988, 2989)" in fabricated.problems()


@pytest.mark.parametrize("name", ["events_in_total", "processed_total", "filtered_total", "dead_lettered_total", "in_hand"])
def test_an_instance_that_does_not_add_up(fabricated: Fabricated, name: str):
    """One more of anything, and in is no longer out + filtered + dead-lettered + in hand."""
    p = fabricated.accounts["p"]
    counters = {**p.counters, name: p.counters[name] + 1}
    assert any(
        "events" in problem or " in, but" in problem for problem in unbalanced(msgspec.structs.replace(p, counters=counters))
    )


def test_a_share_that_does_not_add_up(fabricated: Fabricated):
    """Offered is acknowledged, in flight or dropped; and everything that was emitted is offered."""
    s = fabricated.accounts["s"]
    for change in ({"offered": EVENTS - 1}, {"acked": EVENTS - 1}, {"dropped": 1}, {"skipped": 1}):
        shares = [msgspec.structs.replace(s.shares[0], **change)]
        assert unbalanced(msgspec.structs.replace(s, shares=shares)), change


def test_the_record_adds_up(fabricated: Fabricated):
    """The section has the totals of what was played, and says what the controls did."""
    good = fabricated.outcome()
    fabricated.lines["k"].pop()
    bad = fabricated.outcome("acks-early")
    text = record([good, good, bad], day="2026-01-01", machine="a machine")
    assert "| schedules | 2 | 0 | 2 |" in text
    assert "| events emitted | 6,000 | 0 | 6,000 |" in text
    assert "| lost | 0 | 0 | 0 |" in text
    assert "| acks-early | 1 | 1 | 1 | 1 |" in text
