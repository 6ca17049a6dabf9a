"""Who is heard: the user's file, that of the current folder, variables, options; and what it then does."""

from __future__ import annotations

import itertools

import psutil
import pytest

from tests.configuration.conftest import Configured, words_of, write
from tests.supervisor.harness import LINUX

pytestmark = LINUX
VOICES = ("option", "variable", "here", "own")
CONTEXT = {"option": 2048, "variable": 3072, "here": 4096, "own": 5120}


@pytest.mark.parametrize("count", range(len(VOICES) + 1))
def test_what_comes_later_wins(at: Configured, count: int) -> None:
    for voices in itertools.combinations(VOICES, count):
        for name, path in (("own", at.own), ("here", at.here)):
            path.unlink(missing_ok=True)
            if name in voices:
                write(path, f"context = {CONTEXT[name]}\nparallel = 2")
        at.home.env["AIMIND_CONTEXT"] = str(CONTEXT["variable"]) if "variable" in voices else ""
        words = ("--context", str(CONTEXT["option"])) if "option" in voices else ()
        expected = next((CONTEXT[name] for name in VOICES if name in voices), 8192)
        assert at.plan(*words)["max_model_len"] == expected, voices


def test_another_file_takes_the_place_of_the_user_s(at: Configured) -> None:
    write(at.own, "context = 3072")
    write(at.home.folder / "other.toml", "parallel = 2")
    at.home.env["AIMIND_CONFIG"] = "other.toml"
    assert at.plan()["max_model_len"] == 8192
    assert at.shown()["user_file"] == f"{at.home.folder}/other.toml"
    assert at.shown()["options"]["parallel"] == {"value": 2, "from": f"{at.home.folder}/other.toml:1"}
    at.home.env["AIMIND_CONFIG"] = "nowhere.toml"
    assert f"{at.home.folder}/nowhere.toml, which AIMIND_CONFIG names, does not exist" in at.refused()


def test_in_the_user_s_folder_the_file_is_read_once(at: Configured) -> None:
    write(at.own, "context = 3072")
    done = at.home.run("config", cwd=at.own.parent)
    assert "./aimind.toml" not in done.stdout


