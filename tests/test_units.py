"""The text of units, held against systemd's own parser where there is one, and against its rules."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aimind import systemd, units
from aimind.errors import UsageError
from aimind.types import Device
from aimind.units import Credential, Unit

ANALYZE = shutil.which("systemd-analyze")
SYSTEMD = pytest.mark.skipif(ANALYZE is None, reason="needs systemd-analyze")
UNIT = Unit(
    name="demo",
    made_by=("aimind", "unit", "demo"),
    program="/usr/bin/env",
    arguments=("demo", "--port", "8000"),
    user="daemon",
)
HARDENED = dataclasses.replace(UNIT, user=None, hardened=True)
GPU = dataclasses.replace(HARDENED, device_nodes=("/dev/nvidia0", "/dev/nvidia3"), several_processes=True)
EVERY = {
    "plain": UNIT,
    "of a user": dataclasses.replace(UNIT, manager="user", user=None),
    "of a user, hardened": dataclasses.replace(HARDENED, manager="user"),
    "hardened": HARDENED,
    "hardened, as a user": dataclasses.replace(UNIT, hardened=True),
    "hardened, with devices": GPU,
    "hardened, alone": dataclasses.replace(HARDENED, loopback_only=True),
    "for ever": dataclasses.replace(UNIT, stall_seconds=0, locks_memory=True, backend_argv=("--mlock",)),
    "with secrets": dataclasses.replace(
        UNIT,
        credentials=(Credential(option="--api-key-file", name="aimind.api-key", path="/etc/a key"),),
        environment={"WORDS": "some words, 100 %"},
    ),
}
every_unit = pytest.mark.parametrize("unit", EVERY.values(), ids=EVERY)

# ── A parser of our own ────────────────────────────────────────────────────────────────────────────────────

SPACE = " \t"
SPECIFIERS = {"%": "%", "S": "/var/lib", "C": "/var/cache"}


def split(line: str, *, separators: str = SPACE) -> list[str]:
    """The words of a line, by systemd.syntax(7) and the escapes of systemd.service(5) that are used."""
    words: list[str] = []
    word: str | None = None
    quote = ""
    characters = iter(line)
    for character in characters:
        if character == "\\":
            following = next(characters)
            assert following in "\\\"'", f"another escape: {following!r}"
            word = (word or "") + following
        elif quote and character == quote:
            quote = ""
        elif quote or character not in f"\"'{separators}":
            word = (word or "") + character
        elif character in "\"'":
            word, quote = word or "", character
        elif word is not None:
            words, word = [*words, word], None
    assert not quote, "a quote without its end"
    return [*words, word] if word is not None else words


def specified(word: str) -> str:
    """The word after its specifiers; an unknown one is an error."""
    return re.sub("%(.?)", lambda match: SPECIFIERS[match[1]], word)


def expanded(word: str, variables: dict[str, str]) -> str:
    """The word after its variables, as `ExecStart=` has them: `${NAME}` and `$$`, no other `$`."""
    found = re.sub(r"\$\$|\$\{(\w+)\}", lambda match: variables[match[1]] if match[1] else "\0", word)
    assert "$" not in found, f"a variable that is none: {found}"
    return found.replace("\0", "$")


def values(text: str, key: str) -> list[str]:
    return [line.removeprefix(f"{key}=") for line in text.splitlines() if line.startswith(f"{key}=")]


def argv(text: str, variables: dict[str, str] | None = None) -> list[str]:
    """What systemd would start."""
    (line,) = values(text, "ExecStart")
    program, *words = map(specified, split(line))
    return [program, *(expanded(word, variables or {}) for word in words)]


def environment(text: str) -> dict[str, str]:
    pairs = (specified(word) for line in values(text, "Environment") for word in split(line))
    return {name: value for name, _, value in (pair.partition("=") for pair in pairs)}


# ── systemd itself ─────────────────────────────────────────────────────────────────────────────────────────


def analyze(path: Path, *words: str, debug: bool = False) -> subprocess.CompletedProcess[str]:
    env = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
    env |= {"HOME": str(path.parent), "XDG_RUNTIME_DIR": str(path.parent)}  # a user's manager wants them
    if debug:
        env["SYSTEMD_LOG_LEVEL"] = "debug"
    return subprocess.run(["systemd-analyze", *words, str(path)], capture_output=True, text=True, env=env)


def verify(path: Path, *, user: bool = False) -> str:
    """What systemd says against the unit; nothing, it is to be hoped."""
    done = analyze(path, "verify", "--man=no", *(("--user",) if user else ()))
    return done.stdout + done.stderr if done.returncode or done.stderr else ""


def dumped(path: Path, key: str) -> list[str]:
    """Lines of systemd's own dump of the unit."""
    done = analyze(path, "verify", "--man=no", debug=True)
    lines = (line.lstrip("\t") for line in done.stdout.split("\n"))
    return [line.removeprefix(f"{key}: ") for line in lines if line.startswith(f"{key}: ")]


