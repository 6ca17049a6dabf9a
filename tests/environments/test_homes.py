"""Backends in folders of their own, one version beside the other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aimind import environments
from aimind.launchers import mindie
from aimind.types import Backend
from tests.fakes import mindie as fake
from tests.samples import host

VARIABLE = "MIES_INSTALL_PATH"


def find() -> tuple[Backend, ...]:
    return environments.find("mindie", mindie.source(host()))


def test_the_one_that_is_named_comes_first_and_then_the_newest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    latest = fake.install(tmp_path, "1.0.0", "2.0.RC2", "2.1.RC1", latest="2.0.RC2")
    monkeypatch.setenv(VARIABLE, str(latest))
    found = find()
    assert [backend.version for backend in found] == ["2.0.RC2", "2.1.RC1", "1.0.0"]
    assert found[0].executable == str(latest / "bin/mindieservice_daemon")
    assert json.loads(found[0].configuration or "") == fake.TEMPLATE
    assert [Path(script).relative_to(tmp_path).parts[0] for script in found[1].scripts] == [
        "ascend-toolkit",
        "nnal",
        "mindie",
    ]
    assert found[1].scripts[-1] == str(tmp_path / "mindie/2.1.RC1/mindie-service/set_env.sh")


def test_nothing_is_found_where_nothing_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "a/b/c"))
    assert find() == ()


@pytest.mark.parametrize(
    ("text", "words"), [(None, "cannot be read"), ("{", "cannot be read"), ("[]", "JSON object")]
)
def test_an_installation_that_is_not_whole_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, words: str
) -> None:
    home = fake.install(tmp_path, "2.0.RC2")
    monkeypatch.setenv(VARIABLE, str(home))
    (home / "conf/config.json").unlink()
    if text is not None:
        (home / "conf/config.json").write_text(text)
    (found,) = find()
    assert words in (found.problem or "")
