"""Run by vLLM's own Python: starts its engine with each of the argument lists, and says what it then holds.

The whole engine core in this process (workers, weights from the files, the cache), without the HTTP server
and without compiling, so that a model takes seconds. Not a module of the tests: they have no vLLM.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from typing import Any

os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "ERROR"}

from vllm.distributed.parallel_state import cleanup_dist_env_and_memory
from vllm.engine.arg_utils import EngineArgs
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader
from vllm.model_executor.models import ModelRegistry
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.v1.engine.core import EngineCore
from vllm.v1.executor import Executor


def allocated(tensors: Iterable[Any]) -> int:
    """Bytes of the storages behind tensors, each counted once."""
    storages = [tensor.untyped_storage() for tensor in tensors]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def main() -> None:
    weights = []
    load = DefaultModelLoader.load_weights

    def load_and_weigh(self: Any, model: Any, config: Any) -> None:
        load(self, model, config)
        weights.append(allocated(model.parameters()))  # before the CPU's kernels repack them

    DefaultModelLoader.load_weights = load_and_weigh
    for name in sys.argv[1:]:  # else vLLM starts a Python for each, to see what it is
        ModelRegistry.register_model(name, ModelRegistry.models[name].load_model_cls())
    parser = make_arg_parser(FlexibleArgumentParser())
    for arguments in json.load(sys.stdin):
        parsed = parser.parse_args(arguments)
        parsed.model = parsed.model_tag  # as `vllm serve` does
        config = EngineArgs.from_cli_args(parsed).create_engine_config()
        engine = EngineCore(config, Executor.get_class(config), log_stats=False)
        runner = engine.model_executor.driver_worker.worker.model_runner
        found = {
            "weights_bytes": weights.pop(),
            "cache_bytes": allocated(runner.kv_caches),
            "blocks": config.cache_config.num_gpu_blocks,
            "block_size": config.cache_config.block_size,
            "tokens": config.cache_config.kv_cache_size_tokens,
            "max_model_len": config.model_config.max_model_len,
        }
        print(f"engine: {json.dumps(found)}", flush=True)
        engine.shutdown()
        cleanup_dist_env_and_memory()


if __name__ == "__main__":
    main()
