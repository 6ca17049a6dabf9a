from __future__ import annotations

import contextlib
import dataclasses

import pytest

from aimind.cli.app import load
from aimind.cli.asking import ask
from aimind.cli.commands import COMMANDS
from aimind.cli.options import RequestOptions
from aimind.errors import UsageError
from aimind.options import is_secret
from aimind.parameters import DeviceIndices, Variable, convert, parse_share


@pytest.mark.parametrize(
    "name", ["HF_TOKEN", "OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY", "db_password", "KEY", "MY_APIKEY"]
)
def test_names_of_secrets(name: str) -> None:
    assert is_secret(name)


@pytest.mark.parametrize(
    "name", ["MAX_TOKENS", "TOKENIZERS_PARALLELISM", "MONKEY", "KEYBOARD", "OMP_NUM_THREADS"]
)
def test_names_of_no_secrets(name: str) -> None:
    assert not is_secret(name)


OPTIONS: dict[str, object] = {
    "quant": "Q8_0",
    "mmproj": "mmproj.gguf",
    "category": "embedding",
    "revision": "main",
    "offline": True,
    "trust_remote_code": True,
    "parallel": 2,
    "device": DeviceIndices((0,)),
    "tensor_parallel": 2,
    "gpu_layers": 3,
    "no_cpu_offload": True,
    "kv_cache_type": "q8_0",
    "gpu_memory_utilization": 0.5,
    "host": "0.0.0.0",
    "port": 9000,
    "served_model_name": "gpt",
    "backend": "vllm",
    "backend_version": "0.32.0",
    "env": [Variable("NAME", "value")],
    "no_auto_parsers": True,
    "force": True,
}
# They have tests of their own: files with secrets, the hub, which holds for all that reads names, and
# --no-config, which takes effect before options are read.
ELSEWHERE = {"api_key_file", "hf_token_file", "hub", "no_config"}


def test_every_option_is_asked_for() -> None:
    """An option that nothing reads would be silently ignored."""
    assert {field.name for field in dataclasses.fields(RequestOptions)} == OPTIONS.keys() | ELSEWHERE
    unchanged = ask("demo", RequestOptions())
    for name, value in OPTIONS.items():
        assert ask("demo", RequestOptions(**{name: value})) != unchanged, name  # type: ignore[arg-type]


@pytest.mark.parametrize(("text", "share"), [("0.5", 0.5), ("1", 1.0), (0.25, 0.25)])
def test_shares(text: object, share: float) -> None:
    assert parse_share(text) == share


@pytest.mark.parametrize("text", ["0", "1.01", "-1", "nan", "x", "inf"])
def test_what_is_no_share(text: str) -> None:
    with pytest.raises(ValueError, match="is not"):
        parse_share(text)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_can_be_converted_without_pydantic(name: str) -> None:
    """A kind of value that `convert` does not know would be an error when the option is used."""
    command = load(name)
    for each in (command, *getattr(command, "commands", {}).values()):
        for parameter in each.params:
            with contextlib.suppress(ValueError, UsageError):
                convert(parameter, "text")
