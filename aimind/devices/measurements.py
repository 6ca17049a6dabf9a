"""What earlier runs held on this machine's devices, as supervisors have written it down.

aimind/supervisor/taken.py writes the file, and says what it keeps.
"""

from __future__ import annotations

import json
from pathlib import Path

from aimind.regular import read_regular
from aimind.types import Measurement

SCHEMA = 1


def read_measurements(path: Path) -> tuple[Measurement, ...]:
    """All measurements in the file; none where it is missing.

    Raises:
        ValueError: it cannot be read, or is not such a file; why, as half a sentence.
    """
    try:
        document = json.loads(read_regular(path))
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except OSError as problem:
        raise ValueError(f"it cannot be read ({problem.strerror})") from problem
    except (ValueError, RecursionError) as problem:
        raise ValueError("it is not a JSON document") from problem
    try:
        if document["schema"] != SCHEMA:
            raise ValueError(f"its schema is not {SCHEMA}")
        return tuple(
            Measurement(
                device=_text(entry["device"]),
                driver=_text(entry["driver"]),
                backend=_text(entry["backend"]),
                version=_text(entry["version"]),
                kind=_text(entry["kind"]),
                ready_bytes=_size(run["ready_bytes"]),
                most_bytes=_size(run["most_bytes"]),
            )
            for entry in document["entries"]
            for run in entry["runs"]
        )
    except (KeyError, TypeError) as problem:
        raise ValueError("it is not a list of measurements") from problem


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value


def _size(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise TypeError(value)
    return value
