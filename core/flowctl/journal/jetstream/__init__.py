"""The journal on NATS JetStream: the only package that imports nats, besides the service endpoints.

May do any I/O with the server. Must never alter a stream that exists, and never report as written what the server has not
acknowledged or shown.

Inside: ``client`` <- ``connection`` (supervises it) <- ``streams``, ``server_check`` (what must be so before the first byte) <-
``reader`` (pull consumers), ``commit`` (group commit and read-back) <- ``journal``, ``heartbeats``, ``logs`` <- ``store``.
"""

from flowctl.journal.jetstream.commit import CommitCounts
from flowctl.journal.jetstream.connection import Connection
from flowctl.journal.jetstream.store import JetStreamStore

__all__ = ["CommitCounts", "Connection", "JetStreamStore"]
