"""What may come of any bytes at all: an answer within bounds, or an error that says what and what to do."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from functools import cache

from aimind import document, metadata, plan, select
from aimind.devices import hardware
from aimind.errors import AimindError, MetadataError
from aimind.launchers import LAUNCHERS
from aimind.metadata.gguf import Header
from aimind.metadata.gguf_model import describe
from aimind.types import File, Host, Metadata, Model, Reader, Reference, Request
from tests import samples

# Three factors of a size (elements of a head's state, say), each below `LARGEST_NUMBER` of the readers.
LARGEST = 1 << 128
MACHINES = ("24G", "2x24G")
_REFERENCE = Reference(source="local", name="./models")


class Bounded:
    """A reader that fails the test when it is asked for bytes that do not exist."""

    def __init__(self, raw: bytes, size_bytes: int | None = None) -> None:
        self._raw = raw
        self.size_bytes = len(raw) if size_bytes is None else size_bytes

    def read(self, offset: int, length: int) -> bytes:
        assert offset >= 0
        assert length >= 0
        assert offset + length <= self.size_bytes
        part = self._raw[offset : offset + length]
        return part + bytes(length - len(part))


@cache
def machine(text: str) -> Host:
    """A described machine, or one without devices, on which every backend can be installed."""
    devices = () if text == "cpu" else hardware.parse(text).devices
    return samples.host(*devices)


def check(error: AimindError) -> None:
    """It says what happened and what to do, at a length that a terminal shows."""
    assert error.hint
    assert 0 < len(error.message) < 600


def read(files: Mapping[str, Reader]) -> tuple[Model, Metadata] | None:
    """What is read of such files; `None` for an error that says what and what to do."""
    named = tuple(File(name, reader.size_bytes) for name, reader in files.items())
    model = Model(reference=_REFERENCE, files=named, root="/models")
    found = _refused_or(lambda: metadata.read(model, lambda file: files[file.path]))
    if found is None:
        return None
    _within_bounds(found)
    return model, found


def _within_bounds(found: Metadata) -> None:
    for number in numbers(found):
        assert 0 <= number < LARGEST


def _refused_or(work: Callable[[], Metadata]) -> Metadata | None:
    try:
        return work()
    except MetadataError as error:
        check(error)
        return None


def outcome(files: Mapping[str, Reader]) -> Metadata | None:
    """What is read of such files, and planned for some machines, or `None` where they are refused."""
    found = read(files)
    if found is None:
        return None
    model, described = found
    for text in ("cpu", *MACHINES):
        serve(model, described, machine(text))
    return described


def serve(model: Model, described: Metadata, host: Host) -> None:
    """Plan, and print the plan as the program does; refused or not."""
    try:
        decided = plan.make(model, described, host, Request(), LAUNCHERS)
        command = select.find_launcher(decided.backend.name, LAUNCHERS).command(decided, "/models")
    except AimindError as error:
        check(error)
        return
    json.dumps(document.document(decided, command), ensure_ascii=False, allow_nan=False).encode()


def numbers(value: object) -> Iterator[int]:
    """All numbers in frozen values of `types`; a fraction fails the test."""
    assert not isinstance(value, float)
    if isinstance(value, int):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from numbers(item)
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from numbers(getattr(value, field.name))


def described(header: Header, machine_text: str) -> None:
    """What is said of a GGUF header that somebody else read, and planned; refused or not."""
    found = _refused_or(lambda: describe([header]))
    if found is None:
        return
    _within_bounds(found)
    model = Model(reference=_REFERENCE, files=(File(header.path, 1),), root="/models")
    serve(model, found, machine(machine_text))
