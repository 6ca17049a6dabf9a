"""When vLLM compiles a model anew, and what tells whether it did so before.

Its own key is a hash of its configuration (`compute_hash` in vllm/config, `compile_factors` in vllm/envs.py,
0.32), which only vLLM itself can compute. Ours is made of all that this hash is made of and of a little more:
where ours was seen before, vLLM's was, too.
"""

from __future__ import annotations

import hashlib
import json

from aimind.launchers import parsers, vllm_flags, vllm_models
from aimind.launchers.arguments import render
from aimind.launchers.vllm_cpu import environment
from aimind.launchers.vllm_defaults import without_defaults
from aimind.types import Plan

ROOT_VARIABLE = "VLLM_CACHE_ROOT"
# With one of them the compiled code lies elsewhere, or nowhere.
COMPILE_VARIABLES = (ROOT_VARIABLE, "VLLM_DISABLE_COMPILE_CACHE")
# Below the root: without it no compiled code is left (vllm/compilation/backends.py and decorators.py).
COMPILE_FOLDER = "torch_compile_cache"
# The user's arguments that say themselves what is compiled.
_COMPILE_FLAGS = ("-O", "-cc", "--optimization-level", "--compilation-config", "--compilation_config")
# vLLM's hash leaves them out: they change nothing in the model's graph.
_NOT_COMPILED = {
    "address",
    "port",
    "served_name",
    "gpu_memory_utilization",
    "kv_cache_memory_bytes",
    "auto_tool_choice",
    *parsers.FLAGS,
}


def compile_key(plan: Plan) -> str | None:
    """By what compiled code is kept apart; `None` where there is none, or the user decides what or where."""
    settings = plan.settings
    if settings.enforce_eager or any(name in settings.env for name in COMPILE_VARIABLES):
        return None
    if any(word.startswith(_COMPILE_FLAGS) for word in settings.extra):
        return None
    model = plan.model
    compiled = {name: flag for name, flag in vllm_flags.FLAGS.items() if name not in _NOT_COMPILED}
    factors = (
        plan.backend.version,
        (model.reference.source, model.reference.name, model.commit, model.root),
        [(file.path, file.size_bytes) for file in model.files],
        [(shard.device.name, shard.device.capability) for shard in plan.shards],
        render(compiled, without_defaults(plan)),
        vllm_models.arguments(plan.metadata),
        settings.extra,
        sorted(_compile_variables({**environment(plan), **settings.env}).items()),
    )
    return hashlib.sha256(json.dumps(factors).encode()).hexdigest()[:16]


def cache_environment(plan: Plan) -> dict[str, str]:
    """Where vLLM keeps compiled code, beside what else it finds out at a first start."""
    cache = plan.backend.compile_cache
    return {} if cache is None else {ROOT_VARIABLE: cache.folder}


def _compile_variables(env: dict[str, str]) -> dict[str, str]:
    """Those that vLLM and PyTorch may read when they compile; never a secret."""
    return {
        name: value
        for name, value in env.items()
        if name.startswith(("VLLM_", "TORCH")) and name != "VLLM_API_KEY"
    }