def dumped_argv(path: Path) -> list[str]:
    """The words of ExecStart as systemd has read them, before `$` is looked at."""
    line = dumped(path, "Command Line")[0]
    found = re.findall(r'"((?:[^"\\]|\\.)*)"|(\S+)', line)
    return [bare or re.sub(r"\\(.)", r"\1", quoted) for quoted, bare in found]


# ── Laws ───────────────────────────────────────────────────────────────────────────────────────────────────

printable = st.text().filter(str.isprintable) | st.text(alphabet="\"'\\%$;#{}: a=-", max_size=8)


@given(st.lists(printable), st.lists(printable))
def test_the_same_words_come_back(arguments: list[str], backend_argv: list[str]) -> None:
    """Law: what systemd starts are the words that were meant."""
    unit = dataclasses.replace(UNIT, arguments=tuple(arguments), backend_argv=tuple(backend_argv))
    after = ["--", *backend_argv] if backend_argv else []
    assert argv(units.text(unit)) == [unit.program, "serve", *arguments, *after]


@given(st.dictionaries(st.from_regex("[A-Z_]+", fullmatch=True), printable))
def test_the_same_environment_comes_back(variables: dict[str, str]) -> None:
    found = environment(units.text(dataclasses.replace(UNIT, environment=variables)))
    assert {name: found[name] for name in variables} == variables


@SYSTEMD
@settings(max_examples=25, deadline=None)  # each starts a program
@given(words=st.lists(printable.filter(lambda word: "$" not in word), max_size=20))
def test_systemd_reads_the_same_words(tmp_path_factory: pytest.TempPathFactory, words: list[str]) -> None:
    """Law: systemd's own parser agrees with ours."""
    path = tmp_path_factory.mktemp("unit") / UNIT.file
    variables = {f"V{number}": word for number, word in enumerate(words)}
    text = units.text(dataclasses.replace(UNIT, arguments=tuple(words), environment=variables))
    path.write_text(text)
    assert dumped_argv(path) == argv(text) == [UNIT.program, "serve", *words]
    assert {f"{name}={value}" for name, value in variables.items()} <= set(dumped(path, "Environment"))


@SYSTEMD
def test_systemd_binds_the_same_paths(tmp_path: Path) -> None:
    paths = ("/home/a b", "/home/a:b", '/home/"', "/home/100%", "/root/\\")
    path = tmp_path / UNIT.file
    path.write_text(units.text(dataclasses.replace(HARDENED, visible=paths)))
    assert set(dumped(path, "BindReadOnlyPaths")) == {f"{each}:{each}:rbind" for each in paths}


@pytest.mark.parametrize("word", ["a\nb", "a\0", "\x1b[0m", "\udcff", "a\tb"])
def test_what_no_unit_can_hold_is_refused(word: str) -> None:
    for unit in (
        dataclasses.replace(UNIT, arguments=(word,)),
        dataclasses.replace(UNIT, made_by=("aimind", word)),
        dataclasses.replace(UNIT, environment={"A": word}),
        dataclasses.replace(UNIT, program=f"/{word}"),
        dataclasses.replace(HARDENED, visible=(word,)),
        dataclasses.replace(UNIT, credentials=(Credential(option="--x", name="x", path=f"/{word}"),)),
    ):
        with pytest.raises(UsageError):
            units.text(unit)


@pytest.mark.parametrize("path", ["/a b/aimind", '/"/aimind', "/\\/aimind"])
def test_a_program_that_systemd_would_not_start_is_refused(path: str) -> None:
    with pytest.raises(UsageError, match="systemd starts no program"):
        units.text(dataclasses.replace(UNIT, program=path))


def test_a_secret_is_named_by_the_variable_that_systemd_sets() -> None:
    text = units.text(EVERY["with secrets"])
    assert values(text, "LoadCredential") == ["aimind.api-key:/etc/a key"]
    *_, option, path = argv(text, {"CREDENTIALS_DIRECTORY": "/run/credentials/x"})
    assert (option, path) == ("--api-key-file", "/run/credentials/x/aimind.api-key")


# ── What systemd thinks of them ────────────────────────────────────────────────────────────────────────────


@SYSTEMD
@every_unit
def test_systemd_has_nothing_against_it(unit: Unit, tmp_path: Path) -> None:
    path = tmp_path / unit.file
    path.write_text(units.text(unit))
    assert verify(path, user=unit.manager == "user") == ""


@SYSTEMD
def test_systemd_would_have_something_against_a_bad_one(tmp_path: Path) -> None:
    path = tmp_path / UNIT.file
    path.write_text(
        units.text(dataclasses.replace(UNIT, program="/nowhere/aimind")).replace("KillMode", "KilMode")
    )
    said = verify(path)
    assert "KilMode" in said
    assert "/nowhere/aimind" in said


