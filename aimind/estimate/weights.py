"""Where llama.cpp puts every tensor of a GGUF file, and the bytes that it takes there.

Sources: `create_tensor` in src/llama-model-loader.cpp, `ggml_backend_cuda_buffer_type_get_alloc_size` in
ggml-cuda, ggml/src/ggml-cpu/repack.cpp; llama.cpp as vendored by llama-cpp-python 0.3.36.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from aimind.estimate.cache import padded
from aimind.estimate.schedule import DEVICE_ALIGNMENT, HOST_ALIGNMENT
from aimind.types import Layer, Metadata, Tensor

_PLAIN = frozenset({"F32", "F16", "BF16", "F64", "I8", "I16", "I32", "I64"})
_ROW = 512  # elements to which ggml-cuda pads the last row of quantized tensors
# Copied into the order of the CPU's matrix kernels, into anonymous memory (x86-64 with AVX2).
_REPACKED = frozenset({"Q4_K", "Q4_0", "MXFP4"})
# `LLM_FFN_EXPS_REGEX` of common/common.h.
_EXPERTS = re.compile(r"\.ffn_(up|down|gate|gate_up)_(ch|)exps")
# `LLM_TENSOR_LAYER_OUTPUT` in src/llama-arch.cpp.
_HEAD = ("output", "cls", "altup", "dense", "enc.output", "dec.output")
# What LFM 2 calls its last norm; others, beside one of that name, what comes after the embedding.
LAST_NORM = "token_embd_norm.weight"
_INPUT = ("token_embd.weight", "position_embd.weight", "token_types.weight", "per_layer_token_embd.weight")


@dataclass(frozen=True, slots=True)
class Places:
    """Where everything is: indices of devices, or `host` for RAM.

    Attributes:
        layers: of each layer; experts: of the experts' weights in each.
        head: of the output head.
        host: the number of devices.
    """

    layers: tuple[int, ...]
    experts: tuple[int, ...]
    head: int
    host: int


@dataclass(frozen=True, slots=True)
class Bytes:
    """Of one layer's weights: on a device, in RAM, what RAM repacks; the experts' share of the first two."""

    device: int
    host: int
    repacked: int
    device_experts: int
    host_experts: int


@dataclass(frozen=True, slots=True)
class Weights:
    """All weights of a model, the layers summed.

    Attributes:
        layers: of each.
        inputs: always in RAM.
        head: of the output; `tied` too, where it is the embedding.
        everywhere: one copy at every place that has layers (rope factors).
        first: at the place of the first layer.
    """

    layers: tuple[Bytes, ...]
    inputs: tuple[Tensor, ...]
    head: tuple[Tensor, ...]
    tied: tuple[Tensor, ...]
    everywhere: tuple[Tensor, ...]
    first: tuple[Tensor, ...]


def places(count: int, layers_per_device: Sequence[int], *, experts_on_host: int = 0) -> Places:
    """The last layers go to devices, the output head counted as one of them and first.

    Args:
        count: layers, without the output head.
        layers_per_device: of these.
        experts_on_host: layers, the first ones, whose experts stay in RAM (`--n-cpu-moe`).
    """
    host = len(layers_per_device)
    spread = [device for device, layers in enumerate(layers_per_device) for _ in range(layers)]
    *layers, head = [host] * (count + 1 - len(spread)) + spread
    experts = [host] * min(count, experts_on_host) + layers[experts_on_host:]
    return Places(tuple(layers), tuple(experts), head, host)


def summed(metadata: Metadata) -> Weights:
    """The weights of a model, by where they go."""
    groups: dict[str, list[Tensor]] = {"inputs": [], "everywhere": [], "head": [], "first": []}
    names = {tensor.name for tensor in metadata.others}
    last_norm = LAST_NORM if LAST_NORM in names and "output_norm.weight" not in names else ""
    for tensor in metadata.others:
        ends = tensor.name == last_norm and not metadata.pools
        groups["head" if ends else _group(tensor.name)].append(tensor)
    tied = [tensor for tensor in groups["inputs"] if metadata.tied and tensor.name == "token_embd.weight"]
    return Weights(
        layers=tuple(_summed(layer) for layer in metadata.layers),
        inputs=tuple(groups["inputs"]),
        head=tuple(groups["head"]),
        tied=tuple(tied),
        everywhere=tuple(groups["everywhere"]),
        first=tuple(groups["first"]),
    )


def placed(weights: Weights, at: Places) -> tuple[list[int], int]:
    """Bytes at each place, the host last; and those in RAM that a CPU without devices beside it repacks."""
    host = at.host
    totals = [0] * (host + 1)
    repacked = 0
    for layer, place, experts in zip(weights.layers, at.layers, at.experts, strict=True):
        if place == host:
            totals[host] += layer.host
            repacked += layer.repacked
        elif experts == host:
            totals[place] += layer.device - layer.device_experts
            totals[host] += layer.host_experts
        else:
            totals[place] += layer.device
    others = [(tensor, at.head) for tensor in weights.head]
    others += [(tensor, place) for tensor in weights.everywhere for place in set(at.layers)]
    others += [(tensor, at.layers[0]) for tensor in weights.first]
    # The embedding is copied for the head; in RAM they share it, except beside embeddings that are read
    # lazily, and where the CPU has the head in another order.
    lazy = any(tensor.name.startswith("per_layer") for tensor in weights.inputs)
    if at.head != host or lazy or (not host and any(map(_repacked_bytes, weights.tied))):
        others += [(tensor, at.head) for tensor in weights.tied]
    for tensor, place in others:
        totals[place] += host_bytes(tensor) if place == host else device_bytes(tensor)
        repacked += _repacked_bytes(tensor) if place == host else 0
    totals[host] += sum(map(host_bytes, weights.inputs))
    return totals, repacked


def device_bytes(tensor: Tensor) -> int:
    """What a CUDA device allocates for a tensor."""
    return padded(copied_bytes(tensor), DEVICE_ALIGNMENT)


def copied_bytes(tensor: Tensor) -> int:
    """The same before it is aligned."""
    row = tensor.shape[0]
    if tensor.dtype in _PLAIN or row % _ROW == 0:
        return tensor.size_bytes
    return tensor.size_bytes + (_ROW - row % _ROW) * tensor.size_bytes // prod(tensor.shape)


def host_bytes(tensor: Tensor) -> int:
    """What a buffer in RAM has for a tensor."""
    return padded(tensor.size_bytes, HOST_ALIGNMENT)


def is_expert(tensor: Tensor) -> bool:
    """Whether it is one of those that `--cpu-moe` leaves in RAM."""
    return _EXPERTS.search(tensor.name) is not None


def _repacked_bytes(tensor: Tensor) -> int:
    """Of a matrix, or of all experts' matrices."""
    matrices = len(tensor.shape) == 2 or (len(tensor.shape) == 3 and is_expert(tensor))
    return tensor.size_bytes if matrices and tensor.dtype in _REPACKED else 0


def _summed(layer: Layer) -> Bytes:
    experts = [tensor for tensor in layer.tensors if is_expert(tensor)]
    return Bytes(
        device=sum(map(device_bytes, layer.tensors)),
        host=sum(map(host_bytes, layer.tensors)),
        repacked=sum(map(_repacked_bytes, layer.tensors)),
        device_experts=sum(map(device_bytes, experts)),
        host_experts=sum(map(host_bytes, experts)),
    )


def _group(name: str) -> str:
    if name in _INPUT:
        return "inputs"
    if name.startswith("rope_f"):
        return "everywhere"
    return "head" if name.startswith(_HEAD) else "first"
