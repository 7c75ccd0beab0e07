"""docs/settings.md, written from the settings' own descriptions: ``python -m flowctl.settings_reference > docs/settings.md``."""

import sys
from typing import Any, Final

from pydantic.fields import FieldInfo

from flowctl.paths import default_state_dir
from flowctl.settings import (
    SETTINGS_FILE,
    AgentSettings,
    HealthSettings,
    NotifySettings,
    OrchestratorSettings,
    RegistrySettings,
    ServerSettings,
    Settings,
    default_host_name,
)

_SERVICES: Final[tuple[tuple[str, str, type[Settings]], ...]] = (
    ("Registry", "flowctl-registry", RegistrySettings),
    ("Health", "flowctl-health", HealthSettings),
    ("Orchestrator", "flowctl-orchestrator", OrchestratorSettings),
    ("Agent", "flowctl-agent", AgentSettings),
    ("Notifier", "flowctl-notify", NotifySettings),
    ("Server", "flowctl server", ServerSettings),
)

_DYNAMIC: Final[dict[object, str]] = {
    default_state_dir: "`$XDG_STATE_HOME/flowctl`, else `~/.local/state/flowctl`",
    default_host_name: "this machine's name",
    dict: "none",
    list: "none",
}


def reference() -> str:
    """The whole page as Markdown."""
    parts = [
        "# Settings\n",
        "Every service reads its settings from, in this order of precedence: flags, the environment, a TOML file named by",
        f"`{SETTINGS_FILE}`, and the defaults below. In the file a setting stands under the name of its flag without the dashes",
        'in front and with `_` for `-` (`nats_url = "nats://…"`).\n',
        "`flowctl server` is all services in one process; it has the settings of each of them. As flags it takes the ones that",
        "`flowctl server --help` lists; all others come from the environment or the file.\n",
        "This page is generated: `python -m flowctl.settings_reference > docs/settings.md`.\n",
        "## Every service\n",
        *_table(Settings, set()),
    ]
    for title, command, kind in _SERVICES:
        inherited = {name for name, field in kind.model_fields.items() if _inherited(kind, name, field)}
        rows = _table(kind, inherited)
        parts += [f"\n## {title}\n", f"`{command}`\n"]
        parts += rows if len(rows) > len(_HEAD) else ["The settings of every service, and none of its own."]
        if kind is ServerSettings:
            parts += [
                "\nBesides these, the settings of all services above. Unless they are set, `heartbeat_interval_s` and",
                "`host_heartbeat_s` are at most a third of `silence_s` here.",
            ]
    return "\n".join(parts) + "\n"


_HEAD: Final = ("| flag | environment | default | meaning |", "|---|---|---|---|")


def _inherited(kind: type[Settings], name: str, field: FieldInfo) -> bool:
    """Whether a base class describes the field in the same words and with the same default."""
    for base in kind.__mro__[1:]:
        if issubclass(base, Settings) and (theirs := base.model_fields.get(name)) is not None:
            return theirs.description == field.description and theirs.default == field.default
    return False


def _table(kind: type[Settings], skipped: set[str]) -> list[str]:
    rows = [
        f"| `--{name.replace('_', '-')}` | `FLOWCTL_{name.upper()}` | {_default(field)} | {field.description} |"
        for name, field in kind.model_fields.items()
        if name not in skipped
    ]
    return [*_HEAD, *rows]


def _default(field: FieldInfo) -> str:
    factory: object = field.default_factory
    if factory is not None:
        return _DYNAMIC[factory]
    value: Any = field.default
    if value == "":
        return "empty"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value}`"


if __name__ == "__main__":
    sys.stdout.write(reference())
