"""A sink as a function: counts what it is given in a counter that `flowctl status` and /metrics show, and prints now and then."""

from flowctl_sdk import Event, run, sink

seen = 0


@sink
async def tally(event: Event) -> None:
    """An event is acknowledged when this returns."""
    global seen  # noqa: PLW0603 - all that this sink remembers
    seen += 1
    if seen % 10 == 0:
        print(f"{seen} so far, the last one {event.id}", flush=True)


if __name__ == "__main__":
    run(tally)
