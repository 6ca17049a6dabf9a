"""A `Host` as the JSON document of `aimind devices --json`, and back (docs/hardware.md).

Reading is strict: a missing, unknown or wrong field is an error that names it, for a plan made from half a
machine would be believed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeVar

from aimind.devices import cpu
from aimind.errors import UsageError
from aimind.types import Backend, Device, Host, Tenant

SCHEMA = 1
_LARGEST = 2**63 - 1
_SYSTEMS: tuple[Literal["linux", "macos", "windows"], ...] = ("linux", "macos", "windows")
_ARCHITECTURES: tuple[Literal["x86_64", "arm64"], ...] = ("x86_64", "arm64")
_VENDORS: tuple[Literal["nvidia", "amd", "ascend", "apple"], ...] = ("nvidia", "amd", "ascend", "apple")
Choice = TypeVar("Choice", bound=str)


def to_json(host: Host) -> dict[str, object]:
    """The document, ready for `json.dumps`. What is unknown is left out."""
    return _known(
        schema=SCHEMA,
        os=host.os,
        arch=host.arch,
        cores=host.cores,
        cpu_features=sorted(host.cpu_features),
        ram_total_bytes=host.ram_total_bytes,
        ram_free_bytes=host.ram_free_bytes,
        driver=host.driver,
        rocm=host.rocm,
        devices=[_device_to_json(device) for device in host.devices],
        backends=[
            {
                "name": backend.name,
                "version": backend.version,
                "executable": backend.executable,
                "installed": backend.installed,
            }
            for backend in host.backends
        ],
    )


def from_json(document: object) -> Host:
    """The host that `to_json` wrote.

    Raises:
        UsageError: the document is not one, or a field is missing, unknown or wrong.
    """
    fields = _Fields(document, "the document")
    if fields.number("schema") != SCHEMA:
        raise _wrong("schema", f"{SCHEMA}, the only one that this version of aimind reads")
    system = fields.choice("os", _SYSTEMS)
    arch = fields.choice("arch", _ARCHITECTURES)
    host = Host(
        os=system,
        arch=arch,
        cores=fields.number("cores", least=1),
        cpu_features=_cpu_features(fields, arch),
        ram_total_bytes=fields.number("ram_total_bytes", least=1),
        ram_free_bytes=fields.number("ram_free_bytes"),
        driver=fields.text("driver") if "driver" in fields else None,
        rocm=fields.text("rocm") if "rocm" in fields else None,
        devices=tuple(_device(device) for device in fields.objects("devices")),
        backends=tuple(_backend(backend) for backend in fields.objects("backends")),
    )
    fields.end()
    if host.ram_free_bytes > host.ram_total_bytes:
        raise _wrong("ram_free_bytes", "at most ram_total_bytes")
    if len({(device.vendor, device.index) for device in host.devices}) < len(host.devices):
        raise _wrong("devices", "of different indices")
    return host


def _cpu_features(fields: _Fields, arch: Literal["x86_64", "arm64"]) -> frozenset[str]:
    """The instruction sets of the processor; files of earlier versions have at most `amx`.

    Where a file says nothing of them, an x86-64 processor is taken for one that `--hardware` describes.
    """
    if "cpu_features" in fields:
        return fields.words("cpu_features", cpu.FEATURES[arch])
    has_amx = "amx" in fields and fields.truth("amx")
    if arch == "arm64":
        return frozenset({"asimd"})
    return cpu.LEVELS["amx" if has_amx else cpu.USUAL_LEVEL]


def _device_to_json(device: Device) -> dict[str, object]:
    return _known(
        index=device.index,
        uuid=device.uuid,
        vendor=device.vendor,
        name=device.name,
        total_bytes=device.total_bytes,
        free_bytes=device.free_bytes,
        capability=device.capability,
        tenants=[
            _known(pid=tenant.pid, name=tenant.name, used_bytes=tenant.used_bytes)
            for tenant in device.tenants
        ],
    )


def _device(fields: _Fields) -> Device:
    device = Device(
        index=fields.number("index"),
        uuid=fields.text("uuid"),
        vendor=fields.choice("vendor", _VENDORS),
        name=fields.text("name"),
        total_bytes=fields.number("total_bytes", least=1),
        free_bytes=fields.number("free_bytes"),
        capability=fields.text("capability") if "capability" in fields else None,
        tenants=tuple(_tenant(tenant) for tenant in fields.objects("tenants")),
    )
    fields.end()
    if device.free_bytes > device.total_bytes:
        raise _wrong(f"{fields.where}.free_bytes", "at most total_bytes")
    return device


def _tenant(fields: _Fields) -> Tenant:
    tenant = Tenant(
        pid=fields.number("pid"),
        name=fields.text("name"),
        used_bytes=fields.number("used_bytes") if "used_bytes" in fields else None,
    )
    fields.end()
    return tenant


def _backend(fields: _Fields) -> Backend:
    backend = Backend(
        name=fields.text("name"),
        version=fields.text("version"),
        executable=fields.text("executable"),
        installed=fields.truth("installed"),
    )
    fields.end()
    return backend


class _Fields:
    """The fields of one JSON object, each read once and checked; `end` refuses what nobody read."""

    def __init__(self, value: object, where: str) -> None:
        if not isinstance(value, Mapping):
            raise _wrong(where, "an object")
        self.where = where
        self._left: dict[str, object] = dict(value)

    def __contains__(self, name: str) -> bool:
        return name in self._left

    def number(self, name: str, *, least: int = 0) -> int:
        value = self._take(name)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= _LARGEST:
            raise _wrong(self._path(name), f"a whole number of at least {least}")
        return value

    def text(self, name: str) -> str:
        value = self._take(name)
        if not isinstance(value, str):
            raise _wrong(self._path(name), "a text")
        return value

    def truth(self, name: str) -> bool:
        value = self._take(name)
        if not isinstance(value, bool):
            raise _wrong(self._path(name), "true or false")
        return value

    def choice(self, name: str, options: tuple[Choice, ...]) -> Choice:
        value = self._take(name)
        for option in options:
            if option == value:
                return option
        raise _wrong(self._path(name), f"one of {', '.join(options)}")

    def words(self, name: str, known: frozenset[str]) -> frozenset[str]:
        value = self._take(name)
        if not isinstance(value, list):
            raise _wrong(self._path(name), "a list")
        for number, word in enumerate(value):
            if not isinstance(word, str) or word not in known:
                raise _wrong(f"{self._path(name)}[{number}]", f"one of {', '.join(sorted(known))}")
        return frozenset(value)

    def objects(self, name: str) -> list[_Fields]:
        value = self._take(name)
        if not isinstance(value, list):
            raise _wrong(self._path(name), "a list")
        return [_Fields(entry, f"{self._path(name)}[{number}]") for number, entry in enumerate(value)]

    def end(self) -> None:
        for name in self._left:
            raise UsageError(f"The hardware has an unknown field {self._path(name)!r}.", hint=_HINT)

    def _take(self, name: str) -> object:
        if name not in self._left:
            raise UsageError(f"The hardware has no field {self._path(name)!r}.", hint=_HINT)
        return self._left.pop(name)

    def _path(self, name: str) -> str:
        return name if self.where == "the document" else f"{self.where}.{name}"


_HINT = "Record it with `aimind devices --json` of this version; docs/hardware.md lists the fields."


def _wrong(path: str, expected: str) -> UsageError:
    return UsageError(f"The hardware's {path} should be {expected}.", hint=_HINT)


def _known(**fields: object) -> dict[str, object]:
    return {name: value for name, value in fields.items() if value is not None}
