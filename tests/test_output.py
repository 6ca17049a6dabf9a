"""Where the output goes and what it can show: other encodings, closed pipes, and a folder that is gone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

AIMIND = Path(sys.executable).with_name("aimind")
COMMANDS = (
    ("plan", "demo"),
    ("plan", "demo", "--json"),
    ("serve", "demo", "--dry-run"),
    ("ps",),
    ("models",),
    ("devices",),
    ("config",),
    ("backends",),
    ("--help",),
    ("plan", "--help"),
    ("--version",),
)
LOCALES = (
    {"PYTHONIOENCODING": "ascii"},
    {"PYTHONIOENCODING": "latin-1"},
    {"PYTHONIOENCODING": "gbk"},
    {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"LC_ALL": "C"},
)


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "hôme").mkdir()
    home = str(tmp_path / "hôme")
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": home,
        "AIMIND_DATA_DIR": f"{home}/data",
        "AIMIND_STATE_DIR": f"{home}/state",
        "HF_HUB_OFFLINE": "1",
    }


def run(env: dict[str, str], *words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([AIMIND, *words], capture_output=True, timeout=100, env=env, cwd=cwd)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_any_encoding(env: dict[str, str], words: tuple[str, ...]) -> None:
    for locale in LOCALES:
        done = run(env | locale, *words)
        assert done.returncode == 0, (locale, done.stderr)
        if "--json" in words:
            assert json.loads(done.stdout.decode(locale.get("PYTHONIOENCODING", "utf-8")))


def test_what_ascii_lacks_is_written_by_what_looks_like_it(env: dict[str, str]) -> None:
    text = run(env | {"PYTHONIOENCODING": "ascii"}, "plan", "demo").stdout.decode("ascii")
    assert "F16 - 749 KiB" in text
    assert "\\xb7" not in text


def test_names_survive_in_json(env: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "模型"
    folder.mkdir()
    from aimind.hub.local import DEMO, DEMO_GGUF

    (folder / "é-F16.gguf").write_bytes((DEMO / DEMO_GGUF).read_bytes())
    done = run(env | {"PYTHONIOENCODING": "latin-1"}, "plan", f"{folder}/é-F16.gguf", "--json")
    assert json.loads(done.stdout)["model"]["files"][0]["path"] == "é-F16.gguf"


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("stream", ["stdout", "stderr", "both"])
def test_a_closed_pipe(env: dict[str, str], words: tuple[str, ...], stream: str) -> None:
    """As `aimind … | true`: 141, as of a program that signal 13 has ended, or 0 where it was in time."""
    reading, writing = os.pipe()
    os.close(reading)
    streams = ("stdout", "stderr") if stream == "both" else (stream,)
    with os.fdopen(writing, "wb") as pipe:
        others = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL} | dict.fromkeys(streams, pipe)
        done = subprocess.run([AIMIND, *words], timeout=100, env=env, **others)  # type: ignore[call-overload]
    assert done.returncode in ((0, 141) if stream == "stderr" else (141,))


def test_a_closed_pipe_for_an_error(env: dict[str, str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as pipe:
        done = subprocess.run([AIMIND, "plan", "/nowhere.gguf"], timeout=100, env=env, stderr=pipe)
    assert done.returncode == 141


CANNOT_WRITE = "error: cannot write the output: {}\nhint: Make room there, or write the output elsewhere.\n"


@pytest.mark.parametrize("words", [("plan", "demo"), ("plan", "demo", "--json"), ("--help",)], ids=" ".join)
def test_a_full_disk(env: dict[str, str], words: tuple[str, ...]) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([AIMIND, *words], env=env, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, CANNOT_WRITE.format("No space left on device"))


def test_a_full_disk_for_what_goes_to_stderr(env: dict[str, str]) -> None:
    """What was asked for comes all the same, and the exit code says the rest."""
    noted = env | {"AIMIND_PORT": "tcp://10.0.0.1:80"}
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [AIMIND, "plan", "demo", "--json"], env=noted, stdout=subprocess.PIPE, stderr=full
        )
        assert done.returncode == 0
        assert json.loads(done.stdout)
        done = subprocess.run([AIMIND, "plan", "/nowhere.gguf"], env=env, stderr=full)
        assert done.returncode == 3
        assert subprocess.run([AIMIND, "--help"], env=env, stdout=full, stderr=full).returncode == 1


def test_a_terminal_that_has_gone(env: dict[str, str]) -> None:
    controlling, terminal = os.openpty()
    os.close(controlling)
    try:
        done = subprocess.run(
            [AIMIND, "plan", "demo"],
            env=env,
            stdin=terminal,
            stdout=terminal,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        os.close(terminal)
    assert (done.returncode, done.stderr) == (1, CANNOT_WRITE.format("Input/output error"))


def test_closed_streams(env: dict[str, str]) -> None:
    """Nothing is wished to be seen, so nothing goes wrong."""
    for words, closed, code in (("plan demo", ">&-", 0), ("plan /x.gguf", "2>&-", 3), ("ps", ">&- 2>&-", 0)):
        done = subprocess.run(["sh", "-c", f'exec "{AIMIND}" {words} {closed}'], env=env, capture_output=True)
        assert done.returncode == code, words


def test_quiet_says_nothing_of_variables_and_documents_hold_no_secret(
    env: dict[str, str], tmp_path: Path
) -> None:
    """The secret is the name of a folder here, since messages of any kind may quote one."""
    folder = tmp_path / "canary-0123"
    folder.mkdir()
    noted = env | {"AIMIND_PORT": "tcp://10.0.0.1:80", "SOME_API_KEY": folder.name}
    loud, quiet = run(noted, "serve", str(folder)), run(noted, "serve", str(folder), "--quiet")
    assert b"AIMIND_PORT" in loud.stderr
    assert b"AIMIND_PORT" not in quiet.stderr
    from aimind.hub.local import DEMO, DEMO_GGUF

    (folder / "m.gguf").write_bytes((DEMO / DEMO_GGUF).read_bytes())
    document = run(noted, "plan", str(folder), "--json").stdout
    assert b"/***" in document
    assert folder.name.encode() not in document


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("plan", "./x.gguf"), 3),
        (("serve", "./x.gguf"), 3),
        (("lock", "demo"), 3),
        (("plan", "demo"), 0),
        (("ps",), 0),
        (("models",), 0),
        (("config",), 0),
    ],
    ids=str,
)
def test_a_current_folder_that_is_gone(
    env: dict[str, str], tmp_path: Path, words: tuple[str, ...], code: int
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    command = f'rmdir "{gone}" && exec "{AIMIND}" {" ".join(words)}'
    done = subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, timeout=100, env=env, cwd=gone
    )
    assert done.returncode == code, done.stderr
    if code:
        assert "the current folder has been removed" in done.stderr
        assert done.stderr.count("error:") == 1
