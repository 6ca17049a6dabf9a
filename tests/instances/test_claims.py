"""Two instances never get the same port, nor are promised the same bytes, however they are started.

Fifty at once: tests/faults/test_program.py.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading
from pathlib import Path

import pytest

from tests import models
from tests.fakes import nvml
from tests.fakes.hub import Fault, Hub
from tests.instances.conftest import Home
from tests.supervisor.harness import LINUX, free_port, wait_for

pytestmark = LINUX

MANY = 50


def ends(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    """The exit code and what was said on stderr, of all."""
    said = [process.communicate(timeout=120)[1] for process in processes]
    return [(process.returncode, text) for process, text in zip(processes, said, strict=True)]


def test_of_two_with_one_name_one_wins(home: Home) -> None:
    home.fake("--unready", "600")
    processes = [home.begin("--name", "mine") for _ in range(2)]
    wait_for(lambda: any(each.poll() is not None for each in processes), what="the one that does not get it")
    (loser,) = [each for each in processes if each.poll() is not None]
    _, said = loser.communicate()
    assert loser.returncode == 13
    assert "instance mine is already running" in said
    home.wait_for_state("starting", "loading", name="mine")


def test_of_two_with_one_port_one_wins(home: Home) -> None:
    home.fake("--bind-after", "600")  # so that the claim alone keeps the other away
    port = str(free_port())
    processes = [home.start("serve", "demo", "--backend", "llama-server", "--port", port) for _ in range(2)]
    wait_for(lambda: any(each.poll() is not None for each in processes), what="the one that does not get it")
    (loser,) = [each for each in processes if each.poll() is not None]
    _, said = loser.communicate()
    assert loser.returncode == 11
    assert f"error: port {port} is claimed by instance demo\nhint: --port 0" in said


def test_any_port_is_none_that_is_claimed(home: Home) -> None:
    """Not even for what claims nothing itself."""
    home.fake("--bind-after", "600")
    port = str(free_port())
    home.start("serve", "demo", "--backend", "llama-server", "--port", port)
    home.wait_for_state("starting", "loading")
    shown = home.run("serve", "demo", "--backend", "llama-server", "--port", port, "--no-supervise")
    assert shown.returncode == 11


@pytest.mark.skipif(nvml.COMPILER is None, reason="the fake NVML needs a C compiler")
def test_of_two_for_one_device_one_wins(home: Home) -> None:
    """The device's memory looks free for as long as the first one has loaded nothing."""
    machine = nvml.write(home.folder / "machine", nvml.Gpu())
    home.env |= nvml.environment(nvml.build(home.folder), machine)
    home.env["FAKE_DEVICES"] = "  CUDA0: a device"
    home.fake("--unready", "600")
    model = str(models.header("llama-3.1-8b.F16", home.folder))
    words = (model, "--backend", "llama-server", "--no-cpu-offload", "--port", "0", "--context", "8k")
    processes = [home.start("serve", *words) for _ in range(2)]
    wait_for(lambda: any(each.poll() is not None for each in processes), what="the one that does not fit")
    (loser,) = [each for each in processes if each.poll() is not None]
    _, said = loser.communicate()
    assert loser.returncode == 8, said
    assert "of device 0 and " in said
    assert "are promised to instance llama-3.1-8b.f16" in said
    planned = json.loads(home.good("plan", model, "--backend", "llama-server", "--json", "--device", "none"))
    assert not any("device 0" in each["sentence"] for each in planned["reasons"])
    assert any("promised" in each["field"] for each in planned["reasons"])


def test_what_is_promised_is_taken_off_the_plan(home: Home) -> None:
    before = json.loads(home.good("plan", "demo", "--backend", "llama-server", "--json"))
    home.serve()
    claim = home.status()["claim"]["ram_bytes"]
    after = json.loads(home.good("plan", "demo", "--backend", "llama-server", "--json"))
    promised = [each["sentence"] for each in after["reasons"] if each["field"] == "promised"]
    assert len(promised) == 1
    assert promised[0].endswith(" of RAM are promised to instance demo")
    assert not any(each["field"] == "promised" for each in before["reasons"])
    assert claim == before["host"]["total_bytes"] - before["host"].get("repacked_bytes", 0)
    home.good("stop", "demo")
    again = json.loads(home.good("plan", "demo", "--backend", "llama-server", "--json"))
    assert again["reasons"] == before["reasons"]


class StallingHub(Hub):
    """A hub that sends headers, and no whole file."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.released = threading.Event()

    def fault(self, method: str, path: str) -> Fault | None:
        with self.lock:
            whole = self.requests[-1].range is None
        if path.startswith("/cdn/") and method == "GET" and whole:
            self.released.wait()
        return super().fault(method, path)


def test_stop_while_it_is_downloading(home: Home) -> None:
    repository = home.folder / "hub" / "owner" / "small"
    repository.mkdir(parents=True)
    (demo,) = Path(models.__file__).parents[1].glob("aimind/demo/*.gguf")
    shutil.copy(demo, repository)
    del home.env["HF_HUB_OFFLINE"]
    with StallingHub(home.folder / "hub") as hub:
        home.env["HF_ENDPOINT"] = hub.url
        process = home.start(
            "serve", "-d", "owner/small", "--backend", "llama-server", "--port", "0", "--name", "far"
        )
        wait_for(lambda: home.file("far").get("phase") == "downloading", what="the download")
        shown = home.run("restart", "far")
        assert (shown.returncode, "still being prepared" in shown.stderr) == (13, True)
        os.kill(home.file("far")["pid"], signal.SIGUSR1)  # is for a backend that runs
        home.good("stop", "far")
        assert process.wait() == 143
        hub.released.set()
    found = home.status("far")
    assert (found["state"], found["exit_code"]) == ("stopped", 143)
    assert found["reason"] == "it was stopped before the backend started"
