"""The demo model's two forms: small, and the same model."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import load_file

DEMO = Path(__file__).parents[1] / "aimind" / "demo"
GGUF = DEMO / "aimind-demo-F16.gguf"
FOLDER = DEMO / "huggingface"
MEGABYTE = 10**6


def test_each_form_is_less_than_a_megabyte() -> None:
    assert GGUF.stat().st_size < MEGABYTE
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < MEGABYTE


def test_heads_have_a_size_that_all_backends_have_kernels_for() -> None:
    config = json.loads((FOLDER / "config.json").read_text())
    assert config["head_dim"] >= 32
    assert config["hidden_size"] == config["head_dim"] * config["num_attention_heads"]


def test_both_forms_hold_the_same_weights() -> None:
    folder = load_file(FOLDER / "model.safetensors")
    file = {tensor.name: tensor.data for tensor in gguf.GGUFReader(GGUF).tensors}
    assert len(folder) == len(file)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
    for name, weight in folder.items():
        found = file[names.get_name(name, try_suffixes=(".weight",)) or ""]
        if name.endswith(("q_proj.weight", "k_proj.weight")):  # llama.cpp rotates neighbours, not halves
            paired = weight.reshape(-1, 2, 32, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)
        else:
            paired = weight
        np.testing.assert_array_equal(found, paired.astype(found.dtype))


def test_both_forms_have_the_same_template_and_tokens() -> None:
    fields = gguf.GGUFReader(GGUF).fields
    tokenizer = json.loads((FOLDER / "tokenizer.json").read_text())
    config = json.loads((FOLDER / "tokenizer_config.json").read_text())
    assert fields["tokenizer.chat_template"].contents() == config["chat_template"]
    vocabulary = tokenizer["model"]["vocab"]
    assert fields["tokenizer.ggml.tokens"].contents() == sorted(vocabulary, key=vocabulary.__getitem__)


def test_no_file_names_a_machine() -> None:
    for path in DEMO.rglob("*"):
        if path.is_file():
            assert b"/home/" not in path.read_bytes()
            assert b"_name_or_path" not in path.read_bytes()
