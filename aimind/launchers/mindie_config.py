"""What MindIE reads: its configuration, made from the installed one, and a changed copy of the model's own.

Places and values: the structure of MindIE 2.0's conf/config.json; the parameters of plug-ins are those of its
manual (MindIE LLM developer's guide, one chapter a feature).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

from aimind.errors import UsageError
from aimind.launchers.parameters import Given, Table, in_use, put
from aimind.types import Home, Overlay, Plan, Request

with open(  # noqa: PTH123 - pathlib is not worth its import here
    os.path.join(os.path.dirname(__file__), "mindie.json"),  # noqa: PTH118, PTH120
    encoding="utf-8",
) as _file:
    TABLE = Table("MindIE", _file.read())
HOME = Home(
    variable="MIES_INSTALL_PATH",
    folder="/usr/local/Ascend/mindie/latest/mindie-service",
    versions="../../*/mindie-service",
    program="bin/mindieservice_daemon",
    version_file="../version.info",
    configuration="conf/config.json",
    scripts=tuple(
        "../../../ascend-toolkit/set_env.sh ../../../cann/set_env.sh ../../../nnal/atb/set_env.sh "
        "../../../atb-models/set_env.sh ../mindie-llm/set_env.sh set_env.sh".split()
    ),
)
# Switch -> the plug-in's name, and its parameters by theirs.
PLUGINS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "--enable-split": ("splitfuse", {}),
    "--enable-memory-decoding": (
        "memory_decoding",
        {"decoding_length": "--memory-decoding-length", "dynamic_algo": "--memory-decoding-dynamic-algo"},
    ),
    "--enable-lookahead": (
        "la",
        {
            "level": "--lookahead-level",
            "window": "--lookahead-window",
            "guess_set_size": "--lookahead-guess-set-size",
        },
    ),
    "--enable-multi-token-prediction": ("mtp", {"num_speculative_tokens": "--multi-token-prediction-tokens"}),
    "--enable-prefix-caching": ("prefix_cache", {}),
}
# What places the process is the plan's business: a value of the user's would contradict it.
OWNED = tuple(
    "ASCEND_RT_VISIBLE_DEVICES NPU_VISIBLE_DEVICES NPU_DEVICE_IDS ASCEND_LAUNCH_BLOCKING MIES_CONTAINER_IP "
    "MIES_CONTAINER_MANAGEMENT_IP HOST_IP WORLD_SIZE RANK_TABLE_FILE RANKTABLEFILE "
    "MIES_CONFIG_JSON_PATH".split()
)
_EAGER = {
    "MINDIE_ASYNC_SCHEDULING_ENABLE": "0",
    "TASK_QUEUE_ENABLE": "0",
    "ATB_OPERATION_EXECUTE_ASYNC": "0",
    "ASCEND_LAUNCH_BLOCKING": "1",
}
_ALL = ("0.0.0.0", "::")
_DTYPES = {"half": "float16", "float": "float32"}
_BACKEND, _DEPLOY = "BackendConfig", "BackendConfig.ModelDeployConfig"
_SCHEDULE, _MODEL = "BackendConfig.ScheduleConfig", "BackendConfig.ModelDeployConfig.ModelConfig.0"


def check_address(request: Request) -> None:
    """Whether MindIE can listen there: it takes no names of machines."""
    import ipaddress  # only here

    try:
        ipaddress.ip_address(_number(request.address or "127.0.0.1"))
    except ValueError:
        raise UsageError(
            f"MindIE listens on an IP address, and {request.address} is a name", hint="use --host 127.0.0.1"
        ) from None


def _number(address: str) -> str:
    return "127.0.0.1" if address == "localhost" else address


def management(plan: Plan) -> tuple[str, int]:
    """The address and port where the daemon can be asked, and stopped: on this machine alone.

    The server's own port on another address of this machine, which nobody else has; beside a server on all
    addresses the next port.
    """
    address, port = plan.settings.address or "", plan.settings.port or 0
    if address in _ALL:
        return "127.0.0.1", port + 1 if port < 65535 else port - 1
    return "127.0.0.3" if address == "127.0.0.2" else "127.0.0.2", port


def configuration(plan: Plan, weights: str, given: Given) -> dict[str, object]:
    """The installed configuration with everything that the plan and the user decide."""
    made: dict[str, object] = json.loads(plan.backend.configuration or "{}")
    settings, version = plan.settings, plan.backend.version
    address = _number(settings.address or "127.0.0.1")
    beside, beside_port = management(plan)
    spread = max(len(plan.shards), 1)
    places: dict[str, object] = {
        "ServerConfig.ipAddress": address,
        "ServerConfig.port": settings.port,
        "ServerConfig.managementIpAddress": beside,
        "ServerConfig.managementPort": beside_port,
        "ServerConfig.metricsPort": beside_port,
        "ServerConfig.allowAllZeroIpListening": address in _ALL,
        "ServerConfig.httpsEnabled": False,
        "ServerConfig.interCommTLSEnabled": False,
        f"{_BACKEND}.modelInstanceNumber": 1,
        f"{_BACKEND}.npuDeviceIds": [sorted(shard.device.index for shard in plan.shards)],
        f"{_BACKEND}.multiNodesInferEnabled": False,
        f"{_BACKEND}.interNodeTLSEnabled": False,
        f"{_DEPLOY}.maxInputTokenLen": settings.max_model_len,
        f"{_MODEL}.modelName": settings.served_name,
        f"{_MODEL}.modelWeightPath": weights,
        f"{_MODEL}.worldSize": spread,
        f"{_MODEL}.npuMemSize": -1,
        f"{_MODEL}.trustRemoteCode": False,
        f"{_MODEL}.cpuMemSize": 0,
        f"{_SCHEDULE}.maxPreemptCount": 0,
        f"{_SCHEDULE}.maxPrefillTokens": max(
            settings.max_num_batched_tokens or 0, settings.max_model_len or 0
        ),
        f"{_SCHEDULE}.maxIterTimes": (settings.max_model_len or 0) + _ahead(given, version),
    }
    for path, value in places.items():
        put(made, path, value)
    _keep_batches_apart(made, settings.max_num_seqs or 1)
    for key, size in _parallel(given, spread).items():
        put(made, f"{_MODEL}.{key}", size)
    _plug_in(made, given, version)
    TABLE.fill(made, given, version)
    return made


def environment(plan: Plan, given: Given) -> dict[str, str]:
    """The daemon's variables; the user's own come last, but for those that aimind owns."""
    settings = plan.settings
    return {
        "MINDIE_LOG_TO_STDOUT": "1",
        "OMP_NUM_THREADS": "1",
        # Weights may be links into a cache, which MindIE refuses else.
        "MINDIE_CHECK_INPUTFILES_PERMISSION": "0",
        **TABLE.variables(given),
        **(_EAGER if settings.enforce_eager else {}),
        **{name: value for name, value in settings.env.items() if name not in OWNED},
    }


def overlay(plan: Plan, weights: str, given: Given) -> Overlay | None:
    """The model's folder with other settings of its own, where any are asked for."""
    # A 310P does not compute in bfloat16.
    old = any("310P" in shard.device.name for shard in plan.shards) and plan.metadata.dtype == "BF16"
    dtype = str(given.get("--dtype", "auto"))
    if dtype == "auto" and old:
        dtype = "float16"
    config = {
        "torch_dtype": None if dtype == "auto" else _DTYPES.get(dtype, dtype),
        "rope_scaling": given.get("--rope-scaling"),
        "rope_theta": given.get("--rope-theta"),
    }
    changes = {
        "config.json": {key: value for key, value in config.items() if value is not None},
        "generation_config.json": given.get("--override-generation-config", {}),
    }
    edits = {name: dict(change) for name, change in changes.items() if isinstance(change, dict) and change}
    if not edits:
        return None
    links = tuple(file.path for file in plan.model.files if file.path not in edits)
    path = os.path.join(plan.scratch, "model")  # noqa: PTH118
    return Overlay(path=path, source=weights, links=links, edits=edits)


