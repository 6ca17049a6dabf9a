"""How long aimind takes before anything happens, against bare Python and `import typer` in the same run.

    python benchmarks/startup.py [--rounds N]

Prints the best of N rounds of each command in milliseconds, its ratio to `import typer`, and where `ramalama`
is on PATH its ratio to RamaLama's dry run. The goals: `--help` takes at most 3 × `import typer`, and the plan
of the 8B model with --json at most 3 × the dry run. The 8B model has 150 thousand tokens in its
vocabulary, and a header as large as the real one. Modules are compiled once, whatever the environment says.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.fakes import repositories

RAMALAMA = "ramalama --dryrun serve"
AIMIND = Path(sys.executable).with_name("aimind")


def best_seconds(argv: list[str], rounds: int, env: dict[str, str]) -> float:
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env)
        times.append(time.perf_counter() - start)
    return min(times)


def exec_seconds(rounds: int, env: dict[str, str]) -> float:
    """From the start of `serve demo --no-supervise` to the exec of the backend.

    An executable takes the place of the backend's Python: what it does first is to end.
    """
    return best_seconds([str(AIMIND), "serve", "demo", "--no-supervise", "--port", "0"], rounds, env)


def with_stub(folder: Path) -> dict[str, str]:
    """An environment in which `llama-server` is a program that ends at once."""
    program = folder / "llama-server"
    program.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "version: 1 (stub)"\nexit 0\n')
    program.chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PATH": f"{folder}:{os.environ['PATH']}", "AIMIND_DATA_DIR": str(folder / "data")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        repositories.gguf(folder / "8B", "qwen3-8b.Q4_K_M")
        model = folder / "8B" / "qwen3-8b.Q4_K_M.gguf"
        env = with_stub(folder)
        measured = {
            "python -c pass": best_seconds([sys.executable, "-c", "pass"], rounds, env),
            "import typer": best_seconds([sys.executable, "-c", "import typer"], rounds, env),
            "aimind --help": best_seconds([str(AIMIND), "--help"], rounds, env),
            "aimind serve --help": best_seconds([str(AIMIND), "serve", "--help"], rounds, env),
            "aimind plan demo --json": best_seconds([str(AIMIND), "plan", "demo", "--json"], rounds, env),
            "aimind plan 8B.gguf --json": best_seconds(
                [str(AIMIND), "plan", str(model), "--json", "--hardware", "24G"], rounds, env
            ),
            "aimind plan 8B.gguf": best_seconds(
                [str(AIMIND), "plan", str(model), "--hardware", "24G"], rounds, env
            ),
            "serve demo, until the exec": exec_seconds(rounds, env),
        }
        if peer := shutil.which("ramalama"):
            argv = [peer, "--nocontainer", "--dryrun", "serve", f"file://{model}"]
            measured[RAMALAMA] = best_seconds(argv, rounds, env)
    typer, dry_run = measured["import typer"], measured.get(RAMALAMA)
    for what, seconds in measured.items():
        against = f"  {seconds / dry_run:5.2f} × {RAMALAMA}" if dry_run else ""
        print(f"{what:28} {seconds * 1000:7.0f} ms  {seconds / typer:5.2f} × import typer{against}")


if __name__ == "__main__":
    main()
