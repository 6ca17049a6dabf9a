"""Versions side by side, their Pythons, the day of their requirements, and no network."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from aimind import environments
from aimind.environments import install
from aimind.environments.folders import Environment
from aimind.environments.update import update
from aimind.errors import InstallError
from aimind.types import Backend, Package
from tests.environments.wheels import index, wheel

SIX = Package(distribution="six", version="1.17.0", import_name="six")
TOY = Package(distribution="aimind-toy", version="2.0", import_name="aimind_toy")


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AIMIND_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.delenv("AIMIND_DISTRIBUTIONS", raising=False)
    return tmp_path / "data"


@pytest.fixture
def links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels, and no network."""
    folder = tmp_path / "links"
    for version in ("1.0", "2.0", "3.0"):
        wheel(folder, "aimind-toy", version)
    wheel(folder, "aimind-toy-third", "2.0")
    monkeypatch.setenv("UV_FIND_LINKS", str(folder))
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    return folder


def ignore(_line: str) -> None:
    """Progress that nobody reads."""


def distributions(backend: Backend) -> dict[str, str]:
    code = "import importlib.metadata as m; print(*(f'{d.name}={d.version}' for d in m.distributions()))"
    done = subprocess.run([backend.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    return dict(word.split("=") for word in done.stdout.split())


def failure(package: Package, *, version: str | None = None, python: str | None = None) -> InstallError:
    with pytest.raises(InstallError) as caught:
        install.ensure("toy", package, version=version, python=python, progress=ignore)
    return caught.value


# ── Python ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_environment_tells_its_python(links: Path) -> None:
    (major, minor, micro, *_) = sys.version_info
    assert install.ensure("toy", TOY, progress=ignore).python == f"{major}.{minor}.{micro}"


def test_a_python_is_taken_by_its_path_and_remembered(links: Path, tmp_path: Path, data: Path) -> None:
    python = tmp_path / "python"
    python.symlink_to(Path(sys.executable).resolve())
    made = install.ensure("toy", TOY, python=str(python), progress=ignore)
    environment = Environment("toy", data / "environments" / "toy" / "2.0")
    assert environment.asked_python() == str(python)
    assert install.ensure("toy", TOY, python=str(python), progress=ignore) == made
    # What is made anew has it again: here since its interpreter is gone.
    Path(made.executable).unlink()
    Path(made.executable).symlink_to("/nonexistent/python3")
    install.ensure("toy", TOY, progress=ignore)
    assert environment.asked_python() == str(python)


def test_a_version_of_python_is_enough_and_its_beginning(links: Path) -> None:
    major, minor = sys.version_info[:2]
    made = install.ensure("toy", TOY, python=f"{major}.{minor}", progress=ignore)
    assert made.python.startswith(f"{major}.{minor}.")
    assert install.ensure("toy", TOY, python=f"{major}", progress=ignore) == made


def test_another_python_than_that_which_is_there(links: Path) -> None:
    made = install.ensure("toy", TOY, progress=ignore)
    error = failure(TOY, python="3.99")
    assert error.message == f"toy 2.0 is installed with Python {made.python}"
    assert "aimind backends remove toy==2.0" in error.hint


def test_a_python_that_is_not_here_is_one_error(links: Path, data: Path) -> None:
    error = failure(TOY, python="3.99")
    assert "3.99" in error.message
    assert "uv python install" in error.hint
    assert environments.find("toy", TOY) == ()
    assert [each for each in (data / "environments" / "toy").iterdir() if each.is_dir()] == []


def test_a_package_may_want_its_own_python(links: Path) -> None:
    """As builds for ROCm do; what the user says comes first."""
    only = dataclasses.replace(TOY, python="3.99")
    assert "3.99" in failure(only).message
    assert install.ensure("toy", only, python=sys.executable, progress=ignore).version == "2.0"


# ── Side by side ───────────────────────────────────────────────────────────────────────────────────────────


def test_update_makes_the_version_of_this_aimind_and_removes_nothing(links: Path) -> None:
    for version in ("1.0", "3.0"):
        install.ensure("toy", TOY, version=version, python=sys.executable, progress=ignore)
    said: list[str] = []
    (made,) = update("toy", TOY, progress=said.append)
    assert made.version == "2.0"
    assert said[0] == "installing toy 2.0"
    assert [each.version for each in environments.find("toy", TOY)] == ["2.0", "3.0", "1.0"]
    said.clear()
    assert update("toy", TOY, progress=said.append) == (made,)
    assert said == []


def test_update_keeps_the_python_and_the_build_and_whose_it_is(links: Path, data: Path) -> None:
    slim = dataclasses.replace(TOY, variant="slim", only="kind")
    third = dataclasses.replace(TOY, distribution="aimind-toy-third", import_name="aimind_toy_third")
    wheel(links, "aimind-toy-third", "1.0")
    whole = dataclasses.replace(TOY, slim=slim, instead=(third,))
    install.ensure("toy", third, version="1.0", python=sys.executable, progress=ignore)
    (made,) = update("toy", whole, progress=ignore)
    environment = Environment("toy", data / "environments" / "toy" / "2.0")
    assert environment.asked_python() == sys.executable
    assert "aimind-toy-third" in distributions(made)
    assert not (data / "environments" / "toy" / "2.0-slim").exists()


def test_nothing_that_is_installed_is_nothing_to_update(data: Path) -> None:
    assert update("toy", TOY, progress=ignore) == ()
    assert not data.exists()


def test_what_is_used_is_not_removed_and_nothing_else_with_it(links: Path) -> None:
    for version in ("1.0", "2.0"):
        install.ensure("toy", TOY, version=version, progress=ignore)

    def users(version: str) -> tuple[str, ...]:
        return ("chat", "speech") if version == "1.0" else ()

    with pytest.raises(InstallError, match=r"toy 1\.0 is in use by chat, speech") as caught:
        install.remove("toy", users=users)
    assert "aimind stop chat speech" in caught.value.hint
    assert len(environments.find("toy", TOY)) == 2
    assert install.remove("toy", "2.0", users=users) == ("toy 2.0",)


def test_what_is_no_use_here_is_told_with_why(links: Path, data: Path) -> None:
    install.ensure("toy", dataclasses.replace(TOY, variant="cu129"), progress=ignore)
    install.ensure("toy", TOY, progress=ignore)
    (data / "environments" / "toy" / "1.0" / "bin").mkdir(parents=True)
    found = environments.unusable("toy", TOY)
    assert [(each.version, (each.problem or "").split(":")[0]) for each in found] == [
        ("2.0", "its build, cu129, is not the one for this machine"),
        ("1.0", "its installation did not finish"),
    ]


# ── Whose build ────────────────────────────────────────────────────────────────────────────────────────────

OURS = dataclasses.replace(TOY, origin="the project's own")
THIRD = dataclasses.replace(
    TOY, distribution="aimind-toy-third", import_name="aimind_toy_third", origin="a third party's"
)
BOTH = dataclasses.replace(OURS, instead=(THIRD,))


def test_the_usual_distribution_unless_another_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert environments.chosen(BOTH) == BOTH
    monkeypatch.setenv("AIMIND_DISTRIBUTIONS", "other, aimind-toy-third")
    found = environments.chosen(BOTH)
    assert isinstance(found, Package)
    assert found.distribution == "aimind-toy-third"
    assert environments.chosen(SIX) == SIX


def test_what_is_installed_is_found_whosever_it_is(links: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install.ensure("toy", THIRD, progress=ignore)
    assert [each.origin for each in environments.find("toy", BOTH)] == ["a third party's"]
    install.ensure("toy", BOTH, progress=ignore)  # it is there
    monkeypatch.setenv("AIMIND_DISTRIBUTIONS", "aimind-toy-third")
    assert [each.origin for each in environments.find("toy", environments.chosen(BOTH))] == [
        "a third party's"
    ]


def test_what_cannot_be_had_names_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    error = failure(dataclasses.replace(BOTH, index="http://127.0.0.1:9/"))
    assert "check the network" in error.hint
    assert (
        "`aimind backends install toy --distribution aimind-toy-third` installs a third party's" in error.hint
    )


def test_one_that_is_asked_for_by_name_is_not_another(links: Path) -> None:
    install.ensure("toy", THIRD, progress=ignore)
    assert "from aimind-toy-third, not from aimind-toy" in failure(OURS).message


# ── The same next year ─────────────────────────────────────────────────────────────────────────────────────


def test_requirements_are_those_of_the_day(links: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wheel has no date; what it requires comes from the registry, which has (six 1.16.0: May 2021)."""
    monkeypatch.delenv("UV_OFFLINE")
    wheel(links, "aimind-toy", "4.0", "six")
    dated = dataclasses.replace(TOY, version="4.0", resolved="2022-01-01")
    assert distributions(install.ensure("dated", dated, progress=ignore))["six"] == "1.16.0"
    undated = dataclasses.replace(dated, resolved="")
    assert distributions(install.ensure("undated", undated, progress=ignore))["six"] != "1.16.0"


def test_a_package_of_an_index_of_its_own_has_no_date(tmp_path: Path) -> None:
    wheel(tmp_path / "index" / "aimind-toy", "aimind-toy", "2.0+cpu", "six")
    with index(tmp_path / "index") as url:
        package = dataclasses.replace(TOY, index=url, local="cpu", resolved="2022-01-01")
        made = install.ensure("toy", package, progress=ignore)
    assert distributions(made) == {"aimind-toy": "2.0+cpu", "six": "1.16.0"}
    assert made.version == "2.0"


def test_an_index_without_dates_gives_the_newest_and_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, requires in (("aimind-toy", ("aimind-part",)), ("aimind-part", ())):
        wheel(tmp_path / "index" / name, name, "2.0", *requires)
    said: list[str] = []
    with index(tmp_path / "index") as url:
        monkeypatch.setenv("UV_DEFAULT_INDEX", url)
        made = install.ensure("toy", dataclasses.replace(TOY, resolved="2022-01-01"), progress=said.append)
    assert distributions(made) == {"aimind-toy": "2.0", "aimind-part": "2.0"}
    assert any("does not report upload dates" in line for line in said)


# ── Without a network ──────────────────────────────────────────────────────────────────────────────────────


def test_what_is_missing_is_named_and_how_it_comes(links: Path) -> None:
    wheel(links, "aimind-toy", "5.0", "six")
    error = failure(TOY, version="5.0")
    assert "six" in error.message
    assert "UV_OFFLINE=1 UV_CACHE_DIR=FOLDER aimind backends install toy==5.0" in error.hint
    assert "UV_FIND_LINKS" in error.hint


def test_uv_s_cache_brings_it_as_the_hint_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dated = dataclasses.replace(SIX, resolved="2026-01-01")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UV_CACHE_DIR", "folder")
    install.ensure("toy", dated, progress=ignore)
    shutil.move(tmp_path / "folder", tmp_path / "brought")
    monkeypatch.setenv("AIMIND_DATA_DIR", str(tmp_path / "other"))
    monkeypatch.setenv("UV_OFFLINE", "1")
    failure(dated)
    monkeypatch.setenv("UV_CACHE_DIR", "brought")
    assert distributions(install.ensure("toy", dated, progress=ignore)) == {"six": "1.17.0"}


def test_wheels_in_a_folder_bring_it_wherever_they_are_named(
    links: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UV_FIND_LINKS", "links")
    assert distributions(install.ensure("toy", TOY, progress=ignore)) == {"aimind-toy": "2.0"}


def test_an_environment_can_be_copied(
    links: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install.ensure("toy", TOY, progress=ignore)
    shutil.copytree(data / "environments", tmp_path / "other" / "environments", symlinks=True)
    shutil.rmtree(data)
    monkeypatch.setenv("AIMIND_DATA_DIR", str(tmp_path / "other"))
    (found,) = environments.find("toy", TOY)
    assert Path(found.executable).is_relative_to(tmp_path / "other")
    assert distributions(found) == {"aimind-toy": "2.0"}
