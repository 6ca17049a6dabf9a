"""MLX: Apple's own framework, for language models on Apple silicon.

Its server goes on when its model could not be loaded, or its port was taken: the lines that say so are fatal.
"""

from __future__ import annotations

from aimind.launchers import strays
from aimind.launchers.arguments import render
from aimind.launchers.base import PYTHON_ENV, PYTHON_SAFE, Flag, url
from aimind.phrases import machine
from aimind.types import Command, Help, Host, Metadata, Package, Plan, Probe, Request, Signature, WholeMemory

NAME = "mlx"
SUMMARY = "Language models on Apple silicon: MLX's weights, or plain safetensors"
# Apple's GPU and the CPU share their memory, so that the model is in RAM. 97 MB were seen with a tiny model.
MEMORY = WholeMemory(vendors=(), process_bytes=300 << 20, slots=4, step_tokens=2048)
FLAGS = {
    "address": Flag(spellings=("--host",)),
    "port": Flag(spellings=("--port",), kind="int"),
    "max_num_seqs": Flag(spellings=("--decode-concurrency",), kind="int"),
    "trust_remote_code": Flag(spellings=("--trust-remote-code",), kind="switch"),
}
RESERVED = {
    "--model": "aimind passes the model itself",
    "--prompt-cache-bytes": "it would override the KV cache of the plan",
}
UNCOUNTED = tuple("--draft-model --adapter-path --prefill-step-size --kv-bits --pipeline".split())
HELP = Help(args=("-m", "mlx_lm", "server", "--help"))
SIGNATURES = (
    Signature(
        r"generation thread died: .*([Oo]ut of memory|Insufficient Memory)",
        cause="the machine ran out of memory",
        remedy="use a shorter --context, or a smaller or quantized model",
        fatal=True,
    ),
    Signature(
        r"generation thread died",
        cause="MLX failed while loading or running the model",
        remedy="see its error message above",
        fatal=True,
    ),
    Signature(
        r"Address already in use",
        cause="the port is already in use",
        remedy="use --port 0 to choose a free port",
        fatal=True,
    ),
)


def source(host: Host) -> Package:
    """Wheels: 218 MB. On Linux with MLX for the CPU, which is only there by force."""
    elsewhere = host.os == "linux"
    return Package(
        distribution="mlx-lm",
        version="0.32.2",
        resolved="2026-11-20",
        import_name="mlx_lm",
        requirements=("mlx[cpu]",) if elsewhere else (),
        variant="cpu" if elsewhere else "",
        size_bytes=224_000_000 if elsewhere else None,
    )


def refuse(metadata: Metadata, host: Host) -> str | None:
    """Language models on Apple silicon, in MLX's own quantizations or plain."""
    if metadata.format != "safetensors":
        return f"it serves only safetensors, and this model is {metadata.format}"
    if metadata.category != "llm":
        return f"it serves only language models, and this one is for {metadata.category}"
    quantization = metadata.quantization
    if quantization is not None and not quantization.startswith("MLX"):
        return f"it cannot read weights in {quantization}"
    if (host.os, host.arch) != ("macos", "arm64"):
        return f"it runs only on Apple silicon, and {machine(host)} is {host.os} {host.arch}"
    return None


def _origins(settings: Request) -> tuple[str, ...]:
    """Keep web pages of other sites out: it takes no key, and allows all of them by default."""
    chosen = any(token.partition("=")[0] == "--allowed-origins" for token in settings.extra)
    return () if chosen else ("--allowed-origins", "http://localhost")


def command(plan: Plan, weights: str) -> Command:
    """`python -m mlx_lm server`; `/health` says 503 until the model is loaded."""
    settings = plan.settings
    cache = plan.host.kv_cache_bytes + plan.host.state_bytes
    # `load_model` in mlx_lm/utils.py
    links = strays.overlay(plan, weights, pattern="model*.safetensors", reads_index=False)
    folder = weights if links is None else links.path
    return Command(
        argv=(
            *(plan.backend.executable, "-m", "mlx_lm", "server", "--model", folder),
            # Of those at work and those remembered.
            *("--prompt-cache-bytes", str(cache)),
            *render(FLAGS, settings),
            *_origins(settings),
            *settings.extra,
        ),
        env={"HF_HUB_OFFLINE": "1", **PYTHON_SAFE, **settings.env},
        overlays=() if links is None else (links,),
        unset_env=("HF_TOKEN", *PYTHON_ENV),
        ready=Probe(url=f"{url(settings)}/health"),
        signatures=SIGNATURES,
        url=url(settings),
    )
