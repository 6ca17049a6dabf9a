"""Searching both hubs, over real HTTP."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from aimind.errors import HubError, ModelNotFoundError
from aimind.hub.search import TASKS, Query, search
from aimind.types import Category, Found, Source
from tests.fakes.search import Entry, SearchHub

QWEN_FILES = ["README.md", "Qwen3-8B-Q8_0.gguf", "Qwen3-8B-Q4_K_M.gguf", "mmproj-F16.gguf", "imatrix.gguf"]
GGUF = Entry(
    "unsloth/Qwen3-8B-GGUF",
    500,
    ("gguf", "conversational"),
    details={
        "gguf": {"total": 8_190_735_360, "architecture": "qwen3", "chat_template": "{{ x }}"},
        "siblings": [{"rfilename": name} for name in QWEN_FILES],
    },
)
SAFE = Entry(
    "Qwen/Qwen3-8B",
    900,
    ("transformers", "safetensors"),
    details={"safetensors": {"parameters": {"BF16": 8_190_735_360}, "total": 8_190_735_360}},
)
EMBEDDING = Entry("Qwen/Qwen3-Embedding-8B", 40, ("safetensors",), "feature-extraction")
SIMILARITY = Entry("intfloat/multilingual-e5", 60, ("pytorch",), "sentence-similarity", gated=True)
SOURCES: tuple[Source, ...] = ("huggingface", "modelscope")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[SearchHub]:
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "MODELSCOPE_API_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with SearchHub(GGUF, SAFE, EMBEDDING, SIMILARITY) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", running.url)
        yield running


def names(found: tuple[Found, ...]) -> list[str]:
    return [each.reference.name for each in found]


@pytest.mark.parametrize("source", SOURCES)
def test_those_with_the_most_downloads_come_first(hub: SearchHub, source: Source) -> None:
    found = search(source, Query(text="qwen3"))
    assert names(found) == ["Qwen/Qwen3-8B", "unsloth/Qwen3-8B-GGUF", "Qwen/Qwen3-Embedding-8B"]
    assert {each.reference.source for each in found} == {source}
    assert [each.downloads for each in found] == [900, 500, 40]
    assert [each.formats for each in found] == [("safetensors",), ("gguf",), ("safetensors",)]
    assert len(hub.asked) == 1


def test_sizes_come_with_the_list(hub: SearchHub) -> None:
    safe, gguf = search("huggingface", Query(text="qwen3-8b"))
    assert (safe.parameters, safe.weights_bytes) == (8_190_735_360, 16_381_470_720)
    assert (gguf.parameters, gguf.weights_bytes) == (8_190_735_360, None)
    assert gguf.quantizations == ("Q4_K_M", "Q8_0")


def test_sizes_of_modelscope(hub: SearchHub) -> None:
    hub.entries = [
        Entry("Qwen/Qwen3-8B", 2, ("safetensors",), details={"file_size": 16_397_461_266, "params": 8 << 30}),
        Entry("Qwen/Qwen3-8B-GGUF", 1, ("gguf",), details={"file_size": 60 << 30, "params": 8 << 30}),
    ]
    safe, gguf = search("modelscope", Query(text="qwen3"))
    assert (safe.weights_bytes, gguf.weights_bytes) == (16_397_461_266, None)
    assert safe.parameters == gguf.parameters == 8 << 30


@pytest.mark.parametrize("source", SOURCES)
def test_only_gguf(hub: SearchHub, source: Source) -> None:
    assert names(search(source, Query(text="qwen3", gguf=True))) == ["unsloth/Qwen3-8B-GGUF"]


def test_a_category_of_several_tasks_is_one_list(hub: SearchHub) -> None:
    found = search("huggingface", Query(category="embedding"))
    assert names(found) == ["intfloat/multilingual-e5", "Qwen/Qwen3-Embedding-8B"]
    assert [each.gated for each in found] == [True, False]
    assert [seen.query["pipeline_tag"] for seen in hub.asked] == [
        ["feature-extraction"],
        ["sentence-similarity"],
    ]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("category", TASKS["huggingface"])
def test_every_category_asks_for_its_tasks(hub: SearchHub, source: Source, category: Category) -> None:
    hub.entries = [Entry(f"owner/{task}", task=task) for task in TASKS[source][category]] + [
        Entry("a/b", task="x")
    ]
    assert set(names(search(source, Query(category=category)))) == {
        f"owner/{task}" for task in TASKS[source][category]
    }


def test_modelscope_answers_in_pages(hub: SearchHub) -> None:
    hub.entries = [Entry(f"owner/model-{number}", 1000 - number) for number in range(130)]
    assert names(search("modelscope", Query(limit=120))) == [f"owner/model-{number}" for number in range(120)]
    assert len(hub.asked) == 3


@pytest.mark.parametrize("source", SOURCES)
def test_no_more_pages_than_needed(hub: SearchHub, source: Source) -> None:
    hub.entries = [Entry(f"owner/model-{number}", 1000 - number) for number in range(60)]
    assert len(search(source, Query(limit=20))) == 20
    assert len(hub.asked) == 1


def test_the_token_goes_to_no_other_server(hub: SearchHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with SearchHub(SAFE) as other:
        hub.answers = [(307, b"", {"Location": f"{other.url}/api/models?limit=9"})]
        assert names(search("huggingface", Query())) == ["Qwen/Qwen3-8B"]
        assert [seen.authorization for seen in other.asked] == [None]
    assert [seen.authorization for seen in hub.asked] == ["Bearer hf_secret"]


@pytest.mark.parametrize("source", SOURCES)
def test_what_nobody_could_type_is_left_out(hub: SearchHub, source: Source) -> None:
    hub.entries = [
        Entry(name)
        for name in ("gpt2", "--help/x", "a/../b", "a/b\x1b[31m", "x" * 5000 + "/y", "a/b:Q4", "ok/ok")
    ]
    assert names(search(source, Query())) == ["ok/ok"]


@pytest.mark.parametrize("source", SOURCES)
def test_nothing_found(hub: SearchHub, source: Source) -> None:
    with pytest.raises(ModelNotFoundError, match="finds nothing for 'no such thing' --gguf --category llm"):
        search(source, Query(text="no such thing", gguf=True, category="llm"))


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        b"",
        b"7",
        b'{"models": 3}',
        b'[{"id": 3}, 4]',
        b'[{"id": "a/b", "downloads": "many"}]',
        b'[{"id": "a/b", "downloads": -1}]',
        b'[{"id": "a/b", "tags": 7}]',
        b'[{"id": "a/b", "siblings": [{"name": 7}]}]',
        b'[{"id": "a/b", "safetensors": {"parameters": {"BF16": true}}}]',
        b'{"success": true, "data": {"models": [{"id": "a/b", "params": [1]}]}}',
        b"[" * 100_000,
    ],
)
def test_nonsense(hub: SearchHub, source: Source, body: bytes) -> None:
    hub.answers = [(200, body, {})]
    with pytest.raises(HubError, match=f"{hub.url} .*, when asked about its search"):
        search(source, Query(text="x"))


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, "refused access to its search"),
        (429, "HTTP 429"),
        (503, "HTTP 503"),
        (418, "HTTP 418"),
    ],
)
def test_refusals(hub: SearchHub, source: Source, status: int, said: str) -> None:
    hub.answers = [(status, b"{}", {})] * 3
    with pytest.raises(HubError, match=said):
        search(source, Query(text="x"))


@pytest.mark.parametrize("source", SOURCES)
def test_a_hub_that_is_busy_for_a_moment(hub: SearchHub, source: Source) -> None:
    hub.answers = [(503, b"", {})]
    assert names(search(source, Query(text="embedding"))) == ["Qwen/Qwen3-Embedding-8B"]


def test_modelscope_says_no(hub: SearchHub) -> None:
    hub.answers = [(200, b'{"success": false, "message": "bad words"}', {})]
    with pytest.raises(HubError, match="bad words"):
        search("modelscope", Query(text="x"))


@pytest.mark.parametrize("source", SOURCES)
def test_nobody_is_there(hub: SearchHub, source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    with SearchHub() as gone:
        pass
    monkeypatch.setenv("HF_ENDPOINT", gone.url)
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", gone.url)
    with pytest.raises(HubError, match=f"{gone.url} cannot be reached"):
        search(source, Query(text="x"))


@pytest.mark.parametrize("source", SOURCES)
def test_offline(hub: SearchHub, source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(HubError, match="HF_HUB_OFFLINE"):
        search(source, Query(text="x"))
    assert not hub.asked


def client(program: str) -> str:
    """What a program of the real clients' prints, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().rpartition("\n")[2]


