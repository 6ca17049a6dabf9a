"""What a process of llama.cpp holds on a device beside its own buffers.

No log of llama.cpp tells it, so that the figures are measured: on an H200 (132 multiprocessors, driver
580.159.04, CUDA 13.0) with 11 models, see docs/measurements.md. Three parts add up:

- The CUDA context: 518 MiB. The driver keeps a stack for each thread that a multiprocessor can run, so that
  devices with more of these are planned with more. Those with fewer are planned with the same: none was
  measured.
- Kernels of llama.cpp, and what a step of a quantized model needs beside its buffers: 81 to 93 MiB.
- cuBLAS, which multiplies matrices of 16 and 32 bits: 93 to 113 MiB more. Experts need it too, because their
  router has 32 bits.

Where earlier runs on the same kind of device were measured (aimind/supervisor/taken.py), they count instead.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from aimind.types import Attention, Device, LatentAttention, Layer, Measurement, Metadata, Tensor

MIB = 1 << 20
# One H200: `cuDevicePrimaryCtxRetain` and nothing else.
CONTEXT_BYTES = 518 * MIB
CONTEXT_MULTIPROCESSORS = 132
# The most that a quantized model held there beside context and buffers was 92.3 MiB (gemma-3-12b).
KERNELS_BYTES = 94 * MIB
# The most that cuBLAS added to it was 113.2 MiB (granite-4.0-h-tiny).
CUBLAS_BYTES = 114 * MIB
# The copies of a step's inputs that the figures above include: 2 bytes for each element of 512 rows of
# 4096 + 14336 (llama-3.1-8b, F16), and 36 bytes for 32 elements of 512 rows of 15360 (gemma-3-12b).
COUNTED_FLOAT_BYTES = 18 * MIB
COUNTED_QUANTIZED_BYTES = 8 * MIB
# From when it was ready until its peak a process grew by at most 18.0 MiB, with cuBLAS by at most 132.0.
KERNELS_GROWTH_BYTES = 20 * MIB
CUBLAS_GROWTH_BYTES = 134 * MIB
# Devices of other makers, by experience and not measured: the runtime and its kernels.
OTHER_BYTES = 500 * MIB

# Multiprocessors by the model's name, where it has more than the H200 (NVIDIA's architecture whitepapers for
# Ada, Hopper and Blackwell): NVML does not report them.
MULTIPROCESSORS = {
    "L40": 142,
    "L40S": 142,
    "RTX 6000 Ada": 142,
    "GH200": 132,
    "B200": 148,
    "GB200": 152,
    "B300": 160,
    "5090": 170,
    "RTX PRO 6000": 188,
    "PRO6000": 188,
}
# A device that is in no list: as many as the largest known one of its compute capability.
MULTIPROCESSORS_BY_CAPABILITY = {"10.0": 152, "10.3": 160, "12.0": 188, "12.1": 188}

_FLOATS = ("F16", "BF16", "F32", "F64")


@dataclass(frozen=True, slots=True)
class Matrices:
    """The matrices of a model's layers that decide what a step needs beside its buffers.

    Attributes:
        floats: some have 16 or 32 bits, so that cuBLAS multiplies them.
        float_width: the largest sum of rows and columns of one of those.
        quantized_width: the most elements of one token that are quantized for one product.
        largest_elements: of one quantized matrix.
        heads: the most query heads of a layer.
    """

    floats: bool
    float_width: int
    quantized_width: int
    largest_elements: int
    heads: int


@dataclass(frozen=True, slots=True)
class Work:
    """What one step multiplies: `tokens` at once, which look at `cells`, with flash attention or without."""

    matrices: Matrices
    tokens: int
    cells: int
    flash: bool


def matrices(metadata: Metadata) -> Matrices:
    """The matrices of the layers; the output head multiplies a few rows only, and needs less than they do."""
    floats = False
    float_width = quantized_width = largest = heads = 0
    for layer in metadata.layers:
        heads = max(heads, _heads(layer))
        for tensor in _multiplied(layer):
            columns, rows = tensor.shape[:2]
            copies = (layer.num_experts_used or 1) if len(tensor.shape) > 2 else 1
            if tensor.dtype in _FLOATS:
                floats = True
                float_width = max(float_width, copies * (columns + rows))
            else:
                quantized_width = max(quantized_width, copies * columns)
                largest = max(largest, columns * rows)
    return Matrices(floats, float_width, quantized_width, largest, heads)


def device_bytes(device: Device, work: Work, measured: Sequence[Measurement] = ()) -> int:
    """What a process holds on the device beside its buffers, at most.

    `measured`: by earlier runs of the same backend and driver; those on the same kind of device count in
    place of the table.
    """
    if device.vendor != "nvidia":
        return OTHER_BYTES
    remembered = remembered_bytes(device, work, measured)
    if remembered is None:
        return context_bytes(device) + library_bytes(device, work)
    return remembered + _excess_bytes(device, work)


def remembered_bytes(device: Device, work: Work, measured: Sequence[Measurement]) -> int | None:
    """The largest of what earlier runs held, and of what they held when ready with what comes after that.

    Runs that multiplied in another way count with their figure when ready alone.
    """
    here = [each for each in measured if each.device == device.name]
    same = [each for each in here if each.kind == kind(device, work)]
    growth = CUBLAS_GROWTH_BYTES if uses_cublas(device, work) else KERNELS_GROWTH_BYTES
    found = [each.ready_bytes + growth for each in same or here]
    found += [each.most_bytes for each in same]
    return max(found, default=None)


# Of RAM for each entry of a vocabulary: a struct, a string and a node of a hash table (40 + 32 + 72 bytes,
# llama-vocab.cpp), about as much again for its merge, and what malloc adds.
VOCABULARY_ENTRY_BYTES = 400


def process_bytes(program_bytes: int, vocab_size: int) -> int:
    """RAM of the processes beside all buffers, at most.

    `program_bytes`: without a vocabulary. xllamacpp 2026.10 on a CPU held 45 MiB with every buffer in use,
    and its supervisor's processes 25 MiB (RSS, what they share counted for each).
    """
    return program_bytes + VOCABULARY_ENTRY_BYTES * vocab_size


def kind(device: Device, work: Work) -> str:
    """By which measurements are kept apart."""
    return "cuBLAS" if uses_cublas(device, work) else "own kernels"


def context_bytes(device: Device) -> int:
    """The CUDA context: see the module."""
    count = max(CONTEXT_MULTIPROCESSORS, _multiprocessors(device))
    return math.ceil(CONTEXT_BYTES * count / CONTEXT_MULTIPROCESSORS / MIB) * MIB


def library_bytes(device: Device, work: Work) -> int:
    """Kernels, cuBLAS where it is used, and the copies of a step's inputs that they make."""
    cublas_bytes = CUBLAS_BYTES if uses_cublas(device, work) else 0
    return KERNELS_BYTES + cublas_bytes + _excess_bytes(device, work)


