"""Whether an installed environment still has what was installed into it.

Each wheel leaves a RECORD of its files with their sizes and hashes (packaging.python.org, "Recording
installed projects"). A full disk, a power failure, or a program that tidies up damages files later.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from aimind.environments import requirements
from aimind.environments.folders import Environment
from aimind.types import Backend, Package

# Nobody edits these. A text of another size may have been edited by the user.
_COMPILED = (".so", ".dylib", ".a", ".bin", ".cubin", ".hsaco")


@dataclass(frozen=True, slots=True)
class Difference:
    """A file of an environment that is not as it was installed.

    Attributes:
        sentence: what is wrong with it, as a half sentence that begins with its path.
        fatal: nobody can have wanted it.
    """

    sentence: str
    fatal: bool


def find_damage(backend: Backend, package: Package, *, contents: bool = False) -> Difference | None:
    """The worst difference between an installed environment and the records of its wheels.

    Without `contents` it compares sizes: half a second for vLLM's 35,000 files.

    Args:
        backend: in an environment of its own.
        package: what it was installed from: files that its recipe removes may be missing.
        contents: also compare hashes, which reads every file.
    """
    environment = Environment(backend.name, Path(backend.executable).parents[1])
    found = list(_differences(environment, package, backend.python, contents=contents))
    if not found:
        return None
    worst = next((each for each in found if each.fatal), found[0])
    others = len(found) - 1
    if not others:
        return worst
    files = "one more file" if others == 1 else f"{others} more files"
    return Difference(f"{worst.sentence} ({files} changed or missing)", worst.fatal)


def _differences(
    environment: Environment, package: Package, python: str, *, contents: bool
) -> Iterator[Difference]:
    if not (environment.folder / "pyvenv.cfg").is_file():
        yield Difference("pyvenv.cfg is missing", fatal=True)
    packages = _packages_folder(environment, python)
    if packages is None:
        yield Difference(f"lib/python{_minor(python)}/site-packages is missing", fatal=True)
        return
    base = re.fullmatch(r"python(\d+\.\d+)", environment.python.resolve().name)
    if base is not None and python and base[1] != _minor(python):
        yield Difference(f"bin/python is Python {base[1]}, but the packages are for {python}", fatal=True)
    there = set(distributions(packages))
    for name in environment.distributions():
        if name not in there:
            yield Difference(f"{name} is missing", fatal=True)
    removed = [pattern for fix in requirements.fixes(package, environment.version) for pattern in fix.removed]
    for path, recorded in _recorded(packages).items():
        if any(PurePosixPath(path).match(pattern) for pattern in removed):
            continue
        found = _compare(packages / path, path, recorded, contents=contents)
        if found is not None:
            yield found


def distributions(packages: Path) -> list[str]:
    """The names of the distributions in a site-packages folder, as their dist-info folders write them."""
    return sorted({info.name.partition("-")[0] for info in packages.glob("*.dist-info")})


def _minor(python: str) -> str:
    """`3.11` of `3.11.7`."""
    return ".".join(python.split(".")[:2])


def _packages_folder(environment: Environment, python: str) -> Path | None:
    """The site-packages, for the Python that the environment was made with."""
    pattern = f"lib/python{_minor(python)}/site-packages" if python else "lib/python3*/site-packages"
    return next(environment.folder.glob(pattern), None)


def _recorded(packages: Path) -> dict[str, set[tuple[str, str]]]:
    """Path -> its (hash, size), of every wheel that has it: two may, and then the last one's is there.

    Bytecode is left out: Python writes it anew where it is stale.
    """
    found: dict[str, set[tuple[str, str]]] = {}
    for record in sorted(packages.glob("*.dist-info/RECORD")):
        try:
            lines = record.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError):
            found.setdefault(str(record.relative_to(packages)), set())
            continue
        for row in csv.reader(lines):
            if len(row) == 3 and not row[0].endswith(".pyc"):
                found.setdefault(row[0], set()).add((row[1], row[2]))
    return found


def _compare(file: Path, path: str, recorded: set[tuple[str, str]], *, contents: bool) -> Difference | None:
    try:
        status = os.stat(file)  # noqa: PTH116 - of tens of thousands of files
        if not stat.S_ISREG(status.st_mode):
            return Difference(f"{path} is not a file", fatal=True)
        if not os.access(file, os.R_OK):
            return Difference(f"{path} is not readable", fatal=True)
    except OSError:
        return Difference(f"{path} is missing", fatal=True)
    sizes = {int(size) for _, size in recorded if size.isdecimal()}
    if sizes and status.st_size not in sizes:
        expected = " or ".join(map(str, sorted(sizes)))
        is_compiled = path.endswith(_COMPILED) or ".so." in path
        return Difference(
            f"{path} has {status.st_size} bytes instead of {expected}",
            fatal=is_compiled or status.st_size == 0,
        )
    hashes = {digest for digest, _ in recorded if digest.startswith("sha256=")}
    if contents and hashes and _sha256(file) not in hashes:
        return Difference(f"{path} was changed after its installation", fatal=False)
    return None


def _sha256(file: Path) -> str:
    """The file's hash in the notation of RECORD; empty where the file cannot be read."""
    try:
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").digest()
    except OSError:
        return ""
    return "sha256=" + base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
