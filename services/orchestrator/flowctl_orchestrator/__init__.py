"""The orchestrator: turns what users ask for into assignments, and what happens into the lifecycle of pipelines.

Reads the fleet, decides with pure functions (``decide``: commands; ``plan``: what follows from the present state), appends. It
may import core only. It must never start or stop anything itself, keep a truth beside the journal, or need to be alone: any
number of orchestrators may run, and the journal's expectations make them agree.
"""
