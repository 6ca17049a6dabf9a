"""Models on this machine: a folder, a file in one, and the demo model that comes with aimind."""

from __future__ import annotations

import os
import stat
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

from aimind.errors import ModelNotFoundError, UnsupportedError
from aimind.reference import default_hub
from aimind.types import File, Model, Reference

DEMO = Path(__file__).parent.parent / "demo"
DEMO_GGUF = "aimind-demo-F16.gguf"
DEMO_FOLDER = "huggingface"
WEIGHTS = (".gguf", ".safetensors", ".bin", ".pt", ".pth")
MOST_FILES = 10_000
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
            f"{reference.name} is in the home folder of nobody known here", hint="Write the whole path."
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
    paths = set(islice(_walk(folder), MOST_FILES + 1))
    if len(paths) > MOST_FILES:
        raise UnsupportedError(
            f"{folder} holds more than {MOST_FILES:,} files, too many for a model",
            hint="Name a folder inside it.",
        )
    if not paths:
        raise ModelNotFoundError(
            f"the folder {folder} holds no files", hint="Name the folder that holds the model's files."
        )
    return _model(reference, folder, paths)


def _model(reference: Reference, folder: Path, paths: Iterable[Path]) -> Model:
    files = [File(path.relative_to(folder).as_posix(), _stat(path).st_size) for path in sorted(paths)]
    return Model(reference=reference, root=str(folder.absolute()), files=tuple(files))


def _walk(folder: Path) -> Iterator[Path]:
    """The files in a folder and below it, without what no model needs and what cannot be read.

    Hidden files, sockets, pipes and devices are left out. Links to folders are followed, each folder once.

    Raises:
        ModelNotFoundError: the folder itself cannot be read, or a file of weights or a configuration.
    """
    seen: set[tuple[int, int]] = set()
    waiting = [(folder, 0)]
    while waiting:
        current, depth = waiting.pop()
        status = _stat(current)
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        for path in _listed(current, required=depth == 0):
            mode = _mode(path)
            if stat.S_ISREG(mode):
                yield path
            elif stat.S_ISDIR(mode) and depth < MOST_DEPTH:
                waiting.append((path, depth + 1))


def _listed(folder: Path, *, required: bool) -> list[Path]:
    """What is in a folder, without hidden names; nothing where it may not be read (`lost+found`)."""
    try:
        entries = _entries(folder)
    except ModelNotFoundError:
        if required:
            raise
        return []
    return [path for path in entries if not path.name.startswith(".")]


def _mode(path: Path) -> int:
    """The file mode, 0 for a link to nowhere that no model needs.

    Raises:
        ModelNotFoundError: the name is one of weights or of a configuration, and the file cannot be read.
    """
    try:
        return path.stat().st_mode
    except OSError as error:
        if path.suffix.lower() in WEIGHTS or path.name == "config.json":
            raise _unreadable(path, error) from error
        return 0


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
        if other.suffix.lower() == ".gguf" and not other.name.startswith(".") and other.is_file():
            yield other


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
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
                hint="Fetch the file that it should lead to, or remove the link.",
            )
        return ModelNotFoundError(f"{path} does not exist", hint=f"Check the spelling; this is {Path.cwd()}.")
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return ModelNotFoundError(f"{path} cannot be read: {reason}", hint="Check its permissions and its disk.")
