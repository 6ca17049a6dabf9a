"""What stays beside the model: the idle supervisor's memory and processor time, and how fast it sees a crash.

    python benchmarks/supervisor.py [SECONDS]

Linux. A fake backend is started, and left alone for SECONDS (20) once it is ready; then it is killed a few
times. VmRSS counts a page that processes share once for each of them, PSS counts it once in all, "anonymous"
is the part of PSS that is no file's: what would be free without the process. Bare Python is
`python -c "import time; time.sleep(99)"`. The same is done to supervisord and circus, in the same run; these
ask nothing over HTTP. At last the demo model on real llama.cpp is killed: how much longer is it from KILL to
ready again than its own start takes?
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import others
from tests.faults import real
from tests.supervisor.harness import Supervised, alive, fake, get, wait_for

KINDS = {"Rss": "VmRSS of the supervisor alone", "Pss": "PSS", "Pss_Anon": "anonymous PSS"}
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


@dataclass
class Figures:
    """Of one supervisor with all its processes but the backend's."""

    memory: dict[str, int]
    share: float
    wakeups: int
    said: list[float] | None = None
    again: list[float] = field(default_factory=list)


def idle(pids: list[int], seconds: float) -> Figures:
    """Memory in KiB (VmRSS of the first alone), and the share of a core that is used, with nothing to do."""
    before = sum(map(cpu_seconds, pids)), sum(map(switches, pids))
    time.sleep(seconds)
    used, slept = sum(map(cpu_seconds, pids)) - before[0], sum(map(switches, pids)) - before[1]
    each = [memory(pid) for pid in pids]
    total = {kind: sum(one[kind] for one in each) for kind in KINDS}
    total["Rss"] = each[0]["Rss"]
    return Figures(memory=total, share=used / seconds, wakeups=slept)


def measure_aimind(folder: Path, seconds: float) -> Figures:
    folder.mkdir()
    with Supervised(fake(folder), folder) as supervised:
        supervised.wait_until_ready()
        time.sleep(1)
        figures = idle([supervised.process.pid, *supervised.sentinels, supervised.guardian], seconds)
        figures.said = []
        for crash in range(CRASHES):
            supervised.wait_until_ready(times=1 + crash)
            begin = kill(supervised.pids[0])
            while supervised.stderr.count("was killed") == crash:
                time.sleep(0.0005)
            figures.said.append(time.perf_counter() - begin)
            while supervised.starts < 2 + crash:
                time.sleep(0.0005)
            figures.again.append(time.perf_counter() - begin)
    return figures


def measure_other(other: others.Other, folder: Path, seconds: float) -> Figures:
    running = others.Running(other, folder)
    try:
        time.sleep(3)  # both look after their programs in their first seconds
        figures = idle([running.process.pid], seconds)
        figures.said = None if running.said is None else []
        for crash in range(CRASHES):
            wait_for(lambda: get(running.ready_url) == 200, what="an answer")
            first = running.backend
            begin = kill(first)
            while figures.said is not None and running.said == crash:
                time.sleep(0.0005)
            if figures.said is not None:
                figures.said.append(time.perf_counter() - begin)
            while running.backend == first:
                time.sleep(0.0005)
            figures.again.append(time.perf_counter() - begin)
    finally:
        running.end()
    return figures


def kill(pid: int) -> float:
    """Kill it; when."""
    begin = time.perf_counter()
    os.kill(pid, signal.SIGKILL)
    return begin