def test_nothing_is_heard_where_that_is_wanted(at: Configured) -> None:
    write(at.here, "nonsense")
    at.home.env |= {"AIMIND_CONTEXT": "x", "AIMIND_NONSENSE": "1"}
    done = at.home.run("plan", "demo", "--no-config", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert at.home.run("plan", "--help").returncode == 0
    assert at.home.run("ps").returncode == 0


def test_that_a_file_of_the_folder_is_heard_is_said(at: Configured) -> None:
    write(at.here, "context = 3072")
    assert "note: ./aimind.toml is read" in at.home.run("plan", "demo").stderr


def test_a_nearer_file_can_take_a_flag_back(at: Configured) -> None:
    write(at.own, "no_install = true\nno_cpu_offload = true")
    argv = ("plan", "demo", "--device", "none")
    assert at.home.run(*argv).returncode == 8  # not in RAM
    write(at.here, "no_cpu_offload = false")
    at.home.good(*argv)
    at.home.env["AIMIND_NO_CPU_OFFLOAD"] = "yes"
    assert at.home.run(*argv).returncode == 8
    at.home.env["AIMIND_NO_CPU_OFFLOAD"] = "no"
    assert "is not installed" in at.home.run("serve", "demo", "--backend", "xllamacpp").stderr


def test_options_of_serve_are_heard(at: Configured) -> None:
    at.home.fake("--exit-at-start", "7")
    write(at.here, 'restart = "never"\nport = 0\n')
    process = at.home.start("serve", "demo", "--backend", "llama-server")
    _, said = process.communicate()
    assert process.returncode == 7, said


def test_devices_and_numbers_may_be_written_as_they_are(at: Configured) -> None:
    write(at.here, "device = [1, 0]\ncontext = 3072\n")
    shown = at.home.good("plan", "demo", "--hardware", "2x24G", "--json", "--backend", "xllamacpp")
    assert '"max_model_len": 3072' in shown
    assert at.shown()["options"]["device"]["value"] == "1,0"


def test_one_model_has_options_of_its_own(at: Configured) -> None:
    write(at.here, 'context = 3072\n[models.demo]\ncontext = 4096\n[models."owner/name"]\nparallel = 3\n')
    assert at.plan()["max_model_len"] == 4096
    found = at.home.good("plan", "demo:f16", "--json", "--backend", "llama-server")
    assert '"max_model_len": 4096' in found
    (at.home.folder / "m.gguf").symlink_to(words_of(at.plan())[2])
    local = at.home.good("plan", "./m.gguf", "--json", "--backend", "llama-server")
    assert '"max_model_len": 3072' in local
    write(at.own, f'[models."{at.home.folder}/m.gguf"]\ncontext = 2048')
    local = at.home.good("plan", "./m.gguf", "--json", "--backend", "llama-server")
    assert '"max_model_len": 2048' in local
    at.home.env["AIMIND_CONTEXT"] = "5120"
    assert at.plan()["max_model_len"] == 5120


def test_a_model_that_names_its_quantization_has_it(at: Configured) -> None:
    write(at.here, 'quant = "Q8_0"')
    assert at.home.run("plan", "demo").returncode == 3
    at.home.good("plan", "demo:f16")


def test_a_secret_of_the_environment_comes_before_one_of_a_file(at: Configured) -> None:
    (at.home.folder / "key").write_text("of-file")
    at.trust('api_key_file = "key"')
    for expected in ("of-file", "of-variable"):
        at.home.fake("--key-env", "LLAMA_API_KEY", "--open-health")
        at.home.serve("--name", expected)
        backend = psutil.Process(at.home.status(expected)["backend_pid"])
        assert backend.environ()["LLAMA_API_KEY"] == expected
        at.home.env["AIMIND_API_KEY"] = "of-variable"


# ── Backends ───────────────────────────────────────────────────────────────────────────────────────────────


def test_arguments_of_a_backend_are_taken_into_the_plan(at: Configured) -> None:
    at.trust('[backends.llama-server]\nargs = ["-c", 4096, "--threads", "3"]')
    plan = at.plan()
    assert plan["max_model_len"] == 4096
    assert words_of(plan)[-2:] == ["--threads", "3"]
    reasons = {reason["field"]: reason["sentence"] for reason in plan["reasons"]}
    assert reasons["arguments"] == "./aimind.toml:2 sets --ctx-size 4096 --threads 3"
    plan = at.plan("--context", "3k", "--", "--threads", "4")
    assert plan["max_model_len"] == 3072
    assert words_of(plan)[-2:] == ["--threads", "4"]
    assert "--ctx-size" not in str([reason for reason in plan["reasons"] if reason["field"] == "arguments"])


def test_arguments_come_before_what_is_said_of_everything(at: Configured) -> None:
    write(at.own, "context = 6144\n")
    at.trust('[backends.llama-server]\nargs = ["-c", "4096"]')
    assert at.plan()["max_model_len"] == 4096
    at.home.env["AIMIND_CONTEXT"] = "3k"
    assert at.plan()["max_model_len"] == 3072
    assert at.plan("--", "-c", "2048")["max_model_len"] == 2048


def test_arguments_of_another_backend_are_not_heard(at: Configured) -> None:
    at.trust('[backends.vllm]\nargs = ["--max-model-len", "4096", "--nonsense"]')
    assert at.plan()["max_model_len"] == 8192


def test_an_argument_that_the_backend_does_not_take(at: Configured) -> None:
    at.trust('[backends.llama-server]\nargs = ["--threds", "3"]')
    said = at.refused("plan", "demo", "--backend", "llama-server")
    assert "llama-server 9999 does not know --threds" in said
    assert "did you mean --threads?" in said
    at.trust('\n\n[backends.llama-server]\nargs = ["--model", "x"]')
    said = at.refused("plan", "demo", "--backend", "llama-server")
    assert "error: ./aimind.toml:4: --model cannot be passed to llama-server" in said


def test_a_path_starts_from_the_file(at: Configured) -> None:
    write(
        at.own, 'api_key_file = "key"\n[backends.llama-server]\nargs = ["--lora", "./a", "--log-file=../b"]'
    )
    said = at.refused("plan", "demo")
    assert f"api_key_file: the file {at.own.parent}/key does not exist" in said
    (at.own.parent / "key").write_text("canary")
    words = words_of(at.plan())
    assert words[-3:] == ["--lora", f"{at.own.parent}/a", f"--log-file={at.own.parent}/../b"]


def test_a_backend_has_a_version(at: Configured) -> None:
    at.trust('[backends.vllm]\nversion = "0.31.0"')
    vllm = ("plan", "demo:safetensors", "--backend", "vllm", "--device", "none", "--json")
    assert "/vllm/0.31.0-cpu/bin/python" in at.home.good(*vllm)
    assert "/vllm/0.30.1-cpu/bin/python" in at.home.good(*vllm, "--backend-version", "0.30.1")
    assert at.plan()["backend"]["version"] == "9999"


def test_variables_reach_the_backend(at: Configured) -> None:
    write(at.own, '[env]\nA = 1\nB = "own"\nC = "own"\n[backends.llama-server.env]\nC = "backend"\nD = "d"')
    at.trust('[env]\nB = "here"')
    at.home.fake(*(word for name in "ABCD" for word in ("--print-env", name)))
    at.home.serve("--env", "D=typed")
    logs = at.home.good("logs", "demo")
    assert [line for line in logs.splitlines() if line[1:2] == "="] == [
        "A=1",
        "B=here",
        "C=backend",
        "D=typed",
    ]


@pytest.mark.parametrize(("words", "asked"), [((), 1), (("--hub", "hf"), 2)])
def test_a_hub_is_where_names_are(at: Configured, words: tuple[str, ...], asked: int) -> None:
    """Nobody listens on these ports."""
    at.home.env |= {"MODELSCOPE_ENDPOINT": "http://127.0.0.1:1", "HF_ENDPOINT": "http://127.0.0.1:2"}
    at.home.env.pop("HF_HUB_OFFLINE")
    write(at.own, 'hub = "modelscope"')
    done = at.home.run("plan", "owner/name", *words)
    assert done.returncode == 4
    assert f"http://127.0.0.1:{asked} cannot be reached" in done.stderr
    at.home.env["AIMIND_HUB"] = "modelscope"
    assert "http://127.0.0.1:2 cannot be reached" in at.home.run("plan", "owner/name", "--no-config").stderr


def test_variables_of_kubernetes_are_noted(at: Configured) -> None:
    """Each pod gets these for a service called `aimind`."""
    of_kubernetes = {
        "AIMIND_SERVICE_HOST": "10.0.0.1",
        "AIMIND_SERVICE_PORT": "8000",
        "AIMIND_SERVICE_PORT_HTTP": "8000",
        "AIMIND_PORT": "tcp://10.0.0.1:8000",
        "AIMIND_PORT_8000_TCP": "tcp://10.0.0.1:8000",
        "AIMIND_PORT_8000_TCP_PROTO": "tcp",
        "AIMIND_PORT_8000_TCP_PORT": "8000",
        "AIMIND_PORT_8000_TCP_ADDR": "10.0.0.1",
        "AIMIND_WEB_PORT": "tcp://10.0.0.1:8000",
    }
    at.home.env |= of_kubernetes
    done = at.home.run("plan", "demo")
    assert done.returncode == 0
    assert f"note: {', '.join(sorted(of_kubernetes))}: ignored, since Kubernetes" in done.stderr
    assert "warning" not in done.stderr
    assert "port" not in at.shown()["options"]
    at.home.env |= {"AIMIND_PORT": "8001", "AIMIND_MY_PORT": "8001"}
    done = at.home.run("plan", "demo")
    assert at.shown()["options"]["port"]["value"] == "8001"
    assert "warning: AIMIND_MY_PORT is not a variable of aimind" in done.stderr
