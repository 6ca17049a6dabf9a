"""vLLM: the usual engine for Hugging Face folders, on NVIDIA and AMD devices, or by its CPU build on none."""

from __future__ import annotations

import os

from aimind.launchers import (
    parsers,
    strays,
    vllm_builds,
    vllm_cache,
    vllm_compile,
    vllm_cpu,
    vllm_flags,
    vllm_memory,
    vllm_models,
)
from aimind.launchers.arguments import render
from aimind.launchers.base import PYTHON_ENV, PYTHON_SAFE, service_variables, url, visible_devices
from aimind.launchers.builds import older_than, without_code
from aimind.launchers.vllm_defaults import one_server, without_defaults, without_origins
from aimind.phrases import machine
from aimind.types import Command, Host, Metadata, Plan, Probe, Signature

NAME = "vllm"
SUMMARY = "Hugging Face models on NVIDIA and AMD devices, or on the CPU by its CPU build"
MEMORY = vllm_memory.MEMORY
FLAGS = vllm_flags.FLAGS
RESERVED = vllm_flags.RESERVED
WEIGHTS_ONLY = True  # vllm/model_executor/model_loader/weight_utils.py
UNCOUNTED = vllm_flags.UNCOUNTED
HELP = vllm_flags.HELP
REGISTRY = vllm_models.REGISTRY
lacks = vllm_models.lacks
table = vllm_models.table
knows = vllm_models.knows
check = vllm_cache.check_version
OPERATIONS = vllm_cpu.OPERATIONS
library = vllm_cpu.library
COMPILE_VARIABLES = vllm_compile.COMPILE_VARIABLES
COMPILE_FOLDER = vllm_compile.COMPILE_FOLDER
compile_key = vllm_compile.compile_key
_MEMORY_REMEDY = "use a shorter --context, a lower --gpu-memory-utilization or more devices"
SIGNATURES = (
    Signature(
        r"Initializing a V1 LLM engine|Started server process.*EngineCore", phase="starting the engine"
    ),
    Signature(
        r"Starting to load model|Loading safetensors checkpoint shards(: +(?P<percent>\d+)%)?",
        phase="loading weights",
    ),
    Signature(r"Dynamo bytecode transform|torch\.compile", phase="compiling"),
    Signature(r"Capturing (cudagraphs|CUDA graphs)", phase="capturing graphs"),
    Signature(r"Warming up model|init engine", phase="warming up"),
    Signature(
        r"torch\.(cuda\.)?OutOfMemoryError|CUDA out of memory|No available memory for the cache blocks",
        cause="a device ran out of memory",
        remedy=_MEMORY_REMEDY,
    ),
    Signature(
        r"Free memory on device .* is less than desired GPU memory utilization",
        cause="the device has less free memory than --gpu-memory-utilization requires",
        remedy="another program uses memory that was free in the plan: lower --gpu-memory-utilization",
    ),
    Signature(
        r"Model architectures .* are not supported|has no vLLM implementation",
        cause="this vLLM does not support the model's architecture",
        remedy="try a newer version with --backend-version",
    ),
    Signature(
        r"unrecognized arguments",
        cause="vLLM does not know one of the arguments",
        remedy="check the arguments after --",
    ),
    *parsers.SIGNATURES,
    Signature(
        r"Address already in use",
        cause="the port is already in use",
        remedy="use --port 0 to choose a free port",
    ),
)
SHIM = os.path.join(os.path.dirname(__file__), "shims", "vllm_server.py")  # noqa: PTH118, PTH120
VERSION = vllm_builds.VERSION
source = vllm_builds.source


def refuse(metadata: Metadata, host: Host) -> str | None:
    """Hugging Face folders on Linux, on devices that its builds have code for."""
    if metadata.format == "gguf":
        return "it does not serve GGUF files"
    if metadata.category in ("speech-to-text", "text-to-speech", "image"):
        return f"it does not serve models for {metadata.category}"
    if (metadata.quantization or "").startswith("MLX"):
        return "its weights are in MLX format, which only Apple silicon supports"
    if host.os != "linux":
        return f"it runs only on Linux, and {machine(host)} is {host.os}"
    return (
        older_than(7.5, host, "vLLM needs 7.5")
        or vllm_cpu.refuse(host)
        or without_code(host, vllm_builds.TARGETS)
    )


def command(plan: Plan, weights: str) -> Command:
    """`vllm serve`, by the shim: the `vllm` program fails in the CPU build."""
    settings = plan.settings
    devices = tuple(shard.device for shard in plan.shards)
    links = strays.overlay(plan, weights)
    env = {
        **PYTHON_SAFE,
        # Weights are here, and nothing about the user is anybody's business.
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS": "0",  # 150 MB at each start, in the temporary folder
        **(visible_devices(devices) if devices else vllm_cpu.environment(plan)),
        **vllm_compile.cache_environment(plan),
        **settings.env,
    }
    return Command(
        argv=(
            plan.backend.executable,
            SHIM,
            "serve",
            weights if links is None else links.path,
            *render(FLAGS, without_defaults(plan)),
            *one_server(settings),
            *vllm_models.arguments(plan.metadata),
            *without_origins(plan),
            *vllm_models.formats(plan),
            *settings.extra,
        ),
        env=env,
        overlays=() if links is None else (links,),
        secret_env={"VLLM_API_KEY": settings.api_key} if settings.api_key else {},
        unset_env=("VLLM_API_KEY", *service_variables("VLLM"), *PYTHON_ENV),
        ready=Probe(url=f"{url(settings)}/health"),
        signatures=SIGNATURES,
        url=url(settings),
        # It can swallow a TERM during the engine's start, and its workers take a while.
        stop_seconds=15.0,
    )
