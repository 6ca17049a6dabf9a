"""What this machine has: devices."""

from __future__ import annotations

import sys

from aimind.phrases import gib
from aimind.show.columns import Cell, Column, print_facts, print_table
from aimind.show.terminal import look
from aimind.supervisor.screen import Look
from aimind.types import Host, Tenant

BAR = 10
_COLUMNS = (
    Column("DEVICE"),
    Column("NAME"),
    Column("", rank=3),
    Column("USED", rank=1, right=True),
    Column("FREE", right=True),
    Column("TOTAL", rank=1, right=True),
    Column("COMPUTE", rank=2),
)


def devices(host: Host) -> None:
    """Print the devices and the RAM: a bar of what is used, and the processes that use a device."""
    shown = look(sys.stdout)
    rows = [
        _row(f"{device.index}", device.name, device.total_bytes, device.free_bytes, shown)
        for device in host.devices
    ]
    for row, device in zip(rows, host.devices, strict=True):
        row.append(device.capability or "")
    details = [f"{host.os} {host.arch}", f"{host.cores} cores", *_instruction_sets(host)]
    rows.append([*_row("RAM", ", ".join(details), host.ram_total_bytes, host.ram_free_bytes, shown), ""])
    print_table(_COLUMNS, rows)
    for device in host.devices:
        print_facts([(f"device {device.index}", _user(tenant)) for tenant in device.tenants])


def _row(device: str, name: str, total_bytes: int, free_bytes: int, look: Look) -> list[str | Cell]:
    used_bytes = total_bytes - free_bytes
    share = used_bytes / total_bytes if total_bytes else 0.0
    bar = Cell(look.bar(share, BAR), "cyan")
    return [device, name, bar, gib(used_bytes), gib(free_bytes), gib(total_bytes)]


def _user(tenant: Tenant) -> str:
    memory = f" uses {gib(tenant.used_bytes)}" if tenant.used_bytes else " uses it"
    return f"{tenant.name} (process {tenant.pid}){memory}"


def _instruction_sets(host: Host) -> list[str]:
    """The processor's instruction sets that people know by name."""
    names = {"avx2": "AVX2", "avx512f": "AVX-512", "amx_tile": "AMX", "i8mm": "I8MM", "sve": "SVE"}
    found = [name for feature, name in names.items() if feature in host.cpu_features]
    if "AVX-512" in found:
        found.remove("AVX2")
    return found
