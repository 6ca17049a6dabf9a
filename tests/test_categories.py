"""What a model is used for, where that is not left to its files."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import get_args

import pytest

from aimind import plan
from aimind.categories import used_as
from aimind.errors import UnsupportedError, UsageError
from aimind.launchers import LAUNCHERS
from aimind.launchers.hello import hello
from aimind.select import find_launcher
from aimind.types import Attention, Category, Host, Metadata, Plan, Request, Tensor
from tests.samples import GIB, device, host, llama, model, speech

FOLDER = llama(safetensors=True)


def bert(category: Category = "embedding") -> Metadata:
    """An encoder of a GGUF file; with a head where it gives scores."""
    memory = (Attention(num_heads=4, num_kv_heads=4, key_size=32, value_size=32, causal=False),)
    whole = llama(layers=2)
    head = (Tensor("cls.output.weight", (4096, 1), "F16", 8192),) if category == "reranker" else ()
    return dataclasses.replace(
        whole,
        architecture="bert",
        category=category,
        max_model_len=512,
        layers=tuple(dataclasses.replace(layer, memory=memory) for layer in whole.layers),
        others=(*whole.others[:1], *head),
    )


def planned(metadata: Metadata, *extra: str, backend: str, category: Category | None = None) -> Plan:
    request = Request(backend=backend, category=category, extra=extra)
    return plan.make(model(metadata), metadata, host(), request, LAUNCHERS)


def argv(decided: Plan) -> Sequence[str]:
    return find_launcher(decided.backend.name, LAUNCHERS).command(decided, "/weights").argv


def has(words: Sequence[str], *wanted: str) -> bool:
    return any(tuple(words[at : at + len(wanted)]) == wanted for at in range(len(words)))


@pytest.mark.parametrize("backend", ["llama-server", "xllamacpp", "llama-box"])
def test_a_language_model_embeds_by_its_last_token(backend: str) -> None:
    decided = planned(llama(), backend=backend, category="embedding")
    assert has(argv(decided), "--pooling", "last")
    assert {"--embedding", "--embeddings"} & set(argv(decided))
    assert hello(decided).path == "embeddings"
    assert decided.kv_cache_tokens is None
    [why] = [reason.sentence for reason in decided.reasons if reason.field == "category"]
    assert why == "embedding was requested; the model's files are for llm"


def test_vllm_is_told_what_to_make_of_it() -> None:
    decided = planned(FOLDER, backend="vllm", category="embedding")
    assert has(argv(decided), "--runner", "pooling")
    assert has(argv(decided), "--convert", "embed")
    head = next(tensor for tensor in FOLDER.others if tensor.name == "lm_head.weight")
    usual = planned(FOLDER, backend="vllm")
    assert usual.host.weights_bytes - decided.host.weights_bytes == head.size_bytes


def test_what_its_files_say_already_is_told_to_nobody() -> None:
    for decided in (planned(FOLDER, backend="vllm", category="llm"), planned(FOLDER, backend="vllm")):
        assert not {"--runner", "--convert"} & set(argv(decided))
    assert not {"--pooling", "--embedding"} & set(argv(planned(llama(), backend="llama-server")))


def test_an_embedding_model_that_can_talk_talks() -> None:
    vectors = dataclasses.replace(FOLDER, category="embedding")
    decided = planned(vectors, backend="vllm", category="llm")
    assert has(argv(decided), "--runner", "generate")
    assert hello(decided).path == "chat/completions"


def test_a_model_that_sees_serves_text_alone() -> None:
    seeing = dataclasses.replace(FOLDER, category="vision-language", modalities=("image",))
    assert "--language-model-only" in argv(planned(seeing, backend="vllm", category="llm"))
    assert "--language-model-only" not in argv(planned(seeing, backend="vllm"))


def test_a_reranker_embeds_by_its_first_token() -> None:
    decided = planned(bert("reranker"), backend="llama-server", category="embedding")
    assert has(argv(decided), "--pooling", "cls")
    assert "--reranking" not in argv(decided)


@pytest.mark.parametrize(
    ("metadata", "wanted", "why"),
    [
        (speech(), "llm", "faster-whisper is a model of the category speech-to-text"),
        (FOLDER, "speech-to-text", "LlamaForCausalLM is a model of the category llm"),
        (FOLDER, "image", "LlamaForCausalLM is a model of the category llm"),
        (FOLDER, "vision-language", "no vision encoder"),
        (FOLDER, "reranker", "no classification head"),
        (llama(), "reranker", "no classification head"),
        (bert(), "llm", "it does not generate text"),
        (bert(), "reranker", "no classification head"),
        (bert("reranker"), "llm", "it does not generate text"),
        (dataclasses.replace(FOLDER, category="reranker"), "embedding", "a score instead of a vector"),
    ],
)
def test_what_its_files_cannot_be(metadata: Metadata, wanted: Category, why: str) -> None:
    with pytest.raises(UsageError, match=why) as caught:
        used_as(metadata, wanted)
    assert f"serve it as {metadata.category}" in caught.value.hint


@pytest.mark.parametrize("metadata", [FOLDER, llama(), bert(), speech()])
def test_it_can_always_be_what_it_is(metadata: Metadata) -> None:
    assert metadata.category in get_args(Category)
    assert used_as(metadata, metadata.category) is metadata
    assert used_as(metadata, None) is metadata


def test_a_model_of_an_unknown_kind_may_be_one_that_paints() -> None:
    odd = dataclasses.replace(llama(), architecture="omnigen", known=False)
    assert used_as(odd, "image").category == "image"


@pytest.mark.parametrize(
    ("backend", "arguments", "metadata"),
    [
        ("llama-server", ("--embedding",), llama()),
        ("xllamacpp", ("--embeddings",), llama()),
        ("vllm", ("--convert", "embed"), FOLDER),
        ("vllm", ("--runner", "pooling"), FOLDER),
    ],
)
def test_the_backend_s_own_arguments_say_it_too(
    backend: str, arguments: tuple[str, ...], metadata: Metadata
) -> None:
    decided = planned(metadata, *arguments, backend=backend)
    assert (decided.metadata.category, hello(decided).path) == ("embedding", "embeddings")
    with pytest.raises(UsageError, match="--category llm"):
        planned(metadata, *arguments, backend=backend, category="llm")


def test_how_to_pool_is_the_user_s_to_say() -> None:
    decided = planned(llama(layers=2), "--pooling", "mean", backend="llama-server", category="embedding")
    assert decided.settings.ubatch_size == decided.settings.max_model_len  # a mean is made in one step
    last = planned(llama(layers=2), backend="llama-server", category="embedding")
    assert (last.settings.ubatch_size or 0) < (last.settings.max_model_len or 0)
    assert has(argv(decided), "--pooling", "mean")
    assert argv(decided).count("--pooling") == 1


def painter() -> Metadata:
    """A diffusion model in GGUF, 1 GiB of it: no layers that anybody could split."""
    weights = Tensor("double_blocks.0.txt_attn.proj.weight", (1 << 29,), "F16", GIB)
    return dataclasses.replace(
        llama(),
        architecture="flux",
        category="image",
        known=False,
        max_model_len=None,
        layers=(),
        others=(weights,),
        chat_template=False,
    )


@pytest.mark.parametrize(("machine", "layers"), [(host(device()), "999"), (host(), "0")])
def test_what_paints_is_whole_on_a_device_or_in_ram(machine: Host, layers: str) -> None:
    metadata = painter()
    decided = plan.make(model(metadata), metadata, machine, Request(), LAUNCHERS)
    assert decided.backend.name == "llama-box"
    assert "--images" in argv(decided)
    assert has(argv(decided), "--gpu-layers", layers)
    assert not {"--ctx-size", "--pooling", "--batch-size"} & set(argv(decided))
    place = decided.shards[0].estimate if decided.shards else decided.host
    assert place.weights_bytes == GIB < place.total_bytes
    assert hello(decided).path == "images/generations"


def test_llama_box_s_own_word_for_images_decides_which_backend_serves() -> None:
    odd = dataclasses.replace(painter(), architecture="omnigen", category="llm")
    decided = plan.make(model(odd), odd, host(device()), Request(extra=("--images",)), LAUNCHERS)
    assert decided.backend.name == "llama-box"
    assert argv(decided).count("--images") == 1
    for category in ("llm", "embedding"):
        with pytest.raises(UsageError, match="--images is for image models"):
            plan.make(model(odd), odd, host(), Request(category=category, extra=("--images",)), LAUNCHERS)
    with pytest.raises(UsageError, match="llama is a model of the category llm"):
        planned(llama(), "--images", backend="llama-box")


@pytest.mark.parametrize("spelling", ["--rerank", "--reranking"])
def test_llama_box_takes_the_words_of_llama_server(spelling: str) -> None:
    decided = planned(bert("reranker"), spelling, backend="llama-box")
    assert argv(decided).count("--rerank") == 1
    assert "--reranking" not in argv(decided)
    decided = planned(bert("reranker"), spelling, backend="llama-server")
    assert argv(decided).count("--reranking") == 1


def test_a_server_that_cannot_be_told_how_to_pool_is_passed_over() -> None:
    with pytest.raises(UnsupportedError, match="if the model's file sets the pooling type"):
        planned(llama(), backend="llama-cpp-python", category="embedding")


@pytest.mark.parametrize(("made_for", "wanted"), [("reranker", None), ("llm", "reranker")])
def test_a_language_model_that_scores_in_a_word(made_for: Category, wanted: Category | None) -> None:
    """Qwen3-Reranker: told by its name, or where that is another by the user."""
    qwen = dataclasses.replace(FOLDER, architecture="Qwen3ForCausalLM", category=made_for)
    decided = planned(qwen, backend="vllm", category=wanted)
    words = argv(decided)
    told = json.loads(words[words.index("--hf-overrides") + 1])
    assert told == {
        "architectures": ["Qwen3ForSequenceClassification"],
        "classifier_from_token": ["no", "yes"],
        "is_original_qwen3_reranker": True,
    }
    assert hello(decided).path == "rerank"
    assert [each.field for each in decided.reasons].count("category") == 1
    talking = planned(qwen, backend="vllm", category="llm")
    assert "--hf-overrides" not in argv(talking)
