"""Ask an installed llama.cpp how much memory it would reserve for a plan, without allocating it (`--exact`).

There are two sources. xllamacpp, in the environment that aimind installed, answers to the byte, through a
shim with the plan's own flags. llama-fit-params, beside a llama-server on PATH, answers in whole MiB, without
the weights that the CPU repacks. It does not know the server's own flags, and therefore assumes a KV cache in
equal parts and an output for every token of a batch. Both read only the header of the model's file, so a
file from `sparse` is enough for a model that is not downloaded.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from aimind.errors import ExactSizesError
from aimind.launchers import xllamacpp
from aimind.types import Command, Reader

SIZES_SHIM = os.path.join(os.path.dirname(xllamacpp.SHIM), "xllamacpp_sizes.py")  # noqa: PTH118, PTH120
PATIENCE_SECONDS = 120.0
_MIB = 1 << 20
# llama-fit-params --fit-print: a device's name, then MiB of the model, the context and the computation.
_FIT_LINE = re.compile(r"^(\S+) (\d+) (\d+) (\d+) ?$", re.MULTILINE)
# Flags of the server that llama-fit-params does not know (common/arg.cpp), with their number of values.
_SERVER_ONLY = {
    **dict.fromkeys(("--alias", "--host", "--port", "--cache-ram", "--ctx-checkpoints"), 1),
    **dict.fromkeys(("--kv-unified", "--no-kv-unified", "--embedding", "--reranking"), 0),
}


@dataclass(frozen=True, slots=True)
class Exact:
    """llama.cpp's own buffers on one device, or in RAM (`host`), to within `error_bytes`.

    The output buffer and memory outside buffers (the driver's context) are not included.
    """

    place: str
    weights_bytes: int
    context_bytes: int
    compute_bytes: int
    error_bytes: int = 0


def exact(command: Command) -> tuple[Exact, ...]:
    """Query the llama.cpp that a command would start: devices first, RAM last.

    Args:
        command: the command of a plan; its model's file must exist, if only as made by `sparse`.

    Raises:
        ExactSizesError: llama.cpp cannot report its sizes, or cannot open the model.
    """
    if xllamacpp.SHIM in command.argv:
        argv = [SIZES_SHIM if word == xllamacpp.SHIM else word for word in command.argv]
        found, unit = json.loads(_output(argv, command)), 1
    else:
        tool = _fit_params(command.argv[0])
        lines = _FIT_LINE.findall(
            _output([tool, *_without_server_flags(command.argv[1:]), "--fit-print", "on"], command)
        )
        found, unit = {place.replace("Host", "host"): [*map(int, sizes)] for place, *sizes in lines}, _MIB
    if not found:
        raise ExactSizesError(
            "the answer of llama.cpp cannot be read",
            hint="omit --exact; the estimate does not need llama.cpp",
        )
    places = sorted(found, key=lambda place: (place == "host", place))
    return tuple(
        Exact(place, weights * unit, context * unit, compute * unit, unit - 1)
        for place in places
        for weights, context, compute in [found[place]]
    )


def sparse(path: Path, reader: Reader, *, header_bytes: int) -> None:
    """Write a sparse file with the size and the first bytes of the model's file.

    Args:
        path: the file to write.
        reader: the model's file.
        header_bytes: length of the header, which ends after the tensors' descriptions.
    """
    with path.open("wb") as file:
        file.write(reader.read(0, min(header_bytes, reader.size_bytes)))
        file.truncate(reader.size_bytes)


def _output(argv: list[str], command: Command) -> str:
    try:
        done = subprocess.run(
            argv,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=PATIENCE_SECONDS,
            env=command.environment(os.environ),
        )
    except subprocess.TimeoutExpired as error:
        raise ExactSizesError(
            f"llama.cpp did not answer within {PATIENCE_SECONDS:.0f} s", hint="omit --exact"
        ) from error
    except OSError as error:
        raise ExactSizesError(
            f"{argv[0]} cannot be started: {error}", hint="see `aimind backends`"
        ) from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line.lower()]
        raise ExactSizesError(
            f"llama.cpp cannot report its sizes: {lines[-1] if lines else f'exit code {done.returncode}'}",
            hint="omit --exact; the estimate does not need llama.cpp",
        )
    return done.stdout


def _fit_params(server: str) -> str:
    """Find llama-fit-params beside the server, or on PATH."""
    beside = Path(server).with_name("llama-fit-params")
    found = str(beside) if beside.exists() else shutil.which("llama-fit-params")
    if found is None:
        raise ExactSizesError(
            f"--exact needs llama-fit-params, which was not found beside {server}",
            hint="run `aimind backends install xllamacpp` and use --backend xllamacpp",
        )
    return found


def _without_server_flags(argv: tuple[str, ...]) -> list[str]:
    """Drop the arguments that only the server knows."""
    arguments: list[str] = []
    words = iter(argv)
    for word in words:
        if word in _SERVER_ONLY:
            for _ in range(_SERVER_ONLY[word]):
                next(words, None)
        else:
            arguments.append(word)
    return arguments
