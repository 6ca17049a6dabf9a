"""The line of every key, in documents that look as awkward as TOML allows."""

from __future__ import annotations

import pytest

from aimind.configuration.lines import lines

AWKWARD = '''\
# context = 1

  context = "4k"  # [backends]
text = """
port = 1
[not.a.table]
"""
args = [
  "port = 2", # ]
  "[x]",
]
"quoted key" = 1
a.b.'c d' = 2

[env]
NAME = 1

[ backends . "llama-server" ] # here
args = [ "=", "[" ]
env = { A = 1, B = "x = 3" }

[[list]]
x = 1
[[list]]
x = 2
[models."unsloth/Qwen3-8B-GGUF"]
context = 3
'''


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("context",), 3),
        (("text",), 4),
        (("args",), 8),
        (("quoted key",), 12),
        (("a",), 13),
        (("a", "b", "c d"), 13),
        (("env",), 15),
        (("env", "NAME"), 16),
        (("backends", "llama-server"), 18),
        (("backends", "llama-server", "args"), 19),
        (("backends", "llama-server", "env", "B"), 20),
        (("list", "x"), 23),
        (("models", "unsloth/Qwen3-8B-GGUF", "context"), 27),
    ],
)
def test_the_line_of_a_key(path: tuple[str, ...], line: int) -> None:
    assert lines(AWKWARD)[path] == line


def test_what_only_looks_like_a_key_is_none() -> None:
    assert ("port",) not in lines(AWKWARD)
    assert ("not",) not in lines(AWKWARD)


def test_lines_may_end_as_on_windows() -> None:
    assert lines("\r\na = 1\r\n[b]\r\nc = '''\r\n'''\r\nd = 2\r\n") == {
        ("a",): 2,
        ("b",): 3,
        ("b", "c"): 4,
        ("b", "d"): 6,
    }
