"""Environments that uv really made, damaged as disks, people and programs damage them."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from aimind import environments
from aimind.environments import install
from aimind.errors import InstallError
from aimind.types import Backend, Fix, Package
from tests.environments.wheels import wheel

TOY = Package(
    distribution="aimind-toy",
    version="1.0",
    import_name="toy",
    requirements=("aimind-part",),
    fixes=(Fix(reason="a test", removed=("toy/unwanted/*.so",)),),
)
MODULE = b"from toy import engine\n"
ENGINE = b"x = 1\n" * 2000
LIBRARY = b"\x7fELF" + bytes(range(256)) * 40


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with the toy in it, and beside it the wheels that it came from."""
    folder = tmp_path_factory.mktemp("template")
    files = {
        "toy/__init__.py": MODULE,
        "toy/engine.py": ENGINE,
        "toy/core.abi3.so": LIBRARY,
        "toy/unwanted/other.so": LIBRARY,
    }
    wheel(folder / "links", "aimind-toy", "1.0", files=files)
    wheel(folder / "links", "aimind-part", "1.0")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIMIND_DATA_DIR", str(folder / "data"))
        patch.setenv("UV_FIND_LINKS", str(folder / "links"))
        patch.setenv("UV_CACHE_DIR", str(folder / "cache"))
        patch.setenv("UV_OFFLINE", "1")
        install.ensure("toy", TOY, progress=ignore)
    return folder


