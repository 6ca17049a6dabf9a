"""A file that a downloaded folder brings runs no program until the user has allowed that file."""

from __future__ import annotations

import json

import pytest

from aimind.cli.app import load
from aimind.configuration.allowed import HARMLESS
from aimind.configuration.keys import keys
from tests.configuration.conftest import Configured, write
from tests.supervisor.harness import LINUX

pytestmark = LINUX


def test_keys_that_reach_beyond_the_plan_need_trust() -> None:
    """Paths, addresses, secrets, code, and what silences warnings."""
    known = keys(load("serve").params)
    assert HARMLESS <= known.keys()
    reaching = {
        "api_key_file",
        "backend_version",
        "hf_token_file",
        "host",
        "hub",
        "mmproj",
        "quiet",
        "trust_remote_code",
    }
    assert not reaching & HARMLESS


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ('[env]\nPYTHONPATH = "."', "2: env.PYTHONPATH"),
        ('host = "0.0.0.0"', "1: host"),
        ('hub = "modelscope"', "1: hub"),
        ('mmproj = "none"', "1: mmproj"),
        ("trust_remote_code = true", "1: trust_remote_code"),
        ("[models.demo]\ntrust_remote_code = true", '2: models."demo".trust_remote_code'),
        ('[backends.vllm]\nversion = "0.9"', "2: backends.vllm.version"),
        ('[backends.vllm]\nargs = ["--lora"]', "2: backends.vllm.args"),
        ('[backends.vllm.env]\nA = "b"', "2: backends.vllm.env.A"),
        ('port = 1\n\nhost = "::"\n[env]\nA = "b"', "3: host, env.A"),
    ],
)
def test_a_setting_that_needs_trust_is_an_error(at: Configured, text: str, settings: str) -> None:
    """Leaving it out would change what the rest of the file means."""
    write(at.here, text)
    shown = at.refused("plan", "demo")
    assert f"error: ./aimind.toml:{settings} cannot be set by a file that is not trusted" in shown
    assert "`aimind config trust`" in shown
    at.home.good("plan", "demo", "--no-config")


def test_harmless_settings_need_no_trust(at: Configured) -> None:
    write(at.here, "context = 4096\ntrust_remote_code = false\nquiet = false\n[models.demo]\nparallel = 2")
    assert at.plan()["max_model_len"] == 4096
    write(at.own, "trust_remote_code = true")
    assert at.shown()["options"]["trust_remote_code"]["value"] is False


def test_a_file_is_trusted_until_it_changes(at: Configured) -> None:
    """It is bound to its place, too: a copy elsewhere is another file."""
    text = 'context = 4096\n[env]\nPYTHONPATH = "."\n'
    write(at.here, text)
    assert at.shown()["files"][-1]["needs_trust"] == ["env.PYTHONPATH"]
    assert at.shown()["env"] == {}
    assert "not trusted" in at.home.good("config")
    assert "env.PYTHONPATH = ." in at.home.good("config", "trust")
    trusted = at.home.state / "trusted.json"
    assert trusted.stat().st_mode & 0o777 == 0o600
    assert at.plan()["command"]["env"]["PYTHONPATH"] == "."
    assert at.shown()["trusted_files"] == [str(at.here)]

    elsewhere = at.home.folder / "elsewhere"
    elsewhere.mkdir()
    write(elsewhere / "aimind.toml", text)
    assert at.home.run("plan", "demo", cwd=elsewhere).returncode == 2
    at.home.good("config", "trust", "elsewhere")
    assert at.home.run("plan", "demo", cwd=elsewhere).returncode == 0

    write(at.here, f"{text}SHELL = 1\n")
    assert "env.PYTHONPATH, env.SHELL cannot be set" in at.refused("plan", "demo")
    write(at.here, text)
    at.plan()
    at.home.good("config", "untrust")
    at.refused("plan", "demo")
    assert "is not among the trusted files" in at.refused("config", "untrust")


def test_a_file_that_the_user_names_needs_no_trust(at: Configured) -> None:
    write(at.home.folder / "mine.toml", "[env]\nA = 1")
    at.home.env["AIMIND_CONFIG"] = "mine.toml"
    assert at.plan()["command"]["env"]["A"] == "1"
    write(at.here, "[env]\nA = 2")
    at.home.env["AIMIND_CONFIG"] = "aimind.toml"
    assert at.plan()["command"]["env"]["A"] == "2"


def test_commands_that_use_no_such_setting_go_on(at: Configured) -> None:
    write(at.here, "[env]\nA = 1")
    at.home.good("models")
    write(at.here, 'hub = "modelscope"')
    at.refused("models")


@pytest.mark.parametrize("text", ["[", "[]", '{"a": 1}'])
def test_a_list_of_trusted_files_that_is_damaged(at: Configured, text: str) -> None:
    at.trust("[env]\nA = 1")
    (at.home.state / "trusted.json").write_text(text)
    assert "cannot be read as the list of trusted files" in at.refused("plan", "demo")
    (at.home.state / "trusted.json").write_text(json.dumps({}))
    assert "needs" not in at.refused("plan", "demo")


def test_a_file_that_cannot_be_read_is_not_trusted(at: Configured) -> None:
    assert "No such file" in at.refused("config", "trust")
    write(at.here, "nonsense = 1")
    assert "there is no key 'nonsense'" in at.refused("config", "trust")
    write(at.here, "[env]\nA = 1")
    at.here.chmod(0o666)
    assert "every user can write" in at.refused("config", "trust")
