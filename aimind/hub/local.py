"""Models on this machine: a folder, a file in one, and the demo model that comes with aimind."""

from __future__ import annotations

import errno
import os
import stat
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from aimind.errors import ModelNotFoundError, UnsupportedError
from aimind.reference import default_hub
from aimind.types import File, Model, Reference

DEMO = Path(__file__).parent.parent / "demo"
DEMO_GGUF = "aimind-demo-F16.gguf"
DEMO_FOLDER = "huggingface"
WEIGHTS = (".gguf", ".safetensors", ".bin", ".pt", ".pth")
PICKLES = (".bin", ".pt", ".pth")
# Files and folders that are looked at before a folder is given up: the largest models have about 1,000.
MOST_ENTRIES = 10_000
MOST_DEPTH = 32  # folders inside folders; the deepest layouts of models have four
GGUF_MAGIC = b"GGUF"


def resolve(reference: Reference) -> Model:
    """The files of a local model. A file is listed with what lies beside it: its other parts, its projector.

    Raises:
        ModelNotFoundError: nothing there, nothing readable, or a link to nowhere.
        UnsupportedError: it is neither a file of weights nor a folder.
    """
    try:
        path = Path(reference.name).expanduser()
    except RuntimeError as error:
        raise ModelNotFoundError(
            f"{reference.name} is in the home folder of an unknown user", hint="Write the whole path."
        ) from error
    mode = _stat(path).st_mode
    if stat.S_ISDIR(mode):
        return _folder(reference, path)
    if not stat.S_ISREG(mode):
        raise _not_a_model(path)
    reference = replace(reference, file=path.name)
    if path.suffix.lower() == ".gguf":
        return _model(reference, path.parent, {path, *_beside(path)})
    if path.suffix.lower() in WEIGHTS:
        return _folder(reference, path.parent)
    if _begins_with_gguf(path):
        file = File(path.name, _stat(path).st_size, format="gguf")
        return Model(reference=reference, root=str(path.parent.absolute()), files=(file,))
    raise _not_a_model(path)


def resolve_demo(reference: Reference, folder: Path = DEMO) -> Model:
    """The demo model: in GGUF, or as a Hugging Face folder for `demo:safetensors`."""
    if reference.quantization == "SAFETENSORS":
        return _folder(reference, folder / DEMO_FOLDER)
    return _model(reference, folder, {folder / DEMO_GGUF})


def readable_files(folder: Path) -> list[Path]:
    """The files in a folder and below it; none where it cannot be read, or holds more than a model does."""
    try:
        return list(_walk(folder).files)
    except (ModelNotFoundError, UnsupportedError):
        return []


def local_twin(reference: Reference) -> str | None:
    """The path here that a reference to a hub would also be the name of, if there is one."""
    if reference.source != default_hub() or reference.revision is not None:
        return None
    path = reference.name if reference.file is None else f"{reference.name}/{reference.file}"
    return path if Path(path).exists() else None


class FileReader:
    """Reads a file on this machine."""

    def __init__(self, path: Path) -> None:
        try:
            self._file = path.open("rb")
            self._size_bytes = os.fstat(self._file.fileno()).st_size
        except OSError as error:
            raise _unreadable(path, error) from error
        self._path = path
        weakref.finalize(self, self._file.close)

    @property
    def size_bytes(self) -> int:
        """The file's whole size."""
        return self._size_bytes

    def read(self, offset: int, length: int) -> bytes:
        """The bytes from `offset`, exactly `length` of them, or fewer only where the file ends."""
        try:
            self._file.seek(offset)
            return self._file.read(length)
        except OSError as error:
            raise _unreadable(self._path, error) from error


def _folder(reference: Reference, folder: Path) -> Model:
    found = _walk(folder)
    for path in sorted(found.unreadable, key=lambda path: (len(path.parts), path)):
        if _is_needed(path, folder, found.files, quantization=reference.quantization):
            raise found.unreadable[path]
    if not found.files:
        raise ModelNotFoundError(
            f"the folder {folder} holds no files", hint="Name the folder that holds the model's files."
        )
    return _model(reference, folder, found.files)


