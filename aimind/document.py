"""The plan as one JSON document: what `--json` prints and docs/plan.md describes.

Fields are absent where they do not apply. `schema` grows by one when a field changes its meaning or goes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from aimind.reference import unparse
from aimind.types import Command, Estimate, Model, Plan, Shard

SCHEMA = 1
MASK = "***"

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


def document(plan: Plan, command: Command) -> dict[str, Json]:
    """The plan and its command, with the secrets masked."""
    settings = plan.settings
    return _present(
        {
            "schema": SCHEMA,
            "model": _model(plan),
            "backend": {
                "name": plan.backend.name,
                "version": plan.backend.version,
                "executable": plan.backend.executable,
                "installed": plan.backend.installed,
            },
            "refused": [{"backend": r.backend, "sentence": r.sentence} for r in plan.refused],
            "max_model_len": settings.max_model_len,
            "max_num_seqs": settings.max_num_seqs,
            "kv_cache_tokens": plan.kv_cache_tokens,
            "tensor_parallel_size": settings.tensor_parallel_size,
            "pipeline_parallel_size": settings.pipeline_parallel_size,
            "gpu_layers": settings.gpu_layers,
            "kv_cache_dtype": settings.kv_cache_dtype,
            "gpu_memory_utilization": settings.gpu_memory_utilization,
            "shards": [_shard(shard) for shard in plan.shards],
            "host": {"free_bytes": plan.ram_free_bytes, **_estimate(plan.host)},
            "reasons": [{"field": r.field, "sentence": r.sentence} for r in plan.reasons],
            "command": {
                "argv": list(command.argv),
                "env": {**command.env, **dict.fromkeys(command.secret_env, MASK)},
                "files": [{"path": file.path, "mode": f"{file.mode:04o}"} for file in command.files],
                "ready_url": command.ready.url,
            },
        }
    )


def _model(plan: Plan) -> dict[str, Json]:
    model, metadata = plan.model, plan.metadata
    return _present(
        {
            "reference": unparse(model.reference),
            "source": model.reference.source,
            "revision": model.reference.revision,
            "commit": model.commit,
            "format": metadata.format,
            "category": metadata.category,
            "architecture": metadata.architecture,
            "parameters": metadata.parameters,
            "quantization": metadata.quantization,
            "max_model_len": metadata.max_model_len,
            "files": _files(model),
        }
    )


def _files(model: Model) -> list[Json]:
    return [
        _present({"path": file.path, "size_bytes": file.size_bytes, "sha256": file.sha256})
        for file in model.files
    ]


def _shard(shard: Shard) -> dict[str, Json]:
    device = shard.device
    return {
        "device": {
            "index": device.index,
            "uuid": device.uuid,
            "name": device.name,
            "total_bytes": device.total_bytes,
            "free_bytes": device.free_bytes,
        },
        **_present({"layers": shard.layers}),
        **_estimate(shard.estimate),
    }


def _estimate(estimate: Estimate) -> dict[str, Json]:
    components: dict[str, Json] = dataclasses.asdict(estimate)
    exact = components.pop("exact")
    return {**components, "total_bytes": estimate.total_bytes, "exact": exact}


def _present(fields: Mapping[str, Json]) -> dict[str, Json]:
    return {name: value for name, value in fields.items() if value is not None}
