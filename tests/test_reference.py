"""The grammar of references, by example; its laws are in properties/test_reference.py."""

from __future__ import annotations

from dataclasses import replace

import pytest

from aimind.errors import BadReferenceError, UsageError
from aimind.reference import FORMS, parse, unparse
from aimind.types import Reference

HF = Reference(source="huggingface", name="Qwen/Qwen3-0.6B")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Qwen/Qwen3-0.6B", HF),
        ("hf:Qwen/Qwen3-0.6B", HF),
        ("ms:Qwen/Qwen3-0.6B", replace(HF, source="modelscope")),
        ("Qwen/Qwen3-0.6B@v1.0", replace(HF, revision="v1.0")),
        ("Qwen/Qwen3-0.6B:Q4_K_M", replace(HF, quantization="Q4_K_M")),
        ("Qwen/Qwen3-0.6B:ud-q4_k_xl", replace(HF, quantization="UD-Q4_K_XL")),
        ("Qwen/Qwen3-0.6B:gguf", replace(HF, quantization="GGUF")),
        ("Qwen/Qwen3-0.6B@main:int4", replace(HF, revision="main", quantization="INT4")),
        ("Qwen/Qwen3-0.6B/a.gguf", replace(HF, file="a.gguf")),
        ("Qwen/Qwen3-0.6B/sub dir/a@b.gguf", replace(HF, file="sub dir/a@b.gguf")),
        ("Qwen/Qwen3-0.6B@main/sub/a.gguf", replace(HF, revision="main", file="sub/a.gguf")),
        ("Qwen/Qwen3-0.6B@refs/pr/3", replace(HF, revision="refs/pr/3")),
        ("Qwen/Qwen3-0.6B@refs/pr/3/a.gguf", replace(HF, revision="refs/pr/3", file="a.gguf")),
        (
            "Qwen/Qwen3-0.6B@refs/convert/gguf:Q8_0",
            replace(HF, revision="refs/convert/gguf", quantization="Q8_0"),
        ),
        ("Qwen/Qwen3-0.6B@feature%2Fx/a.gguf", replace(HF, revision="feature/x", file="a.gguf")),
        ("Qwen/Qwen3-0.6B@100%25", replace(HF, revision="100%")),
        ("models/model.gguf", Reference(source="huggingface", name="models/model.gguf")),
        ("demo", Reference(source="demo", name="demo")),
        ("demo:safetensors", Reference(source="demo", name="demo", quantization="SAFETENSORS")),
        (".", Reference(source="local", name=".")),
        ("./m.gguf", Reference(source="local", name="./m.gguf")),
        ("../m", Reference(source="local", name="../m")),
        ("~/m", Reference(source="local", name="~/m")),
        ("~", Reference(source="local", name="~")),
        ("/m", Reference(source="local", name="/m")),
        ("C:\\models\\m.gguf", Reference(source="local", name="C:\\models\\m.gguf")),
        ("c:/models/m.gguf", Reference(source="local", name="c:/models/m.gguf")),
        (".\\m.gguf", Reference(source="local", name=".\\m.gguf")),
        ("./m:Q4_K_M", Reference(source="local", name="./m", quantization="Q4_K_M")),
        ("./m:ud-iq2_xxs", Reference(source="local", name="./m", quantization="UD-IQ2_XXS")),
        (".:F16", Reference(source="local", name=".", quantization="F16")),
        ("./m:safetensors", Reference(source="local", name="./m", quantization="SAFETENSORS")),
        ("./a:b@c", Reference(source="local", name="./a:b@c")),
        ("./a:latest", Reference(source="local", name="./a:latest")),
        ("./owner/name@main", Reference(source="local", name="./owner/name@main")),
        ("file:m", Reference(source="local", name="m")),
        ("file:owner/name", Reference(source="local", name="owner/name")),
        ("file:./m:Q4_K_M", Reference(source="local", name="./m:Q4_K_M")),
        ("file:demo", Reference(source="local", name="demo")),
    ],
)
def test_forms(text: str, expected: Reference) -> None:
    assert parse(text) == expected
    assert parse(unparse(expected)) == expected


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("https://huggingface.co/owner/name", "owner/name"),
        ("http://www.huggingface.co/owner/name/", "owner/name"),
        ("https://hf-mirror.com/owner/name?library=vllm#files", "owner/name"),
        ("https://huggingface.co/owner/name/discussions/3", "owner/name"),
        ("https://huggingface.co/owner/name/tree/main", "owner/name@main"),
        ("https://huggingface.co/owner/name/tree/refs%2Fpr%2F3", "owner/name@refs/pr/3"),
        ("https://huggingface.co/owner/name/tree/feature%2Fx", "owner/name@feature%2Fx"),
        ("https://huggingface.co/owner/name/blob/main/sub/x%20y.gguf", "owner/name@main/sub/x y.gguf"),
        ("https://huggingface.co/owner/name/resolve/main/x.gguf?download=true", "owner/name@main/x.gguf"),
        ("huggingface.co/owner/name", "owner/name"),
        ("hf.co/owner/name:Q4_K_M", "owner/name:Q4_K_M"),
        ("hf://owner/name", "owner/name"),
        ("hf://models/owner/name@v1/x.gguf", "owner/name@v1/x.gguf"),
        ("https://modelscope.cn/models/owner/name", "ms:owner/name"),
        ("https://www.modelscope.cn/models/owner/name/summary", "ms:owner/name"),
        ("https://www.modelscope.ai/models/owner/name/files", "ms:owner/name"),
        ("https://modelscope.cn/models/owner/name/file/view/master/x.gguf", "ms:owner/name@master/x.gguf"),
        ("https://modelscope.cn/models/owner/name/resolve/v1/x.gguf", "ms:owner/name@v1/x.gguf"),
    ],
)
def test_addresses_that_people_paste(monkeypatch: pytest.MonkeyPatch, text: str, short: str) -> None:
    assert parse(text) == parse(short)
    monkeypatch.setenv("AIMIND_HUB", "modelscope")
    assert parse(text) == parse(short if short.startswith("ms:") else f"hf:{short}")


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("llama3", "Ollama's library", "aimind search llama3 --gguf"),
        ("qwen3:0.6b", "Ollama's library", "aimind search qwen3 0.6b --gguf"),
        ("ollama://qwen3:0.6b", "Ollama's library", "aimind search qwen3 0.6b --gguf"),
        ("https://ollama.com/library/qwen3", "Ollama's library", "aimind search qwen3 --gguf"),
        ("https://huggingface.co/datasets/a/b", "not the address of a model", "ends in owner/name"),
        ("hf://spaces/a/b", "not the address of a model", "ends in owner/name"),
        ("https://huggingface.co/", "not the address of a model", "ends in owner/name"),
        ("https://huggingface.co/a/b/tree/main/Q4_K_M", "a folder inside", "hf:a/b"),
        ("https://example.com/m.gguf", "not an address on Hugging Face", "./model.gguf"),
    ],
)
def test_addresses_of_something_else(text: str, message: str, hint: str) -> None:
    with pytest.raises(BadReferenceError) as caught:
        parse(text)
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("text", ["Demo", "dmeo", "demos"])
def test_almost_demo(text: str) -> None:
    with pytest.raises(BadReferenceError) as refused:
        parse(text)
    assert refused.value.hint == "Did you mean demo?"


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "-",
        "--help",
        "m.gguf",
        "demo@main",
        "demo:",
        "demo:a/b",
        "owner/",
        "/owner/name"[1:] + "/",
        "owner//name",
        "owner/name/",
        "owner/name/folder",
        "owner/name/notes.txt",
        "owner/name@",
        "owner/name:",
        "owner/name@/a.gguf",
        "owner/name:Q4_K_M/a.gguf",
        "owner/name/a.gguf:Q4_K_M",
        "owner/name:Q4_K_M@main",
        "owner/name: Q4",
        "owner/name:-x",
        " owner/name",
        "owner/name\n",
        "owner/na me",
        "-owner/name",
        "owner/-name",
        "owner-/name",
        ".owner/name",
        "owner/name.",
        "owner/na..me",
        "owner/na--me",
        "owner/name.git",
        "öwner/name",
        "owner/" + "x" * 97,
        "x" * 97 + "/name",
        "hf:demo",
        "hf:./m",
        "hf:hf:owner/name",
        "ms:/m",
        "gs:owner/name",
        "owner/name/../x.gguf",
        "owner/name/./x.gguf",
        "owner/name//x.gguf",
        "owner/name/-x.gguf",
        "owner/name/a\\x.gguf",
        "owner/name/a\x1b.gguf",
        "owner/name/" + "x" * 251 + ".gguf",
        "owner/name@-x",
        "owner/name@a..b",
        "owner/name@a b",
        "owner/name@feature/x",
        "owner/name@%2Fx",
        "owner/name@x%2F%2Fy",
        "owner/name@..%2F..%2Fetc",
        "owner/name@x.lock",
        "owner/name@" + "x" * 256,
        "owner/name\0",
        "./m\0",
        "file:",
        "file:-m.gguf",
        "./m.gguf:Q4_K_M",
        "./" + "x" * 4096,
    ],
)
def test_anything_else_is_told_the_forms(text: str) -> None:
    with pytest.raises(BadReferenceError) as caught:
        parse(text)
    assert caught.value.hint == FORMS
    assert caught.value.exit_code == 2
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 400


