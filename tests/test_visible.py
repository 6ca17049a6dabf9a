"""Names, paths and a backend's words may hold anything: a terminal is never made to obey them."""

from __future__ import annotations

import shutil
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimind.phrases import visible, visible_output
from aimind.supervisor import output
from tests.instances.conftest import Home, home
from tests.supervisor.harness import LINUX

__all__ = ["home"]

DEMO = Path(__file__).parents[1] / "aimind" / "demo" / "aimind-demo-F16.gguf"
# The title of a window, colors, a line of its own, and text that is read from right to left.
NASTY = "a\x1b]0;owned\x07\x1b[31m\nhint: run this\u202efdp"


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


@pytest.mark.parametrize("words", [("status", "demo"), ("logs", "demo")])
@LINUX
def test_what_a_backend_says(home: Home, words: tuple[str, ...]) -> None:
    home.fake("--print-error", r"'bad\x1b]0;owned\x07\x1b[31m news'", "--exit-at-start", "3")
    done = home.run("serve", "-d", "demo", "--backend", "llama-server", "--port", "0")
    assert done.returncode == 3
    assert not obeyed(done.stderr)
    shown = home.good(*words)
    assert not obeyed(shown)
    assert r"bad\x1b]0;owned\x07 news" in shown
