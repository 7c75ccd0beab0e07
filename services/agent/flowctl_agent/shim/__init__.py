"""The small program between the agent and a component: outlives the agent, never the component.

Run as ``python -I -S start.py <run directory>`` with the launch on stdin (``<cwd> <stop timeout> <log file bytes> <log files>
<argc> <argv…> <env…>``, each ended by NUL), a pipe to the agent as stdout, and the run directory's lock as descriptor 3: while
that is held, the run lives. One shim runs beside every component, so it imports next to nothing and wakes only when something
happens.

It starts the component in a process group of its own, tied to the shim's life by PR_SET_PDEATHSIG; writes its output to rotated
files; forwards SIGTERM, with SIGKILL after the stop timeout (SIGUSR1: at once); and when the component has ended, kills what is
left of its descendants, records how it ended in ``exit.json`` and ends. It may import the standard library's smallest modules
only, and must never import anything else of flowctl.
"""
