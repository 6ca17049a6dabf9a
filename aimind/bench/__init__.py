"""How fast a server answers: the measures of `vllm bench serve`, for any OpenAI-compatible server."""

from aimind.bench.load import Load, Probe, measure, prepare
from aimind.bench.result import Result
from aimind.bench.vllm import VllmBench, tokenizer_folder

__all__ = ["Load", "Probe", "Result", "VllmBench", "measure", "prepare", "tokenizer_folder"]
