"""Requests and tokens per second of what `aimind serve` starts, against the same backend by hand, in one run.

    python benchmarks/throughput.py [--backend xllamacpp --backend vllm] [--rounds N]

Both serve the same model and get the same requests, in turns; the better round of each counts. By hand the
backend has its own defaults.
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
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--requests", type=int, default=24)
    parser.add_argument("--at-once", type=int, default=8)
    options = parser.parse_args()
    load = servers.Load(requests=options.requests, at_once=options.at_once)
    print(f"{load}\n")
    print("| backend | by | requests/s | tokens/s | ÷ by hand |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = servers.make_model(folder)
        for backend in options.backend or servers.BACKENDS:
            python = servers.python_of(backend)
            best = {"hand": (0.0, 0.0), "aimind": (0.0, 0.0)}
            for _ in range(options.rounds):
                for by, before in best.items():
                    best[by] = max(before, measure(backend, by, python, model, folder, load))
            for by, (requests, tokens) in best.items():
                ratio = tokens / best["hand"][1]
                print(f"| {backend} | {by} | {requests:.2f} | {tokens:.0f} | {ratio:.2f} |", flush=True)


def measure(
    backend: str, by: str, python: str, model: servers.Model, folder: Path, load: servers.Load
) -> tuple[float, float]:
    port = free_port()
    if by == "hand":
        argv, env = servers.command_by_hand(backend, python, model, port), dict(os.environ)
    else:
        argv, env = servers.command_by_aimind(backend, model, port), servers.aimind_environment(folder)
    with servers.running(argv, port, env, folder / "log"):
        return servers.throughput(port, load)


if __name__ == "__main__":
    main()
