"""MindIE: its whole table of parameters, the file that they become, and a stand-in for its daemon."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from aimind import plan
from aimind.errors import DoesNotFitError, UnsupportedError, UsageError
from aimind.launchers import LAUNCHERS, mindie
from aimind.launchers.arguments import absorb
from aimind.launchers.mindie_config import PLUGINS, TABLE
from aimind.launchers.parameters import is_older
from aimind.types import Backend, Command, File, Host, Metadata, Plan, Request
from tests.fakes import mindie as fake
from tests.fakes import npu_smi
from tests.live.served import AIMIND, Served, serve
from tests.samples import device, host, llama, model

RECORDED: dict[str, list[dict[str, Any]]] = json.loads(
    (Path(__file__).parents[1] / "data" / "mindie_parameters.json").read_text()
)
NEWEST = "2.0.RC2"
ROWS = RECORDED[NEWEST]
# What a parameter must be given with, to have an effect.
BESIDE = {
    "--cpu-mem-size": ("--max-preempt-count", "1"),
    "--enable-buffer-response": ("--prefill-expected-time-ms", "9", "--decode-expected-time-ms", "9"),
    "--prefill-expected-time-ms": ("--enable-buffer-response", "--decode-expected-time-ms", "9"),
    "--decode-expected-time-ms": ("--enable-buffer-response", "--prefill-expected-time-ms", "9"),
    "--policy-type": ("--enable-split",),
    "--split-chunk-tokens": ("--enable-split",),
    "--split-start-batch-size": ("--enable-split",),
    "--multi-token-prediction-tokens": ("--enable-multi-token-prediction",),
    **{f"--memory-decoding-{what}": ("--enable-memory-decoding",) for what in ("length", "dynamic-algo")},
    **{f"--{what}-parallel-size": ("-tp", "4") for what in ("sequence", "moe-expert")},
    "--moe-tensor-parallel-size": ("-tp", "4", "-moe-ep", "2"),
    **{f"--lookahead-{what}": ("--enable-lookahead",) for what in ("level", "window", "guess-set-size")},
}
every_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row["names"][0])


def ascend(count: int = 8, *, version: str = NEWEST, gib: float = 60.5) -> Host:
    machine = host(*(device(index, free_gib=gib, vendor="ascend") for index in range(count)))
    here = Backend(
        name="mindie",
        version=version,
        executable="/ascend/mindie/latest/mindie-service/bin/mindieservice_daemon",
        configuration=json.dumps(fake.TEMPLATE),
        scripts=("/ascend/nnal/atb/set_env.sh",),
    )
    return dataclasses.replace(machine, backends=(here,))


def planned(*extra: str, machine: Host | None = None, metadata: Metadata | None = None, **asked: Any) -> Plan:
    read = metadata or llama(safetensors=True)
    files = (*model(read).files, File("config.json", 9), File("generation_config.json", 9))
    served = dataclasses.replace(model(read), files=files)
    request = Request(extra=extra, **{"max_model_len": 8192, **asked})
    made = plan.make(served, read, machine or ascend(), request, LAUNCHERS)
    return dataclasses.replace(made, scratch="/runs/mindie-8000")


def started(*extra: str, **asked: Any) -> Command:
    return mindie.command(planned(*extra, **asked), "/weights")


def written(*extra: str, **asked: Any) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(started(*extra, **asked).files[0].text)
    return document


def model_config(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = document["BackendConfig"]["ModelDeployConfig"]["ModelConfig"][0]
    return found


def values(row: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Values that the recorded row allows, and some that it does not."""
    if "words" in row:
        return row["words"], ["9", "none"]
    if row.get("power_of_two"):
        alone = row["names"][0] == "--cache-block-size"
        fitting = "2" if row["names"][0].startswith(("--moe-t", "--d", "--t")) else "4"
        return ["1", "128"] if alone else [fitting, "-1"], ["3", "0", "-2"]
    if not row["range"]:
        return [], []
    low, high = row["range"][1:-1].split(", ")
    bottom, top = float(low), {"--max-seq-len": "8192", "--max-batch-size": "199", "*": ""}.get(high, high)
    top = {"--max-input-token-len": "8192", "199": "200" if "split" in row["names"][0] else "199"}.get(
        top, top
    )
    if row["names"][0] == "--npu-memory-fraction":
        return ["0.5"], ["0", "1.5", "nan", "inf"]
    least = int(bottom) + (row["range"][0] == "(")
    if row["names"][0] == "--max-seq-len":
        return ["8192"], ["0", "-1"]
    bad = [str(least - 1)] + ([str(int(top) + 1)] if top else [])
    return [str(least), *([top] if top else [])], bad


