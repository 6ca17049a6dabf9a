"""How vLLM divides a device: a share of its whole memory, less what is counted into the share.

What vLLM measures and subtracts changed between the versions that were read (vllm/v1/worker/gpu_worker.py,
`determine_available_memory`):

- 0.26: the peak of PyTorch's allocations, and what other libraries took since the first snapshot. Graphs only
  with the V1 model runner; the V2 runner's sampler state is not counted at all.
- 0.32 and 0.33: everything that is gone of the free memory since the first snapshot, and the graphs.

The CUDA context exists before the first snapshot, and so is outside the share in all of them. Figures for
0.26 are those of one NVIDIA H200 (tests/data/gpu_h200.json); 0.32 and 0.33 were read and not run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from aimind.launchers import vllm_cache
from aimind.launchers.vllm_defaults import default_batch_sizes, release_of
from aimind.types import (
    Attention,
    BatchSizes,
    Device,
    LatentAttention,
    Metadata,
    PagedMemory,
    RankedRun,
    RecurrentState,
    Request,
)

_MIB = 1 << 20
# The context before vLLM's first snapshot: 526.8 MiB in all six starts on an H200 (132 multiprocessors, CUDA
# 13.0, driver 580). Devices with fewer multiprocessors need less.
CONTEXT_BYTES = 527 * _MIB
# Modules and handles of libraries that are loaded until the profiling run ends: 230.0 MiB for dense models
# and 246.0 for experts, in all three records.
LIBRARY_BYTES, EXPERT_LIBRARY_BYTES = 230 * _MIB, 246 * _MIB
# cuBLAS's handles and its workspace, which 0.33 makes before its first snapshot ("a matrix product" less "one
# tensor", contexts in gpu_h200.json), and what of it is then no library's memory any more.
CUBLAS_BYTES, CUBLAS_HANDLE_BYTES = 98 * _MIB, 66 * _MIB
# Buffers of NCCL and of vLLM's own all-reduce, on every rank of several: an upper figure, not measured.
COMMUNICATION_BYTES = 512 * _MIB
# Blocks that PyTorch's allocator cannot return after the profiling run: 46, 94 and 131 MiB in three records.
FRAGMENT_BYTES = 131 * _MIB
# The first version that is counted by its free memory. Between 0.26 and 0.32 no version was read.
_BY_FREE_MEMORY = (0, 27)
_CUBLAS_FIRST = (0, 33)
# A share is a multiple of a thousandth: 144 MiB of an H200.
_SHARE_STEPS = 1000

# ── Graphs ──
# The first graph of a process: cuBLAS's second workspace, and what the driver reserves
# ("the same in a captured graph" less "a matrix product", contexts in gpu_h200.json).
_FIRST_GRAPH_BYTES = 124 * _MIB
# A kernel in a captured graph, and kernels of a layer outside attention: six figures of three records
# (the growth with each further size, logged or left by the total) are met to 2 MiB by these.
_PIECEWISE_KERNEL_BYTES, _FULL_KERNEL_BYTES = 11 << 10, 3 << 10
_DENSE_KERNELS, _EXPERT_KERNELS, _ATTENTION_KERNELS = 7, 10, 4
_GRAPH_STEP_BYTES = 2 * _MIB  # the driver allocates in these
# Parts that FlashAttention 3 splits a request's context into (flash_attn_max_num_splits_for_cuda_graph).
_SPLITS = 32
_HOPPER = "9."
_BLACKWELL = "10."

# V2 runs every other model in 0.26 (DEFAULT_V2_MODEL_RUNNER_ARCHITECTURES in vllm/config/vllm.py).
_V2_EXPERTS = frozenset(
    (
        "DeepseekV2ForCausalLM",
        "GraniteMoeForCausalLM",
        "InklingForCausalLM",
        "InklingForConditionalGeneration",
        "LongcatFlashNgramForCausalLM",
        "Qwen2MoeForCausalLM",
    )
)


@dataclass(frozen=True, slots=True)
class VllmMemory:
    """vLLM's rule; see the module."""

    measured: bool = True
    share_meaning: str = "of each device"

    @property
    def sources(self) -> Mapping[str, str]:
        """Component of an estimate -> what its figure is known from."""
        return {
            "weights_bytes": "each rank holds its share of the tensors in the headers, with a padded "
            "vocabulary, and on a device rotary tables and the allocator's rounding",
            "kv_cache_bytes": "the remaining memory is divided into whole blocks of vLLM's cache layout",
            "compute_bytes": "the figure is the peak of vLLM's profiling run, which follows from its source",
            "graphs_bytes": "the figure is for CUDA graphs of vLLM's default sizes, measured on one GPU",
            "overhead_bytes": "the CUDA context and libraries were measured on one GPU; Python and the "
            "engine in RAM are estimated",
        }

    def describe_share(self, share: float) -> str:
        """Explain the share to the user."""
        return f"the backend may use {share:g} of each device, which is not more than is free now"

    def batch_sizes(self, devices: tuple[Device, ...], request: Request, *, version: str) -> BatchSizes:
        """The defaults of vLLM for these devices."""
        ranks = (request.tensor_parallel_size or 1) * (request.pipeline_parallel_size or 1)
        doubled = request.performance_mode == "throughput"
        sizes = default_batch_sizes(devices, ranks=ranks, version=version, doubled=doubled)
        tokens = request.max_num_batched_tokens or sizes.tokens
        return BatchSizes(tokens, request.max_num_seqs or min(sizes.sequences, tokens))

    def weights(self, run: RankedRun) -> int:
        """The tensors, a table for each kind of rotary embedding, and what the allocator rounds up."""
        from aimind.estimate.allocator import loaded_bytes

        return loaded_bytes(run, ropes=_ropes(run.metadata))

    def compute(self, run: RankedRun) -> int:
        """The peak that vLLM's profiling run finds."""
        return max(self._compiling(run), self._profiled_sampler(run), self._step(run))

    def graphs(self, run: RankedRun) -> int:
        """The first graph, one more for each size, and FlashAttention 3's partial results."""
        from aimind.estimate.activations import step_bytes

        if run.enforce_eager:
            return 0
        piecewise, full = self._graph_sizes(run)
        if not piecewise:
            return 0
        layers = -(-len(run.metadata.layers) // run.pipeline_parallel_size)
        experts = any(layer.num_experts for layer in run.metadata.layers)
        kernels = _EXPERT_KERNELS if experts else _DENSE_KERNELS
        each_piecewise = _in_steps(layers * kernels * _PIECEWISE_KERNEL_BYTES)
        each_full = _in_steps(layers * (kernels + _ATTENTION_KERNELS) * _FULL_KERNEL_BYTES)
        pool = step_bytes(
            run.metadata, tensor_parallel=run.tensor_parallel_size, tokens=piecewise[-1], mixers=False
        )
        splits = _split_bytes(run, full[-1]) if full else 0
        return _FIRST_GRAPH_BYTES + pool + splits + len(piecewise) * each_piecewise + len(full) * each_full

    def overhead(self, run: RankedRun) -> int:
        """Context, libraries, communication, sampler state, and what the profiling run does not see."""
        return (
            self.outside_before_snapshot(run)
            + self.libraries(run)
            + self._sampler_state(run)
            + self._kept_blocks(run)
            + self._unprofiled(run)
        )

    def available(self, run: RankedRun, share: float) -> int:
        """The share of the whole device, less the weights and all that vLLM subtracts."""
        return int(run.device.total_bytes * share) - self.weights(run) - self._inside(run)

    def largest_share(self, run: RankedRun) -> float:
        """The free memory less what vLLM takes beside the share: its start then finds the share free, too."""
        share = (run.free_bytes - self._outside(run)) / run.device.total_bytes
        return max(0.0, math.floor(share * _SHARE_STEPS) / _SHARE_STEPS)

    def share_for(self, run: RankedRun, cache_bytes: int) -> float:
        """What is subtracted, and the cache, of the whole device."""
        share = (self.weights(run) + self._inside(run) + cache_bytes) / run.device.total_bytes
        return math.ceil(share * _SHARE_STEPS) / _SHARE_STEPS

    # ── What each part is ──

    def outside_before_snapshot(self, run: RankedRun) -> int:
        """The CUDA context, and communication between ranks, which are there before vLLM measures."""
        size = CONTEXT_BYTES
        if run.ranks > 1:
            size += COMMUNICATION_BYTES
        if release_of(run.version) >= _CUBLAS_FIRST:
            size += CUBLAS_BYTES
        return size

    def libraries(self, run: RankedRun) -> int:
        """What libraries take after the first snapshot (vLLM: non-torch memory)."""
        experts = any(layer.num_experts for layer in run.metadata.layers)
        size = EXPERT_LIBRARY_BYTES if experts else LIBRARY_BYTES
        if release_of(run.version) >= _CUBLAS_FIRST:
            size -= CUBLAS_HANDLE_BYTES
        return size

    def _inside(self, run: RankedRun) -> int:
        """What vLLM takes from its share beside the weights and the cache."""
        size = self.libraries(run) + self.compute(run)
        if self._counts_graphs(run):
            size += self.graphs(run)
        if _counts_free_memory(run):
            size += self._sampler_state(run) + self._kept_blocks(run)
        return size

    def _outside(self, run: RankedRun) -> int:
        """What the device holds beside the share."""
        return self.compute(run) + self.graphs(run) + self.overhead(run) - self._inside(run)

    def _counts_graphs(self, run: RankedRun) -> bool:
        return _counts_free_memory(run) or not _runs_v2(run)

    def _compiling(self, run: RankedRun) -> int:
        from aimind.estimate.activations import compile_bytes
        from aimind.estimate.shares import VOCABULARY

        if run.enforce_eager:
            return 0
        metadata = run.metadata
        rows = -(-metadata.vocab_size // VOCABULARY) * VOCABULARY // run.tensor_parallel_size
        return compile_bytes(rows, metadata.hidden_size, run.batch.tokens)

    def _profiled_sampler(self, run: RankedRun) -> int:
        """The sampler on made-up logits, beside what the step left: hidden states, workspaces."""
        metadata, tokens = run.metadata, run.batch.tokens
        if metadata.pools:
            return 0
        rows = min(run.batch.sequences, tokens)
        if not _runs_v2(run) or release_of(run.version) >= _CUBLAS_FIRST:
            logits = self._all_of_the_sampler(run)
        else:
            logits = 2 * rows * metadata.vocab_size
        return self._before_the_sampler(run) + logits

    def _before_the_sampler(self, run: RankedRun) -> int:
        from aimind.estimate.activations import WORKSPACE_BYTES, expert_workspace_bytes

        metadata, tokens = run.metadata, run.batch.tokens
        rows = min(run.batch.sequences, tokens)
        hidden = 2 * tokens * metadata.hidden_size + 4 * rows * metadata.hidden_size
        experts = expert_workspace_bytes(metadata, tensor_parallel=run.tensor_parallel_size, tokens=tokens)
        return hidden + WORKSPACE_BYTES + experts

    def _all_of_the_sampler(self, run: RankedRun) -> int:
        """Logits where requests use every option; V2 draws its random numbers in the kernel."""
        from aimind.estimate.activations import SORTING_ROWS, sampler_bytes

        rows = min(run.batch.sequences, run.batch.tokens)
        if not _runs_v2(run):
            return sampler_bytes(run.metadata.vocab_size, rows)
        return run.metadata.vocab_size * (6 * rows + 4 * min(rows, SORTING_ROWS))

    def _step(self, run: RankedRun) -> int:
        from aimind.estimate.activations import WORKSPACE_BYTES, encoder_bytes, step_bytes

        tensor, tokens = run.tensor_parallel_size, run.batch.tokens
        step = step_bytes(run.metadata, tensor_parallel=tensor, tokens=tokens)
        return max(WORKSPACE_BYTES + step, encoder_bytes(run.metadata, tokens, tensor))

    def _sampler_state(self, run: RankedRun) -> int:
        """V2's counts of words for penalties, in 32 bits, and two masks.

        Source: vllm/v1/worker/gpu/sample/penalties.py.
        """
        if run.metadata.pools or not _runs_v2(run):
            return 0
        rows, vocabulary = run.batch.sequences, run.metadata.vocab_size
        return 4 * rows * vocabulary + 2 * rows * vocabulary // 8

    def _kept_blocks(self, run: RankedRun) -> int:
        """What PyTorch's allocator keeps.

        V1 in 0.26 samples each batch of another size in blocks of its own, since large blocks are not split:
        halves, quarters and so on of the largest batch come to its peak once more.
        """
        if _counts_free_memory(run) or _runs_v2(run):
            return FRAGMENT_BYTES
        return 0 if run.metadata.pools else self._all_of_the_sampler(run)

    def _unprofiled(self, run: RankedRun) -> int:
        """What sampling by requests may take above the profiled peak."""
        if run.metadata.pools:
            return 0
        return max(0, self._before_the_sampler(run) + self._all_of_the_sampler(run) - self.compute(run))

    def _graph_sizes(self, run: RankedRun) -> tuple[list[int], list[int]]:
        """Tokens of the captured steps: piecewise, and whole steps of one token a sequence.

        Source: _set_cudagraph_sizes in vllm/config/vllm.py.
        """
        largest = 512
        if (run.device.capability or "").startswith(_BLACKWELL) and _counts_free_memory(run):
            largest = 1024
        largest = min(largest, 2 * run.batch.sequences, run.batch.tokens)
        small = [1, 2, 4]
        if run.performance_mode == "interactivity":
            small = list(range(1, 33))
        sizes = sorted({*small, *range(8, 256, 8), *range(256, 1025, 16)})
        piecewise = [size for size in sizes if size <= largest]
        return piecewise, [size for size in piecewise if size <= run.batch.sequences]


def _counts_free_memory(run: RankedRun) -> bool:
    return release_of(run.version) >= _BY_FREE_MEMORY


def _runs_v2(run: RankedRun) -> bool:
    """Whether the V2 model runner serves it: every model since 0.27, before that dense decoders and a few."""
    metadata = run.metadata
    if _counts_free_memory(run):
        return True
    if metadata.pools:
        return False
    if any(isinstance(memory, RecurrentState) for layer in metadata.layers for memory in layer.memory):
        return False
    return metadata.architecture in _V2_EXPERTS or not any(layer.num_experts for layer in metadata.layers)


def _ropes(metadata: Metadata) -> tuple[int, ...]:
    """Bytes of each table of rotary embeddings: positions by the size that is rotated, in 16 bits.

    Layers with a window have a table of their own, as in Gemma 3; where they share one, it is counted twice.
    """
    sizes: set[tuple[int, bool]] = set()
    for layer in metadata.layers:
        for memory in layer.memory:
            if isinstance(memory, LatentAttention):
                sizes.add((memory.rope_size, False))
            elif isinstance(memory, Attention) and memory.rotary and memory.causal:
                sizes.add((memory.key_size, memory.window is not None))
    positions = metadata.max_model_len or 0
    return tuple(2 * positions * size for size, _ in sorted(sizes))


def _split_bytes(run: RankedRun, rows: int) -> int:
    """Partial results of FlashAttention 3, which a whole captured step holds in 32 bits."""
    if not (run.device.capability or "").startswith(_HOPPER):
        return 0
    largest = 0
    for layer in run.metadata.layers:
        for memory in layer.memory:
            if isinstance(memory, Attention) and memory.causal:
                largest = max(largest, memory.num_heads * (memory.value_size + 1))
            elif isinstance(memory, LatentAttention):
                largest = max(largest, memory.num_heads * (memory.kv_lora_rank + 1))
    return 4 * _SPLITS * rows * largest // run.tensor_parallel_size


def _in_steps(size_bytes: int) -> int:
    return -(-size_bytes // _GRAPH_STEP_BYTES) * _GRAPH_STEP_BYTES


MEMORY = PagedMemory(
    rule=VllmMemory(),
    vendors=("nvidia", "amd"),
    cache_dtypes=vllm_cache.TYPES,
    ram_cache_dtypes=vllm_cache.RAM_TYPES,
    ram_cache_features=vllm_cache.RAM_FEATURES,
    experts_over_groups=True,
)
