"""transformers: its own server, for language models of Hugging Face's form where no faster backend runs."""

from __future__ import annotations

from aimind.launchers import architectures
from aimind.launchers.arguments import render
from aimind.launchers.base import PYTHON_ENV, PYTHON_SAFE, Flag, url, visible_devices
from aimind.launchers.builds import made_by, runs_cuda_13
from aimind.types import (
    Backend,
    Command,
    Fix,
    Help,
    Host,
    Metadata,
    Package,
    Plan,
    Probe,
    Registry,
    Signature,
    WholeMemory,
)

NAME = "transformers"
SUMMARY = "Hugging Face language models, slowly: where nothing faster runs"
# In RAM 413 MB were seen with a tiny model on a CPU (5.23.0, PyTorch 2.13).
MEMORY = WholeMemory(process_bytes=600 << 20)
FLAGS = {
    "address": Flag(spellings=("--host",)),
    "port": Flag(spellings=("--port",), kind="int"),
    "dtype": Flag(spellings=("--dtype",)),
    "trust_remote_code": Flag(
        spellings=("--trust-remote-code",), kind="switch", off=("--no-trust-remote-code",)
    ),
}
REGISTRY = Registry(kind="exported", files=("transformers/models/*/modeling_*.py",))
RESERVED = {"--device": "use aimind's own --device, before the --"}
WEIGHTS_ONLY = True  # transformers/modeling_utils.py, load_state_dict
UNCOUNTED = tuple(
    "--continuous-batching --cb-num-blocks --cb-max-memory-percent --quantization --compile".split()
)
HELP = Help(args=("-m", "transformers.cli.transformers", "serve", "--help"), abbreviates=False)
SIGNATURES = (
    Signature(r"Loading weights: +(?P<percent>\d+)%", phase="loading weights"),
    Signature(
        r"OutOfMemoryError|CUDA out of memory|DefaultCPUAllocator: can't allocate memory",
        cause="a device or the machine ran out of memory",
        remedy="use a shorter conversation, a smaller model, or --device none to use RAM",
    ),
    Signature(
        r"does not recognize this architecture|Unrecognized (model|configuration class)",
        cause="this version of transformers does not know the model's architecture",
        remedy="try a newer version with --backend-version",
    ),
    Signature(
        r"address already in use",
        cause="the port is already in use",
        remedy="use --port 0 to choose a free port",
    ),
)


def source(host: Host) -> Package:
    """Wheels: 972 MB on a CPU, most of it PyTorch."""
    nvidia = bool(made_by(host, "nvidia"))
    on_cpu = host.os == "linux" and not nvidia
    torch = "cpu" if on_cpu else None
    if nvidia and not runs_cuda_13(host):  # the registry's PyTorch is for CUDA 13
        torch = "cu129"
    newest = Fix(
        reason="a newer CUDA build would be preferred to the CPU build", overrides=("torch==2.13.0",)
    )
    return Package(
        distribution="transformers",
        version="5.23.0",
        resolved="2026-11-20",
        import_name="transformers",
        requirements=("transformers[serving]", "accelerate", "torch"),
        fixes=(newest,) if on_cpu else (),
        variant=torch or "",
        torch=torch,
        size_bytes=972_000_000 if on_cpu else None,
    )


def table(backend: Backend) -> str:
    """By its version."""
    return f"transformers-{backend.version}"


def knows(metadata: Metadata, backend: Backend) -> bool:
    """Whether this version has a class of the name that config.json gives, which its server looks up."""
    name, known = metadata.architecture, architectures.known(backend, table(backend))
    return known is None or metadata.needs_remote_code or name == name.lower() or name in known


def refuse(metadata: Metadata, host: Host) -> str | None:
    """Language models in plain types: for others it needs packages of many kinds."""
    if metadata.format not in ("safetensors", "pickle"):
        return f"it serves only models in Hugging Face's format, and this model is {metadata.format}"
    if metadata.category != "llm":
        return f"it serves only language models, and this one is for {metadata.category}"
    if metadata.quantization is not None:
        return f"it has no kernels for weights in {metadata.quantization}"
    for device in host.devices:  # what PyTorch's CUDA 13 builds have code for
        if device.vendor == "nvidia" and device.capability and float(device.capability) < 7.5:
            return f"{device.name} has compute capability {device.capability}, and PyTorch needs 7.5"
    return None


def command(plan: Plan, weights: str) -> Command:
    """`transformers serve`, with the model as its only one; it listens once that is loaded."""
    settings = plan.settings
    devices = tuple(shard.device for shard in plan.shards)
    return Command(
        argv=(
            *(plan.backend.executable, "-m", "transformers.cli.transformers", "serve", weights),
            *("--device", "cuda" if devices else "cpu"),
            *render(FLAGS, settings),
            *settings.extra,
        ),
        env={
            **PYTHON_SAFE,
            **visible_devices(devices),
            "HF_HUB_OFFLINE": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",  # it would ask the package index for a newer version
            **settings.env,
        },
        unset_env=("HF_TOKEN", *PYTHON_ENV),
        ready=Probe(url=f"{url(settings)}/health"),
        signatures=SIGNATURES,
        url=url(settings),
    )
