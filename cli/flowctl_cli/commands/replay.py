"""``flowctl replay``."""

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer

from flowctl.errors import EXIT_FAILED, UserError
from flowctl.instants import iso_time
from flowctl.settings import HealthSettings, load_settings
from flowctl_cli import plane
from flowctl_cli.session import DEFAULT_TIMEOUT_S, JsonOption, Session, TimeoutOption, command, new_app, run
from flowctl_cli.terminal import clock_time, note, print_json, print_table, say

app = new_app()

TOLERANCE_S: Final = 2.5
SETTINGS: Final = {
    "health.silence_s": "silence_s",
    "health.timeout": "silence_s",
    "health.host_silence_s": "host_silence_s",
    "health.host_timeout": "host_silence_s",
    "health.check_interval_s": "check_interval_s",
}
"""What decisions depend on besides the record; the values are fields of ``HealthSettings``."""

_DURATION: Final = re.compile(r"\A(?P<number>[0-9]+(?:\.[0-9]+)?)\s*(?P<unit>ms|s|m|h)?\Z")
_UNITS: Final[Mapping[str | None, float]] = {None: 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


@command(
    app,
    "flowctl replay                                     # everything: would the same be decided today?",
    "flowctl replay 1200..1800",
    "flowctl replay 'yesterday 12:00..yesterday 13:00' --json",
    "flowctl replay incident.zip                        # made with flowctl journal export",
    "flowctl replay '7 days ago..now' --set health.timeout=15s",
)
def replay(
    session: Session,
    *,
    what: Annotated[
        str,
        typer.Argument(metavar="[BUNDLE|RANGE]", help="An exported file, or FROM..TO: sequences or times; all if left out."),
    ] = "",
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="What if this setting had been another? For example health.silence_s=15."
        ),
    ] = None,
    tolerance: Annotated[
        float,
        typer.Option("--tolerance", metavar="SECONDS", min=0.0, help="By how much moments may differ."),
    ] = TOLERANCE_S,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, help="Show at most so many differences.")] = 20,
    json: JsonOption = False,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_S,
) -> None:
    """Make the services' decisions once more over what was recorded, and show those that are others now.

    Health judgements, the orchestrator's plans and the agents' restarts are decided again by this version of flowctl, on a clock
    that is the journal's. Exits with 0 if all of them are the same and with 1 if not. With --set it says what would have been
    decided otherwise. Reads only; the default settings are those that are set for this command.
    """
    changed = _changed(set_ or [])
    values: dict[str, Any] = dict(changed)
    settings = load_settings(HealthSettings, **values)
    report = run(_replay(session, what.strip(), settings, changed, tolerance_s=tolerance, progress=not json, timeout_s=timeout))
    if json:
        print_json(report)
    else:
        _print(report, limit)
    if report.differences:
        raise typer.Exit(EXIT_FAILED)


def _changed(words: list[str]) -> dict[str, float]:
    """The settings that ``--set`` names, by their field.

    Raises:
        UserError: no decision depends on it, or the value is no length of time.
    """
    changed: dict[str, float] = {}
    for word in words:
        key, equals, value = word.partition("=")
        field = SETTINGS.get(key.strip())
        if field is None or not equals:
            known = ", ".join(sorted(SETTINGS))
            raise UserError(f"--set {word[:80]}: no recorded decision depends on that", hint=f"it can be KEY=VALUE with {known}")
        found = _DURATION.match(value.strip())
        seconds = float(found["number"]) * _UNITS[found["unit"]] if found is not None else 0.0
        if seconds <= 0:
            raise UserError(f"--set {word[:80]}: {value.strip()[:40]!r} is no length of time", hint="for example 15, 15s or 2m")
        changed[field] = seconds
    return changed


async def _replay(
    session: Session,
    what: str,
    settings: HealthSettings,
    changed: dict[str, float],
    *,
    tolerance_s: float,
    progress: bool,
    timeout_s: float,
) -> Any:  # noqa: ANN401 - a Report, which is imported when it is needed
    from flowctl_cli.replaying import sources
    from flowctl_cli.replaying.replay import replay as decide_again
    from flowctl_health.decide import Patience

    patience = Patience.of(settings.silence_s, settings.host_silence_s)
    tolerance_s = max(tolerance_s, settings.check_interval_s if "check_interval_s" in changed else 0.0)
    told = progress and sys.stderr.isatty()

    def tell(seq: int) -> None:
        if told:
            sys.stderr.write(f"\rentry {seq}")

    async def over(recording: sources.Recording) -> Any:  # noqa: ANN401 - as above
        report = await decide_again(
            recording.fleet, recording.events, patience, tolerance_s=tolerance_s, changed=changed, progress=tell
        )
        report.notes[:0] = recording.notes
        if told:
            sys.stderr.write("\r\x1b[K")
        return report

    if what and sources.is_file(what):
        async with sources.of_file(Path(what)) as recording:
            return await over(recording)
    async with plane.opened(session, timeout_s=timeout_s, offline=True) as control:
        return await over(await sources.of_journal(control.store, what))


def _print(report: Any, limit: int) -> None:  # noqa: ANN401 - as above
    since = report.heartbeats_since_ns
    heard = f"{report.heartbeats} heartbeats since {iso_time(since)}" if since is not None else "no heartbeats"
    entries = f"entries {report.first} to {report.last}" if report.entries else "no entries"
    say(f"{entries}, {heard}")
    if report.settings:
        say("what if " + ", ".join(f"{name} were {value:g}" for name, value in sorted(report.settings.items())))
    say()
    different = {maker: sum(each.service == maker for each in report.differences) for maker in report.decisions}
    rows = [[maker, str(count.recorded), str(count.same), str(different[maker])] for maker, count in report.decisions.items()]
    print_table(["DECIDED BY", "RECORDED", "THE SAME NOW", "DIFFERENT"], rows)
    for text in report.notes:
        note(text)
    if not report.differences:
        say()
        say("the same decisions follow")
        return
    for number, each in enumerate(report.differences[:limit]):
        say()
        place = f"entry {each.seq}" if each.recorded is not None else f"after entry {each.seq}"
        first = "first difference: " if number == 0 else ""
        say(f"{first}{place}, {clock_time(each.time_ns)}, {each.service} about {each.subject}: {each.why}")
        say(f"  then  {_event(each.recorded)}")
        at = f"{clock_time(each.decided_time_ns)}  " if each.decided_time_ns is not None else ""
        say(f"  now   {at}{_event(each.decided)}")
        for line in each.then:
            say(f"        and so {line}")
    if len(report.differences) > limit:
        say()
        say(f"and {len(report.differences) - limit} more: --limit, or --json")


def _event(event: dict[str, Any] | None) -> str:
    if event is None:
        return "nothing"
    fields = {name: value for name, value in event.items() if name not in ("type", "component")}
    return f"{event.get('type', '')} {msgspec.json.encode(fields).decode()}"
