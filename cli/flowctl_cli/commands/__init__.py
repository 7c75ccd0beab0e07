"""One module per command, each with a Typer ``app``; loaded by ``flowctl_cli.app`` when its command is typed."""
