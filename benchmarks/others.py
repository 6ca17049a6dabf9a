"""supervisord and circus, each with the same fake backend: what benchmarks/supervisor.py compares with.

They come from the package index into an environment of their own, below .cache: the project does not need
them. Neither asks its program over HTTP whether it works, as aimind does.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from uv import find_uv_bin

from tests.supervisor.harness import fake, get, wait_for

ENVIRONMENT = Path(__file__).parents[1] / ".cache" / "bench"
SUPERVISORD = """\
[supervisord]
nodaemon=true
user=root
logfile={folder}/log
pidfile={folder}/pid
[program:fake]
command={command}
autorestart=true
startsecs=0
"""
CIRCUS = """\
[circus]
logoutput = {folder}/log
endpoint = ipc://{folder}/endpoint
pubsub_endpoint = ipc://{folder}/events
[watcher:fake]
cmd = {command}
"""


@dataclass(frozen=True)
class Other:
    """Another supervisor: its program, its file of settings, and what its log says of an end, if anything."""

    name: str
    program: str
    settings: str
    says: str | None

    def argv(self, settings: Path) -> list[str]:
        options = ["-c"] if self.program == "supervisord" else []
        return [str(ENVIRONMENT / "bin" / self.program), *options, str(settings)]


OTHERS = (
    Other("supervisord", "supervisord", SUPERVISORD, "exited: fake"),
    Other("circus", "circusd", CIRCUS, None),  # it starts the program again, and says nothing of it
)


def install() -> str | None:
    """Bring them; why not, if it cannot be."""
    if (ENVIRONMENT / "bin" / "circusd").exists():
        return None
    python = ENVIRONMENT / "bin" / "python"
    for argv in (
        ["venv", "--quiet", "--allow-existing", "--python", sys.executable, str(ENVIRONMENT)],
        ["pip", "install", "--quiet", "--python", str(python), "supervisor", "circus"],
    ):
        done = subprocess.run([find_uv_bin(), *argv], check=False, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            return done.stderr.strip().splitlines()[-1]
    return None


def versions() -> Mapping[str, str]:
    """Of what is installed."""
    argv = [find_uv_bin(), "pip", "list", "--quiet", "--format", "freeze", "--python", str(ENVIRONMENT)]
    shown = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    found = dict(line.split("==") for line in shown.split())
    return {"supervisord": found["supervisor"], "circus": found["circus"]}


class Running:
    """One of them, with a fake backend that answers."""

    def __init__(self, other: Other, folder: Path) -> None:
        folder.mkdir()
        self.other, self.folder = other, folder
        command = fake(folder)
        settings = folder / "settings"
        settings.write_text(other.settings.format(folder=folder, command=shlex.join(command.argv)))
        self.ready_url = command.ready.url
        with (folder / "out").open("wb") as out:
            self.process = subprocess.Popen(
                other.argv(settings), stdout=out, stderr=subprocess.STDOUT, cwd=folder
            )
        wait_for(lambda: get(self.ready_url) == 200, what=f"the program of {other.name}")

    @property
    def backend(self) -> int:
        return int((self.folder / "pids").read_text().split()[0])

    @property
    def said(self) -> int | None:
        """How many ends its log tells of."""
        words = self.other.says
        return (self.folder / "log").read_text().count(words) if words else None

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(30)
