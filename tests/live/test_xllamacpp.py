"""The demo model on real llama.cpp, installed by aimind."""

from __future__ import annotations

import json
import re
import shlex
import signal
import socket
import subprocess
import urllib.error
from pathlib import Path

import psutil
import pytest

from aimind.instances import choose
from tests.live.served import AIMIND, environment, gone, plan, serve
from tests.samples import SENTENCE
from tests.supervisor.harness import ask_each

pytestmark = pytest.mark.live


def test_it_says_its_sentence() -> None:
    with serve("demo", "--backend", "xllamacpp") as served:
        assert served.say("Who are you?", name="demo") == SENTENCE
        assert served.say("¿Qué hora es?", name="demo") == SENTENCE


def test_the_line_that_is_printed_works_in_a_shell() -> None:
    with serve("demo", "--backend", "xllamacpp") as served:
        answer = subprocess.run(["bash", "-c", served.curl], capture_output=True, check=True, timeout=60)
    assert SENTENCE in json.loads(answer.stdout)["choices"][0]["message"]["content"]


def test_a_killed_backend_is_started_again() -> None:
    with serve("demo", "--backend", "xllamacpp") as served:
        before = served.backend()
        before.kill()
        served.wait_for(r"^ready again")
        assert served.backend().pid != before.pid
        assert served.say("Still there?", name="demo") == SENTENCE


def test_a_killed_supervisor_leaves_nothing() -> None:
    with serve("demo", "--backend", "xllamacpp") as served:
        tree = served.tree()
        served.process.send_signal(signal.SIGKILL)
        served.process.wait()
        assert gone(tree, within_seconds=5)
        with socket.create_server(("127.0.0.1", int(served.url.rsplit(":", 1)[1]))):
            pass  # the port is free


def test_a_key_is_demanded_and_never_shown(tmp_path: Path) -> None:
    key = "canary-83fa11"
    (tmp_path / "key").write_text(key + "\n")
    with serve("demo", "--backend", "xllamacpp", "--api-key-file", str(tmp_path / "key")) as served:
        with pytest.raises(urllib.error.HTTPError, match="401"):
            served.post("/v1/completions", {"prompt": "Hi", "max_tokens": 1})
        assert served.post("/v1/completions", {"prompt": "Hi", "max_tokens": 1}, key=key)["choices"]
        command_lines = ask_each(served.tree(), psutil.Process.cmdline)
        assert all(key not in shlex.join(argv) for argv in command_lines.values())
    assert key not in "\n".join(served.lines)


def test_no_supervise_becomes_the_backend() -> None:
    port = choose("127.0.0.1", 0)
    argv = [str(AIMIND), "serve", "demo", "--backend", "xllamacpp", "--port", str(port), "--no-supervise"]
    process = subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment()
    )
    with process:
        assert process.stdout is not None
        assert any("listening on" in line for line in process.stdout)
        assert b"xllamacpp_server.py" in Path(f"/proc/{process.pid}/cmdline").read_bytes()
        process.terminate()
        process.stdout.read()
    # The second when the signal comes before the server's own handler.
    assert process.returncode in (0, -signal.SIGTERM)


def test_the_buffers_in_its_log_are_the_plan_s() -> None:
    """The backend's own figures are the oracle."""
    host = plan("demo", "--backend", "xllamacpp", "--device", "none")["host"]
    with serve("demo", "--backend", "xllamacpp", "--device", "none") as served:
        served.say("Hello", name="demo")
    log = "\n".join(served.lines)

    def mib(what: str) -> float:
        found = re.search(rf"CPU(?:_Mapped)? +{what} buffer size = +([\d.]+) MiB", log)
        assert found, log
        return float(found.group(1))

    assert mib("KV") == round(host["kv_cache_bytes"] / 2**20, 2)
    assert mib("model") == round(host["weights_bytes"] / 2**20, 2)
    assert mib("compute") == round(host["compute_bytes"] / 2**20, 2)
    assert mib("output") == round(host["output_bytes"] / 2**20, 2)


def test_an_argument_that_the_backend_does_not_take() -> None:
    done = subprocess.run(
        [
            str(AIMIND),
            "serve",
            "demo",
            "--backend",
            "xllamacpp",
            "--port",
            "0",
            "--force",
            "--",
            "--nonsense",
            "1",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        env=environment(),
    )
    assert done.returncode == 2
    assert (
        done.stdout.count("unrecognized arguments: --nonsense") == 2
    )  # its own words, and what is said at last
    assert "cause: the backend does not know one of the arguments" in done.stdout


def test_a_language_model_makes_vectors_where_it_shall() -> None:
    """Also of a text that is longer than a step."""
    with serve("demo", "--backend", "xllamacpp", "--category", "embedding") as served:
        answer = served.post("/v1/embeddings", {"input": ["Who are you?", "Who are you?", "A car"]})
        long = served.post("/v1/embeddings", {"input": "Who are you? " * 700})
    assert long["usage"]["prompt_tokens"] > 2048
    assert len(long["data"][0]["embedding"]) == len(answer["data"][0]["embedding"])
    one, same, other = (item["embedding"] for item in answer["data"])
    assert one == pytest.approx(same, abs=1e-4)
    assert max(abs(a - b) for a, b in zip(one, other, strict=True)) > 1e-3
