"""The demo model with some of its keys changed or left out, and what llama.cpp says to each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import gguf

DEMO = next((Path(__file__).parents[2] / "aimind" / "demo").glob("*.gguf"))
# Changes (`None`: left out), and a word of the sentence where build 11549 of llama.cpp refuses the file.
REFUSED: tuple[tuple[Mapping[str, int | None], str], ...] = (
    ({"llama.context_length": None}, "llama.context_length"),
    ({"llama.embedding_length": None}, "llama.embedding_length"),
    ({"llama.embedding_length": 0}, "llama.embedding_length"),
    ({"llama.embedding_length": 32}, "llama.embedding_length"),
    ({"llama.embedding_length": 2**31 - 1}, "llama.embedding_length"),
    ({"llama.attention.head_count": 2**31 - 1}, "llama.attention.head_count"),
    ({"llama.attention.head_count": 1024}, "llama.attention.head_count"),
    ({"llama.attention.head_count_kv": 2**31 - 1}, "llama.attention.head_count_kv"),
    ({"llama.attention.key_length": 2**31 - 1}, "llama.attention.key_length"),
    ({"llama.feed_forward_length": 2**31 - 1}, "llama.feed_forward_length"),
    ({"llama.block_count": 10**6}, "layers"),
    ({"llama.block_count": None}, "llama.block_count"),
    ({"llama.block_count": 0}, "layers"),
    ({"llama.block_count": 1}, "layers"),
    ({"llama.block_count": 3}, "layers"),
    ({"llama.feed_forward_length": None}, "llama.feed_forward_length"),
    ({"llama.feed_forward_length": 0}, "llama.feed_forward_length"),
    ({"llama.feed_forward_length": 17}, "llama.feed_forward_length"),
    ({"llama.attention.head_count": None}, "llama.attention.head_count"),
    ({"llama.attention.head_count": 0}, "llama.attention.head_count"),
    ({"llama.attention.head_count_kv": 0}, "llama.attention.head_count_kv"),
    ({"llama.attention.head_count_kv": 3}, "llama.attention.head_count_kv"),
    ({"llama.attention.head_count_kv": 1}, "llama.attention.head_count_kv"),
    ({"llama.attention.layer_norm_rms_epsilon": None}, "llama.attention.layer_norm_rms_epsilon"),
    ({"llama.rope.dimension_count": 0}, "llama.rope.dimension_count"),
    ({"llama.rope.dimension_count": 2}, "llama.rope.dimension_count"),
    ({"llama.attention.key_length": 8}, "llama.rope.dimension_count"),
    ({"llama.attention.value_length": 8}, "blk.0.attn_v.weight"),
    ({"llama.expert_count": 4}, "llama.expert_used_count"),
    ({"llama.expert_used_count": 2}, "llama.expert_used_count"),
    ({"tokenizer.ggml.model": None}, "tokenizer.ggml.model"),
    ({"tokenizer.ggml.tokens": None}, "tokenizer.ggml.tokens"),
    ({"tokenizer.ggml.merges": None}, "tokenizer.ggml.merges"),
)
LOADED: tuple[Mapping[str, int | None], ...] = (
    {},
    {"llama.context_length": 0},
    {"llama.attention.head_count_kv": None},
    {"llama.rope.dimension_count": None},
    {"llama.rope.freq_base": None},
    {"llama.vocab_size": None},
    {"llama.vocab_size": 5},
    {"general.file_type": None},
    {"tokenizer.ggml.pre": None},
    {"tokenizer.ggml.scores": None},
)


def write(path: Path, changes: Mapping[str, int | None]) -> Path:
    """The demo model with these changes."""
    reader = gguf.GGUFReader(DEMO)
    writer = gguf.GGUFWriter(path, "llama")
    left = dict(changes)
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        content = left.pop(name, field.contents())
        if content is None:
            continue
        if isinstance(content, list):
            writer.add_array(name, content)
        else:
            writer.add_key_value(name, content, field.types[0])
    for name, number in left.items():
        if number is not None:
            writer.add_uint32(name, number)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
