"""The contract of a launcher: a module with the attributes of `Launcher`.

Its file names all that is particular to one backend. What its `FLAGS` are used for is in `arguments.py`.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from aimind.types import (
    Backend,
    Command,
    Device,
    Help,
    Host,
    MemoryPolicy,
    Metadata,
    Package,
    Plan,
    Program,
    Registry,
    Request,
    Signature,
)

# Would lead the Python of a backend's environment to modules of another one; or to `modelscope`, which is not
# there (vllm/transformers_utils, sglang/srt/environ.py) and not needed: models are here before it starts.
PYTHON_ENV = ("PYTHONPATH", "PYTHONHOME", "VLLM_USE_MODELSCOPE", "SGLANG_USE_MODELSCOPE")
# Else `python -m`, and what it starts, takes modules from where one stands, which may be the model's folder.
PYTHON_SAFE = {"PYTHONSAFEPATH": "1"}
# Why a key is no argument of a backend; for `RESERVED`.
KEY_IS_SEEN = (
    "every user of this machine could read it in the list of processes: use --api-key-file or AIMIND_API_KEY"
)
TOKEN_IS_SEEN = "aimind downloads the model itself, and every user of this machine could read the token"
Value = int | float | bool | str | tuple[float, ...]
Kind = Literal["int", "tokens", "float", "text", "floats", "switch", "boolean"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """How one field of the request is spelled on the backend's command line.

    Attributes:
        spellings: the one that is rendered first.
        kind: of its value: `tokens` is a number that may end in k or m; `floats` are separated by commas;
            a `switch` is there or not, a `boolean` takes a word.
        off: the switch's negative spellings; without one, `False` is rendered as nothing.
        presets: spellings that take no value, since they have one (`--cpu-moe`).
        words: spellings of particular values (`{"all": 999}`), in both directions; of `None`: not asked.
        several: it takes more values than the one that is the field's; they are passed on after it.
        attached: a value that begins with a dash is written after `=`: argparse would take it for a flag if
            it were the next word. llama.cpp takes any next word for the value, and knows no `=`.
    """

    spellings: tuple[str, ...]
    kind: Kind = "text"
    off: tuple[str, ...] = ()
    presets: tuple[tuple[str, Value], ...] = ()
    words: tuple[tuple[str, Value | None], ...] = ()
    several: bool = False
    attached: bool = True


class Launcher(Protocol):
    """One backend.

    Attributes:
        NAME: as in `--backend`.
        SUMMARY: what it is for, half a sentence.
        MEMORY: how it spends memory.
        FLAGS: field of `Request` -> flag.
        RESERVED: flags that only aimind sets -> why, as half a sentence.
        UNCOUNTED: flags that move memory in ways that the plan does not count; the user is told.
        SIGNATURES: what its log says.
    """

    @property
    def NAME(self) -> str: ...
    @property
    def SUMMARY(self) -> str: ...
    @property
    def MEMORY(self) -> MemoryPolicy: ...
    @property
    def FLAGS(self) -> Mapping[str, Flag]: ...
    @property
    def RESERVED(self) -> Mapping[str, str]: ...
    @property
    def UNCOUNTED(self) -> tuple[str, ...]: ...
    @property
    def SIGNATURES(self) -> tuple[Signature, ...]: ...

    def source(self, host: Host, /) -> Package | Program:
        """Where it comes from on such a machine."""

    def refuse(self, metadata: Metadata, host: Host, /) -> str | None:
        """Why it cannot serve this model on this machine, as a sentence; `None` when it can."""

    def command(self, plan: Plan, weights: str, /) -> Command:
        """How to start it. `weights`: the folder in which the model's files lie under their paths."""


@runtime_checkable
class ReadsPickles(Protocol):
    """A launcher of which it is known how it reads pickled weights.

    Attributes:
        WEIGHTS_ONLY: by PyTorch's unpickler that calls nothing but what makes tensors.
    """

    @property
    def WEIGHTS_ONLY(self) -> bool: ...


@runtime_checkable
class Checks(Protocol):
    """A launcher that looks at what is left of the user's arguments, before anything is estimated."""

    def check(self, request: Request, backend: Backend, /) -> tuple[str, ...]:
        """What the user should know of them, as sentences.

        Raises:
            UsageError: this version of the backend does not take them.
        """


@runtime_checkable
class TellsFlags(Protocol):
    """A launcher whose backend can be asked for its flags."""

    @property
    def HELP(self) -> Help: ...


