"""What stays beside the model: the idle supervisor's memory and processor time, and how fast it sees a crash.

    python benchmarks/supervisor.py [SECONDS]

Linux. A fake backend is started, and left alone for SECONDS (20) once it is ready; then it is killed a few
times. VmRSS counts a page that processes share once for each of them, PSS counts it once in all, "anonymous"
is the part of PSS that is no file's: what would be free without the process. Bare Python is
`python -c "import time; time.sleep(99)"`.
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.supervisor.harness import Supervised, alive, fake, get

KINDS = {"Rss": "VmRSS", "Pss": "PSS", "Pss_Anon": "anonymous"}
CRASHES = 7


def memory(pid: int) -> dict[str, int]:
    """KiB of each kind."""
    rows = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    found = {name: int(value.split()[0]) for name, value in (row.split(":") for row in rows)}
    return {kind: found[kind] for kind in KINDS}


def switches(pid: int) -> int:
    """How often the process went to sleep."""
    rows = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(row.split()[1]) for row in rows if row.startswith("voluntary_ctxt_switches"))


def cpu_seconds(pid: int) -> float:
    """Processor time so far, by the scheduler's count of nanoseconds: clock ticks are too coarse."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def bare() -> dict[str, int]:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(99)"]) as process:
        time.sleep(0.5)
        found = memory(process.pid)
        process.kill()
    return found


def show_memory(supervised: Supervised) -> None:
    rows = {
        "bare Python": bare(),
        "supervisor": memory(supervised.process.pid),
        "guardian": memory(supervised.guardian),
        "sentinel": memory(supervised.sentinel),
    }
    together = {kind: sum(row[kind] for row in list(rows.values())[1:]) for kind in KINDS}
    print(f"{'memory, KiB':24}" + "".join(f"{title:>12}" for title in KINDS.values()))
    for name, row in {**rows, "all three": together}.items():
        print(f"{name:24}" + "".join(f"{row[kind]:12}" for kind in KINDS))
    for name, row in (("supervisor", rows["supervisor"]), ("all three", together)):
        more = {kind: (row[kind] - rows["bare Python"][kind]) / 1024 for kind in KINDS}
        print(f"{name + ' over bare, MiB':24}" + "".join(f"{more[kind]:12.2f}" for kind in KINDS))


def show_idle(supervised: Supervised, seconds: float) -> None:
    pids = {
        "supervisor": supervised.process.pid,
        "guardian": supervised.guardian,
        "sentinel": supervised.sentinel,
    }
    before = {name: (cpu_seconds(pid), switches(pid)) for name, pid in pids.items()}
    time.sleep(seconds)
    print(f"\nidle for {seconds:g} s, a probe every 10 s")
    for name, pid in pids.items():
        used, slept = cpu_seconds(pid) - before[name][0], switches(pid) - before[name][1]
        print(
            f"{name:24}{used * 1000:9.3f} ms of processor = {used / seconds:.4%} of a core; {slept} wake-ups"
        )


def show_crashes(supervised: Supervised) -> None:
    """Seconds from KILL of the backend to the message, and from the backend's first answer to `ready`."""
    seen, announced = [], []
    for crash in range(CRASHES):
        first = supervised.pids
        begin = time.perf_counter()
        os.kill(first[0], signal.SIGKILL)
        while supervised.stderr.count("was killed") == crash:
            time.sleep(0.0005)
        seen.append(time.perf_counter() - begin)
        while get(supervised.command.ready.url) != 200:
            time.sleep(0.0005)
        answered = time.perf_counter()
        supervised.wait_until_ready(times=2 + crash)
        announced.append(time.perf_counter() - answered)
    print(f"\n{CRASHES} crashes: median (longest)")
    for name, values in (("KILL to message", seen), ("first answer to ready", announced)):
        print(f"{name:24}{statistics.median(values) * 1000:9.1f} ms ({max(values) * 1000:.1f} ms)")


def show_kill(supervised: Supervised, *names: str) -> None:
    """Seconds from KILL of some of us at once until nothing of the tree is left."""
    of = {"supervisor": supervised.process.pid, "guardian": supervised.guardian}
    pids = [supervised.sentinel, supervised.guardian, *supervised.pids]
    victims = [of[name] for name in names]
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in victims:
            os.kill(pid, number)
    begin = time.perf_counter()
    while any(alive(pid) for pid in pids):
        time.sleep(0.0005)
    ms = (time.perf_counter() - begin) * 1000
    what = " and ".join(names)
    print(f"\nKILL of {what} to nothing left of {len(pids)} processes that ignore TERM: {ms:.1f} ms")


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 20.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # A first start leaves the compiled modules behind; compiling them costs memory.
        for _ in range(2):
            (folder / "stdout").unlink(missing_ok=True)
            with Supervised(fake(folder), folder) as supervised:
                supervised.wait_until_ready()
        with Supervised(fake(folder), folder) as supervised:
            supervised.wait_until_ready()
            time.sleep(1)
            show_memory(supervised)
            show_idle(supervised, seconds)
            show_crashes(supervised)
        for names in (("supervisor",), ("supervisor", "guardian")):
            (folder / "stdout").unlink()
            with Supervised(fake(folder, "--ignore-term", "--grandchildren", "4"), folder) as supervised:
                supervised.wait_until_ready()
                show_kill(supervised, *names)


if __name__ == "__main__":
    main()
