"""Who can reach what a server offers: flags that run programs, and web pages that the user visits."""

from __future__ import annotations

import dataclasses

import pytest

from aimind import plan
from aimind.errors import UsageError
from aimind.launchers import LAUNCHERS, llama_server
from aimind.types import Backend, Command, Request
from tests.samples import device, host, llama, model

RISKY = [
    ("--tools", "all"),
    ("--tools=exec_shell_command",),
    ("--tools-runtime", "ssh:x"),
    ("--agent",),
    ("-ag",),
    ("--mcp-servers-config", "x.json"),
    ("--mcp-servers-json", "{}"),
    ("--ui-mcp-proxy",),
    ("--webui-mcp-proxy",),
]
BACKEND = Backend(name="llama-server", version="1", executable="/opt/llama-server")


@pytest.mark.parametrize("argv", RISKY, ids=lambda argv: str(argv[0]))
def test_flags_that_run_programs_want_a_key_or_this_machine_alone(argv: tuple[str, ...]) -> None:
    for address in ("0.0.0.0", "::", "192.168.1.2", "example.org"):
        request = Request(address=address, extra=("--threads", "3", *argv))
        with pytest.raises(UsageError, match=argv[0].partition("=")[0]) as caught:
            llama_server.check(request, BACKEND)
        assert "--api-key-file" in caught.value.hint
        llama_server.check(Request(address=address, extra=argv, api_key="key"), BACKEND)
        llama_server.check(Request(address=address, extra=("--threads", "3")), BACKEND)
    for local in (None, "127.0.0.1", "::1", "localhost"):
        llama_server.check(Request(address=local, extra=argv), BACKEND)


def test_the_variables_of_these_flags_are_no_way_around() -> None:
    with pytest.raises(UsageError, match="LLAMA_ARG_TOOLS lets clients run programs"):
        llama_server.check(Request(address="0.0.0.0", env={"LLAMA_ARG_TOOLS": "all"}), BACKEND)


# ── Web pages ──────────────────────────────────────────────────────────────────────────────────────────────


def command(backend: str, *extra: str, api_key: str | None = None, version: str | None = None) -> Command:
    """The command for a model of its format."""
    metadata = llama(safetensors=backend == "vllm")
    request = Request(backend=backend, extra=extra, api_key=api_key)
    decided = plan.make(model(metadata), metadata, host(device()), request, LAUNCHERS)
    if version is not None:
        decided = dataclasses.replace(decided, backend=dataclasses.replace(decided.backend, version=version))
    launcher = next(each for each in LAUNCHERS if each.NAME == backend)
    return launcher.command(decided, "/m")


@pytest.mark.parametrize("backend", ["llama-server", "xllamacpp"])
def test_llama_cpp_keeps_pages_of_other_sites_out(backend: str) -> None:
    """By a variable, which older builds ignore. What a key protects, pages may be shown."""
    name = "LLAMA_ARG_CORS_ORIGINS"
    assert command(backend).env[name] == "localhost"
    assert name not in command(backend, api_key="key").env
    assert name not in command(backend, "--cors-origins", "https://app.example").env


def test_vllm_keeps_pages_of_other_sites_out() -> None:
    """Since 0.32 it does so by itself."""
    assert "--allowed-origins" not in command("vllm").argv
    old = command("vllm", version="0.31.0").argv
    assert old[old.index("--allowed-origins") + 1] == "[]"
    assert "--allowed-origins" not in command("vllm", version="0.31.0", api_key="key").argv
    chosen = command("vllm", "--allowed-origins", '["https://app.example"]', version="0.31.0").argv
    assert chosen.count("--allowed-origins") == 1
