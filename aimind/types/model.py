"""What is served: a reference, the model that it resolved to, and what the headers say."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

INDEX_NAME = "model.safetensors.index.json"  # which files vLLM, SGLang and transformers load
_SPLIT = re.compile(
    r"(?P<stem>.+)-(?P<number>\d{1,9})-of-(?P<count>\d{1,9})\.(?:gguf|safetensors|bin)", re.IGNORECASE
)
_PROJECTOR = re.compile(r"(?<![^\W_])mmproj(?![^\W_])")
OTHER_LAYERS = "other layers"  # the part of a model in mixed precision that has no name of its own
Source = Literal["huggingface", "modelscope", "local", "demo"]
Format = Literal["gguf", "safetensors", "ctranslate2", "pickle"]
Category = Literal[
    "llm", "vision-language", "embedding", "reranker", "image", "speech-to-text", "text-to-speech"
]


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
    """One file of a model: its path inside the repository, its size, and its hash where the hub has one.

    Attributes:
        git_sha1: of the content as a Git blob, as Hugging Face lists it for small files.
        format: `gguf` for a local file that has no suffix and begins with GGUF's magic number.
    """

    path: str
    size_bytes: int
    sha256: str | None = None
    git_sha1: str | None = None
    format: Literal["", "gguf"] = ""

    @property
    def is_gguf(self) -> bool:
        """A model's, or its projector's."""
        return self.format == "gguf" or self.path.lower().endswith(".gguf")

    @property
    def is_projector(self) -> bool:
        """A vision or audio tower in a GGUF file of its own: `mmproj` is a word of its name."""
        name = self.path.rpartition("/")[2].lower()
        return name.endswith(".gguf") and _PROJECTOR.search(name) is not None


@dataclass(frozen=True, slots=True)
class Split:
    """Which part of split weights a file is: part 2 of 3 for `stem-00002-of-00003.gguf`."""

    stem: str
    number: int
    count: int


def split_of(path: str) -> Split | None:
    """The part that the file's name says it is; `None` for a file that is not split."""
    match = _SPLIT.fullmatch(path)
    return Split(match["stem"], int(match["number"]), int(match["count"])) if match else None


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
class WeightGroup:
    """The weights of one part of a model in mixed precision.

    Attributes:
        part: what a person calls it: `attention`, `experts`, `other layers`.
        quantization, bits, group_size, traits: of its weights, as `Metadata` has them of the whole.
    """

    part: str
    quantization: str
    bits: int
    group_size: int | None = None
    traits: frozenset[str] = frozenset()


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
        rotary: queries and keys are rotated by their positions; in some models only in some layers.
    """

    num_heads: int
    num_kv_heads: int
    key_size: int
    value_size: int
    window: int | None = None
    causal: bool = True
    shared: bool = False
    rotary: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentAttention:
    """Multi-head latent attention (MLA): one compressed vector a token, whatever the number of heads.

    Attributes:
        indexer_size: elements of the key that a sparse layer caches beside it to choose tokens by; 0 without.
        indexer_top_k: tokens that such a layer chooses.
    """

    num_heads: int
    kv_lora_rank: int
    rope_size: int
    key_size: int
    value_size: int
    indexer_size: int = 0
    indexer_top_k: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tower:
    """What a projector's header says of its vision tower.

    Attributes:
        kind: llama.cpp's name of the projector (`clip.projector_type`).
        image_size, patch_size: of one side, in pixels.
        merge: patches of one side that become one token.
    """

    kind: str
    image_size: int
    patch_size: int
    merge: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RecurrentState:
    """A layer with a state of fixed size a sequence (Mamba, gated delta net, RWKV).

    Attributes:
        kind: the mixer's family.
        conv_elements: of the convolution's state, a sequence.
        ssm_elements: of the recurrent state, a sequence.
        num_heads, num_groups: of Mamba 2, and of a gated delta net those of values and of keys, which tensor
            parallelism divides; 0 where not told.
        group_channels: of the convolution's channels, those of one group.
    """

    kind: Literal["mamba1", "mamba2", "gated-delta-net", "rwkv", "short-conv"]
    conv_elements: int
    ssm_elements: int
    num_heads: int = 0
    num_groups: int = 0
    group_channels: int = 0


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
class Chat:
    """How one chats with a model, where its form tells.

    Attributes:
        template: the texts of its chat templates, one after the other.
        tokens: that its tokenizer has beside the vocabulary (`<think>`), where there is a template.
    """

    template: str = ""
    tokens: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """What the headers say, the same for every format.

    Attributes:
        format: of the weights.
        architecture: as the file names it (`llama` in GGUF, `LlamaForCausalLM` in config.json).
        category: what it is for.
        quantization: of the weights as a person would name it (`Q4_K_M`, `AWQ`); `None` for a plain dtype.
            In mixed precision it names all parts: `FP8 attention, NVFP4 experts`.
        mixture: these parts; what depends on the quantization is judged of each (`by_quantization`).
        quantization_bits: of a quantized weight; `None` where it is not quantized, or for GGUF.
        quantization_traits: of GPTQ `asymmetric`, and `act-order` where groups follow the activations; of FP8
            `per-channel` where each row of weights has a scale, and activations are computed in FP8 too;
            `average-bits` where the bits are an average, rounded up here;
            `weight-only` where activations are not in FP8. `modelopt` and `compressed-tensors` name the
            library that has written them, and `mixed` a model in mixed precision. `separate` means that not
            config.json describes the quantization, but quantize_config.json or quant_config.json.
        dtype: of most weights, by bytes, as the file names it.
        parameters: their number.
        hidden_size, vocab_size, num_heads, num_kv_heads: of the text model; the largest where layers differ.
        max_model_len: tokens it was made for, rope scaling applied; `None` for a model without a limit.
        layers: in order.
        others: the tensors outside the layers (embedding, output head, norms).
        draft: the tensors of layers that only speculative decoding loads (multi-token prediction).
        projector: the tensors of a vision or audio tower in a file of its own (mmproj).
        towers: of the vision towers among them.
        tied: the output head is the embedding.
        known: `False` where the architecture is not one that the estimates were made for.
        intermediate_size: the largest feed-forward, for rules of divisibility.
        group_size: elements per quantization group, where the quantization has groups.
        modalities: beside text.
        remote_code: the Python of its own that it names: `modeling_x.X` for class X of modeling_x.py,
            `owner/other--modeling_x.X` for that of another repository, or a file that calls Python.
        needs_remote_code: the model cannot be loaded without it.
        chat_template: whether it has one.
        chat: what that says, for folders of Hugging Face's form.
        deepstack: the number of first layers that image features are added to, beside the input.
        defects: why llama.cpp does not load a GGUF file, as half a sentence that names the key, for each key.
        made_for: what its files say that it is for, where `category` is what the user wants instead.
    """

    format: Format
    architecture: str
    category: Category
    quantization: str | None = None
    quantization_bits: int | None = None
    quantization_traits: frozenset[str] = frozenset()
    mixture: tuple[WeightGroup, ...] = ()
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
    towers: tuple[Tower, ...] = ()
    tied: bool = False
    known: bool = True
    intermediate_size: int = 0
    group_size: int | None = None
    modalities: tuple[str, ...] = ()
    remote_code: tuple[str, ...] = ()
    needs_remote_code: bool = False
    chat_template: bool = True
    chat: Chat = field(default_factory=Chat, repr=False)
    deepstack: int = 0
    defects: tuple[str, ...] = ()
    made_for: Category | None = None

    def by_quantization(self) -> tuple[Metadata, ...]:
        """The model once for each part in mixed precision, as if all were quantized so; else itself alone.

        Layers keep of what they compute only what the part is of: those of attention have no experts.
        """
        if not self.mixture:
            return (self,)
        named = frozenset(group.part for group in self.mixture)
        return tuple(
            replace(
                self,
                quantization=group.quantization,
                quantization_bits=group.bits,
                quantization_traits=group.traits,
                group_size=group.group_size,
                mixture=(),
                layers=tuple(_reduced(layer, group.part, named) for layer in self.layers),
            )
            for group in self.mixture
        )

    @property
    def pools(self) -> bool:
        """It makes a vector or a score of a whole text at once, and remembers nothing between requests."""
        return self.category in ("embedding", "reranker")

    @property
    def whole_texts(self) -> bool:
        """A step has to hold all of a text: but not where its last token knows those of steps before."""
        return self.pools and self.made_for not in ("llm", "vision-language")

    @property
    def weight_bytes(self) -> int:
        """Bytes of the model's own tensors in the files: layers and others."""
        return sum(layer.weight_bytes for layer in self.layers) + sum(t.size_bytes for t in self.others)


def _reduced(layer: Layer, part: str, named: frozenset[str]) -> Layer:
    """What one part of a layer computes; `other layers` are all parts that have no name of their own."""

    def is_meant(name: str) -> bool:
        return part == name or (part == OTHER_LAYERS and name not in named)

    if not is_meant("attention") and not is_meant("mixers"):
        layer = replace(layer, memory=())
    if not is_meant("feed-forward"):
        layer = replace(layer, feed_forward_size=0)
    if not is_meant("experts"):
        layer = replace(layer, num_experts=0, num_experts_used=0, expert_feed_forward_size=0)
    return layer
