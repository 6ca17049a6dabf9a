"""Which files of a repository are needed, on lists as they are on the hub."""

from __future__ import annotations

import pytest

from aimind.errors import ModelNotFoundError, UnsupportedError
from aimind.files import candidates, choose, quantization, siblings
from aimind.types import INDEX_NAME, File, Model, Reference, Source


def chosen(
    *paths: str, quant: str | None = None, file: str | None = None, source: Source = "huggingface"
) -> list[str]:
    reference = Reference(source=source, name="owner/name", quantization=quant, file=file)
    model = Model(reference=reference, files=tuple(File(path, 1) for path in paths))
    return [each.path for each in choose(model).files]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("Qwen3-0.6B-Q4_K_M.gguf", "Q4_K_M"),
        ("qwen2.5-7b-instruct-q5_0.gguf", "Q5_0"),
        ("llama-2-7b.Q3_K_L.gguf", "Q3_K_L"),
        ("Model.i1-IQ2_XXS.gguf", "IQ2_XXS"),
        ("Model-UD-Q4_K_XL.gguf", "UD-Q4_K_XL"),
        ("Model-UD-IQ1_S-00001-of-00002.gguf", "UD-IQ1_S"),
        ("gpt-oss-20b-mxfp4.gguf", "MXFP4"),
        ("Model-MXFP4_MOE.gguf", "MXFP4_MOE"),
        ("Model-Q4_0_4_8.gguf", "Q4_0_4_8"),
        ("Model-TQ1_0.gguf", "TQ1_0"),
        ("Model-BF16-00001-of-00002.gguf", "BF16"),
        ("Model.fp16.gguf", "F16"),
        ("gemma-3-4b-it-qat-q4_0-unquantized-Q8_0.gguf", "Q8_0"),
        ("Model_Q4_K_M_v2.gguf", "Q4_K_M"),
        ("Q8_0/model-00001-of-00002.gguf", "Q8_0"),
        ("BF16/Model-Q6_K.gguf", "Q6_K"),
        ("mmproj-F16.gguf", "F16"),
        ("model.gguf", None),
        ("IQ4000-model.gguf", None),
        ("FAQ4_K_M.gguf", None),
    ],
)
def test_quantization(path: str, expected: str | None) -> None:
    assert quantization(path) == expected


# ── GGUF ───────────────────────────────────────────────────────────────────────────────────────────────────

UNSLOTH = (
    ".gitattributes",
    "BF16/M-BF16-00001-of-00002.gguf",
    "BF16/M-BF16-00002-of-00002.gguf",
    "M-IQ4_XS.gguf",
    "M-Q2_K.gguf",
    "M-Q4_K_M.gguf",
    "M-Q8_0.gguf",
    "M-UD-Q4_K_XL.gguf",
    "README.md",
    "config.json",
    "imatrix_unsloth.dat",
    "imatrix_unsloth.gguf",
    "mmproj-BF16.gguf",
    "mmproj-F16.gguf",
    "mmproj-F32.gguf",
)


def test_the_usual_quantization_and_the_best_projector() -> None:
    assert chosen(*UNSLOTH) == ["M-Q4_K_M.gguf", "mmproj-F32.gguf"]


@pytest.mark.parametrize(
    ("quant", "expected"),
    [
        ("Q8_0", ["M-Q8_0.gguf"]),
        ("GGUF", ["M-Q4_K_M.gguf"]),
        ("UD-Q4_K_XL", ["M-UD-Q4_K_XL.gguf"]),
        ("Q4_K_XL", ["M-UD-Q4_K_XL.gguf"]),
        ("BF16", ["BF16/M-BF16-00001-of-00002.gguf", "BF16/M-BF16-00002-of-00002.gguf"]),
    ],
)
def test_the_quantization_asked_for(quant: str, expected: list[str]) -> None:
    assert chosen(*UNSLOTH, quant=quant) == [*expected, "mmproj-F32.gguf"]


