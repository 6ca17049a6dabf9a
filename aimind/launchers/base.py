"""The contract of a launcher, and the two directions of its flags.

A launcher is a module with the attributes of `Launcher`; its file names everything that is particular to one
backend. `FLAGS` is used both ways: `render` turns the plan's settings into arguments, `absorb` turns the
user's own arguments into the request, before anything is estimated, so that they cannot contradict the plan.
Law: `absorb(launcher, Request(extra=render(launcher.FLAGS, settings)))` gives these settings back.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from aimind.errors import UsageError
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

# Would lead the Python of a backend's environment to modules of another one.
PYTHON_ENV = ("PYTHONPATH", "PYTHONHOME")
# Else `python -m`, and what it starts, takes modules from where one stands, which may be the model's folder.
PYTHON_SAFE = {"PYTHONSAFEPATH": "1"}
# Why a key is no argument of a backend; for `RESERVED`.
KEY_IS_SEEN = "everybody here can read it in the list of processes: use --api-key-file, or AIMIND_API_KEY"
TOKEN_IS_SEEN = "aimind downloads the model itself, and everybody here could read the token"
# Python's servers also take flags that are cut short.
_SECRET_FLAGS = {"--api-key": KEY_IS_SEEN, "--hf-token": TOKEN_IS_SEEN}
_SHORTEST = len("--api")
# What numbers may be that the user's own arguments give; aimind's options have the same bounds.
_RANGES: Mapping[str, tuple[float, float]] = {
    "port": (0, 65535),
    "gpu_layers": (0, math.inf),
    "cpu_moe_layers": (0, math.inf),
    "prompt_cache_mib": (0, math.inf),  # without a limit no plan can hold it
    "context_checkpoints": (0, math.inf),
    "gpu_memory_utilization": (0.01, 1),
    **dict.fromkeys(
        (
            *("max_num_seqs", "max_num_batched_tokens", "batch_size", "ubatch_size", "block_size"),
            *("kv_cache_tokens", "kv_cache_memory_bytes"),
            *("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size"),
        ),
        (1, math.inf),
    ),
}
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
    """

    spellings: tuple[str, ...]
    kind: Kind = "text"
    off: tuple[str, ...] = ()
    presets: tuple[tuple[str, Value], ...] = ()
    words: tuple[tuple[str, Value | None], ...] = ()
    several: bool = False


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
class ListsModels(Protocol):
    """A launcher whose backend has a table of the architectures that it can load."""

    @property
    def REGISTRY(self) -> Registry: ...


@runtime_checkable
class Narrows(Protocol):
    """A launcher that knows what one version of its backend cannot load."""

    def lacks(self, metadata: Metadata, host: Host, backend: Backend, /) -> str | None:
        """Why that version cannot serve this model here, as a sentence; `None` when it can, or may."""


def checked(launcher: Launcher, request: Request, backend: Backend) -> tuple[str, ...]:
    """What the launcher says of the request, where it looks at it.

    Raises:
        UsageError: the backend does not take it, or a number is out of its range.
    """
    notes = launcher.check(request, backend) if isinstance(launcher, Checks) else ()
    for field, (least, most) in _RANGES.items():
        value: float | None = getattr(request, field)
        if value is not None and not least <= value <= most:
            raise UsageError(
                f"{launcher.FLAGS[field].spellings[0]} {value:g} is out of its range",
                hint=f"it takes {least:g} to {most:g}" if most < math.inf else f"it takes {least:g} or more",
            )
    return notes


def render(flags: Mapping[str, Flag], settings: Request) -> tuple[str, ...]:
    """The settings that the backend has flags for, as arguments."""
    argv: list[str] = []
    for field, flag in flags.items():
        value: Value | None = getattr(settings, field)
        if value is None:
            continue
        if flag.kind == "switch":
            argv += flag.spellings[:1] if value else flag.off[:1]
        else:
            argv += (flag.spellings[0], _text(flag, value))
    return tuple(argv)


def absorb(launcher: Launcher, request: Request) -> Request:
    """The request with the user's own backend arguments taken into its fields; what is left stays `extra`.

    Raises:
        UsageError: an argument is aimind's own business, no flag where one should be, has a bad value, or
            says otherwise than an option.
    """
    spellings = {
        plain(spelling): (field, flag)
        for field, flag in launcher.FLAGS.items()
        for spelling in (*flag.spellings, *flag.off, *dict(flag.presets))
    }
    found: dict[str, Value | None] = {}
    extra: list[str] = []
    # What a word may go on with: a flag that is passed on, or is then passed on with all its values.
    before: tuple[str, ...] | None = None
    for token, following in _tokens(request.extra):
        name = token.partition("=")[0]
        key = plain(name)
        why = _plain_keys(launcher.RESERVED).get(key) or _secret(key)
        if why is not None:
            raise UsageError(f"{name} cannot be passed to {launcher.NAME}: {why}", hint="leave it out")
        if not name.startswith("-") or key not in spellings:
            if not name.startswith("-"):
                if before is None:
                    raise UsageError(
                        f"{token} is no argument: it belongs to no flag before it",
                        hint=f"--{token}, or leave it out",
                    )
                extra += before
            extra.append(token)
            before = ()
            continue
        field, flag = spellings[key]
        found[field], before = _taken(flag, token, following)
    for field, value in found.items():
        said: Value | None = getattr(request, field)
        if said is not None and value is not None and said != value:
            raise UsageError(
                f"{launcher.FLAGS[field].spellings[0]} {value} contradicts the option of aimind, {said}",
                hint="say it once",
            )
    return dataclasses.replace(
        request,
        extra=tuple(extra),
        **{field: value for field, value in found.items() if value is not None},  # type: ignore[arg-type]
    )


