"""The keys are the options; what is written of them is true; and nobody pays for what he does not use."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import aimind
from aimind.cli.app import load
from aimind.configuration.allowed import HARMLESS
from aimind.configuration.keys import NO_KEYS, OTHERS, key, keys, variable
from tests.configuration.conftest import Configured, write
from tests.supervisor.harness import LINUX

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"
KEYS = keys(load("serve").params)


def table() -> Iterator[str]:
    yield "| key | variable | needs trust | is |"
    yield "|---|---|---|---|"
    for name, option in sorted(KEYS.items()):
        trust = "" if name in HARMLESS else "yes"
        yield f"| `{name}` | `{variable(name)}` | {trust} | {option.help} |"


def test_the_page_has_all_keys() -> None:
    """AIMIND_WRITE_DOCS=1 writes them."""
    text = PAGE.read_text("utf-8")
    before, after = text.split("<!-- keys -->\n")[0], text.split("<!-- end -->\n")[1]
    true = "".join(f"{line}\n" for line in table())
    true = f"{before}<!-- keys -->\n{true}<!-- end -->\n{after}"
    if os.environ.get("AIMIND_WRITE_DOCS"):
        PAGE.write_text(true, "utf-8")
    assert PAGE.read_text("utf-8") == true


def test_what_can_be_planned_can_be_configured() -> None:
    """Each option is a key, or is listed as none; and `serve` has all keys of the others."""
    assert {key(each) for each in load("serve").params} - {"model"} == KEYS.keys() | NO_KEYS
    only_there = {"hardware", "files", "why", "exact", "user", "hardened", "run_as", "install"}
    for command in ("plan", "unit"):
        assert keys(load(command).params).keys() <= KEYS.keys() | only_there


def test_every_variable_of_ours_is_known() -> None:
    """What aimind reads by itself must not be taken for a mistake."""
    package = Path(str(aimind.__file__)).parent
    found = {
        name
        for path in package.rglob("*.py")
        for name in re.findall(r"(?<!_)\bAIMIND_[A-Z_]*[A-Z]\b", path.read_text("utf-8"))
    }
    assert found <= {*OTHERS, *map(variable, KEYS)}


@LINUX
def test_without_a_file_nobody_waits_for_pydantic(at: Configured) -> None:
    at.home.env["PYTHONPROFILEIMPORTTIME"] = "1"
    words = ("plan", "demo", "--backend", "llama-server", "--json")
    assert "pydantic" not in at.home.run(*words).stderr
    assert "tomllib" not in at.home.run(*words).stderr
    write(at.here, "context = 4096")
    assert "pydantic" in at.home.run(*words).stderr


@LINUX
def test_everything_in_force_is_shown_with_its_place(at: Configured) -> None:
    write(at.own, 'context = 4096\nport = 9000\n[backends.vllm]\nversion = "0.32.0"\nargs = ["-a", 1]\n')
    at.trust('context = 2048\n[env]\nA = 1\n[models.demo]\nparallel = 2\n[backends.vllm.env]\nB = "x y"')
    at.home.env["AIMIND_RESTART"] = "never"
    found = at.shown()
    assert found["options"] == {
        "color": {"value": "auto", "from": "default"},
        "context": {"value": "2048", "from": "./aimind.toml:1"},
        "port": {"value": 9000, "from": f"{at.own}:2"},
        "probe_interval": {"value": 10.0, "from": "default"},
        "ready_probe": {"value": "request", "from": "default"},
        "restart": {"value": "never", "from": "AIMIND_RESTART"},
        "stall_timeout": {"value": 300.0, "from": "default"},
    }
    assert found["env"] == {"A": {"value": "1", "from": "./aimind.toml:3"}}
    assert found["models"] == {"demo": {"parallel": {"value": 2, "from": "./aimind.toml:5"}}}
    assert found["backends"] == {
        "vllm": {
            "version": {"value": "0.32.0", "from": f"{at.own}:4"},
            "args": {"value": ["-a", "1"], "from": f"{at.own}:5"},
            "env": {"B": {"value": "x y", "from": "./aimind.toml:7"}},
        }
    }
    assert found["files"] == [
        {"path": str(at.own), "problem": None, "needs_trust": []},
        {"path": "./aimind.toml", "problem": None, "needs_trust": []},
    ]
    rows = [line.split() for line in at.home.good("config").splitlines()]
    assert ["context", "2048", "./aimind.toml:1"] in rows
    assert ['models."demo".parallel', "2", "./aimind.toml:5"] in rows
