"""Run by SGLang's Python: reads a list of arguments, and says what SGLang's own parser makes of them.

With `-m MODULE ARGUMENTS…` it runs that module instead, as Python itself would.

Triton compiles for GPUs and weighs a gigabyte. Parsing needs nothing of it but that it can be imported, so
that here its place is taken. Not a module of the tests: they have no SGLang.
"""

from __future__ import annotations

import argparse
import json
import runpy
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from typing import Any
from unittest.mock import MagicMock


class NoTriton(MetaPathFinder, Loader):
    """Every module of triton is there, and empty."""

    def find_spec(self, name: str, *_: Any) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if name.partition(".")[0] == "triton" else None

    def create_module(self, spec: ModuleSpec) -> Any:
        return MagicMock(name=spec.name, __name__=spec.name, __path__=[], __spec__=spec)

    def exec_module(self, module: Any) -> None:
        """Nothing to run."""


sys.meta_path.insert(0, NoTriton())


def main() -> None:
    from sglang.srt.server_args import ServerArgs, prepare_server_args

    parser = argparse.ArgumentParser()
    ServerArgs.add_cli_args(parser)
    spellings = [spelling for action in parser._actions for spelling in action.option_strings]
    choices = {
        spelling: list(action.choices)
        for action in parser._actions
        for spelling in action.option_strings
        if action.choices
    }
    read = prepare_server_args(json.load(sys.stdin))
    fields = {name: getattr(read, name) for name in sys.argv[1:]}
    print(f"read: {json.dumps({'spellings': spellings, 'choices': choices, 'fields': fields})}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["-m"]:
        sys.argv[:] = sys.argv[2:]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        main()
