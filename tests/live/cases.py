"""The backends that run here: each with a tiny model of what it is for, and a request that it must answer."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from aimind.launchers import llama_cpp_python, llama_server, mlx, transformers, vllm, vox_box, xllamacpp
from aimind.launchers.base import Launcher
from tests.live import debian, memory
from tests.live.served import DATA, Served
from tests.samples import SENTENCE

# What tests/live/tiny_whisper.py makes a model hear.
HEARD = "I am a tiny whisper and I work."
Damage = Callable[[Path], None]


# ── Requests ───────────────────────────────────────────────────────────────────────────────────────────────


def says_its_sentence(served: Served, folder: Path) -> None:
    assert served.tried()["choices"][0]["message"]["content"]
    assert served.say("Who are you?", name=served.name) == SENTENCE


def embeds(served: Served, folder: Path) -> None:
    """A cat is nearer to a kitten than to a car."""
    assert len(served.tried()["data"][0]["embedding"]) == 384
    answer = served.post("/v1/embeddings", {"model": served.name, "input": ["cat", "kitten", "car"]})
    cat, kitten, car = (item["embedding"] for item in answer["data"])
    assert similarity(cat, kitten) > similarity(cat, car)


def similarity(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True)) / (math.hypot(*one) * math.hypot(*other))


def hears(served: Served, folder: Path) -> None:
    """The folder has a file of the name that is printed."""
    assert served.tried(folder) == {"text": HEARD}


# ── In the shell ───────────────────────────────────────────────────────────────────────────────────────────

# `aimind` with these words, in a folder with a sound: what it prints.
Shell = Callable[..., str]


def chats(name: str, aimind: Shell) -> None:
    assert (
        aimind("chat", name, "Who", "are", "you?", "--temperature", "0", "--max-tokens", "64")
        == f"{SENTENCE}\n"
    )
    load = ("--at-once", "2", "--requests", "4", "--prompt-tokens", "32", "--answer-tokens", "8")
    [result] = json.loads(aimind("bench", name, *load, "--json"))["results"]
    assert (result["completed"], result["failed"]) == (4, 0)
    assert result["total_input_tokens"] > 4 * 16
    assert 0 < result["total_output_tokens"] <= 4 * 8
    assert 0 < result["median_ttft_ms"] <= result["median_e2el_ms"]


def prints_vectors(name: str, aimind: Shell) -> None:
    assert len(json.loads(aimind("chat", name, "cat"))) == 384


def prints_what_it_hears(name: str, aimind: Shell) -> None:
    assert aimind("chat", name, "speech.wav") == f"{HEARD}\n"


# ── Models that cannot be loaded ───────────────────────────────────────────────────────────────────────────


def cut_short(pattern: str) -> Damage:
    """The file lacks its second half."""

    def damage(folder: Path) -> None:
        (path,) = folder.glob(pattern)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return damage


def other_bytes(pattern: str, old: bytes, new: bytes) -> Damage:
    """The file's header is one of another model's, as long as before."""

    def damage(folder: Path) -> None:
        (path,) = folder.glob(pattern)
        data = path.read_bytes()
        assert old in data
        assert len(old) == len(new)
        path.write_bytes(data.replace(old, new, 1))

    return damage


# Planning sees that bytes are missing; that a tensor is, or has another shape, the backend alone.
DAMAGED_FILE, FAILED = 5, 1
GGUF: Mapping[str, tuple[Damage, int]] = {
    "cut short": (cut_short("*.gguf"), DAMAGED_FILE),
    "without a tensor": (other_bytes("*.gguf", b"output_norm.weight", b"output_nurm.weight"), FAILED),
}
SAFETENSORS: Mapping[str, tuple[Damage, int]] = {
    "cut short": (cut_short("*.safetensors"), DAMAGED_FILE),
    "of another shape": (other_bytes("*.safetensors", b'"shape":[256,128]', b'"shape":[128,256]'), FAILED),
}
CTRANSLATE2: Mapping[str, tuple[Damage, int]] = {"cut short": (cut_short("model.bin"), FAILED)}


# ── The cases ──────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, kw_only=True)
class Case:
    """A backend on a model.

    Attributes:
        launcher: of the backend.
        serves: what for.
        model: the fixture that has its folder, or its file.
        arguments: of `aimind plan` and `aimind serve`, besides the model and the backend.
        in_shell: uses the instance of this name by `aimind chat` and so on, and checks what they print.
        asks: makes a request of its kind, in a folder with a sound, and checks the answer.
        weighs: compares its memory with the plan.
        ends: each after a start: `TERM`, or `KILL` of itself and then of the supervisor.
        damages: what makes its model bad -> how, and the exit code that follows.
        shares: it has shared memory, which could be left.
        pages: web pages of other sites may read its answers, and no option of its keeps them out.
    """

    launcher: Launcher
    serves: str = "chat"
    model: str = "demo_folder"
    arguments: tuple[str, ...] = ()
    asks: Callable[[Served, Path], None] = says_its_sentence
    in_shell: Callable[[str, Shell], None] = chats
    weighs: Callable[[Served, memory.Plan], None] = memory.is_enough
    ends: tuple[str, ...] = ("TERM", "KILL")
    damages: Mapping[str, tuple[Damage, int]] = field(default_factory=lambda: SAFETENSORS)
    shares: bool = False
    pages: bool = False

    def __str__(self) -> str:
        return f"{self.launcher.NAME} {self.serves}"

    @property
    def words(self) -> tuple[str, ...]:
        """All arguments but the model."""
        return ("--backend", self.launcher.NAME, "--device", "none", *self.arguments)

    @property
    def env(self) -> Mapping[str, str]:
        """Where the backend is found."""
        if self.launcher is not llama_server:
            return {}
        return {"PATH": f"{debian.llama_server(DATA / 'llama-server')}:{os.environ['PATH']}"}


CASES = (
    Case(
        launcher=llama_server,
        model="demo_file",
        arguments=("--", "-lv", "4"),
        weighs=memory.is_in_the_log,
        damages=GGUF,
    ),
    Case(launcher=xllamacpp, model="demo_file", weighs=memory.is_in_the_log, damages=GGUF),
    Case(
        launcher=llama_cpp_python,
        model="demo_file",
        weighs=memory.is_in_the_log,
        damages=GGUF,
        pages=True,
    ),
    Case(
        launcher=vox_box,
        serves="speech",
        model="whisper",
        asks=hears,
        in_shell=prints_what_it_hears,
        damages=CTRANSLATE2,
    ),
    Case(launcher=mlx, arguments=("--force",)),
    # One start takes half a minute: each is put to more than one use.
    Case(
        launcher=vllm,
        arguments=("--context", "2048", "--", "--enforce-eager"),
        weighs=memory.is_as_many_tokens,
        ends=("KILL",),
        shares=True,
    ),
    Case(
        launcher=vllm,
        serves="chat on two ranks",
        arguments=("--context", "2048", "--", "--enforce-eager", "--tensor-parallel-size", "2"),
        weighs=memory.is_as_many_tokens,
        ends=("TERM",),
        damages={},
        shares=True,
    ),
    Case(
        launcher=vllm,
        serves="embedding",
        model="minilm",
        arguments=("--", "--enforce-eager"),
        asks=embeds,
        in_shell=prints_vectors,
        ends=("TERM",),
        damages={},
        shares=True,
    ),
    Case(launcher=transformers),
)
