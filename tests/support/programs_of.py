"""The real processes of a pipeline's ready-made components, found from outside."""

import contextlib

import psutil

from support.flowctl import Flowctl


def program_of(flowctl: Flowctl, component: str) -> psutil.Process | None:
    """The component's program, if it runs."""
    for process in flowctl.processes():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("FLOWCTL_COMPONENT_ID") == component and "flowctl_components" in " ".join(process.cmdline()):
                return process
    return None
