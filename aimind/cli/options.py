"""Every option that more than one command has, each defined once as an annotated type.

Groups of options are dataclasses; `with_options` gives a command the options of a group.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_type_hints

from aimind.cli import complete
from aimind.cli.declare import ANSWERS, BACKEND, MODEL, OUTPUT, PLACEMENT, RUNNING, SERVER, argument, option
from aimind.parameters import (
    DeviceIndices,
    Variable,
    parse_devices,
    parse_duration,
    parse_share,
    parse_tokens,
    parse_variable,
)
from aimind.reference import HUB_VARIABLE, HubName
from aimind.types import API_KEY_VARIABLE, Category

F = TypeVar("F", bound=Callable[..., None])

# ── The model ──────────────────────────────────────────────────────────────────────────────────────────────

_MODEL_HELP = (
    "The model: owner/name on Hugging Face, ms:owner/name on ModelScope, a path such as ./model.gguf, or "
    "demo. "
    "Append :QUANTIZATION or @REVISION to choose one."
)
Model = Annotated[str, argument("MODEL", _MODEL_HELP, autocompletion=complete.models)]
OptionalModel = Annotated[str | None, argument("MODEL", _MODEL_HELP, autocompletion=complete.models)]
Quant = Annotated[
    str | None,
    option(
        "--quant",
        panel=MODEL,
        metavar="NAME",
        help="Quantization, for example Q4_K_M, or best for the largest that fits (default: Q4_K_M or the "
        "nearest).",
    ),
]
Mmproj = Annotated[
    str | None,
    option(
        "--mmproj",
        panel=MODEL,
        metavar="PATH",
        help="File of the repository that reads images or sound, or none (default: the matching file).",
    ),
]
Revision = Annotated[
    str | None,
    option(
        "--revision",
        panel=MODEL,
        metavar="REV",
        help="Branch, tag or commit, as in MODEL@REV (default: the hub's main branch).",
    ),
]
Hub = Annotated[
    HubName | None,
    option(
        "--hub",
        panel=MODEL,
        metavar="HUB",
        help="Hub of a name without a prefix: huggingface or modelscope (default: huggingface).",
    ),
]
HfTokenFile = Annotated[
    Path | None,
    option(
        "--hf-token-file",
        panel=MODEL,
        metavar="FILE",
        exists=True,
        dir_okay=False,
        help="File with the Hugging Face token (default: the variable HF_TOKEN).",
    ),
]
Offline = Annotated[
    bool,
    option("--offline", panel=MODEL, help="Use only files on this machine, and no network."),
]

# ── Memory and placement ───────────────────────────────────────────────────────────────────────────────────

Context = Annotated[
    int | None,
    option(
        "--context",
        panel=PLACEMENT,
        metavar="TOKENS",
        parser=parse_tokens,
        help="Maximum tokens per request: 8192, 8k, or max for the model's own limit (default: what fits).",
    ),
]

# ── Output ─────────────────────────────────────────────────────────────────────────────────────────────────

Json = Annotated[bool, option("--json", panel=OUTPUT, help="Print one JSON document instead of text.")]


# ── Groups ─────────────────────────────────────────────────────────────────────────────────────────────────


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RequestOptions:
    """The options that decide how a model is served: `aimind.cli.asking` makes a `Request` of them.

    `no_config` takes effect before the options are read, in `aimind.cli.configured`.
    """

    quant: Quant = None
    mmproj: Mmproj = None
    category: Annotated[
        Category | None,
        option(
            "--category",
            panel=MODEL,
            metavar="NAME",
            help=f"Use of the model: {', '.join(get_args(Category))} (default: read from its files).",
        ),
    ] = None
    revision: Revision = None
    hub: Hub = None
    hf_token_file: HfTokenFile = None
    offline: Offline = False
    trust_remote_code: Annotated[
        bool | None,
        option(
            "--trust-remote-code",
            panel=MODEL,
            help="Run Python code that the model's repository contains.",
        ),
    ] = None
    parallel: Annotated[
        int | None,
        option(
            "--parallel",
            panel=PLACEMENT,
            metavar="N",
            min=1,
            help="Requests at once, each with the full context (default: up to 4 that share one cache).",
        ),
    ] = None
    device: Annotated[
        DeviceIndices | None,
        option(
            "--device",
            panel=PLACEMENT,
            metavar="LIST",
            parser=parse_devices,
            help="Devices to use, such as 0 or 0,1, or none for the CPU (default: as many as needed).",
        ),
    ] = None
    tensor_parallel: Annotated[
        int | None,
        option(
            "--tensor-parallel",
            panel=PLACEMENT,
            metavar="N",
            min=1,
            help="Devices that share each layer, for vLLM, SGLang and MindIE (default: as many as needed).",
        ),
    ] = None
    gpu_layers: Annotated[
        int | None,
        option(
            "--gpu-layers",
            panel=PLACEMENT,
            metavar="N",
            min=0,
            help="Layers on devices, the others in RAM, for llama.cpp (default: as many as fit).",
        ),
    ] = None
    no_cpu_offload: Annotated[
        bool,
        option(
            "--no-cpu-offload",
            panel=PLACEMENT,
            help="Fail rather than keep a layer in RAM (default: layers that do not fit stay in RAM).",
        ),
    ] = False
    kv_cache_type: Annotated[
        str | None,
        option(
            "--kv-cache-type",
            panel=PLACEMENT,
            metavar="TYPE",
            help="Data type of the KV cache: f16, q8_0 or q4_0 for llama.cpp (default: f16); auto, bfloat16, "
            "fp8 or nvfp4 for vLLM and SGLang (default: auto).",
        ),
    ] = None
    gpu_memory_utilization: Annotated[
        float | None,
        option(
            "--gpu-memory-utilization",
            panel=PLACEMENT,
            metavar="SHARE",
            parser=parse_share,
            help="Share of each device's memory to use, from 0 to 1, for vLLM and SGLang (default: the "
            "backend's "
            "own, or what is free).",
        ),
    ] = None
    host: Annotated[
        str | None,
        option(
            "--host", panel=SERVER, metavar="ADDRESS", help="Listen on this address (default: 127.0.0.1)."
        ),
    ] = None
    port: Annotated[
        int | None,
        option(
            "-p",
            "--port",
            panel=SERVER,
            metavar="PORT",
            min=0,
            max=65535,
            help="Listen on this port; 0 chooses a free one (default: 8000).",
        ),
    ] = None
    api_key_file: Annotated[
        Path | None,
        option(
            "--api-key-file",
            panel=SERVER,
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help=f"File with the key that clients must send (default: the variable {API_KEY_VARIABLE}, or "
            f"no key).",
        ),
    ] = None
    served_model_name: Annotated[
        str | None,
        option(
            "--served-model-name",
            panel=SERVER,
            metavar="NAME",
            help="Name of the model in the API (default: derived from MODEL).",
        ),
    ] = None
    backend: Annotated[
        str | None,
        option(
            "--backend",
            panel=BACKEND,
            metavar="NAME",
            autocompletion=complete.backends,
            help="Serve with this backend; `aimind backends` lists them (default: the most suitable one).",
        ),
    ] = None
    backend_version: Annotated[
        str | None,
        option(
            "--backend-version",
            panel=BACKEND,
            metavar="VERSION",
            help="Backend version to use, for example 0.32.0 (default: the newest installed).",
        ),
    ] = None
    env: Annotated[
        list[Variable] | None,
        option(
            "--env",
            panel=BACKEND,
            metavar="NAME[=VALUE]",
            parser=parse_variable,
            help="Set an environment variable for the backend; NAME alone passes the current value. "
            "Repeatable.",
        ),
    ] = None
    no_auto_parsers: Annotated[
        bool,
        option(
            "--no-auto-parsers",
            panel=BACKEND,
            help="Do not choose parsers for tool calls and reasoning, for vLLM and SGLang (default: "
            "choose them).",
        ),
    ] = False
    force: Annotated[
        bool,
        option(
            "--force",
            panel=BACKEND,
            help="Continue without an estimate, and use --backend although it refuses the model.",
        ),
    ] = False
    no_config: Annotated[
        bool,
        option(
            "--no-config",
            panel=RUNNING,
            help="Ignore aimind.toml and AIMIND_* environment variables.",
        ),
    ] = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """The options that decide how an instance runs: those that `serve` and `unit` share."""

    name: Annotated[
        str | None,
        option(
            "-n",
            "--name",
            panel=RUNNING,
            metavar="NAME",
            help="Name of the instance (default: derived from the model name).",
        ),
    ] = None
    no_install: Annotated[
        bool,
        option(
            "--no-install",
            panel=BACKEND,
            help="Fail if the backend is not installed (default: install it).",
        ),
    ] = False
    restart: Annotated[
        Literal["always", "on-failure", "never"],
        option(
            "--restart",
            panel=RUNNING,
            metavar="WHEN",
            help="When to restart the backend: always, on-failure or never (default: always).",
        ),
    ] = "always"
    max_restarts: Annotated[
        int | None,
        option(
            "--max-restarts",
            panel=RUNNING,
            metavar="N",
            min=0,
            help="Give up after this many consecutive restarts (default: no limit).",
        ),
    ] = None
    stall_timeout: Annotated[
        float,
        option(
            "--stall-timeout",
            panel=RUNNING,
            metavar="SECONDS",
            min=0,
            help="Stop a start that makes no progress for this many seconds; 0 never does (default: 300).",
        ),
    ] = 300.0
    ready_probe: Annotated[
        Literal["request", "health"],
        option(
            "--ready-probe",
            panel=RUNNING,
            metavar="PROBE",
            help="Readiness probe: request, a tiny one, or health, the health URL alone (default: request).",
        ),
    ] = "request"
    probe_interval: Annotated[
        float,
        option(
            "--probe-interval",
            panel=RUNNING,
            metavar="SECONDS",
            parser=parse_duration,
            help="Seconds between two checks that the server answers (default: 10).",
        ),
    ] = 10.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TalkOptions:
    """The options of answers: those that `run` and `chat` share."""

    system: Annotated[
        str | None,
        option("--system", panel=ANSWERS, metavar="TEXT", help="System prompt (default: the model's own)."),
    ] = None
    temperature: Annotated[
        float | None,
        option(
            "--temperature",
            panel=ANSWERS,
            metavar="N",
            min=0,
            help="Sampling temperature, for example 0.7 (default: the server's).",
        ),
    ] = None
    max_tokens: Annotated[
        int | None,
        option(
            "--max-tokens",
            panel=ANSWERS,
            metavar="N",
            min=1,
            help="Longest answer, in tokens (default: the server's limit).",
        ),
    ] = None
    stats: Annotated[
        bool,
        option("--stats", "--verbose", panel=ANSWERS, help="Show tokens and their speed after each answer."),
    ] = False
    image: Annotated[
        list[Path] | None,
        option(
            "--image",
            panel=ANSWERS,
            metavar="FILE",
            help="Send this image with the first message, to a vision model. Repeatable.",
        ),
    ] = None
    output: Annotated[
        Path | None,
        option(
            "-o",
            "--output",
            panel=ANSWERS,
            metavar="FILE",
            help="File for what a speech or image model makes; - is stdout (default: speech.mp3, image.png).",
        ),
    ] = None
    voice: Annotated[
        str | None,
        option("--voice", panel=ANSWERS, metavar="NAME", help="Voice of a speech model (default: its own)."),
    ] = None


TALK_FIELDS = frozenset({"prompt", "keep"} | {field.name for field in dataclasses.fields(TalkOptions)})


def with_options(function: F) -> F:
    """Give a command one option for each field of its parameters that are groups of options."""
    hints = get_type_hints(function, include_extras=True)
    groups: dict[str, Any] = {name: hint for name, hint in hints.items() if dataclasses.is_dataclass(hint)}
    parameters = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name not in groups:
            parameters.append(parameter.replace(annotation=hints[parameter.name]))
            continue
        group = groups[parameter.name]
        annotations = get_type_hints(group, include_extras=True)
        parameters += [
            inspect.Parameter(
                field.name, parameter.kind, default=field.default, annotation=annotations[field.name]
            )
            for field in dataclasses.fields(group)
        ]

    @functools.wraps(function)
    def call(**values: Any) -> None:
        for name, group in groups.items():
            values[name] = group(
                **{field.name: values.pop(field.name) for field in dataclasses.fields(group)}
            )
        function(**values)

    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {each.name: each.annotation for each in parameters}
    return call  # type: ignore[return-value]


def use_hub(hub: HubName | None) -> None:
    """Make this the hub of names without a prefix, for all that reads such names."""
    if hub is not None:
        os.environ[HUB_VARIABLE] = hub
