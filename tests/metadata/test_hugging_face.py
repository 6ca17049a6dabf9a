"""Folders of Hugging Face's form: real files on disk, whole and broken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from aimind.errors import MetadataError, UnsupportedError
from aimind.metadata import from_config
from aimind.metadata.config import Config
from aimind.metadata.expected import tensors_of
from aimind.types import Attention
from tests.metadata.local import read

CONFIG: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 32,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
}


def write(folder: Path, name: str, values: object) -> None:
    (folder / name).write_text(json.dumps(values))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model with every tensor that its config.json implies."""
    write(tmp_path, "config.json", CONFIG)
    arrays = {t.name: np.zeros(t.shape, dtype=np.float32) for t in tensors_of(Config(CONFIG, "config.json"))}
    save_file(arrays, tmp_path / "model.safetensors")
    return tmp_path


def test_a_whole_model(folder: Path) -> None:
    write(folder, "tokenizer_config.json", {"chat_template": "{{ messages }}", "model_max_length": 1e30})
    metadata = read(folder)
    assert (metadata.format, metadata.architecture, metadata.category) == (
        "safetensors",
        "Qwen2ForCausalLM",
        "llm",
    )
    assert (metadata.quantization, metadata.dtype, metadata.tied) == (None, "F32", False)
    assert (metadata.hidden_size, metadata.vocab_size, metadata.max_model_len) == (64, 32, 2048)
    assert (metadata.num_heads, metadata.num_kv_heads, metadata.intermediate_size) == (4, 2, 96)
    assert metadata.known
    assert metadata.chat_template
    assert metadata.weight_bytes == 4 * metadata.parameters
    kept = Attention(num_heads=4, num_kv_heads=2, key_size=16, value_size=16)
    assert [layer.memory for layer in metadata.layers] == [(kept,), (kept,)]


def test_config_alone_gives_the_same(folder: Path) -> None:
    alone = from_config((folder / "config.json").read_bytes(), "config.json")
    whole = read(folder)
    assert alone.weight_bytes == whole.weight_bytes
    assert alone.parameters == whole.parameters
    assert [layer.memory for layer in alone.layers] == [layer.memory for layer in whole.layers]


@pytest.mark.parametrize(
    ("name", "content"), [("chat_template.jinja", "{{ messages }}"), ("chat_template.json", "{}")]
)
def test_a_template_in_a_file_of_its_own(folder: Path, name: str, content: str) -> None:
    assert not read(folder).chat_template
    (folder / name).write_text(content)
    assert read(folder).chat_template


def test_what_lies_in_folders_below_is_not_the_model(folder: Path) -> None:
    (folder / "original").mkdir()
    save_file({"a": np.zeros(9, dtype=np.float32)}, folder / "original" / "model.safetensors")
    write(folder / "original", "config.json", {"model_type": "brandnew"})
    before = read(folder)
    assert before.known
    assert all(tensor.name != "a" for tensor in before.others)


def test_sentence_transformers(folder: Path) -> None:
    write(folder, "modules.json", [])
    write(folder, "sentence_bert_config.json", {"max_seq_length": 256})
    metadata = read(folder)
    assert (metadata.category, metadata.max_model_len) == ("embedding", 256)


QWEN3 = {**CONFIG, "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "head_dim": 16}


@pytest.mark.parametrize(
    ("name", "beside", "category"),
    [
        ("Qwen/Qwen3-0.6B", {}, "llm"),
        ("Qwen/Qwen3-Reranker-0.6B", {}, "reranker"),
        ("Rerankers/Qwen3-0.6B", {}, "llm"),
        ("/models/qwen3_reranker", {}, "reranker"),
        ("me/prerankered", {}, "llm"),
        (
            "Qwen/Qwen3-Embedding-0.6B",
            {
                "modules.json": [],
                "config_sentence_transformers.json": {"model_type": "SentenceTransformer"},
                "1_Pooling/config.json": {"pooling_mode_lasttoken": True},
            },
            "embedding",
        ),
        ("me/mine", {"modules.json": [], "1_LogitScore/config.json": {"true_token_id": 9}}, "reranker"),
        (
            "me/mine",
            {"modules.json": [], "config_sentence_transformers.json": {"model_type": "CrossEncoder"}},
            "reranker",
        ),
    ],
)
def test_one_architecture_for_three_purposes(
    folder: Path, name: str, beside: dict[str, object], category: str
) -> None:
    """Qwen3's language models, embeddings and rerankers have the same config.json."""
    write(folder, "config.json", QWEN3)
    for path, content in beside.items():
        (folder / path).parent.mkdir(exist_ok=True)
        write((folder / path).parent, Path(path).name, content)
    assert read(folder, name).category == category


def test_only_where_a_score_can_be_read_does_a_name_say_so(folder: Path) -> None:
    assert read(folder, "me/llama-reranker").category == "llm"


def test_a_quantization_that_lies_beside_the_configuration(folder: Path) -> None:
    write(
        folder,
        "hf_quant_config.json",
        {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "NVFP4"}},
    )
    metadata = read(folder)
    assert (metadata.quantization, metadata.group_size) == ("NVFP4", 16)
    write(folder, "config.json", {**CONFIG, "quantization_config": {"quant_method": "fp8"}})
    assert read(folder).quantization == "FP8"


