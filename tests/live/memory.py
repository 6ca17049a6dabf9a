"""What a backend says or shows of its memory, beside what the plan says."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import psutil
import pytest

from tests.live.served import Served
from tests.supervisor.harness import ask_each

MIB = 1 << 20
Plan = Mapping[str, Any]
# Of what is rough a plan promises that it suffices; more than so many times what is used would be no plan.
ROUGH = 4


def logged(served: Served) -> dict[str, float]:
    """MiB by component in RAM, as llama.cpp's log has them to hundredths."""
    log = "\n".join(served.lines)
    found = re.findall(r"CPU\S* +(model|KV|RS|compute|output) buffer size = +([\d.]+) MiB", log)
    sums: dict[str, float] = {}
    for name, mib in found:
        sums[name] = sums.get(name, 0.0) + float(mib)
    return sums


def planned(host: Plan) -> dict[str, float]:
    """The same of a plan."""
    names = {
        "model": "weights_bytes",
        "KV": "kv_cache_bytes",
        "RS": "state_bytes",
        "compute": "compute_bytes",
        "output": "output_bytes",
    }
    return {name: host[field] / MIB for name, field in names.items() if host[field]}


def is_in_the_log(served: Served, plan: Plan) -> None:
    """llama.cpp: every buffer has the bytes of the plan, which says that they are exact."""
    assert plan["host"]["approximate"] == ["overhead_bytes"]
    assert logged(served) == pytest.approx(planned(plan["host"]), abs=0.0101)


def is_as_many_tokens(served: Served, plan: Plan) -> None:
    """vLLM: the cache holds as many tokens as planned; processes and activations are rough."""
    assert f"CPU KV cache size: {plan['kv_cache_tokens']:,} tokens" in "\n".join(served.lines)
    is_enough(served, plan)


def is_enough(served: Served, plan: Plan) -> None:
    """The backend's processes have what is planned at most, and of what they have at once not much less."""
    host = plan["host"]
    assert not host["exact"]
    later_bytes = host["kv_cache_bytes"] + host["compute_bytes"]  # where the cache grows
    used_bytes = used(served)
    assert host["total_bytes"] - later_bytes <= ROUGH * used_bytes
    assert used_bytes <= host["total_bytes"]


def used(served: Served) -> int:
    """Bytes that the processes of the backend have in RAM, what they share counted once."""
    held = ask_each(served.tree()[1:], psutil.Process.memory_full_info)
    return sum(int(each.pss) for each in held.values())
