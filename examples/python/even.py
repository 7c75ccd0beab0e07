"""A processor as a function: lets even squares through, and adds their root."""

from typing import Any

from flowctl_sdk import Event, processor, run


@processor
def even(event: Event) -> dict[str, Any] | None:
    """Something for an even one; nothing for an odd one."""
    number = event.json()
    return {**number, "root": number["n"]} if number["square"] % 2 == 0 else None


if __name__ == "__main__":
    run(even)
