"""What the user points at: a pipeline, a component, an instance, or a pipeline's file. Pure but for reading that file."""

from pathlib import Path
from typing import Self

import msgspec

from flowctl.errors import InvalidIdError, UserError
from flowctl.ids import InstanceId, check_id


class Target(msgspec.Struct, frozen=True):
    """``PIPELINE[.COMPONENT[.INDEX]]``."""

    pipeline: str
    component: str | None = None
    index: int | None = None

    def __str__(self) -> str:
        parts = [self.pipeline, self.component, None if self.index is None else str(self.index)]
        return ".".join(part for part in parts if part is not None)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read it.

        Raises:
            InvalidIdError: it has another shape, or a part cannot be an id.
        """
        parts = text.split(".")
        if len(parts) > 3 or not all(parts):
            raise InvalidIdError(f"{text[:80]!r} is not PIPELINE, PIPELINE.COMPONENT or PIPELINE.COMPONENT.INDEX")
        pipeline = check_id(parts[0], "pipeline")
        if len(parts) == 1:
            return cls(pipeline)
        component = check_id(parts[1], "component")
        if len(parts) == 2:
            return cls(pipeline, component)
        return cls(pipeline, component, InstanceId.checked(pipeline, component, parts[2]).index)

    def covers(self, component: str, index: int) -> bool:
        """Whether an instance of the pipeline is meant."""
        return self.component in (None, component) and self.index in (None, index)


def is_file(text: str) -> bool:
    """Whether the user means a file and not an id."""
    return text == "-" or "/" in text or text.endswith((".yaml", ".yml", ".json")) or text.startswith(".")


def pipeline_name(text: str) -> str:
    """The name of the pipeline that a name or a file means.

    Raises:
        UserError: neither a valid name nor a valid file.
    """
    if is_file(text):
        from flowctl.spec.load import load

        return load(Path(text)).pipeline.name
    return check_id(text, "pipeline")


def replicas(text: str) -> tuple[Target, int]:
    """Read ``PIPELINE.COMPONENT=N``.

    Raises:
        UserError: it has another shape.
    """
    name, equals, number = text.partition("=")
    target = Target.parse(name)
    if not equals or target.component is None or target.index is not None:
        raise UserError(f"{text[:80]!r} is not PIPELINE.COMPONENT=N", hint="for example orders.enrich=3")
    if not (number.isascii() and number.isdigit() and 1 <= int(number[:9]) <= 1_000):
        raise UserError(f"{number[:20]!r} is not a number of instances: expected 1 to 1000")
    return target, int(number)


def select(target: str | None, component: str | None) -> Target | None:
    """Whom a target and an option ``--component`` mean together.

    Raises:
        UserError: a component without its pipeline, or two components.
    """
    if target is None:
        if component is not None:
            raise UserError("--component needs the pipeline too", hint="for example flowctl history orders --component enrich")
        return None
    chosen = Target.parse(target)
    if component is None:
        return chosen
    if chosen.component not in (None, component):
        raise UserError(f"{target} and --component {component} name two components")
    return Target.parse(f"{chosen.pipeline}.{component}") if chosen.component is None else chosen
