"""A model from a hub, planned, downloaded and served: the real client, against a hub of ours on loopback."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.fakes.hub import Hub
from tests.live.served import AIMIND, environment, plan, serve
from tests.samples import SENTENCE

pytestmark = pytest.mark.live

DEMO = Path(__file__).parents[2] / "aimind" / "demo"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    """The demo model as two repositories: GGUF, and a folder."""
    gguf = tmp_path / "repositories" / "tiny" / "Demo-GGUF"
    gguf.mkdir(parents=True)
    for quantization in ("F16", "Q8_0"):
        shutil.copy(DEMO / "aimind-demo-F16.gguf", gguf / f"demo-{quantization}.gguf")
    shutil.copytree(DEMO / "huggingface", tmp_path / "repositories" / "tiny" / "Demo")
    with Hub(tmp_path / "repositories") as running:
        yield running


@pytest.fixture
def env(hub: Hub, tmp_path: Path) -> Mapping[str, str]:
    return {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "hf"),
        "MODELSCOPE_ENDPOINT": hub.url,
        "MODELSCOPE_CACHE": str(tmp_path / "ms"),
        "NO_PROXY": "127.0.0.1",
    }


def test_a_quantization_is_planned_without_weights_then_downloaded_and_served(
    hub: Hub, env: Mapping[str, str], tmp_path: Path
) -> None:
    decided = plan("tiny/Demo-GGUF:F16", "--backend", "xllamacpp", env=env)
    assert [file["path"] for file in decided["model"]["files"]] == ["demo-F16.gguf"]
    assert decided["model"]["commit"] == hub.commit("tiny/Demo-GGUF")
    assert not list(tmp_path.rglob("hf/**/*.gguf"))
    with serve("tiny/Demo-GGUF:F16", "--backend", "xllamacpp", env=env) as served:
        assert served.say("Who are you?", name="tiny/Demo-GGUF") == SENTENCE
    assert any(re.match(r"downloading \d+ KiB in 1 file", line) for line in served.lines)
    assert [path.name for path in tmp_path.rglob("hf/**/snapshots/**/*.gguf")] == ["demo-F16.gguf"]


def test_llama_cpp_is_asked_about_a_file_that_is_not_here(
    hub: Hub, env: Mapping[str, str], tmp_path: Path
) -> None:
    decided = plan("tiny/Demo-GGUF:F16", "--backend", "xllamacpp", "--device", "none", "--exact", env=env)
    (said,) = decided["asked"]
    host = decided["host"]
    assert said["weights_bytes"] == host["weights_bytes"]
    assert said["context_bytes"] == host["kv_cache_bytes"]
    assert abs(said["compute_bytes"] - host["compute_bytes"]) <= 64
    assert not list(tmp_path.rglob("hf/**/*.gguf"))
    assert hub.sent_bytes() < 1_600_000


def test_what_is_here_is_not_fetched_again(hub: Hub, env: Mapping[str, str]) -> None:
    for _ in range(2):
        with serve("tiny/Demo-GGUF:Q8_0", "--backend", "xllamacpp", env=env):
            pass
    assert hub.sent_bytes() < 2 * 800_000


@pytest.mark.parametrize("model", ["hf:tiny/Demo-GGUF:Q8_0", "ms:tiny/Demo-GGUF:Q8_0"])
def test_offline_what_is_here_is_served(hub: Hub, env: Mapping[str, str], model: str) -> None:
    with serve(model, "--backend", "xllamacpp", env=env):
        pass
    hub.requests.clear()
    with serve(model, "--backend", "xllamacpp", "--offline", env=env) as served:
        assert served.say("Who are you?", name="tiny/Demo-GGUF") == SENTENCE
    assert hub.requests == []


def test_a_folder_is_planned_for_vllm(env: Mapping[str, str]) -> None:
    decided = plan("tiny/Demo", env=env)
    assert decided["backend"]["name"] == "vllm"
    assert decided["model"]["parameters"] == 377472


def test_the_dry_run_can_be_pasted_into_a_shell(tmp_path: Path) -> None:
    shown = subprocess.run(
        [str(AIMIND), "serve", "demo", "--backend", "xllamacpp", "--port", "0", "--dry-run"],
        capture_output=True,
        text=True,
        check=True,
        env=environment(),
    )
    process = subprocess.Popen(
        ["bash", "-c", f"exec {shown.stdout}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=tmp_path,
    )
    with process:
        assert process.stdout is not None
        assert any("listening on" in line for line in process.stdout)
        process.terminate()
        process.stdout.read()
    # The second when the signal comes before the server's own handler.
    assert process.returncode in (0, -signal.SIGTERM)


def test_backends_are_installed_and_removed(tmp_path: Path) -> None:
    env = environment({"AIMIND_DATA_DIR": str(tmp_path)})

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [str(AIMIND), "backends", *arguments], capture_output=True, text=True, check=True, env=env
        )
        return done.stdout + done.stderr

    assert "xllamacpp 2026.10.11549 is installed" in run("install", "xllamacpp")
    assert str(tmp_path) in run("--why")
    assert "removed" in run("remove", "xllamacpp")
    assert str(tmp_path) not in run("--why")