def test_hugging_face_is_asked_as_its_client_asks(hub: SearchHub) -> None:
    ours = names(search("huggingface", Query(text="qwen3", gguf=True, category="llm", limit=7)))
    theirs = client(
        "from huggingface_hub import HfApi\n"
        "found = HfApi().list_models(search='qwen3', filter='gguf', limit=7,\n"
        "    pipeline_tag='text-generation', sort='downloads',\n"
        "    expand=['downloads', 'gated', 'gguf', 'safetensors', 'siblings', 'tags'])\n"
        "print(','.join(each.id for each in found))"
    )
    assert theirs.split(",") == ours == ["unsloth/Qwen3-8B-GGUF"]
    assert hub.asked[0].path == hub.asked[-1].path
    assert hub.asked[0].query == hub.asked[-1].query


def test_modelscope_is_asked_as_its_client_asks(hub: SearchHub) -> None:
    ours = names(search("modelscope", Query(text="qwen3", gguf=True, category="llm", limit=7)))[:1]
    asked = hub.asked[0]
    theirs = client(
        "from modelscope_hub import HubApi\n"
        "found = HubApi().list_repos('model', search='qwen3', sort='downloads', page_number=1, page_size=7,\n"
        "    task='text-generation', library='gguf')\n"
        "print(','.join(each.repo_id for each in found.items))"
    )
    assert theirs.split(",") == ours == ["unsloth/Qwen3-8B-GGUF"]
    assert hub.asked[-1].path == asked.path
    assert hub.asked[-1].query == asked.query
