"""The vocabulary: frozen values that flow from the command line to the supervisor.

Bytes are `int` and their names end in `_bytes`; times are `float` seconds and end in `_seconds`; lengths are
in tokens. `None` means unknown or not applicable in what was found, and "decide for me" in a `Request`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, Protocol

Source = Literal["huggingface", "modelscope", "local", "demo"]
Format = Literal["gguf", "safetensors", "ctranslate2", "pickle"]
Category = Literal[
    "llm", "vision-language", "embedding", "reranker", "image", "speech-to-text", "text-to-speech"
]
NOTHING: Mapping[str, str] = MappingProxyType({})


# ── The model ──────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """What the user typed, taken apart.

    Attributes:
        source: where the model lives.
        name: `owner/name` on a hub, a path for `local`, `demo` for the model that comes with aimind.
        revision: branch, tag or commit on a hub.
        file: the path of one file inside the repository.
        quantization: as written in file names, upper case (`Q4_K_M`).
    """

    source: Source
    name: str
    revision: str | None = None
    file: str | None = None
    quantization: str | None = None


@dataclass(frozen=True, slots=True)
class File:
    """One file of a model: its path inside the repository, size, and hash where the hub tells it."""

    path: str
    size_bytes: int
    sha256: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """What a reference resolved to: names and sizes, no weights yet.

    Attributes:
        reference: what it was resolved from.
        commit: the exact revision on a hub; `None` for local files.
        files: all files of the repository, or, once `files.choose` has narrowed it, those that are needed.
        root: the folder of a local model (absolute); `None` on a hub.
    """

    reference: Reference
    files: tuple[File, ...]
    commit: str | None = None
    root: str | None = None


class Reader(Protocol):
    """Random access to one file, wherever it is. A remote one fetches only the ranges that are read."""

    @property
    def size_bytes(self) -> int:
        """The file's whole size."""

    def read(self, offset: int, length: int) -> bytes:
        """The bytes from `offset`, exactly `length` of them, or fewer only where the file ends."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor as the header describes it.

    Attributes:
        name: as in the file.
        shape: row length first for GGUF (ggml's order), last for safetensors (row-major), as in the file.
        dtype: the file's own name of the type (`Q4_K`, `F16`, `BF16`).
        size_bytes: in the file.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """A layer that remembers keys and values: of all tokens, or of a sliding window of them.

    Attributes:
        num_heads, num_kv_heads: query heads, and heads of keys and values.
        key_size, value_size: elements per head.
        window: tokens remembered; `None` for all.
        causal: `False` for encoders, which remember nothing between requests.
        shared: the keys and values are those of an earlier layer, so nothing is stored.
    """

    num_heads: int
    num_kv_heads: int
    key_size: int
    value_size: int
    window: int | None = None
    causal: bool = True
    shared: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentAttention:
    """Multi-head latent attention (MLA): one compressed vector a token, whatever the number of heads."""

    num_heads: int
    kv_lora_rank: int
    rope_size: int
    key_size: int
    value_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RecurrentState:
    """A layer with a state of fixed size a sequence (Mamba, gated delta net, RWKV).

    Attributes:
        kind: the mixer's family.
        conv_elements: of the convolution's state, a sequence.
        ssm_elements: of the recurrent state, a sequence.
    """

    kind: Literal["mamba1", "mamba2", "gated-delta-net", "rwkv", "short-conv"]
    conv_elements: int
    ssm_elements: int


Memory = Attention | LatentAttention | RecurrentState


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer: what it weighs, what it remembers, how wide it computes.

    Attributes:
        tensors: its weights.
        memory: what it remembers; several where mixers run side by side (Falcon H1), none for a plain one.
        feed_forward_size: of the dense feed-forward; 0 without one.
        num_experts, num_experts_used, expert_feed_forward_size: of a mixture of experts; 0 without one.
    """

    tensors: tuple[Tensor, ...]
    memory: tuple[Memory, ...] = ()
    feed_forward_size: int = 0
    num_experts: int = 0
    num_experts_used: int = 0
    expert_feed_forward_size: int = 0

    @property
    def weight_bytes(self) -> int:
        """Bytes of its tensors in the file."""
        return sum(tensor.size_bytes for tensor in self.tensors)


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """What the headers say, the same for every format.

    Attributes:
        format: of the weights.
        architecture: as the file names it (`llama` in GGUF, `LlamaForCausalLM` in config.json).
        category: what it is for.
        quantization: of the weights as a person would name it (`Q4_K_M`, `AWQ`); `None` for a plain dtype.
        dtype: of most weights, by bytes, as the file names it.
        parameters: their number.
        hidden_size, vocab_size, num_heads, num_kv_heads: of the text model; the largest where layers differ.
        max_model_len: tokens it was made for, rope scaling applied; `None` for a model without a limit.
        layers: in order.
        others: the tensors outside the layers (embedding, output head, norms).
        tied: the output head is the embedding.
        known: `False` where the architecture is not one that the estimates were made for.
        intermediate_size: the largest feed-forward, for rules of divisibility.
        group_size: elements per quantization group, where the quantization has groups.
        modalities: beside text.
        needs_remote_code: the repository brings Python code that the model cannot be loaded without.
        chat_template: whether it has one.
    """

    format: Format
    architecture: str
    category: Category
    quantization: str | None = None
    dtype: str | None = None
    parameters: int
    hidden_size: int
    vocab_size: int
    num_heads: int
    num_kv_heads: int
    max_model_len: int | None
    layers: tuple[Layer, ...]
    others: tuple[Tensor, ...]
    tied: bool = False
    known: bool = True
    intermediate_size: int = 0
    group_size: int | None = None
    modalities: tuple[str, ...] = ()
    needs_remote_code: bool = False
    chat_template: bool = True

    @property
    def weight_bytes(self) -> int:
        """Bytes of all tensors in the files."""
        return sum(layer.weight_bytes for layer in self.layers) + sum(t.size_bytes for t in self.others)


