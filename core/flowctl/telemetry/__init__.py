"""How a service shows itself: logs, and /health, /ready and /metrics over HTTP.

May import structlog and prometheus-client, and nobody else does. Must never decide anything.
"""