def _keep_batches_apart(made: dict[str, object], sequences: int) -> None:
    """What the installed file has for prompts must stay below what is decided for the whole batch."""
    backend = made["BackendConfig"]
    schedule = backend.get("ScheduleConfig") if isinstance(backend, dict) else None
    least = min(50, max(1, sequences - 1))
    known = schedule.get("maxPrefillBatchSize") if isinstance(schedule, dict) else None
    put(made, f"{_SCHEDULE}.maxPrefillBatchSize", min(known, least) if isinstance(known, int) else least)


def _parallel(given: Given, spread: int) -> dict[str, object]:
    """The sizes: only pipeline and tensor with a pipeline, else all; those of experts share the devices."""
    sizes = {key: given.get(f"--{name}-parallel-size") for key, name in _SIZES.items()}
    if in_use(given, "--pipeline-parallel-size"):
        return {key: sizes[key] for key in ("pp", "tp")}
    experts = sizes["moe_ep"]
    if sizes["moe_tp"] is None and spread > 1:
        sizes["moe_tp"] = spread // experts if isinstance(experts, int) else spread
    _check_parallel(sizes, spread)
    return {key: size for key, size in sizes.items() if size is not None and key != "pp"}


def _check_parallel(sizes: Mapping[str, object], spread: int) -> None:
    tensor, sequence = sizes["tp"], sizes["sp"]
    if sequence not in (None, tensor):
        raise UsageError(
            f"--sequence-parallel-size {sequence}: it is the size of tensor parallelism, {tensor}, or -1",
            hint=f"--sequence-parallel-size {tensor}, or omit it",
        )
    experts, within = (size if isinstance(size, int) else 1 for size in (sizes["moe_ep"], sizes["moe_tp"]))
    if experts * within != spread:
        raise UsageError(
            f"--moe-expert-parallel-size {experts} times --moe-tensor-parallel-size {within} is not "
            f"the number of devices, {spread}",
            hint=f"--tensor-parallel-size {experts * within} takes so many devices; or leave one of them "
            "out, and it follows from the other",
        )