@pytest.mark.parametrize("quant", ["Q5_K_M", "Q4", "F16", "F32", "K_M"])
def test_a_quantization_that_is_not_there(quant: str) -> None:
    with pytest.raises(ModelNotFoundError, match=f"no GGUF file of the quantization {quant}") as caught:
        chosen(*UNSLOTH, quant=quant)
    assert caught.value.hint == "It has Q4_K_M, UD-Q4_K_XL, IQ4_XS, Q8_0, BF16, Q2_K."


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["m-Q8_0.gguf", "m-Q5_K_M.gguf", "m-Q2_K.gguf"], "m-Q5_K_M.gguf"),
        (["m-Q3_K_M.gguf", "m-Q8_0.gguf", "m-F16.gguf"], "m-Q8_0.gguf"),
        (["m-IQ2_M.gguf", "m-Q2_K.gguf"], "m-Q2_K.gguf"),
        (["m-F32.gguf", "m-BF16.gguf", "m-F16.gguf"], "m-BF16.gguf"),
        (["m-UD-Q4_K_M.gguf", "m-Q4_K_S.gguf"], "m-UD-Q4_K_M.gguf"),
        (["m-Q4_K_M.gguf", "m-UD-Q4_K_M.gguf"], "m-Q4_K_M.gguf"),
        (["model.gguf"], "model.gguf"),
        (["m.gguf", "m-F16.gguf"], "m-F16.gguf"),
        (["M-Q4_K_M.GGUF"], "M-Q4_K_M.GGUF"),
    ],
)
def test_the_order_of_preference(paths: list[str], expected: str) -> None:
    assert chosen(*paths) == [expected]


SIZES = {"M-Q8_0.gguf": 8, "M-Q4_K_M.gguf": 5, "M-Q6_K.gguf": 6, "M-IQ2_M.gguf": 2, "Other-Q8_0.gguf": 9}


def sized(*paths: str, quant: str | None = None) -> Model:
    reference = Reference(source="huggingface", name="owner/name", quantization=quant)
    return Model(reference=reference, files=tuple(File(path, SIZES.get(path, 1)) for path in paths))


def test_the_usual_one_and_the_same_model_s_others_by_size() -> None:
    model = sized(*SIZES, "M-Q5_K_M-00001-of-00002.gguf", "mmproj-F16.gguf")
    found = [[file.path for file in each.files] for each in candidates(model)]
    assert found == [
        [name, "mmproj-F16.gguf"] for name in ("M-Q4_K_M.gguf", "M-Q8_0.gguf", "M-Q6_K.gguf", "M-IQ2_M.gguf")
    ]


def test_one_that_is_named_is_alone_and_its_siblings_are_known() -> None:
    model = sized(*SIZES, quant="Q6_K")
    found = candidates(model)
    assert [[file.path for file in each.files] for each in found] == [["M-Q6_K.gguf"]]
    others = [each.files[0].path for each in siblings(model, found[0])]
    assert others == ["M-Q8_0.gguf", "M-Q4_K_M.gguf", "M-IQ2_M.gguf"]
    folder = Model(reference=model.reference, files=(File("config.json", 1), File("model.safetensors", 9)))
    assert siblings(folder, folder) == ()


def test_the_projector_asked_for() -> None:
    model = sized(*UNSLOTH)
    for asked in ("mmproj-F16.gguf", "./mmproj-F16.gguf"):
        found = choose(model, projector=asked)
        assert [file.path for file in found.files if file.is_projector] == ["mmproj-F16.gguf"]
    assert not [file for file in choose(model, projector="none").files if file.is_projector]
    with pytest.raises(ModelNotFoundError, match=r"no projector mmproj-Q4_0\.gguf") as caught:
        choose(model, projector="mmproj-Q4_0.gguf")
    assert caught.value.hint == "use --mmproj with one of mmproj-BF16.gguf, mmproj-F16.gguf, mmproj-F32.gguf"


def test_a_quantization_of_another_kind_of_name() -> None:
    assert chosen("m-int4.gguf", "m-f16.gguf", quant="INT4") == ["m-int4.gguf"]
    assert chosen("m-fp16.gguf", "m-Q8_0.gguf", quant="FP16") == ["m-fp16.gguf"]


def test_what_is_no_model_is_skipped() -> None:
    assert chosen(
        "imatrix.gguf", "m.imatrix.gguf", "m-Q8_0.gguf", "mtp-m-Q4_K_M.gguf", "m-draft-Q4_0.gguf"
    ) == ["m-Q8_0.gguf"]
    assert chosen("m-IQ3_M-imatrix.gguf") == ["m-IQ3_M-imatrix.gguf"]
    assert chosen("m-MTP-Q8_0.gguf", "m-MTP-Q4_K_M.gguf") == ["m-MTP-Q4_K_M.gguf"]


