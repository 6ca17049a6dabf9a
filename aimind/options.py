"""The options of `serve` and `plan`, and the `Request` that they become."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, get_args

import click

from aimind.errors import UsageError
from aimind.launchers.arguments import said, tokens
from aimind.reference import HUB_VARIABLE, HUBS
from aimind.types import API_KEY_VARIABLE, TOKEN_VARIABLES, Category, Defaults, Request

BEST = "best"  # --quant: the largest that fits
# Words of the names of variables that hold secrets: HF_TOKEN, AWS_SECRET_ACCESS_KEY, but not MAX_TOKENS.
SECRET_WORDS = frozenset("KEY APIKEY TOKEN SECRET PASSWORD PASSWD PASSPHRASE CREDENTIAL CREDENTIALS".split())
# The names of systemd's credentials.
API_KEY_CREDENTIAL, TOKEN_CREDENTIAL = "aimind.api-key", "aimind.hf-token"
_ALONE = "a file with the key or the token alone, on one line"
# Options that are called otherwise than the field of the request that they become.
_FIELDS = {
    "context": "max_model_len",
    "contexts": "max_model_len",
    "parallel": "max_num_seqs",
    "device": "devices",
    "tensor_parallel": "tensor_parallel_size",
    "kv_cache_type": "kv_cache_dtype",
    "host": "address",
    "served_model_name": "served_name",
    "mmproj": "projector",
}
F = TypeVar("F", bound=Callable[..., object])


class Tokens(click.ParamType[int]):
    """A number of tokens: `8192`, `8k`; or `max`, the model's own limit, which is kept as 0."""

    name = "tokens"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number."""
        if isinstance(value, int):
            return value
        try:
            number = 0 if value == "max" else tokens(str(value))
        except ValueError:
            self.fail(f"{value!r} is not a number of tokens: 8192, 8k, max", param, ctx)
        if number == 0 and value != "max":
            self.fail("a context of no tokens holds nothing", param, ctx)
        return number


class Several(click.ParamType[tuple[int, ...]]):
    """Numbers of tokens, separated by commas."""

    name = "tokens,…"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """The numbers."""
        if isinstance(value, tuple):
            return value
        return tuple(Tokens().convert(part, param, ctx) for part in str(value).split(","))


class Devices(click.ParamType[tuple[int, ...]]):
    """Devices by the driver's index: `0`, `0,1`; or `none`, the CPU."""

    name = "devices"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """The indices."""
        if isinstance(value, tuple):
            return value
        text = str(value)
        if text in ("none", "cpu"):
            return ()
        try:
            indices = tuple(int(part) for part in text.split(","))
        except ValueError:
            self.fail(f"{value!r} names no devices: 0, 0,1, none", param, ctx)
        if len(set(indices)) != len(indices):
            self.fail(f"{value!r} names a device twice", param, ctx)
        return indices


class Variable(click.ParamType[tuple[str, str]]):
    """An environment variable: `NAME=VALUE`, or `NAME` with the value that it has here."""

    name = "name[=value]"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        """Its name and its value."""
        if isinstance(value, tuple):
            return value
        name, equals, content = str(value).partition("=")
        if not name:
            self.fail("it names no variable: NAME=VALUE, or NAME for the value that it has here", param, ctx)
        if not equals:
            if name not in os.environ:
                self.fail(f"{name} has no value here: NAME=VALUE gives it one", param, ctx)
            return name, os.environ[name]
        if is_secret(name):
            raise UsageError(
                f"everybody here can read {name} in the list of processes",
                hint=f"export {name}, then --env {name}",
            )
        return name, content


def _use_hub(_context: click.Context, _option: click.Parameter, hub: str | None) -> None:
    """Names are read in many places, and all ask `reference.default_hub`."""
    if hub is not None:
        os.environ[HUB_VARIABLE] = hub


hub_option = click.option(
    "--hub",
    type=click.Choice(HUBS),
    expose_value=False,
    is_eager=True,
    callback=_use_hub,
    help="Where owner/name is, without a prefix.",
)


