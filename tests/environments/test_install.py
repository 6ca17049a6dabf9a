"""Real uv, real installations of tiny distributions, real processes that are killed."""

from __future__ import annotations

import dataclasses
import fcntl
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from aimind import environments
from aimind.environments import install
from aimind.errors import InstallError, UsageError
from aimind.types import Fix, Package

SIX = Package(distribution="six", version="1.17.0", import_name="six")
OLD_SIX = Package(distribution="six", version="1.16.0", import_name="six")

# Says each line of progress, and goes on when it is given a line.
INSTALLER = """
import sys
from aimind.environments import install
from aimind.types import Package
def progress(line):
    print(line, flush=True)
    sys.stdin.readline()
package = Package(distribution="six", version="1.17.0", import_name="six")
print("done", install.ensure("toy", package, progress=progress).executable, flush=True)
"""


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "data"
    monkeypatch.setenv("AIMIND_DATA_DIR", str(folder))
    return folder


@pytest.fixture
def installer() -> Iterator[subprocess.Popen[str]]:
    """Another process that has begun to install and stopped after uv's first word."""
    with subprocess.Popen(
        [sys.executable, "-c", INSTALLER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline() == "installing toy 1.17.0\n"
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline().startswith("toy 1.17.0: resolved 1 package")
        yield process
        process.kill()


def ignore(_line: str) -> None:
    """Progress that nobody reads."""


def output(python: str, code: str) -> str:
    return subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=True).stdout


# ── Packages ───────────────────────────────────────────────────────────────────────────────────────────────


def test_an_environment_is_made_once_and_found(data: Path) -> None:
    assert environments.find("toy", SIX) == ()
    said: list[str] = []
    made = install.ensure("toy", SIX, progress=said.append)
    assert made.executable == environments.executable("toy", SIX, "1.17.0")
    assert Path(made.executable).is_relative_to(data / "environments" / "toy" / "1.17.0")
    assert output(made.executable, "import six; print(six.__version__)") == "1.17.0\n"
    assert said[0] == "installing toy 1.17.0"
    assert any(line.startswith("toy 1.17.0: installed 1 package") for line in said)
    assert environments.find("toy", SIX) == (made,)
    said.clear()
    assert install.ensure("toy", SIX, progress=said.append) == made
    assert said == []


def test_it_has_the_python_that_runs_aimind_and_nothing_of_aimind() -> None:
    made = install.ensure("toy", SIX, progress=ignore)
    assert output(made.executable, "import sys; print(sys.version)") == sys.version + "\n"
    code = "import importlib.util; print(importlib.util.find_spec('aimind'))"
    assert output(made.executable, code) == "None\n"


def test_the_version_of_the_package_comes_first_then_the_newest() -> None:
    for version in ("1.9.0", "1.17.0", "1.16.0"):
        install.ensure("toy", SIX, version=version, progress=ignore)
    found = environments.find("toy", OLD_SIX)
    assert [installed.version for installed in found] == ["1.16.0", "1.17.0", "1.9.0"]


def test_a_short_version_is_the_same_version() -> None:
    package = Package(distribution="iniconfig", version="2.0", import_name="iniconfig")
    assert install.ensure("toy", package, progress=ignore).version == "2.0"


def test_a_variant_is_an_environment_of_its_own() -> None:
    cpu = Package(distribution="six", version="1.17.0", import_name="six", variant="cpu")
    made = install.ensure("toy", cpu, progress=ignore)
    assert environments.find("toy", SIX) == ()
    assert environments.find("toy", cpu) == (made,)
    assert made.version == "1.17.0"


def test_requirements_are_installed_and_overrides_replace() -> None:
    package = Package(
        distribution="markdown-it-py",
        version="3.0.0",
        import_name="markdown_it",
        requirements=("six==1.16.0",),
        fixes=(Fix(reason="toy", overrides=("mdurl ; sys_platform == 'never'",)),),
    )
    made = install.ensure("toy", package, progress=ignore)
    code = "import importlib.metadata as m; print(sorted((d.name, d.version) for d in m.distributions()))"
    assert output(made.executable, code) == "[('markdown-it-py', '3.0.0'), ('six', '1.16.0')]\n"


def test_what_is_removed_is_gone_here_and_nowhere_else() -> None:
    plain = Package(distribution="mdurl", version="0.1.2", import_name="mdurl")
    whole = Path(install.ensure("toy", plain, progress=ignore).executable)
    fix = Fix(reason="toy", removed=("mdurl/_e*.py", "nothing/*.so"))
    less = dataclasses.replace(plain, variant="less", fixes=(fix,))
    made = Path(install.ensure("toy", less, progress=ignore).executable)

    def files(python: Path) -> set[str]:
        return {path.name for path in python.parents[1].glob("lib/*/site-packages/mdurl/*.py")}

    assert files(whole) - files(made) == {"_encode.py"}


def test_a_slim_build_is_found_as_what_it_is() -> None:
    slim = dataclasses.replace(SIX, variant="slim", only="architecture")
    both = dataclasses.replace(SIX, slim=slim)
    install.ensure("toy", slim, progress=ignore)
    assert [found.only for found in environments.find("toy", both)] == ["architecture"]
    assert environments.find("toy", SIX) == ()
    install.ensure("toy", both, progress=ignore)
    assert [found.only for found in environments.find("toy", both)] == ["architecture", ""]


def test_size_counts_a_file_once(tmp_path: Path) -> None:
    from aimind.environments.folders import disk_used

    (tmp_path / "one").write_bytes(bytes(100_000))
    alone = disk_used(tmp_path)
    assert 100_000 <= alone <= 200_000
    (tmp_path / "two").hardlink_to(tmp_path / "one")
    assert disk_used(tmp_path) == alone


def test_an_environment_whose_interpreter_is_gone_is_made_again() -> None:
    made = install.ensure("toy", SIX, progress=ignore)
    python = Path(made.executable)
    python.unlink()
    python.symlink_to("/nonexistent/python3")
    assert environments.find("toy", SIX) == ()
    assert install.ensure("toy", SIX, progress=ignore) == made
    assert output(made.executable, "print(1)") == "1\n"


def test_a_marker_that_was_cut_does_not_count(data: Path) -> None:
    install.ensure("toy", SIX, progress=ignore)
    marker = data / "environments" / "toy" / "1.17.0" / "aimind.json"
    marker.write_bytes(marker.read_bytes()[:20])
    assert environments.find("toy", SIX) == ()


# ── Installations that end early, and two at once ──────────────────────────────────────────────────────────


def test_a_killed_installation_is_not_found_and_made_anew(
    installer: subprocess.Popen[str], data: Path
) -> None:
    installer.kill()
    installer.wait()
    folder = data / "environments" / "toy" / "1.17.0"
    assert (folder / "bin" / "python").exists(), "it was killed before there was anything"
    assert environments.find("toy", SIX) == ()
    (folder / "rubbish").touch()
    made = install.ensure("toy", SIX, progress=ignore)
    assert output(made.executable, "import six; print(six.__version__)") == "1.17.0\n"
    assert not (folder / "rubbish").exists()


def test_all_is_compiled_whatever_the_user_has_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    lines: list[str] = []
    python = install.ensure("toy", SIX, progress=lines.append).executable
    assert any(line.startswith("toy 1.17.0: bytecode compiled ") for line in lines)
    cached, own = output(python, "import six; print(six.__cached__, six.__file__)").split()
    assert Path(cached).stat().st_mtime >= Path(own).stat().st_mtime
    log = subprocess.run(
        [python, "-v", "-c", "import six"], capture_output=True, text=True, check=True
    ).stderr
    assert f"code object from '{cached}'" in log


def test_an_installation_that_is_killed_while_it_compiles_is_made_anew(
    installer: subprocess.Popen[str],
) -> None:
    assert installer.stdin
    assert installer.stdout
    line = ""
    while not line.startswith("toy 1.17.0: installed 1 package"):
        installer.stdin.write("\n")
        installer.stdin.flush()
        line = installer.stdout.readline()
    installer.kill()
    installer.wait()
    assert environments.find("toy", SIX) == ()
    python = install.ensure("toy", SIX, progress=ignore).executable
    assert output(python, "import six; print(six.__version__)") == "1.17.0\n"


def test_two_at_once_make_one(installer: subprocess.Popen[str]) -> None:
    said: list[str] = []

    def progress(line: str) -> None:
        said.append(line)
        assert installer.stdin
        installer.stdin.write("\n" * 9)
        installer.stdin.close()

    made = install.ensure("toy", SIX, progress=progress)
    assert installer.stdout
    assert installer.stdout.read().splitlines()[-1] == f"done {made.executable}"
    assert said == ["waiting for another process that is installing or removing toy 1.17.0"]


def test_an_interrupt_leaves_nothing(data: Path) -> None:
    def interrupt(line: str) -> None:
        if "resolved" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        install.ensure("toy", SIX, progress=interrupt)
    assert not (data / "environments" / "toy" / "1.17.0").exists()


# A source distribution that builds itself without a network, and waits at a gate where there is one.
PROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "aimind-toy"
version = "1.0"
"""
BACKEND = """
import os, zipfile
def build_wheel(folder, config_settings=None, metadata_directory=None):
    if os.path.exists(gate := os.environ["TOY_GATE"]):
        open(gate + ".reached", "w").close()
        open(gate).read()
    if "TOY_BROKEN" in os.environ:
        raise SystemExit("fatal error: toy.h: No such file or directory")
    info = "aimind_toy-1.0.dist-info"
    with zipfile.ZipFile(os.path.join(folder, "aimind_toy-1.0-py3-none-any.whl"), "w") as wheel:
        wheel.writestr("aimind_toy.py", "")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\\nName: aimind-toy\\nVersion: 1.0\\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(f"{info}/RECORD", "")
    return "aimind_toy-1.0-py3-none-any.whl"
"""
TOY = Package(distribution="aimind-toy", version="1.0", import_name="aimind_toy")


@pytest.fixture
def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels with the toy in it, no network, and the path where its gate may be."""
    source = tmp_path / "aimind_toy-1.0"
    source.mkdir()
    (source / "pyproject.toml").write_text(PROJECT)
    (source / "backend.py").write_text(BACKEND)
    (source / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: aimind-toy\nVersion: 1.0\n")
    links = tmp_path / "links"
    links.mkdir()
    with tarfile.open(links / "aimind_toy-1.0.tar.gz", "w:gz") as archive:
        archive.add(source, source.name)
    monkeypatch.setenv("UV_FIND_LINKS", str(links))
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("TOY_GATE", str(tmp_path / "gate"))
    return tmp_path / "gate"


def test_the_lock_is_held_as_long_as_uv_lives(gate: Path) -> None:
    """Whoever may still write into an environment holds its lock, even when its parent has been killed."""
    reached = gate.with_name("gate.reached")
    os.mkfifo(gate)
    os.mkfifo(reached)
    code = INSTALLER.replace("six", "aimind_toy").replace("1.17.0", "1.0")
    said: list[str] = []

    def progress(line: str) -> None:
        said.append(line)
        if line.startswith("waiting"):
            open_gate()

    def open_gate() -> None:
        if gate.exists():
            with gate.open("w"):
                gate.unlink()

    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    ) as process:
        reached.read_bytes()
        process.kill()
    try:
        made = install.ensure("toy", TOY, progress=progress)
    finally:
        open_gate()
    assert said[0].startswith("waiting for another process")
    assert said[1] == "installing toy 1.0"
    assert Path(made.executable).exists()


# ── Removal ────────────────────────────────────────────────────────────────────────────────────────────────


def test_one_version_or_all_are_removed(data: Path) -> None:
    for version in ("1.17.0", "1.16.0", "1.15.0"):
        install.ensure("toy", SIX, version=version, progress=ignore)
    assert install.remove("toy", "1.16.0") == ("toy 1.16.0",)
    assert [installed.version for installed in environments.find("toy", SIX)] == ["1.17.0", "1.15.0"]
    assert sorted(install.remove("toy")) == ["toy 1.15.0", "toy 1.17.0"]
    assert environments.find("toy", SIX) == ()
    assert [path for path in (data / "environments" / "toy").iterdir() if path.is_dir()] == []


def test_what_a_killed_installation_left_is_removed(installer: subprocess.Popen[str], data: Path) -> None:
    installer.kill()
    installer.wait()
    with (data / "environments" / "toy" / ".1.17.0.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # uv, its child, may be at work for a moment
    assert install.remove("toy", "1.17.0") == ("toy 1.17.0",)
    assert not (data / "environments" / "toy" / "1.17.0").exists()


def test_what_is_being_installed_is_not_removed(installer: subprocess.Popen[str]) -> None:
    with pytest.raises(InstallError, match=r"toy 1\.17\.0 is being installed or removed"):
        install.remove("toy")
    (found,) = environments.unusable("toy", SIX)
    assert found.problem == "it is being installed or removed"


def test_what_is_not_there_cannot_be_removed() -> None:
    with pytest.raises(InstallError, match=r"toy 1\.0 is not installed by aimind"):
        install.remove("toy", "1.0")


# ── What goes wrong ────────────────────────────────────────────────────────────────────────────────────────


def failure(package: Package, *, version: str | None = None) -> InstallError:
    with pytest.raises(InstallError) as caught:
        install.ensure("toy", package, version=version, progress=ignore)
    assert environments.find("toy", package) == ()
    assert "\n" not in caught.value.message
    return caught.value


def test_no_such_version(data: Path) -> None:
    error = failure(SIX, version="99.9")
    assert error.message.startswith("toy 99.9 could not be installed: ")
    assert "six==99.9" in error.message
    assert error.hint.startswith("name another version")
    assert not (data / "environments" / "toy" / "99.9").exists()
    assert "six==99.9" in Path(error.hint.rpartition(" ")[2]).read_text()


def test_no_build_for_this_platform() -> None:
    error = failure(Package(distribution="pywin32", version="308", import_name="win32api"))
    assert "no build of it runs on this platform" in error.hint


def test_no_network(gate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "offline (UV_OFFLINE)" in failure(SIX).hint
    monkeypatch.delenv("UV_OFFLINE")
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    error = failure(SIX)
    assert "127.0.0.1:9" in error.message or "Connection refused" in error.message
    assert "check the network" in error.hint


def test_wheels_of_this_machine_replace_the_index_of_torch(
    gate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = Package(distribution="aimind-toy", version="1.0", import_name="aimind_toy", torch="cpu")
    links = os.environ["UV_FIND_LINKS"]
    monkeypatch.delenv("UV_FIND_LINKS")
    monkeypatch.setenv("PIP_FIND_LINKS", f"{tmp_path} {links}")
    assert install.ensure("toy", package, progress=ignore).version == "1.0"


def test_a_build_that_fails(gate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_BROKEN", "1")
    error = failure(TOY)
    assert "toy.h: No such file" in error.message
    assert "compiled on this machine" in error.hint


def test_a_recipe_that_names_the_wrong_module() -> None:
    error = failure(Package(distribution="six", version="1.17.0", import_name="seven"))
    assert "seven cannot be found" in error.message


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("AIMIND_DATA_DIR", str(tmp_path / "file"))
    assert "AIMIND_DATA_DIR" in failure(SIX).hint


def test_a_version_cannot_name_another_folder() -> None:
    for version in ("../../x", "1.0/..", "1.0-cpu", ".hidden", "--index", "latest"):
        with pytest.raises(UsageError, match="is not a version"):
            environments.executable("toy", SIX, version)
