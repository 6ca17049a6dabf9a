"""The command itself, as a shell would run it: what it prints where, and with which exit code."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from aimind.launchers.ggml import BUILD
from tests import forked, models
from tests.fakes import nvml
from tests.metadata import craft

DEMO = next((Path(__file__).parents[1] / "aimind" / "demo").glob("*.gguf"))
AIMIND = Path(sys.executable).with_name("aimind")
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """`aimind ARGUMENTS` with a home of its own, and no backends but those that can be installed."""
    home = tmp_path / "home"
    home.mkdir()

    def _run(*arguments: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        before = files_below(tmp_path)
        done = forked.run(
            arguments,
            cwd=tmp_path,
            env={
                "PATH": "/usr/bin:/bin",
                "HOME": str(home),
                "AIMIND_DATA_DIR": str(home / "data"),
                "AIMIND_STATE_DIR": str(home / "state"),
                "HF_HUB_OFFLINE": "1",
                **(env or {}),
            },
        )
        # An error leaves nothing behind, but for what others may wait for.
        assert done.returncode == 0 or files_below(tmp_path) - {"home/state/claims.lock"} == before
        return done

    return _run


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return models.header("llama-3.1-8b.Q4_K_M", tmp_path)


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


# ── What works ─────────────────────────────────────────────────────────────────────────────────────────────


def test_help_names_every_command(run: Run) -> None:
    shown = run("--help")
    assert shown.returncode == 0
    assert all(f" {command} " in shown.stdout for command in ("serve", "plan", "devices", "backends"))


def test_the_plan_is_one_document(run: Run, llama: Path) -> None:
    shown = run("plan", str(llama), "--hardware", "2x24G", "--json")
    assert shown.returncode == 0, shown.stderr
    plan = json.loads(shown.stdout)
    assert plan["schema"] == 1
    assert plan["model"]["architecture"] == "llama"
    assert plan["backend"]["name"] == "xllamacpp"
    assert len(plan["shards"]) == 1


def test_the_plan_for_a_person_says_what_where_and_why(run: Run, llama: Path) -> None:
    shown = run("plan", str(llama), "--hardware", "24G")
    assert shown.returncode == 0, shown.stderr
    for word in ("Q4_K_M", "xllamacpp", "GPU 24G", "weights", "KV cache"):
        assert word in shown.stdout
    assert "--why" in shown.stderr
    assert "\ngpu-layers " in run("plan", str(llama), "--hardware", "24G", "--why").stdout


def test_every_component_says_whether_it_is_exact_and_from_what(run: Run, llama: Path) -> None:
    plan = json.loads(run("plan", str(llama), "--hardware", "24G", "--json").stdout)
    shard = plan["shards"][0]
    assert shard["approximate"] == ["overhead_bytes"]
    assert shard["exact"] is False
    assert plan["host"]["approximate"] == ["overhead_bytes"]
    there = {name for place in (shard, plan["host"]) for name in plan["sources"] if place[name]}
    assert there == set(plan["sources"])
    shown = run("plan", str(llama), "--hardware", "24G", "--why").stdout
    assert "KV cache  exact: " in shown
    assert "overhead  approximate: " in shown


def test_plans_over_machines_and_contexts_are_one_table(run: Run, llama: Path) -> None:
    options = ("--hardware", "8G", "--hardware", "2x24G", "--context", "8k,max")
    shown = run("plan", str(llama), *options)
    assert shown.returncode == 0, shown.stderr
    title, *rows = shown.stdout.splitlines()
    assert title.split()[:4] == ["MACHINE", "ASKED", "CONTEXT", "AT"]
    assert [row.split()[:3] for row in rows] == [
        ["8G", "8,192", "8,192"],
        ["8G", "max", "131,072"],
        ["2x24G", "8,192", "8,192"],
        ["2x24G", "max", "131,072"],
    ]
    plans = json.loads(run("plan", str(llama), *options, "--json").stdout)["plans"]
    assert [(each["hardware"], each["context"]) for each in plans] == [
        ("8G", 8192),
        ("8G", "max"),
        ("2x24G", 8192),
        ("2x24G", "max"),
    ]
    assert plans[3]["plan"]["shards"][0]["total_bytes"] > plans[2]["plan"]["shards"][0]["total_bytes"]


def test_the_parsers_that_a_template_asks_for(run: Run, tmp_path: Path) -> None:
    template = "{% if tools %}{{ tools | tojson }}{% endif %}<tool_call>name and arguments</tool_call>"
    for file in (Path(__file__).parents[1] / "aimind" / "demo" / "huggingface").iterdir():
        (tmp_path / "model" / file.name).parent.mkdir(exist_ok=True)
        (tmp_path / "model" / file.name).symlink_to(file)
    (tmp_path / "model" / "chat_template.jinja").write_text(template)
    words = ("plan", "./model", "--backend", "vllm", "--hardware", "24G")
    shown = run(*words, "--why")
    assert shown.returncode == 0, shown.stderr
    assert "because the chat template writes <tool_call>" in " ".join(shown.stdout.split())
    assert "call-parser" not in run(*words, "--no-auto-parsers", "--json").stdout
    plan = json.loads(run(*words, "--json").stdout)
    assert plan["tool_call_parser"] == "hermes"
    assert "--enable-auto-tool-choice --tool-call-parser hermes" in " ".join(plan["command"]["argv"])
    own = json.loads(run(*words, "--json", "--", "--tool-call-parser", "mistral").stdout)
    assert "--tool-call-parser mistral" in " ".join(own["command"]["argv"])
    assert not any(each["field"] == "tool_call_parser" for each in own["reasons"])


def test_a_refusal_is_a_row_of_the_table(run: Run, llama: Path) -> None:
    options = ("--hardware", "4G", "--hardware", "24G", "--no-cpu-offload")
    shown = run("plan", str(llama), *options)
    assert shown.returncode == 0, shown.stderr
    assert re.search(r"^4G +no$", shown.stdout, re.MULTILINE)
    assert "4G: all layers with a context of 2,048 tokens need" in shown.stderr
    refused, planned = json.loads(run("plan", str(llama), *options, "--json").stdout)["plans"]
    assert refused["error"]["exit_code"] == 8
    assert planned["plan"]["gpu_layers"] == 33
    nowhere = run("plan", str(llama), "--hardware", "4G", "--context", "8k,max", "--no-cpu-offload")
    assert nowhere.returncode == 8
    assert nowhere.stderr.count(": all layers with a context of") == 2


def test_the_files_of_a_repository_and_whether_they_fit(run: Run, llama: Path, tmp_path: Path) -> None:
    for name in ("llama-3.1-8b.Q8_0", "llama-3.1-8b.F16"):
        models.header(name, tmp_path)
    shown = run("plan", str(tmp_path), "--hardware", "12G", "--files")
    assert shown.returncode == 0, shown.stderr
    rows = [row.split() for row in shown.stdout.splitlines()[1:]]
    assert [word for row in rows for word in row if word in ("F16", "Q8_0", "Q4_K_M")] == [
        "F16",
        "Q8_0",
        "Q4_K_M",
    ]
    assert [row[1] for row in rows if row[0] == "→"] == ["Q4_K_M"]
    found = json.loads(run("plan", str(tmp_path), "--hardware", "12G", "--files", "--json").stdout)[
        "candidates"
    ]
    assert [(each["quantization"], each["chosen"], each["whole"]) for each in found] == [
        ("F16", False, False),
        ("Q8_0", False, True),
        ("Q4_K_M", True, True),
    ]
    best = json.loads(run("plan", str(tmp_path), "--hardware", "12G", "--quant", "best", "--json").stdout)
    assert best["model"]["quantization"] == "Q8_0"
    named = json.loads(run("plan", str(tmp_path), "--hardware", "12G", "--quant", "f16", "--json").stdout)
    assert named["model"]["files"][0]["path"] == "llama-3.1-8b.F16.gguf"
    assert llama.exists()


def test_planning_leaves_nothing_behind(run: Run, llama: Path, tmp_path: Path) -> None:
    before = files_below(tmp_path)
    assert run("plan", str(llama), "--hardware", "24G").returncode == 0
    assert files_below(tmp_path) == before


def test_the_dry_run_is_a_line_for_a_shell(run: Run, llama: Path) -> None:
    shown = run("serve", str(llama), "--dry-run", "--device", "none", "--env", "NOTE=two words")
    assert shown.returncode == 0, shown.stderr
    assert len(shown.stdout.splitlines()) == 1
    assert "'NOTE=two words'" in shown.stdout


def test_the_port_may_come_after_the_dashes(run: Run, llama: Path) -> None:
    shown = run("serve", str(llama), "--dry-run", "--device", "none", "--", "--port", "9000")
    assert shown.returncode == 0, shown.stderr
    assert "--port 9000" in shown.stdout
    taken = run("serve", str(llama), "--dry-run", "--device", "none", "--port", "0")
    assert "--port 0" not in taken.stdout


def test_backend_arguments_change_the_plan(run: Run, llama: Path) -> None:
    shown = run(
        "plan", str(llama), "--hardware", "24G", "--json", "--", "-c", "4096", "--port=9000", "--threads", "2"
    )
    plan = json.loads(shown.stdout)
    assert plan["max_model_len"] == 4096
    assert plan["kv_cache_tokens"] == 4096
    argv = plan["command"]["argv"]
    assert argv[argv.index("--port") + 1] == "9000"
    assert argv[-2:] == ["--threads", "2"]


def test_arguments_that_the_plan_does_not_count_are_named(run: Run, llama: Path) -> None:
    shown = run("plan", str(llama), "--hardware", "24G", "--json", "--", "--mlock", "--threads", "2")
    changed, unchecked = shown.stderr.splitlines()
    assert changed == "warning: the estimates do not include the effect of --mlock"
    assert "has not listed its arguments yet" in unchecked


def test_without_devices_the_builds_for_the_cpu_are_used(run: Run, llama: Path) -> None:
    shown = run("plan", "demo:safetensors", "--hardware", "24G", "--device", "none", "--json")
    plan = json.loads(shown.stdout)
    assert plan["backend"]["executable"].endswith("-cpu/bin/python")
    assert plan["shards"] == []
    shown = run("plan", str(llama), "--hardware", "24G", "--device", "none", "--context", "max", "--json")
    assert json.loads(shown.stdout)["max_model_len"] == 131072
    assert json.loads(shown.stdout)["gpu_layers"] == 0


def test_parallel_requests_own_their_part(run: Run, llama: Path) -> None:
    shown = run("plan", str(llama), "--hardware", "24G", "--json", "--context", "8k", "--parallel", "3")
    plan = json.loads(shown.stdout)
    assert (plan["max_model_len"], plan["max_num_seqs"], plan["kv_cache_tokens"]) == (8192, 3, 3 * 8192)
    assert "--no-kv-unified" in plan["command"]["argv"]


def test_a_public_address_without_a_key_gets_a_warning(run: Run, llama: Path, tmp_path: Path) -> None:
    arguments = ("plan", str(llama), "--hardware", "24G", "--host", "0.0.0.0")
    assert "there is no API key" in run(*arguments).stderr
    (tmp_path / "key").write_text("canary-3c1\n")
    shown = run(*arguments, "--api-key-file", str(tmp_path / "key"), "--json")
    assert "API key" not in shown.stderr
    assert json.loads(shown.stdout)["command"]["env"]["LLAMA_API_KEY"] == "***"
    assert "canary" not in shown.stdout + shown.stderr


def test_devices_can_be_recorded_and_planned_for(run: Run, llama: Path, tmp_path: Path) -> None:
    (tmp_path / "nvml").mkdir()
    library = nvml.build(tmp_path / "nvml")
    machine = nvml.write(tmp_path / "machine", nvml.Gpu(), nvml.Gpu())
    recorded = run("devices", "--json", env=nvml.environment(library, machine))
    assert recorded.returncode == 0, recorded.stderr
    (tmp_path / "machine.json").write_text(recorded.stdout)
    plan = json.loads(run("plan", str(llama), "--hardware", str(tmp_path / "machine.json"), "--json").stdout)
    assert plan["shards"][0]["device"]["uuid"] == json.loads(recorded.stdout)["devices"][0]["uuid"]


def test_a_program_on_another_machine_is_assumed_to_be_there(run: Run, llama: Path) -> None:
    shown = run("plan", str(llama), "--hardware", "24G", "--backend", "llama-server", "--json")
    assert shown.returncode == 0, shown.stderr
    plan = json.loads(shown.stdout)
    assert plan["backend"] == {
        "name": "llama-server",
        "version": BUILD,
        "executable": "llama-server",
        "installed": True,
        "assumed": True,
    }
    assert plan["reasons"][0]["sentence"].endswith(f"llama-server {BUILD} is installed there")
    shown = run("plan", str(llama), "--hardware", "24G", "--backend", "llama-server")
    assert f"llama-server {BUILD} (assumed to be installed there)" in shown.stdout


def test_on_ascend_devices_elsewhere_mindie_is_assumed(run: Run) -> None:
    """What aimind can install itself would leave all eight devices idle."""
    asked = ("plan", "demo:safetensors", "--hardware", "8xAscend910B-64G", "--json")
    for options in ((), ("--backend", "mindie")):
        shown = run(*asked, *options)
        assert shown.returncode == 0, shown.stderr
        plan = json.loads(shown.stdout)
        assert (plan["backend"]["name"], plan["backend"]["assumed"]) == ("mindie", True)
        assert plan["reasons"][0]["sentence"].endswith("MindIE 2.0 is installed there")
        assert plan["shards"][0]["device"]["name"] == "Ascend 910B 64G"
    asked_for = json.loads(run(*asked, "--backend", "mindie", "--backend-version", "2.0.RC2").stdout)
    assert asked_for["backend"]["version"] == "2.0.RC2"


def test_what_is_installed_here_is_not_on_another_machine(run: Run, llama: Path, tmp_path: Path) -> None:
    """A llama-server on PATH, and an older xllamacpp in an environment."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "llama-server"
    program.write_text("#!/bin/sh\necho 'version: 4321 (here)'\n")
    program.chmod(0o755)
    environment = tmp_path / "home" / "data" / "environments" / "xllamacpp" / "2026.1.1"
    (environment / "bin").mkdir(parents=True)
    (environment / "bin" / "python").symlink_to(sys.executable)
    (environment / "aimind.json").write_text(json.dumps({"version": "2026.1.1", "size_bytes": 1}))
    env = {"PATH": f"{folder}:/usr/bin:/bin"}

    def chosen(*options: str) -> dict[str, object]:
        shown = run("plan", str(llama), "--json", *options, env=env)
        assert shown.returncode == 0, shown.stderr
        found: dict[str, object] = json.loads(shown.stdout)["backend"]
        return found

    here = chosen("--device", "none")
    assert (here["name"], here["version"]) == ("llama-server", "4321")
    assert "assumed" not in here
    assert chosen("--device", "none", "--backend", "xllamacpp")["version"] == "2026.1.1"
    there = chosen("--hardware", "24G")
    assert (there["name"], there["installed"]) == ("xllamacpp", False)
    assert there["version"] != "2026.1.1"
    asked = chosen("--hardware", "24G", "--backend", "llama-server")
    assert (asked["version"], asked["executable"]) == (BUILD, "llama-server")


