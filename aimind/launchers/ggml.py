"""What the launchers of the llama.cpp family share: its flags, what its log says, what it can serve."""

from __future__ import annotations

from collections.abc import Mapping

from aimind.errors import UsageError
from aimind.launchers import architectures
from aimind.launchers.arguments import plain, render
from aimind.launchers.base import (
    KEY_IS_SEEN,
    PYTHON_ENV,
    TOKEN_IS_SEEN,
    Flag,
    is_local,
    located,
    url,
    visible_devices,
    weight_path,
)
from aimind.types import Backend, BufferLine, Command, Metadata, Plan, Probe, Registry, Request, Signature

# The build of llama.cpp that aimind installs (xllamacpp), and that plans for other machines assume.
BUILD = "11549"
# Where the library of a program is: with it, or in a folder of libraries.
LIBRARY = Registry(kind="strings", files=("libllama.so*", "libllama.*dylib", "llama.cpp/libllama.so*"))
# llama-server's spellings (common/arg.cpp, build b9500 and later); the shim of xllamacpp takes the same.
FLAGS: Mapping[str, Flag] = {
    "served_name": Flag(spellings=("--alias", "-a"), attached=False),
    "address": Flag(spellings=("--host",)),
    "port": Flag(spellings=("--port",), kind="int"),
    "kv_cache_tokens": Flag(spellings=("--ctx-size", "-c"), kind="int", words=(("0", None),)),
    "max_num_seqs": Flag(spellings=("--parallel", "-np"), kind="int", words=(("-1", None), ("auto", None))),
    "kv_unified": Flag(spellings=("--kv-unified", "-kvu"), kind="switch", off=("--no-kv-unified", "-no-kvu")),
    "batch_size": Flag(spellings=("--batch-size", "-b"), kind="int"),
    "ubatch_size": Flag(spellings=("--ubatch-size", "-ub"), kind="int"),
    "flash_attention": Flag(
        spellings=("--flash-attn", "-fa"),
        kind="boolean",
        words=(("on", True), ("off", False), ("auto", None)),
    ),
    "kv_cache_dtype": Flag(spellings=("--cache-type-k", "-ctk")),
    "value_cache_dtype": Flag(spellings=("--cache-type-v", "-ctv")),
    "gpu_layers": Flag(
        spellings=("--n-gpu-layers", "--gpu-layers", "-ngl"),
        kind="int",
        words=(("all", 9999), ("-1", 9999), ("auto", None)),
    ),
    "cpu_moe_layers": Flag(
        spellings=("--n-cpu-moe", "-ncmoe"), kind="int", presets=(("--cpu-moe", 9999), ("-cmoe", 9999))
    ),
    "swa_full": Flag(spellings=("--swa-full",), kind="switch"),
    "split_mode": Flag(spellings=("--split-mode", "-sm")),
    "split": Flag(spellings=("--tensor-split", "-ts"), kind="floats"),
    "prompt_cache_mib": Flag(spellings=("--cache-ram", "-cram"), kind="int"),
    "context_checkpoints": Flag(spellings=("--ctx-checkpoints", "--swa-checkpoints", "-ctxcp"), kind="int"),
    "embedding": Flag(spellings=("--embedding", "--embeddings"), kind="switch"),
    "reranking": Flag(spellings=("--reranking", "--rerank"), kind="switch"),
    "pooling": Flag(spellings=("--pooling",)),
    "projector": Flag(spellings=("--mmproj", "-mm")),
}

RESERVED: Mapping[str, str] = {
    "--model": "aimind passes the model itself",
    "-m": "aimind passes the model itself",
    "--hf-repo": "aimind downloads the model itself",
    "-hf": "aimind downloads the model itself",
    "-hfr": "aimind downloads the model itself",
    "--model-url": "aimind downloads the model itself",
    "-mu": "aimind downloads the model itself",
    "--api-key": KEY_IS_SEEN,
    "--api-key-file": "use aimind's own --api-key-file, before the --",
    "--hf-token": TOKEN_IS_SEEN,
    "-hft": TOKEN_IS_SEEN,
    "--fit": "aimind fits the model to the memory itself",
    "-fit": "aimind fits the model to the memory itself",
    "--device": "use aimind's own --device, before the --",
    "-dev": "use aimind's own --device, before the --",
    "--main-gpu": "use aimind's own --device, before the --",
    "-mg": "use aimind's own --device, before the --",
}

