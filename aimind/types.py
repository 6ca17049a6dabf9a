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
        draft: the tensors of layers that only speculative decoding loads (multi-token prediction).
        projector: the tensors of a vision or audio tower in a file of its own (mmproj).
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
    draft: tuple[Tensor, ...] = ()
    projector: tuple[Tensor, ...] = ()
    tied: bool = False
    known: bool = True
    intermediate_size: int = 0
    group_size: int | None = None
    modalities: tuple[str, ...] = ()
    needs_remote_code: bool = False
    chat_template: bool = True

    @property
    def weight_bytes(self) -> int:
        """Bytes of the model's own tensors in the files: layers and others."""
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
    """A backend that is on this machine: `executable` is what starts it (a program, or its Python).

    `problem`: why it cannot be used although it is here, as a sentence.
    """

    backend: str
    version: str
    executable: str
    size_bytes: int | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """A backend of one version, as a plan names it. `installed`: `False` where serving installs it first."""

    name: str
    version: str
    executable: str
    installed: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """This machine, or one that is imagined (`--hardware`).

    Attributes:
        devices: those that may be used.
        ram_total_bytes, ram_free_bytes: within the cgroup's limit where there is one.
        os: `linux`, `macos` or `windows`; arch: `x86_64` or `arm64`.
        cores: that this process may run on.
        backends: that are here or can be installed here, the preferred version of each first.
        driver: the NVIDIA driver's version.
    """

    devices: tuple[Device, ...]
    ram_total_bytes: int
    ram_free_bytes: int
    os: Literal["linux", "macos", "windows"]
    arch: Literal["x86_64", "arm64"]
    cores: int = 1
    backends: tuple[Backend, ...] = ()
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
        index: of packages, instead of the usual one, where this build is only there.
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
    index: str | None = None


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