def test_backends_are_listed(run: Run) -> None:
    shown = run("backends")
    assert shown.returncode == 0, shown.stderr
    assert all(name in shown.stdout for name in ("llama-server", "llama-box", "xllamacpp", "vllm"))


def test_it_imports_only_what_it_uses(llama: Path) -> None:
    """A plan of a local file needs no hub client, no numpy, and as JSON no rich."""
    code = (
        "import sys; from aimind import cli\n"
        "sys.argv = ['aimind', 'plan', sys.argv[1], '--hardware', '24G', '--json']\n"
        "try: cli.main()\n"
        "except SystemExit as end: assert end.code == 0\n"
        "heavy = {'huggingface_hub', 'numpy', 'gguf', 'rich', 'pydantic', 'psutil', 'pynvml', 'httpx2'}\n"
        "found = heavy & set(sys.modules); assert not found, found"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code, str(llama)], capture_output=True, text=True, check=False
    )
    assert shown.returncode == 0, shown.stderr


# ── What does not ──────────────────────────────────────────────────────────────────────────────────────────


def assert_one_error(shown: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """One error, one hint, the exit code; on stdout nothing, or with --json the error as a document."""
    lines = [line for line in shown.stderr.splitlines() if not line.startswith(("note:", "warning:"))]
    assert shown.returncode == code, shown.stderr
    assert [line.split(":")[0] for line in lines] == ["error", "hint"], shown.stderr
    if "--json" in shown.args:
        document = json.loads(shown.stdout)
        error, hint = (line.partition(": ")[2] for line in lines)
        assert document == {"schema": 1, "error": {"message": error, "hint": hint, "exit_code": code}}
    else:
        assert not shown.stdout
    for word in words:
        assert word in shown.stderr


@pytest.mark.parametrize(
    "text", ["", "nonsense", "a b/c", "-x/y", "hf:x", "owner/../name", "owner/name:", "://"]
)
def test_a_reference_that_is_nonsense(run: Run, text: str) -> None:
    assert_one_error(run("plan", text), 2)


def test_a_path_without_its_dot_gets_the_path(run: Run, llama: Path) -> None:
    assert_one_error(run("plan", llama.name), 2, f"./{llama.name}")


def test_a_missing_file(run: Run) -> None:
    assert_one_error(run("serve", "./missing.gguf", "--port", "0"), 3, "missing.gguf")


def test_a_text_file_named_gguf(run: Run, tmp_path: Path) -> None:
    (tmp_path / "notes.gguf").write_text("Dear diary, this is no model.\n" * 10)
    assert_one_error(run("serve", "./notes.gguf", "--port", "0"), 5, "notes.gguf")


def test_a_header_cut_short(run: Run, llama: Path, tmp_path: Path) -> None:
    with llama.open("rb") as whole:
        (tmp_path / "cut.gguf").write_bytes(whole.read(100_000))
    assert_one_error(run("serve", "./cut.gguf", "--port", "0"), 5, "cut.gguf")


def test_weights_cut_short(run: Run, llama: Path) -> None:
    os.truncate(llama, llama.stat().st_size // 2)
    assert_one_error(run("serve", str(llama), "--port", "0"), 5)


def test_a_folder_without_config(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    assert_one_error(run("serve", "./model", "--port", "0"), 5, "config.json")


def test_a_context_too_short_to_be_of_use(run: Run, llama: Path) -> None:
    assert_one_error(
        run("plan", str(llama), "--hardware", "24G", "--context", "32"), 2, "2,048", "--context 32k"
    )
    assert run("plan", str(llama), "--hardware", "24G", "--context", "32", "--force").returncode == 0


def test_a_projector_that_is_not_there(run: Run, llama: Path) -> None:
    shown = run("plan", str(llama), "--hardware", "24G", "--mmproj", "mmproj-F16.gguf")
    assert_one_error(shown, 3, "mmproj-F16.gguf", "omit --mmproj")
    shown = run("plan", str(llama), "--hardware", "24G", "--", "--mmproj", "mmproj-F16.gguf")
    assert_one_error(shown, 3, "mmproj-F16.gguf")


def test_a_quantization_that_is_not_there(run: Run, llama: Path) -> None:
    assert_one_error(run("plan", str(llama.parent), "--quant", "Q2_K"), 3, "Q2_K", "Q4_K_M")
    assert_one_error(run("plan", str(llama), "--quant", "not one"), 2, "not one")


def test_asking_llama_cpp_needs_one_and_this_machine(run: Run, llama: Path) -> None:
    assert_one_error(run("plan", str(llama), "--hardware", "24G", "--exact"), 2, "--exact", "--hardware")
    shown = run("plan", str(llama), "--device", "none", "--exact", "--context", "8k")
    assert_one_error(shown, 7, "xllamacpp is not installed", "aimind backends install xllamacpp")


def test_files_are_those_of_one_plan(run: Run, llama: Path) -> None:
    shown = run("plan", str(llama), "--hardware", "8G", "--hardware", "24G", "--files")
    assert_one_error(shown, 2, "--files")


@pytest.mark.parametrize("architecture", ["qwen4exp", "strange"])
def test_an_unknown_architecture(run: Run, tmp_path: Path, architecture: str) -> None:
    """One that llama.cpp has and aimind knows nothing of, and one that nobody has."""
    import gguf

    writer = gguf.GGUFWriter(tmp_path / "strange.gguf", architecture)
    writer.add_block_count(2)
    writer.add_embedding_length(64)
    import numpy

    writer.add_tensor("token_embd.weight", numpy.zeros((32, 64), numpy.float32))
    for index in range(2):
        writer.add_tensor(f"blk.{index}.mystery.weight", numpy.zeros((64, 64), numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    arguments: tuple[str, ...] = ("plan", "./strange.gguf", "--hardware", "24G", "--json")
    if architecture == "strange":
        assert_one_error(run(*arguments), 7, "No backend knows the architecture strange", "--force")
        arguments += ("--backend", "xllamacpp", "--force")
    else:
        assert_one_error(run(*arguments), 5, "qwen4exp.context_length is missing", "--force")
        arguments += ("--force",)
    shown = run(*arguments)
    assert shown.returncode == 0, shown.stderr
    assert f"warning: the estimates do not cover the architecture {architecture}" in shown.stderr
    shard = json.loads(shown.stdout)["shards"][0]
    assert "compute_bytes" in shard["approximate"]
    assert "weights_bytes" not in shard["approximate"]


def test_a_port_in_use(run: Run, llama: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert_one_error(run("serve", str(llama), "--port", port), 11, port, "--port 0")


def test_a_device_that_does_not_exist(run: Run, llama: Path) -> None:
    assert_one_error(run("plan", str(llama), "--hardware", "2x24G", "--device", "7"), 9, "device 7", "0, 1")


def test_a_context_larger_than_the_model_s(run: Run, llama: Path) -> None:
    assert_one_error(run("plan", str(llama), "--hardware", "80G", "--context", "1m"), 2, "131072")


def test_a_model_that_does_not_fit(run: Run, tmp_path: Path) -> None:
    large = models.header("llama-3.1-70b.Q4_K_M", tmp_path)
    assert_one_error(run("plan", str(large), "--hardware", "8G"), 8, "GiB")


def test_a_backend_that_does_not_exist(run: Run, llama: Path) -> None:
    assert_one_error(run("plan", str(llama), "--backend", "vlm"), 2, "did you mean vllm")


def test_a_backend_that_cannot_serve_it(run: Run, llama: Path) -> None:
    assert_one_error(run("plan", str(llama), "--backend", "vllm", "--hardware", "24G"), 7, "GGUF")


def test_a_backend_that_may_not_be_installed(run: Run, llama: Path, tmp_path: Path) -> None:
    shown = run("serve", str(llama), "--device", "none", "--no-install", "--port", "0", "--context", "2k")
    assert shown.returncode == 10
    assert "aimind backends install xllamacpp" in shown.stderr
    assert not (tmp_path / "home" / "data" / "environments").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("--context", "many"),
        ("--context", "0"),
        ("--device", "x"),
        ("--device", "0,0"),
        ("--env", "NOVALUE"),
        ("--port", "70000"),
        ("--kv-cache-type", "q3"),
        ("--gpu-memory-utilization", "0"),
        ("--no-such-option",),
        ("--tensor-parallel", "2"),
        ("--", "--model", "other.gguf"),
        ("--", "-c"),
        ("--", "-c", "some"),
        ("--context", "8k", "--", "-np", "2", "-c", "4096"),
        ("--parallel", "2", "--", "-np", "3"),
    ],
    ids=" ".join,
)
def test_options_that_make_no_sense(run: Run, llama: Path, arguments: tuple[str, ...]) -> None:
    assert_one_error(run("plan", str(llama), "--hardware", "24G", *arguments), 2)


def test_debug_shows_the_traceback(run: Run) -> None:
    shown = run("plan", "./missing.gguf", "--debug")
    assert shown.returncode == 3
    assert "Traceback" in shown.stderr


def test_a_file_here_that_is_typed_without_its_folder(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "models" / "small"
    folder.mkdir(parents=True)
    models.header("llama-3.1-8b.Q4_K_M", folder)
    shown = run("plan", "models/small/llama-3.1-8b.Q4_K_M.gguf")
    assert shown.returncode == 2
    assert "is a file on this machine" in shown.stderr
    assert "./models/small/llama-3.1-8b.Q4_K_M.gguf" in shown.stderr


def test_a_file_that_is_no_model_is_left_out(run: Run, tmp_path: Path) -> None:
    """The header decides, not the name: the usual quantization here is an adapter's."""
    folder = tmp_path / "m"
    folder.mkdir()
    whole = DEMO.read_bytes()
    (folder / "m-F16.gguf").write_bytes(whole)
    craft.write(folder, "m-Q4_K_M.gguf", {"general.architecture": "llama", "general.type": "adapter"}, [])
    shown = run("plan", "./m", "--json")
    assert shown.returncode == 0, shown.stderr
    assert [file["path"] for file in json.loads(shown.stdout)["model"]["files"]] == ["m-F16.gguf"]
    assert "m-Q4_K_M.gguf is a LoRA adapter, not a model; this file is skipped" in shown.stderr
    named = run("plan", "./m/m-Q4_K_M.gguf")
    assert named.returncode == 5
    (folder / "m-F16.gguf").unlink()
    assert run("plan", "./m").returncode == 5
