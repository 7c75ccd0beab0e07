"""What the shell completes: the names of pipelines, components and instances that there are. Silent when nothing answers."""

from typing import Final

from flowctl.api import StatusView

ANSWER_S: Final = 1.5


def targets(incomplete: str) -> list[str]:
    """``PIPELINE``, then ``PIPELINE.COMPONENT``, then ``PIPELINE.COMPONENT.INDEX``, as far as has been typed."""
    status = _status()
    if status is None:
        return []
    depth = min(incomplete.count("."), 2)
    names = {view.name for view in status.pipelines}
    if depth:
        names = {".".join(each.instance.split(".")[: depth + 1]) for view in status.pipelines for each in view.instances}
    return sorted(name for name in names if name.startswith(incomplete))


def pipelines(incomplete: str) -> list[str]:
    """The names of pipelines."""
    return [] if "." in incomplete else targets(incomplete)


def _status() -> StatusView | None:
    from flowctl_cli import plane, questions
    from flowctl_cli.session import Session, run

    async def ask() -> StatusView:
        async with plane.opened(Session(), timeout_s=ANSWER_S) as control:
            return await questions.status(control)

    try:
        return run(ask())
    except Exception:  # noqa: BLE001 - a shell that completes nothing says enough
        return None
