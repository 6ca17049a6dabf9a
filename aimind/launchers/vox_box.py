"""vox-box: models that hear and models that speak, in an environment that aimind installs.

It answers errors with 200 and the true status in the body, and ends with 0 where it could not load a model.
"""

from __future__ import annotations

import os

from aimind.launchers import vox_box_builds
from aimind.launchers.arguments import render
from aimind.launchers.base import PYTHON_ENV, PYTHON_SAFE, Flag, url, visible_devices
from aimind.phrases import machine
from aimind.types import Command, Help, Host, Metadata, Need, Plan, Probe, Signature, WholeMemory

NAME = "vox-box"
SUMMARY = "Speech: faster-whisper, FunASR, CosyVoice, Bark and Dia, on an NVIDIA device or the CPU"
_MIB, _GIB = 1 << 20, 1 << 30
# GiB on a device as published for vox-box; in RAM for faster-whisper one and a half times what vox-box 0.0.21
# took with weights of these sizes (as 32 bit numbers), for the others one and a half times the device's.
_NEEDS = (
    ("faster-whisper", 100, 1, 1.25),  # tiny
    ("faster-whisper", 250, 1, 1.5),  # base
    ("faster-whisper", 700, 2, 2.75),  # small
    ("faster-whisper", 1700, 5, 6.25),  # medium, and the distilled large ones
    ("faster-whisper", 8000, 10, 11.5),  # large
    ("cosyvoice", 8000, 3, 7),
    ("bark", 2000, 2, 3),  # small
    ("bark", 8000, 12, 18),
    ("dia", 16000, 10, 15),
)
MEMORY = WholeMemory(
    process_bytes=700 * _MIB,
    needs=tuple(
        Need(kind, mib * _MIB, int(device * _GIB), int(ram * _GIB)) for kind, mib, device, ram in _NEEDS
    ),
    needs_source="vox-box's figure for models of that size; in RAM what was measured, and half as much more",
)
FLAGS = {"address": Flag(spellings=("--host",)), "port": Flag(spellings=("--port",), kind="int")}
RESERVED = {
    "--model": "aimind passes the model itself",
    "--huggingface-repo-id": "aimind downloads the model itself",
    "--model-scope-model-id": "aimind downloads the model itself",
    "--device": "use aimind's own --device, before the --",
    "--data-dir": "aimind downloads the model itself",
}
WEIGHTS_ONLY = True  # torch.load's default since PyTorch 2.6
UNCOUNTED = ()
HELP = Help(args=("-m", "vox_box.main", "start", "--help"))
SIGNATURES = (
    Signature(r"INFO - Estimating model", phase="looking at the model's files"),
    Signature(r"INFO - Loading model", phase="loading weights"),
    Signature(
        r"Model isn't supported",
        cause="vox-box cannot detect the type of the model from its files",
        remedy="faster-whisper needs tokenizer.json beside model.bin, CosyVoice cosyvoice.yaml",
    ),
    Signature(
        r"libcu(blas|dnn\w*)\.so\S* (is not found|cannot)|Unable to load any of \{libcudnn",
        cause="cuBLAS for CUDA 12 or cuDNN 9 cannot be loaded",
        remedy="run `aimind backends remove vox-box` and serve again to install both, or use --device none",
    ),
    Signature(
        r"out of memory",
        cause="a device or the machine ran out of memory",
        remedy="use a smaller model, or --device none to use RAM",
    ),
    Signature(
        r"address already in use",
        cause="the port is already in use",
        remedy="use --port 0 to choose a free port",
    ),
    Signature(r"Faild to load", cause="vox-box cannot load the model", remedy="see its error message above"),
)
source = vox_box_builds.source


def refuse(metadata: Metadata, host: Host) -> str | None:
    """Its five kinds of models, told as `metadata/audio.py` does; two of them not everywhere."""
    kind = metadata.architecture
    if metadata.category not in ("speech-to-text", "text-to-speech"):
        return f"it serves only speech models, and this one is for {metadata.category}"
    if kind in ("cosyvoice2", "cosyvoice3"):
        return f"it needs cosyvoice.yaml, as in gpustack/CosyVoice2-0.5B, and this model has only {kind}.yaml"
    if kind not in ("faster-whisper", "funasr", "cosyvoice", "bark", "dia"):
        return f"it serves faster-whisper, FunASR, CosyVoice, Bark and Dia, and this is {kind}"
    platform = f"{host.os} {host.arch}"
    if kind in ("cosyvoice", "dia") and platform not in ("linux x86_64", "macos x86_64", "macos arm64"):
        return f"{kind} runs on Linux with x86-64 and on macOS, and {machine(host)} is {platform}"
    return None


def command(plan: Plan, weights: str) -> Command:
    """`python -m vox_box.main start`; ready when the model is listed: `/health` never says so of FunASR's."""
    settings = plan.settings
    devices = tuple(shard.device for shard in plan.shards)
    environment = os.path.dirname(os.path.dirname(plan.backend.executable))  # noqa: PTH120
    return Command(
        argv=(
            *(plan.backend.executable, "-m", "vox_box.main", "start", "--model", weights),
            # Without a number: with one it makes that CUDA_VISIBLE_DEVICES, whatever we have set.
            *("--device", "cuda" if devices else "cpu"),
            *("--data-dir", os.path.join(environment, "data")),  # noqa: PTH118
            *render(FLAGS, settings),
            *settings.extra,
        ),
        env={**visible_devices(devices), **PYTHON_SAFE, "HF_HUB_OFFLINE": "1", **settings.env},
        unset_env=("HF_TOKEN", *PYTHON_ENV),
        ready=Probe(url=f"{url(settings)}/v1/models", lie=r'^\s*(?:\[\]|\{\}|\{"status_code":\s*(\d+))'),
        signatures=SIGNATURES,
        url=url(settings),
    )
