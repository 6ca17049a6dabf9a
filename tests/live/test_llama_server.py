"""The demo model on a llama-server that the user has."""

from __future__ import annotations

import os
import re

import pytest

from tests.live import debian
from tests.live.served import DATA, plan, serve
from tests.samples import SENTENCE

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(not debian.can_be_had(), reason="needs Debian's packages for x86-64"),
]


def test_it_comes_first_and_says_its_sentence() -> None:
    env = {"PATH": f"{debian.llama_server(DATA / 'llama-server')}:{os.environ['PATH']}"}
    decided = plan("demo", "--device", "none", env=env)
    assert decided["backend"]["name"] == "llama-server"
    with serve("demo", "--device", "none", "--", "-lv", "4", env=env) as served:
        assert served.say("Who are you?", name="demo") == SENTENCE
    log = "\n".join(served.lines)
    found = re.search(r"CPU KV buffer size = +([\d.]+) MiB", log)
    assert found
    assert float(found.group(1)) == round(decided["host"]["kv_cache_bytes"] / 2**20, 2)