def test_the_table_is_the_recorded_one() -> None:
    assert [row["names"] for row in ROWS] == [each.names for each in TABLE.parameters]
    assert {name for row in RECORDED["2.0.RC1"] for name in row["names"]} <= set(TABLE.by_name)


@every_row
def test_a_row_has_its_spellings_and_default(row: dict[str, Any]) -> None:
    parameter = TABLE.by_name[row["names"][0]]
    assert parameter.off == row.get("off", [])
    default = parameter.default
    if parameter.kind != "switch" and parameter.name != "--max-input-token-len":
        assert ("" if default is None else str(default)) == row["default"]
    known = [old for old in RECORDED["2.0.RC1"] if old["names"] == row["names"][:1]]
    for old in known:
        assert not old["default"] or str(parameter.older.get(NEWEST, parameter.default)) == old["default"]
    assert bool(parameter.since and is_older("1.0.0", parameter.since)) is not bool(known)


@every_row
def test_a_row_s_values_are_taken_and_others_refused_by_name_and_range(row: dict[str, Any]) -> None:
    name = row["names"][0]
    good, bad = values(row)
    for value in good:
        started(
            *BESIDE.get(name, ()), name, value, **({"max_model_len": None} if name == "--max-seq-len" else {})
        )
    for value in bad:
        context = {"max_model_len": None} if name == "--max-seq-len" else {}
        with pytest.raises((UsageError, DoesNotFitError)) as caught:
            started(*BESIDE.get(name, ()), f"{name}={value}", **context)
        assert name in caught.value.message
        assert "must be" in caught.value.message or "does not accept" in caught.value.message


@every_row
def test_a_row_changes_what_is_started(row: dict[str, Any]) -> None:
    """Each parameter, in each spelling, ends in the file, the environment, or the model's own settings."""
    name = row["names"][0]
    parameter = TABLE.by_name[name]
    value = {
        "--dtype": "float16",
        "--log-level": "Debug",
        "--rope-scaling": '{"type": "yarn", "factor": 4.0}',
        "--override-generation-config": '{"temperature": 0.5}',
        "--npu-memory-fraction": "0.5",
        "--max-seq-len": "4096",
        "--max-input-token-len": "4096",
        "--max-queue-delay-microseconds": "600",
        "--split-chunk-tokens": "600",
        "--cache-block-size": "64",
        "--lookahead-level": "3",
        "--prefill-policy-type": "3",
        "--decode-policy-type": "3",
        "--policy-type": "4",
    }.get(name, "2")
    if row["scope"] == "Parallelism" and not name.startswith(("--pipeline", "--moe-tensor")):
        value = "4"
    beside = BESIDE.get(name, ())
    devices: dict[str, Any] = {"machine": ascend(4)}
    context = {"max_model_len": None} if name == "--max-seq-len" else {}
    without = () if row["scope"] == "Buffer Response" or name.startswith("--moe-tensor") else beside
    before = started(*without, **devices, **context)
    for spelling in row["names"]:
        words = (spelling,) if parameter.kind == "switch" else (spelling, value)
        after = started(*beside, *words, **devices, **context)
        assert after.files != before.files or after.env != before.env or after.overlays != before.overlays
        if parameter.kind != "switch":
            assert started(*beside, f"{spelling}={value}", **devices, **context) == after
    for spelling in row.get("off", []):
        assert (
            started(spelling, **devices).files[0].text == started(**devices).files[0].text or parameter.path
        )


def test_what_is_not_said_is_kept_as_it_was_installed() -> None:
    document = written()
    assert document["ServerConfig"]["tokenTimeout"] == 600
    assert document["ServerConfig"]["tlsCaPath"] == "security/ca/"
    assert model_config(document)["async_scheduler_wait_time"] == 120
    assert document["BackendConfig"]["tokenizerProcessNumber"] == 8
    assert "plugin_params" not in model_config(document)


