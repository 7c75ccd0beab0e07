"""A processor of windows: what a walk did in each stretch of 25 steps, or in half a second if it is slow."""

from typing import Any

from flowctl_sdk import Event, Window, processor, run


@processor(window=Window(count=25, seconds=0.5))
def stretches(events: list[Event]) -> dict[str, Any]:
    """One summary a window, under the id of its last step; the steps are acknowledged when the summary is stored."""
    places = [event.json()["place"] for event in events]
    return {"steps": len(places), "lowest": min(places), "highest": max(places), "at": places[-1]}


if __name__ == "__main__":
    run(stretches)
