"""What is promised and not used yet is not free."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Iterator

import pytest

from aimind.instances import Sight, used, without_promises
from aimind.types import Claim, Device, Host, State, StateName, Tenant
from tests.instances.test_records import INSTANCE
from tests.supervisor.harness import LINUX

GIB = 1 << 30
MIB = 1 << 20
DEVICE = Device(index=0, uuid="GPU-1", vendor="nvidia", name="GPU", total_bytes=24 * GIB, free_bytes=20 * GIB)
HOST = Host(devices=(DEVICE,), ram_total_bytes=64 * GIB, ram_free_bytes=60 * GIB, os="linux", arch="x86_64")
# A process that has 64 MiB of its own, and a child that has as much, and says the child's number.
GREEDY = (
    "import subprocess, sys; mine = bytearray(64 << 20); child = sys.argv[1:]\n"
    "other = subprocess.Popen([sys.executable, *child], stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
    "print(other.pid, flush=True) if other.stdout.readline() else None; sys.stdin.read()\n"
)
CHILD = "import sys; mine = bytearray(64 << 20); print(flush=True); sys.stdin.read()"


def sight(
    *, pid: int = 1 << 22, ram_bytes: int = 0, device_bytes: int = 0, state: StateName = "loading"
) -> Sight:
    """A running instance, by default of a process that is not there."""
    devices = {"GPU-1": device_bytes} if device_bytes else {}
    claim = Claim(address="127.0.0.1", port=8000, devices=devices, ram_bytes=ram_bytes)
    ready = 1.0 if state == "ready" else None
    return Sight(
        name="other",
        running=True,
        instance=dataclasses.replace(INSTANCE, claim=claim),
        state=State(state=state, since=0.0, pid=pid, ready_since=ready),
    )


def with_tenant(pid: int, used_bytes: int | None) -> Host:
    tenant = Tenant(pid=pid, name="backend", used_bytes=used_bytes)
    return dataclasses.replace(HOST, devices=(dataclasses.replace(DEVICE, tenants=(tenant,)),))


@pytest.fixture
def greedy() -> Iterator[tuple[int, int]]:
    """The process ids of both."""
    command = [sys.executable, "-I", "-S", "-c", GREEDY, "-I", "-S", "-c", CHILD]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield process.pid, int(process.stdout.readline())
        process.stdin.close()


def test_nothing_is_promised_where_nothing_runs() -> None:
    ended = dataclasses.replace(sight(ram_bytes=GIB, device_bytes=GIB), running=False)
    assert without_promises(HOST, [ended]) == HOST


def test_all_of_a_claim_before_anything_is_used() -> None:
    host = without_promises(HOST, [sight(ram_bytes=3 * GIB, device_bytes=5 * GIB)])
    assert host.ram_free_bytes == 57 * GIB
    assert host.devices[0].free_bytes == 15 * GIB
    assert host.promised == ("5.0 GiB of device 0 and 3.0 GiB of RAM are promised to instance other",)


def test_claims_add_up_and_never_to_less_than_nothing() -> None:
    claims = [sight(ram_bytes=25 * GIB, device_bytes=12 * GIB) for _ in range(3)]
    host = without_promises(HOST, claims)
    assert (host.ram_free_bytes, host.devices[0].free_bytes, len(host.promised)) == (0, 0, 3)


def test_of_a_device_what_the_driver_says_is_used(greedy: tuple[int, int]) -> None:
    """Also by a descendant."""
    for state in ("loading", "ready"):
        host = without_promises(
            with_tenant(greedy[1], 4 * GIB), [sight(pid=greedy[0], device_bytes=5 * GIB, state=state)]
        )
        assert host.devices[0].free_bytes == 19 * GIB
    host = without_promises(with_tenant(greedy[1], 6 * GIB), [sight(pid=greedy[0], device_bytes=5 * GIB)])
    assert host.devices[0].free_bytes == 20 * GIB


@pytest.mark.parametrize("tenant", [None, "another"])
def test_a_driver_that_does_not_tell(greedy: tuple[int, int], tenant: str | None) -> None:
    """All is promised until it is ready, and nothing from then on."""
    host = with_tenant(greedy[1], None) if tenant is None else with_tenant(1, 4 * GIB)
    loading = without_promises(host, [sight(pid=greedy[0], device_bytes=5 * GIB)])
    ready = without_promises(host, [sight(pid=greedy[0], device_bytes=5 * GIB, state="ready")])
    assert loading.devices[0].free_bytes == 15 * GIB
    assert ready.devices[0].free_bytes == 20 * GIB


@LINUX
def test_ram_that_the_tree_has_taken_is_promised_no_more(greedy: tuple[int, int]) -> None:
    claimed = sight(pid=greedy[0], ram_bytes=GIB, state="ready")
    taken = HOST.ram_free_bytes - without_promises(HOST, [claimed]).ram_free_bytes
    assert GIB - 200 * MIB < taken < GIB - 128 * MIB
    holds = used([claimed], HOST.devices)["other"]
    assert 128 * MIB < holds.own_ram_bytes < holds.ram_bytes < 200 * MIB
    assert holds.devices == {}
