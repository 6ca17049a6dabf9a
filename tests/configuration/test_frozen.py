"""An instance and a unit mean the same whatever is configured later."""

from __future__ import annotations

import psutil

from tests.configuration.conftest import Configured, write
from tests.supervisor.harness import LINUX
from tests.test_units import argv, environment, values

pytestmark = LINUX
TEXT = """\
context = 4096
parallel = 2
restart = "never"
no_cpu_offload = false
served_model_name = "own"
[env]
COLOR = "deep red"
[backends.llama-server]
args = ["--threads", "3", "--lora", "./a", "--parallel", "3"]
env = {SHAPE = "round"}
"""


def command_line(at: Configured) -> list[str]:
    return psutil.Process(at.home.status()["backend_pid"]).cmdline()


def test_an_instance_is_started_as_it_was(at: Configured) -> None:
    at.trust(TEXT)
    at.home.env["AIMIND_KV_CACHE_TYPE"] = "q8_0"
    at.home.fake("--print-env", "COLOR", "--print-env", "SHAPE")
    at.home.serve("--name", "demo", "--", "--log-prefix", "x")
    first = command_line(at)
    assert first[first.index("--parallel") + 1] == "3"
    assert first[-6:] == ["--threads", "3", "--lora", f"{at.home.folder}/a", "--log-prefix", "x"]
    found = at.home.status()["argv"]
    lora = f"{at.home.folder}/a"
    assert found[0] == "demo"
    assert found[-8:] == ["--parallel", "3", "--threads", "3", "--lora", lora, "--log-prefix", "x"]
    assert "--parallel" not in found[: found.index("--")]
    for option in (
        "--port 0",
        "--backend llama-server",
        "--kv-cache-type q8_0",
        "--context 4096",
        "--restart never",
        "--served-model-name own",
    ):
        assert option in " ".join(found)
    at.home.good("stop", "demo")
    at.trust("context = 2048\nnonsense")
    at.home.env |= {"AIMIND_KV_CACHE_TYPE": "f16", "AIMIND_PARALLEL": "7"}
    at.home.good("start", "demo")
    port = first.index("--port") + 1  # a free one
    second = command_line(at)
    assert [*second[:port], *second[port + 1 :]] == [*first[:port], *first[port + 1 :]]
    assert at.home.status()["argv"] == found
    logs = at.home.good("logs", "demo").splitlines()
    assert {"COLOR=deep red", "SHAPE=round"} <= set(logs)


def test_what_nobody_configured_is_not_configured_later(at: Configured) -> None:
    at.home.serve()
    at.home.good("stop", "demo")
    write(at.here, "context = 2048")
    at.home.good("start", "demo")
    assert command_line(at)[command_line(at).index("--ctx-size") + 1] != "2048"
    assert at.home.status()["argv"] == ["demo", "--port", "0", "--backend", "llama-server"]


def test_with_its_backend_go_its_arguments(at: Configured) -> None:
    """They are of no use to another one, which might come first then."""
    at.trust(TEXT)
    at.home.good("serve", "--detach", "demo", "--port", "0", "--name", "demo")
    assert " --backend llama-server " in " ".join(at.home.status()["argv"])


def test_a_unit_says_what_is_configured(at: Configured) -> None:
    (at.own.parent / "key").write_text("canary")
    (at.own.parent / "key").chmod(0o600)
    write(at.own, 'api_key_file = "key"\nport = 9123\nstall_timeout = 77\nno_install = true')
    at.trust(TEXT)
    at.home.env["AIMIND_KV_CACHE_TYPE"] = "q8_0"
    unit = at.home.good("unit", "demo", "--context", "2k", "--", "--threads", "4")
    told = argv(unit, {"CREDENTIALS_DIRECTORY": "/secrets"})
    words = " ".join(told)
    for option in (
        "--no-config --backend llama-server",
        "--context 2k",
        "--port 9123",
        "--kv-cache-type q8_0",
        "--restart never",
        "--stall-timeout 77.0",
        "--no-install",
        "--env COLOR=deep red --env SHAPE=round",
        "--api-key-file /secrets/aimind.api-key",
    ):
        assert f" {option} " in f"{words} ", words
    assert words.count("--context") == words.count("--port") == words.count("--threads") == 1
    lora = f"{at.home.folder}/a"
    assert told[-6:] == ["--parallel", "3", "--lora", lora, "--threads", "4"]
    assert values(unit, "LoadCredential") == [f"aimind.api-key:{at.own.parent}/key"]
    assert not {name for name in environment(unit) if name.startswith("AIMIND_KV")}
    assert "canary" not in unit


def test_a_unit_has_the_version_that_is_configured(at: Configured) -> None:
    write(at.own, '[backends.vllm]\nversion = "0.31.0"')
    unit = at.home.good("unit", "demo:safetensors", "--backend", "vllm", "--device", "none")
    assert "--backend-version 0.31.0 " in " ".join(argv(unit))
    unit = at.home.good("unit", "demo:safetensors", "--backend", "vllm", "--backend-version", "0.32.0")
    assert "0.31.0" not in unit
