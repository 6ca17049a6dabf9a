"""The same, and what only a real one can do: llama.cpp as xllamacpp, with the demo model."""

from __future__ import annotations

import dataclasses
import os
import shlex
import shutil
import signal
import socket
from pathlib import Path

import pytest

from aimind.types import Command
from tests.faults import real
from tests.faults.table import LLAMA_CPP, Seen, fault, sentence
from tests.supervisor.harness import LINUX, Supervised, alive, get, wait_for

pytestmark = [pytest.mark.live, LINUX]
GONE = "within 2 s nothing of the tree is alive"
AGAIN = "started again, and answers"


def on_llama_cpp(title: str, expected: str) -> pytest.MarkDecorator:
    return fault(title, expected, on=LLAMA_CPP)


@pytest.fixture(scope="module")
def made() -> Command:
    return real.command("demo", backend="xllamacpp")


@pytest.mark.parametrize(
    ("number", "words"),
    [
        pytest.param(signal.SIGABRT, "signal 6", marks=on_llama_cpp("ABRT while it serves", AGAIN)),
        pytest.param(signal.SIGKILL, "signal 9", marks=on_llama_cpp("KILL of the backend", AGAIN)),
        pytest.param(signal.SIGSEGV, "signal 11", marks=on_llama_cpp("SEGV while it serves", AGAIN)),
    ],
)
def test_a_signal(tmp_path: Path, made: Command, seen: Seen, number: signal.Signals, words: str) -> None:
    with Supervised(made, tmp_path) as supervised:
        supervised.wait_until_ready()
        os.kill(real.backend(supervised), number)
        supervised.wait_until_ready(times=2)
        assert get(made.ready.url) == 200
        seen(sentence(supervised.stderr, words), "“ready again”")


@on_llama_cpp("KILL of the guardian", "what it guarded is ended; started again, and answers")
def test_kill_of_the_guardian(tmp_path: Path, made: Command, seen: Seen) -> None:
    with Supervised(made, tmp_path) as supervised:
        supervised.wait_until_ready()
        first = real.backend(supervised)
        os.kill(supervised.guardian, signal.SIGKILL)
        supervised.wait_until_ready(times=2)
        assert not alive(first)
        seen(sentence(supervised.stderr, "guardian"), "“ready again”")


@on_llama_cpp("KILL of the supervisor", GONE)
def test_kill_of_the_supervisor(tmp_path: Path, made: Command, seen: Seen) -> None:
    with Supervised(made, tmp_path) as supervised:
        supervised.wait_until_ready()
        pids = list(real.tree(supervised))
        supervised.process.kill()
        seen(real.all_gone(pids))
        supervised.assert_nothing_left(pids)


@on_llama_cpp("KILL of supervisor and guardian at once", GONE)
def test_kill_of_both(tmp_path: Path, made: Command, seen: Seen) -> None:
    with Supervised(made, tmp_path) as supervised:
        supervised.wait_until_ready()
        pids = list(real.tree(supervised))
        supervised.send(signal.SIGSTOP)
        os.kill(supervised.guardian, signal.SIGKILL)
        supervised.process.kill()
        seen(real.all_gone(pids))
        supervised.assert_nothing_left(pids)


@on_llama_cpp("TERM while it starts", "stopped; nothing is left")
def test_term_while_it_starts(tmp_path: Path, made: Command, seen: Seen) -> None:
    with Supervised(made, tmp_path) as supervised:
        pids = [real.backend(supervised), *real.tree(supervised)]
        supervised.send(signal.SIGTERM)
        assert supervised.wait() == 143
        supervised.assert_nothing_left(pids)
        seen("exit code 143", "nothing left")


@on_llama_cpp("STOP of the backend: it hangs", "three probes unanswered, then killed, and started again")
def test_stop_of_the_backend(tmp_path: Path, made: Command, seen: Seen) -> None:
    with Supervised(dataclasses.replace(made, stop_seconds=0.2), tmp_path, probe_seconds=0.3) as supervised:
        supervised.wait_until_ready()
        os.kill(real.backend(supervised), signal.SIGSTOP)
        supervised.wait_until_ready(times=2)
        seen(sentence(supervised.stderr, "health probes"), "“ready again”")


@on_llama_cpp(
    "the port is taken after the start, just before it would listen",
    "given up at the first try: the cause is known",
)
def test_port_taken(tmp_path: Path, made: Command, seen: Seen) -> None:
    now = tmp_path / "now"
    late = ("sh", "-c", f"until [ -e {now} ]; do sleep 0.05; done; exec {shlex.join(made.argv)}")
    with socket.socket() as taken, Supervised(dataclasses.replace(made, argv=late), tmp_path) as supervised:
        real.backend(supervised)
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", int(made.url.rpartition(":")[2])))
        taken.listen()
        now.touch()
        assert supervised.wait() == 1
        assert supervised.state["restarts"] == 0
        seen("exit code 1 after 1 start", sentence(supervised.stderr, "cause:"))


