"""Build, serve and measure: `make test-gpu`, and `make test-gpu GPU_OPTIONS=--cpu` where there is no device.

Without a device the same is done with a build for the CPU: plans are then compared with the log's buffers in
RAM alone, and nothing is said about overheads.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from scripts.gpu import FOLDER, report
from scripts.gpu.build import build
from scripts.gpu.measure import Case, Measured, measure
from scripts.gpu.nvml import FirstDevice

SHORT, LONG = ("--context", "8k"), ("--context", "32k")
SMALL, DENSE = "qwen2.5-0.5b.Q8_0", "qwen3-8b.Q4_K_M"
# Layers in RAM read slowly.
PART = 1024
# The first say most, for when time is short.
CASES = (
    Case(model=SMALL, options=SHORT),
    Case(model=DENSE, options=SHORT),
    Case(model="gemma-3-12b.Q4_K_M", options=SHORT),
    Case(model="qwen3-30b-a3b.Q4_K_M", options=SHORT),
    Case(model="deepseek-v2-lite.Q4_K_M", options=SHORT),
    Case(model="granite-4.0-h-tiny.Q4_K_M", options=SHORT),
    Case(model="nomic-embed-v1.5.F16"),
    Case(model="llama-3.1-8b.F16", options=SHORT),
    Case(model=DENSE, options=LONG),
    Case(model=DENSE, options=(*LONG, "--kv-cache-type", "q8_0")),
    Case(model=DENSE, options=(*SHORT, "--parallel", "4")),
    Case(model=DENSE, options=(*SHORT, "--gpu-layers", "16"), prompt_tokens=PART),
    Case(model=DENSE, options=SHORT, env={"GGML_CUDA_DISABLE_GRAPHS": "1"}),
    Case(model=DENSE, options=SHORT, extra=("--flash-attn", "off")),
    Case(model="gpt-oss-20b.MXFP4", options=SHORT),
    Case(model="qwen3.5-9b.Q4_K_M", options=SHORT),
    Case(model="falcon-h1-7b.Q4_K_M", options=SHORT),
    Case(model="gemma-3-4b.Q4_K_M", options=("--context", "64k", "--parallel", "1")),
    Case(model="qwen3-30b-a3b.Q4_K_M", options=(*SHORT, "--gpu-layers", "24"), prompt_tokens=PART),
    Case(model="qwen3-30b-a3b.Q4_K_M", options=SHORT, extra=("--n-cpu-moe", "24"), prompt_tokens=PART),
    Case(model="qwen2.5-32b.Q4_K_M", options=(*SHORT, "--parallel", "1")),
)
CPU_MODELS = (SMALL, "nomic-embed-v1.5.F16", "gemma-3-4b.Q4_K_M", "granite-4.0-h-tiny.Q4_K_M")


def main() -> int:
    options = _options()
    deadline = time.monotonic() + options.seconds
    device = None if options.cpu else FirstDevice()
    machine = device.words if device else {"name": "CPU"}
    print(*machine.values(), flush=True)
    programs = options.llama_server or build(device.architecture if device else None, jobs=options.jobs)
    contexts = _contexts() if device else {}
    measured: list[Measured] = []
    failures: list[str] = []
    print(report.HEAD + (report.DEVICE_HEAD if device else ""), flush=True)
    for case in _cases(options):
        if time.monotonic() > deadline:
            failures.append(f"no time left: {case.model} {case.setting}")
            continue
        try:
            measured.append(measure(case, programs=programs, device=device))
            print(report.line(measured[-1]), flush=True)
        except RuntimeError as problem:
            failures.append(f"failed: {case.model} {case.setting}: {problem}")
        # After each, so that something is left if this is killed.
        report.write(options.out, machine, measured, contexts=contexts, failures=failures)
    failures += report.too_low(measured)
    print("", *report.summary(measured), *_lines(contexts), *failures, sep="\n")
    return 1 if failures or not measured else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="test-gpu", description=__doc__)
    add = parser.add_argument
    add("--cpu", action="store_true", help="without a device: the log's buffers in RAM alone")
    add("--llama-server", type=Path, metavar="FOLDER", help="where one is built already")
    add("--jobs", type=int, default=os.cpu_count() or 1, help="compilations at once")
    add("--models", nargs="*", metavar="NAME", help="only these (tests/data/models/gguf)")
    add("--seconds", type=float, default=500, help="start no case later than this (default: %(default)s)")
    add("--out", type=Path, default=FOLDER / "report.json", help="(default: %(default)s)")
    return parser.parse_args()


def _cases(options: argparse.Namespace) -> Iterator[Case]:
    wanted = options.models or (CPU_MODELS if options.cpu else [case.model for case in CASES])
    for case in CASES:
        needs_device = "--gpu-layers" in case.options or "--n-cpu-moe" in case.extra or case.env
        if case.model not in wanted or (options.cpu and needs_device):
            continue
        yield dataclasses.replace(case, prompt_tokens=128) if options.cpu else case


def _contexts() -> dict[str, int]:
    """Of an empty process, in one of its own."""
    command = [sys.executable, "-m", "scripts.gpu.contexts"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"no contexts: {done.stderr.strip()[-300:]}")
        return {}
    found: dict[str, int] = json.loads(done.stdout)
    return found


def _lines(contexts: dict[str, int]) -> Iterator[str]:
    for step, count in contexts.items():
        yield f"{report.mib(count):>10} MiB  {step}"


if __name__ == "__main__":
    sys.exit(main())