@SYSTEMD
@pytest.mark.parametrize(("unit", "threshold"), [(HARDENED, 13), (GPU, 16), (EVERY["hardened, alone"], 11)])
def test_a_hardened_unit_is_hard(unit: Unit, threshold: int, tmp_path: Path) -> None:
    """In tenths of systemd's exposure level, of which 100 are the worst."""
    path = tmp_path / unit.file
    path.write_text(units.text(unit))
    done = analyze(path, "security", "--offline=true", f"--threshold={threshold}", "--no-pager")
    assert done.returncode == 0, done.stdout
    path.write_text(units.text(dataclasses.replace(unit, hardened=False)))
    assert (
        analyze(path, "security", "--offline=true", f"--threshold={threshold}", "--no-pager").returncode != 0
    )


def test_a_unit_may_use_its_devices_alone() -> None:
    text = units.text(GPU)
    assert values(text, "DevicePolicy") == ["closed"]
    nodes = ["/dev/nvidia0", "/dev/nvidia3", "/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools"]
    assert values(text, "DeviceAllow") == [f"{node} rw" for node in nodes]
    assert values(units.text(HARDENED), "PrivateDevices") == ["yes"]


def test_units_of_different_users_have_different_folders() -> None:
    folders = {values(units.text(unit), "StateDirectory")[0] for unit in (UNIT, HARDENED, GPU)}
    assert folders == {"aimind", "aimind-daemon"}


def test_systemd_is_as_patient_as_the_supervisor() -> None:
    slow = units.text(dataclasses.replace(UNIT, stall_seconds=900.5, stop_seconds=60, probe_seconds=30))
    assert values(slow, "TimeoutStartSec") == ["901"]
    assert values(slow, "TimeoutStopSec") == [
        "135"
    ]  # TERM, TERM again after a minute, KILL after another one
    assert values(slow, "WatchdogSec") == ["360"]  # three probes fail after 30 + 30 seconds each
    assert values(units.text(EVERY["for ever"]), "TimeoutStartSec") == ["infinity"]


# ── This machine ───────────────────────────────────────────────────────────────────────────────────────────


def device(index: int, uuid: str) -> Device:
    return Device(index=index, uuid=uuid, vendor="nvidia", name="GPU", total_bytes=1, free_bytes=1)


def test_a_device_s_node_has_the_driver_s_number(tmp_path: Path) -> None:
    for folder, uuid, minor in (("0000:01:00.0", "GPU-a", 1), ("0000:02:00.0", "GPU-b", 0)):
        (tmp_path / folder).mkdir()
        said = f"Model: \t\t NVIDIA H200\nIRQ:   \t\t 1\nGPU UUID: \t {uuid}\nDevice Minor: \t {minor}\n"
        (tmp_path / folder / "information").write_text(said)
    devices = (device(0, "GPU-a"), device(1, "GPU-b"), device(2, "GPU-c"))
    assert systemd.device_nodes(devices, tmp_path) == ("/dev/nvidia1", "/dev/nvidia0", "/dev/nvidia2")
    assert systemd.device_nodes(devices[:1], tmp_path / "nowhere") == ("/dev/nvidia0",)
    parts = (device(0, "MIG-a"), device(0, "MIG-b"))
    assert systemd.device_nodes(parts, tmp_path) == ("/dev/nvidia0", "char-nvidia-caps")


def test_amd_devices_have_one_node_and_a_kind() -> None:
    radeon = dataclasses.replace(device(0, "GPU-1"), vendor="amd")
    assert systemd.device_nodes((radeon,)) == ("/dev/kfd", "char-drm")


def test_only_what_is_hidden_is_bound_and_only_once(tmp_path: Path) -> None:
    asked = ("/home/a/b", "/home/a", "/usr/lib", "/root/x/y/z", "/homes/c", "/tmp/t")
    assert systemd.outermost_hidden(map(Path, asked)) == tuple(
        map(Path, ("/home/a", "/root/x/y/z", "/tmp/t"))
    )


def test_a_link_is_bound_with_what_it_points_to(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.mkdir()
    link.symlink_to(target)
    assert systemd.outermost_hidden([link]) == (link, target)


def test_what_others_cannot_read(tmp_path: Path) -> None:
    folder = tmp_path / "private" / "folder"
    folder.mkdir(parents=True)
    file = folder / "file"
    file.touch(mode=0o644)
    folder.parent.chmod(0o700)
    assert systemd.closed(file, [folder]) is None  # what is above is another folder in the unit
    assert systemd.closed(file, [tmp_path / "private"]) == folder.parent
    folder.parent.chmod(0o755)
    file.chmod(0o640)
    assert systemd.closed(file, [tmp_path / "private"]) == file
