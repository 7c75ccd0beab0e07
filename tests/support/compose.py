"""Docker Compose as this machine has it: `docker compose` (v2), or docker-compose (1.29), which does not know ``name``."""

import os
import re
import shutil
import subprocess
from pathlib import Path


def program() -> list[str] | None:
    """The command that is Docker Compose here; None if there is none."""
    if shutil.which("docker"):
        done = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
        if done.returncode == 0:
            return ["docker", "compose"]
    return ["docker-compose"] if shutil.which("docker-compose") else None


class Compose:
    """One Compose file as a project of its own, on the engine at ``url``."""

    def __init__(self, file: Path, project: str, url: str, scratch: Path, **environment: str) -> None:
        found = program()
        assert found is not None, "there is no Docker Compose here"
        if found == ["docker-compose"]:
            given, file = file, scratch / "without-name.yaml"
            file.write_text(re.sub(r"(?m)^name:.*\n", "", given.read_text()))
            found += ["--project-directory", str(given.parent)]
        self._words = [*found, "--project-name", project, "--file", str(file)]
        self._environment = {**os.environ, "DOCKER_HOST": url, **environment}

    def run(self, *words: str, said: str = "", expect: int | None = 0, timeout_s: float = 120.0) -> str:
        """Run a Compose command to its end, with ``said`` as its input; what it said."""
        done = subprocess.run(
            [*self._words, *words],
            input=said,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert expect is None or done.returncode == expect, f"compose {' '.join(words)}: {done.stdout}\n{done.stderr}"
        return done.stdout

    def flowctl(self, *words: str, said: str = "", expect: int | None = 0) -> str:
        """Run flowctl in the container of the agent; what it said."""
        return self.run("exec", "-T", "agent", "flowctl", *words, said=said, expect=expect)

    def id_of(self, service: str) -> str:
        """The container of a service."""
        return self.run("ps", "--quiet", service).strip()
