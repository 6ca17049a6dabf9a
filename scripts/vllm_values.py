"""The values that vLLM's flags take, asked from the parser of an installed vLLM; prints the table as JSON.

`ENVIRONMENT/bin/python scripts/vllm_values.py > aimind/launchers/known/vllm-0.32-values.json`, with the
Python of an environment that `aimind backends install vllm` made.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import pkgutil
import sys
from typing import Any

BOUNDS = {"Ge": "at_least", "Gt": "more_than", "Le": "at_most", "Lt": "less_than"}


def main() -> None:
    """Print the table."""
    cli = importlib.import_module("vllm.entrypoints.launchers.cli_args")
    parsers = importlib.import_module("vllm.utils.argparse_utils")
    parser = cli.make_arg_parser(parsers.FlexibleArgumentParser())
    bounds = field_bounds()
    found = {}
    for name, action in sorted(parser._option_string_actions.items()):
        if name.startswith("--") and type(action) is argparse._StoreAction and action.nargs is None:
            row = values(action, bounds.get(action.dest, {}))
            if row:
                found[name] = row
    rows = (f" {json.dumps(name)}: {json.dumps(row)}" for name, row in found.items())
    sys.stdout.write("{\n" + ",\n".join(rows) + "\n}\n")


def values(action: Any, bounds: dict[str, float]) -> dict[str, Any] | None:
    """What the parser accepts for one flag; `None` where that is any text."""
    if action.choices:
        choices = sorted(map(str, action.choices))
        folded = all(accepts(action, choice.upper()) for choice in choices)
        return {"choices": choices, **({"folded": True} if folded else {})}
    if accepts(action, "x"):
        return None
    if accepts(action, "{}") or accepts(action, "[]"):
        return {"kind": "json"}
    if accepts(action, "1k"):
        return {"kind": "tokens", **bounds}
    if accepts(action, "1.5"):
        return {"kind": "float", **bounds}
    return {"kind": "int", **bounds}


def accepts(action: Any, text: str) -> bool:
    """Whether the parser takes this text for the value."""
    try:
        value = action.type(text) if action.type else text
    except Exception:  # noqa: BLE001 - whatever a parser raises, it refuses the text
        return False
    return action.choices is None or value in action.choices


def field_bounds() -> dict[str, dict[str, float]]:
    """Field of vLLM's configuration -> the bounds that pydantic checks when the engine starts."""
    package = importlib.import_module("vllm.config")
    found: dict[str, dict[str, float]] = {}
    for info in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"vllm.config.{info.name}")
        for kind in vars(module).values():
            if isinstance(kind, type) and dataclasses.is_dataclass(kind):
                for field in dataclasses.fields(kind):
                    for each in getattr(field.default, "metadata", ()):
                        name = type(each).__name__
                        if name in BOUNDS:
                            bound = getattr(each, name.lower())
                            found.setdefault(field.name, {})[BOUNDS[name]] = bound
    return found


if __name__ == "__main__":
    main()
