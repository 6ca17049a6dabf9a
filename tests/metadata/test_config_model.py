"""A config.json and tensors -> Metadata: lengths, heads, drafts, quantization, tasks."""

from __future__ import annotations

from typing import Any

import pytest

from aimind.errors import MetadataError
from aimind.metadata.config import Config
from aimind.metadata.config_model import Beside, describe, max_model_len
from aimind.metadata.quantization import Quantization
from aimind.types import Attention, Metadata, Tensor

LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 2}


def config(**values: Any) -> Config:
    return Config(values, "config.json")


def tensors(*names: str, dtype: str = "BF16", shape: tuple[int, ...] = (8, 8)) -> list[Tensor]:
    size = {"BF16": 2, "I32": 4, "U8": 1, "F8_E4M3": 1, "F32": 4}[dtype]
    return [Tensor(name, shape, dtype, shape[0] * shape[-1] * size) for name in names]


BLOCKS = ("model.layers.0.self_attn.q_proj.weight", "model.layers.1.self_attn.q_proj.weight")
OUTSIDE = ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight")


def model(*more: Tensor, beside: Beside = Beside(), **values: Any) -> Metadata:  # noqa: B008 (frozen)
    held = [*tensors(*BLOCKS, *OUTSIDE), *more]
    return describe(config(**{**LLAMA, **values}), held, weights="safetensors", beside=beside)


def names(found: tuple[Tensor, ...]) -> set[str]:
    return {tensor.name for tensor in found}


# ── Layers and what is beside them ─────────────────────────────────────────────────────────────────────────


def test_tensors_go_to_their_layers() -> None:
    metadata = model()
    assert [names(layer.tensors) for layer in metadata.layers] == [{name} for name in BLOCKS]
    assert names(metadata.others) == set(OUTSIDE)
    assert metadata.parameters == 5 * 64
    assert metadata.weight_bytes == 5 * 64 * 2
    assert (metadata.dtype, metadata.architecture) == ("BF16", "LlamaForCausalLM")
    assert metadata.known


def test_a_tied_head_is_loaded_once() -> None:
    assert not model().tied
    metadata = model(tie_word_embeddings=True)
    assert metadata.tied
    assert names(metadata.others) == set(OUTSIDE) - {"lm_head.weight"}


def test_without_a_head_it_is_tied() -> None:
    held = tensors(*BLOCKS, "model.embed_tokens.weight")
    assert describe(config(**LLAMA), held, weights="safetensors", beside=Beside()).tied


def test_a_head_that_is_promised_and_missing() -> None:
    """Backends would fill it with random numbers."""
    embedding = [
        *tensors("model.embed_tokens.weight", shape=(32, 8)),
        *tensors("model.norm.weight", shape=(64,)),
    ]
    untied = {**LLAMA, "vocab_size": 32, "tie_word_embeddings": False}

    def read(*more: Tensor, **values: Any) -> Metadata:
        held = [*tensors(*BLOCKS), *embedding, *more]
        return describe(config(**{**untied, **values}), held, weights="safetensors", beside=Beside())

    with pytest.raises(MetadataError, match=r"tie_word_embeddings: false.*lm_head"):
        read()
    assert not read(*tensors("lm_head.weight", shape=(32, 8))).tied
    assert read(*tensors("a_head_of_an_unknown_name", shape=(32, 8))).known
    assert read(tie_word_embeddings=None).tied
    assert not read(architectures=["LlamaModel"]).tied
    # A multimodal model's own value goes before that of its language model.
    assert read(model_type="llava", text_config=untied, tie_word_embeddings=True).known


@pytest.mark.parametrize(
    "name", ["model.layers.2.mlp.up_proj.weight", "mtp.layers.0.mlp.up_proj.weight", "mtp.fc.weight"]
)
def test_drafts_are_apart(name: str) -> None:
    metadata = model(*tensors(name))
    assert names(metadata.draft) == {name}
    assert len(metadata.layers) == 2
    assert name not in names(metadata.others)


@pytest.mark.parametrize(
    "prefix",
    [
        "gpt_neox.layers",
        "transformer.h",
        "backbone.layers",
        "transformer.blocks",
        "model.language_model.layers",
        "encoder.layer",
        "transformer.encoder.layers",
        "llm.model.layers",
    ],
)
def test_layers_by_every_prefix_and_towers_beside(prefix: str) -> None:
    """A tower may be larger and have more layers than the language model: it is none of it."""
    blocks = tensors(f"{prefix}.0.w", f"{prefix}.1.w")
    towers = ("vision_tower.encoder.layers", "visual.blocks", "audio_tower.layers", "vpm.encoder.layers")
    tower = tensors(*(f"{name}.{index}.w" for name in towers for index in range(9)), shape=(99, 99))
    metadata = describe(config(**LLAMA), [*tower, *blocks], weights="safetensors", beside=Beside())
    assert [names(layer.tensors) for layer in metadata.layers] == [{f"{prefix}.0.w"}, {f"{prefix}.1.w"}]
    assert names(metadata.others) == names(tuple(tower))


