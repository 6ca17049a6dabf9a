"""What a file or a variable cannot say: one error with its place; and which files are not heard."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.configuration.conftest import Configured, write
from tests.supervisor.harness import LINUX

pytestmark = LINUX
CANARY = "canary-5e1f"
ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")


@pytest.mark.parametrize(
    ("text", "line", "message", "hint"),
    [
        ("contxt = 1", 1, "there is no key 'contxt'", "did you mean context?"),
        ("\nkv-cache-typ = 1", 2, "there is no key 'kv-cache-typ'", "did you mean kv_cache_type?"),
        ("detach = true", 1, "there is no key 'detach'", "docs/configuration.md"),
        ("[serve]\nport = 1", 1, "there is no key 'serve'", ""),
        ("[models.x]\nparalel = 1", 2, "there is no key 'paralel' in [models.x]", "did you mean parallel?"),
        ("[backends.vlm]\nversion = '1'", 1, "no backend is called 'vlm'", "did you mean vllm?"),
        ("[backends.x]\nversion = '1'", 1, "no backend is called 'x'", "there are llama-server"),
        (
            "[backends.vllm]\n\nverson = '1'",
            3,
            "there is no key 'verson' in [backends.vllm]",
            "did you mean version?",
        ),
        ("[backends.vllm]\nport = 1", 2, "there is no key 'port' in", "port stands before all tables"),
        ("[backends.vllm]\nversion = 1", 2, "backends.vllm.version: it should be a valid string", ""),
        ("[backends.vllm]\nargs = '-x'", 2, "backends.vllm.args: it should be a valid list", ""),
        (
            "[backends.vllm]\nargs = [\n'-x', true]",
            2,
            "backends.vllm.args.1: it should be text or a number",
            "",
        ),
        ("context = 8192\nport = 70000", 2, "port: it should be less than or equal to 65535", "AIMIND_PORT"),
        ("port = '80'", 1, "port: it should be a valid integer", "--port"),
        ("context = '8x'", 1, "context: '8x' is not a number of tokens", "or max"),
        ("context = true", 1, "context: it should be text or a number", ""),
        ("context = 0", 1, "context: a context needs at least one token", ""),
        ("device = 'one'", 1, "device: 'one' is not a list of devices", ""),
        ("device = [0, 0]", 1, "names a device twice", ""),
        ("restart = 'alway'", 1, "restart: it should be 'always', 'on-failure' or 'never'", "--restart"),
        ("probe_interval = 0", 1, "probe_interval: 0 is not more than 0", ""),
        ("gpu_memory_utilization = 1.1", 1, "1.1 is not more than 0 and at most 1", ""),
        ("no_install = 'yes'", 1, "no_install: it should be a valid boolean", ""),
        ("backend = ''", 1, "backend: ", ""),
        ("env = 1", 1, "env: it should be a valid dictionary", ""),
        ("[env]\n'A=B' = 1", 2, "env.A=B: this cannot be the name of a variable", ""),
        ("[env]\nA = true", 2, "env.A: it should be text or a number", ""),
        ("a = 1\na = 2", 2, "Cannot overwrite a value", "TOML"),
        ("a = [1,\n2", 2, "Unclosed array", "TOML"),
        ("a = " + "[" * 3000, 0, "nested too deeply", ""),
    ],
)
def test_an_error_names_file_line_and_key(
    at: Configured, text: str, line: int, message: str, hint: str
) -> None:
    write(at.here, text)
    first, second = at.refused().splitlines()
    assert first.startswith(f"error: ./aimind.toml:{line}: " if line else "error: ./aimind.toml ")
    assert message in first
    assert second.startswith("hint: ")
    assert hint in second


def test_of_several_errors_the_first_is_told(at: Configured) -> None:
    write(at.own, "[backends.vllm]\nx = 1\n[env]\ny = true\n")
    assert f"{at.own}:2: there is no key 'x'" in at.refused()


@pytest.mark.parametrize(
    "text",
    [
        f'api_key = "{CANARY}"',
        f'hf_token = "{CANARY}"',
        f'[env]\nHF_TOKEN = "{CANARY}"',
        f'[backends.vllm]\napi_key = "{CANARY}"',
        f'[backends.vllm.env]\nVLLM_API_KEY = "{CANARY}"',
        f'[backends.llama-server]\nargs = ["--api-key", "{CANARY}"]',
    ],
)
def test_a_secret_is_no_value(at: Configured, text: str) -> None:
    at.trust(text)
    said = at.refused("plan", "demo", "--backend", "llama-server")
    assert "secret" in said or "list of processes" in said
    assert CANARY not in said


def test_secrets_are_not_shown(at: Configured) -> None:
    (at.home.folder / "key").write_text(CANARY)
    at.trust('api_key_file = "key"')
    at.home.env["AIMIND_API_KEY"] = CANARY
    for words in ((), ("--json",)):
        done = at.home.run("config", *words)
        assert done.returncode == 0
        assert CANARY not in done.stdout + done.stderr
        assert f"{at.home.folder}/key" in done.stdout
    assert at.shown()["variables"]["AIMIND_API_KEY"] == "(set)"


# ── Variables ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("AIMIND_CONTEXT", "8x", "'8x' is not a number of tokens"),
        ("AIMIND_PORT", "70000", "70000 is more than 65535"),
        ("AIMIND_NO_INSTALL", "perhaps", "'perhaps' is neither true nor false"),
        ("AIMIND_RESTART", "alway", "'alway' is not one of"),
        ("AIMIND_API_KEY_FILE", "nowhere", "the file nowhere does not exist"),
    ],
)
def test_a_variable_with_a_wrong_value(at: Configured, name: str, text: str, message: str) -> None:
    at.home.env[name] = text
    said = at.refused("plan", "demo")
    assert f"error: {name}: " in said
    assert message in said
    assert f"--{name[7:].lower().replace('_', '-')}" in said


def test_a_variable_that_means_nothing(at: Configured) -> None:
    at.home.env |= {"AIMIND_CONTXT": "1", "AIMIND_HF_TOKEN": CANARY, "AIMIND_X": "1"}
    done = at.home.run("plan", "demo", "--quiet")
    assert done.returncode == 0
    assert done.stderr == ""
    done = at.home.run("plan", "demo")
    assert [line for line in done.stderr.splitlines() if line.startswith("warning")] == [
        "warning: AIMIND_CONTXT is not a variable of aimind: did you mean AIMIND_CONTEXT?",
        "warning: AIMIND_HF_TOKEN is not a variable of aimind: did you mean AIMIND_HF_TOKEN_FILE?",
        "warning: AIMIND_X is not a variable of aimind",
    ]


# ── Files that are not heard ───────────────────────────────────────────────────────────────────────────────


def test_a_file_that_anybody_can_write_is_not_heard(at: Configured) -> None:
    write(at.here, "context = 4096")
    at.here.chmod(0o646)
    done = at.home.run("plan", "demo", "--json")
    assert '"max_model_len": 8192' in done.stdout
    assert (
        done.stderr
        == "warning: ./aimind.toml is ignored: every user can write to it: chmod o-w aimind.toml\n"
    )
    assert at.shown()["files"] == [
        {
            "path": "./aimind.toml",
            "problem": "every user can write to it: chmod o-w aimind.toml",
            "needs_trust": [],
        }
    ]


@ROOT
def test_a_file_of_another_user_is_not_heard(at: Configured) -> None:
    write(at.here, "context = 4096")
    os.chown(at.here, 1234, -1)
    done = at.home.run("plan", "demo", "--json")
    assert '"max_model_len": 8192' in done.stdout
    assert "./aimind.toml is ignored: it belongs to another user (1234)" in done.stderr
    at.home.env["SUDO_UID"] = "1234"  # whose folder it is, by sudo
    assert at.plan()["max_model_len"] == 4096


@ROOT
def test_a_link_of_another_user_is_not_heard(at: Configured) -> None:
    write(at.home.folder / "mine", "context = 4096")
    at.here.symlink_to("mine")
    assert at.plan()["max_model_len"] == 4096
    os.lchown(at.here, 1234, -1)
    assert "belongs to another user" in at.home.run("plan", "demo").stderr


@pytest.mark.parametrize("kind", ["pipe", "folder", "binary", "huge", "dangling"])
def test_what_is_no_file_of_ours(at: Configured, kind: str) -> None:
    def make(path: Path) -> None:
        match kind:
            case "pipe":
                os.mkfifo(path, 0o644)
            case "folder":
                path.mkdir()
            case "binary":
                path.write_bytes(b"\xff\xfe")
            case "huge":
                path.write_text("# long\n" * 100_000)
            case "dangling":
                path.symlink_to("nowhere")

    make(at.here)
    done = at.home.run("plan", "demo")
    assert done.returncode == 0
    assert "warning: ./aimind.toml is ignored: " in done.stderr
    if kind != "dangling":
        make(at.own)
        assert f"error: {at.own} cannot be read: " in at.refused()
