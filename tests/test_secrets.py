"""Canaries: an API key and a hub token are searched for wherever others could read them."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from aimind.hub.local import DEMO, DEMO_GGUF
from aimind.types import PRIVATE_VARIABLES
from tests.fakes.hub import Hub
from tests.instances.conftest import Home, home
from tests.supervisor.harness import LINUX, ask_each

__all__ = ["home"]
pytestmark = LINUX
# Other tests, which run at the same time, have others.
KEY, TOKEN = f"canary-key-{os.getpid()}x", f"hf_canaryToken{os.getpid()}x"
DEMANDING = ("--key-env", "LLAMA_API_KEY", "--open-health")  # it serves nobody without the key


@dataclasses.dataclass
class Given:
    """How aimind got the secrets: options for it, and where they may be found."""

    way: str
    options: tuple[str, ...]
    files: set[Path]
    model: str
    said: list[str] = dataclasses.field(default_factory=list)


@pytest.fixture(params=["file", "variable", "credential"])
def given(request: pytest.FixtureRequest, home: Home) -> Iterator[Given]:
    """A gated model on a hub that wants the token, and the secrets in one of the ways."""
    way = str(request.param)
    repositories, secrets, temporary = (home.folder / name for name in ("hub", "secrets", "tmp"))
    (repositories / "owner" / "demo").mkdir(parents=True)
    shutil.copy(DEMO / DEMO_GGUF, repositories / "owner" / "demo")
    for folder in (secrets, temporary):
        folder.mkdir()
    home.env |= {"HF_HUB_OFFLINE": "0", "TMPDIR": str(temporary)}
    home.fake(*DEMANDING)
    found = Given(way=way, options=(), files=set(), model="owner/demo")
    if way == "variable":
        home.env |= {"AIMIND_API_KEY": KEY, "HF_TOKEN": TOKEN}
    else:
        names = {"file": ("key", "token"), "credential": ("aimind.api-key", "aimind.hf-token")}[way]
        found.files = {secrets / name for name in names}
        for name, secret in zip(names, (KEY, TOKEN), strict=True):
            (secrets / name).write_text(f"{secret}\n")
            (secrets / name).chmod(0o600)  # else there is a warning
        if way == "file":
            found.options = ("--api-key-file", "secrets/key", "--hf-token-file", "secrets/token")
        else:
            home.env["CREDENTIALS_DIRECTORY"] = str(secrets)
    with Hub(repositories) as hub:
        hub.token = TOKEN
        hub.gated.add("owner/demo")
        home.env["HF_ENDPOINT"] = hub.url
        yield found


def say(home: Home, given: Given, *words: str, code: int | None = 0) -> str:
    """Run it with the secrets; all that it prints is kept."""
    command, *rest = words
    with_model = command in ("serve", "plan", "unit")
    backend_argv = rest[rest.index("--") :] if "--" in rest else []
    rest = rest[: len(rest) - len(backend_argv)]
    more = [given.model, "--backend", "llama-server", *given.options] if with_model else []
    done = home.run(command, *more, *rest, *backend_argv)
    given.said.append(done.stdout + done.stderr)
    assert code is None or done.returncode == code, given.said[-1]
    return given.said[-1]


def assert_hidden(home: Home, given: Given) -> None:
    """In no output, in no file but those that were given, in no command line of this machine."""
    for secret in (KEY, TOKEN):
        assert not [said for said in given.said if secret in said]
        assert not [path for path in files_with(secret, home.folder) if path not in given.files]
        assert not command_lines_with(secret)


def files_with(secret: str, folder: Path) -> list[Path]:
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_fifo())
    return [path for path in files if secret.encode() in path.read_bytes()]


def command_lines_with(secret: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if secret.encode() in line:
            found.append(line.decode(errors="replace"))
    return found


def environ(process: psutil.Process) -> str:
    return Path(f"/proc/{process.pid}/environ").read_text()


def test_the_search_finds_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "log").write_text(f"the key is {KEY}")
    assert files_with(KEY, tmp_path) == [tmp_path / "log"]
    said = "print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", said, TOKEN], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()  # Until it runs, its command line is empty.
        assert len(command_lines_with(TOKEN)) == 1
        process.kill()


# ── Whatever is done ───────────────────────────────────────────────────────────────────────────────────────


def test_planning_shows_no_secret(home: Home, given: Given) -> None:
    say(home, given, "plan")
    document = json.loads(say(home, given, "plan", "--json"))
    assert document["command"]["env"]["LLAMA_API_KEY"] == "***"
    assert 'LLAMA_API_KEY="$AIMIND_API_KEY"' in say(home, given, "serve", "--dry-run")
    refused = 2 if given.way != "file" else 0
    for words in ((), ("--hardened",), ("--user",)):
        say(home, given, "unit", *words, code=refused)  # a unit takes a key from a file alone
    assert_hidden(home, given)


def test_serving_shows_no_secret(home: Home, given: Given) -> None:
    say(home, given, "serve", "--detach", "--port", "0", "--name", "demo")
    for words in (
        ("ps",),
        ("ps", "--json"),
        ("status", "demo"),
        ("status", "demo", "--json"),
        ("logs", "demo"),
    ):
        say(home, given, *words)
    supervisor = psutil.Process(home.status()["pid"])
    backend = psutil.Process(home.status()["backend_pid"])
    assert KEY in environ(backend)  # that is how it gets it
    tree = [supervisor, *supervisor.children(recursive=True)]
    environments = ask_each(tree, psutil.Process.environ)
    assert len(environments) >= 4  # the supervisor, what watches with it, and the backend
    assert not [pid for pid, found in environments.items() if TOKEN in str(found)]
    with_key = [pid for pid, found in environments.items() if KEY in str(found)]
    assert with_key == [backend.pid]
    assert_hidden(home, given)
    say(home, given, "restart", "demo")
    assert_hidden(home, given)
    say(home, given, "stop", "demo")
    assert_hidden(home, given)


def test_serving_in_the_foreground_shows_no_secret(home: Home, given: Given) -> None:
    options = ("--backend", "llama-server", "--port", "0", "--name", "demo", *given.options)
    process = home.start("serve", given.model, *options)
    home.wait_for_state("ready")
    assert_hidden(home, given)
    process.send_signal(signal.SIGTERM)
    assert process.stdout is not None
    assert process.stderr is not None
    given.said += [process.stdout.read(), process.stderr.read()]
    assert process.wait() == 143
    assert "Authorization: Bearer $AIMIND_API_KEY" in given.said[-2]
    assert_hidden(home, given)


def test_failing_shows_no_secret(home: Home, given: Given) -> None:
    serve = ("serve", "--port", "0", "--restart", "never")
    home.fake("--exit-at-start", "7")
    say(home, given, *serve, code=7)
    say(home, given, *serve, "--detach", code=None)
    home.fake("--refuse")
    say(home, given, *serve, code=None)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        say(home, given, "serve", "--port", str(taken.getsockname()[1]), code=11)
    say(home, given, *serve, "--debug", "--context", "1g", code=None)
    say(home, given, *serve, "--debug", "--revision", "nowhere", code=None)
    home.env["AIMIND_STATE_DIR"] = "/proc/nowhere"
    assert "Traceback" in say(home, given, *serve, "--debug", code=None)
    assert_hidden(home, given)


def test_a_bug_shows_no_secret(home: Home, given: Given) -> None:
    """Here of the library for HTTP, of which a broken one is found first."""
    broken = home.folder / "broken" / "httpx2"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise RuntimeError('broken')")
    home.env["PYTHONPATH"] = str(broken.parent)
    shown = say(home, given, "serve", "--port", "0", "--debug", code=70)
    assert "this is a bug in aimind" in shown
    assert "Traceback" in shown
    (report,) = (home.folder / "tmp").glob("aimind-*.log")
    assert "Traceback" in report.read_text()
    assert_hidden(home, given)


# ── What the backend gets ──────────────────────────────────────────────────────────────────────────────────


def test_the_backend_gets_nothing_of_ours(home: Home) -> None:
    names = [name.replace("*", "FDS") for name in PRIVATE_VARIABLES if not name.startswith("WATCHDOG")]
    home.env |= dict.fromkeys(names, "") | {"HF_TOKEN": TOKEN, "AIMIND_API_KEY": KEY, "LISTEN_FDS": "3"}
    program = home.folder / "programs" / "llama-server"
    asked = home.folder / "asked"  # what it is, before anything is planned
    program.write_text(program.read_text().replace("\nexec", f"\nenv >> {asked}\nexec"))
    home.serve()
    found = environ(psutil.Process(home.status()["backend_pid"])).split("\0")
    assert "LLAMA_API_KEY" in {line.partition("=")[0] for line in found}
    assert len(asked.read_text().split("PATH=")) > 3  # for its version, its devices, to serve
    for lines in (found, asked.read_text().splitlines()):
        assert not {line.partition("=")[0] for line in lines} & {*names}


@pytest.mark.parametrize(
    "ways", [("file", "variable", "credential"), ("variable", "credential"), ("credential",), ()]
)
def test_which_key_it_is(home: Home, ways: tuple[str, ...]) -> None:
    """The first of the file, the variable and the credential."""
    home.fake("--print-env", "LLAMA_API_KEY", "--exit-at-start", "0")
    (home.folder / "file").write_text("of-file")
    (home.folder / "aimind.api-key").write_text("of-credential\n")
    if "variable" in ways:
        home.env["AIMIND_API_KEY"] = "of-variable"
    if "credential" in ways:
        home.env["CREDENTIALS_DIRECTORY"] = str(home.folder)
    options = ("--api-key-file", "file") if "file" in ways else ()
    printed = home.good(
        "serve", "demo", "--backend", "llama-server", "--no-supervise", "--port", "0", *options
    )
    assert f"LLAMA_API_KEY={f'of-{ways[0]}' if ways else None}\n" in printed


@pytest.mark.parametrize("text", ["", "  ", "\n", "two words"])
def test_a_blank_key_is_refused(home: Home, text: str) -> None:
    """Who sets it wants a key: without one the API would be open."""
    home.env["AIMIND_API_KEY"] = text
    done = home.run("serve", "demo", "--backend", "llama-server", "--no-supervise", "--port", "0")
    assert done.returncode == 2
    assert "AIMIND_API_KEY is set but does not contain a key" in done.stderr


def test_a_file_with_a_secret_that_others_can_read(home: Home) -> None:
    file = home.folder / "key"
    file.write_text(KEY)
    for mode in (0o644, 0o640, 0o604):
        file.chmod(mode)
        done = home.run("plan", "demo", "--backend", "llama-server", "--api-key-file", "key")
        assert done.returncode == 0
        assert "warning: key holds a secret, and other users can read it: chmod go-r key" in done.stderr
    file.chmod(0o600)
    done = home.run("plan", "demo", "--backend", "llama-server", "--api-key-file", "key")
    assert "can read it" not in done.stderr


@pytest.mark.parametrize("text", ["", "two words", "two\nlines", "\xff"])
@pytest.mark.parametrize("option", ["--api-key-file", "--hf-token-file"])
def test_a_file_that_holds_no_secret(home: Home, option: str, text: str) -> None:
    (home.folder / "secret").write_bytes(text.encode("latin-1"))
    done = home.run("plan", "demo", option, "secret")
    assert done.returncode == 2
    assert "contains neither a key nor a token" in done.stderr


@pytest.mark.parametrize(
    "words", [("--api-key", KEY), (f"--api-key={KEY}",), ("--hf-token", KEY), ("-hft", KEY)]
)
def test_a_secret_is_no_argument_of_the_backend(home: Home, words: tuple[str, ...]) -> None:
    done = home.run("serve", "demo", "--backend", "llama-server", "--", *words)
    assert done.returncode == 2
    assert "list of processes" in done.stderr or "token" in done.stderr
    assert KEY not in done.stdout + done.stderr


def test_a_secret_is_no_argument_of_ours(home: Home) -> None:
    done = home.run("plan", "demo", "--env", f"WANDB_API_KEY={KEY}")
    assert done.returncode == 2
    assert "export WANDB_API_KEY, then --env WANDB_API_KEY" in done.stderr
    assert KEY not in done.stderr


def test_a_variable_is_passed_on(home: Home) -> None:
    """Also one that is a secret, whose value is not shown; the line of --dry-run has it from the shell."""
    home.env |= {"WANDB_API_KEY": TOKEN, "COLOR": "red", "AIMIND_API_KEY": KEY}
    names = ("WANDB_API_KEY", "COLOR", "SHAPE", "LLAMA_API_KEY")
    home.fake("--exit-at-start", "0", *(word for name in names for word in ("--print-env", name)))
    words = ("--backend", "llama-server", "--env", "WANDB_API_KEY", "--env", "COLOR", "--env", "SHAPE=round")
    shown = home.good("plan", "demo", "--json", *words)
    env = json.loads(shown)["command"]["env"]
    assert {name: env[name] for name in names} == {
        "WANDB_API_KEY": "***",
        "COLOR": "red",
        "SHAPE": "round",
        "LLAMA_API_KEY": "***",
    }
    line = home.good("serve", "demo", *words, "--dry-run")
    assert TOKEN not in shown + line
    assert KEY not in shown + line
    done = subprocess.run(line, shell=True, capture_output=True, text=True, env={**os.environ, **home.env})
    assert done.stdout.splitlines() == [
        f"WANDB_API_KEY={TOKEN}",
        "COLOR=red",
        "SHAPE=round",
        f"LLAMA_API_KEY={KEY}",
    ]


@pytest.mark.parametrize(
    ("word", "wanted"), [("COLOR", "COLOR=VALUE"), ("=red", "NAME=VALUE"), ("", "NAME=VALUE")]
)
def test_a_variable_that_has_no_value(home: Home, word: str, wanted: str) -> None:
    done = home.run("plan", "demo", "--env", word)
    assert done.returncode == 2
    assert wanted in done.stderr
