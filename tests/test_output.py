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
    assert "llm - llama - F16" in text
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