UNCOUNTED = tuple(
    "--override-tensor -ot --no-kv-offload -nkvo --no-repack -nr --no-mmap --mlock --load-mode -lm "
    "--lazy-mode -lzm --rpc --lora --lora-scaled --control-vector --control-vector-scaled "
    "--n-cpu-ffn -ncffn --no-op-offload --no-host --override-kv --backend-sampling -bs "
    "--no-mmproj-offload --mmproj-device -mmdev --image-min-tokens --image-max-tokens "
    "--mtmd-batch-max-tokens --model-draft -md --spec-draft-model --spec-draft-hf --hf-repo-draft -hfd -hfrd "
    "--spec-type --mtp --dflash --eagle3".split()
)

# Flags of llama-server that let its clients run programs, or reach other servers through it
# (common/arg.cpp, b11549). Their variables are LLAMA_ARG_TOOLS and so on.
RUNS_PROGRAMS = frozenset(
    """
    --tools --tools-runtime --agent -ag --mcp-servers-config --mcp-servers-json
    --ui-mcp-proxy --webui-mcp-proxy
    """.split()
)
# Which web pages browsers let read the answers. llama.cpp allows all by default; `localhost` allows those
# that come from this machine. Builds that do not know the variable ignore it.
ORIGINS_FLAG, ORIGINS_VARIABLE = "--cors-origins", "LLAMA_ARG_CORS_ORIGINS"

# llama.cpp reads its flags from variables too: what the plan does not hold must not come from there.
UNSET_ENV = ("LLAMA_ARG_*", "LLAMA_API_KEY", *PYTHON_ENV)

_MEMORY_REMEDY = "use a shorter --context, fewer --gpu-layers or a smaller quantization"

SIGNATURES: tuple[Signature, ...] = (
    Signature(
        r"llama_model_loader: loaded meta data|srv +load_model: loading model", phase="reading the header"
    ),
    Signature(
        r"load_tensors: loading model tensors|print_info: file format|^(?P<dots>\.{1,100})$",
        phase="loading weights",
    ),
    Signature(r"llama_context: constructing llama_context", phase="allocating the cache"),
    Signature(r"warming up the model", phase="warming up"),
    Signature(
        r"unknown (model )?architecture",
        cause="this llama.cpp does not know the model's architecture",
        remedy="try a newer version of the backend: see `aimind backends`",
    ),
    Signature(
        r"cudaMalloc failed|out of memory|failed to allocate (buffer|compute)|unable to allocate"
        r"|std::bad_alloc",
        cause="a device or the machine ran out of memory",
        remedy=_MEMORY_REMEDY,
    ),
    Signature(
        r"invalid magic|failed to read (magic|header)|tensor .* data is not within the file bounds",
        cause="the model's file is damaged or incomplete",
        remedy="download it again",
    ),
    Signature(
        r"error loading model|failed to load model",
        cause="llama.cpp cannot load the model's file",
        remedy="see its error message above",
    ),
    Signature(
        r"libgomp: Thread creation failed|std::system_error.*Resource temporarily unavailable",
        cause="the backend could not start more threads: memory or the limit on processes is exhausted",
        remedy="raise the limits on memory (ulimit -v) and on processes (ulimit -u)",
    ),
    Signature(
        r"error: (unknown|invalid|unrecognized) argument",
        cause="the backend does not know one of the arguments",
        remedy="check the arguments after --",
    ),
    Signature(
        r"couldn't bind HTTP server socket|address already in use",
        cause="the port is already in use",
        remedy="use --port 0 to choose a free port",
    ),
)