def test_the_server_is_reached_and_the_management_only_from_here() -> None:
    document = written(address="0.0.0.0", port=9000)
    server = document["ServerConfig"]
    assert (server["ipAddress"], server["port"], server["allowAllZeroIpListening"]) == ("0.0.0.0", 9000, True)
    assert (server["managementIpAddress"], server["managementPort"]) == ("127.0.0.1", 9001)
    assert (server["httpsEnabled"], server["interCommTLSEnabled"]) == (False, False)
    assert {"managementIpAddress": "127.0.0.2", "managementPort": 9000}.items() <= written(port=9000)[
        "ServerConfig"
    ].items()
    command = started(address="0.0.0.0", port=9000)
    assert command.ready.url == "http://127.0.0.1:9001/v2/health/ready"
    assert command.url == "http://127.0.0.1:9000"
    assert command.files[0].mode == 0o640
    with pytest.raises(UsageError, match="IP address"):
        planned(address="example.org")


def test_devices_and_tensor_parallelism() -> None:
    big = llama(safetensors=True, layers=80, hidden=8192)
    document = written(metadata=big, machine=ascend(8))
    found = model_config(document)
    assert (found["worldSize"], found["tp"], found["moe_tp"]) == (4, 4, 4)
    assert document["BackendConfig"]["npuDeviceIds"] == [[0, 1, 2, 3]]
    three = planned(metadata=big, machine=ascend(3, gib=100))
    assert three.settings.tensor_parallel_size == 2  # never 3: no power of two


def test_parallel_sizes() -> None:
    four = {"machine": ascend(4)}
    assert {"dp": 2, "tp": 2, "moe_ep": 4, "moe_tp": 1}.items() <= model_config(
        written("-tp", "2", "-dp", "2", "-moe-ep", "4", **four)
    ).items()
    piped = model_config(written("-pp", "2", "-tp", "2", **four))
    assert (piped["pp"], piped["tp"], piped["worldSize"]) == (2, 2, 4)
    assert "moe_tp" not in piped
    for extra, words in (
        (("-tp", "4", "-sp", "2"), "--sequence-parallel-size 2"),
        (("-tp", "4", "-moe-ep", "4", "-moe-tp", "4"), "is not the number of devices, 4"),
        (("-moe-ep", "2"), "is not the number of devices, 1"),
        (("-pp", "2", "-dp", "2"), "exclude each other"),
        (("-tp", "8"), "needs 8 devices"),
        (("-tp", "4", "-dp", "2"), "needs 4 devices in each of 2 data parallel groups, and each has 2"),
    ):
        with pytest.raises(UsageError, match=words):
            started(*extra, **four)


@pytest.mark.parametrize(
    ("extra", "plugin", "gamma"),
    [
        (("--enable-split",), {"plugin_type": "splitfuse"}, None),
        (
            ("--enable-memory-decoding", "--memory-decoding-length", "8"),
            {"plugin_type": "memory_decoding", "decoding_length": 8, "dynamic_algo": False},
            8,
        ),
        (
            ("--enable-lookahead", "--lookahead-window", "6"),
            {"plugin_type": "la", "level": 4, "window": 6, "guess_set_size": 5},
            3 * 11,
        ),
        (("--enable-multi-token-prediction",), {"plugin_type": "mtp", "num_speculative_tokens": 1}, None),
        (("--enable-prefix-caching",), {"plugin_type": "prefix_cache"}, None),
    ],
)
def test_features_are_plug_ins(extra: tuple[str, ...], plugin: dict[str, Any], gamma: int | None) -> None:
    document = written(*extra)
    assert json.loads(model_config(document)["plugin_params"]) == plugin
    deploy, schedule = (
        document["BackendConfig"]["ModelDeployConfig"],
        document["BackendConfig"]["ScheduleConfig"],
    )
    assert deploy.get("speculationGamma") == gamma
    assert schedule["maxIterTimes"] == 8192 + (gamma or 0)
    if plugin["plugin_type"] == "splitfuse":
        assert (schedule["templateType"], schedule["splitChunkTokens"], schedule["policyType"]) == (
            "Mix",
            512,
            0,
        )


