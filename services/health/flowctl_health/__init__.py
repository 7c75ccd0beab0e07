"""The health monitor: turns silence and failing probes into status changes, and their end into recovery, with the evidence.

Follows the heartbeat stream and the journal (``observed`` and ``deadlines``: pure state; ``decide``: pure judgement) and appends
``ComponentStatusChanged``, ``HostLost`` and ``HostRecovered``. Silence is measured on the heartbeat stream's own order and server
times, so neither a slow monitor, an absent journal nor an absent registry is ever taken for a silent component.

May import nothing of a wire. Must never start, stop or restart anything.
"""