@on_llama_cpp("the port is taken after a crash, for some while", "ready when it is free")
def test_port_stolen(tmp_path: Path, made: Command, seen: Seen) -> None:
    with Supervised(made, tmp_path, first_delay_seconds=0.3) as supervised:
        supervised.wait_until_ready()
        os.kill(real.backend(supervised), signal.SIGKILL)
        wait_for(lambda: supervised.state["state"] == "backing off", what="its end")
        with socket.socket() as stolen:
            stolen.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            stolen.bind(("127.0.0.1", int(made.url.rpartition(":")[2])))
            stolen.listen()
            wait_for(lambda: supervised.stderr.count("cannot start") >= 2, what="two starts in vain")
        supervised.wait_until_ready(times=2)
        seen(sentence(supervised.stderr, "cannot start"), "“ready again” once it is free")


@pytest.mark.parametrize(
    "mib",
    [
        pytest.param(
            600,
            marks=on_llama_cpp(
                "no memory for the context (ulimit -v)", "given up at the first try: the cause is known"
            ),
        ),
        pytest.param(
            1000,
            marks=on_llama_cpp(
                "no memory for the cache (ulimit -v)", "given up at the first try: the cause is known"
            ),
        ),
    ],
)
def test_no_memory(tmp_path: Path, made: Command, seen: Seen, mib: int) -> None:
    argv = list(made.argv)
    argv[argv.index("--ctx-size") + 1] = str(2**23)  # a cache of 8 GiB
    limited = ("sh", "-c", f"ulimit -v {mib * 1024}; exec {shlex.join(argv)}")
    with Supervised(dataclasses.replace(made, argv=limited), tmp_path) as supervised:
        assert supervised.wait() == 1
        assert supervised.state["restarts"] == 0
        seen(
            "exit code 1 after 1 start",
            sentence(supervised.stderr, "cause:"),
            sentence(supervised.stderr, "hint:"),
        )
        assert "ran out of memory" in supervised.stderr


# ── The model's file ───────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def model(tmp_path: Path, made: Command) -> Path:
    """A copy of the model's file, which may be damaged."""
    argv = made.argv
    source = Path(argv[argv.index("--model") + 1])
    copy = tmp_path / "model.gguf"
    shutil.copy(source, copy)
    return copy


def on_copy(made: Command, model: Path) -> Command:
    argv = list(made.argv)
    argv[argv.index("--model") + 1] = str(model)
    return dataclasses.replace(made, argv=tuple(argv))


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(
            "delete",
            marks=on_llama_cpp(
                "the model's file is deleted between two starts", "the cause is said; ready when it is back"
            ),
        ),
        pytest.param(
            "cut",
            marks=on_llama_cpp(
                "the model's file is cut between two starts", "the cause is said; ready when it is whole"
            ),
        ),
    ],
)
def test_the_model_between_two_starts(
    tmp_path: Path, made: Command, model: Path, seen: Seen, damage: str
) -> None:
    whole = model.read_bytes()
    with Supervised(on_copy(made, model), tmp_path, first_delay_seconds=0.2) as supervised:
        supervised.wait_until_ready()
        model.unlink()
        if damage == "cut":
            model.write_bytes(whole[: len(whole) // 2])
        os.kill(real.backend(supervised), signal.SIGKILL)
        wait_for(lambda: supervised.stderr.count("exited with code 1") >= 2, what="two starts in vain")
        model.write_bytes(whole)
        supervised.wait_until_ready(times=2)
        seen(
            sentence(supervised.stderr, "exited with code 1"),
            sentence(supervised.stderr, "cause:"),
            "“ready again”",
        )


@on_llama_cpp(
    "the model's file is cut before the first start", "given up at the first try: the cause is known"
)
def test_a_cut_model(tmp_path: Path, made: Command, model: Path, seen: Seen) -> None:
    model.write_bytes(model.read_bytes()[: model.stat().st_size // 2])
    with Supervised(on_copy(made, model), tmp_path) as supervised:
        assert supervised.wait() == 1
        assert supervised.state["restarts"] == 0
        seen(
            "exit code 1 after 1 start",
            sentence(supervised.stderr, "cause:"),
            sentence(supervised.stderr, "hint:"),
        )


@on_llama_cpp("an argument that it does not know", "given up at the first try: the cause is known")
def test_an_unknown_argument(tmp_path: Path, made: Command, seen: Seen) -> None:
    with Supervised(dataclasses.replace(made, argv=(*made.argv, "--nonsense")), tmp_path) as supervised:
        assert supervised.wait() == 2
        assert supervised.state["restarts"] == 0
        seen("exit code 2 after 1 start", sentence(supervised.stderr, "cause:"))
