"""What a component author imports: ``source``, ``processor`` and ``sink``, their classes, and ``run``.

May import: the standard library, flowctl's core, msgspec, grpc and protobuf output; prometheus-client and jmespath lazily. Must
never import a service, the CLI or NATS: a component speaks gRPC only. Two halves: what decides (acks, batching, columns, credit,
derive, keys, outbox, routing, tap, windows) does no I/O; what does I/O (control, downstream, health, onlookers, production,
runtime, upstream, windowed, work) only carries out what was decided.
"""

from flowctl_sdk.author import Processor, Sink, Source, processor, sink, source
from flowctl_sdk.context import Checkpoint, Context
from flowctl_sdk.event import Event
from flowctl_sdk.serve import run
from flowctl_sdk.windows import Window

__all__ = ["Checkpoint", "Context", "Event", "Processor", "Sink", "Source", "Window", "processor", "run", "sink", "source"]
