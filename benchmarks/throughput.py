"""Requests and tokens per second of what `aimind serve` starts, against the same backend by hand, in one run.

    python benchmarks/throughput.py [--backend xllamacpp --backend vllm] [--rounds N]

Both serve the same model and get the requests of `aimind bench`, in turns; the better round of each counts.
By hand the backend has its own defaults.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aimind import bench
from aimind.api import Server
from benchmarks import servers
from tests.supervisor.harness import free_port

PROMPT_TOKENS, ANSWER_TOKENS = 64, 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", action="append", choices=servers.BACKENDS)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--requests", type=int, default=24)
    parser.add_argument("--at-once", type=int, default=8)
    options = parser.parse_args()
    load = bench.Load(prompt_tokens=PROMPT_TOKENS, answer_tokens=ANSWER_TOKENS, requests=options.requests)
    print(f"{load}, {options.at_once} at once\n")
    print("| backend | started by | requests/s | tokens/s | ÷ manual |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = servers.make_model(folder)
        for backend in options.backend or servers.BACKENDS:
            python = servers.python_of(backend)
            best = {"manual": (0.0, 0.0), "aimind": (0.0, 0.0)}
            for _ in range(options.rounds):
                for by, before in best.items():
                    with started(backend, by, python, model, folder) as server:
                        best[by] = max(before, measure(server, load, at_once=options.at_once))
            for by, (requests, tokens) in best.items():
                ratio = tokens / best["manual"][1]
                print(f"| {backend} | {by} | {requests:.2f} | {tokens:.0f} | {ratio:.2f} |", flush=True)


@contextmanager
def started(backend: str, by: str, python: str, model: servers.Model, folder: Path) -> Iterator[Server]:
    port = free_port()
    if by == "manual":
        argv, env = servers.command_by_hand(backend, python, model, port), dict(os.environ)
    else:
        argv, env = servers.command_by_aimind(backend, model, port), servers.aimind_environment(folder)
    with servers.running(argv, port, env, folder / "log"):
        yield Server(f"http://127.0.0.1:{port}")


def measure(server: Server, load: bench.Load, *, at_once: int) -> tuple[float, float]:
    """Requests and tokens per second."""
    name = str(server.models()[0]["id"])
    result = bench.measure(bench.prepare(server, model=name, load=load), load, at_once=at_once)
    return result.request_throughput, result.output_throughput


if __name__ == "__main__":
    main()
