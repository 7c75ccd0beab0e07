"""The registry: components announce themselves here, send heartbeats, learn their neighbours and commit checkpoints.

Serves ``flowctl.control.v1.ComponentRegistry`` over gRPC. Layers, outermost first: ``servicer`` (protobuf and gRPC status codes),
``handlers`` (plain structs; shared by every wire dialect), ``decide``, ``links``, ``checks`` and ``views`` (pure). Any number of
replicas serve at once: what they answer comes from the journal and the heartbeat stream alone.

Only ``servicer``, ``wire`` and ``server`` import grpc and the generated protobuf. Must never start, stop or judge a component.
"""
