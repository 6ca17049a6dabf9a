"""No secret is in what is shown, whatever the message of a library quotes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimind.redaction import SHORTEST_SECRET, quoted, redacted, without_secrets

SECRETS = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=SHORTEST_SECRET)
NOISE = st.text(max_size=30)


@given(secret=SECRETS, before=NOISE, after=NOISE)
def test_a_secret_of_the_environment_is_in_no_message(secret: str, before: str, after: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOME_API_KEY", secret)
        text = without_secrets(f"{before} {secret} {after}")
    assert secret not in text.replace("***", "")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(secret=SECRETS, value=JSON)
def test_a_document_has_no_secret_and_is_else_as_it_was(secret: str, value: object) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOME_API_KEY", secret)
        document = redacted({"value": value, "quotes": [f"x {secret}"], "number": 3})
        assert document == {"value": redacted(value), "quotes": ["x ***"], "number": 3}
        assert secret in str(value) or redacted(value) == value


@given(text=st.text())
def test_a_quote_is_one_printable_line(text: str) -> None:
    line = quoted(ValueError(text))
    assert line
    assert line.isprintable()


@pytest.mark.parametrize(
    "text",
    [
        "Illegal header value b'Bearer {}'",
        "authorization: bearer {}",
        "cannot open http://user:{}@127.0.0.1:1/x",
        "404 for https://storage.test/x?X-Amz-Date=1&X-Amz-Signature={}&y=1",
        "https://oss.test/x?Expires=1&OSSAccessKeyId={}",
        "https://cdn.test/x?auth_key={}",
        "Cookie m_session_id={}",
    ],
)
def test_what_looks_like_a_secret_is_hidden(text: str) -> None:
    shown = without_secrets(text.format("canary-0123"))
    assert "canary" not in shown
    assert shown.partition("***")[0] == text.partition("{}")[0].replace("user:", "")


def test_a_token_of_the_hub_is_hidden_wherever_it_stands() -> None:
    assert without_secrets("x hf_abcdefghijABCDEFGHIJ0123 y") == "x *** y"


def test_all_else_stays_as_it_is() -> None:
    text = "https://huggingface.co/a/hf_model?blobs=true#x@y answers 404: basic\tconfiguration of Bearers"
    assert without_secrets(text) == text