def test_a_revision_beside_the_text() -> None:
    assert parse("owner/name:Q8_0", revision="v1") == parse("owner/name@v1:Q8_0")
    assert parse("owner/name@v1", revision="v1") == parse("owner/name@v1")
    assert parse("owner/name", revision="a/b").revision == "a/b"


@pytest.mark.parametrize(
    ("text", "revision"),
    [("owner/name@v1", "v2"), ("./m", "v1"), ("demo", "v1"), ("owner/name", "-x"), ("owner/name", "")],
)
def test_a_revision_that_contradicts_or_is_none(text: str, revision: str) -> None:
    with pytest.raises(BadReferenceError):
        parse(text, revision=revision)


def test_the_shortest_text() -> None:
    assert unparse(parse("hf:owner/name")) == "owner/name"
    assert unparse(parse("file:./m")) == "./m"
    assert unparse(parse("hf:hf.co/name")) == "hf:hf.co/name"
    assert unparse(parse("ms:owner/name@a%2Fb/c.gguf")) == "ms:owner/name@a%2Fb/c.gguf"


@pytest.mark.parametrize("told", ["modelscope", "ModelScope", "ms"])
def test_another_hub_for_bare_names(monkeypatch: pytest.MonkeyPatch, told: str) -> None:
    monkeypatch.setenv("AIMIND_HUB", told)
    there = replace(HF, source="modelscope")
    assert parse("Qwen/Qwen3-0.6B") == parse("ms:Qwen/Qwen3-0.6B") == there
    assert unparse(there) == "Qwen/Qwen3-0.6B"
    assert parse("hf:Qwen/Qwen3-0.6B") == HF
    assert unparse(HF) == "hf:Qwen/Qwen3-0.6B"


@pytest.mark.parametrize("told", ["", "huggingface", "hf"])
def test_the_usual_hub(monkeypatch: pytest.MonkeyPatch, told: str) -> None:
    monkeypatch.setenv("AIMIND_HUB", told)
    assert parse("Qwen/Qwen3-0.6B") == HF


def test_no_hub_of_this_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIMIND_HUB", "hugingface")
    with pytest.raises(UsageError, match="AIMIND_HUB is 'hugingface'") as caught:
        parse("Qwen/Qwen3-0.6B")
    assert caught.value.hint == "set it to huggingface or modelscope"
    assert parse("./folder").source == "local"
