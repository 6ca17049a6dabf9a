"""`aimind run`, `aimind chat` and `aimind bench` on the fake backend: what is shown, sent and left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.fakes.backend import SENTENCE
from tests.instances.conftest import AIMIND, Home
from tests.screens.terminal import Terminal
from tests.supervisor.harness import gone, wait_for

RUN = ("run", "demo", "--backend", "llama-server")
CONTEXT_FULL = {"error": {"type": "exceed_context_size_error", "message": "request (9 tokens) exceeds 8"}}
PIXEL = b"\x89PNG\r\n\x1a\n"  # a backend looks into it, aimind does not


def piped(home: Home, *words: str, text: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [AIMIND, *words],
        input=text,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=home.folder,
        env=home.env,
    )


def left(home: Home) -> list[str]:
    """The instances of which anything is left."""
    return [path.name for path in home.state.glob("instances/*")]


def test_one_answer_and_nothing_left(home: Home, tmp_path: Path) -> None:
    """The answer alone is on stdout; what is piped in stands before the prompt."""
    bodies = tmp_path / "bodies"
    home.fake("--bodies", str(bodies), "--think", "hmm")
    (tmp_path / "dot.png").write_bytes(PIXEL)
    words = ("What is this?", "--system", "Be brief.", "--temperature", "0", "--max-tokens", "9")
    done = piped(home, *RUN, *words, "--image", "dot.png", text="Some text\n")
    assert (done.returncode, done.stdout) == (0, f"{SENTENCE}\n"), done.stderr
    assert left(home) == []
    [body] = map(json.loads, bodies.read_text().splitlines())
    system, user = body["messages"]
    assert system == {"role": "system", "content": "Be brief."}
    assert user["content"][0] == {"type": "text", "text": "Some text\n\nWhat is this?"}
    assert user["content"][1]["image_url"]["url"].startswith("data:image/png;base64,iVBOR")
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("demo", 0, 9)


def test_a_conversation(home: Home, tmp_path: Path) -> None:
    """Reasoning is dim, Ctrl-C stops an answer, Ctrl-D leaves; the instance that ran before still runs."""
    bodies = tmp_path / "bodies"
    home.fake("--bodies", str(bodies), "--think", "thinking", "--word-pause", "0.05")
    home.serve()
    with Terminal(env=home.env, cwd=home.folder) as terminal:
        terminal.run("run", "demo")
        terminal.wait_for("Using the running instance demo")
        terminal.wait_for(">>>")
        terminal.press(b"Hello\r")
        terminal.wait_for(SENTENCE)
        assert b"\x1b[2mthinking" in terminal.received
        terminal.press(b'"""two\rlines"""\r')
        wait_for(lambda: terminal.text.count("I am a") == 2, what="the second answer")
        terminal.press(b"\x03")
        wait_for(
            lambda: terminal.text.rstrip().endswith(">>>"), what="the prompt after an answer that was stopped"
        )
        assert terminal.text.count(SENTENCE) == 1
        terminal.press(b"/clear\r/set system Be brief.\rAgain\r")
        wait_for(lambda: terminal.text.count(SENTENCE) == 2, what="the third answer")
        terminal.press(b"/stats\r/nonsense\r")
        terminal.wait_for("3 prompt tokens · ")
        terminal.wait_for("error: /nonsense is not a command")
        terminal.press(b"\x04")
        assert terminal.wait() == 0
    asked = [json.loads(line)["messages"] for line in bodies.read_text().splitlines()]
    assert [message["content"] for message in asked[1]] == ["Hello", SENTENCE, "two\nlines"]
    assert [message["content"] for message in asked[2]] == ["Be brief.", "Again"]
    assert home.status()["running"]
    history = home.state / "chat_history"
    assert "Hello" in history.read_text()
    assert history.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("flag", "number", "code"),
    [
        ("--word-pause", signal.SIGKILL, -signal.SIGKILL),
        ("--word-pause", signal.SIGTERM, 143),
        ("--unready", signal.SIGINT, 130),
    ],
)
def test_the_instance_ends_with_the_command(
    home: Home, tmp_path: Path, flag: str, number: signal.Signals, code: int
) -> None:
    """Whatever ends it, and whether the model still loads or answers."""
    pids = tmp_path / "pids"
    home.fake(flag, "600", "--pids", str(pids), "--bodies", str(tmp_path / "bodies"))
    process = home.start(*RUN, "Hello")
    awaited = tmp_path / ("bodies" if flag == "--word-pause" else "pids")
    wait_for(awaited.exists, what=f"{awaited}")
    process.send_signal(number)
    assert process.wait() == code
    backend = int(pids.read_text())
    wait_for(lambda: gone(backend), what="the end of the backend")
    if number == signal.SIGTERM:  # it has had the time to tidy up
        assert left(home) == []
    else:
        wait_for(lambda: home.is_free("demo-run"), what="the end of the instance")


def test_without_a_prompt_nothing_is_started(home: Home) -> None:
    done = piped(home, *RUN, text="\n")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: there is no prompt\nhint: ")
    assert left(home) == []


def test_an_instance_that_is_kept(home: Home) -> None:
    done = home.run(*RUN, "--keep", "--name", "kept", "Hello")
    assert (done.returncode, done.stdout) == (0, f"{SENTENCE}\n"), done.stderr
    found = home.status("kept")
    assert found["state"] == "ready"
    assert found["argv"][:3] == ["demo", "--backend", "llama-server"]  # and nothing of the conversation
    assert not {"Hello", "--keep"} & set(found["argv"])


def test_a_backend_that_dies_while_it_answers(home: Home) -> None:
    home.fake("--exit-after-words", "3")
    home.serve()
    done = home.run("chat", "demo", "Hello")
    assert (done.returncode, done.stdout) == (14, "I am a \n")
    assert "error: the backend of instance demo ended before the answer was complete" in done.stderr
    assert "code 9" in done.stderr


def test_what_a_server_refuses(home: Home) -> None:
    home.env["AIMIND_API_KEY"] = "canary-key"
    home.fake("--refuse-stream", f"'{json.dumps(CONTEXT_FULL)}'")
    home.serve()
    done = home.run("chat", "demo", "Hello")
    assert done.returncode == 14
    assert (
        "error: the conversation exceeds the model's context length: request (9 tokens) exceeds 8"
        in done.stderr
    )
    url = home.status()["url"]
    del home.env["AIMIND_API_KEY"]
    done = home.run("chat", "demo", "Hello")
    assert (done.returncode, done.stdout) == (13, "")
    assert "instance demo requires an API key\nhint: provide it with --api-key-file" in done.stderr
    home.good("stop", "demo")
    done = home.run("bench", f"{url}/v1")
    assert done.returncode == 14
    assert f"error: no server answers at {url}: " in done.stderr


def test_a_measurement(home: Home, tmp_path: Path) -> None:
    """The fake counts each word of its answer as a token, and 3 tokens in each prompt."""
    home.serve()
    words = ("bench", "demo", "--at-once", "1,4", "--requests", "4")
    document = json.loads(home.good(*words, "--json"))
    assert (document["schema"], document["model"]) == (1, "demo")
    for result, at_once in zip(document["results"], (1, 4), strict=True):
        assert (result["max_concurrency"], result["completed"], result["failed"]) == (at_once, 4, 0)
        assert result["total_input_tokens"] == 4 * 3
        assert result["total_output_tokens"] == 4 * len(SENTENCE.split())
        assert 0 < result["median_ttft_ms"] <= result["median_e2el_ms"]
    shown = home.good(*words)
    assert max(map(len, shown.splitlines())) <= 80
    assert shown.count("▇") > 56
    assert os.linesep.join(shown.splitlines()[2:4]).count("median") == 2
