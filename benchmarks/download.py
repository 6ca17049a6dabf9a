"""A repository of 2 GB in 8 files, from hubs on loopback: aimind against the hubs' own commands, in one run.

    python benchmarks/download.py [--gb 2] [--runs 3] [--limited-only]

Then the same from a hub that limits each connection to 40 MB/s, as servers of files on the Internet do in
effect: once in 8 files, once in one.

Each way fetches into an empty cache, in turn; the least of its runs counts, of time and of processors' time.
The hub, on the same machine, sends files with `sendfile`. aimind checks every sha256, and so does `modelscope
download`, but not `hf download`. Then aimind is killed at half, and started again: what was asked for twice,
and what was sent twice, which is more by what was in the sockets. `TMPDIR=/dev/shm` leaves the disk out.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from tests.fakes.hub import Hub

BIN = Path(sys.executable).parent
MANY, ONE = "org/model", "org/single"
FILES = 8
MIB = 1 << 20
LIMIT = 40e6  # bytes per second


def ways(name: str) -> dict[str, list[str]]:
    pull = [sys.executable, "-m", "tests.hub.pull"]
    return {
        "aimind, Hugging Face": [*pull, "huggingface", name],
        "hf download": [str(BIN / "hf"), "download", name, "--quiet"],
        "aimind, ModelScope": [*pull, "modelscope", name],
        "modelscope download": [str(BIN / "modelscope"), "download", name],
    }


def publish(folder: Path, size: int, files: int = FILES) -> None:
    """Contents that are no holes, and different ones."""
    folder.mkdir(parents=True)
    block = os.urandom(MIB)
    for number in range(files):
        with (folder / f"model-{number + 1:05}-of-{files:05}.safetensors").open("wb") as file:
            file.write(bytes([number]) * 8)
            while (left := size // files - file.tell()) > 0:
                file.write(block[:left])


def environment(hub: Hub, home: Path) -> dict[str, str]:
    return {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "MODELSCOPE_ENDPOINT": hub.url,
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "HF_HOME": str(home),
        "MODELSCOPE_CACHE": str(home),
        "MODELSCOPE_HOME": str(home / "settings"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }


def timed(argv: list[str], env: Mapping[str, str], home: Path) -> tuple[float, float]:
    """Seconds that passed, and seconds of processors."""
    shutil.rmtree(home, ignore_errors=True)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    subprocess.run(argv, check=True, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def killed_at_half(
    argv: list[str], env: Mapping[str, str], home: Path, hub: Hub, size: int
) -> tuple[int, int]:
    """Bytes asked for twice, and bytes sent twice: also those that were on their way at the KILL."""
    shutil.rmtree(home, ignore_errors=True)
    hub.requests.clear()
    process = subprocess.Popen(argv, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while here(home) < size // 2:
        if process.poll() is not None:
            raise RuntimeError("it was faster than anybody could look")
    process.send_signal(signal.SIGKILL)
    process.wait()
    asked = size - here(home)
    before = sent(hub)
    hub.requests.clear()
    subprocess.run(argv, check=True, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return sent(hub) - asked, before + sent(hub) - size


def sent(hub: Hub) -> int:
    """Bytes of files."""
    return sum(seen.sent_bytes for seen in hub.requests if seen.host == "cdn")


def here(home: Path) -> int:
    """Bytes of files in a cache, each counted once."""
    total = 0
    for path in home.rglob("blobs/*"):
        with contextlib.suppress(FileNotFoundError):  # it has just been renamed
            total += path.stat().st_size
    return total


def compare(hub: Hub, home: Path, name: str, title: str, runs: int) -> None:
    """Print a table: the best run of each way, and how long aimind took beside the hub's own command."""
    hub.commit(name)  # hashes are known from now on
    env = environment(hub, home)
    taken: dict[str, list[tuple[float, float]]] = {}
    for _ in range(runs):
        for way, argv in ways(name).items():
            taken.setdefault(way, []).append(timed(argv, env, home))
    best = {way: [min(each) for each in zip(*times, strict=True)] for way, times in taken.items()}
    print(f"| {title} | time | aimind ÷ this tool | processor time | aimind ÷ this tool |")
    print("|---" * 5 + "|")
    for ours, theirs in (tuple(best)[:2], tuple(best)[2:]):
        for way in (ours, theirs):
            pairs = zip(best[way], best[ours], strict=True)
            cells = (f"{this:.2f} s | {our / this:.2f}" for this, our in pairs)
            print(f"| {way} | {' | '.join(cells)} |")
    print(flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gb", type=float, default=2.0)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--limited-only", action="store_true", help="leave out the hub without limits")
    asked = parser.parse_args()
    size = int(asked.gb * 1e9) // FILES * FILES
    with tempfile.TemporaryDirectory() as folder_name:
        folder, home = Path(folder_name, "repositories"), Path(folder_name, "home")
        publish(folder / MANY, size)
        publish(folder / ONE, size, files=1)
        with Hub(folder) as hub:
            if not asked.limited_only:
                compare(hub, home, MANY, f"{size / 1e9:.1f} GB in {FILES} files", asked.runs)
                for way, argv in ways(MANY).items():
                    if way.startswith("aimind"):
                        twice, flown = killed_at_half(argv, environment(hub, home), home, hub, size)
                        print(
                            f"{way}: KILL at half, then again: {twice / MIB:.1f} MiB of {FILES} files "
                            f"asked for twice, {flown / MIB:.1f} MiB sent twice\n"
                        )
            hub.bytes_per_second = LIMIT
            limit = f"{LIMIT / 1e6:.0f} MB/s for each connection"
            compare(hub, home, MANY, f"{size / 1e9:.1f} GB in {FILES} files, {limit}", asked.runs)
            compare(hub, home, ONE, f"{size / 1e9:.1f} GB in one file, {limit}", asked.runs)


if __name__ == "__main__":
    main()
