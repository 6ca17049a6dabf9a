from __future__ import annotations

import pytest

from aimind.options import is_secret


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
