"""Makes a backend load the planned weights where other safetensors lie in the same folder.

An engine loads every `*.safetensors` of a folder, or those that `model.safetensors.index.json` names. Where
that would be others than the planned ones, the engine gets a folder of links to the planned files instead.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from fnmatch import fnmatchcase
from posixpath import basename

from aimind.types import INDEX_NAME, Overlay, Plan


def has_mistral_copies(paths: Iterable[str]) -> bool:
    """Whether vLLM would take a folder with these files for one in Mistral's own format.

    It looks in all folders below (is_mistral_model_repo in vllm/transformers_utils/repo_utils.py, 0.32).
    """
    return any(fnmatchcase(basename(path), "consolidated*.safetensors") for path in paths)


def overlay(
    plan: Plan, weights: str, *, pattern: str = "*.safetensors", reads_index: bool = True
) -> Overlay | None:
    """The folder of links that is loaded instead of `weights`; `None` where that folder can be loaded itself.

    Args:
        plan: with its scratch folder and its strays.
        weights: the folder that holds the model's files.
        pattern: of the names that the backend loads.
        reads_index: whether it loads only what the index names, where there is one.
    """
    planned = tuple(file.path for file in plan.model.files)
    if reads_index and INDEX_NAME in planned:
        return None
    if not any("/" not in path and fnmatchcase(path, pattern) for path in plan.strays):
        return None
    path = os.path.join(plan.scratch, "model")  # noqa: PTH118
    return Overlay(path=path, source=weights, links=planned, edits={})
