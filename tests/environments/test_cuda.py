"""Which libraries of CUDA an environment lacks, and that it is said before anything is started."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from aimind.environments import cuda
from aimind.errors import UnsupportedError
from aimind.launchers import LAUNCHERS, vox_box
from aimind.select import choose
from aimind.types import Request
from tests.samples import device, host, speech

LIBRARIES = ("libcublas.so.12", "libcudnn.so.9")
PACKAGE = vox_box.source(host(device()))


def site(environment: Path, part: str) -> Path:
    folder = environment / "lib" / "python3.11" / "site-packages" / "nvidia" / part / "lib"
    folder.mkdir(parents=True)
    return folder


def test_what_pytorch_brings_is_there(tmp_path: Path) -> None:
    assert cuda.missing(PACKAGE, tmp_path) == LIBRARIES
    (site(tmp_path, "cublas") / LIBRARIES[0]).touch()
    assert cuda.missing(PACKAGE, tmp_path) == LIBRARIES[1:]
    (site(tmp_path, "cudnn") / LIBRARIES[1]).touch()
    assert cuda.missing(PACKAGE, tmp_path) == ()


def test_what_the_system_has_does_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in LIBRARIES:
        (tmp_path / name).touch()
    monkeypatch.setenv("LD_LIBRARY_PATH", f"/nowhere:{tmp_path}")
    assert cuda.missing(PACKAGE, tmp_path / "environment") == ()


def test_a_build_for_the_cpu_lacks_nothing(tmp_path: Path) -> None:
    assert cuda.missing(vox_box.source(host()), tmp_path) == ()


def test_it_is_named_before_the_start() -> None:
    machine = host(device())
    backends = [
        dataclasses.replace(each, missing=LIBRARIES) if each.name == "vox-box" else each
        for each in machine.backends
    ]
    machine = dataclasses.replace(machine, backends=tuple(backends))
    with pytest.raises(UnsupportedError) as caught:
        choose(speech(), machine, Request(), LAUNCHERS)
    assert "libcublas.so.12 and libcudnn.so.9 cannot be loaded" in caught.value.hint
    assert choose(speech(), machine, Request(devices=()), LAUNCHERS).backend.name == "vox-box"
