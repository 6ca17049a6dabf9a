"""The architectures that an installed backend can load, by its own source: read once, then remembered.

Importing vLLM to ask it takes nine seconds; its table is a few lines of one file.
"""

from __future__ import annotations

import ast
import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from aimind.environments.flags import remember
from aimind.types import Backend, Registry

_EXPORTED = re.compile(r"^__all__ = \[(.*?)\]", re.MULTILINE | re.DOTALL)
_WORD = re.compile(r"\"(\w+)\"|'(\w+)'")
_ATTENTION = re.compile(r"^class \w*Attention\w*\(nn\.Module\):", re.MULTILINE)


def known(backend: Backend, registry: Registry) -> frozenset[str] | None:
    """The architectures that the backend in this environment can load; `None` where it does not say."""
    environment = Path(backend.executable).parent.parent
    table = next(environment.glob(f"lib/python3*/site-packages/{registry.file}"), None)
    if table is None:
        return None
    memory = environment / "architectures.json"
    status = table.stat()
    stamp = [backend.version, registry.table, status.st_mtime_ns, status.st_size]
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # it only saves a second
        said = json.loads(memory.read_bytes())
        if said["of"] == stamp:
            return frozenset(map(str, said["architectures"]))
    found = frozenset(_keys(table, registry.table))
    if not found:
        return None
    if registry.with_transformers:
        site = table.parents[registry.file.count("/")]
        found |= frozenset(_of_transformers(site / "transformers" / "models"))
    remember(memory, {"of": stamp, "architectures": sorted(found)})
    return found


def _keys(path: Path, name: str) -> Iterator[str]:
    """The keys of a dict that a module makes, with those of the dicts that it is made of."""
    try:
        module = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError):
        return
    tables: dict[str, ast.Dict] = {}
    for statement in module.body:
        if isinstance(statement, ast.Assign | ast.AnnAssign) and isinstance(statement.value, ast.Dict):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            tables |= {each.id: statement.value for each in targets if isinstance(each, ast.Name)}
    yield from _flat(tables, name)


def _flat(tables: Mapping[str, ast.Dict], name: str) -> Iterator[str]:
    table = tables.get(name)
    for key, value in zip(table.keys, table.values, strict=True) if table else ():
        if isinstance(key, ast.Constant) and isinstance(key.value, str):
            yield key.value
        elif key is None and isinstance(value, ast.Name):
            yield from _flat({each: tables[each] for each in tables if each != name}, value.id)


def _of_transformers(models: Path) -> Iterator[str]:
    """The models whose attention transformers lets another program compute.

    By the same marks as transformers (`is_backend_compatible` and `_can_set_attn_implementation` in
    modeling_utils.py, 5.19), which are those of a module's source.
    """
    for path in models.glob("*/modeling_*.py"):
        source = path.read_text(encoding="utf-8", errors="replace")
        exported = _EXPORTED.search(source)
        if exported and (
            "_supports_attention_backend = True" in source
            or "ALL_ATTENTION_FUNCTIONS.get_interface(" in source
            or not _ATTENTION.search(source)
        ):
            yield from (one or other for one, other in _WORD.findall(exported[1]))