@pytest.mark.parametrize("missing", [1, 2, 3])
def test_a_missing_part(missing: int) -> None:
    parts = [f"m-Q8_0-0000{part}-of-00003.gguf" for part in (1, 2, 3) if part != missing]
    with pytest.raises(ModelNotFoundError, match=f"the first one is part {missing}"):
        chosen(*parts)


def test_two_models_of_one_quantization() -> None:
    with pytest.raises(ModelNotFoundError, match=r"more than one matching model: a-Q4_K_M\.gguf, b-Q4_K_M"):
        chosen("a-Q4_K_M.gguf", "b-Q4_K_M.gguf")


def test_one_file() -> None:
    assert chosen(*UNSLOTH, file="M-Q2_K.gguf") == ["M-Q2_K.gguf", "mmproj-F32.gguf"]
    part = "BF16/M-BF16-00002-of-00002.gguf"
    assert chosen(*UNSLOTH, file=part) == ["BF16/M-BF16-00001-of-00002.gguf", part, "mmproj-F32.gguf"]
    assert chosen(*UNSLOTH, file="mmproj-F16.gguf") == ["mmproj-F16.gguf"]


def test_one_file_that_is_not_there() -> None:
    with pytest.raises(ModelNotFoundError, match=r"has no file M-Q9\.gguf") as caught:
        chosen(*UNSLOTH, file="M-Q9.gguf")
    assert "Q4_K_M" in caught.value.hint


@pytest.mark.parametrize(
    ("projectors", "expected"),
    [
        (["mmproj-F16.gguf", "mmproj-BF16.gguf"], "mmproj-BF16.gguf"),
        (["mmproj-Q8_0.gguf", "mmproj-F16.gguf"], "mmproj-F16.gguf"),
        (["mmproj-model-f16.gguf"], "mmproj-model-f16.gguf"),
        (["mmproj-Qwen2.5-VL-7B-f16.gguf"], "mmproj-Qwen2.5-VL-7B-f16.gguf"),
        (["Qwen2.5-VL-7B-mmproj-f16.gguf"], "Qwen2.5-VL-7B-mmproj-f16.gguf"),
        (["mmproj-whatever.gguf"], "mmproj-whatever.gguf"),
        (["mmproj-F32.gguf", "mmproj-Qwen2.5-VL-7B-f16.gguf"], "mmproj-Qwen2.5-VL-7B-f16.gguf"),
    ],
)
def test_projectors_of_a_repository(projectors: list[str], expected: str) -> None:
    assert chosen("Qwen2.5-VL-7B-Q4_K_M.gguf", *projectors) == ["Qwen2.5-VL-7B-Q4_K_M.gguf", expected]


def test_projectors_of_a_folder_with_many_models() -> None:
    """A foreign projector makes a backend die, so one of no name is nobody's there."""
    folder = ("a-Q4_K_M.gguf", "b-Q8_0.gguf", "mmproj-F16.gguf", "mmproj-b-F16.gguf")
    assert chosen(*folder, file="a-Q4_K_M.gguf", source="local") == ["a-Q4_K_M.gguf"]
    assert chosen(*folder, file="b-Q8_0.gguf", source="local") == ["b-Q8_0.gguf", "mmproj-b-F16.gguf"]
    one = ("a-Q4_K_M.gguf", "a-Q8_0.gguf", "mmproj-F16.gguf")
    assert chosen(*one, file="a-Q8_0.gguf", source="local") == ["a-Q8_0.gguf", "mmproj-F16.gguf"]


def test_only_projectors() -> None:
    with pytest.raises(UnsupportedError, match=r"has only \.gguf files, which aimind cannot serve"):
        chosen("mmproj-F16.gguf", "README.md")


# ── Safetensors and the rest ───────────────────────────────────────────────────────────────────────────────

LLAMA = (
    ".gitattributes",
    "LICENSE.txt",
    "README.md",
    "config.json",
    "generation_config.json",
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
    "model.safetensors.index.json",
    "original/consolidated.00.pth",
    "original/params.json",
    "pytorch_model-00001-of-00001.bin",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
)


def test_a_language_model() -> None:
    assert chosen(*LLAMA) == [
        "config.json",
        "generation_config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer.model",
    ]


def test_code_templates_and_vocabularies_are_taken() -> None:
    files = [
        "chat_template.jinja",
        "config.json",
        "merges.txt",
        "model.safetensors",
        "modeling_x.py",
        "qwen.tiktoken",
    ]
    assert chosen(*files) == files