def _excess_bytes(device: Device, work: Work) -> int:
    """What the copies of this step's inputs take more than those of the models that were measured."""
    if not uses_cublas(device, work):
        return max(0, _quantized_bytes(work) - COUNTED_QUANTIZED_BYTES)
    largest = max(_float_bytes(device, work), _quantized_bytes(work))
    return max(0, largest - COUNTED_FLOAT_BYTES)


def uses_cublas(device: Device, work: Work) -> bool:
    """Whether a step has a product that llama.cpp's own kernels do not compute on this device."""
    return work.matrices.floats or not work.flash or _dequantizes(device)


def _dequantizes(device: Device) -> bool:
    """Whether quantized matrices are multiplied as copies in 16 bits (`ggml_cuda_should_use_mmq`).

    So it is on Volta, whose tensor cores take 16 bits only, and on devices without `dp4a` (before 6.1).
    """
    capability = _version(device.capability)
    return (7, 0) <= capability < (7, 5) or (0, 0) < capability < (6, 1)


def _float_bytes(device: Device, work: Work) -> int:
    """Copies in 16 bits: of inputs and outputs of a product, of scores, of a matrix that is dequantized."""
    widest = work.matrices.float_width
    found = 2 * work.tokens * widest
    if not work.flash:
        found = max(found, 2 * work.matrices.heads * work.tokens * work.cells)
    if _dequantizes(device):
        found = max(
            found, 2 * work.matrices.largest_elements + 2 * work.tokens * work.matrices.quantized_width
        )
    return found


def _quantized_bytes(work: Work) -> int:
    """The inputs of a quantized product in blocks of 36 bytes for 32 elements (`block_q8_1`)."""
    return work.tokens * work.matrices.quantized_width * 36 // 32


def _multiprocessors(device: Device) -> int:
    words = f" {re.sub(r'[^A-Z0-9]+', ' ', device.name.upper())} "
    for name, count in MULTIPROCESSORS.items():
        if f" {name.upper()} " in words:
            return count
    return MULTIPROCESSORS_BY_CAPABILITY.get(device.capability or "", CONTEXT_MULTIPROCESSORS)


def _version(capability: str | None) -> tuple[int, int]:
    """Zeros where the device does not report it, or has no such number."""
    match = re.fullmatch(r"(\d+)\.(\d+)", capability or "")
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _heads(layer: Layer) -> int:
    found = [memory.num_heads for memory in layer.memory if isinstance(memory, Attention | LatentAttention)]
    return max(found, default=0)


def _multiplied(layer: Layer) -> list[Tensor]:
    """The tensors that a step is multiplied with. A convolution's are not, nor are vectors.

    `ssm_d` of Mamba-2 stands for the scan, whose products cuBLAS computes (`ssm-scan.cu`).
    """
    found = []
    for tensor in layer.tensors:
        if len(tensor.shape) < 2:
            continue
        is_matrix = tensor.name.endswith(".weight") and min(tensor.shape[:2]) > 1
        if tensor.name.endswith(".ssm_d") or (is_matrix and "conv1d" not in tensor.name):
            found.append(tensor)
    return found
