"""The architectures that an installed backend can load, by its own files: read once, then remembered.

Importing vLLM to ask it takes nine seconds; its table is a few lines of one file.
"""

from __future__ import annotations

import ast
import contextlib
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from aimind.environments.flags import remember
from aimind.environments.folders import data_folder
from aimind.regular import read_regular
from aimind.types import Backend, Registry

_EXPORTED = re.compile(r"^__all__ = \[(.*?)\]", re.MULTILINE | re.DOTALL)
_WORD = re.compile(r"\"(\w+)\"|'(\w+)'")
# A text in a library that could be the name of an architecture.
_TEXT = re.compile(rb"([a-z][a-z0-9._-]{1,31})\0")
# Names that every llama.cpp has since 2023, each with the zero byte that ends it.
_ALWAYS_THERE = (b"gptneox\0", b"starcoder\0", b"baichuan\0")
_ATTENTION = re.compile(r"^class \w*Attention\w*\(nn\.Module\):", re.MULTILINE)


def known(backend: Backend, registry: Registry) -> frozenset[str] | None:
    """The architectures that an installed backend can load; `None` where it does not say.

    Of a library these are all texts that could be a name: one that it knows is among them, or ends one.
    """
    files = _files(Path(backend.executable), registry)
    if not files:
        return None
    memory = _memory(backend)
    status = [path.stat() for path in files]
    newest, size = max(each.st_mtime_ns for each in status), sum(each.st_size for each in status)
    stamp = [backend.version, backend.executable, registry.kind, registry.table, len(files), newest, size]
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # it only saves a second
        remembered = json.loads(read_regular(memory))
        if remembered["of"] == stamp:
            return frozenset(map(str, remembered["architectures"]))
    found = frozenset(names(files, registry))
    if not found:
        return None
    if registry.with_transformers:
        site = next(parent for parent in files[0].parents if parent.name == "site-packages")
        found |= frozenset(of_transformers(site / "transformers" / "models"))
    remember(memory, {"of": stamp, "architectures": sorted(found)})
    return found


def _memory(backend: Backend) -> Path:
    executable = Path(backend.executable)
    if _is_environment(executable):
        return executable.parent.parent / "architectures.json"
    return data_folder() / f"architectures-{backend.name}.json"


def _is_environment(executable: Path) -> bool:
    return executable.name.startswith("python")


def _files(executable: Path, registry: Registry) -> list[Path]:
    """The files of an installed backend that list its architectures."""
    if _is_environment(executable):
        folders = list((executable.parent.parent / "lib").glob("python3*/site-packages"))
        return [path for folder in folders for name in registry.files for path in sorted(folder.glob(name))]
    program = executable.resolve()
    prefix = program.parent.parent
    folders = [program.parent, prefix / "lib", prefix / "lib64", *sorted(prefix.glob("lib/*-linux-gnu"))]
    beside = (path for folder in folders for name in registry.files for path in sorted(folder.glob(name)))
    # One of several libraries is enough: they are links to each other.
    return list(itertools.islice(filter(_is_llama_cpp, itertools.chain([program], beside)), 1))


def _is_llama_cpp(path: Path) -> bool:
    """Whether a program or library has llama.cpp's list of architectures in it."""
    try:
        content = path.read_bytes()
    except OSError:
        return False
    return all(name in content for name in _ALWAYS_THERE)


def names(files: Iterable[Path], registry: Registry) -> Iterator[str]:
    """The architectures that these files list, by the kind of the registry."""
    for path in files:
        match registry.kind:
            case "table":
                yield from _keys(path, registry.table)
            case "classes":
                yield from _assigned(path, registry.table)
            case "exported":
                yield from _exported(path.read_text(encoding="utf-8", errors="replace"))
            case "strings":
                yield from (text.decode() for text in _TEXT.findall(path.read_bytes()))


def _assigned(path: Path, variable: str) -> Iterator[str]:
    """The names of the classes that a module assigns to a variable: one, or a list of them."""
    try:
        module = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError):
        return
    for statement in ast.walk(module):
        if not isinstance(statement, ast.Assign):
            continue
        if any(isinstance(target, ast.Name) and target.id == variable for target in statement.targets):
            for node in ast.walk(statement.value):
                if isinstance(node, ast.Name):
                    yield node.id


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


def of_transformers(models: Path) -> Iterator[str]:
    """The models whose attention transformers lets another program compute.

    By the same marks as transformers (`is_backend_compatible` and `_can_set_attn_implementation` in
    modeling_utils.py, 5.19), which are those of a module's source.
    """
    for path in models.glob("*/modeling_*.py"):
        source = path.read_text(encoding="utf-8", errors="replace")
        if (
            "_supports_attention_backend = True" in source
            or "ALL_ATTENTION_FUNCTIONS.get_interface(" in source
            or not _ATTENTION.search(source)
        ):
            yield from _exported(source)


def _exported(source: str) -> Iterator[str]:
    """The classes that a module of transformers exports."""
    exported = _EXPORTED.search(source)
    if exported:
        yield from (one or other for one, other in _WORD.findall(exported[1]))
