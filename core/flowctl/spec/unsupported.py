"""What the schema knows and this version cannot obey: refused by name, with the way out. A later version deletes rows."""

from collections.abc import Callable
from typing import Final

import msgspec

from flowctl.spec.model import Component, Driver
from flowctl.spec.problems import Path, Problem


class Unsupported(msgspec.Struct, frozen=True):
    """One row: where in a component it stands (from the component's effective driver), what it is called, the way out."""

    where: Callable[[Component, Driver], list[Path]]
    what: str
    way_out: str


IN_COMPONENTS: Final = (
    Unsupported(
        lambda component, _: [("driver",)] if component.driver == "kubernetes" else [],
        "this version starts components as processes or Docker containers",
        "write driver: process or driver: docker",
    ),
    Unsupported(
        lambda component, driver: [("resources",)] if component.resources is not None and driver == "process" else [],
        "the process driver cannot limit cpu and memory",
        "write driver: docker, remove it, or limit the program in its command, for example with prlimit",
    ),
)


def unsupported_in(component: Component, driver: Driver, path: Path) -> list[Problem]:
    """What of a component at ``path`` this version cannot obey; ``driver`` is the pipeline's."""
    effective = component.driver or driver
    return [
        Problem((*path, *where), f"not in this version: {row.what}", row.way_out)
        for row in IN_COMPONENTS
        for where in row.where(component, effective)
    ]


def unsupported_driver(driver: Driver) -> list[Problem]:
    """Whether the pipeline's driver is refused."""
    if driver != "kubernetes":
        return []
    message = "not in this version: this version starts components as processes or Docker containers"
    return [Problem(("spec", "driver"), message, "write driver: process or driver: docker")]
