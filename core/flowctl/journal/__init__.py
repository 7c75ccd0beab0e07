"""The journal: the control plane's only truth, an append-only log of past-tense facts.

Holds the entries and their coding (pure), the Protocols that services use, and their two implementations: JetStream and
in memory. Only ``flowctl.journal.jetstream`` may import nats.
"""