@runtime_checkable
class KnowsArchitectures(Protocol):
    """A launcher that can tell whether one version of its backend loads an architecture."""

    def table(self, backend: Backend, /) -> str:
        """The name of the table of that version's architectures, which comes with aimind or not."""

    def knows(self, metadata: Metadata, backend: Backend, /) -> bool:
        """Whether that version can load the model's architecture, or may: `True` where it is not known."""


@runtime_checkable
class ListsModels(KnowsArchitectures, Protocol):
    """A launcher whose installed backend can be asked which architectures it can load."""

    @property
    def REGISTRY(self) -> Registry: ...


@runtime_checkable
class Compiles(Protocol):
    """A launcher whose backend compiles models when it starts, and keeps the code for later starts.

    Attributes:
        COMPILE_VARIABLES: with one of them in the environment the user decides where the code is kept.
        COMPILE_FOLDER: of the cache, without which no code is left.
    """

    @property
    def COMPILE_VARIABLES(self) -> tuple[str, ...]: ...
    @property
    def COMPILE_FOLDER(self) -> str: ...

    def compile_key(self, plan: Plan, /) -> str | None:
        """The same for two plans where the second uses the code of the first; `None` where there is none."""


@runtime_checkable
class HasLibraries(Protocol):
    """A launcher whose backend can compute what its compiled library has operations for.

    Attributes:
        OPERATIONS: names that PyTorch registers, of which some libraries lack some.
    """

    @property
    def OPERATIONS(self) -> tuple[str, ...]: ...

    def library(self, host: Host, /) -> str | None:
        """The library that is loaded on this machine, below the site-packages; `None` where none decides."""


@runtime_checkable
class Narrows(Protocol):
    """A launcher that knows what one version of its backend cannot load."""

    def lacks(self, metadata: Metadata, host: Host, backend: Backend, /) -> str | None:
        """Why that version cannot serve this model here, as a sentence; `None` when it can, or may."""


def nearest(word: str, known: list[str]) -> str | None:
    """The known word that is most like this one, if any is."""
    import difflib

    return next(iter(difflib.get_close_matches(word, known, n=1)), None)


def takes_key(launcher: Launcher) -> bool:
    """Whether clients can be asked for a key; it reaches the backend by its environment."""
    return KEY_IS_SEEN in launcher.RESERVED.values()


def weight_path(plan: Plan, weights: str) -> str:
    """The plan's first GGUF file that holds the model; the one that a backend is given for a split model."""
    files = (file for file in plan.model.files if not file.is_projector)
    first = next(file.path for file in files if file.is_gguf)
    return os.path.join(weights, first)  # noqa: PTH118 - pathlib is not worth its import here


def located(settings: Request, weights: str) -> Request:
    """The settings with the projector's path where the files lie; one of the user's own may be absolute."""
    if settings.projector is None:
        return settings
    return dataclasses.replace(settings, projector=os.path.join(weights, settings.projector))  # noqa: PTH118


# With other values than those of `visible_devices` the backend would be on other devices than the plan's.
DEVICE_VARIABLES = frozenset(
    {
        "CUDA_DEVICE_ORDER",
        "CUDA_VISIBLE_DEVICES",
        "GPU_DEVICE_ORDINAL",
        "HIP_VISIBLE_DEVICES",
        "ROCR_VISIBLE_DEVICES",
    }
)


def visible_devices(devices: tuple[Device, ...]) -> dict[str, str]:
    """The environment in which a CUDA program sees just these devices, in NVML's order; or one of ROCm."""
    if devices and devices[0].vendor == "amd":
        return {"HIP_VISIBLE_DEVICES": ",".join(str(device.index) for device in devices)}
    return {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": ",".join(device.uuid or str(device.index) for device in devices),
    }


# Addresses that only programs on this machine reach.
LOOPBACK = ("127.0.0.1", "localhost", "::1")
DEFAULT_ADDRESS = "127.0.0.1"


def is_local(request: Request) -> bool:
    """Whether the server would listen where only this machine reaches it."""
    return (request.address or DEFAULT_ADDRESS) in LOOPBACK


def url(settings: Request) -> str:
    """Where a program on this machine reaches the server: a wildcard address is reached by loopback."""
    address = settings.address or DEFAULT_ADDRESS
    if address in ("0.0.0.0", "::", "*", ""):
        address = "127.0.0.1"
    return f"http://{f'[{address}]' if ':' in address else address}:{settings.port}"


def service_variables(name: str) -> tuple[str, ...]:
    """What Kubernetes sets in every pod for a service of this name, in capitals.

    `NAME_PORT=tcp://10.0.0.1:80` is among them, which a backend that reads `NAME_PORT` takes for a number.
    """
    return (f"{name}_PORT", f"{name}_PORT_*", f"{name}_SERVICE_*")