def knows(metadata: Metadata, backend: Backend, *, table: str) -> bool:
    """Whether a llama.cpp has the name of the model's architecture.

    An installed library is read for all its texts, in which the linker may keep a name as the end of another.
    """
    name = metadata.architecture
    if metadata.category == "image":  # these are stable-diffusion.cpp's
        return True
    if backend.architectures is not None:
        return any(text.endswith(name) for text in backend.architectures)
    known = architectures.shipped(table)
    return known is None or name in known


_BUFFER = r"\bCUDA(?P<device>\d+) +(?:{kind}) buffer size = +(?P<size>[\d.]+) MiB"
# llama.cpp writes these lines from level 4 of its log on. Those of compute buffers come anew when they are
# reserved anew.
BUFFERS = (
    BufferLine(_BUFFER.format(kind="model|KV|RS"), unit_bytes=1 << 20),
    BufferLine(_BUFFER.format(kind="compute"), unit_bytes=1 << 20, replaces=True),
)


def refuse(metadata: Metadata) -> str | None:
    """Refuse models that no llama.cpp serves."""
    if metadata.format != "gguf":
        return f"it serves only GGUF files, and this model is {metadata.format}"
    if metadata.category == "image":
        return "it does not generate images"
    if metadata.category in ("speech-to-text", "text-to-speech"):
        return f"it has no API for {metadata.category}"
    return None


def check_exposure(request: Request) -> None:
    """Refuse to let others run programs on this machine.

    Raises:
        UsageError: a flag lets clients run programs, they need no key, and they need not be on this machine.
    """
    if is_local(request) or request.api_key:
        return
    variables = {_variable(flag): flag for flag in RUNS_PROGRAMS if flag.startswith("--")}
    names = [token.partition("=")[0] for token in request.extra]
    found = [name for name in names if plain(name) in RUNS_PROGRAMS]
    found += [name for name in request.env if name in variables]
    if found:
        raise UsageError(
            f"{found[0]} lets clients run programs on this machine or reach others through it, and "
            f"anyone who reaches {request.address} could use it",
            hint="use --api-key-file FILE or --host 127.0.0.1",
        )


def _variable(flag: str) -> str:
    return "LLAMA_ARG_" + flag.removeprefix("--").replace("-", "_").upper()


def _origins(settings: Request) -> dict[str, str]:
    """Keep web pages from other sites out, unless a key does that or the user has chosen the sites."""
    chosen = any(token.partition("=")[0] == ORIGINS_FLAG for token in settings.extra)
    return {} if settings.api_key or chosen else {ORIGINS_VARIABLE: "localhost"}


def command(
    plan: Plan,
    weights: str,
    *,
    program: tuple[str, ...] = (),
    flags: Mapping[str, Flag] = FLAGS,
    fixed: tuple[str, ...] = (),
    takes_key: bool = True,
) -> Command:
    """A server of the family.

    Args:
        plan: what to serve, and how.
        weights: the folder of the model's files.
        program: what the executable is given first: a script, for a Python.
        flags: the launcher's own.
        fixed: arguments that are none of the plan's settings; all of them are in `RESERVED`.
        takes_key: it can ask its clients for a key.
    """
    settings = plan.settings
    rendered = render(flags, located(settings, weights))
    argv = (*program, "--model", weight_path(plan, weights), *rendered, *fixed, *settings.extra)
    return Command(
        argv=(plan.backend.executable, *argv),
        env={
            **visible_devices(tuple(shard.device for shard in plan.shards)),
            **(_origins(settings) if takes_key else {}),
            **settings.env,
        },
        secret_env={"LLAMA_API_KEY": settings.api_key} if settings.api_key and takes_key else {},
        unset_env=UNSET_ENV,
        ready=Probe(url=f"{url(settings)}/health"),
        signatures=SIGNATURES,
        buffers=BUFFERS,
        url=url(settings),
    )