def test_features_exclude_each_other() -> None:
    pairs = [(one, other) for one in PLUGINS for other in PLUGINS if one < other]
    pairs += [(f"--rope-scaling={json.dumps({'factor': 2})}", one) for one in PLUGINS]
    for pair in pairs:
        with pytest.raises(UsageError, match="exclude each other in MindIE"):
            planned(*pair)
    with pytest.raises(UsageError, match="exclude each other"):
        planned("--enable-prefix-caching", "-dp", "2", "-tp", "2")
    planned("--enable-multi-token-prediction", "-dp", "2", "-tp", "2")
    planned("--enable-split", "--no-enable-lookahead")


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (("--memory-decoding-length", "4"), "no effect without --enable-memory-decoding"),
        (("--cpu-mem-size", "8"), "no effect without --max-preempt-count"),
        (("--enable-buffer-response",), "needs --prefill-expected-time-ms"),
        (("--max-prefill-batch-size", "200"), r"at least 1 and less than --max-batch-size \(200\)|less than"),
        (("--max-batch-size", "10", "--max-preempt-count", "10"), r"less than --max-batch-size \(10\)"),
        (("--max-input-token-len", "9000"), r"at most --max-seq-len \(8192\)"),
        (("--max-link-num",), "needs a value"),
        (("--truncation=yes",), "does not take a value"),
        (("--rope-scaling", "[1]"), "a JSON object"),
        (("--rope-scaling", "{"), "a JSON object"),
        (("--max-link-num", "many"), "a whole number"),
        (("--max-link-nums", "2"), "does not have a parameter --max-link-nums"),
        (("stray",), "stray is not a flag"),
    ],
)
def test_errors_name_the_parameter(extra: tuple[str, ...], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        started(*extra)


def test_a_near_name_is_proposed() -> None:
    with pytest.raises(UsageError) as caught:
        planned("--max-link-nums", "2")
    assert caught.value.hint == "did you mean --max-link-num?"


def test_small_batches_keep_prompts_below_them() -> None:
    for sequences, prompts in ((200, 50), (16, 15), (1, 1)):
        schedule = written(max_num_seqs=sequences)["BackendConfig"]["ScheduleConfig"]
        assert (schedule["maxBatchSize"], schedule["maxPrefillBatchSize"]) == (sequences, prompts)


def test_an_older_version_has_fewer_parameters() -> None:
    older = ascend(version="2.0.RC1")
    with pytest.raises(UsageError, match=r"needs MindIE 2\.0\.RC2 or later, and 2\.0\.RC1 is installed"):
        planned("--enable-split", machine=older)
    planned("--enable-split", machine=older, force=True)
    planned("--enable-split", machine=ascend(version="2.1.RC2.B080"))
    assert TABLE.value("--cpu-mem-size", {}, "2.0.RC1") == 5


def test_the_weights_stay_as_they_are() -> None:
    command = started(
        "--dtype", "half", "--rope-theta", "5e5", "--override-generation-config", '{"temperature": 0.5}'
    )
    (overlay,) = command.overlays
    assert overlay.edits == {
        "config.json": {"torch_dtype": "float16", "rope_theta": 500000.0},
        "generation_config.json": {"temperature": 0.5},
    }
    assert (overlay.source, overlay.links) == ("/weights", ("model.safetensors",))
    assert model_config(json.loads(command.files[0].text))["modelWeightPath"] == overlay.path
    assert started().overlays == ()


def test_a_310p_computes_in_half_precision() -> None:
    machine = ascend(1)
    old = dataclasses.replace(machine.devices[0], name="Ascend 310P3")
    (overlay,) = started(machine=dataclasses.replace(machine, devices=(old,))).overlays
    assert overlay.edits == {"config.json": {"torch_dtype": "float16"}}


def test_variables_that_aimind_owns_are_dropped_with_a_warning() -> None:
    env = {"RANK_TABLE_FILE": "/x", "OMP_NUM_THREADS": "4", "NOTE": "kept"}
    made = planned(env=env)
    assert [note for note in plan.warnings(made) if "RANK_TABLE_FILE" in note]
    command = mindie.command(made, "/weights")
    assert "RANK_TABLE_FILE" not in command.env
    assert (command.env["OMP_NUM_THREADS"], command.env["NOTE"]) == ("4", "kept")
    assert command.removes("ASCEND_RT_VISIBLE_DEVICES")


def test_what_it_refuses() -> None:
    machine = ascend()
    read = llama(safetensors=True)
    for change in (
        {"category": "embedding"},
        {"category": "reranker"},
        {"category": "image"},
        {"format": "gguf"},
        {"quantization": "AWQ"},
        {"quantization": "MLX-4bit"},
    ):
        assert mindie.refuse(dataclasses.replace(read, **change), machine)  # type: ignore[arg-type]
    assert mindie.refuse(dataclasses.replace(read, category="vision-language"), machine) is None
    assert mindie.refuse(read, host(device())) == "it runs only on Ascend devices, and none is used"
    with pytest.raises(UnsupportedError, match="API keys"):
        planned(backend="mindie", api_key="canary")
    with pytest.raises(UnsupportedError, match="mindie cannot serve"):
        planned(backend="mindie", machine=host(device()))


def test_a_longer_context_takes_more_to_compute() -> None:
    """A step computes whole prompts: what does not fit at the model's limit is tried at half of it."""
    whole = planned(max_model_len=None, machine=ascend(1))
    assert whole.settings.max_num_batched_tokens == whole.settings.max_model_len
    small = planned(max_model_len=None, machine=ascend(1, gib=28.5))
    assert (small.settings.max_model_len or 0) < (whole.settings.max_model_len or 0)
    for made in (whole, small):
        for shard in made.shards:
            assert shard.estimate.total_bytes <= shard.device.free_bytes
            assert not shard.estimate.exact


def test_on_ascend_devices_it_comes_first() -> None:
    machine = ascend()
    others = tuple(backend for backend in host(*machine.devices).backends if backend.name != "mindie")
    decided = planned(machine=dataclasses.replace(machine, backends=(*others, *machine.backends)))
    assert decided.backend.name == "mindie"


def test_absorbed_parameters_are_planned_with() -> None:
    asked = absorb(mindie, Request(extra=("--npu-memory-fraction", "0.7", "-tp", "-1", "--max-batch-size=8")))
    assert (asked.gpu_memory_utilization, asked.tensor_parallel_size, asked.max_num_seqs) == (0.7, None, 8)


# ── End to end, with stand-ins ─────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment of a machine with four cards and two versions of MindIE."""
    chips = npu_smi.write(tmp_path / "machine.json", *npu_smi.cards(4))
    home = fake.install(tmp_path / "Ascend", "2.0.RC1", NEWEST)
    monkeypatch.delenv("ASCEND_RT_VISIBLE_DEVICES", raising=False)
    return {
        "PATH": f"{npu_smi.installed(tmp_path / 'bin')}{os.pathsep}{os.environ['PATH']}",
        "FAKE_NPU_SMI": str(chips),
        "MIES_INSTALL_PATH": str(home),
        "AIMIND_DATA_DIR": str(tmp_path / "data"),
        "AIMIND_STATE_DIR": str(tmp_path / "state"),
    }


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A real small model, in a folder that must stay as it is."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    for file in (Path(__file__).parents[2] / "aimind/demo/huggingface").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def state(served: Served) -> dict[str, Any]:
    with urllib.request.urlopen(
        served.url.replace("127.0.0.1", "127.0.0.2") + "/state", timeout=10
    ) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def test_it_serves(machine: dict[str, str], weights: Path) -> None:
    before = {path.name: path.read_bytes() for path in weights.iterdir()}
    extra = ("--tensor-parallel", "2", "--env", "NOTE=two words", "--env", "WORLD_SIZE=7", "--")
    parameters = ("--dtype", "bfloat16", "--rope-scaling", '{"factor": 2.0}', "--log-level=Debug")
    inherited = {**machine, "RANKTABLEFILE": "/nowhere"}
    with serve(str(weights), *extra, *parameters, env=inherited) as served:
        assert served.say("Hello", name="tiny") == fake.SENTENCE
        found = state(served)
        assert found["pid"] in {process.pid for process in served.tree()}
        assert found["arguments"] == []
        assert found["folder"].endswith(f"{NEWEST}/mindie-service")
        environment = found["environment"]
        assert environment["SOURCED"].split() == ["ascend-toolkit", "nnal/atb", f"service:{NEWEST}"]
        assert environment["LD_LIBRARY_PATH"].startswith(str(Path(machine["MIES_INSTALL_PATH"]).parents[2]))
        assert (environment["NOTE"], environment["MINDIE_LOG_LEVEL"]) == ("two words", "DEBUG")
        assert environment["MIES_INSTALL_PATH"] == machine["MIES_INSTALL_PATH"]
        assert (environment["MINDIE_LOG_TO_STDOUT"], environment["OMP_NUM_THREADS"]) == ("1", "1")
        assert not {"WORLD_SIZE", "RANKTABLEFILE"} & set(environment)
        assert found["model"]["torch_dtype"] == "bfloat16"
        assert found["model"]["rope_scaling"] == {"factor": 2.0}
        assert found["model"]["hidden_size"] == 128
        assert {name for name, link in found["files"].items() if not link} == {"config.json"}
        assert found["files"]["model.safetensors"]
        assert model_config(found["configuration"])["tp"] == 2
        files = Path(machine["AIMIND_STATE_DIR"]) / "instances" / "tiny" / "files"
        assert environment["MIES_CONFIG_JSON_PATH"] == str(files / "config.json")
        assert json.loads((files / "config.json").read_text()) == found["configuration"]
    assert not (Path(machine["AIMIND_DATA_DIR"]) / "runs").exists()
    assert any("aimind sets WORLD_SIZE for MindIE itself" in line for line in served.lines)
    assert {path.name: path.read_bytes() for path in weights.iterdir()} == before


def test_another_version_beside_it_is_chosen(machine: dict[str, str], weights: Path) -> None:
    with serve(str(weights), "--backend-version", "2.0.RC1", "--device", "3", env=machine) as served:
        found = state(served)
        assert found["environment"]["SOURCED"].endswith("service:2.0.RC1")
        assert found["configuration"]["BackendConfig"]["npuDeviceIds"] == [[3]]
        assert model_config(found["configuration"])["modelWeightPath"] == str(weights)


def test_a_configuration_that_it_refuses_is_said(machine: dict[str, str], weights: Path) -> None:
    conf = Path(machine["MIES_INSTALL_PATH"]) / "conf/config.json"
    broken = json.loads(conf.read_text())
    broken["BackendConfig"]["ScheduleConfig"]["prefillTimeMsPerReq"] = 5000
    conf.write_text(json.dumps(broken))
    done = subprocess.run(
        [str(AIMIND), "serve", str(weights), "--port", "0", "--restart", "never"],
        env={**os.environ, **machine},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "scheduleParam.prefillTimeMsPerReq [5000] is not in [0, 1000]" in done.stdout + done.stderr
    assert "MindIE refuses its configuration" in done.stdout + done.stderr


def test_it_is_shown(machine: dict[str, str]) -> None:
    def shown(*words: str) -> str:
        return subprocess.run(
            [str(AIMIND), *words],
            env={**os.environ, **machine, "COLUMNS": "250"},
            capture_output=True,
            text=True,
        ).stdout

    devices = shown("devices")
    assert devices.count("Ascend 910B3") == 4
    assert "60.5 GiB" in devices
    backends = shown("backends")
    assert NEWEST in backends
    assert "2.0.RC1" in backends


def test_the_program_stays_the_process_that_was_started(tmp_path: Path) -> None:
    """Variables keep their values over the scripts, whatever is in them, and the process its id."""
    script = tmp_path / "set env.sh"
    script.write_text("export VALUE=changed OTHER=set\n")
    program = tmp_path / "program"
    show = "print(os.getpid(), *map(repr, map(os.environ.get, ('VALUE', 'OTHER', 'a.b'))))"
    program.write_text(f"#!{sys.executable}\nimport os\n{show}\n")
    program.chmod(0o755)
    value = "a 'b' \"c\" $HOME `id`\nd"
    process = subprocess.Popen(
        ["bash", mindie.SHIM, "a.b VALUE", str(program), str(script)],
        env={"PATH": os.environ["PATH"], "VALUE": value, "a.b": "kept"},
        stdout=subprocess.PIPE,
        text=True,
    )
    out, _ = process.communicate(timeout=30)
    assert out.strip() == f"{process.pid} {value!r} 'set' 'kept'"


def test_a_dry_run_names_the_file_that_is_missing(machine: dict[str, str], weights: Path) -> None:
    done = subprocess.run(
        [str(AIMIND), "serve", str(weights), "--dry-run"],
        env={**os.environ, **machine},
        capture_output=True,
        text=True,
        check=True,
    )
    path = f"{machine['AIMIND_DATA_DIR']}/runs/mindie-8000/config.json"
    assert f"MIES_CONFIG_JSON_PATH={path}" in done.stdout
    assert f"writes first: {path}" in done.stderr
    assert not Path(path).exists()
