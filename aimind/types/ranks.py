"""What the search over ranks asks of an engine: how it divides a device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from aimind.types.machine import Device
from aimind.types.model import Metadata

if TYPE_CHECKING:
    from aimind.types.decision import Request


@dataclass(frozen=True, slots=True)
class BatchSizes:
    """Limits of one step: tokens that it computes, and sequences that it serves."""

    tokens: int
    sequences: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedRun:
    """One way to run a model on ranks.

    Attributes:
        metadata: the model.
        version: of the engine; empty for the newest one that is known.
        device: one of the devices, all of which hold as much.
        free_bytes: memory of that device that a plan may use, before the engine starts.
        tensor_parallel_size, pipeline_parallel_size: how the model is cut.
        batch: limits of one step.
        weights_bytes: the tensors of the rank that holds most.
        dtype: that the user wants the weights in.
        enforce_eager: no compiled code and no CUDA graphs.
        performance_mode: as in `Request`.
    """

    metadata: Metadata
    version: str
    device: Device
    free_bytes: int
    tensor_parallel_size: int
    pipeline_parallel_size: int
    batch: BatchSizes
    weights_bytes: int
    dtype: str | None = None
    enforce_eager: bool = False
    performance_mode: str | None = None

    @property
    def ranks(self) -> int:
        """The number of devices that hold a part of the model."""
        return self.tensor_parallel_size * self.pipeline_parallel_size


class MemoryRule(Protocol):
    """How one engine divides a device. All sizes are bytes of one device.

    What the device holds in the end is the sum of `weights`, `compute`, `graphs`, `overhead` and the cache.
    """

    @property
    def measured(self) -> bool:
        """Whether the estimates were compared with this engine."""

    @property
    def sources(self) -> Mapping[str, str]:
        """Component of an estimate -> what its figure is known from."""

    @property
    def share_meaning(self) -> str:
        """What the engine's share is a share of, for a sentence."""

    def describe_share(self, share: float) -> str:
        """A share, and what it is a share of, as half a sentence."""

    def batch_sizes(self, devices: tuple[Device, ...], request: Request, *, version: str) -> BatchSizes:
        """The limits that the engine would choose itself on these devices, or in RAM where there are none.

        What the request asks for is taken into account where one limit follows from the other.
        """

    def weights(self, run: RankedRun) -> int:
        """The weights, with what the engine allocates along with them."""

    def compute(self, run: RankedRun) -> int:
        """The peak of one step."""

    def graphs(self, run: RankedRun) -> int:
        """Captured CUDA graphs."""

    def overhead(self, run: RankedRun) -> int:
        """The driver's context, libraries, and all else that the device holds."""

    def available(self, run: RankedRun, share: float) -> int:
        """What a share leaves for the cache; negative where the rest does not fit."""

    def largest_share(self, run: RankedRun) -> float:
        """The largest share for which the free memory suffices, rounded down."""

    def share_for(self, run: RankedRun, cache_bytes: int) -> float | None:
        """The smallest share that leaves so much for the cache; `None` where the engine has no use for it."""
