"""What real backends say of their flags."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from aimind import environments
from aimind.environments import flags
from aimind.environments.install import ensure
from aimind.launchers import llama_server, mlx, transformers, vllm, vox_box, xllamacpp
from aimind.launchers.arguments import plain
from aimind.launchers.base import Launcher, TellsFlags
from aimind.types import Backend, Package
from tests.live import debian
from tests.live.served import DATA
from tests.samples import host

pytestmark = pytest.mark.live

PARSER = """
import json, sys
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = make_arg_parser(FlexibleArgumentParser())
for arguments in json.load(sys.stdin):
    parser.parse_args(arguments)
print(json.dumps(sorted(parser._option_string_actions)))
"""


@pytest.fixture(autouse=True)
def data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIMIND_DATA_DIR", str(DATA))


def installed(launcher: Launcher) -> tuple[Backend, Package]:
    source = launcher.source(host())
    assert isinstance(source, Package)
    return ensure(launcher.NAME, source, progress=print), source


def test_every_documented_argument_meets_the_parser_of_vllm() -> None:
    """The record of `tests/launchers/test_flags.py` is true, and vLLM names all that its parser takes."""
    path = Path(__file__).parents[1] / "data" / "vllm_arguments.json"
    recorded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    backend, source = installed(vllm)
    taken = [
        [name, *row["values"]]
        for row in recorded["arguments"]
        if "refused" not in row
        for name in row["names"]
    ]
    done = subprocess.run(
        [backend.executable, "-c", PARSER], input=json.dumps(taken), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    parser = frozenset(json.loads(done.stdout.splitlines()[-1]))
    assert parser == set(recorded["parser"])
    assert not {plain(flag) for flag in parser} & set(vllm.HELP.dropped)
    assert flags.ask(backend, source, vllm.HELP) == parser
    assert flags.remembered(backend, source, vllm.HELP) == parser


@pytest.mark.parametrize("launcher", [mlx, transformers, vox_box, xllamacpp], ids=lambda each: each.NAME)
def test_a_backend_names_what_aimind_gives_it(launcher: Launcher) -> None:
    assert isinstance(launcher, TellsFlags)
    backend, source = installed(launcher)
    assert named(launcher, flags.ask(backend, source, launcher.HELP))


@pytest.mark.skipif(not debian.can_be_had(), reason="needs Debian's packages for x86-64")
def test_llama_server_names_what_aimind_gives_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{debian.llama_server(DATA / 'llama-server')}:{os.environ['PATH']}")
    source = llama_server.source(host())
    (backend,) = environments.find("llama-server", source)
    assert named(llama_server, flags.ask(backend, source, llama_server.HELP))


def named(launcher: Launcher, told: frozenset[str] | None) -> bool:
    """Whether the first spelling of each flag that aimind writes is among what the backend told."""
    wanted = {
        spelling for flag in launcher.FLAGS.values() for spelling in (*flag.spellings[:1], *flag.off[:1])
    }
    known = {plain(flag) for flag in told or ()}
    assert wanted <= known, wanted - known
    return len(known) > len(wanted)
