"""Laws of the grammar of references."""

from __future__ import annotations

import string

from hypothesis import assume, given
from hypothesis import strategies as st

from aimind.errors import BadReferenceError
from aimind.reference import parse, unparse
from aimind.types import Reference

WORD = st.text(string.ascii_letters + string.digits + "_-.@%:/~\\ é\n", max_size=12)
# Mostly nonsense, made of what the grammar is made of.
TEXTS = st.lists(
    st.sampled_from(["hf:", "ms:", "file:", "demo", "./", "~/", "/", "@", ":", "%2F", "refs/pr/", "a", "b.c"])
    | st.sampled_from(
        ["https://huggingface.co/", "hf.co/", "hf://", "https://modelscope.cn/models/", "/blob/"]
    )
    | st.sampled_from(["Q4_K_M", "gguf", "x.gguf", "-", "--", "..", "C:\\", "owner", "owner/name"])
    | WORD,
    max_size=8,
).map("".join)

NAMES = st.from_regex(r"[A-Za-z0-9_](?:[A-Za-z0-9_]|[.-][A-Za-z0-9_]){0,20}", fullmatch=True).filter(
    lambda name: not name.endswith(".git")
)
PARTS = st.text(string.ascii_letters + string.digits + " _@+()é", min_size=1, max_size=8)
QUANTIZATIONS = st.from_regex(r"[A-Z0-9][A-Z0-9_-]{0,31}", fullmatch=True)
# With what looks encoded, and is a part of the branch's name.
REVISIONS = st.lists(
    st.sampled_from(["%2F", "%25", "%", "a", "refs", "pr", "v1.0", "x@y"]), min_size=1, max_size=4
).map("/".join) | st.lists(st.sampled_from(["%2F", "%25", "%", "b"]), min_size=1, max_size=4).map("".join)
PATHS = st.builds(
    "".join,
    st.tuples(
        st.sampled_from(["", "./", "~/", "/", "C:\\", "demo", "hf:"]),
        WORD,
        st.sampled_from(["", ":F16", ":Q4_K_M"]),
    ),
)


@st.composite
def references(draw: st.DrawFn) -> Reference:
    """References to a hub, of every form."""
    file = "/".join([*draw(st.lists(PARTS, max_size=3)), draw(PARTS) + ".gguf"])
    alone: tuple[str | None, str | None] = draw(
        st.sampled_from([(None, None), (file, None), (None, draw(QUANTIZATIONS))])
    )
    return Reference(
        source=draw(st.sampled_from(["huggingface", "modelscope"])),
        name=f"{draw(NAMES)}/{draw(NAMES)}",
        revision=draw(st.none() | REVISIONS | st.just("refs/pr/7")),
        file=alone[0],
        quantization=alone[1],
    )


@given(references())
def test_what_is_written_is_read_back(reference: Reference) -> None:
    """parse(unparse(r)) == r for every reference to a hub."""
    assert parse(unparse(reference)) == reference


@given(TEXTS | st.text())
def test_what_was_read_is_read_again(text: str) -> None:
    """Any text is refused, or is a reference that survives being written and read; nothing else is raised."""
    try:
        reference = parse(text)
    except BadReferenceError:
        return
    assert parse(unparse(reference)) == reference


@given(TEXTS | st.text())
def test_no_name_is_an_option(text: str) -> None:
    """No name, revision or file that gets through begins with a dash, and none on a hub leads outside."""
    try:
        reference = parse(text)
    except BadReferenceError:
        return
    for part in (reference.name, reference.revision, reference.file, reference.quantization):
        assert part is None or not part.startswith("-")
    if reference.source in {"huggingface", "modelscope"}:
        assert ".." not in f"{reference.name}/{reference.file}".split("/")


@given(PATHS | st.text())
def test_a_local_path_is_literal_after_file(path: str) -> None:
    """`file:` takes any path as it is, whatever it looks like, and so does what is written for it."""
    assume(path and not path.startswith("-") and "\0" not in path)
    reference = Reference(source="local", name=path)
    assert parse(f"file:{path}") == reference
    assert parse(unparse(reference)) == reference
