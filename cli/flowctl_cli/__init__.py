"""The command line: what a person types, what they are shown, and the server that runs every service in one process.

May import core and the services. Commands reach the services over NATS micro-services and read the journal and the logs
directly; nothing here decides anything about pipelines. Modules are imported when a command needs them, because
``flowctl --help`` must answer at once.
"""
