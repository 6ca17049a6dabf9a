"""What a process takes of a device before it holds anything: a hint for backends that cannot be run here.

`python -m scripts.gpu.contexts` prints one JSON object, bytes by step: CUDA's own context, and PyTorch's with
cuBLAS's workspaces and a captured graph where PyTorch is installed.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
from collections.abc import Iterator

from scripts.gpu.nvml import FirstDevice


def steps() -> Iterator[str]:
    """Take more and more of the device; the name of each step when it is done."""
    driver = ctypes.CDLL("libcuda.so.1")
    context = ctypes.c_void_p()
    if driver.cuInit(0) or driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0):
        raise SystemExit("CUDA makes no context")
    yield "CUDA context"
    if importlib.util.find_spec("torch") is None:
        return
    import torch  # type: ignore[import-not-found,unused-ignore]

    left = torch.zeros(1024, 1024, device="cuda", dtype=torch.bfloat16)
    torch.cuda.synchronize()
    yield f"PyTorch {torch.__version__}, one tensor of 2 MiB"
    left @ left
    torch.cuda.synchronize()
    yield "a matrix product (cuBLAS and its workspace)"
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        left @ left
    graph.replay()
    torch.cuda.synchronize()
    yield "the same in a captured graph"


def main() -> None:
    device = FirstDevice()
    before = device.use(os.getpid())
    found = {}
    for step in steps():
        use = device.use(os.getpid())
        found[step] = use.process_bytes or use.device_bytes - before.device_bytes
    print(json.dumps(found))


if __name__ == "__main__":
    main()
