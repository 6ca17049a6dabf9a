"""What planning a remote model fetches: requests and bytes, from a hub on loopback by the real client.

    python benchmarks/remote.py

Each model is planned twice with the same cache. Redirects are requests too. The headers have the sizes of the
real ones; the list of the repository, its index of shards and its configurations are fetched beside them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.fakes import repositories
from tests.fakes.repositories import HubOfHoles

AIMIND = Path(sys.executable).with_name("aimind")
MIB = 1 << 20
LATENCY_SECONDS = 0.05  # of every request: what a hub on another continent takes


def publish(folder: Path) -> dict[str, tuple[str, int]]:
    """By the models' names: the machine to plan for, and the bytes of the headers."""
    made = {
        f"org/{name}": ("24G", repositories.gguf(folder / "org" / name, name))
        for name in ("llama-3.1-8b.Q4_K_M", "qwen3-8b.Q4_K_M", "gemma-4-e4b.Q4_K_M")
    }
    size = repositories.shards(folder / "org/llama-3.1-8b", repositories.LLAMA_8B, 4)
    made["org/llama-3.1-8b"] = ("24G", size)
    size = repositories.shards(folder / "org/deepseek-v3", repositories.DEEPSEEK_V3, 135, fp8=True)
    made["org/deepseek-v3"] = ("8x141G", size)
    return made


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "repositories"
        models = publish(folder)
        env = {**os.environ, "HF_HOME": f"{name}/home", "AIMIND_DATA_DIR": f"{name}/data"}
        print("| model | headers | | requests | downloaded | ÷ headers | other downloads | time |")
        print("|---" * 8 + "|")
        with HubOfHoles(folder) as hub:
            env["HF_ENDPOINT"] = hub.url
            hub.latency_seconds = LATENCY_SECONDS
            for model, (machine, header_bytes) in models.items():
                argv = [str(AIMIND), "plan", model, "--hardware", machine, "--json"]
                for when in ("cold", "again"):
                    hub.requests.clear()
                    start = time.perf_counter()
                    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, env=env)
                    seconds = time.perf_counter() - start
                    fetched = sum(seen.sent_bytes for seen in hub.requests if seen.host == "cdn")
                    print(
                        f"| {model} | {header_bytes / MIB:.2f} MiB | {when} | {len(hub.requests)} "
                        f"| {fetched / MIB:.2f} MiB | {fetched / header_bytes:.2f} "
                        f"| {(hub.sent_bytes() - fetched) / MIB:.2f} MiB | {seconds:.1f} s |"
                    )


if __name__ == "__main__":
    main()
