"""The two directions of a launcher's flags: the user's arguments into the request, settings into arguments.

`FLAGS` is used both ways: `render` turns the plan's settings into arguments, `absorb` turns the user's own
arguments into the request, before anything is estimated, so that they cannot contradict the plan.
Law: `absorb(launcher, Request(extra=render(launcher.FLAGS, settings)))` gives these settings back.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping

from aimind.errors import UsageError
from aimind.launchers.base import KEY_IS_SEEN, TOKEN_IS_SEEN, Checks, Flag, Launcher, Value
from aimind.types import Backend, Request

# Python's servers also take flags that are cut short.
_SECRET_FLAGS = {"--api-key": KEY_IS_SEEN, "--hf-token": TOKEN_IS_SEEN}
_SHORTEST = len("--api")
# Field of a request -> aimind's own option for it. All other fields have only the backend's flags.
OPTIONS: Mapping[str, str] = {
    "max_model_len": "--context",
    "max_num_seqs": "--parallel",
    "kv_cache_dtype": "--kv-cache-type",
    "devices": "--device",
    "gpu_layers": "--gpu-layers",
    "tensor_parallel_size": "--tensor-parallel",
    "gpu_memory_utilization": "--gpu-memory-utilization",
    "cpu_offload": "--no-cpu-offload",
}
# Backends keep counts in signed integers of 32 bits, and sizes in bytes or MiB in 64 bits.
_MOST = (1 << 31) - 1
_MOST_BYTES = (1 << 63) - 1
# What numbers may be that the user's own arguments give; aimind's options have the same bounds.
_RANGES: Mapping[str, tuple[float, float]] = {
    "port": (0, 65535),
    "gpu_memory_utilization": (0.01, 1),
    "kv_cache_memory_bytes": (1, _MOST_BYTES),
    "prompt_cache_mib": (0, _MOST),  # without a limit no plan can hold it
    **dict.fromkeys(("gpu_layers", "cpu_moe_layers", "context_checkpoints", "max_model_len"), (0, _MOST)),
    **dict.fromkeys(
        (
            *("max_num_seqs", "max_num_batched_tokens", "batch_size", "ubatch_size", "block_size"),
            "kv_cache_tokens",
            *("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size"),
        ),
        (1, _MOST),
    ),
}


def check_arguments(launcher: Launcher, request: Request, backend: Backend) -> tuple[str, ...]:
    """Check numbers against their ranges and return the launcher's own notes on the request.

    Raises:
        UsageError: the backend does not support the request, or a number is out of its range.
    """
    notes = launcher.check(request, backend) if isinstance(launcher, Checks) else ()
    for field, (least, most) in _RANGES.items():
        value: float | None = getattr(request, field)
        if value is not None and not least <= value <= most:
            flag = launcher.FLAGS.get(field)
            name = OPTIONS[field] if flag is None else flag.spellings[0]
            raise UsageError(f"{name} {value} is out of range", hint=f"use a value from {least} to {most}")
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
            continue
        text = _text(flag, value)
        if flag.kind == "text" and flag.attached and text.startswith("-"):
            argv.append(f"{flag.spellings[0]}={text}")
        else:
            argv += (flag.spellings[0], text)
    return tuple(argv)


def absorb(launcher: Launcher, request: Request) -> Request:
    """Read the user's own backend arguments into fields of the request; the others stay in `extra`.

    Raises:
        UsageError: an argument is reserved for aimind, is not a flag, has a bad value, or conflicts with an
            option.
    """
    spellings = {
        plain(spelling): (field, flag)
        for field, flag in launcher.FLAGS.items()
        for spelling in (*flag.spellings, *flag.off, *dict(flag.presets))
    }
    found: dict[str, Value | None] = {}
    extra: list[str] = []
    # Arguments that a following plain word belongs to; None after a complete flag, when no word may follow.
    before: tuple[str, ...] | None = None
    for token, following in _tokens(request.extra):
        name = token.partition("=")[0]
        key = plain(name)
        why = _plain_keys(launcher.RESERVED).get(key) or _secret(key)
        if why is not None:
            raise UsageError(f"{name} cannot be passed to {launcher.NAME}: {why}", hint="omit it")
        if not name.startswith("-") or key not in spellings:
            if not name.startswith("-"):
                if before is None:
                    raise UsageError(
                        f"{token} is not a flag, and no flag before it needs a value",
                        hint=f"use --{token}, or omit it",
                    )
                extra += before
            extra.append(token)
            before = ()
            continue
        field, flag = spellings[key]
        found[field], before = _read_flag(flag, token, following)
    for field, value in found.items():
        option: Value | None = getattr(request, field)
        if option is not None and value is not None and option != value:
            name = launcher.FLAGS[field].spellings[0]
            ours = OPTIONS.get(field, "the option of aimind")
            raise UsageError(
                f"{name} {value} conflicts with {ours}, which is set to {option}", hint=f"omit {name}"
            )
    return dataclasses.replace(
        request,
        extra=tuple(extra),
        **{field: value for field, value in found.items() if value is not None},  # type: ignore[arg-type]
    )


def _read_flag(
    flag: Flag, token: str, following: Callable[[], str | None]
) -> tuple[Value | None, tuple[str, ...] | None]:
    """Return the value of a flag, and the arguments to pass on if another plain word follows."""
    name, equals, attached = token.partition("=")
    presets = {plain(spelling): value for spelling, value in flag.presets}
    key = plain(name)
    if equals and (flag.kind == "switch" or key in presets):
        raise UsageError(f"{name} does not take a value", hint=f"use {name} alone, or omit it")
    if flag.kind == "switch":
        return key not in map(plain, flag.off), None
    if key in presets:
        return presets[key], None
    text = attached if equals else following()
    return _value(flag, name, text), (name, text or "") if flag.several and not equals else None


def uncounted(launcher: Launcher, request: Request) -> tuple[str, ...]:
    """The user's backend arguments that change memory use in ways that the plan does not count."""
    known = {plain(spelling) for spelling in launcher.UNCOUNTED}
    names = (token.partition("=")[0] for token in request.extra)
    # vLLM reads keys of a flag's JSON after a dot.
    return tuple(name for name in names if plain(name).partition(".")[0] in known)


def last_value(flag: Flag, argv: tuple[str, ...]) -> str | None:
    """The last value of a flag in these arguments, before the backend is known."""
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
    """Normalize `_` to `-` in long flags, as the parsers of the Python servers do."""
    return spelling.replace("_", "-") if spelling.startswith("--") else spelling


def _secret(key: str) -> str | None:
    """Why this flag, possibly abbreviated, would expose a secret."""
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
        raise UsageError(f"{name} needs a value", hint=f"use {name} VALUE")
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
        wanted = f"use {'a number' if flag.kind in ('int', 'tokens', 'float') else flag.kind}"
        raise UsageError(
            f"{name} does not accept {text}", hint=wanted + (f", or {words}" if words else "")
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
