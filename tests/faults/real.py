"""The commands of real backends, made as `aimind serve` makes them."""

from __future__ import annotations

import psutil
import pytest

from aimind import devices, hub, show, steps
from aimind.instances import choose
from aimind.options import Wanted
from aimind.types import Command, Request
from tests.live.served import DATA
from tests.supervisor.harness import Supervised, ask_each, time_of_end, wait_for

NAME = "the-model"


def command(model: str, *, backend: str, extra: tuple[str, ...] = ()) -> Command:
    """On the processor and a free port; the backend is installed, where it is not."""
    with pytest.MonkeyPatch.context() as changed:
        changed.setenv("AIMIND_DATA_DIR", str(DATA))
        request = Request(
            backend=backend,
            devices=(),
            address="127.0.0.1",
            port=choose("127.0.0.1", 0),
            max_model_len=2048,
            served_name=NAME,
            extra=extra,
        )
        asked = Wanted(
            text=model,
            revision=None,
            quantization=None,
            prefer_quality=False,
            projector=None,
            offline=False,
            token_file=None,
            request=request,
        )
        host = steps.equipped(devices.probe(), request)
        plan = steps.require_plan(steps.answer(steps.ask(steps.offer(asked), asked, host)))
        steps.install(plan, host)
        hub.fetch(plan.model, show.Progress())
        return steps.command(plan)


def tree(supervised: Supervised) -> dict[int, str]:
    """All processes below the supervisor, and what they are called."""
    below = psutil.Process(supervised.process.pid).children(recursive=True)
    return ask_each(below, psutil.Process.name)


def backend(supervised: Supervised) -> int:
    """The process id of the backend, once it is known."""
    wait_for(lambda: supervised.state.get("backend_pid"), what="the backend's start")
    pid = supervised.state["backend_pid"]
    assert isinstance(pid, int)
    return pid


def all_gone(pids: list[int]) -> str:
    """Wait for the end of all of them; their number is the backend's affair."""
    return f"nothing left{time_of_end(pids)}"
