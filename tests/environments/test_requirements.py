"""What uv is asked for, by version."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from aimind.environments import requirements
from aimind.launchers import LAUNCHERS
from aimind.types import Fix, Package
from tests.samples import device, host

OLD = Fix(reason="old ones say less", versions="<1.5", overrides=("six==1.16.0",))
BUILT = Fix(reason="new ones are built so", versions=">=1.5,<2", build_constraints=("setuptools<70",))
ALWAYS = Fix(reason="always", removed=("toy/*.so",))
TOY = Package(
    distribution="toy", version="1.5", resolved="2026-01-01", import_name="toy", fixes=(OLD, BUILT, ALWAYS)
)


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("1.4", [OLD, ALWAYS]),
        ("1.5", [BUILT, ALWAYS]),
        ("1.9.post1", [BUILT, ALWAYS]),
        ("1.6rc1", [BUILT, ALWAYS]),
        ("2", [ALWAYS]),
        ("1.6+cpu", [BUILT, ALWAYS]),
    ],
)
def test_fixes_are_those_of_the_version(version: str, expected: list[Fix]) -> None:
    assert list(requirements.fixes(TOY, version)) == expected


def test_the_files_say_why(tmp_path: Path) -> None:
    old = requirements.arguments(TOY, "1.4", tmp_path)
    assert old == ["toy==1.4", "--overrides", str(tmp_path / "overrides.txt")]
    assert (tmp_path / "overrides.txt").read_text() == "# old ones say less\nsix==1.16.0\n"
    now = requirements.arguments(TOY, "1.5", tmp_path)
    assert now == ["toy==1.5", "--build-constraints", str(tmp_path / "build-constraints.txt")]


def test_a_build_of_an_index_of_its_own_is_asked_for_by_its_whole_version(tmp_path: Path) -> None:
    package = dataclasses.replace(TOY, index="https://toy.example/{version}/cpu", local="cpu", fixes=())
    found = requirements.arguments(package, "1.7", tmp_path)
    assert found == ["toy==1.7+cpu", "--index", "https://toy.example/1.7/cpu"]
    assert requirements.arguments(package, "1.7+mine", tmp_path)[0] == "toy==1.7+mine"


def test_only_the_default_version_has_its_day() -> None:
    assert requirements.as_of(TOY, "1.5") == ["--exclude-newer", "2026-01-01"]
    assert requirements.as_of(TOY, "1.6") == []
    package = dataclasses.replace(TOY, index="https://toy.example")
    assert requirements.as_of(package, "1.5")[2:] == ["--exclude-newer-package", "toy=false"]


def test_every_launcher_s_fixes_are_written_well() -> None:
    for machine in (host(), host(device()), host(device(vendor="amd"))):
        sources = [launcher.source(machine) for launcher in LAUNCHERS]
        packages = [each for source in sources if isinstance(source, Package) for each in source.builds]
        for package in packages:
            assert {fix.reason for fix in requirements.fixes(package, package.version)} == {
                fix.reason for fix in package.fixes
            }, "a fix that is not for the default version is for none"
