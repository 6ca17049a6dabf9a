"""How MindIE divides a device: a share of its whole memory holds all that it takes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from aimind.types import BatchSizes, Device, RankedRun, Request

# MindIE compares the share with what is free once its own context is there: about half a GiB less.
_START_BYTES = 512 << 20


@dataclass(frozen=True, slots=True)
class MindieMemory:
    """MindIE's rule; see the module. Its figures are vLLM's, and were not measured."""

    measured: bool = False
    share_meaning: str = "of each device"

    @property
    def sources(self) -> Mapping[str, str]:
        """Component of an estimate -> what its figure is known from."""
        from aimind.estimate import paged

        return paged.unmeasured_sources()

    def describe_share(self, share: float) -> str:
        """Explain the share to the user."""
        return f"the backend may use {share:g} of each device, which is not more than is free now"

    def batch_sizes(self, devices: tuple[Device, ...], request: Request, *, version: str) -> BatchSizes:
        """The figures of the configuration that it is installed with."""
        return BatchSizes(request.max_num_batched_tokens or 8192, request.max_num_seqs or 200)

    def weights(self, run: RankedRun) -> int:
        """The tensors alone."""
        return run.weights_bytes

    def compute(self, run: RankedRun) -> int:
        """The peak of a step."""
        from aimind.estimate import paged

        return paged.activation_bytes(
            run.metadata,
            tensor_parallel=run.tensor_parallel_size,
            tokens=run.batch.tokens,
            sequences=run.batch.sequences,
        )

    def graphs(self, run: RankedRun) -> int:
        """It captures none."""
        return 0

    def overhead(self, run: RankedRun) -> int:
        """The context."""
        from aimind.estimate import paged

        return paged.CONTEXT_BYTES

    def available(self, run: RankedRun, share: float) -> int:
        """The share of the whole device, less the rest."""
        return int(run.device.total_bytes * share) - self._besides(run)

    def largest_share(self, run: RankedRun) -> float:
        """What is free when it starts."""
        share = (run.free_bytes - _START_BYTES) / run.device.total_bytes
        return max(0.0, math.floor(share * 100) / 100)

    def share_for(self, run: RankedRun, cache_bytes: int) -> float:
        """The cache and the rest, of the whole device."""
        return math.ceil(100 * (self._besides(run) + cache_bytes) / run.device.total_bytes) / 100

    def _besides(self, run: RankedRun) -> int:
        return self.weights(run) + self.compute(run) + self.graphs(run) + self.overhead(run)
