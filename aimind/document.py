"""The plan as one JSON document: what `--json` prints and docs/plan.md describes.

Fields are absent where they do not apply. `schema` grows by one when a field changes its meaning or goes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from aimind.alternatives import Option, file_bytes, label
from aimind.errors import AimindError
from aimind.reference import unparse
from aimind.types import Command, Estimate, Metadata, Model, Plan, Shard, WeightGroup

if TYPE_CHECKING:
    from aimind.exact import Exact

SCHEMA = 1
MASK = "***"

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


def comparison(answers: Sequence[tuple[str, int | None, Plan | AimindError]]) -> dict[str, Json]:
    """Plans side by side: each with its machine and the context asked for, or why there is none."""
    return {
        "schema": SCHEMA,
        "plans": [
            {"hardware": machine, **_present({"context": "max" if asked == 0 else asked}), **_answer(answer)}
            for machine, asked, answer in answers
        ],
    }


def _answer(answer: Plan | AimindError) -> dict[str, Json]:
    if isinstance(answer, AimindError):
        return {"error": {"message": answer.message, "hint": answer.hint, "exit_code": answer.exit_code}}
    return {"plan": _plan(answer)}


def document(
    plan: Plan, command: Command, *, options: Sequence[Option] = (), asked: Sequence[Exact] = ()
) -> dict[str, Json]:
    """The plan and its command, with the secrets masked.

    With `options` all quantizations, with `asked` what the backend itself would reserve.
    """
    return {
        **_plan(plan),
        **({"candidates": candidates(options, plan)} if options else {}),
        **({"asked": [dataclasses.asdict(each) for each in asked]} if asked else {}),
        "command": {
            "argv": list(command.argv),
            "env": {**command.env, **dict.fromkeys(command.secret_env, MASK)},
            "files": [{"path": path, "mode": f"{mode:04o}"} for path, mode in _written(command)],
            "ready_url": command.ready.url,
        },
    }


def _written(command: Command) -> list[tuple[str, int]]:
    """The files that are made before the start, and their modes."""
    edited = [f"{overlay.path}/{name}" for overlay in command.overlays for name in overlay.edits]
    return [(file.path, file.mode) for file in command.files] + [(path, 0o600) for path in edited]


def candidates(options: Sequence[Option], chosen: Plan | None) -> list[Json]:
    """The quantizations of a model, and whether they fit."""
    return [_option(option, chosen) for option in options]


def _option(option: Option, chosen: Plan | None) -> dict[str, Json]:
    found = option.plan
    return _present(
        {
            "quantization": label(option.model),
            "files": [file.path for file in option.model.files],
            "size_bytes": file_bytes(option.model),
            "chosen": found is not None and found is chosen,
            "guessed": option.guessed,
            "fits": found is not None,
            "whole": found.is_whole if found else None,
            "max_model_len": found.settings.max_model_len if found else None,
            "gpu_layers": found.settings.gpu_layers if found else None,
            "devices_bytes": sum(shard.estimate.total_bytes for shard in found.shards) if found else None,
            "ram_bytes": found.host.total_bytes if found else None,
        }
    )


def _plan(plan: Plan) -> dict[str, Json]:
    settings = plan.settings
    return _present(
        {
            "schema": SCHEMA,
            "model": model_document(plan.model, plan.metadata),
            "backend": {
                "name": plan.backend.name,
                "version": plan.backend.version,
                "executable": plan.backend.executable,
                "installed": plan.backend.installed,
                **({"assumed": True} if plan.backend.assumed else {}),
            },
            "refused": [{"backend": r.backend, "sentence": r.sentence} for r in plan.refused],
            "max_model_len": settings.max_model_len,
            "max_num_seqs": settings.max_num_seqs,
            "kv_cache_tokens": plan.kv_cache_tokens,
            "requests_at_once": plan.requests_at_once,
            "tensor_parallel_size": settings.tensor_parallel_size,
            "pipeline_parallel_size": settings.pipeline_parallel_size,
            "gpu_layers": settings.gpu_layers,
            "cpu_moe_layers": settings.cpu_moe_layers,
            "kv_cache_dtype": settings.kv_cache_dtype,
            "gpu_memory_utilization": settings.gpu_memory_utilization,
            "compile_cache": plan.compile_cache,
            "tool_call_parser": settings.tool_call_parser,
            "reasoning_parser": settings.reasoning_parser,
            "shards": [_shard(shard) for shard in plan.shards],
            "host": {"free_bytes": plan.ram_free_bytes, **_estimate(plan.host)},
            "sources": dict(plan.sources),
            "reasons": [{"field": r.field, "sentence": r.sentence} for r in plan.reasons],
        }
    )


def model_document(model: Model, metadata: Metadata) -> dict[str, Json]:
    """What a model is: where it comes from, its kind, its size and its files."""
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
            "mixture": [_group(group) for group in metadata.mixture] or None,
            "max_model_len": metadata.max_model_len,
            "files": _files(model),
        }
    )


def _group(group: WeightGroup) -> dict[str, Json]:
    return _present(
        {
            "part": group.part,
            "quantization": group.quantization,
            "bits": group.bits,
            "group_size": group.group_size,
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
    sizes = dict(estimate.components)
    if not estimate.prompt_cache_bytes:
        del sizes["prompt_cache_bytes"]
    approximate = [name for name, size in sizes.items() if size and name in estimate.approximate]
    return {
        **sizes,
        "total_bytes": estimate.total_bytes,
        "exact": not approximate,
        "approximate": [*approximate],
    }


def _present(fields: Mapping[str, Json]) -> dict[str, Json]:
    return {name: value for name, value in fields.items() if value is not None}
