"""Writes aimind/metadata/gguf_required.txt: `python -m scripts.gguf_keys`.

It asks llama.cpp itself, by the library of xllamacpp: each architecture gets a file with a header alone, and
one more key at a time, until llama.cpp wants something else than a key.
"""

from __future__ import annotations

import os
import re
import struct
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from aimind.launchers.architectures import shipped
from aimind.launchers.ggml import BUILD

TABLE = Path(__file__).parents[1] / "aimind" / "metadata" / "gguf_required.txt"
HEADER = (
    f"# Written by python -m scripts.gguf_keys, with build {BUILD} of llama.cpp.\n"
    "# Keys without which it loads no model of an architecture, whose name stands before a dot.\n"
    "# The first line is for all.\n"
)
# Prints whether llama.cpp loads a file. Its parameters are passed as they come, whatever their layout is.
LOADER = """
import ctypes, os, sys, xllamacpp
library = ctypes.CDLL(xllamacpp.xllamacpp.__file__)
class Parameters(ctypes.Structure):
    _fields_ = [("content", ctypes.c_char * 2048)]
library.llama_model_default_params.restype = Parameters
library.llama_model_load_from_file.restype = ctypes.c_void_p
library.llama_model_load_from_file.argtypes = [ctypes.c_char_p, Parameters]
model = library.llama_model_load_from_file(os.fsencode(sys.argv[1]), library.llama_model_default_params())
print("loaded" if model else "refused", flush=True)
os._exit(0)
"""
# Layers that files are tried with: some keys depend on their number (DeepSeek-V2-Lite has 27).
LAYERS = (2, 27)
_MISSING = re.compile(r"key not found in model: (\S+)")
_WRONG = re.compile(r"key (\S+) has wrong type \S+ but expected type (\S+)")
_MOST_KEYS = 40
Value = str | int | float | bool | list[int]


def main() -> None:
    """Ask, and write the table."""
    from aimind.environments.install import ensure
    from aimind.launchers import xllamacpp
    from aimind.types import Host

    host = Host(devices=(), ram_total_bytes=1, ram_free_bytes=1, os="linux", arch="x86_64")
    with tempfile.TemporaryDirectory(prefix="aimind-") as folder:
        os.environ["AIMIND_DATA_DIR"] = folder
        python = ensure("xllamacpp", xllamacpp.source(host), progress=print).executable
        names = sorted(shipped(f"llama.cpp-{BUILD}") or ())
        found = {name: required(python, name) for name in names}
    TABLE.write_text(HEADER + "\n".join(lines(found)) + "\n", encoding="utf-8")


def lines(found: Mapping[str, Iterable[str]]) -> list[str]:
    """The keys that most have in common, and beyond them those of each architecture."""
    common = [".context_length", ".embedding_length", ".block_count"]
    rows = ["*: " + " ".join(common)]
    for name, keys in sorted(found.items()):
        own = [key for key in keys if key not in common]
        if set(common) <= set(keys):
            rows.append(f"{name}: {' '.join(own)}".rstrip())
    return rows


def required(python: str, architecture: str) -> list[str]:
    """The keys that llama.cpp asks for; those that begin with a dot have the architecture before it."""
    asked = [_required(python, architecture, layers) for layers in LAYERS]
    return [key for key in asked[0] if all(key in others for others in asked)]


def _required(python: str, architecture: str, layers: int) -> list[str]:
    keys: dict[str, Value] = {"general.architecture": architecture}
    found: list[str] = []
    for _ in range(_MOST_KEYS):
        message = ask(python, keys)
        missing, wrong = _MISSING.search(message), _WRONG.search(message)
        if missing is not None and missing[1] not in keys:
            keys[missing[1]] = _value(missing[1], layers, array="array key" in message)
            found.append(missing[1].removeprefix(architecture))
        elif wrong is not None:
            values: dict[str, Value] = {"str": "x", "f32": 1e-5, "bool": False, "arr": [1] * layers}
            keys[wrong[1]] = values.get(wrong[2], 1)
        else:
            break
    return found


def _value(key: str, layers: int, *, array: bool) -> Value:
    if array:
        return [1] * layers
    sizes = {"context_length": 64, "embedding_length": 64, "block_count": layers}
    for ending, size in sizes.items():
        if key.endswith(ending):
            return size
    return 1e-5 if key.endswith("epsilon") else 1


def ask(python: str, keys: Mapping[str, Value]) -> str:
    """What llama.cpp prints about a file with these keys and one tensor."""
    with tempfile.TemporaryDirectory(prefix="aimind-") as folder:
        path = Path(folder) / "model.gguf"
        path.write_bytes(file(keys))
        return load(python, path)


def load(python: str, path: Path) -> str:
    """What llama.cpp prints about a file: its last line is `loaded`, `refused`, or how it was aborted."""
    done = subprocess.run([python, "-c", LOADER, str(path)], capture_output=True, check=False)
    return (done.stderr + done.stdout).decode(errors="replace").strip()


def file(keys: Mapping[str, Value]) -> bytes:
    """A GGUF file with these keys and one small tensor."""
    tensor = _text("token_embd.weight") + struct.pack("<IQQIQ", 2, 64, 32, 0, 0)
    pairs = b"".join(_text(key) + _pair(value) for key, value in keys.items())
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, len(keys)) + pairs + tensor
    return head + bytes(-len(head) % 32) + bytes(64 * 32 * 4)


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _pair(value: Value) -> bytes:
    match value:
        case str():
            return struct.pack("<I", 8) + _text(value)
        case bool():
            return struct.pack("<I?", 7, value)
        case int():
            return struct.pack("<II", 4, value)
        case float():
            return struct.pack("<If", 6, value)
        case list():
            return struct.pack(f"<IIQ{len(value)}I", 9, 4, len(value), *value)


if __name__ == "__main__":
    main()
