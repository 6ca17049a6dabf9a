"""What only a real vLLM can do: three processes that wait for each other, and what they leave behind."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from aimind.types import Command
from tests.faults import real
from tests.faults.table import VLLM, Seen, fault, sentence
from tests.leftovers import segments, unused
from tests.supervisor.harness import LINUX, Supervised, get, wait_for

pytestmark = [pytest.mark.live, LINUX]
START_SECONDS = 300.0
ENGINE, WORKER = "VLLM::EngineCore", "VLLM::Worker"
ENDED = "seen within half a minute, and all of it ended"


def on_vllm(title: str, expected: str) -> pytest.MarkDecorator:
    return fault(title, expected, on=VLLM)


@pytest.fixture(scope="module")
def made() -> Command:
    return real.command("demo:safetensors", backend="vllm", extra=("--enforce-eager",))


@pytest.fixture(autouse=True)
def compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python keeps what it compiles: each start takes twice as long without."""
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)


@pytest.fixture(autouse=True)
def shared_memory() -> Iterator[None]:
    """None may be left: nobody else ever removes it."""
    before = segments()
    yield
    wait_for(lambda: not unused(before), what=f"the end of {unused(before)}")


def process(supervised: Supervised, name: str) -> int | None:
    """The process of that name."""
    return next((pid for pid, called in real.tree(supervised).items() if called == name), None)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(None, marks=on_vllm("KILL of the API server", ENDED)),
        pytest.param(ENGINE, marks=on_vllm("KILL of the EngineCore", ENDED)),
        pytest.param(WORKER, marks=on_vllm("KILL of the worker", ENDED)),
    ],
)
def test_kill_of_one(tmp_path: Path, made: Command, seen: Seen, name: str | None) -> None:
    with Supervised(made, tmp_path, restart="never") as supervised:
        supervised.wait_until_ready(seconds=START_SECONDS)
        pids = list(real.tree(supervised))
        one = process(supervised, name) if name else real.backend(supervised)
        assert one is not None
        os.kill(one, signal.SIGKILL)
        supervised.wait()
        seen(sentence(supervised.stderr, "error:"), real.all_gone(pids))


@on_vllm("KILL of supervisor and guardian at once", "within 2 s nothing of the tree is alive")
def test_kill_of_both(tmp_path: Path, made: Command, seen: Seen) -> None:
    with Supervised(made, tmp_path) as supervised:
        supervised.wait_until_ready(seconds=START_SECONDS)
        pids = list(real.tree(supervised))
        supervised.send(signal.SIGSTOP)  # so that it does nothing between the two
        os.kill(supervised.guardian, signal.SIGKILL)
        supervised.process.kill()
        seen(real.all_gone(pids))


@pytest.mark.parametrize(
    ("number", "code"),
    [
        pytest.param(
            signal.SIGTERM, 143, marks=on_vllm("TERM while the engine starts", "stopped, and nothing is left")
        ),
        pytest.param(
            signal.SIGKILL,
            -9,
            marks=on_vllm(
                "KILL of the supervisor while the engine starts", "within 2 s nothing of the tree is alive"
            ),
        ),
    ],
)
def test_while_the_engine_starts(
    tmp_path: Path, made: Command, seen: Seen, number: signal.Signals, code: int
) -> None:
    with Supervised(dataclasses.replace(made, stop_seconds=3), tmp_path) as supervised:
        wait_for(partial(process, supervised, ENGINE), what="the engine", seconds=START_SECONDS)
        pids = list(real.tree(supervised))
        supervised.send(number)
        assert supervised.wait() == code
        gone = real.all_gone(pids)
        seen(*([f"exit code {code}"] if code > 0 else []), gone)


@on_vllm(
    "STOP of the EngineCore, and then of the API server",
    "vLLM does not tell of the first; the second is noticed, and all of it ended",
)
def test_stop(tmp_path: Path, made: Command, seen: Seen) -> None:
    """Its own health page does not see a stopped engine: nothing is answered, and all is said to be well."""
    with Supervised(
        dataclasses.replace(made, stop_seconds=1), tmp_path, probe_seconds=0.5, restart="never"
    ) as supervised:
        supervised.wait_until_ready(seconds=START_SECONDS)
        pids = list(real.tree(supervised))
        engine = process(supervised, ENGINE)
        assert engine is not None
        os.kill(engine, signal.SIGSTOP)
        health = get(made.ready.url)
        os.kill(real.backend(supervised), signal.SIGSTOP)
        supervised.wait()
        gone = real.all_gone(pids)
        seen(
            f"of the EngineCore: /health still says {health}; of the API server: "
            + sentence(supervised.stderr, "health probes"),
            gone,
        )
