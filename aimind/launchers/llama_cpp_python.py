"""llama-cpp-python: llama.cpp behind a server written in Python, in an environment that aimind builds.

It serves one request at a time and takes far more memory for the same model than llama-server: no flash
attention unless told, window caches of full size, room for the logits of a whole batch.
"""

from __future__ import annotations

from aimind.launchers import ggml
from aimind.launchers.arguments import render
from aimind.launchers.base import KEY_IS_SEEN, PYTHON_ENV, PYTHON_SAFE, Flag, located, url, weight_path
from aimind.types import Backend, Command, Help, Host, LayeredMemory, Metadata, Package, Plan, Probe, Registry
from aimind.types.ggml import CACHE_TYPES

NAME = "llama-cpp-python"
SUMMARY = "GGUF on llama.cpp behind a Python server; compiled when it is installed"
# The package is compiled without CUDA, so it uses the CPU.
MEMORY = LayeredMemory(
    mixed_inputs=False,
    vendors=(),
    slots=1,
    shared_slots=False,
    batch_size=512,
    full_window_cache=True,
    outputs_per_slot=None,
    checkpoints=0,
    process_bytes=200 << 20,  # FastAPI, pydantic and numpy: not measured
)
# Its server takes ggml's own numbers of the types (ggml.h, enum ggml_type).
_TYPES = tuple((str(number), name) for name, number in CACHE_TYPES.items())
FLAGS = {
    "served_name": Flag(spellings=("--model_alias",)),
    "address": Flag(spellings=("--host",)),
    "port": Flag(spellings=("--port",), kind="int"),
    "kv_cache_tokens": Flag(spellings=("--n_ctx",), kind="int", words=(("0", None),)),
    "batch_size": Flag(spellings=("--n_batch",), kind="int"),
    "ubatch_size": Flag(spellings=("--n_ubatch",), kind="int"),
    "flash_attention": Flag(spellings=("--flash_attn",), kind="boolean"),
    "kv_cache_dtype": Flag(spellings=("--type_k",), words=_TYPES),
    "value_cache_dtype": Flag(spellings=("--type_v",), words=_TYPES),
    "gpu_layers": Flag(spellings=("--n_gpu_layers",), kind="int"),
    "embedding": Flag(spellings=("--embedding",), kind="boolean"),
    "projector": Flag(spellings=("--clip_model_path",)),
}
RESERVED = {
    "--model": "aimind passes the model itself",
    "--config_file": "it would override the plan",
    "--api_key": KEY_IS_SEEN,
    "--logits_all": "it would allocate memory for the logits of the whole context",
}
UNCOUNTED = ("--offload_kqv", "--use_mmap", "--use_mlock", "--cache", "--draft_model", "--lora_path")
SIGNATURES = ggml.SIGNATURES
REGISTRY = Registry(kind="strings", files=("llama_cpp/lib/libllama.*",))
HELP = Help(args=("-m", "llama_cpp.server", "--help"))
# Its settings come from variables without a prefix too, and these win over its flags.
_SETTINGS = (
    "MODEL MODEL_ALIAS HOST PORT N_CTX N_BATCH N_UBATCH FLASH_ATTN TYPE_K TYPE_V N_GPU_LAYERS SPLIT_MODE "
    "MAIN_GPU TENSOR_SPLIT LOGITS_ALL EMBEDDING CACHE CACHE_TYPE CACHE_SIZE SEED CONFIG_FILE API_KEY "
    "CLIP_MODEL_PATH CHAT_FORMAT DRAFT_MODEL ROOT_PATH SSL_KEYFILE SSL_CERTFILE VERBOSE NUMA USE_MMAP "
    "USE_MLOCK LORA_PATH LORA_BASE RPC_SERVERS VOCAB_ONLY OFFLOAD_KQV KV_OVERRIDES"
)


def source(_host: Host) -> Package:
    """A source distribution: about five minutes of compiling, 166 MB."""
    return Package(
        distribution="llama-cpp-python",
        version="0.3.36",
        resolved="2026-11-20",
        import_name="llama_cpp",
        requirements=("llama-cpp-python[server]",),
        size_bytes=166_000_000,
    )


def refuse(metadata: Metadata, _host: Host) -> str | None:
    """GGUF language models and embeddings only."""
    if metadata.category == "reranker":
        return "its server has no rerank API"
    if metadata.category == "embedding" and metadata.made_for is not None:
        return "its server returns one vector per text only if the model's file sets the pooling type"
    return ggml.refuse(metadata)


def table(backend: Backend) -> str:
    """By its own version."""
    return f"llama-cpp-python-{backend.version}"


def knows(metadata: Metadata, backend: Backend) -> bool:
    """Whether this llama.cpp has the model's architecture."""
    return ggml.knows(metadata, backend, table=table(backend))


def command(plan: Plan, weights: str) -> Command:
    """`python -m llama_cpp.server`; ready when `/v1/models` answers, for which it wants the key."""
    settings = plan.settings
    return Command(
        argv=(
            plan.backend.executable,
            "-m",
            "llama_cpp.server",
            "--model",
            weight_path(plan, weights),
            *render(FLAGS, located(settings, weights)),
            "--logits_all",
            "false",
            *map(_spelled, settings.extra),
        ),
        env={**PYTHON_SAFE, **settings.env},
        secret_env={"API_KEY": settings.api_key} if settings.api_key else {},
        unset_env=(*_SETTINGS.split(), *PYTHON_ENV),
        ready=Probe(url=f"{url(settings)}/v1/models", bearer_env="API_KEY" if settings.api_key else None),
        signatures=SIGNATURES,
        url=url(settings),
    )


def _spelled(word: str) -> str:
    """Its parser, unlike others of Python's servers, knows its flags with `_` alone."""
    name, equals, value = word.partition("=")
    return f"--{name[2:].replace('-', '_')}{equals}{value}" if name.startswith("--") else word
