"""Ascend MindIE: the engine of Ascend's NPUs, where the user has installed it.

Its daemon takes no arguments. It reads one JSON file, which is made from the one that it was installed with
(`mindie_config`); `mindie.json` lists the parameters that it can be given, their ranges, and their places.
"""

from __future__ import annotations

import json
import os

from aimind.launchers import mindie_config
from aimind.launchers.base import PYTHON_ENV, Flag, url
from aimind.launchers.mindie_config import HOME, OWNED, TABLE
from aimind.launchers.mindie_memory import MindieMemory
from aimind.phrases import machine
from aimind.types import (
    Backend,
    Command,
    Host,
    Metadata,
    PagedMemory,
    Plan,
    Probe,
    Program,
    Request,
    Signature,
    TextFile,
)

NAME = "mindie"
SUMMARY = "Hugging Face models on Ascend devices, from your system"
MEMORY = PagedMemory(
    rule=MindieMemory(),
    vendors=("ascend",),
    block_size=128,
    whole_prompts=True,
    powers_of_two=True,
    pipelines=False,
    in_ram=False,
)
SHIM = os.path.join(os.path.dirname(__file__), "shims", "with_environment.sh")  # noqa: PTH118, PTH120
FLAGS = {
    "served_name": Flag(spellings=("--served-model-name",)),
    "address": Flag(spellings=("--host",)),
    "port": Flag(spellings=("--port",), kind="int"),
    **TABLE.flags(),
}
RESERVED = {"--model": "aimind passes the model itself"}
UNCOUNTED = tuple(
    "--cpu-mem-size --enable-memory-decoding --enable-lookahead --enable-multi-token-prediction "
    "--sequence-parallel-size -sp --moe-expert-parallel-size -moe-ep --moe-tensor-parallel-size "
    "-moe-tp".split()
)
SIGNATURES = (
    Signature(r"Daemon start success", phase="listening"),
    Signature(
        r"NPU out of memory|out of memory.*NPU|aclrtMalloc.*fail",
        cause="a device ran out of memory",
        remedy="use a shorter --context, a lower --npu-memory-fraction or more devices",
    ),
    Signature(
        r"[Aa]ddress already in use",
        cause="the port or the next one is already in use",
        remedy="use --port 0 to choose a free port",
    ),
    Signature(
        r"Failed to init endpoint|[Cc]heck(ing)? config.*fail",
        cause="MindIE refuses its configuration",
        remedy="see its error message above; check the arguments after --",
    ),
)
_FOREIGN = ("AWQ", "GPTQ", "FP8", "MXFP4", "NVFP4", "BNB", "MLX")


def source(_host: Host) -> Program:
    """Where the installer of MindIE puts it; versions lie side by side."""
    return Program(
        names=("mindieservice_daemon",),
        version_args=(),
        version_pattern=r"Ascend-mindie\s*:\s*(?:MindIE\s+)?(\S+)",
        remedy="install MindIE, and set MIES_INSTALL_PATH if its mindie-service folder is elsewhere",
        home=HOME,
        title="MindIE",
        assumed_version="2.0",
    )


def refuse(metadata: Metadata, host: Host) -> str | None:
    """Language models and those that see, as safetensors, on Ascend devices."""
    if metadata.format != "safetensors":
        return f"it serves only safetensors, and this model is {metadata.format}"
    if metadata.category not in ("llm", "vision-language"):
        return f"it serves only language and vision-language models, and this one is for {metadata.category}"
    if metadata.quantization is not None and metadata.quantization.startswith(_FOREIGN):
        return f"it needs weights quantized with its own tools, and these are {metadata.quantization}"
    if host.os != "linux":
        return f"it runs only on Linux, and {machine(host)} is {host.os}"
    if not any(device.vendor == "ascend" for device in host.devices):
        return "it runs only on Ascend devices, and none is used"
    return None


def check(request: Request, backend: Backend) -> tuple[str, ...]:
    """Check the user's parameters, and warn about environment variables that are ignored."""
    TABLE.check(TABLE.given(request), backend.version, force=request.force)
    mindie_config.check_address(request)
    return tuple(
        f"aimind sets {name} for MindIE itself and ignores your value"
        for name in OWNED
        if name in request.env
    )


def command(plan: Plan, weights: str) -> Command:
    """The daemon, in the environment that the scripts of its installation set up."""
    settings, executable = plan.settings, plan.backend.executable
    given = TABLE.given(settings)
    TABLE.check(given, plan.backend.version, force=True)  # what the user gave has met its version
    overlay = mindie_config.overlay(plan, weights, given)
    configuration = mindie_config.configuration(plan, overlay.path if overlay else weights, given)
    path = os.path.join(plan.scratch, "config.json")  # noqa: PTH118
    home = os.path.dirname(os.path.dirname(executable))  # noqa: PTH120
    env = {
        "MIES_INSTALL_PATH": home,
        "MIES_CONFIG_JSON_PATH": path,
        **mindie_config.environment(plan, given),
    }
    return Command(
        argv=("bash", SHIM, " ".join(env), executable, *plan.backend.scripts),
        env=env,
        unset_env=(*OWNED, "HF_TOKEN", *PYTHON_ENV),
        files=(
            TextFile(path=path, text=json.dumps(configuration, indent=4, ensure_ascii=False), mode=0o640),
        ),
        overlays=(overlay,) if overlay else (),
        cwd=home,
        ready=Probe(url="http://{}:{}/v2/health/ready".format(*mindie_config.management(plan))),
        signatures=SIGNATURES,
        url=url(settings),
        # It ends its workers one after the other.
        stop_seconds=15.0,
    )
