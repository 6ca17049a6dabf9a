"""Run by vLLM's own Python: which of these quantizations make a linear layer there that computes.

The argument names what the processor shall be without, as PyTorch then reports it to vLLM: `avx512`,
`avx512_bf16` or nothing. vLLM loads another library by that.

For each configuration a layer is made, its weights are packed as its kernel wants them, and it is applied.
Where its name says so, experts are made instead: vLLM then looks for their kernels at once. Not a module of
the tests: they have no vLLM.
"""

# ruff: noqa: E402 - vLLM is imported after what PyTorch reports of the processor is replaced.
from __future__ import annotations

import json
import os
import sys
import tempfile
from types import SimpleNamespace
from typing import Any

os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"

import torch

without = sys.argv[1] if len(sys.argv) > 1 else ""
if without in ("avx512", "avx512_bf16"):
    torch.cpu._is_avx512_bf16_supported = lambda: False
    torch.cpu._is_amx_tile_supported = lambda: False
if without == "avx512":
    torch.cpu._is_avx512_supported = lambda: False

from vllm.config import DeviceConfig, VllmConfig, set_current_vllm_config
from vllm.distributed.parallel_state import init_distributed_environment, initialize_model_parallel
from vllm.model_executor.layers.fused_moe import FusedMoEFactory
from vllm.model_executor.layers.fused_moe.oracle.fp8 import Fp8MoeBackend
from vllm.model_executor.layers.linear import ColumnParallelLinear
from vllm.model_executor.layers.quantization import get_quantization_config

SIZE = 256


def compute(section: dict[str, Any], module: str) -> None:
    """One layer with weights of ones or zeros; whatever goes wrong is raised."""
    quantization = get_quantization_config(section["quant_method"]).from_config(section)
    layer = ColumnParallelLinear(
        SIZE,
        SIZE,
        bias=False,
        quant_config=quantization,
        params_dtype=torch.bfloat16,
        prefix=f"model.layers.0.{module}",
    )
    if module in str(section) and not any(name != "weight" for name, _ in layer.named_parameters()):
        raise ValueError(f"{module} is taken as not quantized")
    for weights in layer.parameters():
        filled = torch.ones if weights.dtype.is_floating_point else torch.zeros
        weights.data = filled(weights.shape).to(weights.dtype)
    layer.quant_method.process_weights_after_loading(layer)
    layer(torch.ones(2, SIZE, dtype=torch.bfloat16))


def make_experts(section: dict[str, Any], name: str) -> None:
    """A mixture of experts; whatever goes wrong is raised, also that there is no kernel for FP8."""
    experts = FusedMoEFactory(
        num_experts=4,
        top_k=2,
        hidden_size=SIZE,
        intermediate_size=SIZE,
        params_dtype=torch.bfloat16,
        quant_config=get_quantization_config(section["quant_method"]).from_config(section),
        prefix=f"model.layers.0.{name}.experts",
    )
    methods = [getattr(module, "quant_method", None) for module in experts.modules()]
    if any(getattr(method, "fp8_backend", None) is Fp8MoeBackend.NONE for method in methods):
        raise ValueError("no kernel for experts in FP8")


def main() -> None:
    config = VllmConfig(device_config=DeviceConfig("cpu"))
    config.model_config = SimpleNamespace(
        dtype=torch.bfloat16,
        is_moe=False,
        quantization=None,
        enforce_eager=True,
        hf_config=SimpleNamespace(model_type="llama"),
    )
    said: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder, set_current_vllm_config(config):
        init_distributed_environment(1, 0, f"file://{folder}/store", 0, backend="gloo")
        initialize_model_parallel(1, 1)
        for name, section in json.load(sys.stdin).items():
            try:
                if name.startswith("experts"):
                    make_experts(section, name)
                else:
                    compute(section, "mlp.up_proj")
                if name.startswith("mixed"):
                    compute(section, "self_attn.q_proj")
                said[name] = ""
            except (ValueError, RuntimeError, AttributeError, KeyError) as problem:
                said[name] = f"{type(problem).__name__}: {problem}"
    operations = [schema.name for schema in torch._C._jit_get_all_schemas()]
    print(f"operations: {json.dumps(operations)}", flush=True)
    print(f"said: {json.dumps(said)}", flush=True)


if __name__ == "__main__":
    main()
