"""The flags of an installed backend: helps as real parsers print them, real programs that are asked."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

import pytest

from aimind.environments import flags
from aimind.types import Backend, Help, Package, Program
from tests.fakes import backend as fake

HELP = Help(args=("--help",))
PROGRAM = Program(names=("toy",), version_args=(), version_pattern="", remedy="none")
PACKAGE = Package(distribution="toy", version="1", import_name="toy")
# As llama.cpp prints it.
LLAMA_CPP = """\
----- common params -----

-h,    --help, --usage                  print usage and exit
-C,    --cpu-mask M                     CPU affinity mask: arbitrarily long hex. Complements cpu-range
--cpu-strict <0|1>                      use strict CPU placement (default: 0)
--prio N                                set process/thread priority : low(-1), normal(0), medium(1), high(2),
                                        realtime(3), see --poll (default: 0)
-kvu,  --kv-unified, -no-kvu, --no-kv-unified
                                        use single unified KV buffer shared across all sequences
--fim-qwen-1.5b-default                 use default Qwen 2.5 Coder 1.5B (note: can download weights)
"""
# As click prints it.
CLICK = """\
Usage: toy serve [OPTIONS] [FORCE_MODEL]

  Run a server. Configure with --cb-* flags.

Options:
  --compile / --no-compile        Enable it for faster inference.  [default: no-compile]
  -q, --quantization TEXT         Method: 'bnb-4bit', see --other.
"""


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AIMIND_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


def program(path: Path, text: str) -> Backend:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho run >> {path}.runs\n{text}\n")
    path.chmod(0o755)
    return Backend(name="toy", version="1", executable=str(path))


def runs(backend: Backend) -> int:
    path = Path(f"{backend.executable}.runs")
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_a_help_of_llama_cpp() -> None:
    wanted = (
        "-h --help --usage -C --cpu-mask --cpu-strict --prio -kvu --kv-unified -no-kvu --no-kv-unified "
        "--fim-qwen-1.5b-default"
    )
    assert flags.parse(LLAMA_CPP) == set(wanted.split())


def test_a_help_of_click() -> None:
    assert flags.parse(CLICK) == {"--compile", "--no-compile", "-q", "--quantization"}


def test_a_help_of_argparse() -> None:
    """Law: what is read from a parser's help is what the parser takes."""
    parser = argparse.ArgumentParser(
        epilog="   --json-arg.key1 value is an example", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--choice", "-c", choices=["--odd", "a-b"])
    parser.add_argument("--on-off", action=argparse.BooleanOptionalAction, help="- not so --fast")
    parser.add_argument("--metavar", metavar="[a, b] or name registered in --on-off", nargs="+")
    parser.add_argument("--with_underscores", help="as  --it says")
    parser.add_argument("--a-name-that-is-so-long-that-its-help-has-a-line-of-its-own", help="--really")
    for each in (parser, fake.parser()):
        assert flags.parse(each.format_help()) >= set(each._option_string_actions)
    assert flags.parse(parser.format_help()) <= {*parser._option_string_actions, "--odd"}


def test_what_is_no_help_has_no_flags() -> None:
    assert flags.parse("error: - or -- or -1\n      --indented\n usage: toy --flag\n") == frozenset()


def test_a_program_is_asked_once(tmp_path: Path) -> None:
    toy = program(tmp_path / "bin" / "toy", 'echo "  $1  is what it was given" >&2')
    assert flags.remembered(toy, PROGRAM, HELP) is None
    assert flags.ask(toy, PROGRAM, HELP) == frozenset({"--help"})
    assert flags.remembered(toy, PROGRAM, HELP) == frozenset({"--help"})
    assert runs(toy) == 1


def test_another_program_of_that_name_or_another_question_is_not_known(tmp_path: Path) -> None:
    toy = program(tmp_path / "bin" / "toy", "echo ' --flag'")
    flags.ask(toy, PROGRAM, HELP)
    assert flags.remembered(toy, PROGRAM, Help(args=("--help=all",))) is None
    assert flags.remembered(dataclasses.replace(toy, version="2"), PROGRAM, HELP) is None
    program(tmp_path / "bin" / "toy", "echo ' --other-flag'")
    assert flags.remembered(toy, PROGRAM, HELP) is None


def test_flags_of_an_environment_are_kept_in_it(tmp_path: Path) -> None:
    toy = program(tmp_path / "toy" / "1" / "bin" / "python", "echo ' --flag'")
    flags.ask(toy, PACKAGE, HELP)
    assert (tmp_path / "toy" / "1" / "flags.json").exists()
    assert flags.remembered(toy, PACKAGE, HELP) == frozenset({"--flag"})


@pytest.mark.parametrize("text", ["exit 3", "echo nothing", "exec sleep 100", "kill -SEGV $$"])
def test_a_backend_that_does_not_tell(tmp_path: Path, text: str) -> None:
    toy = program(tmp_path / "bin" / "toy", text)
    assert flags.ask(toy, PROGRAM, HELP, patience_seconds=0.5) is None
    assert flags.remembered(toy, PROGRAM, HELP) is None


def test_a_backend_that_is_gone(tmp_path: Path) -> None:
    gone = Backend(name="toy", version="1", executable=str(tmp_path / "toy"))
    assert flags.ask(gone, PROGRAM, HELP) is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"of": 1}', '{"flags": [], "of": []}', '{"of'])
def test_a_damaged_memory_is_none(tmp_path: Path, data: Path, text: str) -> None:
    toy = program(tmp_path / "bin" / "toy", "echo ' --flag'")
    flags.ask(toy, PROGRAM, HELP)
    (data / "flags-toy.json").write_text(text)
    assert flags.remembered(toy, PROGRAM, HELP) is None


def test_a_folder_that_cannot_be_written_only_costs_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("AIMIND_DATA_DIR", str(tmp_path / "file" / "data"))
    toy = program(tmp_path / "bin" / "toy", "echo ' --flag'")
    assert flags.ask(toy, PROGRAM, HELP) == frozenset({"--flag"})
    assert flags.remembered(toy, PROGRAM, HELP) is None


def test_modules_of_the_folder_and_of_the_user_are_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "toy.py").write_text("print(' --mine')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    python = Backend(name="toy", version="1", executable=sys.executable)
    assert flags.ask(python, PROGRAM, Help(args=("-m", "toy"))) is None