_SIZES = {
    "pp": "pipeline",
    "dp": "data",
    "tp": "tensor",
    "sp": "sequence",
    "moe_ep": "moe-expert",
    "moe_tp": "moe-tensor",
}


def _ahead(given: Given, version: str) -> int:
    """Tokens that speculation may be ahead by: (N - 1)(W + G) for lookahead."""

    def number(name: str) -> int:
        value = TABLE.value(name, given, version)
        return value if isinstance(value, int) else 0

    if given.get("--enable-memory-decoding"):
        return number("--memory-decoding-length")
    if given.get("--enable-lookahead"):
        window, guesses = number("--lookahead-window"), number("--lookahead-guess-set-size")
        return (number("--lookahead-level") - 1) * (window + guesses)
    return 0


def _plug_in(made: dict[str, object], given: Given, version: str) -> None:
    """The plug-in that is switched on; one of the installed file is kept unless it is switched off."""
    for switch, (plugin, parameters) in PLUGINS.items():
        if given.get(switch):
            values = {key: TABLE.value(name, given, version) for key, name in parameters.items()}
            put(made, f"{_MODEL}.plugin_params", json.dumps({"plugin_type": plugin, **values}))
    ahead = _ahead(given, version)
    if ahead:
        put(made, f"{_DEPLOY}.speculationGamma", ahead)
    if given.get("--enable-split"):
        for key, value in (("templateType", "Mix"), ("splitType", False), ("splitStartType", False)):
            put(made, f"{_SCHEDULE}.{key}", value)