@pytest.fixture
def toy(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an environment of this test alone, which was moved here together with the data folder."""
    shutil.copytree(template / "data", tmp_path / "data", symlinks=True)
    monkeypatch.setenv("AIMIND_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("UV_FIND_LINKS", str(template / "links"))
    monkeypatch.setenv("UV_CACHE_DIR", str(template / "cache"))
    monkeypatch.setenv("UV_OFFLINE", "1")
    return tmp_path / "data" / "environments" / "toy" / "1.0"


def ignore(_line: str) -> None:
    """Progress that nobody reads."""


def found() -> Backend:
    (backend,) = environments.find("toy", TOY)
    return backend


def packages(toy: Path) -> Path:
    (folder,) = toy.glob("lib/python3*/site-packages")
    return folder


def rewrite(file: Path, content: bytes) -> None:
    """Replace it: uv's cache has the same file."""
    file.unlink()
    file.write_bytes(content)


def test_nothing_is_wrong_with_what_was_just_installed_or_moved(toy: Path) -> None:
    assert not (packages(toy) / "toy" / "unwanted" / "other.so").exists()
    assert environments.find_damage(found(), TOY) is None
    said: list[str] = []
    install.renew_damaged("toy", TOY, progress=said.append)
    assert said == []


def delete_module(toy: Path) -> None:
    (packages(toy) / "toy" / "engine.py").unlink()


def cut_library(toy: Path) -> None:
    rewrite(packages(toy) / "toy" / "core.abi3.so", LIBRARY[:4096])


def empty_module(toy: Path) -> None:
    rewrite(packages(toy) / "toy" / "engine.py", b"")


def cut_module(toy: Path) -> None:
    rewrite(packages(toy) / "toy" / "engine.py", ENGINE[:4096])


def half_write(toy: Path) -> None:
    shutil.rmtree(packages(toy) / "toy")


def remove_dependency(toy: Path) -> None:
    (packages(toy) / "aimind_part.py").unlink()
    shutil.rmtree(packages(toy) / "aimind_part-1.0.dist-info")


def replace_by_folder(toy: Path) -> None:
    (packages(toy) / "toy" / "engine.py").unlink()
    (packages(toy) / "toy" / "engine.py").mkdir()


def remove_configuration(toy: Path) -> None:
    (toy / "pyvenv.cfg").unlink()


def upgrade_python(toy: Path) -> None:
    """As a distribution does: its `python3` is another version from one day to the next."""
    (toy.parent / "python3.99").write_text("#!/bin/sh\n")
    (toy.parent / "python3.99").chmod(0o755)
    (toy / "bin" / "python").unlink()
    (toy / "bin" / "python").symlink_to(toy.parent / "python3.99")


def remove_packages(toy: Path) -> None:
    shutil.rmtree(toy / "lib")


DAMAGES: dict[Callable[[Path], None], tuple[str, bool]] = {
    delete_module: ("toy/engine.py is missing", True),
    cut_library: ("toy/core.abi3.so has 4096 bytes instead of 10244", True),
    empty_module: ("toy/engine.py has 0 bytes instead of 12000", True),
    cut_module: ("toy/engine.py has 4096 bytes instead of 12000", False),
    half_write: (" is missing (2 more files changed or missing)", True),
    remove_dependency: ("aimind_part is missing", True),
    replace_by_folder: ("toy/engine.py is not a file", True),
    remove_configuration: ("pyvenv.cfg is missing", True),
    upgrade_python: ("bin/python is Python 3.99, but the packages are for ", True),
    remove_packages: ("site-packages is missing", True),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_noticed(toy: Path, damage: Callable[[Path], None]) -> None:
    damage(toy)
    sentence, fatal = DAMAGES[damage]
    difference = environments.find_damage(found(), TOY)
    assert difference is not None
    assert sentence in difference.sentence
    assert difference.fatal is fatal


@pytest.mark.parametrize("damage", [half_write, upgrade_python, remove_packages])
def test_what_is_damaged_is_made_anew(toy: Path, damage: Callable[[Path], None]) -> None:
    damage(toy)
    said: list[str] = []
    install.renew_damaged("toy", TOY, progress=said.append)
    assert said[0].startswith("toy 1.0 is damaged: ")
    assert environments.find_damage(found(), TOY) is None
    assert [path.name for path in toy.parent.iterdir() if path.name.endswith(".old")] == []


def test_other_contents_of_the_same_size_are_noticed_by_a_whole_look(toy: Path) -> None:
    rewrite(packages(toy) / "toy" / "core.abi3.so", bytes(4096) + LIBRARY[4096:])
    assert environments.find_damage(found(), TOY) is None
    said: list[str] = []
    install.renew_damaged("toy", TOY, progress=said.append)
    assert "toy/core.abi3.so was changed after" in said[0]
    assert (packages(toy) / "toy" / "core.abi3.so").read_bytes() == LIBRARY


def test_files_that_may_not_be_read_are_damage(toy: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read every file")
    (packages(toy) / "toy" / "engine.py").chmod(0)
    difference = environments.find_damage(found(), TOY)
    assert difference is not None
    assert difference.sentence == "toy/engine.py is not readable"


def test_what_cannot_be_made_anew_stays(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_module(toy)
    monkeypatch.setenv("UV_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    with pytest.raises(InstallError):
        install.renew_damaged("toy", TOY, progress=ignore)
    assert (packages(toy) / "toy" / "engine.py").read_bytes() == ENGINE[:4096]
    assert found().version == "1.0"


def test_what_is_used_is_not_made_anew(toy: Path) -> None:
    delete_module(toy)
    with pytest.raises(InstallError, match=r"toy 1\.0 is damaged, and in use by chat") as caught:
        install.renew_damaged("toy", TOY, users=lambda _: ("chat",), progress=ignore)
    assert caught.value.hint == "run `aimind stop chat`"
    assert environments.find_damage(found(), TOY) is not None


def test_a_python_that_is_gone_or_may_not_run(toy: Path) -> None:
    python = toy / "bin" / "python"
    python.unlink()
    python.symlink_to("/nonexistent/python3")
    (gone,) = environments.unusable("toy", TOY)
    assert gone.problem is not None
    assert gone.problem.startswith("its Python, /nonexistent/python3, is missing: `aimind backends install ")
    python.unlink()
    python.write_text("")
    (gone,) = environments.unusable("toy", TOY)
    assert gone.problem is not None
    assert "is not executable" in gone.problem
    install.ensure("toy", TOY, progress=ignore)
    assert environments.find_damage(found(), TOY) is None


def test_a_python_that_was_asked_for_by_its_path_and_is_gone_is_replaced(toy: Path) -> None:
    marker = toy / "aimind.json"
    marker.write_text(marker.read_text().replace("{", '{"asked_python": "/nonexistent/bin/python",', 1))
    (toy / "bin" / "python").unlink()
    install.ensure("toy", TOY, progress=ignore)
    assert environments.find_damage(found(), TOY) is None


def test_a_file_of_two_wheels_is_right_as_in_either(toy: Path) -> None:
    record = next(packages(toy).glob("aimind_part-*/RECORD"))
    record.write_text(record.read_text() + "toy/engine.py,sha256=x,5\n")
    assert environments.find_damage(found(), TOY) is None


def test_pipes_and_folders_in_place_of_aimind_s_own_files(toy: Path) -> None:
    """None of these is waited for, and each is an environment that was not finished."""
    marker = toy / "aimind.json"
    marker.unlink()
    os.mkfifo(marker)
    assert environments.find("toy", TOY) == ()
    (unfinished,) = environments.unusable("toy", TOY)
    assert (unfinished.problem or "").startswith("its installation did not finish")
    lock = toy.parent / ".1.0.lock"
    lock.unlink()
    os.mkfifo(lock)
    install.ensure("toy", TOY, progress=ignore)
    assert environments.find_damage(found(), TOY) is None


def test_a_smaller_build_that_is_damaged_is_made_anew(toy: Path) -> None:
    slim = dataclasses.replace(TOY, variant="slim", only="kind")
    both = dataclasses.replace(TOY, slim=slim)
    install.ensure("toy", slim, progress=ignore)
    delete_module(toy.with_name("1.0-slim"))
    install.renew_damaged("toy", both, progress=ignore)
    for backend in environments.find("toy", both):
        assert environments.find_damage(backend, both) is None
