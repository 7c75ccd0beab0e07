"""Ready-made sources, processors and sinks: what ``type: <name>`` in a pipeline file runs.

Each is a module of its own that runs as ``python -m flowctl_components.<module>`` and says in its docstring what its
``config`` is and what it guarantees. They are written with ``flowctl_sdk`` alone, as a user's own components are, and may
import nothing of the services or the CLI.

=================  ======================  ==========================================================
type               module                  does
=================  ======================  ==========================================================
source generator   ``generator``           makes events up by rule, at a rate or flat out
source file        ``file_source``         reads lines, JSON lines or CSV; finite, or follows the file
processor filter   ``filter``              lets through what a JMESPath expression is true for
processor map      ``map``                 makes another payload with a JMESPath expression
processor exec     ``exec``                hands events to any program, a line each
sink file          ``file_sink``           writes JSON lines, each event once, and rotates
sink sqlite        ``sqlite``              writes rows of a SQLite table, each event once
sink console       ``console``             prints
sink http          ``http``                posts to a URL
=================  ======================  ==========================================================
"""