def test_copies_are_left_out() -> None:
    assert chosen(
        "config.json",
        "consolidated.safetensors",
        "adapter_model.safetensors",
        "flax_model.msgpack",
        "model.fp16.safetensors",
        "model.fp32-00001-of-00002.safetensors",
        "model.fp32-00002-of-00002.safetensors",
        "model.safetensors",
        "onnx/model.onnx",
        "onnx/config.json",
        "openvino/openvino_model.bin",
        "pytorch_model.bin",
        "tf_model.h5",
        "checkpoint-500/model.safetensors",
        "trainer_state.json",
    ) == ["config.json", "model.safetensors"]


def test_a_model_in_mistral_layout_alone() -> None:
    files = ["consolidated.safetensors", "params.json", "tekken.json"]
    assert chosen(*files) == files


def test_shards_under_another_name() -> None:
    files = ["config.json", "weights-00001-of-00001.safetensors", "weights.safetensors.index.json"]
    assert chosen(*files) == files
    deepseek = ["model-00001-of-000002.safetensors", "model-00002-of-000002.safetensors"]
    assert chosen(*deepseek) == deepseek


def test_part_numbers_of_any_width() -> None:
    parts = [f"model-{number}-of-11.safetensors" for number in range(1, 12)]
    assert set(chosen(*parts, "config.json")) == {*parts, "config.json"}
    with pytest.raises(ModelNotFoundError, match="999999996 of the 999999999 parts of m are missing"):
        chosen(*[f"m-{number:09}-of-999999999.gguf" for number in (1, 2, 4)])


def test_drafters_lose_against_the_largest_model() -> None:
    """Whatever a drafter's name or folder is, and whatever quantization of it would be preferred."""
    drafters = {
        "dspark/dspark-M-Q4_K_M.gguf": 10,
        "M-DFlash-Q4_K_M.gguf": 10,
        "M-assistant-Q4_0.gguf": 10,
        "MTP/M-Q4_K_M.gguf": 10,
        "EAGLE3/M-Q4_K_M.gguf": 10,
    }
    paths = {"UD-Q8_K_XL/M-UD-Q8_K_XL.gguf": 100, **drafters}
    reference = Reference(source="huggingface", name="owner/name")
    model = Model(reference=reference, files=tuple(File(path, size) for path, size in paths.items()))
    assert [file.path for file in choose(model).files] == ["UD-Q8_K_XL/M-UD-Q8_K_XL.gguf"]
    alone = Model(reference=reference, files=(File("my-assistant-7B-Q4_K_M.gguf", 100),))
    assert choose(alone).files == alone.files


INDEXED = (
    "config.json",
    "model-1-of-2.safetensors",
    "model-2-of-2.safetensors",
    "mtp.safetensors",
    INDEX_NAME,
)


def weights(*paths: str, indexed: set[str] | None = None) -> list[str]:
    """The safetensors that are chosen of a repository with an index."""
    reference = Reference(source="huggingface", name="owner/name")
    model = Model(reference=reference, files=tuple(File(path, 1) for path in (*INDEXED, *paths)))
    [found] = candidates(model, indexed=frozenset(indexed) if indexed else None)
    return [file.path for file in found.files if file.path.endswith(".safetensors")]


def test_the_index_says_which_files_are_the_weights() -> None:
    named = {"model-1-of-2.safetensors", "mtp.safetensors"}
    assert weights("stale.safetensors", "consolidated.safetensors", indexed=named) == sorted(named)
    with pytest.raises(ModelNotFoundError, match=r"1 of the 2 files .* the first one is 'gone\.safetensors'"):
        weights(indexed={"mtp.safetensors", "gone.safetensors"})


def test_an_index_that_was_not_read_may_name_files_that_are_no_parts() -> None:
    others = ["consolidated.safetensors", "adapter_model.safetensors", "model.fp16.safetensors"]
    assert weights(*others) == ["model-1-of-2.safetensors", "model-2-of-2.safetensors", "mtp.safetensors"]


@pytest.mark.parametrize("folder", ["fp8", "8bit", "onnx", "original", "mtp", "UD", "checkpoint-1"])
def test_other_weights_below_the_model_are_left_out(folder: str) -> None:
    assert chosen("config.json", "model.safetensors", f"{folder}/model.safetensors") == [
        "config.json",
        "model.safetensors",
    ]


def test_a_missing_shard() -> None:
    with pytest.raises(ModelNotFoundError, match="1 of the 2 parts of model are missing"):
        chosen("config.json", "model-00001-of-00002.safetensors", "model.safetensors.index.json")


