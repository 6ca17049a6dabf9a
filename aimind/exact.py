"""What an installed llama.cpp says that it would reserve for a plan, without allocating: `--exact`.

Two can be asked. xllamacpp, in the environment that aimind installed, by a shim with the plan's own flags: to
the byte. A llama-server on PATH, by the llama-fit-params beside it: in whole MiB, without what the CPU
repacks, and, since it knows none of the server's own flags, with a cache in equal parts and an output for
every token of a batch, so that it computes with something else. Both open the model's file for its header
alone, so that `sparse` is enough of a file that is not here.
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
    """What one device, or RAM (`host`), would hold in llama.cpp's own buffers; `error_bytes` at most off.

    The output buffer and what no buffer holds (the driver's context) are not in it.
    """

    place: str
    weights_bytes: int
    context_bytes: int
    compute_bytes: int
    error_bytes: int = 0


def exact(command: Command) -> tuple[Exact, ...]:
    """The answer of the llama.cpp that a command would start: devices first, RAM last.

    Args:
        command: of a plan; its model's file must be there, or be one that `sparse` made.

    Raises:
        ExactSizesError: it cannot tell, or it cannot open the model.
    """
    if xllamacpp.SHIM in command.argv:
        argv = [SIZES_SHIM if word == xllamacpp.SHIM else word for word in command.argv]
        found, unit = json.loads(_output(argv, command)), 1
    else:
        tool = _fit_params(command.argv[0])
        lines = _FIT_LINE.findall(_output([tool, *_known(command.argv[1:]), "--fit-print", "on"], command))
        found, unit = {place.replace("Host", "host"): [*map(int, sizes)] for place, *sizes in lines}, _MIB
    if not found:
        raise ExactSizesError(
            "llama.cpp's answer is not understood", hint="leave --exact out; the estimate needs no llama.cpp"
        )
    places = sorted(found, key=lambda place: (place == "host", place))
    return tuple(
        Exact(place, weights * unit, context * unit, compute * unit, unit - 1)
        for place in places
        for weights, context, compute in [found[place]]
    )


def sparse(path: Path, reader: Reader, *, header_bytes: int) -> None:
    """A file as long as the model's that holds its first bytes alone.

    Args:
        path: of the file to make.
        reader: of the model's file.
        header_bytes: from its start, at least to the end of the tensors' descriptions.
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
            f"llama.cpp has not answered for {PATIENCE_SECONDS:.0f} s", hint="leave --exact out"
        ) from error
    except OSError as error:
        raise ExactSizesError(f"{argv[0]} cannot be started: {error}", hint="aimind backends") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line.lower()]
        raise ExactSizesError(
            f"llama.cpp cannot tell: {lines[-1] if lines else f'exit code {done.returncode}'}",
            hint="leave --exact out; the estimate needs no llama.cpp",
        )
    return done.stdout


def _fit_params(server: str) -> str:
    """The program of that name beside the server, or on PATH."""
    beside = Path(server).with_name("llama-fit-params")
    found = str(beside) if beside.exists() else shutil.which("llama-fit-params")
    if found is None:
        raise ExactSizesError(
            f"no llama.cpp here can tell sizes: {server} has no llama-fit-params beside it",
            hint="--backend xllamacpp, installed by `aimind backends install xllamacpp`, can",
        )
    return found


def _known(argv: tuple[str, ...]) -> list[str]:
    """The arguments without those of the server alone."""
    kept: list[str] = []
    words = iter(argv)
    for word in words:
        if word in _SERVER_ONLY:
            for _ in range(_SERVER_ONLY[word]):
                next(words, None)
        else:
            kept.append(word)
    return kept
