"""Laws of reading headers: whatever the bytes, an answer or a MetadataError, and no more read than exists."""

from __future__ import annotations

import gzip
import json
import math
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aimind import metadata
from aimind.errors import MetadataError
from tests import models
from tests.hostile import Bounded, check, outcome
from tests.metadata import craft

EDGES = (0, 1, 7, 255, 1 << 16, 1 << 31, (1 << 32) - 1, 1 << 40, 1 << 62, 1 << 63, (1 << 64) - 1)
ODD: tuple[object, ...] = (*EDGES, -1, 0.5, None, [], {}, [0], "auto", math.inf, -math.inf, math.nan)
KEYS: dict[str, object] = {
    "general.architecture": "gemma3",
    "general.file_type": 1,
    "gemma3.block_count": 2,
    "gemma3.context_length": 4096,
    "gemma3.embedding_length": 64,
    "gemma3.attention.head_count": [4, 4],
    "gemma3.attention.head_count_kv": 2,
    "gemma3.attention.sliding_window": 8,
    "tokenizer.ggml.tokens": ["a", "bb", "ccc"],
    "tokenizer.ggml.scores": [1, 2, 3],
}
SMALL = craft.gguf(
    KEYS,
    [
        craft.T("token_embd.weight", (64, 3), 1),
        *(
            craft.T(f"blk.{index}.{name}.weight", (64, 4))
            for index in range(2)
            for name in ("attn_q", "ffn_down")
        ),
    ],
)
RECORDED = gzip.decompress((models.RECORDED / "nomic-embed-v1.5.Q8_0.header.gz").read_bytes())
CONFIGS = sorted((models.RECORDED.parent / "vllm").glob("*.config.json"))


def replaced(raw: bytes, at: int, part: bytes) -> bytes:
    at %= len(raw)
    return raw[:at] + part + raw[at + len(part) :]


edges = st.sampled_from(EDGES).map(lambda number: struct.pack("<Q", number)) | st.binary(
    min_size=1, max_size=9
)
edits = st.lists(st.tuples(st.integers(0, 1 << 20), edges), min_size=1, max_size=4)


@given(edits)
@settings(max_examples=400, deadline=None)
def test_any_change_of_a_header_is_read_or_refused(changes: list[tuple[int, bytes]]) -> None:
    """Wherever bytes of a valid GGUF file are replaced, there is an answer or a MetadataError."""
    raw = SMALL
    for at, part in changes:
        raw = replaced(raw, at, part)
    outcome({"model.gguf": Bounded(raw)})


@given(st.integers(0, len(SMALL) - 1))
def test_a_file_cut_short_is_refused(length: int) -> None:
    """No file that lacks its end gives an answer."""
    assert outcome({"model.gguf": Bounded(SMALL[:length])}) is None


@given(edits)
@settings(max_examples=30, deadline=None)
def test_a_recorded_header_too(changes: list[tuple[int, bytes]]) -> None:
    """The same for a real header in front of a hole."""
    raw = RECORDED
    for at, part in changes:
        raw = replaced(raw, at, part)
    outcome({"model.gguf": Bounded(raw, models.SIZES["nomic-embed-v1.5.Q8_0"])})


@given(st.binary(max_size=200))
def test_any_bytes_at_all(raw: bytes) -> None:
    """The same for bytes that nobody meant to be a model, behind each format's first bytes."""
    outcome({"model.gguf": Bounded(raw)})
    outcome({"model.gguf": Bounded(b"GGUF\x03\x00\x00\x00" + raw)})
    outcome({"config.json": Bounded(raw)})
    config = Bounded(CONFIGS[0].read_bytes())
    outcome({"config.json": config, "model.safetensors": Bounded(raw)})
    header = struct.pack("<Q", len(raw) + 1) + b"{" + raw
    outcome({"config.json": config, "model.safetensors": Bounded(header)})


@given(st.permutations(sorted(KEYS)))
def test_the_order_of_keys_does_not_matter(order: list[str]) -> None:
    """The same keys in another order are the same model."""
    tensors = [craft.T("token_embd.weight", (64, 3)), craft.T("blk.0.attn_q.weight", (64, 64))]
    tensors.append(craft.T("blk.1.attn_q.weight", (64, 64)))
    found = outcome({"model.gguf": Bounded(craft.gguf([(key, KEYS[key]) for key in order], tensors))})
    assert found is not None
    assert found == outcome({"model.gguf": Bounded(craft.gguf(KEYS, tensors))})


# ── config.json ────────────────────────────────────────────────────────────────────────────────────────────

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 70), 1 << 70)
    | st.sampled_from([0, 1, 2, 3, 64, 1 << 31, 1 << 39])
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["", "auto", "full_attention", "sliding_attention", "mamba", "M-*E", "llama"])
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
)
documents = [json.loads(path.read_text()) for path in CONFIGS]
names = [
    *sorted({key for document in documents for key in document}),
    *(
        "text_config",
        "rope_parameters",
        "quantization_config",
        "attn_config",
        "ffn_config",
        "linear_attn_config",
    ),
    *("layers_block_type", "hybrid_override_pattern", "hybrid_layer_pattern", "attn_layer_period"),
    *("is_encoder_decoder", "moe_layer_freq", "mlp_layer_types", "conv_L_cache", "auto_map", "vision_config"),
]


@given(st.sampled_from(documents), st.dictionaries(st.sampled_from(names), values, max_size=5))
@settings(max_examples=400, deadline=None)
def test_any_values_in_a_configuration(document: dict[str, Any], changes: dict[str, Any]) -> None:
    """Whatever stands in a config.json, there is an answer or a MetadataError: with weights, and without."""
    text = json.dumps({**document, **changes}).encode()
    try:
        metadata.from_config(text, "config.json")
    except MetadataError as error:
        check(error)
    empty = Bounded(struct.pack("<Q", 2) + b"{}")
    outcome({"config.json": Bounded(text), "model.safetensors": empty})
    outcome({"config.json": Bounded(text), "pytorch_model.bin": Bounded(b"", 1 << 30)})


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_number_at_its_edges(path: Path) -> None:
    """Each value of a real configuration may be zero, one, or far too large."""
    document = json.loads(path.read_text())
    for key in document:
        for edge in ODD:
            try:
                found = metadata.from_config(json.dumps({**document, key: edge}).encode(), path.name)
            except MetadataError as error:
                check(error)
            else:
                assert found.weight_bytes >= 0


@given(edits)
@settings(max_examples=200, deadline=None)
def test_any_change_of_a_safetensors_header(changes: list[tuple[int, bytes]]) -> None:
    """Wherever bytes of a valid safetensors file are replaced, there is an answer or a MetadataError."""
    entries = {
        f"model.layers.{index}.w": {
            "dtype": "BF16",
            "shape": [4, 4],
            "data_offsets": [32 * index, 32 * index + 32],
        }
        for index in range(3)
    }
    text = json.dumps({"__metadata__": {"format": "pt"}, **entries}).encode()
    raw = struct.pack("<Q", len(text)) + text + bytes(96)
    for at, part in changes:
        raw = replaced(raw, at, part)
    outcome({"config.json": Bounded(CONFIGS[0].read_bytes()), "model.safetensors": Bounded(raw)})