def test_fewer_layers_than_described() -> None:
    with pytest.raises(MetadataError, match="describes 3 layers, the weights have 2"):
        model(num_hidden_layers=3)


def test_an_unknown_type_is_told_by_its_tensors() -> None:
    metadata = model(model_type="brandnew", num_hidden_layers=None)
    assert not metadata.known
    assert [names(layer.tensors) for layer in metadata.layers] == [{name} for name in BLOCKS]
    assert metadata.weight_bytes == 5 * 64 * 2


def kept(config_values: dict[str, Any], *found: Tensor) -> list[int]:
    """Elements of keys and values a token that each layer of an unknown type remembers at most."""
    values = {"model_type": "brandnew", "architectures": ["BrandNewForCausalLM"], **config_values}
    metadata = describe(config(**values), found, weights="safetensors", beside=Beside())
    assert not metadata.known
    return [
        sum(m.num_kv_heads * (m.key_size + m.value_size) for m in layer.memory if isinstance(m, Attention))
        for layer in metadata.layers
    ]


def test_what_an_unknown_type_remembers_is_bounded_by_its_tensors() -> None:
    norms = tensors("blocks.0.norm.weight", "blocks.1.norm.weight", shape=(64,))
    keys = tensors("blocks.0.k_proj.weight", "blocks.1.k_proj.weight", shape=(16, 64))
    fused = tensors("blocks.0.qkv.weight", "blocks.1.qkv.weight", shape=(96, 64))
    assert kept({}, *norms, *keys) == [32, 32]
    assert kept({}, *norms, *fused) == [64, 64]
    assert kept({}, *norms) == [128, 128]  # as wide as the hidden state
    # What the configuration says counts where it is more, windows do not.
    heads = {"num_attention_heads": 4, "hidden_size": 64, "num_hidden_layers": 2, "sliding_window": 8}
    assert kept(heads, *norms, *keys) == [128, 128]
    assert kept({**heads, "num_key_value_heads": 1}, *norms, *keys) == [32, 32]


def test_both_halves_get_their_layers() -> None:
    held = tensors("model.encoder.layers.0.w", "model.decoder.layers.0.w", "model.decoder.layers.1.w")
    values = {"model_type": "whisper", "is_encoder_decoder": True, "encoder_layers": 1, "decoder_layers": 2}
    metadata = describe(config(**values), held, weights="safetensors", beside=Beside())
    assert [names(layer.tensors) for layer in metadata.layers] == [{tensor.name} for tensor in held]
    assert metadata.category == "speech-to-text"


# ── Lengths ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("values", "length"),
    [
        ({"max_position_embeddings": 4096}, 4096),
        ({"max_position_embeddings": 4096, "rope_scaling": {"type": "linear", "factor": 0.5}}, 2048),
        ({"model_type": "gpt2", "n_positions": 1024}, 1024),
        ({"model_type": "mpt", "max_seq_len": 8192}, 8192),
        ({"model_type": "chatglm", "seq_length": 32768}, 32768),
        ({"max_position_embeddings": 8192, "model_max_length": 131072}, 131072),
        ({"model_type": "chatglm", "max_position_embeddings": 8192, "seq_length": 4096}, 4096),
        ({"model_type": "brandnew"}, None),
        ({"max_position_embeddings": 4096, "rope_scaling": {"type": "linear", "factor": 2.5}}, 10240),
        ({"max_position_embeddings": 4096, "rope_scaling": {"rope_type": "dynamic", "factor": 4}}, 16384),
        ({"max_position_embeddings": 163840, "rope_scaling": {"type": "yarn", "factor": 40}}, 163840),
        ({"max_position_embeddings": 131072, "rope_scaling": {"rope_type": "llama3", "factor": 8}}, 131072),
        ({"max_position_embeddings": 131072, "rope_scaling": {"type": "longrope", "factor": 32}}, 131072),
        ({"max_position_embeddings": 32768, "rope_scaling": {"type": "mrope", "mrope_section": [16]}}, 32768),
        ({"max_position_embeddings": 4096, "rope_scaling": {"type": "linear", "factor": None}}, 4096),
        (
            {
                "model_type": "gemma3_text",
                "max_position_embeddings": 131072,
                "rope_scaling": {"rope_type": "linear", "factor": 8},
            },
            131072,
        ),
        (
            {
                "max_position_embeddings": 4096,
                "rope_parameters": {
                    "sliding_attention": {"rope_type": "default"},
                    "full_attention": {"rope_type": "linear", "factor": 2},
                },
            },
            8192,
        ),
    ],
)
def test_longest_context(values: dict[str, Any], length: int | None) -> None:
    assert max_model_len(config(**{"model_type": "llama", **values}), Beside()) == length


