"""The demo model's files: a Hugging Face folder and a GGUF file with the same weights and the same tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
from safetensors.numpy import save

Weights = Mapping[str, npt.NDArray[np.float16]]

TEXT, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Two heads of 64: attention kernels everywhere have that size, and two devices can share them. Every row is a
# multiple of 32, the block of most quantizations. Spelled as all versions of transformers read it.
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 128,
    "initializer_range": 0.02,
    "intermediate_size": 256,
    "max_position_embeddings": 8192,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "float16",
    "use_cache": True,
    "vocab_size": 384,
}


def write_huggingface(folder: Path, *, weights: Weights, tokenizer: str) -> None:
    """Write the folder that vLLM and transformers read. `tokenizer` is the content of tokenizer.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_bytes(save(dict(weights), metadata={"format": "pt"}))
    (folder / "tokenizer.json").write_text(tokenizer + "\n", encoding="utf-8")
    write_json(folder / "config.json", CONFIG)
    ids = ("bos_token_id", "eos_token_id", "pad_token_id")
    write_json(folder / "generation_config.json", {name: CONFIG[name] for name in ids})
    write_json(
        folder / "tokenizer_config.json",
        {
            "bos_token": TEXT,
            "chat_template": CHAT_TEMPLATE,
            "clean_up_tokenization_spaces": False,
            "eos_token": END,
            "model_max_length": CONFIG["max_position_embeddings"],
            "pad_token": TEXT,
            "tokenizer_class": "PreTrainedTokenizerFast",
        },
    )


def write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write_gguf(path: Path, *, weights: Weights, tokenizer: str) -> None:
    """Write the file that llama.cpp reads: the same numbers under its names, norms as float32 as it wants."""
    writer = gguf.GGUFWriter(path, "llama")
    add_description(writer)
    add_tokens(writer, json.loads(tokenizer))
    layers = CONFIG["num_hidden_layers"]
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, layers)
    for name, weight in weights.items():
        to = names.get_name(name, try_suffixes=(".weight",))
        if to is None:
            raise SystemExit(f"{name} has no name in GGUF")
        if weight.ndim == 1:
            writer.add_tensor(to, weight.astype(np.float32))
        elif name.endswith(("q_proj.weight", "k_proj.weight")):
            writer.add_tensor(to, interleaved(weight))
        else:
            writer.add_tensor(to, weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def interleaved(weight: npt.NDArray[np.float16]) -> npt.NDArray[np.float16]:
    """Rows in the order that llama.cpp's `llama` rotates: neighbours are a pair, not the halves of a head."""
    rows, columns = weight.shape
    half = int(CONFIG["head_dim"]) // 2
    paired = weight.reshape(rows // (2 * half), 2, half, columns).swapaxes(1, 2)
    return np.ascontiguousarray(paired).reshape(rows, columns)


def add_description(writer: gguf.GGUFWriter) -> None:
    writer.add_type("model")
    writer.add_name("aimind demo")
    writer.add_description("Says that it is the demo model of aimind, whatever it is asked.")
    writer.add_license("apache-2.0")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(int(CONFIG["max_position_embeddings"]))
    writer.add_embedding_length(int(CONFIG["hidden_size"]))
    writer.add_block_count(CONFIG["num_hidden_layers"])
    writer.add_feed_forward_length(int(CONFIG["intermediate_size"]))
    writer.add_head_count(int(CONFIG["num_attention_heads"]))
    writer.add_head_count_kv(int(CONFIG["num_key_value_heads"]))
    writer.add_key_length(int(CONFIG["head_dim"]))
    writer.add_value_length(int(CONFIG["head_dim"]))
    writer.add_rope_dimension_count(int(CONFIG["head_dim"]))
    writer.add_rope_freq_base(float(CONFIG["rope_theta"]))
    writer.add_layer_norm_rms_eps(float(CONFIG["rms_norm_eps"]))
    writer.add_vocab_size(int(CONFIG["vocab_size"]))


def add_tokens(writer: gguf.GGUFWriter, tokenizer: dict[str, Any]) -> None:
    vocabulary = tokenizer["model"]["vocab"]
    special = {token["content"] for token in tokenizer["added_tokens"]}
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(
        [gguf.TokenType.CONTROL if token in special else gguf.TokenType.NORMAL for token in tokens]
    )
    writer.add_token_merges([" ".join(merge) for merge in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(CONFIG["bos_token_id"])
    writer.add_eos_token_id(CONFIG["eos_token_id"])
    writer.add_pad_token_id(CONFIG["pad_token_id"])
    writer.add_add_bos_token(False)  # noqa: FBT003 - the writer's own signature
    writer.add_chat_template(CHAT_TEMPLATE)