def _is_needed(path: Path, folder: Path, files: set[Path], *, quantization: str | None) -> bool:
    """Whether without this unreadable file nothing is served, or not what the user expects."""
    kinds = {file.suffix.lower() for file in files if file.parent == folder} & set(WEIGHTS)
    has_gguf = any(file.suffix.lower() == ".gguf" for file in files)
    has_own_weights = bool(kinds - {".gguf"})
    suffix = path.suffix.lower()
    if not has_gguf and not has_own_weights:
        return True
    if suffix == ".gguf":  # another GGUF file, or the folder's own weights, is served instead
        return quantization is not None and quantization.upper() in path.name.upper()
    if path.parent != folder:
        return False
    if suffix in PICKLES:
        return not has_gguf and ".safetensors" not in kinds
    return not has_gguf or has_own_weights  # a shard, or config.json


def _model(reference: Reference, folder: Path, paths: Iterable[Path]) -> Model:
    files = [File(path.relative_to(folder).as_posix(), _stat(path).st_size) for path in sorted(paths)]
    return Model(reference=reference, root=str(folder.absolute()), files=tuple(files))


@dataclass(frozen=True, slots=True)
class _Found:
    """What a walk through a folder has found.

    Attributes:
        files: all regular files, but those of weights and configurations that cannot be read.
        unreadable: these, each with the error that says why.
    """

    files: set[Path]
    unreadable: dict[Path, ModelNotFoundError]


def _walk(folder: Path) -> _Found:
    """Find the files in a folder and below it.

    Hidden names, sockets, pipes and devices are left out, and so are folders below it that cannot be read.
    Links to folders are followed, each folder once.

    Raises:
        ModelNotFoundError: the folder itself cannot be read.
        UnsupportedError: it holds more than a model does.
    """
    found = _Found(set(), {})
    seen: set[tuple[int, int]] = set()
    waiting = [(folder, 0)]
    looked_at = 0
    while waiting:
        current, depth = waiting.pop()
        try:
            status = _stat(current)
            entries = _entries(current, most=MOST_ENTRIES + 1 - looked_at)
        except ModelNotFoundError:
            if depth == 0:
                raise
            continue
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        looked_at += len(entries)
        if looked_at > MOST_ENTRIES:
            raise UnsupportedError(
                f"{folder} holds more than {MOST_ENTRIES:,} files and folders, too many for a model",
                hint="Name the model's own folder, or its GGUF file.",
            )
        waiting += [(path, depth + 1) for path in _sorted(entries, found) if depth < MOST_DEPTH]
    return found


def _sorted(entries: Iterable[Path], found: _Found) -> list[Path]:
    """Note the files of a folder in `found`, and return the folders in it."""
    folders = []
    for path in entries:
        if path.name.startswith("."):
            continue
        try:
            mode = _mode(path)
        except ModelNotFoundError as error:
            if path.suffix.lower() in WEIGHTS or path.name == "config.json":
                found.unreadable[path] = error
            continue
        if stat.S_ISREG(mode):
            found.files.add(path)
        elif stat.S_ISDIR(mode):
            folders.append(path)
    return folders


def _mode(path: Path) -> int:
    """The file mode.

    Raises:
        ModelNotFoundError: a link to nowhere, or a file that this user may not read.
    """
    mode = _stat(path).st_mode
    if stat.S_ISREG(mode) and not os.access(path, os.R_OK):
        raise _unreadable(path, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))
    return mode


def _begins_with_gguf(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(GGUF_MAGIC)) == GGUF_MAGIC
    except OSError as error:
        raise _unreadable(path, error) from error


def _not_a_model(path: Path) -> UnsupportedError:
    return UnsupportedError(
        f"{path} is neither a folder nor a file of weights",
        hint="Name a .gguf file, or the folder that holds config.json and the weights.",
    )


def _beside(path: Path) -> Iterator[Path]:
    """The readable GGUF files of the same folder."""
    for other in _entries(path.parent):
        if other.suffix.lower() != ".gguf" or other.name.startswith("."):
            continue
        try:
            mode = _mode(other)
        except ModelNotFoundError:
            continue
        if stat.S_ISREG(mode):
            yield other


def _entries(folder: Path, *, most: int | None = None) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return [folder / entry.name for entry in islice(entries, most)]
    except OSError as error:
        raise _unreadable(folder, error) from error


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> ModelNotFoundError:
    if isinstance(error, FileNotFoundError):
        if path.is_symlink():
            return ModelNotFoundError(
                f"{path} is a link to {path.readlink()}, which does not exist",
                hint="Restore the file that the link names, or remove the link.",
            )
        return ModelNotFoundError(f"{path} does not exist", hint=f"Check the spelling; this is {Path.cwd()}.")
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return ModelNotFoundError(f"{path} cannot be read: {reason}", hint="Check its permissions and its disk.")
