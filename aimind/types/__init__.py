"""The vocabulary: frozen values that flow from the command line to the supervisor.

Bytes are `int` and their names end in `_bytes`; times are `float` seconds and end in `_seconds`; lengths are
in tokens. `None` means unknown or not applicable in what was found, and "decide for me" in a `Request`.
"""

from __future__ import annotations

from aimind.types.backend import (
    Backend,
    Help,
    Home,
    LayeredMemory,
    MemoryPolicy,
    Need,
    Package,
    PagedMemory,
    Program,
    WholeMemory,
)
from aimind.types.command import (
    PRIVATE_VARIABLES,
    Command,
    Overlay,
    Probe,
    Signature,
    TextFile,
    TinyRequest,
    public,
)
from aimind.types.decision import (
    API_KEY_VARIABLE,
    TOKEN_VARIABLES,
    Estimate,
    Plan,
    Reason,
    Refusal,
    Request,
    Shard,
)
from aimind.types.instance import ENDED, Claim, Instance, State, StateName
from aimind.types.machine import Device, Host, Tenant
from aimind.types.model import (
    Attention,
    Category,
    File,
    Format,
    LatentAttention,
    Layer,
    Memory,
    Metadata,
    Model,
    Reader,
    RecurrentState,
    Reference,
    Source,
    Tensor,
)

__all__ = [
    "API_KEY_VARIABLE",
    "ENDED",
    "PRIVATE_VARIABLES",
    "TOKEN_VARIABLES",
    "Attention",
    "Backend",
    "Category",
    "Claim",
    "Command",
    "Device",
    "Estimate",
    "File",
    "Format",
    "Help",
    "Home",
    "Host",
    "Instance",
    "LatentAttention",
    "Layer",
    "LayeredMemory",
    "Memory",
    "MemoryPolicy",
    "Metadata",
    "Model",
    "Need",
    "Overlay",
    "Package",
    "PagedMemory",
    "Plan",
    "Probe",
    "Program",
    "Reader",
    "Reason",
    "RecurrentState",
    "Reference",
    "Refusal",
    "Request",
    "Shard",
    "Signature",
    "Source",
    "State",
    "StateName",
    "Tenant",
    "Tensor",
    "TextFile",
    "TinyRequest",
    "WholeMemory",
    "public",
]