offline_option = click.option("--offline", is_flag=True, help="Use no network: only what is here already.")


def is_secret(variable: str) -> bool:
    """Whether a variable of this name looks as if it held a secret."""
    return not SECRET_WORDS.isdisjoint(variable.upper().split("_"))


def request_options(function: F) -> F:
    """The options that become a `Request`: those of `serve` and `plan`."""
    options = (
        click.option("--quant", metavar="NAME", help="Q4_K_M, as MODEL:Q4_K_M; best: the largest that fits."),
        click.option("--mmproj", metavar="PATH", help="File of the repository for pictures or sound; none."),
        click.option("--backend", metavar="NAME", help="Serve with this backend (see `aimind backends`)."),
        click.option("--backend-version", metavar="VERSION", help="And with this version of it."),
        click.option(
            "--category",
            type=click.Choice(get_args(Category)),
            metavar="NAME",
            help=f"Use it for this, whatever its files say: {', '.join(get_args(Category))}.",
        ),
        click.option("--parallel", type=click.IntRange(1), help="Requests at once, each with that context."),
        click.option("--device", type=Devices(), help="Devices to use: 0 or 0,1; none for the CPU."),
        click.option("--tensor-parallel", type=click.IntRange(1), help="Devices that share a layer (vLLM)."),
        click.option("--gpu-layers", type=click.IntRange(0), help="Layers on devices (llama.cpp)."),
        click.option(
            "--no-cpu-offload",
            "cpu_offload",
            flag_value=False,
            default=None,
            type=bool,
            help="Fail rather than use RAM for any layer.",
        ),
        click.option(
            "--kv-cache-type",
            metavar="TYPE",
            help="Data type of the KV cache: f16, q8_0 or q4_0 for llama.cpp (default: f16); auto, bfloat16, "
            "fp8 or nvfp4 for vLLM and SGLang (default: auto).",
        ),
        click.option(
            "--gpu-memory-utilization",
            type=click.FloatRange(0, 1, min_open=True),
            help="Share of each device (vLLM).",
        ),
        click.option("--host", metavar="ADDRESS", help="Where to listen; 127.0.0.1 unless said otherwise."),
        click.option("--port", type=click.IntRange(0, 65535), help="8000 by default; 0 takes a free one."),
        click.option(
            "--api-key-file",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help=f"The key that clients must send; else the variable {API_KEY_VARIABLE}.",
        ),
        click.option(
            "--hf-token-file",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help="The token for Hugging Face; else the variable HF_TOKEN.",
        ),
        click.option("--served-model-name", metavar="NAME", help="The model's name in the API."),
        click.option(
            "--env",
            type=Variable(),
            multiple=True,
            help="For the backend; NAME: as it is here. May be repeated.",
        ),
        click.option("--trust-remote-code", is_flag=True, default=None, help="Run the model's own code."),
        click.option(
            "--no-auto-parsers",
            "auto_parsers",
            flag_value=False,
            default=None,
            type=bool,
            help="Choose no parsers of tool calls and reasoning (vLLM, SGLang).",
        ),
        click.option("--revision", metavar="REV", help="Branch, tag or commit; the same as MODEL@REV."),
        hub_option,
        offline_option,
        click.option(
            "--no-config",
            is_flag=True,
            expose_value=False,
            help="Hear no aimind.toml and no variable AIMIND_… that is an option: docs/configuration.md.",
        ),
        click.option(
            "--force", is_flag=True, help="Go on where aimind cannot estimate; take --backend at its word."
        ),
    )
    for option in reversed(options):
        function = option(function)
    return function


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the options of `serve` and `plan` ask for.

    Attributes:
        text: the model as it was typed; revision, quantization: given besides it.
        prefer_quality: the largest quantization that fits (`--quant best`).
        projector: the file of the repository that shall be the projector, `none` for none; `None`: not said.
        offline: nothing may be fetched.
        token_file: the file with the hub's token; `None`: as the hub's client finds it.
        request: the rest.
    """

    text: str
    revision: str | None
    quantization: str | None
    prefer_quality: bool
    projector: str | None
    offline: bool
    token_file: Path | None
    request: Request


def request_field(option: str) -> str | None:
    """The field of a `Request` that an option with a parameter of this name decides, if it is one."""
    name = _FIELDS.get(option, option)
    return name if name in Request.__dataclass_fields__ else None


def wanted(
    text: str, options: dict[str, object], backend_argv: tuple[str, ...], defaults: Defaults | None = None
) -> Wanted:
    """What was asked, from the options of a command and the arguments for the backend.

    `defaults`: which of the options nobody typed.

    Raises:
        UsageError: the file of the key or of the token cannot be read, or holds none.
    """
    fields = {_FIELDS.get(option, option): value for option, value in options.items()}
    revision, quant = (str(value) if (value := fields.pop(name)) else None for name in ("revision", "quant"))
    offline = fields.pop("offline") is True
    environment = fields.pop("env")
    key_file, token_file = (
        value if isinstance(value := fields.pop(name), Path) else None
        for name in ("api_key_file", "hf_token_file")
    )
    request = Request(
        **fields,  # type: ignore[arg-type]
        env=dict(environment),  # type: ignore[call-overload]
        api_key=_api_key(key_file),
        extra=backend_argv,
        defaults=defaults or Defaults(),
    )
    return Wanted(
        text=text,
        revision=revision,
        quantization=None if quant == BEST else quant,
        prefer_quality=quant == BEST,
        projector=_projector(request),
        offline=offline,
        token_file=_token_file(token_file),
        request=request,
    )


def _projector(request: Request) -> str | None:
    """Said to aimind or to the backend, it counts before the backend is known.

    An absolute path is not a file of the repository.
    """
    from aimind.launchers import LAUNCHERS

    flags = [launcher.FLAGS["projector"] for launcher in LAUNCHERS if "projector" in launcher.FLAGS]
    path = next(filter(None, [request.projector, *(said(flag, request.extra) for flag in flags)]), None)
    return "none" if path is not None and Path(path).is_absolute() else path


def _api_key(file: Path | None) -> str | None:
    """The key in the file; else that of the environment; else that of the service manager.

    Raises:
        UsageError: it is blank, which would leave the API open.
    """
    key = os.environ.get(API_KEY_VARIABLE)
    if file is None and key is not None:
        if not _is_secret_text(key):
            raise UsageError(
                f"{API_KEY_VARIABLE} is set and holds no key: clients could not be told from others",
                hint=f"set it to a key without spaces, or unset {API_KEY_VARIABLE}",
            )
        return key
    file = file or _credential(API_KEY_CREDENTIAL)
    return None if file is None else _secret_in(file)


def _token_file(file: Path | None) -> Path | None:
    """The file with the hub's token, unless it is in the environment or where the client looks for it."""
    if file is None and any(map(os.environ.get, TOKEN_VARIABLES)):
        return None
    file = file or _credential(TOKEN_CREDENTIAL)
    if file is not None:
        _secret_in(file)  # find out now whether it is one
    return file


def _credential(name: str) -> Path | None:
    """The file in which a service manager gives us this secret (`LoadCredential=` of systemd)."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    file = Path(folder, name) if folder else None
    return file if file is not None and file.exists() else None


def _secret_in(file: Path) -> str:
    try:
        secret = file.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError as problem:
        raise _no_secret(file) from problem
    except OSError as problem:
        raise UsageError(f"cannot read {file}: {problem.strerror}", hint=_ALONE) from problem
    if not _is_secret_text(secret):
        raise _no_secret(file)
    return secret


def _is_secret_text(text: str) -> bool:
    return bool(text) and text.isprintable() and " " not in text


def _no_secret(file: Path) -> UsageError:
    return UsageError(f"{file} holds no key and no token", hint=_ALONE)