def show(found: dict[str, Figures], nothing: dict[str, int], seconds: float) -> None:
    """A table, and how often aimind's figure each of the others' is."""
    print(f"| idle for {seconds:g} s, and {CRASHES} times killed | " + " | ".join(found) + " |")
    print("|---" * (len(found) + 1) + "|")
    rows: dict[str, tuple[list[float | None], str]] = {}
    for kind, title in KINDS.items():
        rows[f"{title} over bare Python, MiB"] = (
            [(one.memory[kind] - nothing[kind]) / 1024 for one in found.values()],
            ".1f",
        )
    rows["processor time, % of a core"] = ([one.share * 100 for one in found.values()], ".3f")
    rows["wake-ups per second"] = ([one.wakeups / seconds for one in found.values()], ".2f")
    rows["KILL of the backend, until it is reported, ms"] = (
        [statistics.median(one.said) * 1000 if one.said else None for one in found.values()],
        ".0f",
    )
    rows["KILL of the backend, until the next one is started, ms (aimind's backoff is 80)"] = (
        [statistics.median(one.again) * 1000 for one in found.values()],
        ".0f",
    )
    for title, (values, form) in rows.items():
        first = values[0]
        cells = []
        for value in values:
            ratio = f" (× {value / first:.2g})" if value and first and value is not first else ""
            cells.append(f"{value:{form}}{ratio}" if value is not None else "not reported")
        print(f"| {title} | " + " | ".join(cells) + " |")


def show_ready(folder: Path) -> None:
    """From the backend's first answer to `ready`."""
    folder.mkdir()
    announced = []
    with Supervised(fake(folder), folder) as supervised:
        for start in range(1, CRASHES + 1):
            while get(supervised.command.ready.url) != 200:
                time.sleep(0.0005)
            answered = time.perf_counter()
            supervised.wait_until_ready(times=start)
            announced.append(time.perf_counter() - answered)
            os.kill(supervised.pids[0], signal.SIGKILL)
            wait_for(lambda n=start: supervised.starts == n + 1, what="the next start")  # type: ignore[misc]
    print(f"\nfirst answer to ready: {statistics.median(announced) * 1000:.0f} ms (median of {CRASHES})")


def show_llama_cpp(folder: Path) -> None:
    """KILL to answering again, beyond the delay, against what the backend's own start takes by hand."""
    folder.mkdir()
    command = real.command("demo", backend="xllamacpp")
    by_hand, again = [], []
    for _ in range(CRASHES + 1):  # the first one warms the files up
        with subprocess.Popen(
            command.argv,
            env=command.environment(os.environ),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
        ) as process:
            begin = time.perf_counter()
            while get(command.ready.url) != 200:
                time.sleep(0.001)
            by_hand.append(time.perf_counter() - begin)
            process.kill()
    with Supervised(command, folder, first_delay_seconds=0) as supervised:
        for crash in range(CRASHES):
            supervised.wait_until_ready(times=1 + crash)
            begin = kill(int(supervised.state["backend_pid"]))
            while get(command.ready.url) == 200:
                pass
            while get(command.ready.url) != 200:
                time.sleep(0.001)
            again.append(time.perf_counter() - begin)
    own_ms, again_ms = statistics.median(by_hand[1:]) * 1000, statistics.median(again) * 1000
    print(f"\nthe demo on xllamacpp, median of {CRASHES}: a start by hand until it answers {own_ms:.0f} ms")
    print(f"KILL to answering again, without a delay {again_ms:.0f} ms: {again_ms - own_ms:+.0f} ms")


def show_kill(supervised: Supervised, *names: str) -> None:
    """Seconds from KILL of some of us at once until nothing of the tree is left."""
    of = {"supervisor": supervised.process.pid, "guardian": supervised.guardian}
    pids = [*supervised.sentinels, supervised.guardian, *supervised.pids]
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
        measure_aimind(folder / "first", 0.1)
        found = {"aimind": measure_aimind(folder / "aimind", seconds)}
        problem = others.install()
        if problem is None:
            for other in others.OTHERS:
                title = f"{other.name} {others.versions()[other.name]}"
                found[title] = measure_other(other, folder / other.name, seconds)
        show(found, bare(), seconds)
        if problem is not None:
            print(f"\nsupervisord and circus cannot be installed here: {problem}")
        show_ready(folder / "ready")
        show_llama_cpp(folder / "llama")
        for names in (("supervisor",), ("supervisor", "guardian")):
            of = folder / "-".join(names)
            of.mkdir()
            with Supervised(fake(of, "--ignore-term", "--grandchildren", "4"), of) as supervised:
                supervised.wait_until_ready()
                show_kill(supervised, *names)


if __name__ == "__main__":
    main()
