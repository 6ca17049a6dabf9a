"""Flags of SGLang that no setting of aimind holds: those that it sets alone, and how it tells all others."""

from __future__ import annotations

from aimind.launchers.base import KEY_IS_SEEN
from aimind.types import Help

RESERVED = {
    **dict.fromkeys(("--model-path", "--model"), "aimind passes the model itself"),
    "--config": "it would override the plan",
    "--revision": "aimind downloads the model itself: use MODEL@REVISION",
    "--api-key": KEY_IS_SEEN,
    "--admin-api-key": "every user of this machine could read it in the list of processes",
    "--max-total-tokens": "it would override the KV cache of the plan",
    "--base-gpu-id": "use aimind's own --device, before the --",
    "--device": "use aimind's own --device, before the --",
}
UNCOUNTED = tuple(
    "--cpu-offload-gb --enable-lora --lora-paths --speculative-algorithm --quantization --dp-size "
    "--data-parallel-size --ep-size --expert-parallel-size --attn-dp-size --enable-dp-attention "
    "--cuda-graph-max-bs-decode --swa-full-tokens-ratio --max-mamba-cache-size --enable-symm-mem "
    "--enable-torch-compile --json-model-override-args "
    "--enable-hierarchical-cache --hicache-ratio --hicache-size --load-format".split()
)
HELP = Help(
    args=("-m", "sglang.launch_server", "--help"),
    also=("--forward-pass-metrics-ipc-name", "--forward-pass-metrics-worker-id"),
)