def _taken(
    flag: Flag, token: str, following: Callable[[], str | None]
) -> tuple[Value | None, tuple[str, ...] | None]:
    """What an argument gives its field, and what is passed on if a word follows."""
    name, equals, attached = token.partition("=")
    presets = {plain(spelling): value for spelling, value in flag.presets}
    key = plain(name)
    if equals and (flag.kind == "switch" or key in presets):
        raise UsageError(f"{name} takes no value", hint=f"{name}, or leave it out")
    if flag.kind == "switch":
        return key not in map(plain, flag.off), None
    if key in presets:
        return presets[key], None
    text = attached if equals else following()
    return _value(flag, name, text), (name, text or "") if flag.several and not equals else None


def uncounted(launcher: Launcher, request: Request) -> tuple[str, ...]:
    """The backend arguments of the user that move memory in ways that the plan does not count."""
    known = {plain(spelling) for spelling in launcher.UNCOUNTED}
    names = (token.partition("=")[0] for token in request.extra)
    # vLLM takes keys of a flag's JSON after a dot.
    return tuple(name for name in names if plain(name).partition(".")[0] in known)


def said(flag: Flag, argv: tuple[str, ...]) -> str | None:
    """The last text that the arguments give to a flag, before it is known whose arguments they are."""
    found = None
    for token, following in _tokens(argv):
        name, equals, attached = token.partition("=")
        if plain(name) in flag.spellings:
            found = attached if equals else following()
    return found


def _tokens(argv: tuple[str, ...]) -> Iterator[tuple[str, Callable[[], str | None]]]:
    """Each argument, with a way to take the next one as its value."""
    rest = iter(argv)
    for token in rest:
        yield token, lambda: next(rest, None)


def plain(spelling: str) -> str:
    """Long flags are the same with `-` and `_`, as the Python servers' parsers take them."""
    return spelling.replace("_", "-") if spelling.startswith("--") else spelling


def _secret(key: str) -> str | None:
    """Why this flag, perhaps cut short, would show a secret."""
    if len(key) < _SHORTEST:
        return None
    return next((why for flag, why in _SECRET_FLAGS.items() if flag.startswith(key)), None)


def _plain_keys(reserved: Mapping[str, str]) -> dict[str, str]:
    return {plain(spelling): why for spelling, why in reserved.items()}


def _text(flag: Flag, value: Value) -> str:
    for word, meaning in flag.words:
        if value == meaning and type(value) is type(meaning):
            return word
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ",".join(f"{share:g}" for share in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _value(flag: Flag, name: str, text: str | None) -> Value | None:
    if text is None:
        raise UsageError(f"{name} needs a value", hint=f"{name} VALUE")
    for word, meaning in flag.words:
        if text.lower() == word:
            return meaning
    try:
        match flag.kind:
            case "int":
                return int(text)
            case "tokens":
                return tokens(text)
            case "float":
                return float(text)
            case "floats":
                return tuple(float(share) for share in text.replace("/", ",").split(","))
            case "boolean":
                return {"true": True, "1": True, "on": True, "false": False, "0": False, "off": False}[
                    text.lower()
                ]
            case _:
                return text
    except (ValueError, KeyError):
        words = " or ".join(word for word, _ in flag.words)
        wanted = f"it takes {'a number' if flag.kind in ('int', 'tokens', 'float') else flag.kind}"
        raise UsageError(
            f"{name} {text}: not a value that it takes", hint=wanted + (f", or {words}" if words else "")
        ) from None


def tokens(text: str) -> int:
    """A number of tokens: `8192`, `8k` (8192), `1m` (1048576).

    Raises:
        ValueError: anything else.
    """
    units = {"k": 1024, "m": 1024 * 1024}
    unit = units.get(text[-1:].lower(), 1)
    number = int(text if unit == 1 else text[:-1])
    if number < 0:
        raise ValueError(text)
    return number * unit


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
    first = next(file.path for file in files if file.path.lower().endswith(".gguf"))
    return os.path.join(weights, first)  # noqa: PTH118 - pathlib is not worth its import here


def located(settings: Request, weights: str) -> Request:
    """The settings with the projector's path where the files lie; one of the user's own may be absolute."""
    if settings.projector is None:
        return settings
    return dataclasses.replace(settings, projector=os.path.join(weights, settings.projector))  # noqa: PTH118


def visible_devices(devices: tuple[Device, ...]) -> dict[str, str]:
    """The environment in which a CUDA program sees just these devices, in NVML's order; or one of ROCm."""
    if devices and devices[0].vendor == "amd":
        return {"HIP_VISIBLE_DEVICES": ",".join(str(device.index) for device in devices)}
    return {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": ",".join(device.uuid or str(device.index) for device in devices),
    }


def url(settings: Request) -> str:
    """Where a program on this machine reaches the server: a wildcard address is reached by loopback."""
    address = settings.address or "127.0.0.1"
    if address in ("0.0.0.0", "::", "*", ""):
        address = "127.0.0.1"
    return f"http://{f'[{address}]' if ':' in address else address}:{settings.port}"
