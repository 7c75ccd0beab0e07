"""flowctl's core: words, contracts and the journal that every other package stands on.

May import: the standard library, msgspec, protobuf output, and, each in the one place that owns it, nats, pydantic-settings,
structlog and prometheus-client. Must never import the SDK, a service or the CLI.
"""

__version__ = "0.1.0"
