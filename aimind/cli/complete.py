"""What a shell offers for an unfinished word. A completion never fails: it offers nothing instead."""

from __future__ import annotations

import contextlib
from pathlib import Path

from aimind.errors import AimindError, UsageError

_PATH_STARTS = (".", "/", "~")


def models(incomplete: str) -> list[str]:
    """Models in the caches and `demo`; for a path, directories and GGUF files."""
    if incomplete.startswith(_PATH_STARTS):
        return _local_models(incomplete)
    from aimind.cli.configured import use_configured_hub
    from aimind.hub import inventory, places
    from aimind.reference import unparse

    with contextlib.suppress(UsageError):  # the command itself reports a wrong configuration
        use_configured_hub()
    found = ["demo", *places.names()]
    if ":" in incomplete.removeprefix("ms:").removeprefix("hf:"):
        found += [unparse(each.reference) for each in inventory.models()]
    return [name for name in dict.fromkeys(found) if name.startswith(incomplete)]


def instances(incomplete: str) -> list[str]:
    """All instances."""
    from aimind.instances import all_names

    try:
        return [name for name in all_names() if name.startswith(incomplete)]
    except AimindError:
        return []


def ended_instances(incomplete: str) -> list[str]:
    """Instances that have ended."""
    running = running_instances(incomplete)
    return [name for name in instances(incomplete) if name not in running]


def running_instances(incomplete: str) -> list[str]:
    """Instances that run."""
    from aimind.instances import living

    try:
        return [sight.name for sight in living() if sight.name.startswith(incomplete)]
    except AimindError:
        return []


def instances_and_models(incomplete: str) -> list[str]:
    """What `aimind remove` accepts: instances, and models in the caches."""
    return instances(incomplete) + [name for name in models(incomplete) if name != "demo"]


def backends(incomplete: str) -> list[str]:
    """All backends."""
    from aimind.launchers import LAUNCHERS

    return [launcher.NAME for launcher in LAUNCHERS if launcher.NAME.startswith(incomplete)]


def _local_models(incomplete: str) -> list[str]:
    """Directories, with a slash, and GGUF files whose path begins so."""
    head, slash, begin = incomplete.rpartition("/")
    folder = Path(head or "/") if slash else Path()
    found = []
    with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: ~user does not exist
        for path in sorted(folder.expanduser().iterdir()):
            if not path.name.startswith(begin):
                continue
            if path.is_dir():
                found.append(f"{head}{slash}{path.name}/")
            elif path.suffix == ".gguf":
                found.append(f"{head}{slash}{path.name}")
    return found
