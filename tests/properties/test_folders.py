"""Folders and indexes that nobody could have made: a model is found, or an error says what is wrong."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import struct
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from aimind import files, hub, metadata
from aimind.errors import MetadataError, ModelNotFoundError, UnsupportedError
from aimind.hub.local import DEMO, DEMO_FOLDER
from aimind.types import INDEX_NAME, Metadata, Model, Reference
from tests import hostile

CONFIG = (DEMO / DEMO_FOLDER / "config.json").read_bytes()
WEIGHTS = (DEMO / DEMO_FOLDER / "model.safetensors").read_bytes()
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
OUTSIDE = "outside.safetensors"
_opened: list[str] | None = None


def _note_opened(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and _opened is not None and isinstance(arguments[0], str):
        _opened.append(arguments[0])


sys.addaudithook(_note_opened)


@contextlib.contextmanager
def opened_files() -> Iterator[list[str]]:
    """The paths of all files that are opened meanwhile."""
    global _opened  # noqa: PLW0603 - an audit hook cannot be removed
    _opened = []
    try:
        yield _opened
    finally:
        _opened = None


def read(folder: Path) -> tuple[Model, Metadata] | None:
    """The model in a folder as `aimind plan` finds it, or `None` where an error says what is wrong."""
    with opened_files() as opened:
        try:
            model = hub.resolve(Reference(source="local", name=str(folder)))

            def open_file(file: Any) -> Any:
                return hub.open_file(model, file)

            indexed = metadata.indexed_files(model, open_file)
            narrowed = files.candidates(model, indexed=indexed)[0]
            found = narrowed, metadata.read(narrowed, open_file)
            hub.strays(narrowed)
        except (ModelNotFoundError, MetadataError, UnsupportedError) as error:
            hostile.check(error)
            found = None
    ours = [path for path in opened if path.startswith(str(folder.parent))]
    for path in ours:
        assert Path(path).resolve().is_relative_to(folder.resolve()), path
        assert stat.S_ISREG(os.stat(path).st_mode), path  # noqa: PTH116
    # Each file is opened for its format, its index or its header: never once for each name in an index.
    assert len(ours) <= 10 + 3 * sum(1 for _ in folder.rglob("*"))
    return found


# ── Folders ────────────────────────────────────────────────────────────────────────────────────────────────

NAMES = st.sampled_from(
    [
        *(
            "config.json",
            INDEX_NAME,
            "model.safetensors",
            *SHARDS,
            "mtp.safetensors",
            "consolidated.safetensors",
        ),
        *(
            "params.json",
            "tokenizer.json",
            "model.gguf",
            "mmproj-F16.gguf",
            "m-Q4_K_M.gguf",
            "adapter_model.safetensors",
        ),
        *("m-00001-of-00002.gguf", "m-00001-of-999999999.gguf", "pytorch_model.bin", "model.bin", "x.pt"),
        *(
            "lost+found",
            "@eaDir",
            ".git",
            "fp8",
            "original",
            "1_Pooling",
            "a\nb",
            "\u202eb",
            "é" * 80,
            "-",
            " ",
            "b\udc80",
        ),
        *(
            "model_index.json",
            "adapter_config.json",
            "hf_quant_config.json",
            "cosyvoice2.yaml",
            "model.safetensors ",
        ),
    ]
)
CONTENTS = {
    "nothing": b"",
    "object": b"{}",
    "list": b"[]",
    "magic": b"GGUF",
    "damaged": b"GGUF\x03\0\0\0" + b"\xff" * 24,
    "text": b"\xff\xfe\0",
    "config": CONFIG,
    "weights": WEIGHTS,
}
LEAVES = st.one_of(
    st.tuples(st.just("file"), st.sampled_from(sorted(CONTENTS)), st.sampled_from([0o644, 0o000, 0o200])),
    st.tuples(
        st.just("link"),
        st.sampled_from([".", "..", "nowhere", "config.json", "fp8", "/nowhere", "model.safetensors"]),
    ),
    st.tuples(st.just("pipe")),
)
TREES = st.recursive(
    st.dictionaries(NAMES, LEAVES, max_size=6),
    lambda inner: st.dictionaries(NAMES, LEAVES | inner, max_size=5),
    max_leaves=12,
)


def make(folder: Path, tree: dict[str, Any]) -> None:
    """The folder with what the tree says."""
    folder.mkdir()
    for name, entry in tree.items():
        path = folder / name
        if isinstance(entry, dict):
            make(path, entry)
        elif entry[0] == "link":
            # Links lead to places inside the folder or to nowhere, so that all that is opened must be inside.
            target = entry[1] if entry[1] != ".." or folder.name != "model" else "."
            path.symlink_to(target)
        elif entry[0] == "pipe":
            os.mkfifo(path)
        else:
            path.write_bytes(CONTENTS[entry[1]])
            path.chmod(entry[2])


@settings(max_examples=100, deadline=None)
@given(tree=TREES)
@example(tree={"config.json": ("file", "config", 0o644), "model.safetensors": ("file", "weights", 0o644)})
@example(tree={"config.json": ("link", "config.json"), "model.safetensors": ("link", "model.safetensors")})
@example(tree={"config.json": {}, "model.safetensors": {}, INDEX_NAME: {}})
@example(
    tree={"config.json": ("file", "config", 0o644), "model.safetensors": ("pipe",), INDEX_NAME: ("pipe",)}
)
@example(tree={"m-00001-of-999999999.gguf": ("file", "magic", 0o644)})
def test_any_folder(tree: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as around:
        folder = Path(around) / "model"
        make(folder, tree)
        read(folder)


# ── Indexes ────────────────────────────────────────────────────────────────────────────────────────────────


def split_weights() -> dict[str, bytes]:
    """The demo's weights in two shards."""
    length = struct.unpack("<Q", WEIGHTS[:8])[0]
    entries = json.loads(WEIGHTS[8 : 8 + length])
    entries.pop("__metadata__", None)
    names = sorted(entries)
    shards = {}
    for shard, own in zip(SHARDS, (names[::2], names[1::2]), strict=True):
        header: dict[str, Any] = {}
        data = b""
        for name in own:
            begin, end = entries[name]["data_offsets"]
            header[name] = {**entries[name], "data_offsets": [len(data), len(data) + end - begin]}
            data += WEIGHTS[8 + length + begin : 8 + length + end]
        text = json.dumps(header).encode()
        shards[shard] = struct.pack("<Q", len(text)) + text + data
    return shards


