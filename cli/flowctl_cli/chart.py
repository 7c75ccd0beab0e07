"""Availability as a picture: one bar for each component over time, as SVG. Pure; colours that colour-blind eyes tell apart.

Colours: Okabe and Ito, https://jfly.uni-koeln.de/color/; ``unknown`` is hatched besides.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Final
from xml.sax.saxutils import escape

import msgspec

from flowctl.availability import Condition, Span

WIDTH: Final = 960
BAR: Final = 22
ROW: Final = 34
TOP: Final = 84
RIGHT: Final = 96
COLOURS: Final[dict[Condition, str]] = {"up": "#0072B2", "down": "#D55E00", "unknown": "url(#unknown)", "off": "#EDEDED"}
WORDS: Final[dict[Condition, str]] = {"up": "up", "down": "down", "unknown": "unknown", "off": "not to run"}
STEPS_S: Final = (
    1,
    2,
    5,
    10,
    15,
    30,
    60,
    120,
    300,
    600,
    900,
    1_800,
    3_600,
    7_200,
    14_400,
    21_600,
    43_200,
    86_400,
    172_800,
    604_800,
    2_592_000,
)
_S: Final = 1_000_000_000


class Bar(msgspec.Struct, frozen=True):
    """One row: a pipeline (``strong``) or a component, with what stands at its right end."""

    label: str
    spans: Sequence[Span]
    share: str
    strong: bool = False


def svg(title: str, bars: Sequence[Bar], begin_ns: int, end_ns: int) -> str:
    """The whole picture. Times are in this host's zone."""
    left = 24 + max((7.6 * len(bar.label) for bar in bars), default=60)
    inner = WIDTH - left - RIGHT
    height = TOP + ROW * len(bars) + 46

    def x(time_ns: int) -> float:
        return left + inner * (time_ns - begin_ns) / max(1, end_ns - begin_ns)

    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
            'font-family="system-ui, Helvetica, Arial, sans-serif" font-size="13" fill="#222">'
        ),
        (
            '<defs><pattern id="unknown" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
            '<rect width="6" height="6" fill="#F0E442"/><rect width="2" height="6" fill="#8A8100"/></pattern></defs>'
        ),
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        f'<text x="16" y="30" font-size="17" font-weight="600">{escape(title)}</text>',
        *_legend(),
    ]
    bottom = TOP + ROW * len(bars)
    for time_ns, label in _ticks(begin_ns, end_ns):
        at = x(time_ns)
        parts.append(f'<line x1="{at:.1f}" y1="{TOP - 4}" x2="{at:.1f}" y2="{bottom}" stroke="#ccc" stroke-width="1"/>')
        parts.append(f'<text x="{at:.1f}" y="{bottom + 18}" text-anchor="middle" font-size="12" fill="#555">{label}</text>')
    for row, bar in enumerate(bars):
        y = TOP + ROW * row
        weight = ' font-weight="600"' if bar.strong else ""
        parts.append(f'<text x="{left - 10:.1f}" y="{y + 16}" text-anchor="end"{weight}>{escape(bar.label)}</text>')
        for span in sorted(bar.spans, key=lambda span: span.condition == "down"):  # nothing hides what was down
            low, high = x(span.begin_ns), x(span.end_ns)
            if span.condition == "down":  # seen however short it was
                high = max(high, low + 2.5)
            tip = f"{WORDS[span.condition]}: {_clock(span.begin_ns)} to {_clock(span.end_ns)}"
            parts.append(
                f'<rect x="{low:.2f}" y="{y}" width="{high - low:.2f}" height="{BAR}" fill="{COLOURS[span.condition]}">'
                f"<title>{escape(tip)}</title></rect>"
            )
        parts.append(f'<text x="{WIDTH - RIGHT + 10}" y="{y + 16}"{weight}>{escape(bar.share)}</text>')
    parts.append(f'<text x="{left:.1f}" y="{bottom + 38}" font-size="12" fill="#555">{_zone(begin_ns)}</text>')
    parts.append("</svg>\n")
    return "\n".join(parts)


def _legend() -> list[str]:
    parts: list[str] = []
    at = 16.0
    for condition, word in WORDS.items():
        edge = ' stroke="#bbb"' if condition == "off" else ""
        parts.append(f'<rect x="{at:.0f}" y="46" width="16" height="14" fill="{COLOURS[condition]}"{edge}/>')
        parts.append(f'<text x="{at + 22:.0f}" y="58">{word}</text>')
        at += 42 + 7.5 * len(word)
    parts.append(f'<text x="{WIDTH - RIGHT + 10}" y="{TOP - 12}" font-size="12" fill="#555">available</text>')
    return parts


def _ticks(begin_ns: int, end_ns: int) -> list[tuple[int, str]]:
    """At most eight times that people would choose, with their labels."""
    length_s = (end_ns - begin_ns) / _S
    step = next((step for step in STEPS_S if length_s / step <= 8), STEPS_S[-1])
    offset = int(datetime.fromtimestamp(begin_ns / _S).astimezone().utcoffset().total_seconds())  # type: ignore[union-attr]
    first = (begin_ns // _S + offset) // step * step + step - offset
    shape = "%d %b" if step >= 86_400 else "%d %b %H:%M" if length_s > 86_400 else "%H:%M" if step >= 60 else "%H:%M:%S"
    times = range(first, end_ns // _S + 1, step)
    return [(time_s * _S, datetime.fromtimestamp(time_s).astimezone().strftime(shape)) for time_s in times]


def _clock(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns / _S).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _zone(time_ns: int) -> str:
    at = datetime.fromtimestamp(time_ns / _S).astimezone()
    return f"from {at.strftime('%Y-%m-%d %H:%M:%S')}, times in {at.tzname() or 'local time'}"