# ── The machine ────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """A process that holds memory of a device."""

    pid: int
    name: str
    used_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One accelerator. `index` is the driver's own, whatever is visible; `capability` as in `8.9`."""

    index: int
    uuid: str
    vendor: Literal["nvidia", "amd", "ascend", "apple"]
    name: str
    total_bytes: int
    free_bytes: int
    capability: str | None = None
    tenants: tuple[Tenant, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """A backend that is on this machine: `executable` is what starts it (a program, or its Python)."""

    backend: str
    version: str
    executable: str
    size_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """This machine, or one that is imagined (`--hardware`).

    Attributes:
        devices: those that may be used.
        ram_total_bytes, ram_free_bytes: within the cgroup's limit where there is one.
        os: `linux`, `macos` or `windows`; arch: `x86_64` or `arm64`.
        cores: that this process may run on.
        installed: backends found here, the preferred version of each first.
        driver: the NVIDIA driver's version.
    """

    devices: tuple[Device, ...]
    ram_total_bytes: int
    ram_free_bytes: int
    os: Literal["linux", "macos", "windows"]
    arch: Literal["x86_64", "arm64"]
    cores: int = 1
    installed: tuple[Installed, ...] = ()
    driver: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A backend as Python distributions, installed into an environment of its own.

    Attributes:
        distribution: the one whose version is the backend's.
        version: the one that is installed when none is asked for.
        requirements: installed beside it, as pip spells them.
        overrides: requirements that replace what others ask for (uv's `--overrides`).
        build_constraints: likewise for building source distributions.
        variant: names builds of one version that differ (`cpu`); part of the environment's name.
        torch: PyTorch's build, in the words of uv's `--torch-backend`; `None` where it is not needed.
        import_name: the module that must be importable for the environment to be good.
    """

    distribution: str
    version: str
    import_name: str
    requirements: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    build_constraints: tuple[str, ...] = ()
    variant: str = ""
    torch: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A backend that the user installs: aimind only finds it on PATH.

    Attributes:
        names: of its executable, the preferred one first.
        version_args: what makes it print its version.
        version_pattern: a regular expression whose first group is the version.
        remedy: where it comes from, as a hint.
    """

    names: tuple[str, ...]
    version_args: tuple[str, ...]
    version_pattern: str
    remedy: str


# ── What is asked, and what is decided ─────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the user asked, by options or by arguments of the backend. `None`: decide for me.

    Attributes:
        max_model_len: tokens per request (`--context`).
        max_num_seqs: requests at once (`--parallel`).
        devices: indices (`--device`); an empty tuple means the CPU.
        split: shares of the layers per device, in order (`--tensor-split`).
        kv_cache_dtype: `f16`, `bf16`, `q8_0`, `q4_0`, `fp8`.
        env: for the backend's process.
        extra: arguments for the backend that no field holds, passed as they are.
        force: go on where aimind cannot estimate.
    """

    backend: str | None = None
    backend_version: str | None = None
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    devices: tuple[int, ...] | None = None
    tensor_parallel_size: int | None = None
    pipeline_parallel_size: int | None = None
    gpu_layers: int | None = None
    split: tuple[float, ...] | None = None
    batch_size: int | None = None
    ubatch_size: int | None = None
    flash_attention: bool | None = None
    kv_unified: bool | None = None
    kv_cache_dtype: str | None = None
    gpu_memory_utilization: float | None = None
    kv_cache_memory_bytes: int | None = None
    enforce_eager: bool | None = None
    block_size: int | None = None
    dtype: str | None = None
    host: str | None = None
    port: int | None = None
    api_key: str | None = field(default=None, repr=False)
    served_name: str | None = None
    env: Mapping[str, str] = NOTHING
    trust_remote_code: bool | None = None
    extra: tuple[str, ...] = ()
    force: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Bytes of each kind in one place (a device, or host memory).

    Attributes:
        weights_bytes: with padding and repacked copies, where the backend makes them.
        kv_cache_bytes: keys and values.
        state_bytes: of recurrent layers.
        compute_bytes: activations, scratch and output buffers.
        graphs_bytes: captured CUDA graphs.
        overhead_bytes: the driver's context, libraries, pools.
        projector_bytes: of a vision or audio tower in a file of its own.
        exact: whether every component is what the backend allocates, to the byte.
    """

    weights_bytes: int = 0
    kv_cache_bytes: int = 0
    state_bytes: int = 0
    compute_bytes: int = 0
    graphs_bytes: int = 0
    overhead_bytes: int = 0
    projector_bytes: int = 0
    exact: bool = False

    @property
    def total_bytes(self) -> int:
        """The sum of all components."""
        return (
            self.weights_bytes
            + self.kv_cache_bytes
            + self.state_bytes
            + self.compute_bytes
            + self.graphs_bytes
            + self.overhead_bytes
            + self.projector_bytes
        )


@dataclass(frozen=True, slots=True)
class Shard:
    """What one device holds. `layers`: how many, the output head counted as one (llama.cpp's count)."""

    device: Device
    estimate: Estimate
    layers: int | None = None


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a field of the plan has its value: a sentence that names the number that decided."""

    field: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a backend is not used: a sentence."""

    backend: str
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """The backend chosen. `installed` is `False` where serving would install it first."""

    name: str
    version: str
    executable: str
    installed: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What will be done, and why: the document that `aimind plan --json` prints (docs/plan.md).

    Attributes:
        model, metadata: what is served.
        backend: with what; refused: why not with the others.
        max_model_len: tokens a request may have.
        max_num_seqs: requests at once (slots of llama.cpp, sequences of vLLM).
        kv_cache_tokens: tokens that the cache holds, over all requests; `None` where nothing is cached.
        kv_unified: the requests share one cache (llama.cpp).
        batch_size, ubatch_size: tokens per step, logical and physical (llama.cpp); the first is vLLM's
            `max_num_batched_tokens`.
        gpu_layers: on devices, the output head counted first (llama.cpp).
        kv_cache_memory_bytes: what vLLM's cache may take on each device, or in RAM on a CPU.
        shards: per device; host: in RAM.
        url: where the server will answer.
        request: the request as it was completed by the backend's own arguments.
    """

    model: Model
    metadata: Metadata
    backend: Backend
    refused: tuple[Refusal, ...] = ()
    max_model_len: int
    max_num_seqs: int
    kv_cache_tokens: int | None = None
    kv_unified: bool | None = None
    kv_cache_dtype: str | None = None
    kv_cache_memory_bytes: int | None = None
    flash_attention: bool | None = None
    batch_size: int | None = None
    ubatch_size: int | None = None
    tensor_parallel_size: int | None = None
    pipeline_parallel_size: int | None = None
    gpu_layers: int | None = None
    gpu_memory_utilization: float | None = None
    block_size: int | None = None
    shards: tuple[Shard, ...] = ()
    host: Estimate = Estimate()
    reasons: tuple[Reason, ...] = ()
    served_name: str
    address: str
    port: int
    request: Request


# ── The command ────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """How to ask whether the backend is ready.

    Attributes:
        url: to GET; 2xx is an answer.
        bearer_env: the variable of the command's environment that holds the key it wants, if any.
        lie: a regular expression; a body that matches it is not ready, whatever the status says.
    """

    url: str
    bearer_env: str | None = None
    lie: str | None = None


@dataclass(frozen=True, slots=True)
class Signature:
    """What a line of the backend's log means.

    Attributes:
        pattern: a regular expression, searched in the line.
        phase: the phase that begins with it (`loading weights`), or
        cause: what kills the backend, as a sentence, with its remedy.
    """

    pattern: str
    phase: str | None = None
    cause: str | None = None
    remedy: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TextFile:
    """A file that must be written before the start. `mode` as in chmod."""

    path: str
    text: str = field(repr=False)
    mode: int = 0o600


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """How the backend is started and watched. All a supervisor needs.

    Attributes:
        argv: the program and its arguments; never a secret.
        env: added to the environment that aimind was started in.
        secret_env: likewise, and never shown.
        unset_env: names removed from it first.
        files: written before the start.
        cwd: working folder.
        ready: the probe.
        signatures: the log's meaning.
        url: the base URL of its API.
        stop_seconds: patience after each TERM.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = NOTHING
    secret_env: Mapping[str, str] = field(default=NOTHING, repr=False)
    unset_env: tuple[str, ...] = ()
    files: tuple[TextFile, ...] = ()
    cwd: str | None = None
    ready: Probe
    signatures: tuple[Signature, ...] = ()
    url: str
    stop_seconds: float = 10.0