GPTQ = {"bits": 4, "group_size": 128, "desc_act": True, "sym": True, "damp_percent": 0.01}
AWQ = {"w_bit": 4, "q_group_size": 64, "zero_point": True, "version": "GEMM"}


@pytest.mark.parametrize(
    ("file_name", "content", "expected"),
    [
        ("quantize_config.json", GPTQ, ("GPTQ", 4, 128, {"separate", "act-order"})),
        ("quantize_config.json", {**GPTQ, "zero_point": False}, ("AWQ", 4, 128, {"separate"})),
        ("quant_config.json", AWQ, ("AWQ", 4, 64, {"separate"})),
    ],
)
def test_old_folders_describe_their_quantization_in_a_file_of_its_own(
    folder: Path, file_name: str, content: dict[str, object], expected: tuple[object, ...]
) -> None:
    write(folder, file_name, content)
    assert read(folder).quantization is None  # no tensor is packed: backends ignore the file
    save_file(
        {"model.layers.0.mlp.up_proj.qweight": np.zeros((8, 96), np.int32)}, folder / "more.safetensors"
    )
    metadata = read(folder)
    found = (metadata.quantization, metadata.quantization_bits, metadata.group_size)
    assert (*found, metadata.quantization_traits) == expected
    write(folder, "config.json", {**CONFIG, "quantization_config": {"quant_method": "gptq", "bits": 8}})
    assert (read(folder).quantization_bits, read(folder).quantization_traits) == (8, frozenset())


# ── Weights that cannot be read ────────────────────────────────────────────────────────────────────────────


def as_pickle(folder: Path, size_bytes: int) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "training_args.bin").write_bytes(bytes(5000))
    with (folder / "pytorch_model.bin").open("wb") as file:
        file.truncate(size_bytes)


def test_pickles_are_weighed_and_config_says_the_rest(folder: Path) -> None:
    expected = read(folder)
    as_pickle(folder, expected.weight_bytes + 1000)
    metadata = read(folder)
    assert metadata.format == "pickle"
    assert metadata.weight_bytes == expected.weight_bytes
    assert [layer.weight_bytes for layer in metadata.layers] == [
        layer.weight_bytes for layer in expected.layers
    ]
    assert metadata.known


def test_pickles_of_another_size_are_not_known(folder: Path) -> None:
    as_pickle(folder, 1 << 20)
    metadata = read(folder)
    assert (metadata.weight_bytes, metadata.parameters, metadata.dtype) == (1 << 20, 1 << 19, None)
    assert not metadata.known


# ── What is refused ────────────────────────────────────────────────────────────────────────────────────────


def test_without_config(folder: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(MetadataError, match=r"neither GGUF files nor a config.json"):
        read(folder)


def test_without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(MetadataError, match=r"a config.json and no weights"):
        read(folder)


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(MetadataError, match=r"neither GGUF files nor a config.json"):
        read(tmp_path)


def test_an_adapter(folder: Path) -> None:
    (folder / "config.json").rename(folder / "adapter_config.json")
    with pytest.raises(MetadataError, match="LoRA adapter"):
        read(folder)


def test_mistral_s_own_format(folder: Path) -> None:
    """Nothing is damaged, so the exit code is that of a model that cannot be served."""
    (folder / "config.json").rename(folder / "params.json")
    with pytest.raises(UnsupportedError, match="Mistral's own format") as caught:
        read(folder)
    assert caught.value.exit_code == 7


def test_weights_of_another_model(folder: Path) -> None:
    write(folder, "config.json", {**CONFIG, "num_hidden_layers": 3})
    with pytest.raises(MetadataError, match="describes 3 layers, the weights have 2"):
        read(folder)


# ── Images ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_pipeline_of_parts(tmp_path: Path) -> None:
    write(tmp_path, "model_index.json", {"_class_name": "FluxPipeline"})
    for part in ("transformer", "vae"):
        (tmp_path / part).mkdir()
        write(tmp_path / part, "config.json", {})
        save_file({"w": np.zeros(8, dtype=np.float32)}, tmp_path / part / "model.safetensors")
    metadata = read(tmp_path)
    assert (metadata.category, metadata.architecture, metadata.known) == ("image", "FluxPipeline", False)
    assert {tensor.name for tensor in metadata.others} == {"transformer/w", "vae/w"}
    assert metadata.weight_bytes == 64
