"""Models that nobody could have made: read, and planned for machines, or refused in words."""

from __future__ import annotations

import dataclasses
import gzip
import json
import math
import struct
from functools import cache
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st

from aimind.errors import MetadataError
from aimind.estimate import ggml
from aimind.metadata.config import Config
from aimind.metadata.expected import tensors_of
from aimind.metadata.gguf import Header, Scalar, read_header
from aimind.metadata.gguf_model import describe
from aimind.types import Metadata, Tensor
from tests import hostile, models
from tests.properties.test_metadata import CONFIGS

FAMILIES = (
    "deepseek-v2-lite.Q4_K_M",
    "falcon-h1-7b.Q4_K_M",
    "gemma-3-4b.Q4_K_M",
    "gemma-4-e4b.Q4_K_M",
    "granite-4.0-h-tiny.Q4_K_M",
    "llama-3.1-8b.Q4_K_M",
    "nomic-embed-v1.5.Q8_0",
    "qwen3-next-80b-a3b.Q4_K_M",
)
ODD = (0, 1, 2, 3, 7, 1 << 20, 1 << 31, 1 << 39, True, 0.5, float("nan"), "auto", (), (0, 1), (8,) * 512)
LENGTHS = (1, 2, 32, 256, 4096, 1 << 20, 1 << 40)

Shape = tuple[int, ...]
Change = tuple[int, Shape | None, bool]


@cache
def header(name: str) -> Header:
    raw = gzip.decompress((models.RECORDED / f"{name}.header.gz").read_bytes())
    return read_header(hostile.Bounded(raw, models.SIZES[name]), f"{name}.gguf")


def changed(of: Header, keys: list[tuple[int, int | None]], tensors: list[Change]) -> Header:
    """The header with some keys and tensors changed, or gone: in one layer, or in all."""
    values: dict[str, Scalar | tuple[Scalar, ...]] = dict(of.values)
    for at, odd in keys:
        key = list(of.values)[at % len(of.values)]
        values.pop(key, None)
        if odd is not None:
            values[key] = ODD[odd]
    kept = {tensor.name: tensor for tensor in of.tensors}
    for at, shape, everywhere in tensors:
        name = of.tensors[at % len(of.tensors)].name
        part = name.split(".", 2)[2] if name.startswith("blk.") else name
        for other in [one for one in kept if one == name or (everywhere and one.endswith(f".{part}"))]:
            tensor = kept.pop(other)
            if shape is not None:
                kept[other] = Tensor(other, shape, tensor.dtype, tensor.size_bytes)
    return dataclasses.replace(of, values=values, tensors=tuple(kept.values()))


LLAMA = next(path for path in CONFIGS if path.name.startswith("llama"))
NAMES = ("vocab_size", "num_hidden_layers", "head_dim", "num_attention_heads", "num_key_value_heads")

lengths = st.lists(st.sampled_from((0, *LENGTHS)), max_size=3)
indices = st.integers(0, 2000)
shapes = (
    st.lists(st.sampled_from(LENGTHS), min_size=1, max_size=4)
    .map(tuple)
    .filter(lambda shape: math.prod(shape) < 1 << 63)  # others never come so far
)


@given(
    st.sampled_from(FAMILIES),
    st.lists(st.tuples(indices, st.none() | st.integers(0, len(ODD) - 1)), max_size=3),
    st.lists(st.tuples(indices, st.none() | shapes, st.booleans()), max_size=3),
    st.sampled_from(("cpu", *hostile.MACHINES)),
)
@settings(max_examples=40, deadline=None)
def test_a_gguf_model_of_any_shape_is_planned_or_refused(
    name: str, keys: list[tuple[int, int | None]], tensors: list[Change], machine: str
) -> None:
    """Whatever keys and tensors a header has, there is a plan or an error that says why not."""
    hostile.described(changed(header(name), keys, tensors), machine)


ONE_STEP = ggml.Settings(n_ctx=4096, n_seq=4, kv_unified=True)


def planned_bytes(described: Metadata) -> int:
    """What the CPU alone would hold with a context of 4,096 tokens."""
    return ggml.estimate(ggml.profile(described), ONE_STEP, ()).host.total_bytes


@cache
def true_bytes(name: str) -> int:
    described = describe([header(name)])
    assert not described.defects
    return planned_bytes(described)


@given(
    st.sampled_from(FAMILIES), indices, st.sampled_from(("more", "double", "half", "zero", "million", "most"))
)
@settings(max_examples=60, deadline=None)
def test_a_number_that_contradicts_the_tensors_is_refused(name: str, at: int, change: str) -> None:
    """Any one wrong number is refused before anything is planned, or hardly changes what is planned.

    A plan's work grows with the bytes that it counts, so that this bounds both.
    """
    of = header(name)
    architecture = str(of.values["general.architecture"])
    numbers = [
        key
        for key, value in of.values.items()
        if key.startswith(f"{architecture}.") and isinstance(value, int) and not isinstance(value, bool)
    ]
    key = numbers[at % len(numbers)]
    true = of.values[key]
    assert isinstance(true, int)
    wrong = {
        "more": true + 1,
        "double": 2 * true,
        "half": true // 2,
        "zero": 0,
        "million": 10**6,
        "most": 2**31 - 1,
    }
    altered = dataclasses.replace(of, values={**of.values, key: wrong[change]})
    try:
        described = describe([altered])
    except MetadataError:
        return
    if not described.defects:
        assert 0.75 < planned_bytes(described) / true_bytes(name) < 1.25


@given(
    st.sampled_from(CONFIGS),
    st.lists(
        st.tuples(indices, st.none() | st.lists(st.sampled_from((0, *LENGTHS)), max_size=3)), max_size=4
    ),
    st.dictionaries(
        st.sampled_from(("vocab_size", "num_hidden_layers", "head_dim")), st.sampled_from(ODD[:6])
    ),
)
@example(LLAMA, [(0, [0, 4096])], {})  # the first name is lm_head.weight
@example(LLAMA, [(0, [])], {})
@settings(max_examples=60, deadline=None)
def test_safetensors_of_any_shape_are_planned_or_refused(
    config: Path, changes: list[tuple[int, list[int] | None]], values: dict[str, object]
) -> None:
    """Whatever shapes the tensors of a configuration have, or whatever it says of them."""
    text = config.read_bytes()
    shapes = {tensor.name: tensor.shape for tensor in tensors_of(Config(json.loads(text), config.name))}
    for at, shape in changes:
        if shapes:
            name = sorted(shapes)[at % len(shapes)]
            shapes.pop(name)
            if shape is not None:
                shapes[name] = tuple(shape)
    entries, end = {}, 0
    for name, shape_of in shapes.items():
        begin, end = end, end + 2 * math.prod(shape_of)
        entries[name] = {"dtype": "BF16", "shape": shape_of, "data_offsets": [begin, end]}
    header = json.dumps(entries).encode()
    raw = struct.pack("<Q", len(header)) + header
    files = {
        "config.json": hostile.Bounded(json.dumps({**json.loads(text), **values}).encode()),
        "model.safetensors": hostile.Bounded(raw, len(raw) + end),
    }
    hostile.outcome(files)
