"""How long a server takes to be ready, first and second start: `aimind serve` against the backend by hand.

    python benchmarks/start.py [--backend xllamacpp --backend vllm]

Ready is when /health answers. At the first start a backend has compiled nothing for this model yet: each side
has a cache directory of its own, which the second start finds as the first has left it. Modules are compiled
to bytecode at installation, for both.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

from benchmarks import servers
from tests.supervisor.harness import free_port


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", action="append", choices=servers.BACKENDS)
    options = parser.parse_args()
    print("| backend | start | manual | aimind | ÷ manual |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = servers.make_model(folder)
        for backend in options.backend or servers.BACKENDS:
            python = servers.python_of(backend)
            for start in ("first", "second"):
                hand = measure(backend, "hand", python, model, folder)
                own = measure(backend, "aimind", python, model, folder)
                print(f"| {backend} | {start} | {hand:.1f} s | {own:.1f} s | {own / hand:.2f} |", flush=True)


def measure(backend: str, by: str, python: str, model: servers.Model, folder: Path) -> float:
    port = free_port()
    if by == "hand":
        argv, env = servers.command_by_hand(backend, python, model, port), dict(os.environ)
    else:
        argv, env = servers.command_by_aimind(backend, model, port), servers.aimind_environment(folder)
    env["XDG_CACHE_HOME"] = str(folder / f"cache-{by}")
    env["VLLM_CACHE_ROOT"] = str(folder / f"cache-{by}" / "vllm")  # else aimind's lasts longer than this run
    with servers.running(argv, port, env, folder / "log") as seconds:
        return seconds


if __name__ == "__main__":
    main()
