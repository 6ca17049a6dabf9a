"""Proxies of the environment and odd tokens, as the whole command meets them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from aimind.hub.local import DEMO, DEMO_GGUF
from tests import forked
from tests.fakes.hub import Hub
from tests.fakes.socks import Socks
from tests.hub.samples import NAME, Kind

Plan = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def plan(hub: Hub, tmp_path: Path) -> Plan:
    """`aimind plan` of a model on the hub, with these variables; `at` is `hf` or `ms`."""
    (hub.folder / NAME).mkdir(parents=True)
    shutil.copy(DEMO / DEMO_GGUF, hub.folder / NAME / "demo-F16.gguf")
    kept = {name: os.environ[name] for name in ("HF_ENDPOINT", "MODELSCOPE_ENDPOINT", "HF_HOME")}

    def run(at: str = "hf", **variables: str) -> subprocess.CompletedProcess[str]:
        return forked.run(
            ["plan", f"{at}:{NAME}"],
            cwd=tmp_path,
            env={
                **kept,
                "MODELSCOPE_CACHE": kept["HF_HOME"],
                "PATH": "/usr/bin:/bin",
                "HOME": str(tmp_path),
                "AIMIND_STATE_DIR": str(tmp_path / "state"),
                "AIMIND_DATA_DIR": str(tmp_path / "data"),
                **variables,
            },
        )

    return run


@pytest.mark.parametrize("variable", ["ALL_PROXY", "all_proxy", "HTTP_PROXY"])
@pytest.mark.parametrize("scheme", ["socks5", "socks5h", "socks"])
def test_a_socks_proxy_is_used(plan: Plan, hub: Hub, variable: str, scheme: str) -> None:
    if variable == "HTTP_PROXY":
        variable = "http_proxy"  # that in capitals is not read where a web server may have set it
    with Socks() as proxy:
        done = plan(**{variable: f"{scheme}://{proxy.address}"})
        assert done.returncode == 0, done.stderr
        assert set(proxy.targets) == {url.partition("//")[2] for url in (hub.url, hub.cdn_url)}


def test_the_proxy_looks_up_names(plan: Plan, hub: Hub) -> None:
    """As with `socks5h`: behind such a proxy there are often no names to be looked up."""
    with Socks() as proxy:
        endpoint = hub.url.replace("127.0.0.1", "hub.test")
        done = plan(ALL_PROXY=f"socks5://{proxy.address}", HF_ENDPOINT=endpoint)
        assert done.returncode == 0, done.stderr
        assert proxy.targets[0] == endpoint.partition("//")[2]


def test_a_socks_proxy_with_a_password(plan: Plan) -> None:
    with Socks(user="me", password="pass-canary") as proxy:
        assert plan(ALL_PROXY=f"socks5://me:pass-canary@{proxy.address}").returncode == 0
        for wrong in ("me:wrong-canary@", ""):
            done = plan(ALL_PROXY=f"socks5://{wrong}{proxy.address}")
            assert done.returncode == 4
            assert "cannot be reached" in done.stderr
            assert "canary" not in done.stderr


@pytest.mark.parametrize("answer", [b"", b"\5", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0" * 300])
def test_what_is_no_socks_proxy(plan: Plan, answer: bytes) -> None:
    with Socks(answer=answer) as proxy:
        done = plan(ALL_PROXY=f"socks5://{proxy.address}")
    assert done.returncode == 4, done.stderr
    assert "cannot be reached" in done.stderr


@pytest.mark.parametrize(
    "value",
    ["socks4://u:canary-1@127.0.0.1:9", "ftp://u:canary-1@h", "socks5://u:canary-1@127.0.0.1:x", "socks5://"],
)
def test_proxies_of_other_kinds(plan: Plan, value: str) -> None:
    done = plan(ALL_PROXY=value)
    assert done.returncode == 4, done.stderr
    assert "cannot be reached" in done.stderr
    assert "canary" not in done.stderr


@pytest.mark.parametrize("value", ["socks4://127.0.0.1:9", "socks5://127.0.0.1:9", "http://127.0.0.1:9"])
def test_what_is_in_the_cache_needs_no_proxy(plan: Plan, value: str) -> None:
    fetched = subprocess.run([sys.executable, "-m", "tests.hub.pull", "huggingface", NAME])
    assert fetched.returncode == 0
    done = plan(ALL_PROXY=value)
    assert done.returncode == 0, done.stderr
    assert "using what the cache has" in done.stderr


# ── Tokens ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("token", "problem"),
    [
        ("hf_canary1\nx", "character 11 of 12 is a line break"),
        ("hf_canary1\r\nhf_canary2", "character 11 of 2"),
        ("hf_canaryä", "character 10 of 10 is not ASCII"),
        ("hf_canary\u200b", "character 10 of 10 is not ASCII"),
        ("hf_can\x1bary1", "character 7 of 11 is a control character"),
        ("Bearer hf_canary1", "character 7 of 17 is a space"),
        ("hf_canary1;x=1", "character 11 of 14 is a semicolon"),
    ],
)
@pytest.mark.parametrize("way", ["variable", "file"])
def test_tokens_that_no_header_can_hold(
    plan: Plan, kind: Kind, tmp_path: Path, token: str, problem: str, way: str
) -> None:
    variables = {kind.token: token}
    where = kind.token
    if way == "file":
        if kind.source == "modelscope":
            pytest.skip("it has no such file")
        (tmp_path / "token").write_text(token, "utf-8")
        where = str(tmp_path / "token")
        variables = {"HF_TOKEN_PATH": where}
    done = plan(kind.source[0].replace("h", "hf").replace("m", "ms"), **variables)
    assert done.returncode == 4, done.stderr
    assert f"the token in {where} cannot be sent: {problem}" in done.stderr.replace("\n", " ")
    assert done.stderr.count("error:") == 1
    assert "canary" not in done.stdout + done.stderr


@pytest.mark.parametrize("content", [b"\xff\xfe canary", None])
def test_a_token_file_that_cannot_be_read(plan: Plan, tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "token"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    done = plan(HF_TOKEN_PATH=str(path))
    assert done.returncode == 4, done.stderr
    assert f"the token in {path} cannot be read" in done.stderr
    assert "canary" not in done.stderr


def test_white_space_around_a_token_is_no_part_of_it(plan: Plan, hub: Hub) -> None:
    hub.private.add(NAME)
    assert plan(HF_TOKEN=f" {hub.token}\r\n").returncode == 0


def test_a_password_in_the_endpoint_is_not_shown(plan: Plan) -> None:
    done = plan(HF_ENDPOINT="http://me:canary@127.0.0.1:9")
    assert done.returncode == 4
    assert "http://***@127.0.0.1:9 cannot be reached" in done.stderr