def test_a_tokenizer_bounds_absolute_positions_only() -> None:
    beside = Beside(tokenizer_length=512)
    assert max_model_len(config(model_type="llama", max_position_embeddings=4096), beside) == 4096
    absolute = config(model_type="roberta", max_position_embeddings=514, position_embedding_type="absolute")
    assert max_model_len(absolute, beside) == 512


def test_sentence_transformers_cut_earlier() -> None:
    assert max_model_len(config(model_type="bert"), Beside(sentence_length=256)) == 256


def test_a_model_that_only_keeps_states_has_no_limit() -> None:
    held = tensors("backbone.layers.0.mixer.in_proj.weight")
    values = {"model_type": "mamba2", "num_hidden_layers": 1, "max_position_embeddings": 4096}
    assert describe(config(**values), held, weights="safetensors", beside=Beside()).max_model_len is None


# ── Quantization ───────────────────────────────────────────────────────────────────────────────────────────


MODELOPT, COMPRESSED = frozenset({"modelopt"}), frozenset({"compressed-tensors"})


def group(**weights: Any) -> dict[str, Any]:
    return {"quant_method": "compressed-tensors", "config_groups": {"group_0": weights}}


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, Quantization("GPTQ", 4, 128)),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1}, Quantization("GPTQ", 8, None)),
        ({"quant_method": "awq", "bits": 4, "group_size": 64}, Quantization("AWQ", 4, 64)),
        (
            {"quant_method": "exl2", "bits": 4.65},
            Quantization("EXL2", 5, None, frozenset({"average-bits"})),
        ),
        ({"quant_method": "awq", "bits": 4.0, "group_size": 64}, Quantization("AWQ", 4, 64)),
        ({"quant_method": "awq", "w_bit": 4, "q_group_size": 64}, Quantization("AWQ", 4, 64)),
        ({"group_size": 64, "bits": 4, "mode": "affine"}, Quantization("MLX-4bit", 4, 64)),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, Quantization("FP8", 8, 128)),
        ({"quant_method": "fp8"}, Quantization("FP8", 8, None)),
        ({"quant_method": "mxfp4"}, Quantization("MXFP4", 4, 32)),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, Quantization("BNB-4bit", 4, None)),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, Quantization("BNB-8bit", 8, None)),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, Quantization("NVFP4", 4, 16, MODELOPT)),
        (
            {"quant_method": "modelopt", "quantization": {"quant_algo": "FP8"}},
            Quantization("FP8", 8, None, MODELOPT),
        ),
        ({"quantization": {"quant_algo": "FP8_PB_WO"}}, Quantization("FP8", 8, 128, MODELOPT)),
        (
            {"quantization": {"quant_algo": "W4A16_AWQ", "group_size": 64}},
            Quantization("AWQ", 4, 64, MODELOPT),
        ),
        (
            group(weights={"num_bits": 8, "type": "float", "block_structure": [128, 128]}),
            Quantization("FP8", 8, 128, COMPRESSED | {"weight-only"}),
        ),
        (
            group(weights={"num_bits": 8, "type": "float"}, input_activations={"num_bits": 8}),
            Quantization("FP8", 8, None, COMPRESSED),
        ),
        (
            group(weights={"num_bits": 4, "type": "int", "group_size": 128}, input_activations=None),
            Quantization("W4A16", 4, 128),
        ),
        (
            group(
                weights={"num_bits": 8, "type": "int", "group_size": None}, input_activations={"num_bits": 8}
            ),
            Quantization("W8A8", 8, None),
        ),
        (
            group(weights={"num_bits": 8, "type": "float"}),
            Quantization("FP8", 8, None, COMPRESSED | {"weight-only"}),
        ),
        (
            group(weights={"num_bits": 4, "type": "float", "group_size": 16}),
            Quantization("NVFP4", 4, 16, COMPRESSED),
        ),
        (None, Quantization()),
    ],
)
def test_quantizations(section: dict[str, Any] | None, expected: Quantization) -> None:
    whole = config(quantization_config=section)
    assert Quantization.of(whole, whole) == expected
    nested = config(model_type="llava", text_config={"quantization_config": section})
    assert Quantization.of(nested, nested.language_model()) == expected


def test_mlx_once_wrote_its_quantization_under_another_name() -> None:
    whole = config(quantization={"group_size": 32, "bits": 8})
    assert Quantization.of(whole, whole) == Quantization("MLX-8bit", 8, 32)


