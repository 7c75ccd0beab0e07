"""Golden journals: exported files of released versions, each with the state that it meant then.

``python -m proof.golden FILE.zip NAME`` adds one: when a version is released, or a type of event gets a new version. A file that
is there is never written again.
"""

import argparse
import gzip
import sys
from pathlib import Path
from typing import Any, Final, cast

import msgspec

from flowctl.fleet import Fleet
from flowctl.journal import codec
from flowctl.journal.bundle import BundleReader

GOLDEN: Final = Path(__file__).parents[1] / "golden"


def folded(file: Path) -> Fleet:
    """What the entries in the file say to this version."""
    fleet = Fleet()
    with file.open("rb") as raw, BundleReader(raw, name=file.name) as reader:
        for record in reader.records():
            fleet.fold(codec.decode(record.seq, record.time_ns, record.subject, record.headers, record.data))
    return fleet


def meaning(fleet: Fleet) -> dict[str, Any]:
    """The state as plain values, by names that outlive the structs' order."""
    parts: dict[str, Any] = {
        "seq": fleet.seq,
        "time_ns": fleet.time_ns,
        "journal_digest": fleet.journal_digest,
        "seal": fleet.seal,
        "unknown_total": fleet.unknown_total,
        "poison_total": fleet.poison_total,
        "quarantine": fleet.quarantine,
        "pipelines": fleet.pipelines,
        "hosts": fleet.hosts,
        "instances": {str(instance): state for instance, state in fleet.instances.items()},
        "heads": {str(aggregate): head for aggregate, head in fleet.heads.items()},
    }
    return msgspec.json.decode(msgspec.json.encode(parts, order="deterministic"))


def lost(then: Any, now: Any, place: str = "") -> list[str]:
    """Where what was said then is not said any more; what is said in addition does not matter."""
    if isinstance(then, dict) and isinstance(now, dict):
        before, after = cast("dict[str, Any]", then), cast("dict[str, Any]", now)
        return [
            each
            for key, value in before.items()
            for each in (lost(value, after[key], f"{place}.{key}") if key in after else [f"{place}.{key} is gone"])
        ]
    if isinstance(then, list) and isinstance(now, list):
        old, new = cast("list[Any]", then), cast("list[Any]", now)
        if len(old) == len(new):
            return [each for at, value in enumerate(old) for each in lost(value, new[at], f"{place}[{at}]")]
    return [] if then == now else [f"{place} was {then!r} and is {now!r}"]


def state_file(file: Path) -> Path:
    """Where the state of a golden journal is kept."""
    return file.with_suffix(".state.json.gz")


def recorded(file: Path) -> dict[str, Any]:
    """The state that the journal meant when it was made golden."""
    return msgspec.json.decode(gzip.decompress(state_file(file).read_bytes()), type=dict[str, Any])


def main() -> int:
    """Add a golden journal."""
    parser = argparse.ArgumentParser(prog="python -m proof.golden")
    parser.add_argument("file", type=Path)
    parser.add_argument("name")
    chosen = parser.parse_args()
    to = GOLDEN / f"{chosen.name}.zip"
    if to.exists():
        sys.stderr.write(f"{to.name} is there already: golden journals never change\n")
        return 2
    to.write_bytes(chosen.file.read_bytes())
    state = msgspec.json.encode(meaning(folded(to)), order="deterministic")
    state_file(to).write_bytes(gzip.compress(state, mtime=0))
    return 0


if __name__ == "__main__":
    sys.exit(main())
