"""GGUF headers -> Metadata: recorded models against llama.cpp's allocations, families by crafted headers."""

from __future__ import annotations

import gzip
import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from aimind.errors import MetadataError, WrongFileError
from aimind.types import Attention, LatentAttention, Metadata, RecurrentState, Tower
from aimind.types.ggml import TENSOR_TYPES
from tests import models
from tests.metadata.craft import T, write
from tests.metadata.local import read

TRUTH = Path(__file__).parents[1] / "data" / "ground_truth_gguf.json.gz"
BYTES = {kind.name.lower(): kind for kind in TENSOR_TYPES.values()}


@cache
def recorded(name: str) -> Metadata:
    with TemporaryDirectory() as folder:
        models.header(name, Path(folder))
        return read(Path(folder))


# ── The recorded models ────────────────────────────────────────────────────────────────────────────────────


def padded(number: int) -> int:
    return -(-number // 256) * 256


def row_bytes(dtype: str, elements: int) -> int:
    kind = BYTES[dtype]
    return elements // kind.block_elements * kind.block_bytes


def context_bytes(metadata: Metadata, record: dict[str, object]) -> int:
    """What llama.cpp keeps on the CPU for these layers (llama-kv-cache.cpp, llama-memory-recurrent.cpp)."""
    asked = record["params"]
    assert isinstance(asked, dict)
    slots, unified = asked["n_seq"], asked.get("kv_unified", False)
    streams = 1 if unified else slots
    cells = padded(record["n_ctx"] if unified else record["n_ctx_seq"])  # type: ignore[arg-type]
    kept = [memory for layer in metadata.layers for memory in layer.memory]
    widest = max((m.num_kv_heads * m.value_size for m in kept if isinstance(m, Attention)), default=0)
    total = 0
    for memory in kept:
        if isinstance(memory, RecurrentState):
            total += 4 * slots * (memory.conv_elements + memory.ssm_elements)
        elif isinstance(memory, LatentAttention):
            total += streams * cells * row_bytes(asked["ctk"], memory.kv_lora_rank + memory.rope_size)
        elif memory.causal and not memory.shared:
            window = cells
            if memory.window and not asked.get("swa_full"):
                window = min(cells, padded(memory.window * (slots if unified else 1) + asked["n_ubatch"]))
            values = memory.num_kv_heads * memory.value_size if record["fa_on"] else widest
            keys = row_bytes(asked["ctk"], memory.num_kv_heads * memory.key_size)
            total += streams * window * (keys + row_bytes(asked["ctv"], values))
    return total


def test_layers_remember_what_llama_cpp_allocates() -> None:
    """378 loads of 26 files: the cache's bytes are those of the layers, every one."""
    records = [
        record
        for record in json.loads(gzip.decompress(TRUTH.read_bytes()))
        if record["setup"] == "cpu" and "n_seq" in record["params"]
    ]
    assert len({record["file"] for record in records}) == len(models.NAMES)
    wrong = [
        record["id"]
        for record in records
        if sum(buffer["context"] for buffer in record["buffers"].values())
        != context_bytes(recorded(record["file"]), record)
    ]
    assert wrong == []


@pytest.mark.parametrize("name", models.NAMES)
def test_every_recorded_model_is_known_and_whole(name: str) -> None:
    metadata = recorded(name)
    assert metadata.known
    assert metadata.format == "gguf"
    assert metadata.weight_bytes == pytest.approx(models.SIZES[name] - models.HEADER_SIZES[name], rel=1e-4)
    assert all(layer.memory and layer.tensors for layer in metadata.layers)


# Parameters as the models' authors count them; GGUF adds a table of a scaled rope to Llama 3.1 (64 numbers).
PUBLISHED = {
    "llama-3.1-8b.Q4_K_M": 8_030_261_248 + 64,
    "llama-3.1-70b.Q4_K_M": 70_553_706_496 + 64,
    "qwen2.5-7b.Q4_K_M": 7_615_616_512,
    "qwen3-8b.Q4_K_M": 8_190_735_360,
    "qwen3-30b-a3b.Q4_K_M": 30_532_122_624,
    "mistral-7b-v0.3.Q4_K_M": 7_248_023_552,
    "mixtral-8x7b.Q4_K_M": 46_702_792_704,
    "gpt-oss-20b.MXFP4": 20_914_757_184,
    "gemma-2-9b.Q4_K_M": 9_241_705_984,
    "deepseek-v2-lite.Q4_K_M": 15_706_484_224,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_those_that_were_published(name: str) -> None:
    assert recorded(name).parameters == PUBLISHED[name]


def test_what_a_dense_model_is() -> None:
    metadata = recorded("llama-3.1-8b.Q4_K_M")
    assert (metadata.architecture, metadata.category, metadata.quantization) == ("llama", "llm", "Q4_K_M")
    assert (metadata.hidden_size, metadata.vocab_size, metadata.max_model_len) == (4096, 128256, 131072)
    assert (metadata.num_heads, metadata.num_kv_heads, metadata.intermediate_size) == (32, 8, 14336)
    assert metadata.dtype == "Q4_K"
    assert metadata.chat_template
    assert not metadata.tied
    assert len(metadata.layers) == 32


@pytest.mark.parametrize(
    ("name", "quantization", "tied", "category"),
    [
        ("llama-3.1-8b.F16", None, False, "llm"),
        ("qwen2.5-0.5b.Q8_0", "Q8_0", True, "llm"),
        ("gpt-oss-20b.MXFP4", "MXFP4", False, "llm"),
        ("gemma-3-4b.Q4_K_M", "Q4_K_M", True, "llm"),
        ("bge-m3.F16", None, False, "embedding"),
        ("nomic-embed-v1.5.Q8_0", "Q8_0", False, "embedding"),
    ],
)
def test_quantization_head_and_task(name: str, quantization: str | None, tied: bool, category: str) -> None:
    metadata = recorded(name)
    assert (metadata.quantization, metadata.tied, metadata.category) == (quantization, tied, category)


def test_experts_beside_a_dense_first_layer() -> None:
    first, *others = recorded("deepseek-v2-lite.Q4_K_M").layers
    assert (first.feed_forward_size, first.num_experts) == (10944, 0)
    for layer in others:
        assert (layer.num_experts, layer.num_experts_used, layer.expert_feed_forward_size) == (64, 6, 1408)
        assert layer.feed_forward_size == 2 * 1408  # the two experts that every token passes


# ── Families, by the least header that shows them ──────────────────────────────────────────────────────────


def keys(architecture: str, **values: object) -> dict[str, object]:
    """Ordinary keys; a dot is written as two underscores."""
    ordinary = {"block_count": 2, "context_length": 4096, "embedding_length": 64}
    named = {key.replace("__", "."): value for key, value in values.items()}
    own = {f"{architecture}.{key}": value for key, value in {**ordinary, **named}.items()}
    return {"general.architecture": architecture, "tokenizer.ggml.tokens": ["a", "b"], **own}


HEADS = {"attention__head_count": 4, "attention__head_count_kv": 2}
ATTENTION = (T("attn_q.weight", (64, 64)), T("attn_k.weight", (64, 32)), T("ffn_down.weight", (96, 64)))
EMBEDDING = T("token_embd.weight", (64, 2))


def layer(index: int, *tensors: T, stack: str = "blk") -> list[T]:
    return [tensor._replace(name=f"{stack}.{index}.{tensor.name}") for tensor in tensors]


def of(folder: Path, values: dict[str, object], *tensors: T) -> Metadata:
    write(folder, "model.gguf", values, (EMBEDDING, *tensors))
    return read(folder)


def test_a_dense_layer(tmp_path: Path) -> None:
    metadata = of(tmp_path, keys("llama", **HEADS), *layer(0, *ATTENTION), *layer(1, *ATTENTION))
    assert metadata.layers[1].memory == (Attention(num_heads=4, num_kv_heads=2, key_size=16, value_size=16),)
    assert metadata.layers[1].feed_forward_size == 96
    assert metadata.tied
    assert not metadata.chat_template


@pytest.mark.parametrize(
    ("architecture", "extra", "windows"),
    [
        ("gemma2", {}, [4096, None, 4096, None, 4096, None]),
        ("gemma3", {"attention__sliding_window": 8}, [8, 8, 8, 8, 8, None]),
        ("gemma3", {}, [None] * 6),
        ("cohere2moe", {"attention__sliding_window": 8}, [None, 8, 8, 8, None, 8]),
        ("llama4", {}, [8192, 8192, 8192, None, 8192, 8192]),
        ("llama4", {"attention__sliding_window": 0}, [None] * 6),
        ("phi3", {"attention__sliding_window": 2047}, [None] * 6),
        (
            "gemma4",
            {
                "attention__sliding_window": 8,
                "attention__sliding_window_pattern": [False, True, False, True, True, True],
            },
            [None, 8, None, 8, 8, 8],
        ),
        ("olmo2", {"attention__sliding_window": 8, "attention__sliding_window_pattern": 2}, [8, None] * 3),
    ],
)
def test_which_layers_slide(
    architecture: str, extra: dict[str, object], windows: list[int | None], tmp_path: Path
) -> None:
    values = keys(architecture, **HEADS, **extra, block_count=6)
    metadata = of(tmp_path, values, *(tensor for index in range(6) for tensor in layer(index, *ATTENTION)))
    kept = [memory for one in metadata.layers for memory in one.memory]
    assert [memory.window for memory in kept if isinstance(memory, Attention)] == windows


def test_head_counts_and_widths_may_differ_by_layer(tmp_path: Path) -> None:
    values = keys(
        "deci", attention__head_count=[4, 0], attention__head_count_kv=[1, 0], feed_forward_length=[96, 8]
    )
    narrow = T("ffn_down.weight", (8, 64))
    metadata = of(tmp_path, values, *layer(0, *ATTENTION), *layer(1, narrow))
    assert metadata.layers[0].memory == (Attention(num_heads=4, num_kv_heads=1, key_size=16, value_size=16),)
    assert metadata.layers[1].memory == ()
    assert [one.feed_forward_size for one in metadata.layers] == [96, 8]
    assert (metadata.num_heads, metadata.num_kv_heads) == (4, 1)


@pytest.mark.parametrize(
    ("architecture", "extra", "tensors", "state"),
    [
        (
            "mamba",
            {"ssm__conv_kernel": 4, "ssm__inner_size": 128, "ssm__state_size": 16},
            ["ssm_in.weight", "ssm_x.weight", "ssm_out.weight"],
            RecurrentState(kind="mamba1", conv_elements=3 * 128, ssm_elements=16 * 128),
        ),
        (
            "mamba2",
            {"ssm__conv_kernel": 4, "ssm__inner_size": 128, "ssm__state_size": 16, "ssm__group_count": 2},
            ["ssm_in.weight", "ssm_out.weight"],
            RecurrentState(kind="mamba2", conv_elements=3 * (128 + 64), ssm_elements=16 * 128),
        ),
        (
            "rwkv7",
            {"wkv__head_size": 16},
            ["time_mix_output.weight", "channel_mix_value.weight"],
            RecurrentState(kind="rwkv", conv_elements=2 * 64, ssm_elements=64 * 16),
        ),
        (
            "lfm2",
            {"shortconv__l_cache": 3, "attention__head_count_kv": [0, 0], "attention__head_count": 4},
            ["shortconv.conv.weight"],
            RecurrentState(kind="short-conv", conv_elements=2 * 64, ssm_elements=0),
        ),
        (
            "kimi-linear",
            {
                "kda__head_dim": 16,
                "ssm__conv_kernel": 4,
                "attention__head_count": 4,
                "attention__head_count_kv": [0, 0],
            },
            ["ssm_conv1d_q.weight", "attn_q.weight", "attn_k.weight"],
            RecurrentState(kind="gated-delta-net", conv_elements=3 * 3 * 64, ssm_elements=4 * 16 * 16),
        ),
    ],
)
def test_layers_that_keep_a_state(
    architecture: str, extra: dict[str, object], tensors: list[str], state: RecurrentState, tmp_path: Path
) -> None:
    parts = [T(name, (64, 64)) for name in tensors]
    metadata = of(tmp_path, keys(architecture, **extra), *layer(0, *parts), *layer(1, *parts))
    assert [one.memory for one in metadata.layers] == [(state,), (state,)]
    assert metadata.known
    assert metadata.max_model_len is None


def test_a_draft_head_counts_as_a_layer_but_holds_nothing(tmp_path: Path) -> None:
    values = keys("glm4moe", **HEADS, block_count=3, nextn_predict_layers=1)
    extra = layer(2, *ATTENTION, T("nextn.eh_proj.weight", (64,)))
    metadata = of(tmp_path, values, *layer(0, *ATTENTION), *layer(1, *ATTENTION), *extra)
    assert [len(one.tensors) for one in metadata.layers] == [len(ATTENTION), len(ATTENTION), 0]
    assert not metadata.layers[2].memory
    assert {tensor.name for tensor in metadata.draft} == {tensor.name for tensor in extra}


def test_both_halves_of_t5_are_layers_together(tmp_path: Path) -> None:
    values = keys("t5", attention__head_count=4, block_count=2, decoder_block_count=2)
    both = [
        tensor
        for index in range(2)
        for stack in ("enc.blk", "dec.blk")
        for tensor in layer(index, *ATTENTION, stack=stack)
    ]
    metadata = of(tmp_path, values, *both)
    assert [len(one.tensors) for one in metadata.layers] == [2 * len(ATTENTION)] * 2
    kept = [memory for one in metadata.layers for memory in one.memory]
    assert [memory.causal for memory in kept if isinstance(memory, Attention)] == [True, True]


def test_layers_without_rotary_positions(tmp_path: Path) -> None:
    def rotates(architecture: str, **more: object) -> list[bool]:
        values = keys(architecture, **{**HEADS, "block_count": 4, **more})
        blocks = [tensor for index in range(4) for tensor in layer(index, *ATTENTION)]
        memories = [memory for one in of(tmp_path, values, *blocks).layers for memory in one.memory]
        return [memory.rotary for memory in memories if isinstance(memory, Attention)]

    assert rotates("smollm3") == [True, True, True, False]
    assert rotates("cohere2", attention__sliding_window=4096) == [True, True, True, False]
    assert rotates("exaone4") == [True] * 4
    assert rotates("granite", rope__scaling__finetuned=False) == [False] * 4


def test_an_unknown_architecture_remembers_what_its_shapes_say(tmp_path: Path) -> None:
    parts = [T("attn_q.weight", (64, 128)), T("attn_k.weight", (64, 32)), T("attn_v.weight", (64, 48))]
    metadata = of(tmp_path, {"general.architecture": "brandnew"}, *layer(0, *parts))
    (memory,) = metadata.layers[0].memory
    assert isinstance(memory, Attention)
    assert memory.num_kv_heads * memory.key_size == 32
    assert memory.num_kv_heads * memory.value_size >= 48
    assert memory.window is None


def test_an_unknown_architecture_is_told_by_its_tensors(tmp_path: Path) -> None:
    metadata = of(tmp_path, keys("brandnew", **HEADS), *layer(0, *ATTENTION), *layer(1, *ATTENTION))
    assert not metadata.known
    assert len(metadata.layers) == 2
    assert metadata.layers[0].memory


# ── What it is for ─────────────────────────────────────────────────────────────────────────────────────────


def test_tasks(tmp_path: Path) -> None:
    blocks = [*layer(0, *ATTENTION), *layer(1, *ATTENTION)]
    assert of(tmp_path, keys("qwen3", **HEADS, pooling_type=3), *blocks).category == "embedding"
    assert of(tmp_path, keys("qwen3", **HEADS, pooling_type=0), *blocks).category == "llm"
    assert of(tmp_path, keys("qwen3", **HEADS, pooling_type=4), *blocks).category == "reranker"
    assert of(tmp_path, keys("bert", **HEADS), *blocks, T("cls.weight")).category == "reranker"
    image = of(tmp_path, {"general.architecture": "flux"}, T("double_blocks.0.img_attn.qkv.weight"))
    assert (image.category, image.known, image.layers) == ("image", False, ())


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
@pytest.mark.parametrize(
    ("tensor", "kind"),
    [
        ("double_blocks.0.txt_attn.proj.weight", "flux"),
        ("joint_blocks.23.x_block.attn.proj.weight", "sd3"),
        ("output_blocks.11.1.transformer_blocks.0.attn2.to_v.weight", "sd"),
    ],
)
def test_what_paints_is_told_by_its_tensors(tmp_path: Path, prefix: str, tensor: str, kind: str) -> None:
    """stable-diffusion.cpp converts without naming an architecture, and others name one of their own."""
    for name, value, architecture in (("general.name", "x", kind), ("general.architecture", "pix", "pix")):
        image = of(tmp_path, {name: value}, T("first_stage_model.encoder.conv_in.weight"), T(prefix + tensor))
        assert (image.category, image.architecture, image.layers) == ("image", architecture, ())


def test_a_projector_beside_makes_it_see_and_hear(tmp_path: Path) -> None:
    write(
        tmp_path,
        "mmproj-model-f16.gguf",
        {"general.architecture": "clip", "clip.has_vision_encoder": True, "clip.has_audio_encoder": True},
        [T("v.patch_embd.weight", (64, 64))],
    )
    blocks = [*layer(0, *ATTENTION), *layer(1, *ATTENTION)]
    metadata = of(tmp_path, keys("llama", **HEADS), *blocks)
    assert metadata.category == "vision-language"
    assert metadata.modalities == ("image", "audio")
    assert [tensor.size_bytes for tensor in metadata.projector] == [64 * 64 * 4]
    assert all(tensor.name != "v.patch_embd.weight" for tensor in metadata.others)


def beside(folder: Path, kind: str, *tensors: T, **values: object) -> Metadata:
    """A model of 32 elements a token with a projector of that type."""
    clip = {f"clip.{name.replace('__', '.')}": value for name, value in values.items()}
    stated = {"general.architecture": "clip", "clip.projector_type": kind, **clip}
    write(folder, "mmproj-model-f16.gguf", stated, [T("v.patch_embd.weight", (32, 32)), *tensors])
    blocks = [*layer(0, *ATTENTION), *layer(1, *ATTENTION)]
    return of(folder, keys("llama", **HEADS), *blocks)


def test_what_a_projector_says_of_its_tower(tmp_path: Path) -> None:
    told = {"vision__patch_size": 16, "vision__image_size": 768, "vision__spatial_merge_size": 2}
    (tower,) = beside(tmp_path, "qwen3vl_merger", **told).towers
    assert tower == Tower(kind="qwen3vl_merger", image_size=768, patch_size=16, merge=2)
    scaled = beside(tmp_path, "gemma3", vision__patch_size=14, vision__projector__scale_factor=4)
    assert scaled.towers == (Tower(kind="gemma3", image_size=0, patch_size=14, merge=4),)


@pytest.mark.parametrize("patch", [0, (1 << 32) - 1, "16", None])
def test_a_tower_without_a_size_of_patches_is_not_described(tmp_path: Path, patch: object) -> None:
    told = {} if patch is None else {"vision__patch_size": patch}
    assert beside(tmp_path, "gemma3", **told).towers == ()


def test_a_projector_goes_with_models_of_its_width(tmp_path: Path) -> None:
    width = of(tmp_path, keys("llama", **HEADS), *layer(0, *ATTENTION), *layer(1, *ATTENTION)).hidden_size
    assert beside(tmp_path, "gemma3", vision__projection_dim=width).modalities
    # The first converters wrote the width of the picture model's text encoder there.
    assert beside(tmp_path, "mlp", T("mm.2.weight", (4096, width)), vision__projection_dim=768).modalities
    assert beside(tmp_path, "merger", T("mm.1.bias", (width,))).modalities


@pytest.mark.parametrize(
    ("kind", "tensor", "stated"),
    [("gemma3", T("mm.x.weight", (64, 64)), 2560), ("mlp", T("mm.2.weight", (4096, 2560)), 768)],
)
def test_a_projector_of_another_model(tmp_path: Path, kind: str, tensor: T, stated: int) -> None:
    with pytest.raises(WrongFileError, match="does not match the model: its width is") as caught:
        beside(tmp_path, kind, tensor, vision__projection_dim=stated)
    assert caught.value.path == "mmproj-model-f16.gguf"


# ── What is refused ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "does not name its architecture"),
        ({"general.architecture": "clip"}, "a vision or audio projector, not a model"),
        ({"general.architecture": "llama", "general.type": "adapter"}, "a LoRA adapter, not a model"),
        ({"general.architecture": "eagle3"}, "a drafter, not a model"),
        ({"general.architecture": "llama"}, "llama.embedding_length is missing"),
        (keys("llama", **HEADS, block_count=3), "has 2 layers and declares 3"),
        (keys("llama", **HEADS, block_count=1 << 31), "has 2 layers and declares"),
        (keys("llama", attention__head_count=[4]), "head_count is (4,)"),
        (keys("llama", attention__head_count=-4.0), "head_count is -4.0"),
        (keys("llama", attention__head_count="four"), "head_count is 'four'"),
    ],
)
def test_keys_that_make_no_sense(values: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(MetadataError) as caught:
        of(tmp_path, values, *layer(0, *ATTENTION), *layer(1, *ATTENTION))
    assert message in caught.value.message


def test_a_model_without_layers(tmp_path: Path) -> None:
    with pytest.raises(MetadataError, match="has no layers"):
        of(tmp_path, keys("llama", **HEADS))


def test_a_layer_without_tensors(tmp_path: Path) -> None:
    with pytest.raises(MetadataError, match="layer 1 has no tensors but layer 2 has"):
        of(tmp_path, keys("llama", **HEADS, block_count=3), *layer(0, *ATTENTION), *layer(2, *ATTENTION))


# ── Split files ────────────────────────────────────────────────────────────────────────────────────────────


def split(folder: Path, *, parts: int = 2, total: int = 7) -> None:
    """A model of two layers, a layer a file, written as gguf-split does."""
    first = {"split.no": 0, "split.count": parts, "split.tensors.count": total}
    write(
        folder,
        "m-00001-of-00002.gguf",
        {**keys("llama", **HEADS), **first},
        [EMBEDDING, *layer(0, *ATTENTION)],
    )
    second = {"split.no": 1, "split.count": parts, "split.tensors.count": total}
    write(folder, "m-00002-of-00002.gguf", second, layer(1, *ATTENTION))


def test_parts_are_one_model(tmp_path: Path) -> None:
    split(tmp_path)
    metadata = read(tmp_path)
    assert len(metadata.layers) == 2
    assert all(len(one.tensors) == 3 for one in metadata.layers)


def test_a_first_part_without_tensors(tmp_path: Path) -> None:
    """As gguf-split writes it with --no-tensor-first-split."""
    counts = {"split.count": 2, "split.tensors.count": 7}
    first = {**keys("llama", **HEADS), "split.no": 0, **counts}
    write(tmp_path, "m-00001-of-00002.gguf", first, [])
    tensors = [EMBEDDING, *layer(0, *ATTENTION), *layer(1, *ATTENTION)]
    write(tmp_path, "m-00002-of-00002.gguf", {"split.no": 1, **counts}, tensors)
    assert len(read(tmp_path).layers) == 2


def test_part_numbers_of_any_width(tmp_path: Path) -> None:
    split(tmp_path)
    (tmp_path / "m-00001-of-00002.gguf").rename(tmp_path / "m-1-of-2.gguf")
    (tmp_path / "m-00002-of-00002.gguf").rename(tmp_path / "m-2-of-2.gguf")
    assert len(read(tmp_path).layers) == 2


def test_a_missing_part(tmp_path: Path) -> None:
    split(tmp_path)
    (tmp_path / "m-00002-of-00002.gguf").unlink()
    with pytest.raises(MetadataError, match="m has 2 parts, and only 1"):
        read(tmp_path)


def test_a_part_under_another_name(tmp_path: Path) -> None:
    split(tmp_path)
    (tmp_path / "m-00002-of-00002.gguf").unlink()
    (tmp_path / "m-00001-of-00002.gguf").rename(tmp_path / "whole.gguf")
    with pytest.raises(MetadataError, match="one of 2 parts, and only 1"):
        read(tmp_path)


def test_parts_with_other_tensors_than_promised(tmp_path: Path) -> None:
    split(tmp_path, total=8)
    with pytest.raises(MetadataError, match="hold 7 tensors instead of 8"):
        read(tmp_path)


def test_parts_that_hold_the_same_tensor(tmp_path: Path) -> None:
    split(tmp_path, total=8)
    second = {"split.no": 1, "split.count": 2}
    write(tmp_path, "m-00002-of-00002.gguf", second, [EMBEDDING, *layer(1, *ATTENTION)])
    with pytest.raises(MetadataError, match=r"two parts of .* hold the tensor 'token_embd.weight'"):
        read(tmp_path)


def test_several_models_at_once(tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        write(tmp_path, name, keys("llama", **HEADS), [EMBEDDING])
    with pytest.raises(MetadataError, match="several models"):
        read(tmp_path)
