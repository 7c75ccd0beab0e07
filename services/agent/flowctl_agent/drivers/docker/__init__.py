"""Instances as containers of a real Docker engine: the ``docker`` driver.

``engine`` alone imports the ``docker`` package, and only when the engine is first asked for something. What the engine is told is
made by ``recipe``, which is pure. An agent finds its containers again by the owner that its state directory remembers.
"""

from flowctl_agent.drivers.docker.driver import DockerDriver

__all__ = ["DockerDriver"]
