"""The demo model on real llama.cpp, installed by aimind."""

from __future__ import annotations

import shlex
import signal
import subprocess
import urllib.error
from pathlib import Path

import psutil
import pytest

from aimind.instances import choose
from tests.live.served import AIMIND, environment, fail_to_serve, serve
from tests.supervisor.harness import ask_each

pytestmark = pytest.mark.live


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


def test_an_argument_that_the_backend_does_not_take() -> None:
    done = fail_to_serve("demo", "--backend", "xllamacpp", "--force", "--", "--nonsense", "1")
    assert done.returncode == 2
    said = done.stdout + done.stderr
    assert said.count("unrecognized arguments: --nonsense") == 2  # its own words, and what is said at last
    assert "cause: the backend does not know one of the arguments" in said


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