def test_modules_of_sentence_transformers() -> None:
    files = [
        "1_Pooling/config.json",
        "2_Dense/model.safetensors",
        "config.json",
        "model.safetensors",
        "modules.json",
    ]
    assert chosen(*files, "2_Dense/pytorch_model.bin") == files
    assert "2_Dense/pytorch_model.bin" in chosen(
        "2_Dense/pytorch_model.bin", "config.json", "model.safetensors"
    )


def test_pickles_only_where_there_is_nothing_safe() -> None:
    files = ["config.json", "pytorch_model-00001-of-00001.bin", "pytorch_model.bin.index.json"]
    assert chosen(*files, "training_args.bin", "optimizer.bin") == files
    assert chosen(*files, "m-Q8_0.gguf") == ["m-Q8_0.gguf"]


def test_both_formats_in_one_repository() -> None:
    both = ("config.json", "m-Q8_0.gguf", "model.safetensors")
    assert chosen(*both) == ["config.json", "model.safetensors"]
    assert chosen(*both, quant="SAFETENSORS") == ["config.json", "model.safetensors"]
    assert chosen(*both, quant="Q8_0") == ["m-Q8_0.gguf"]
    assert chosen(*both, quant="GGUF") == ["m-Q8_0.gguf"]
    assert chosen(*both, file="m-Q8_0.gguf") == ["m-Q8_0.gguf"]


def test_a_quantization_where_there_is_no_gguf() -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        chosen(*LLAMA, quant="Q4_K_M")
    assert "omit the quantization" in caught.value.hint


def test_one_safetensors_file() -> None:
    files = ("a.safetensors", "b.safetensors", "config.json", "notes.md")
    assert chosen(*files, file="b.safetensors") == ["b.safetensors", "config.json"]


def test_ctranslate2() -> None:
    files = ["config.json", "model.bin", "preprocessor_config.json", "tokenizer.json", "vocabulary.txt"]
    assert chosen(*files, "README.md", ".gitattributes") == files


def test_speech_models_of_many_kinds_of_files() -> None:
    cosyvoice = ["campplus.onnx", "cosyvoice.yaml", "flow.pt", "hift.pt", "llm.pt", "x/model.safetensors"]
    assert chosen(*cosyvoice, "asset/dingding.png", "README.md") == cosyvoice
    paraformer = ["am.mvn", "config.yaml", "configuration.json", "model.pt", "tokens.json"]
    assert chosen(*paraformer, "fig/struct.png") == paraformer
    bark = ["config.json", "pytorch_model.bin", "speaker_embeddings/v2/en_speaker_6_fine_prompt.npy"]
    assert chosen(*bark, "coarse_2.pt", "fine_2.pt") == bark


@pytest.mark.parametrize(
    ("paths", "sentence"),
    [
        ([], "has no weights"),
        (["README.md", "config.json"], "has no weights"),
        (["adapter_config.json", "adapter_model.safetensors"], r"is a LoRA adapter"),
        (["model_index.json", "unet/diffusion_pytorch_model.safetensors"], "is an image pipeline"),
        (["fp8/model.safetensors", "README.md"], "has weights only in its subfolders: fp8"),
        (["config.json", "checkpoint-100/model.safetensors"], "only in its subfolders: checkpoint-100"),
        (["model.onnx", "config.json"], r"has only \.onnx files"),
        (["tf_model.h5", "flax_model.msgpack"], r"has only \.h5, \.msgpack files"),
        (["ggml-base.bin", "ggml-large.bin"], r"has only \.bin files"),
    ],
)
def test_nothing_to_serve(paths: list[str], sentence: str) -> None:
    with pytest.raises(UnsupportedError, match=sentence) as caught:
        chosen(*paths)
    assert caught.value.hint


def test_a_file_without_weights() -> None:
    with pytest.raises(UnsupportedError, match=r"config\.json contains no weights"):
        chosen(*LLAMA, file="config.json")


def test_what_was_found_is_kept() -> None:
    """Sizes, hashes, commit, root: only the list of files is narrowed."""
    model = Model(
        reference=Reference(source="huggingface", name="owner/name"),
        files=(File("README.md", 3), File("m.gguf", 7, "0" * 64)),
        commit="1" * 40,
    )
    narrowed = choose(model)
    assert narrowed.files == (File("m.gguf", 7, "0" * 64),)
    assert (narrowed.commit, narrowed.reference) == (model.commit, model.reference)
    assert choose(narrowed) == narrowed