@dataclass(frozen=True, slots=True, kw_only=True)
class LayeredMemory:
    """How the llama.cpp family spends memory: whole layers on devices, the rest in RAM.

    Attributes:
        vendors: of the devices that it can use.
        slots: requests at once unless asked otherwise.
        shared_slots: several requests can share one cache (`kv_unified`).
        batch_size, ubatch_size: tokens per step, logical and physical, that the launcher sets.
        flash_attention: that the launcher sets.
        full_window_cache: sliding-window layers keep all tokens (llama.cpp's `swa_full`).
        outputs_per_slot: logits that one step may ask for, a slot; `None` for every token of the batch.
        checkpoints: copies of windows and states that the server keeps a slot, unless asked otherwise.
        cache_dtypes: that the KV cache may have.
    """

    vendors: tuple[str, ...] = ("nvidia", "apple")
    slots: int = 4
    shared_slots: bool = True
    batch_size: int = 2048
    ubatch_size: int = 512
    flash_attention: bool = True
    full_window_cache: bool = False
    outputs_per_slot: int | None = 1
    checkpoints: int = 32
    cache_dtypes: tuple[str, ...] = ("f16", "bf16", "f32", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")


@dataclass(frozen=True, slots=True, kw_only=True)
class PagedMemory:
    """How vLLM and its like spend memory: a share of every device, cut by tensor and pipeline parallelism.

    Attributes:
        vendors: of the devices that it can use.
        utilization: the share of a device's total memory that is taken at most, unless asked otherwise.
        max_num_seqs: sequences at once unless asked otherwise.
        max_num_batched_tokens: tokens per step unless asked otherwise.
        block_size: tokens per block of the cache on a device; cpu_block_size: in RAM.
        cache_dtypes: that the KV cache may have.
    """

    vendors: tuple[str, ...] = ("nvidia",)
    utilization: float = 0.9
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 2048
    block_size: int = 16
    cpu_block_size: int = 128
    cache_dtypes: tuple[str, ...] = ("auto", "fp8", "fp8_e4m3", "fp8_e5m2")


# ── What is asked, and what is decided ─────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the user asked, by options or by arguments of the backend; `None`: decide for me.

    A plan holds one too, its `settings`: the same fields after every decision. A launcher renders those that
    its backend has a flag for, and `None` there means that the backend has no such thing.

    Attributes:
        max_model_len: tokens per request (`--context`).
        max_num_seqs: requests at once (`--parallel`): slots of llama.cpp, sequences of vLLM.
        kv_cache_tokens: tokens that the cache holds over all requests (llama.cpp's `--ctx-size`).
        kv_unified: the requests share the cache's tokens instead of owning an equal part each (llama.cpp).
        kv_cache_dtype: of keys and values: `f16`, `bf16`, `q8_0`, `q4_0`, `fp8`, or `auto` (vLLM's word).
        value_cache_dtype: of values where they differ from the keys (llama.cpp).
        kv_cache_memory_bytes: what the cache may take on each device, or in RAM on a CPU (vLLM).
        batch_size, ubatch_size: tokens per step, logical and physical (llama.cpp).
        max_num_batched_tokens: tokens per step (vLLM).
        devices: the drivers' indices (`--device`); an empty tuple means the CPU.
        gpu_layers: on devices, the output head counted as one, and first (llama.cpp).
        split: shares of these layers per device, in order (llama.cpp's `--tensor-split`).
        prompt_cache_mib: prompts remembered in RAM between requests, in MiB (llama.cpp's `--cache-ram`).
        context_checkpoints: copies of windows and recurrent states kept in RAM, a slot (llama.cpp).
        embedding, reranking: the task, where the backend has a switch for it.
        projector: the file of the vision or audio tower.
        api_key: never in argv, logs or plans.
        served_name: the model's name in the API.
        env: for the backend's process.
        extra: arguments for the backend that no field holds, passed as they are.
        force: go on where aimind cannot estimate.
    """

    backend: str | None = None
    backend_version: str | None = None
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    kv_cache_tokens: int | None = None
    kv_unified: bool | None = None
    kv_cache_dtype: str | None = None
    value_cache_dtype: str | None = None
    kv_cache_memory_bytes: int | None = None
    batch_size: int | None = None
    ubatch_size: int | None = None
    max_num_batched_tokens: int | None = None
    devices: tuple[int, ...] | None = None
    gpu_layers: int | None = None
    split_mode: str | None = None
    split: tuple[float, ...] | None = None
    tensor_parallel_size: int | None = None
    pipeline_parallel_size: int | None = None
    gpu_memory_utilization: float | None = None
    flash_attention: bool | None = None
    prompt_cache_mib: int | None = None
    context_checkpoints: int | None = None
    block_size: int | None = None
    enforce_eager: bool | None = None
    dtype: str | None = None
    embedding: bool | None = None
    reranking: bool | None = None
    projector: str | None = None
    address: str | None = None
    port: int | None = None
    api_key: str | None = field(default=None, repr=False)
    served_name: str | None = None
    trust_remote_code: bool | None = None
    env: Mapping[str, str] = field(default_factory=lambda: NOTHING)
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
class Plan:
    """What will be done, and why: the document that `aimind plan --json` prints (docs/plan.md).

    Attributes:
        model, metadata: what is served.
        backend: with what; refused: why not with the others.
        settings: the request with every decision made.
        shards: per device; host: in RAM.
        kv_cache_tokens: that the cache holds over all requests; `None` where nothing is cached.
        reasons: why.
    """

    model: Model
    metadata: Metadata
    backend: Backend
    settings: Request
    refused: tuple[Refusal, ...] = ()
    shards: tuple[Shard, ...] = ()
    host: Estimate = Estimate()
    kv_cache_tokens: int | None = None
    reasons: tuple[Reason, ...] = ()


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
        unset_env: names removed from it first; `LLAMA_ARG_*` stands for all that begin so.
        files: written before the start.
        cwd: working folder.
        ready: the probe.
        signatures: the log's meaning.
        url: the base URL of its API.
        stop_seconds: patience after each TERM.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=lambda: NOTHING)
    secret_env: Mapping[str, str] = field(default_factory=lambda: NOTHING, repr=False)
    unset_env: tuple[str, ...] = ()
    files: tuple[TextFile, ...] = ()
    cwd: str | None = None
    ready: Probe
    signatures: tuple[Signature, ...] = ()
    url: str
    stop_seconds: float = 10.0
