"""Who is being looked at, and how often its heartbeats are wanted for that. Pure."""

from typing import Final

LOOKING_S: Final = 5.0
"""A question about rates counts as looking for this long."""
SOON_S: Final = 1.0
"""How often those who are looked at send heartbeats, at most."""
EARLY_BEATS_PER_S: Final = 500
"""What the heartbeats may come to when somebody looks at everybody; beyond it they come less often."""


class Attention:
    """The questions about rates, by pipeline; those about all pipelines under None. Times are seconds of one clock."""

    def __init__(self) -> None:
        self._looked_s: dict[str | None, float] = {}

    def paid(self, pipeline: str | None, now_s: float) -> None:
        """Somebody wants to see this pipeline, or all with None."""
        self._looked_s = {whose: at for whose, at in self._looked_s.items() if now_s - at <= LOOKING_S}
        self._looked_s[pipeline] = now_s

    def interval_s(self, pipeline: str, usual_s: float, *, now_s: float, instances: int) -> float:
        """How long does an instance of this pipeline wait before its next heartbeat? Never longer than usual."""
        looked_s = [self._looked_s[whose] for whose in (pipeline, None) if whose in self._looked_s]
        if not looked_s or now_s - max(looked_s) > LOOKING_S:
            return usual_s
        return min(usual_s, max(SOON_S, instances / EARLY_BEATS_PER_S))
