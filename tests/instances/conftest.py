"""A home of its own for each test, in which the real `aimind` serves by the fake backend."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests import forked
from tests.supervisor.harness import BACKEND, wait_for

AIMIND = Path(sys.executable).with_name("aimind")


class Home:
    """Runs `aimind`, and sees what it leaves.

    Attributes:
        folder: where all is; env: of all that runs there; processes: that were started and not waited for.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / "state"
        programs = folder / "programs"
        programs.mkdir()
        program = programs / "llama-server"
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "{BACKEND}" "$@"\n')
        program.chmod(0o755)
        self.env = {
            "PATH": f"{programs}:/usr/bin:/bin",
            "HOME": str(folder / "home"),
            "AIMIND_DATA_DIR": str(folder / "data"),
            "AIMIND_STATE_DIR": str(self.state),
            "HF_HUB_OFFLINE": "1",
        }
        (folder / "home").mkdir()
        self.processes: list[subprocess.Popen[str]] = []

    def fake(self, *flags: str) -> None:
        """The flags of every backend that starts from now on."""
        self.env["FAKE_BACKEND"] = " ".join(flags)

    def run(self, *words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        return forked.run(words, env=self.env, cwd=cwd or self.folder)

    def good(self, *words: str) -> str:
        """What it prints on stdout, where that must succeed."""
        done = self.run(*words)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def serve(self, *words: str) -> str:
        """Serve the demo, detached."""
        return self.good("serve", "--detach", "demo", "--backend", "llama-server", "--port", "0", *words)

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start it, and do not wait."""
        process = subprocess.Popen(
            [str(AIMIND), *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            env=self.env,
            start_new_session=True,
        )
        self.processes.append(process)
        return process

    def begin(self, *words: str) -> subprocess.Popen[str]:
        """Start to serve the demo in the foreground."""
        return self.start("serve", "demo", "--backend", "llama-server", "--port", "0", *words)

    def status(self, name: str = "demo") -> dict[str, Any]:
        found = json.loads(self.good("status", name, "--json"))
        assert isinstance(found, dict)
        return found

    def file(self, name: str = "demo") -> dict[str, Any]:
        """`state.json`, without asking aimind; nothing before it is there."""
        try:
            found = json.loads((self.state / "instances" / name / "state.json").read_text())
        except FileNotFoundError:
            return {}
        assert isinstance(found, dict)
        return found

    def wait_for_state(self, *states: str, name: str = "demo") -> dict[str, Any]:
        wait_for(lambda: self.file(name).get("state") in states, what=f"{states}, {self.file(name)}")
        return self.file(name)

    def is_free(self, name: str = "demo") -> bool:
        """Nothing of it runs."""
        with (self.state / "instances" / name / "lock").open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

    def close(self) -> None:
        """End all that was started here."""
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.communicate()
        for state in filter(Path.is_file, self.state.glob("instances/*/state.json")):
            with contextlib.suppress(ValueError, KeyError):
                end(json.loads(state.read_text())["pid"], self.state)
        for lock in self.state.glob("instances/*/lock"):
            wait_for(partial(self.is_free, lock.parent.name), what=f"the end of {lock.parent.name}")


def end(pid: int, folder: Path) -> None:
    """Kill a process if it has a file of the folder open: it is one of ours."""
    with contextlib.suppress(FileNotFoundError, psutil.Error, ProcessLookupError):
        if any(str(folder) in str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()):
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    found = Home(tmp_path)
    try:
        yield found
    finally:
        found.close()