SHARD_BYTES = split_weights()
PLACES = {
    name: shard
    for shard, raw in SHARD_BYTES.items()
    for name in json.loads(raw[8 : 8 + struct.unpack("<Q", raw[:8])[0]])
}
FILES = st.sampled_from(
    [
        *(
            *SHARDS,
            f"../{OUTSIDE}",
            f"./{SHARDS[0]}",
            f"x/../{SHARDS[0]}",
            "/etc/passwd",
            "/dev/zero",
            "pipe.safetensors",
        ),
        *(
            "",
            ".",
            "..",
            "folder",
            "model.safetensors",
            "a\0b",
            "\x1b[31m",
            "\n",
            "\u202e",
            "x" * 5000,
            "config.json",
        ),
        *("%2e%2e/x", "..\\x", "~/x", "*.safetensors", INDEX_NAME),
    ]
)
ODD: st.SearchStrategy[Any] = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.lists(FILES, max_size=2) | st.just({})
)
TENSORS = st.sampled_from([*sorted(PLACES)[:5], "", "x", "\n", "y" * 3000]) | st.text(max_size=5)
MAPS = st.dictionaries(TENSORS, FILES | ODD, max_size=8)
INDEXES = st.one_of(
    ODD,
    st.fixed_dictionaries({"weight_map": MAPS | ODD}, optional={"metadata": ODD}),
    # The right one with some names in other places, or gone.
    MAPS.map(lambda other: {"weight_map": {**PLACES, **other}}),
    st.sets(st.sampled_from(sorted(PLACES)), max_size=3).map(
        lambda gone: {"weight_map": {name: place for name, place in PLACES.items() if name not in gone}}
    ),
)


@settings(max_examples=100, deadline=None)
@given(index=INDEXES)
@example(index={"weight_map": PLACES})
@example(index={"weight_map": {f"t{number}": f"f{number}.safetensors" for number in range(100_000)}})
@example(index={"weight_map": {f"t{number}": SHARDS[0] for number in range(100_000)}})
@example(index={"weight_map": dict.fromkeys(PLACES, f"../{OUTSIDE}")})
def test_any_index(index: object) -> None:
    with tempfile.TemporaryDirectory() as around:
        folder = Path(around) / "model"
        (folder / "folder").mkdir(parents=True)
        (Path(around) / OUTSIDE).write_bytes(WEIGHTS)
        os.mkfifo(folder / "pipe.safetensors")
        for name, raw in {"config.json": CONFIG, **SHARD_BYTES}.items():
            (folder / name).write_bytes(raw)
        (folder / INDEX_NAME).write_text(json.dumps(index))
        found = read(folder)
    if index == {"weight_map": PLACES}:
        assert found is not None
    if found is not None:
        model, known = found
        assert {file.path for file in model.files} <= {"config.json", INDEX_NAME, *SHARDS}
        assert known.weight_bytes <= len(WEIGHTS)
