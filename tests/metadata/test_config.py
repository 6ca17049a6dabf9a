"""config.json: JSON that is hostile, values by many names, defaults."""

from __future__ import annotations

from typing import Any

import pytest

from aimind.errors import MetadataError
from aimind.metadata.config import LARGEST_CONFIG_BYTES, Config, parse_json, read_json
from tests.metadata.local import Text


def config(**values: Any) -> Config:
    return Config(values, "config.json")


class Huge:
    """A file that claims to be 100 MB and must not be read."""

    size_bytes = 100 << 20

    def read(self, offset: int, length: int) -> bytes:
        raise AssertionError(f"{length} bytes were read at {offset}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe{}", "not JSON"),
        (b"[]", "does not contain a JSON object"),
        (b"null", "does not contain a JSON object"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"a":' * 50_000, "not JSON"),
    ],
)
def test_bad_json(text: bytes, message: str) -> None:
    with pytest.raises(MetadataError) as caught:
        parse_json(text, "config.json")
    assert message in caught.value.message
    assert len(caught.value.message) < 200


def test_numbers_that_are_not_finite() -> None:
    """`transformers` writes them: `time_step_limit` of Mamba 2 ends at infinity. A size is never infinite."""
    text = b'{"time_step_limit": [0.0, Infinity], "rope_theta": NaN, "hidden_size": -Infinity}'
    read = Config(parse_json(text, "config.json"), "config.json")
    assert read.numbers("time_step_limit") == (0.0,)
    assert read.number("rope_theta") is None
    with pytest.raises(MetadataError, match="hidden_size is"):
        read.integer("hidden_size")


def test_a_huge_file_is_not_read() -> None:
    with pytest.raises(MetadataError, match=r"more .*than any valid file"):
        read_json(Huge(), "config.json")
    padding = b" " * (LARGEST_CONFIG_BYTES - 2)
    assert read_json(Text(b"{}" + padding), "config.json") == {}


@pytest.mark.parametrize("value", [-1, 1.5, True, 1 << 63, {"a": 1}, float(1 << 62)])
def test_numbers_that_make_no_sense(value: object) -> None:
    with pytest.raises(MetadataError, match=r"config.json is damaged: hidden_size is"):
        config(hidden_size=value).integer("hidden_size")


def test_long_lists_are_refused() -> None:
    with pytest.raises(MetadataError, match="100,000 entries"):
        config(layer_types=["x"] * 100_000).words("layer_types")
    with pytest.raises(MetadataError, match="100,000 entries"):
        config(mlp_only_layers=[1] * 100_000).integers("mlp_only_layers")


def test_the_first_name_that_is_there_counts() -> None:
    assert config(n_embd=7, d_model=8).integer("hidden_size", "n_embd", "d_model") == 7
    assert config(hidden_size=None, n_embd=7).integer("hidden_size", "n_embd") == 7
    assert config(hidden_size=4096.0).integer("hidden_size") == 4096
    assert config(mamba_d_head="auto").integer("mamba_d_head") is None
    assert config(moe_topk=[2, 4, 3]).integer("moe_topk") == 4


def test_defaults_stand_below_what_is_said() -> None:
    assert config(model_type="gemma3_text").integer("head_dim") == 256
    assert config(model_type="gemma3_text", head_dim=128).integer("head_dim") == 128
    assert config(model_type="mistral").integer("sliding_window") == 4096
    assert config(model_type="mistral", sliding_window=None).integer("sliding_window") is None
    assert config(model_type="gemma").flag("tie_word_embeddings")
    assert not config(model_type="gemma", tie_word_embeddings=False).flag("tie_word_embeddings")
    assert not config(model_type="brandnew").known


def test_the_language_model_of_a_multimodal_one() -> None:
    inner = {"model_type": "qwen2", "num_hidden_layers": 5}
    for name in ("text_config", "llm_config", "language_config"):
        assert config(model_type="x", **{name: inner}).language_model().integer("num_hidden_layers") == 5
    nested = config(model_type="qwen2_5_omni", thinker_config={"text_config": inner})
    assert nested.language_model().model_type == "qwen2"
    whole = config(model_type="llava", vocab_size=7, text_config={})
    assert whole.language_model().model_type == "llama"
    assert whole.language_model().integer("vocab_size") == 7
    assert whole.language_model().integer("hidden_size") == 4096


def test_multimodal_models_of_one_level() -> None:
    flat = config(model_type="qwen2_vl", hidden_size=1536)
    assert flat.known
    assert flat.language_model().integer("hidden_size") == 1536
