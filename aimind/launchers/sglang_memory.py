"""How SGLang divides a device: a static share, of what is free at its start, for weights and cache alone.

The rest of what is free is for what is computed, and for graphs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from aimind.types import BatchSizes, Device, RankedRun, Request

_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class SglangMemory:
    """SGLang's rule; see the module. Its figures are vLLM's, and were not measured."""

    measured: bool = False
    share_meaning: str = "of what is free, for weights and cache"

    @property
    def sources(self) -> Mapping[str, str]:
        """Component of an estimate -> what its figure is known from."""
        from aimind.estimate import paged

        found = paged.unmeasured_sources()
        found["compute_bytes"] = (
            "the figure is the larger of SGLang's own reserve and the peak of vLLM's profiling run"
        )
        return found

    def describe_share(self, share: float) -> str:
        """Explain the share to the user."""
        return f"weights and KV cache may use {share:g} of the free memory of each device"

    def batch_sizes(self, devices: tuple[Device, ...], request: Request, *, version: str) -> BatchSizes:
        """Sizes that leave room on small devices: SGLang's own are for larger steps."""
        tokens = request.max_num_batched_tokens or 2048
        return BatchSizes(tokens, request.max_num_seqs or 256)

    def weights(self, run: RankedRun) -> int:
        """The tensors alone."""
        return run.weights_bytes

    def compute(self, run: RankedRun) -> int:
        """Not less than what SGLang's own rule keeps free, which is all that is known of it."""
        from aimind.estimate import paged

        peak = paged.activation_bytes(
            run.metadata,
            tensor_parallel=run.tensor_parallel_size,
            tokens=run.batch.tokens,
            sequences=run.batch.sequences,
        )
        return max(peak, _kept_free(run.batch.tokens, run.ranks))

    def graphs(self, run: RankedRun) -> int:
        """Graphs of the default sizes."""
        from aimind.estimate import paged

        return 0 if run.enforce_eager else paged.GRAPHS_BYTES

    def overhead(self, run: RankedRun) -> int:
        """The context."""
        from aimind.estimate import paged

        return paged.CONTEXT_BYTES

    def available(self, run: RankedRun, share: float) -> int:
        """The share of what is free once the context is there, less the weights."""
        return int(self._free_at_start(run) * share) - self.weights(run)

    def largest_share(self, run: RankedRun) -> float:
        """What computing and graphs leave."""
        kept = self.compute(run) + self.graphs(run)
        return max(0.0, math.floor(100 - 100 * kept / self._free_at_start(run)) / 100)

    def share_for(self, run: RankedRun, cache_bytes: int) -> None:
        """A smaller share frees nothing that SGLang would not use."""

    def _free_at_start(self, run: RankedRun) -> int:
        return max(1, run.free_bytes - self.overhead(run))


def _kept_free(tokens: int, ranks: int) -> int:
    """What SGLang itself would keep free of a device for computing a step of so many tokens.

    Source: `handle_gpu_memory_settings` in sglang/srt/arg_groups/memory_hook.py, 0.5.23, without the graphs.
    """
    mib = 512 + 1.5 * max(tokens, 2048) + ranks * 128
    return int(mib * _MIB)
