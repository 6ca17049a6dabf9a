"""Makes a `Wanted` of the options of a command."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from aimind.cli.options import RequestOptions, use_hub
from aimind.errors import UsageError
from aimind.launchers.arguments import last_value
from aimind.options import API_KEY_CREDENTIAL, BEST, TOKEN_CREDENTIAL, Wanted
from aimind.ownership import readable_by_others
from aimind.types import API_KEY_VARIABLE, TOKEN_VARIABLES, Defaults, Request

_ALONE = "the file must contain only the key or the token, on one line"


def ask(
    model: str,
    options: RequestOptions,
    *,
    context: int | None = None,
    backend_argv: tuple[str, ...] = (),
    defaults: Defaults | None = None,
) -> Wanted:
    """Return what the options of a command and the arguments for the backend ask for.

    Args:
        model: as it was typed.
        options: of the command.
        context: tokens per request.
        backend_argv: the arguments after `--`.
        defaults: which of the options come from the configuration.

    Raises:
        UsageError: the file of the key or of the token cannot be read, or holds none.
    """
    use_hub(options.hub)
    request = Request(
        backend=options.backend,
        backend_version=options.backend_version,
        category=options.category,
        max_model_len=context,
        max_num_seqs=options.parallel,
        devices=None if options.device is None else tuple(options.device),
        tensor_parallel_size=options.tensor_parallel,
        gpu_layers=options.gpu_layers,
        cpu_offload=False if options.no_cpu_offload else None,
        kv_cache_dtype=options.kv_cache_type,
        gpu_memory_utilization=options.gpu_memory_utilization,
        address=options.host,
        port=options.port,
        api_key=api_key(options.api_key_file),
        served_name=options.served_model_name,
        env=dict(options.env or ()),
        trust_remote_code=options.trust_remote_code,
        auto_parsers=False if options.no_auto_parsers else None,
        projector=options.mmproj,
        force=options.force,
        extra=backend_argv,
        defaults=defaults or Defaults(),
    )
    return Wanted(
        text=model,
        revision=options.revision or None,
        quantization=None if options.quant == BEST else options.quant or None,
        prefer_quality=options.quant == BEST,
        projector=_projector(request),
        offline=options.offline,
        token_file=_token_file(options.hf_token_file),
        request=request,
        warnings=tuple(_readable_by_others(options.api_key_file, options.hf_token_file)),
    )


def _readable_by_others(*files: Path | None) -> Iterator[str]:
    for file in files:
        if file is not None and (warning := readable_by_others(file)) is not None:
            yield warning


def _projector(request: Request) -> str | None:
    """The projector, from aimind's option or the backend's argument: needed before the backend is chosen.

    An absolute path is not a file of the repository.
    """
    from aimind.launchers import LAUNCHERS

    flags = [launcher.FLAGS["projector"] for launcher in LAUNCHERS if "projector" in launcher.FLAGS]
    path = next(filter(None, [request.projector, *(last_value(flag, request.extra) for flag in flags)]), None)
    return "none" if path is not None and Path(path).is_absolute() else path


def api_key(file: Path | None) -> str | None:
    """The key in the file; else that of the environment; else that of the service manager.

    Raises:
        UsageError: it is blank, which would leave the API open.
    """
    key = os.environ.get(API_KEY_VARIABLE)
    if file is None and key is not None:
        if not _is_secret_text(key):
            raise UsageError(
                f"{API_KEY_VARIABLE} is set but does not contain a key",
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
    return UsageError(f"{file} contains neither a key nor a token", hint=_ALONE)
