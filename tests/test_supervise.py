"""Becoming the supervisor, or the backend: in a child, since a test cannot come back from either."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import NoReturn

import psutil
import pytest

from aimind import supervise
from aimind.errors import BackendError
from aimind.types import Command, Overlay, Probe, TextFile
from tests.supervisor.harness import LINUX, STANDARD_SIGNALS, alive, fake, wait_for

SECRET = "canary-4711"


@contextmanager
def becoming(what: str, command: Command) -> Iterator[subprocess.Popen[str]]:
    """A process that becomes the `supervise` or `replace` of the command."""
    files = [(file.path, file.text, file.mode) for file in command.files]
    fields = (
        f"argv={command.argv!r}, env={dict(command.env)!r}, unset_env={command.unset_env!r}, "
        f"files=tuple(TextFile(path=p, text=t, mode=m) for p, t, m in {files!r}), "
        f"cwd={command.cwd!r}, ready={command.ready!r}, url={command.url!r}, stop_seconds=1.0"
    )
    script = (
        "import os, sys\n"
        "from aimind import supervise\n"
        "from aimind.types import Command, Probe, TextFile\n"
        "secret = os.environ.pop('TEST_SECRET')\n"
        f"command = Command({fields}, secret_env={{'KEY': secret}})\n"
        "print('before')\n"
        f"supervise.{what}\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TEST_SECRET": SECRET},
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def lines(process: subprocess.Popen[str], number: int) -> list[str]:
    assert process.stdout is not None
    return [process.stdout.readline().rstrip("\n") for _ in range(number)]


def test_it_becomes_the_supervisor(tmp_path: Path) -> None:
    command = fake(tmp_path, "--print-env", "KEY")
    with becoming("supervise(command, announce='READY: talk to it')", command) as process:
        assert lines(process, 3) == ["before", "KEY=***", "READY: talk to it"]
        assert str(supervise.PROGRAM) in psutil.Process(process.pid).cmdline()
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 143


@LINUX
def test_the_secret_is_in_no_command_line_and_no_file(tmp_path: Path) -> None:
    with becoming("supervise(command, announce='READY')", fake(tmp_path)) as process:
        assert lines(process, 2) == ["before", "READY"]
        supervisor = psutil.Process(process.pid)
        for member in (supervisor, *supervisor.children(recursive=True)):
            with suppress(psutil.NoSuchProcess, FileNotFoundError):  # a look of the guardian's is soon over
                assert SECRET not in " ".join(member.cmdline())
                # The document is closed: it cannot be read from /proc/PID/fd either.
                open_files = [file.readlink() for file in Path(f"/proc/{member.pid}/fd").iterdir()]
                assert not [file for file in open_files if "memfd" in str(file)]
        assert not [path for path in tmp_path.rglob("*") if path.is_file() and SECRET in path.read_text()]


@LINUX
def test_it_becomes_the_backend(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    script = "pwd; echo $$ $KEY $ADDED [$REMOVED]; grep SigIgn /proc/self/status; exit 7"
    command = dataclasses.replace(
        fake(tmp_path),
        argv=("sh", "-c", script),
        cwd=str(folder),
        env={"ADDED": "1", "REMOVED": ""},
        unset_env=("REMOVED",),
    )
    with becoming("replace(command)", command) as process:
        *said, ignored = lines(process, 4)
        assert said == ["before", str(folder), f"{process.pid} {SECRET} 1 []"]
        assert int(ignored.split()[1], 16) & STANDARD_SIGNALS == 0
        assert process.wait() == 7


def test_files_are_written_before_the_start(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "config.json"
    command = dataclasses.replace(
        fake(tmp_path),
        argv=("cat", str(path)),
        files=(TextFile(path=str(path), text="größer\n", mode=0o640),),
    )
    with becoming("replace(command)", command) as process:
        assert lines(process, 2) == ["before", "größer"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert [stat.S_IMODE(folder.stat().st_mode) for folder in path.parents[:2]] == [0o700, 0o700]
    assert list(path.parent.iterdir()) == [path]


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("old and much longer")
    path.chmod(0o644)
    command = dataclasses.replace(
        fake(tmp_path), argv=("true",), files=(TextFile(path=str(path), text="new"),)
    )
    with becoming("replace(command)", command) as process:
        assert process.wait() == 0
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    file = TextFile(path=str(tmp_path / "file" / "key"), text=SECRET)
    with pytest.raises(
        BackendError, match=r"file/key cannot be written: (File exists|Not a directory)"
    ) as raised:
        supervise.supervise(dataclasses.replace(fake(tmp_path), files=(file,)), announce="")
    assert SECRET not in str(raised.value) + raised.value.hint


@pytest.mark.parametrize("become", [partial(supervise.supervise, announce=""), supervise.replace])
@pytest.mark.parametrize("program", ["no-such-program", "/nowhere/program", "./here", "plain"])
def test_a_program_that_is_missing_is_an_error(
    tmp_path: Path, become: Callable[[Command], NoReturn], program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plain").write_text("not executable")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    command = dataclasses.replace(fake(tmp_path), argv=(program,), cwd=str(tmp_path))
    with pytest.raises(BackendError, match="the program does not exist"):
        become(command)


def test_a_program_is_looked_up_on_the_commands_own_path(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("#!/bin/sh\necho mine\n")
    (tmp_path / "mine").chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    command = dataclasses.replace(fake(tmp_path), argv=("mine",), env={"PATH": path})
    with becoming("replace(command)", command) as process:
        assert lines(process, 2) == ["before", "mine"]


def test_a_folder_that_is_missing_is_an_error(tmp_path: Path) -> None:
    command = dataclasses.replace(fake(tmp_path), cwd=str(tmp_path / "nowhere"))
    with pytest.raises(BackendError, match=r"working folder .*nowhere does not exist"):
        supervise.supervise(command, announce="")


def test_what_is_no_program_after_all_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "damaged").write_bytes(b"\x7fELF, but no more")
    (tmp_path / "damaged").chmod(0o755)
    command = dataclasses.replace(fake(tmp_path), argv=(str(tmp_path / "damaged"),))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGPIPE, signal.SIGXFSZ)}
    try:
        with pytest.raises(BackendError, match="damaged cannot be started"):
            supervise.replace(command)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def test_the_document_holds_every_field() -> None:
    """But the files and folders, which are there by then."""
    command = Command(argv=("x",), ready=Probe(url="http://127.0.0.1:1/"), url="http://127.0.0.1:1")
    fields = {field.name for field in dataclasses.fields(Command)} - {"files", "overlays"}
    assert set(supervise.document(command, announce="a")) == fields | {"announce"}


@LINUX
def test_kill_of_what_became_the_supervisor_leaves_nothing(tmp_path: Path) -> None:
    with becoming("supervise(command, announce='READY')", fake(tmp_path, "--grandchildren", "2")) as process:
        lines(process, 2)
        pids = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
        assert len(pids) == 6  # two sentinels, guardian, backend, its two
        process.kill()
        wait_for(lambda: not any(alive(pid) for pid in pids), what="the end of the tree")


def test_an_overlay_looks_like_its_source_but_for_what_is_edited(tmp_path: Path) -> None:
    source, path = tmp_path / "source", tmp_path / "runs" / "model"
    (source / "sub").mkdir(parents=True)
    (source / "config.json").write_text('{"dtype": "a", "rope": {"kept": 1, "factor": 2}, "list": [1]}')
    (source / "sub/weights").write_bytes(b"weights")
    (path / "stale").mkdir(parents=True)
    (path / "of-another-model.safetensors").symlink_to(source / "config.json")
    overlay = Overlay(
        path=str(path),
        source=str(source),
        links=("sub/weights",),
        edits={"config.json": {"rope": {"factor": 4}, "list": [2]}, "new.json": {"x": 1}},
    )
    command = dataclasses.replace(fake(tmp_path), overlays=(overlay,), cwd=str(tmp_path), argv=("true",))
    child = os.fork()
    if child == 0:
        try:
            supervise.replace(command)
        finally:
            os._exit(99)
    assert os.waitpid(child, 0)[1] == 0
    assert sorted(p.name for p in path.iterdir()) == ["config.json", "new.json", "sub"]
    assert json.loads((path / "config.json").read_text()) == {
        "dtype": "a",
        "rope": {"kept": 1, "factor": 4},
        "list": [2],
    }
    assert json.loads((path / "new.json").read_text()) == {"x": 1}
    assert (path / "sub/weights").readlink() == source / "sub/weights"
    assert '"factor": 2' in (source / "config.json").read_text()


def test_an_overlay_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    overlay = Overlay(
        path=str(tmp_path / "model"), source=str(tmp_path), links=(), edits={"config.json": {"x": 1}}
    )
    with pytest.raises(BackendError, match="a changed copy of"):
        supervise.replace(dataclasses.replace(fake(tmp_path), overlays=(overlay,)))
