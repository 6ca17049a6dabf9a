"""The backends, in order of preference: the first that does not refuse a model serves it.

For GGUF a llama.cpp that the user has installed comes before the one that aimind installs. MLX takes what is
on Apple silicon, MindIE what is on Ascend devices; what vLLM refuses SGLang is asked, and then transformers.
"""

from aimind.launchers import (
    llama_box,
    llama_cpp_python,
    llama_server,
    mindie,
    mlx,
    sglang,
    transformers,
    vllm,
    vox_box,
    xllamacpp,
)
from aimind.launchers.base import Launcher

LAUNCHERS: tuple[Launcher, ...] = (
    llama_server,
    llama_box,
    xllamacpp,
    llama_cpp_python,
    vox_box,
    mlx,
    mindie,
    vllm,
    sglang,
    transformers,
)
