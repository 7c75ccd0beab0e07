"""What RELIABILITY.md says of campaigns on three hosts."""

from collections import Counter

from cluster.campaign import Campaign, Led

FOUND = """\
- Seeds 6, 33 and 228 ended services for good: a cluster without a leader was taken for a fault of one's own (seed 6 of the first
  campaign), a new leader that had not yet applied all it had for a journal that lost entries (33), and a socket whose end another
  task had given up on ended whoever closed it (228).
- Seed 5052 ended an agent for good: the NATS server on its host led the journal, was cut off, and answered with what it had;
  the agent had seen more elsewhere, and took that for lost entries. Only a leader that is followed is believed now.
- Seed 3003: a host whose power came back was said to be lost for another 12 to 15 s. NATS never answers what it is asked while it
  elects its leader, and that answer was waited for; now the question is put again after a second.
- Seeds 1060 and 3079 missed registrations that were acknowledged, and that were there: a reading that is to end took its
  consumer's word for the end, and a consumer may lie on a server that has not caught up yet. Now the stream's leader is asked.
- After seed 4030 a pipeline stayed degraded for a minute, though what was said of it was right: a NATS server that had been cut
  off twice logged streams without a quorum. Played again it did not come. It is not explained.
- Three heals took 10.1, 10.1 and 11.9 s (seeds 5155, 6077 and 6110). Played again the last two took 0.0 to 8.9 s: the election
  of a leader alone takes NATS 4 to 9 s, by chance.
""".splitlines()

RIGHT_S = 10.0
WRITABLE_S = {"kill": 10.0, "pause": 20.0}


def section(campaigns: list[Campaign]) -> str:
    """The section of all campaigns together; those that broke a promise are told of, and not counted."""
    sound = [campaign for campaign in campaigns if not campaign.failed]
    played = [each for campaign in sound for each in campaign.played]
    heals = [heal for each in played for heal in each.healed]
    right = sorted(heal.right_s for heal in heals)
    well = sorted(heal.well_s for heal in heals)
    kinds = Counter(kind for each in played for kind in each.kinds)
    led = [each for campaign in sound for each in campaign.led]
    rows = [
        ("schedules", f"{len(played):,} (seeds {_seeds([each.seed for each in played])})"),
        ("of these, with all of their faults together", f"{sum(each.together for each in played):,}"),
        ("faults", f"{kinds.total():,}"),
        ("events that arrived", f"{sum(campaign.events for campaign in sound):,}"),
        ("**lost**", "**0**"),
        ("arrived again", f"{sum(campaign.again for campaign in sound):,}"),
        ("registrations that a registry acknowledged", f"{sum(campaign.registrations for campaign in sound):,}"),
        ("**of these, not in the journal**", "**0**"),
        ("heals", f"{len(heals):,}"),
        (f"status right within {RIGHT_S:g} s of the heal", f"{sum(each <= RIGHT_S for each in right):,} of {len(right):,}"),
        ("status right again (median, 95 %, 99 %, longest)", _spread(right)),
        ("everything well again (median, 95 %, 99 %, longest)", _spread(well)),
        *(row for kind in ("kill", "pause") for row in _led(kind, [each for each in led if each.kind == kind])),
        ("all of it lasted", f"{sum(campaign.lasted_s for campaign in sound) / 60:.0f} min"),
    ]
    table = "\n".join(["|  |  |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows)])
    faults = "\n".join(["| fault | times |", "| --- | --- |", *(f"| {kind} | {count} |" for kind, count in kinds.most_common())])
    broken = [
        f"- Seed {each.failed_seed}, {each.date}: {each.failed.splitlines()[0]}." for each in campaigns if each.failed
    ]  # the rest of it are the logs
    found = ["### What they found", "", *broken, *FOUND, ""]
    played_on = f"{', '.join(sorted({each.date for each in sound}))}: {', '.join(sorted({each.machine for each in sound}))}"
    return "\n".join(
        [
            f"""\
Three network namespaces with an address, a NATS server (three copies of each stream) and each of flowctl's services, and a
pipeline over all of them at some hundred events a second; beside it three programs register with the registries, twice a
second each ([tests/cluster](tests/cluster), `make cluster-chaos SEED=… SCHEDULES=…`). A schedule is two or three random faults:
a part killed, held up or restarted, a host cut off, everything on a host killed; each for 0.2 to 3 s or, so that the host is
missed (after 5 s here), for up to 9 s. They happen one after the other, with a heal after each, or all together. Played on
{played_on}.

The status is right when all hosts are said to be up, each instance that is called healthy is the only program of its name that
lives on any host, by its kernel's word and with that incarnation, and no program lives that is not called so. All is well when
the pipeline runs besides, the journal takes an entry, and another event has arrived. The journal's leader is given back only
when another one leads.

{table}

{faults}
""",
            *found,
        ]
    )


def _led(kind: str, led: list[Led]) -> list[tuple[str, str]]:
    what = {"kill": "the journal's leader killed", "pause": "the journal's leader held up (SIGSTOP)"}[kind]
    bound = WRITABLE_S[kind]
    if not led:
        return [(what, "0 times")]
    writable = sorted(each.writable_s for each in led)
    registered = sorted(each.registered_s for each in led)
    within = sum(each <= bound for each in writable)
    return [
        (f"{what}: journal writable within {bound:g} s", f"{within} of {len(writable)}"),
        (f"{what}: journal writable again (median, 95 %, 99 %, longest)", _spread(writable)),
        (f"{what}: a registration acknowledged again (median, 95 %, 99 %, longest)", _spread(registered)),
    ]


def _spread(values: list[float]) -> str:
    at = (values[min(len(values) - 1, int(len(values) * part))] for part in (0.5, 0.95, 0.99))
    return ", ".join(f"{each:.1f} s" for each in (*at, values[-1]))


def _seeds(seeds: list[int]) -> str:
    """``1 to 4, 7`` for 1, 2, 3, 4 and 7."""
    runs: list[list[int]] = []
    for seed in sorted(seeds):
        if runs and seed == runs[-1][-1] + 1:
            runs[-1].append(seed)
        else:
            runs.append([seed])
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
