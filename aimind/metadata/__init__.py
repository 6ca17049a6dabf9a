"""Model -> Metadata: what the headers of the files say, whatever their format."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from aimind.errors import MetadataError
from aimind.metadata.gguf import read_header
from aimind.metadata.gguf_model import describe
from aimind.types import INDEX_NAME, File, Metadata, Model, Reader, split_of


def read(model: Model, open_file: Callable[[File], Reader]) -> Metadata:
    """What is known of a model from the headers of its files; no weights are read.

    Args:
        model: narrowed to the files that are needed (one quantization, all its parts).
        open_file: gives random access to one of them.

    Raises:
        MetadataError: a header is damaged, cut short or hostile, or files are missing.
    """
    gguf = [file for file in model.files if file.is_gguf]
    if gguf:
        return _read_gguf(gguf, open_file)
    from aimind.metadata import hugging_face

    return hugging_face.read(model, open_file)


def indexed_files(model: Model, open_file: Callable[[File], Reader]) -> frozenset[str] | None:
    """The paths of the weights that the index in the model's own folder names; `None` without an index.

    Raises:
        MetadataError: the index is damaged.
    """
    from aimind.metadata import safetensors

    for file in model.files:
        if file.path == INDEX_NAME:
            return frozenset(safetensors.read_index(open_file(file), file.path))
    return None


def from_config(text: bytes, path: str) -> Metadata:
    """What a folder with this config.json would say, its weights being those that it implies, unquantized.

    Raises:
        MetadataError: the configuration is damaged.
    """
    from aimind.metadata import hugging_face

    return hugging_face.from_config(text, path)


def _read_gguf(files: Sequence[File], open_file: Callable[[File], Reader]) -> Metadata:
    projectors = [file for file in files if file.is_projector]
    parts = _parts([file for file in files if file not in projectors] or projectors)
    beside = [file for file in projectors if file not in parts]
    return describe(
        [read_header(open_file(file), file.path) for file in parts],
        [read_header(open_file(file), file.path) for file in beside],
    )


def _parts(files: Sequence[File]) -> list[File]:
    """One file, or all parts of a split one in order.

    Raises:
        MetadataError: parts are missing, or the files are of several models.
    """
    models: dict[tuple[str, int], list[File]] = {}
    for file in files:
        split = split_of(file.path)
        key = (file.path, 1) if split is None else (split.stem, split.count)
        models.setdefault(key, []).append(file)
    if len(models) > 1:
        names = ", ".join(sorted(file.path for file in files)[:4])
        raise MetadataError(
            f"the files belong to several models: {names}", hint="Name one file, or one quantization."
        )
    [((stem, count), parts)] = models.items()
    if len(parts) != count:
        raise MetadataError(
            f"{stem} has {count} parts, and only {len(parts)} were found",
            hint="Download all parts into one folder, with the names they have on the hub.",
        )
    return sorted(parts, key=_part_number)


def _part_number(file: File) -> int:
    split = split_of(file.path)
    return 1 if split is None else split.number
