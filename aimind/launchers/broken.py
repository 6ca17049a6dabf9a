"""What the log of a backend says when its own environment has lost a file or holds half of one."""

from __future__ import annotations

from aimind.types import Backend, Signature

# Python's last line of a traceback, behind what engines print before each line of their processes:
# `(EngineCore pid=7) ERROR 11-28 08:00:00 [core.py:1] `. A library of a driver is no part of an environment.
_START = r"^(?!.*\blib(?:cuda|nvidia))(?:\([^)]*\) ?)?(?:(?:ERROR|CRITICAL) [\d-]+ [\d:.]+ \[[^\]]*\] ?)?"
# glibc's words for a library that is missing, cut or empty.
_LIBRARY = "cannot open shared object file|file too short|invalid ELF header|ELF load command"
_PATTERNS = (
    _START + r"(?:ModuleNotFoundError|ImportError): ",
    _START + rf"OSError: \S+: (?:{_LIBRARY})",
    _START + r"\S+: error while loading shared libraries: ",
    _START + r"\S*/python[\d.]*: (?:No module named|Error while finding module specification for) ",
)


def broken_environment(backend: Backend, folder: str) -> tuple[Signature, ...]:
    """The signatures of a backend in an environment of its own, the folder.

    A cause that the backend's own signatures name is better: an optional module may be missing in any log.
    """
    return tuple(
        Signature(
            pattern,
            cause=f"a module or library could not be loaded from its environment, {folder}",
            remedy=f"`aimind backends install {backend.name}=={backend.version}` checks the environment, and "
            "makes it anew if it is damaged",
            fallback=True,
        )
        for pattern in _PATTERNS
    )
