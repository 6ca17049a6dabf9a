"""Which configuration files of other folders the user has allowed, and what in them needs that.

A downloaded folder can bring an `aimind.toml`. Whatever `HARMLESS` does not list can run programs, open the
API to others, or read files. It is used only once the user has run `aimind config trust` on that very file.
The list of allowed files is `trusted.json` in the state folder: their paths, and the SHA-256 of their texts.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from aimind.configuration.values import Setting, Text
from aimind.errors import UsageError

if TYPE_CHECKING:
    from aimind.configuration.schema import Section

FILE = "trusted.json"
# These keys choose among what aimind would do anyway, or forbid it. A key that is not listed needs trust.
HARMLESS = frozenset(
    """
    backend category color context device gpu_layers gpu_memory_utilization kv_cache_type max_restarts
    no_auto_parsers no_cpu_offload no_install offline parallel port probe_interval quant ready_probe restart
    served_model_name stall_timeout tensor_parallel
    """.split()
)


@dataclass(frozen=True, slots=True)
class Untrusted:
    """A file with settings that the user has not allowed.

    Attributes:
        file: the file.
        settings: the settings that need to be allowed, by the path of their key (`env.PYTHONPATH`).
    """

    file: Text
    settings: Mapping[str, Setting]

    def error(self) -> UsageError:
        """The refusal to go on without these settings, since they may change what the rest means."""
        where = next(iter(self.settings.values())).where
        return UsageError(
            f"{where}: {', '.join(self.settings)} cannot be set by a file that is not trusted",
            hint="read the file, then run `aimind config trust`; --no-config ignores it",
        )


def restricted(section: Section) -> dict[str, Setting]:
    """The settings of a file that need trust, by the path of their key, in the order of the file."""
    found = dict([*_options(section), *_of_backends(section)])
    return dict(sorted(found.items(), key=lambda item: _line(item[1])))


def _options(section: Section) -> Iterator[tuple[str, Setting]]:
    for name, value in section.options.items():
        if not _is_harmless(name, value):
            yield name, value
    for model, options in section.models.items():
        for name, value in options.items():
            if not _is_harmless(name, value):
                yield f'models."{model}".{name}', value


def _of_backends(section: Section) -> Iterator[tuple[str, Setting]]:
    """Programs are run with all of these."""
    for name, value in section.env.items():
        yield f"env.{name}", value
    for backend, value in section.versions.items():
        yield f"backends.{backend}.version", value
    for backend, value in section.args.items():
        yield f"backends.{backend}.args", value
    for backend, variables in section.envs.items():
        for name, value in variables.items():
            yield f"backends.{backend}.env.{name}", value


def _line(value: Setting) -> int:
    return int(value.where.rpartition(":")[2])


def harmless(section: Section) -> Section:
    """The section without the settings that need trust."""

    def only_harmless(options: Mapping[str, Setting]) -> dict[str, Setting]:
        return {name: value for name, value in options.items() if _is_harmless(name, value)}

    return replace(
        section,
        options=only_harmless(section.options),
        models={model: only_harmless(options) for model, options in section.models.items()},
        env={},
        versions={},
        args={},
        envs={},
    )


def _is_harmless(name: str, value: Setting) -> bool:
    """Whether any file may set it: a flag that is false allows nothing."""
    return name in HARMLESS or value.value is False


def paths() -> tuple[str, ...]:
    """The files that the user has allowed, whether or not they have changed since.

    Raises:
        UsageError: the list cannot be read.
        InstanceError: others can change the list.
    """
    return tuple(sorted(_read()))


def is_allowed(file: Text) -> bool:
    """Whether the user has allowed this file with this text.

    Raises:
        UsageError: the list of allowed files cannot be read.
        InstanceError: others can change the list.
    """
    return _read().get(_path(file)) == _sha256(file)


def allow(file: Text) -> None:
    """Add the file with its present text to the list.

    Raises:
        UsageError: the list of allowed files cannot be read.
        InstanceError: the list cannot be written, or others can change it.
    """
    _write({**_read(), _path(file): _sha256(file)})


def forbid(path: Path) -> bool:
    """Take the file from the list; whether it was there.

    Raises:
        UsageError: the list of allowed files cannot be read.
        InstanceError: the list cannot be written, or others can change it.
    """
    known = _read()
    if known.pop(os.path.realpath(path), None) is None:
        return False
    _write(known)
    return True


def _path(file: Text) -> str:
    return os.path.realpath(file.folder / Path(file.path).name)


def _sha256(file: Text) -> str:
    return hashlib.sha256(file.text.encode()).hexdigest()


def _read() -> dict[str, str]:
    from aimind.instances import records

    path = records.state_folder() / FILE
    try:
        records.check_own(path.parent)
        known = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError):
        known = None
    if not isinstance(known, dict) or not all(isinstance(value, str) for value in known.values()):
        raise UsageError(
            f"{path} cannot be read as the list of trusted files",
            hint="remove it, and trust your files again",
        )
    return known


def _write(known: Mapping[str, str]) -> None:
    from aimind.instances import records

    folder = records.state_folder()
    records.make_folder(folder)
    with records.writing(folder / FILE):
        unfinished = folder / f"{FILE}.{os.getpid()}"
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(known, file, indent=1, sort_keys=True)
            unfinished.replace(folder / FILE)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
