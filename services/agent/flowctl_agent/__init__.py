"""The agent: one on each host; starts and stops what the journal assigns to the host, and says how it goes.

It reconciles: desired (the fold of the assignments) against actual (asked of the driver), event by event, for ever. What it
started outlives it, and the next agent adopts it. May import flowctl (core), httpx in ``probe`` only, and what it drives in
``drivers/<name>.py`` only. Must never judge silence, place instances or talk to another service, and must leave what runs alone
while the journal is away.
"""