def test_packed_weights_count_as_what_they_hold() -> None:
    packed = tensors("model.layers.0.mlp.up_proj.qweight", dtype="I32")
    scales = tensors("model.layers.0.mlp.up_proj.scales", "model.layers.0.mlp.up_proj.qzeros", dtype="I32")
    metadata = model(
        *packed, *scales, quantization_config={"quant_method": "gptq", "bits": 4, "group_size": 128}
    )
    assert metadata.parameters == 5 * 64 + 8 * 64
    assert (metadata.quantization, metadata.group_size) == ("GPTQ", 128)
    eighths = model(
        *tensors("model.layers.0.mlp.up_proj.weight", dtype="F8_E4M3"),
        *tensors("model.layers.0.mlp.up_proj.weight_scale_inv", dtype="F32"),
        quantization_config={"quant_method": "fp8"},
    )
    assert eighths.parameters == 6 * 64


# ── What it is for ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("values", "beside", "category"),
    [
        ({}, [], "llm"),
        ({"architectures": ["Qwen2Model"], "model_type": "qwen2"}, [], "embedding"),
        ({"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}, ["modules.json"], "embedding"),
        ({"architectures": ["BertModel"], "model_type": "bert"}, [], "embedding"),
        (
            {"architectures": ["XLMRobertaForSequenceClassification"], "model_type": "xlm-roberta"},
            [],
            "reranker",
        ),
        ({"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}, [], "llm"),
        (
            {
                "architectures": ["ChatGLMModel"],
                "model_type": "chatglm",
                "auto_map": {"AutoModelForCausalLM": "x"},
            },
            [],
            "llm",
        ),
        ({"vision_config": {"depth": 32}}, [], "vision-language"),
        ({"audio_config": {"d_model": 32}}, [], "llm"),
    ],
)
def test_tasks(values: dict[str, Any], beside: list[str], category: str) -> None:
    assert model(beside=Beside(names=frozenset(beside)), **values).category == category


def test_modalities() -> None:
    assert model().modalities == ()
    assert model(vision_config={"depth": 1}, audio_config={"d_model": 1}).modalities == ("image", "audio")


def test_remote_code_is_needed_for_types_of_ones_own_only() -> None:
    classes = {"AutoConfig": "configuration_x.X"}
    assert not model(auto_map=classes).needs_remote_code
    assert model(auto_map=classes, model_type="brandnew").needs_remote_code
    assert not model(model_type="brandnew").needs_remote_code
    seeing: dict[str, Any] = {"model_type": "internvl_chat", "llm_config": LLAMA}
    assert model(auto_map=classes, **seeing).needs_remote_code


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_attention_heads", 0),
        ("num_key_value_heads", 0),
        ("num_hidden_layers", 0),
        ("hidden_size", "4096"),
        ("hidden_size", []),
        ("hidden_size", 1.5),
        ("vocab_size", 1 << 31),
        ("max_position_embeddings", 0),
        ("max_position_embeddings", -1),
        ("architectures", [5]),
        ("architectures", []),
        ("architectures", "LlamaForCausalLM"),
        ("head_dim", 0),
        ("num_experts", "sixty-four"),
        ("n_routed_experts", -8),
        ("num_experts_per_tok", "two"),
    ],
)
def test_values_that_no_model_has_are_damage(name: str, value: Any) -> None:
    with pytest.raises(MetadataError, match=f"config.json is damaged: {name} is "):
        model(**{name: value})


@pytest.mark.parametrize("number", [0, -2.0, "two", True, float("nan"), float("inf")])
def test_numbers_that_must_be_above_zero(number: Any) -> None:
    scaling = {"rope_type": "linear", "factor": number}
    integers = {"num_bits": number, "type": "int"}
    for name, values in (
        ("factor", {"rope_scaling": scaling}),
        ("factor", {"rope_parameters": {"full_attention": scaling}}),
        ("bits", {"quantization_config": {"quant_method": "gptq", "bits": number}}),
        ("w_bit", {"quantization_config": {"quant_method": "awq", "w_bit": number}}),
        ("num_bits", {"quantization_config": group(weights=integers)}),
    ):
        with pytest.raises(MetadataError, match=f"config.json is damaged: {name} is "):
            model(**values)


def test_null_and_no_experts_are_no_damage() -> None:
    absent: dict[str, Any] = dict.fromkeys(("head_dim", "num_experts", "num_experts_per_tok"))
    assert model(**absent, rope_scaling={"rope_type": "mrope", "factor": None}).known
    assert model(num_experts=0, quantization_config={"quant_method": "gptq", "bits": None}).known
