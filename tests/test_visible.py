"""Names, paths and a backend's words may hold anything: a terminal is never made to obey them."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import subprocess
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aimind.phrases import shell_join, visible, visible_json, visible_output
from aimind.show.terminal import console
from aimind.supervisor import output
from tests.instances.conftest import AIMIND, Home, home
from tests.supervisor.harness import LINUX

__all__ = ["home"]

DEMO = Path(__file__).parents[1] / "aimind" / "demo" / "aimind-demo-F16.gguf"
# The title of a window, colors, a line of its own, and text that is read from right to left.
NASTY = "a\x1b]0;owned\x07\x1b[31m\nhint: run this\u202efdp"


PIECES = [character.encode() for character in "\x1b\x9b\u061c\u200e\u202e\u2066"] + [b"[31m", b"[2A", b"\r\n"]


def obeyed(text: str) -> set[str]:
    """What of it a terminal would not show; tabs and the ends of lines are ours."""
    bidirectional = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    return {
        each
        for each in text
        if (unicodedata.category(each) == "Cc" and each not in "\t\n")
        or unicodedata.bidirectional(each) in bidirectional
        or each in "\u200e\u200f\u061c\u2028\u2029"
    }


@given(st.text() | st.text(alphabet="a\t\n\r\x00\x1b[31m\x7f\x9b\u200f\u202e\u2066\u2028"))
def test_nothing_of_any_text_is_obeyed(text: str) -> None:
    for shown in (visible(text), visible_output(text), output.visible(text)):
        assert not obeyed(shown)
        assert "\n" not in shown
    if text.isprintable():
        assert visible(text) == visible_output(text) == output.visible(text) == text


@settings(max_examples=20)  # each starts a shell
@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))))
def test_a_line_for_a_shell_can_be_seen_and_pasted(words: list[str]) -> None:
    line = shell_join(["printf", "%s\\0", "", *words])
    assert not obeyed(line)
    done = subprocess.run(["bash", "-c", line], capture_output=True, check=True)
    assert done.stdout.decode().split("\0")[:-1] == ["", *words]


@given(st.text())
def test_a_document_is_the_same_with_its_characters_escaped(text: str) -> None:
    document = json.dumps({"name": text}, indent=2, ensure_ascii=False)
    assert not obeyed(visible_json(document))
    assert json.loads(visible_json(document)) == {"name": text}


@given(st.lists(st.binary() | st.sampled_from([*PIECES, *(piece[:1] for piece in PIECES)])))
def test_a_terminal_obeys_nothing_of_a_backend_but_colors_and_lines(pieces: list[bytes]) -> None:
    """However what it prints is cut in pieces."""
    terminal, whole = output.Terminal(), output.Terminal()
    shown = b"".join(map(terminal, pieces)) + terminal.end()
    assert shown == whole(b"".join(pieces)) + whole.end()
    text = re.sub(r"\x1b\[[0-9;]*m|\r", "", shown.decode(errors="replace"))
    assert not obeyed(text)


def test_what_a_backend_may_print_on_a_terminal() -> None:
    terminal = output.Terminal()
    fine = "\x1b[1;32mINFO\x1b[0m 50 %\r100 %\t\N{SNOWMAN} \u4e2d\n".encode()
    assert terminal(fine) == fine
    assert terminal(NASTY.encode()) == b"a\\x1b]0;owned\\x07\x1b[31m\nhint: run this\\u202efdp"
    assert terminal(b"\x1b[2A\x9b \xc2") == b"\\x1b[2A\x9b "
    assert terminal.end() == b"\xc2"


def test_a_table_shows_what_nobody_has_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    console().print(NASTY)
    assert not obeyed(capsys.readouterr().out)


def test_colors_of_a_program_are_left_out() -> None:
    assert (
        visible_output("\x1b[32mINFO\x1b[0m ready")
        == output.visible("\x1b[32mINFO\x1b[0m ready")
        == "INFO ready"
    )


def test_a_name_in_an_error(home: Home) -> None:
    done = home.run("plan", f"./{NASTY}.gguf")
    assert done.returncode == 3
    assert not obeyed(done.stderr)
    assert [line for line in done.stderr.splitlines() if line.startswith("hint: run")] == []


def test_a_name_in_a_plan(home: Home) -> None:
    folder = home.folder / NASTY
    folder.mkdir()
    shutil.copy(DEMO, folder / "model.gguf")
    shown = home.good("plan", f"./{NASTY}/model.gguf", "--backend", "llama-server")
    assert not obeyed(shown)
    assert "owned" in shown


@LINUX
def test_what_a_backend_says(home: Home) -> None:
    token = f"hf_{'x' * 20}"
    home.fake("--print-error", rf"'bad\x1b]0;owned\x07\x1b[31m news of {token}'", "--exit-at-start", "3")
    done = home.run("serve", "-d", "demo", "--backend", "llama-server", "--port", "0")
    assert done.returncode == 3
    assert not obeyed(done.stderr)
    for words in (("status", "demo"), ("logs", "demo"), ("logs", "demo", "--json")):
        shown = home.good(*words)
        assert not obeyed(shown)
        assert token not in shown
        assert "owned" in shown
        if words[-1] != "--json":
            assert r"bad\x1b]0;owned\x07 news of ***" in shown


@LINUX
@pytest.mark.parametrize("terminal", ["dumb", "xterm"])
def test_what_a_backend_says_in_the_foreground(home: Home, terminal: str) -> None:
    """On a terminal, whether it gets the log or its last lines alone; a pipe gets it as it was printed."""
    home.env["TERM"] = terminal
    home.fake("--print-error", r"'bad\x1b]0;owned\x07 news'", "--exit-at-start", "3")
    words = ("serve", "demo", "--backend", "llama-server", "--port", "0")
    assert "bad\x1b]0;owned\x07 news" in home.run(*words).stdout
    ours, theirs = pty.openpty()
    done = subprocess.run(
        [AIMIND, *words],
        cwd=home.folder,
        env=home.env,
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = read_all(ours)
    assert done.returncode == 3
    assert r"bad\x1b]0;owned\x07 news" in shown
    drawn_by_us = r"\x1b\[[0-9;]*[mKA]|\x1b\[\?25[hl]|\r"
    assert not obeyed(re.sub(drawn_by_us, "", shown))


@LINUX
def test_the_line_of_a_dry_run_can_be_pasted(home: Home) -> None:
    folder = home.folder / NASTY
    folder.mkdir()
    shutil.copy(DEMO, folder / "model.gguf")
    line = home.good("serve", f"./{NASTY}/model.gguf", "--backend", "llama-server", "--dry-run")
    assert not obeyed(line)
    echo = home.folder / "programs" / "llama-server"
    echo.write_text('#!/bin/sh\nprintf "%s\\0" "$@"\n')
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
    assert f"{folder}/model.gguf" in done.stdout.split("\0")


def read_all(descriptor: int) -> str:
    """Everything that was written to a terminal whose other end is closed."""
    data = b""
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        try:
            while chunk := file.read(1 << 16):
                data += chunk
        except OSError:  # Linux says so that the other end is closed
            pass
    return data.decode()
