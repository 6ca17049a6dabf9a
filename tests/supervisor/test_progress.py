"""How much of the weights is loaded, by what the backend's processes have read."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from aimind.supervisor.output import Log
from aimind.supervisor.progress import WEIGHTS_SECONDS, Progress
from tests.supervisor.harness import LINUX

MIB = 1 << 20
READER = """
import os, sys
file = os.open(sys.argv[1], os.O_RDONLY)
for line in sys.stdin:
    left = int(line)
    while left:
        left -= len(os.read(file, min(left, 1 << 20)))
    print("read", flush=True)
"""


@LINUX
def test_the_percent_of_what_is_read(tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    weights.write_bytes(bytes(40 * MIB))
    with subprocess.Popen(
        [sys.executable, "-c", READER, weights], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as reader:
        assert reader.stdin is not None
        assert reader.stdout is not None

        def read(count_mib: int) -> None:
            print(count_mib * MIB, file=reader.stdin, flush=True)
            assert reader.stdout is not None
            assert reader.stdout.readline() == "read\n"

        read(0)  # it runs, and what Python itself reads is read
        progress = Progress(os.getpid(), stall_seconds=0, now=0.0, weights_bytes=40 * MIB)
        assert progress.deadline == float("inf")
        progress.watch_weights(0.0)
        shown = []
        for turn in range(1, 5):
            read(10)
            assert not progress.look(turn * WEIGHTS_SECONDS)
            shown.append(progress.percent)
        assert shown == [25, 50, 75, 99]
        progress.end()
        assert progress.deadline == float("inf")


def test_the_percent_of_a_line_of_dots() -> None:
    """llama.cpp prints one for each percent, in a line that grows."""
    pattern = r"^(?P<dots>\.{1,100})$"
    signature = {
        "pattern": pattern,
        "phase": "loading weights",
        "cause": None,
        "remedy": None,
        "fatal": False,
    }
    log = Log([signature], question="GET /health ")  # type: ignore[list-item]  # a plain dict
    log.feed(b"a line\n" + b"." * 30)
    assert (log.phase, log.percent) == ("loading weights", 30)
    log.feed(b"." * 41)
    assert log.percent == 71
