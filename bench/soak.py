"""Whether memory stays flat at full load: the linear chain for ``--minutes``, its processes' memory (RSS) all along.

``growth_mb`` is the most that any process grew from the end of the first tenth to the end.
"""

import tempfile
import time
from pathlib import Path

from chain import totals, until_counting
from harness import flowctl, instances, rss_mb, state
from report import parser, progress, publish
from throughput import linear

LINES = 20


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--minutes", type=float, default=10.0)
    chosen = options.parse_args()
    history: dict[str, list[float]] = {}
    with state() as directory, tempfile.TemporaryDirectory(dir=directory) as place:
        tallies, file = Path(place), Path(place) / "chain.yaml"
        file.write_text(linear().spec(tallies))
        flowctl(directory, "up", "--detach", str(file))
        until_counting(tallies, 1)
        running = {name.removeprefix("chain."): int(each["handle"]) for name, each in instances(directory).items()}
        pause_s = chosen.minutes * 60 / LINES
        begun, before = time.monotonic(), totals(tallies)
        for number in range(LINES + 1):
            time.sleep(max(0.0, begun + number * pause_s - time.monotonic()))
            for name, pid in running.items():
                history.setdefault(name, []).append(rss_mb(pid))
            told = ", ".join(f"{name} {sizes[-1]:.1f}" for name, sizes in sorted(history.items()))
            progress(f"{number * pause_s:6.0f} s: {told} MB")
        after = totals(tallies)
    events = sum(after[sink][1] - before[sink][1] for sink in after)
    seconds = (max(after[sink][0] for sink in after) - max(before[sink][0] for sink in before)) / 1e9
    settled = max(1, LINES // 10)
    figures = {
        "growth_mb": max(sizes[-1] - sizes[settled] for sizes in history.values()),
        "events_per_s": events / seconds,
        "minutes": chosen.minutes,
        **{f"{name.replace('.', '_')}_max_mb": max(sizes) for name, sizes in sorted(history.items())},
    }
    publish("soak", figures, as_json=chosen.json)


if __name__ == "__main__":
    main()
