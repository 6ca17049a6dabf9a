"""What is asked, and what is decided."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Literal

from aimind.types.backend import Backend, bare
from aimind.types.machine import Device
from aimind.types.model import Category, Metadata, Model

API_KEY_VARIABLE = "AIMIND_API_KEY"  # where the user may keep the key that clients must send
TOKEN_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")  # where Hugging Face's client looks for its token
NOTHING: Mapping[str, str] = MappingProxyType({})
Change = Mapping[str, object]  # field of a `Request` -> another value for it


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """What the configuration says of one backend.

    Attributes:
        version: to be used.
        args: for it, as after `--`; where: the file that says them.
        env: for its process.
    """

    version: str | None = None
    args: tuple[str, ...] = ()
    where: str = ""
    env: Mapping[str, str] = field(default_factory=lambda: NOTHING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What was said by the configuration and by variables; what is typed comes before all of it.

    Attributes:
        fields: of the request, that hold such a value -> where that was said.
        general: of these, those that a backend's own arguments come before, too.
        backends: by name, what is said of each.
    """

    fields: Mapping[str, str] = field(default_factory=lambda: NOTHING)
    general: frozenset[str] = frozenset()
    backends: Mapping[str, Preset] = field(default_factory=lambda: MappingProxyType({}))

    def of(self, backend: str) -> Preset:
        """What is said of this backend."""
        return self.backends.get(backend, Preset())


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the user asked, by options or by arguments of the backend; `None`: decide for me.

    A plan holds one too, its `settings`: the same fields after every decision. A launcher renders those that
    its backend has a flag for, and `None` there means that the backend has no such thing.

    Attributes:
        category: what the model shall be used for, where its files say otherwise.
        max_model_len: tokens per request (`--context`).
        max_num_seqs: requests at once (`--parallel`): slots of llama.cpp, sequences of vLLM.
        kv_cache_tokens: tokens that the cache holds over all requests (llama.cpp's `--ctx-size`).
        kv_unified: the requests share the cache's tokens instead of owning an equal part each (llama.cpp).
        kv_cache_dtype: of keys and values: `f16`, `bf16`, `q8_0`, `q4_0`, `fp8`, or `auto` (vLLM's word).
        value_cache_dtype: of values where they differ from the keys (llama.cpp).
        kv_cache_memory_bytes: what the cache may take on each device, or in RAM on a CPU (vLLM).
        batch_size, ubatch_size: tokens per step, logical and physical (llama.cpp).
        max_num_batched_tokens: tokens per step (vLLM).
        data_parallel_size: groups of devices that each hold the whole attention (vLLM, MindIE).
        performance_mode: `balanced`, `interactivity` or `throughput` (vLLM).
        devices: the drivers' indices (`--device`); an empty tuple means the CPU.
        gpu_layers: on devices, the output head counted as one, and first (llama.cpp).
        cpu_moe_layers: layers, the first ones, whose experts stay in RAM (llama.cpp's `--n-cpu-moe`).
        cpu_offload: `False` where no layer may be in RAM (`--no-cpu-offload`).
        swa_full: sliding-window layers remember all tokens (llama.cpp's `--swa-full`).
        split: shares of these layers per device, in order (llama.cpp's `--tensor-split`).
        prompt_cache_mib: prompts remembered in RAM between requests, in MiB (llama.cpp's `--cache-ram`).
        context_checkpoints: copies of windows and recurrent states kept in RAM, a slot (llama.cpp).
        embedding, reranking: the task, where the backend has a switch for it.
        pooling: how one vector is made of those of all tokens: `mean`, `cls`, `last` (llama.cpp).
        runner, convert: the task, and what the model is made into for it (vLLM).
        projector: the file of the vision or audio tower.
        auto_parsers: `False` where no parsers shall be chosen by the model's form (`--no-auto-parsers`).
        tool_call_parser, reasoning_parser: of what the model writes, by the backend's name for it.
        auto_tool_choice: the model may call tools when it sees fit (vLLM's `--enable-auto-tool-choice`).
        chat_template: the user's own: a file, or a name of the backend's.
        api_key: never in argv, logs or plans.
        served_name: the model's name in the API.
        env: for the backend's process.
        extra: arguments for the backend that no field holds, passed as they are.
        force: go on where aimind cannot estimate, and with the backend that is named although it refuses.
        defaults: which of all that nobody typed, and what is said of single backends.
    """

    backend: str | None = None
    backend_version: str | None = None
    category: Category | None = None
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
    cpu_moe_layers: int | None = None
    cpu_offload: bool | None = None
    swa_full: bool | None = None
    split_mode: str | None = None
    split: tuple[float, ...] | None = None
    tensor_parallel_size: int | None = None
    pipeline_parallel_size: int | None = None
    data_parallel_size: int | None = None
    gpu_memory_utilization: float | None = None
    flash_attention: bool | None = None
    prompt_cache_mib: int | None = None
    context_checkpoints: int | None = None
    block_size: int | None = None
    enforce_eager: bool | None = None
    performance_mode: str | None = None
    dtype: str | None = None
    embedding: bool | None = None
    reranking: bool | None = None
    pooling: str | None = None
    runner: str | None = None
    convert: str | None = None
    projector: str | None = None
    address: str | None = None
    port: int | None = None
    api_key: str | None = field(default=None, repr=False)
    served_name: str | None = None
    trust_remote_code: bool | None = None
    auto_parsers: bool | None = None
    tool_call_parser: str | None = None
    reasoning_parser: str | None = None
    auto_tool_choice: bool | None = None
    chat_template: str | None = None
    env: Mapping[str, str] = field(default_factory=lambda: NOTHING)
    extra: tuple[str, ...] = ()
    force: bool = False
    defaults: Defaults = Defaults()

    def version_of(self, backend: str) -> str | None:
        """The version of this backend that is asked for."""
        version = self.backend_version or self.defaults.of(backend).version
        return None if version is None else bare(version)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Bytes of each kind in one place (a device, or host memory).

    Attributes:
        weights_bytes: with the padding of the backend's buffers.
        repacked_bytes: copies of weights in the order of the CPU's kernels, beside the mapped file.
        kv_cache_bytes: keys and values.
        state_bytes: of recurrent layers.
        checkpoint_bytes: copies of windows and states that a server keeps in RAM, in time, to go back to.
        prompt_cache_bytes: prompts that a server remembers in RAM between requests, at most.
        compute_bytes: activations and scratch of one step.
        output_bytes: logits and embeddings that wait to be read.
        graphs_bytes: captured CUDA graphs.
        overhead_bytes: the driver's context, libraries, pools.
        projector_bytes: of a vision or audio tower in a file of its own, and of its computation.
        approximate: the components, by these names, that are not what the backend allocates to the byte.
    """

    weights_bytes: int = 0
    repacked_bytes: int = 0
    kv_cache_bytes: int = 0
    state_bytes: int = 0
    checkpoint_bytes: int = 0
    prompt_cache_bytes: int = 0
    compute_bytes: int = 0
    output_bytes: int = 0
    graphs_bytes: int = 0
    overhead_bytes: int = 0
    projector_bytes: int = 0
    approximate: frozenset[str] = frozenset()

    @property
    def components(self) -> Mapping[str, int]:
        """Each component's bytes by its name."""
        return {name: getattr(self, name) for name in COMPONENTS}

    @property
    def total_bytes(self) -> int:
        """The sum of all components."""
        return sum(self.components.values())

    @property
    def exact(self) -> bool:
        """Whether every component that is there is what the backend allocates, to the byte."""
        return not any(self.components[name] for name in self.approximate)

    def about(self, *names: str) -> Estimate:
        """The same, with these components approximate, too."""
        return replace(self, approximate=self.approximate.union(names))


COMPONENTS = tuple(field.name for field in fields(Estimate) if field.name != "approximate")


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
        shards: per device; host: in RAM; ram_free_bytes: of that.
        kv_cache_tokens: that the cache holds over all requests; `None` where nothing is cached.
        reasons: why.
        sources: component of the estimates -> from what its bytes are known.
        uncounted: arguments of the user that move memory in ways that the plan does not count.
        notes: what the user should know of how the backend takes the request, as sentences.
        measured_as: the kind of measurement that a run of it is (`Measurement.kind`); empty for none.
        compile_cache: `warm` where the code that the backend compiles is there from an earlier start; `None`
            where it compiles nothing, or that is not known.
        scratch: the folder for files that the command brings along; known once it is going to be started.
        strays: paths of safetensors in the model's folder that are not among its files; known likewise.
    """

    model: Model
    metadata: Metadata
    backend: Backend
    settings: Request
    refused: tuple[Refusal, ...] = ()
    shards: tuple[Shard, ...] = ()
    host: Estimate = Estimate()
    ram_free_bytes: int = 0
    kv_cache_tokens: int | None = None
    reasons: tuple[Reason, ...] = ()
    sources: Mapping[str, str] = field(default_factory=lambda: NOTHING)
    uncounted: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    measured_as: str = ""
    compile_cache: Literal["warm", "cold"] | None = None
    scratch: str = ""
    strays: tuple[str, ...] = ()

    @property
    def requests_at_once(self) -> int:
        """How many requests of the full context run at once."""
        sequences = self.settings.max_num_seqs or 1
        if not self.kv_cache_tokens or not self.settings.max_model_len:
            return sequences
        return min(sequences, max(1, self.kv_cache_tokens // self.settings.max_model_len))

    @property
    def is_whole(self) -> bool:
        """Nothing that could be on a device is in RAM."""
        settings = self.settings
        all_layers = settings.gpu_layers in (None, len(self.metadata.layers) + 1)
        return bool(self.shards) and all_layers and not settings.cpu_moe_layers
