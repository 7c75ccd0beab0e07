"""The key by which a group of replicas shares events: what ``partition_by`` says, as bytes."""

from collections.abc import Callable
from typing import Any, cast

import msgspec

from flowctl.errors import InvalidSettingError
from flowctl_sdk.columns import Columns
from flowctl_sdk.event import Event
from flowctl_sdk.faults import EventFailedError

KeysOf = Callable[[Columns], list[bytes]]


def keys_of(partition_by: str) -> KeysOf:
    """The function that gives each event of a batch its key.

    An event without the metadata key or the field named has the empty key, so that all of these go to one instance.

    Raises:
        InvalidSettingError: if ``partition_by`` has an unknown form or its JMESPath does not parse.
    """
    if partition_by == "id":
        return lambda columns: [event.id.encode() for event in columns.events()]
    if partition_by == "type":
        return lambda columns: [name.encode() for name, _ in zip(columns.types, columns.payloads, strict=False)]
    if partition_by == "payload":
        return lambda columns: list(columns.payloads)
    if partition_by.startswith("payload."):
        return _field_keys(partition_by.removeprefix("payload."))
    if partition_by.startswith("metadata."):
        name = partition_by.removeprefix("metadata.")
        return lambda columns: [columns.metadata.get(event, {}).get(name, "").encode() for event in range(len(columns.payloads))]
    raise InvalidSettingError(f"partition_by {partition_by!r} is none of id, type, payload, payload.<JMESPath>, metadata.<key>")


def _field_keys(expression: str) -> KeysOf:
    extract = _extractor(expression)

    def keys(columns: Columns) -> list[bytes]:
        found: list[bytes] = []
        for event, payload in enumerate(columns.payloads):
            try:
                value = extract(msgspec.json.decode(payload))
            except ValueError as error:
                failed: Event = columns.events()[event]
                raise EventFailedError(
                    f"event {failed.id} cannot be partitioned by payload.{expression}: its payload is not JSON: {error}"
                ) from error
            found.append(_key(value))
        return found

    return keys


def _extractor(expression: str) -> Callable[[Any], Any]:
    if expression.isidentifier():
        return lambda document: cast("dict[str, Any]", document).get(expression) if isinstance(document, dict) else None
    import jmespath
    from jmespath.exceptions import JMESPathError

    try:
        compiled = jmespath.compile(expression)
    except JMESPathError as error:
        raise InvalidSettingError(f"partition_by payload.{expression}: {error}") from error
    return compiled.search


def _key(value: object) -> bytes:
    if value is None:
        return b""
    return value.encode() if isinstance(value, str) else msgspec.json.encode(value, order="deterministic")
