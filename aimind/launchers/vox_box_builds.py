"""What an installation of vox-box needs that it does not ask for itself, and what each part of it is for."""

from __future__ import annotations

import dataclasses

from aimind.types import Fix, Host, Package

# What is installed instead of what it or its requirements ask for.
_VERSIONS = ">=0.0.20,<0.1"
_FIXES = (
    Fix(
        versions=_VERSIONS,
        reason="openai-whisper, which it requires, is built with pkg_resources",
        build_constraints=("setuptools<70",),
    ),
    Fix(
        versions=_VERSIONS,
        reason="later versions have no set_audio_backend, which CosyVoice calls",
        overrides=("torchaudio==2.8.0",),
    ),
    Fix(
        versions=_VERSIONS,
        reason="later versions have no BetterTransformer, which vox-box uses for Bark",
        overrides=("transformers>=4.47.1,<4.49",),
    ),
    Fix(
        versions=_VERSIONS,
        reason="later versions break HyperPyYAML, which reads cosyvoice.yaml",
        overrides=("ruamel.yaml<0.19",),
    ),
    Fix(
        versions=_VERSIONS,
        reason="FunASR imports pkg_resources, which later versions do not contain",
        overrides=("setuptools<81",),
    ),
)
_ON_CPU = (
    Fix(reason="a newer CUDA build would be preferred to the CPU build", overrides=("torch==2.13.0",)),
    Fix(reason="it needs 0.7 GB, and only a GPU can use it", overrides=("triton ; sys_platform == 'never'",)),
    Fix(
        versions=_VERSIONS,
        reason="they belong to another PyTorch and break the import with this one; nothing needs them",
        removed=("torchaudio/lib/*.so",),
    ),
)
# PyTorch of CUDA 12 brings cuBLAS 12 and cuDNN 9, and has loaded them by the time CTranslate2 looks for them.
_ELSEWHERE = (
    Fix(
        versions=_VERSIONS,
        reason="this torchaudio was built for it",
        overrides=("torch==2.8.0",),
    ),
)
_NOT_WHISPER = Fix(
    reason="faster-whisper does not need them, and they are half of the installation",
    overrides=tuple(
        f"{name} ; sys_platform == 'never'"
        for name in (
            "accelerate aiohttp aliyun-python-sdk-core altair antlr4-python3-runtime audioread black "
            "conformer cython descript-audio-codec diffusers flake8 funasr gdown grpcio hydra-core "
            "hyperpyyaml identify inflect installer jaconv jamo jieba jsonschema kaldiio keyring "
            "kiwisolver librosa lightning matplotlib openai-whisper optimum pipx pyarrow pynini tn twine "
            "wetextprocessing wget"
        ).split()
    ),
)


def source(host: Host) -> Package:
    """A wheel and 200 others: 2.8 GB on a CPU, and 1.5 GB for faster-whisper alone."""
    cuda = any(device.vendor == "nvidia" for device in host.devices)
    on_cpu = host.os == "linux" and not cuda
    whole = Package(
        distribution="vox-box",
        version="0.0.21",
        resolved="2026-11-20",
        import_name="vox_box",
        requirements=("setuptools",),
        fixes=(*_FIXES, *(_ON_CPU if on_cpu else _ELSEWHERE)),
        variant="cpu" if on_cpu else "",
        torch="cpu" if on_cpu else ("cu128" if cuda else None),
        size_bytes=2_836_000_000 if on_cpu else None,
    )
    slim = dataclasses.replace(
        whole,
        fixes=(*whole.fixes, _NOT_WHISPER),
        variant="cpu-whisper" if on_cpu else "whisper",
        only="faster-whisper",
        size_bytes=1_453_000_000 if on_cpu else None,
    )
    return dataclasses.replace(whole, slim=slim)
