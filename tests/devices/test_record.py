from __future__ import annotations

import copy
import json
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimind import devices
from aimind.devices import cpu
from aimind.errors import UsageError
from aimind.types import Backend, Device, Host, Tenant

HOST = Host(
    devices=(
        Device(
            index=1,
            uuid="GPU-1",
            vendor="nvidia",
            name="NVIDIA L4",
            total_bytes=100,
            free_bytes=90,
            capability="8.9",
            tenants=(Tenant(pid=7, name="python", used_bytes=10),),
        ),
    ),
    ram_total_bytes=1000,
    ram_free_bytes=900,
    os="linux",
    arch="arm64",
    cores=3,
    cpu_features=frozenset({"asimd", "i8mm"}),
    backends=(Backend(name="vllm", version="1.2", executable="/opt/vllm", installed=False),),
    driver="560.35.03",
)
OPTIONAL = {"cpu_features", "driver", "capability", "used_bytes"}
Path = tuple[str | int, ...]

names = st.text(max_size=8)
tenants = st.builds(
    Tenant, pid=st.integers(0, 2**31), name=names, used_bytes=st.none() | st.integers(0, 2**40)
)


@st.composite
def some_devices(draw: st.DrawFn) -> tuple[Device, ...]:
    indices = draw(st.lists(st.integers(0, 63), unique=True, max_size=3))
    sizes = [sorted(draw(st.tuples(st.integers(1, 2**40), st.integers(1, 2**40)))) for _ in indices]
    return tuple(
        draw(
            st.builds(
                Device,
                index=st.just(index),
                uuid=names,
                vendor=st.sampled_from(["nvidia", "amd", "ascend", "apple"]),
                name=names,
                total_bytes=st.just(total_bytes),
                free_bytes=st.just(free_bytes),
                capability=st.none() | names,
                tenants=st.lists(tenants, max_size=2).map(tuple),
            )
        )
        for index, (free_bytes, total_bytes) in zip(indices, sizes, strict=True)
    )


hosts = st.sampled_from(sorted(cpu.FEATURES.items())).flatmap(
    lambda processor: st.builds(
        Host,
        devices=some_devices(),
        ram_total_bytes=st.integers(2**40, 2**50),
        ram_free_bytes=st.integers(0, 2**40),
        os=st.sampled_from(["linux", "macos", "windows"]),
        arch=st.just(processor[0]),
        cores=st.integers(1, 512),
        cpu_features=st.frozensets(st.sampled_from(sorted(processor[1]))),
        backends=st.lists(st.builds(Backend, name=names, version=names, executable=names), max_size=2).map(
            tuple
        ),
        driver=st.none() | names,
    )
)


@given(hosts)
def test_what_is_written_reads_back_the_same(host: Host) -> None:
    assert devices.from_json(json.loads(json.dumps(devices.to_json(host)))) == host


def document() -> dict[str, object]:
    return copy.deepcopy(devices.to_json(HOST))


def paths(value: object, above: Path = ()) -> Iterator[Path]:
    entries: list[tuple[str | int, object]] = []
    if isinstance(value, dict):
        entries = list(value.items())
    elif isinstance(value, list):
        entries = list(enumerate(value))
    for key, entry in entries:
        yield (*above, key)
        yield from paths(entry, (*above, key))


def spelled(path: Path) -> str:
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).lstrip(".")


def holder(value: object, path: Path) -> dict[str | int, object]:
    for key in path[:-1]:
        assert isinstance(value, dict | list)
        value = value[key]  # type: ignore[index]
    return value  # type: ignore[return-value]


FIELDS = [path for path in paths(document()) if isinstance(path[-1], str)]


def test_the_walk_sees_every_level() -> None:
    assert {"schema", "devices[0].tenants[0].pid", "backends[0].name"} <= {spelled(path) for path in FIELDS}


@pytest.mark.parametrize("path", FIELDS, ids=spelled)
def test_a_missing_field_is_named(path: Path) -> None:
    value = document()
    del holder(value, path)[path[-1]]
    if path[-1] in OPTIONAL:
        devices.from_json(value)
        return
    with pytest.raises(UsageError) as caught:
        devices.from_json(value)
    assert f"no field '{spelled(path)}'" in caught.value.message


@pytest.mark.parametrize("wrong", [{}, -1, 1.5, None], ids=repr)
@pytest.mark.parametrize("path", list(paths(document())), ids=spelled)
def test_a_wrong_field_is_named(path: Path, wrong: object) -> None:
    value = document()
    holder(value, path)[path[-1]] = wrong
    with pytest.raises(UsageError) as caught:
        devices.from_json(value)
    assert spelled(path) in caught.value.message
    assert "aimind devices --json" in caught.value.hint


@pytest.mark.parametrize(
    "where", [(), ("devices", 0), ("devices", 0, "tenants", 0), ("backends", 0)], ids=str
)
def test_an_unknown_field_is_named(where: Path) -> None:
    value = document()
    holder(value, (*where, "colour"))["colour"] = "red"
    with pytest.raises(UsageError, match=r"unknown field '.*colour'"):
        devices.from_json(value)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("schema",), 2, "schema should be 1"),
        (("os",), "plan9", "os should be one of linux, macos, windows"),
        (("cores",), 0, "cores should be a whole number of at least 1"),
        (("cores",), True, "cores should be a whole number"),
        (("ram_total_bytes",), 2**63, "ram_total_bytes should be a whole number"),
        (("ram_free_bytes",), 1001, "ram_free_bytes should be at most ram_total_bytes"),
        (("devices", 0, "free_bytes"), 101, r"devices\[0\].free_bytes should be at most total_bytes"),
        (
            ("devices", 0, "total_bytes"),
            0,
            r"devices\[0\].total_bytes should be a whole number of at least 1",
        ),
    ],
)
def test_a_contradiction_is_named(path: Path, value: object, words: str) -> None:
    changed = document()
    holder(changed, path)[path[-1]] = value
    with pytest.raises(UsageError, match=words):
        devices.from_json(changed)


@pytest.mark.parametrize(
    ("arch", "amx", "expected"),
    [
        ("x86_64", None, cpu.LEVELS[cpu.USUAL_LEVEL]),
        ("x86_64", False, cpu.LEVELS[cpu.USUAL_LEVEL]),
        ("x86_64", True, cpu.LEVELS["amx"]),
        ("arm64", None, {"asimd"}),
    ],
)
def test_files_of_before_instruction_sets_were_recorded(
    arch: str, amx: bool | None, expected: frozenset[str]
) -> None:
    old = document() | {"arch": arch}
    del old["cpu_features"]
    if amx is not None:
        old["amx"] = amx
    assert devices.from_json(old).cpu_features == expected


def test_an_instruction_set_of_another_processor_is_refused() -> None:
    with pytest.raises(UsageError, match=r"cpu_features\[1\] should be one of .*i8mm"):
        devices.from_json(document() | {"cpu_features": ["asimd", "avx2"]})


def test_two_devices_of_one_index_are_refused() -> None:
    value = document()
    twice = value["devices"]
    assert isinstance(twice, list)
    twice.append(copy.deepcopy(twice[0]))
    with pytest.raises(UsageError, match="devices should be of different indices"):
        devices.from_json(value)


@pytest.mark.parametrize("value", [[], "24G", 24, None])
def test_something_else_is_no_host(value: object) -> None:
    with pytest.raises(UsageError, match="the document should be an object"):
        devices.from_json(value)
