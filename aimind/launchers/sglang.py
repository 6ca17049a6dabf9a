"""SGLang: an engine for Hugging Face folders on NVIDIA devices, second to vLLM.

`--mem-fraction-static` is a share of the memory that is free before start, for weights and KV cache only.
"""

from __future__ import annotations

import os

from aimind.launchers import parsers, sglang_flags, sglang_models, strays
from aimind.launchers.arguments import render
from aimind.launchers.base import PYTHON_ENV, PYTHON_SAFE, Flag, service_variables, url, visible_devices
from aimind.launchers.builds import older_than, runs_cuda_13
from aimind.launchers.sglang_memory import SglangMemory
from aimind.phrases import machine
from aimind.types import Command, Host, Metadata, Package, PagedMemory, Plan, Probe, Signature

NAME = "sglang"
SUMMARY = "Hugging Face language and vision-language models and embeddings on NVIDIA devices"
MEMORY = PagedMemory(
    rule=SglangMemory(),
    block_size=1,
    # `kv_cache_dtype` in sglang/srt/arg_groups/fields/model.py, 0.5.23
    cache_dtypes=tuple("auto bf16 bfloat16 fp8_e4m3 fp8_e5m2 mxfp8 nvfp4 fp4_mx_block16".split()),
    in_ram=False,
)
SHIM = os.path.join(os.path.dirname(__file__), "shims", "sglang_server.py")  # noqa: PTH118, PTH120
FLAGS = {
    "served_name": Flag(spellings=("--served-model-name",)),
    "address": Flag(spellings=("--host",)),
    "port": Flag(spellings=("--port",), kind="int"),
    "max_model_len": Flag(spellings=("--context-length",), kind="tokens"),
    "max_num_seqs": Flag(spellings=("--max-running-requests",), kind="int"),
    "max_num_batched_tokens": Flag(spellings=("--chunked-prefill-size",), kind="tokens"),
    "tensor_parallel_size": Flag(spellings=("--tp-size", "--tensor-parallel-size"), kind="int"),
    "pipeline_parallel_size": Flag(spellings=("--pp-size", "--pipeline-parallel-size"), kind="int"),
    "gpu_memory_utilization": Flag(spellings=("--mem-fraction-static",), kind="float"),
    "kv_cache_dtype": Flag(spellings=("--kv-cache-dtype",)),
    "block_size": Flag(spellings=("--page-size",), kind="int"),
    "dtype": Flag(spellings=("--dtype",)),
    "embedding": Flag(spellings=("--is-embedding",), kind="switch"),
    # Deprecated in 0.5.23, where two flags replace it that are no switches.
    "enforce_eager": Flag(spellings=("--disable-cuda-graph",), kind="switch"),
    "trust_remote_code": Flag(spellings=("--trust-remote-code",), kind="switch"),
    **parsers.FLAGS,
}
RESERVED = sglang_flags.RESERVED
WEIGHTS_ONLY = True  # sglang/srt/model_loader/weight_utils.py
UNCOUNTED = sglang_flags.UNCOUNTED
HELP = sglang_flags.HELP
lacks = sglang_models.lacks
REGISTRY = sglang_models.REGISTRY
table = sglang_models.table
knows = sglang_models.knows
SIGNATURES = (
    Signature(r"server_args=\{", phase="starting the engine"),
    Signature(
        r"Load weight begin|(safetensors checkpoint|Multi-thread loading) shards(: +(?P<percent>\d+)%)?",
        phase="loading weights",
    ),
    Signature(r"Capture .*(CUDA|cuda) graph begin", phase="capturing graphs"),
    Signature(r"Application startup complete", phase="warming up"),
    Signature(
        r"OutOfMemoryError|CUDA out of memory",
        cause="a device ran out of memory",
        remedy="use a lower --mem-fraction-static, which leaves more for activations, or a shorter --context",
    ),
    Signature(
        r"Not enough memory\. Please try to increase|leave no GPU memory for the KV cache",
        cause="the weights leave no room for a KV cache in SGLang's share of the memory",
        remedy="use a higher --mem-fraction-static, a quantized model or more devices",
    ),
    Signature(
        r"The memory capacity is unbalanced",
        cause="one of the devices has less memory free than the others",
        remedy="another program uses memory that the plan counted as free: see `aimind devices`",
    ),
    Signature(
        r"Model architectures .* are not supported",
        cause="this SGLang does not support the model's architecture",
        remedy="try a newer version with --backend-version",
    ),
    Signature(
        r"unrecognized arguments",
        cause="SGLang does not know one of the arguments",
        remedy="check the arguments after --",
    ),
    *parsers.SIGNATURES,
    Signature(
        r"[Aa]ddress already in use|port \d+ is in use",
        cause="the port is already in use",
        remedy="use --port 0 to choose a free port",
    ),
)


def source(_host: Host) -> Package:
    """A wheel and those of CUDA 13, which is the only build on the registry."""
    return Package(distribution="sglang", version="0.5.23", resolved="2026-11-20", import_name="sglang")


def refuse(metadata: Metadata, host: Host) -> str | None:
    """Language models and embeddings, on Linux with NVIDIA devices that it has code for (from 7.5)."""
    if metadata.format == "gguf":
        return "it does not serve GGUF files"
    if metadata.category not in ("llm", "vision-language", "embedding"):
        return f"it serves only language models and embeddings, and this model is for {metadata.category}"
    if (metadata.quantization or "").startswith("MLX"):
        return "its weights are in MLX format, which only Apple silicon supports"
    if host.os != "linux":
        return f"it runs only on Linux, and {machine(host)} is {host.os}"
    devices = [device for device in host.devices if device.vendor == "nvidia"]
    if not devices:
        return f"it runs only on NVIDIA devices, and {machine(host)} has none"
    if not runs_cuda_13(host):
        needed = "its build is for CUDA 13, which needs NVIDIA's driver 580"
        return f"{needed}, and {machine(host)} has {host.driver}"
    # sglang/srt/model_executor/model_runner_components/load_model_utils.py
    return older_than(7.5, host, "SGLang needs 7.5")


def command(plan: Plan, weights: str) -> Command:
    """`sglang.launch_server`, which listens once the model is loaded, by the shim that brings the key."""
    settings = plan.settings
    links = strays.overlay(plan, weights)
    return Command(
        argv=(
            *(plan.backend.executable, SHIM, "--model-path", weights if links is None else links.path),
            *render(FLAGS, settings),
            *sglang_models.arguments(plan.metadata),
            *settings.extra,
        ),
        env={
            **PYTHON_SAFE,
            **visible_devices(tuple(shard.device for shard in plan.shards)),
            "HF_HUB_OFFLINE": "1",
            # Else `/health`, as `/health_generate`, makes a token each time, and takes a second at least.
            "SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION": "false",
            **settings.env,
        },
        overlays=() if links is None else (links,),
        secret_env={"SGLANG_API_KEY": settings.api_key} if settings.api_key else {},
        unset_env=("SGLANG_API_KEY", *service_variables("SGLANG"), "HF_TOKEN", *PYTHON_ENV),
        ready=Probe(url=f"{url(settings)}/health"),
        signatures=SIGNATURES,
        url=url(settings),
        # It ends its schedulers and detokenizers one after the other.
        stop_seconds=15.0,
    )
