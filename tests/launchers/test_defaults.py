"""Who is heard: what is typed, variables, the arguments of the configuration, its general options."""

from __future__ import annotations

import dataclasses
import itertools
from types import ModuleType

import pytest

from aimind.errors import UsageError
from aimind.launchers import llama_server, sglang, vllm
from aimind.launchers.arguments import absorb
from aimind.launchers.defaults import resolve
from aimind.launchers.flags import check_flags
from aimind.types import Backend, Defaults, Preset, Request

CONTEXT = {llama_server: "-c", vllm: "--max-model-len", sglang: "--context-length"}
WHERE = "aimind.toml:7"


def request(launcher: ModuleType, voices: frozenset[str]) -> Request:  # each voice says another context
    flag = CONTEXT[launcher]
    value = {"option": 1000, "special": 3000, "general": 5000}
    held = next((value[name] for name in value if name in voices), None)
    untyped = voices & {"special", "general"} and "option" not in voices
    return Request(
        max_model_len=held,
        extra=(flag, "2000") if "argument" in voices else (),
        defaults=Defaults(
            fields={"max_model_len": "somewhere"} if untyped else {},
            general=frozenset() if "special" in voices else frozenset({"max_model_len"}),
            backends={launcher.NAME: Preset(args=(flag, "4000"), where=WHERE)} if "preset" in voices else {},
        ),
    )


VOICES = ("argument", "special", "preset", "general")
WORD = {"argument": 2000, "special": 3000, "preset": 4000, "general": 5000}


@pytest.mark.parametrize("launcher", CONTEXT, ids=lambda each: each.NAME)
@pytest.mark.parametrize("count", range(len(VOICES) + 1))
def test_the_strongest_voice_is_heard(launcher: ModuleType, count: int) -> None:
    for voices in map(frozenset, itertools.combinations(VOICES, count)):
        found = resolve(launcher, request(launcher, voices)).request
        strongest = next((name for name in VOICES if name in voices), None)
        said = found.max_model_len or found.kv_cache_tokens  # llama.cpp's flag is about all requests
        assert said == (WORD[strongest] if strongest else None), voices
        assert None in (found.max_model_len, found.kv_cache_tokens)
        assert found.extra == ()


@pytest.mark.parametrize("launcher", CONTEXT, ids=lambda each: each.NAME)
@pytest.mark.parametrize("count", range(len(VOICES) + 1))
def test_what_holds_can_be_typed_instead(launcher: ModuleType, count: int) -> None:
    """An instance is started again by the words, and the configuration is not heard then."""
    for voices in map(frozenset, itertools.combinations(VOICES, count)):
        asked = request(launcher, voices)
        resolved = resolve(launcher, asked)
        options = {} if "max_model_len" in resolved.overridden else {"max_model_len": asked.max_model_len}
        typed = Request(extra=(*resolved.args, *asked.extra), **options)  # type: ignore[arg-type]
        again = resolve(launcher, typed).request
        assert again == dataclasses.replace(resolved.request, defaults=Defaults()), voices


def test_an_option_comes_before_the_arguments_of_the_configuration() -> None:
    found = resolve(vllm, request(vllm, frozenset({"option", "preset"})))
    assert found.request.max_model_len == 1000
    assert found.args == ()


def test_what_is_typed_must_not_contradict_itself() -> None:
    with pytest.raises(UsageError, match="conflicts"):
        resolve(vllm, request(vllm, frozenset({"option", "argument"})))


def test_a_flag_that_is_typed_takes_the_place_of_all_of_its_name() -> None:
    args = ("--lora", "a", "--threads=3", "--lora", "b", "--no_mmap", "--seed", "-1")
    backends = {"llama-server": Preset(args=args, where=WHERE)}
    asked = Request(extra=("--lora", "c", "--no-mmap"), defaults=Defaults(backends=backends))
    found = resolve(llama_server, asked)
    assert found.request.extra == ("--threads=3", "--seed", "-1", "--lora", "c", "--no-mmap")
    assert found.args == ("--threads=3", "--seed", "-1")
    assert [reason.sentence for reason in found.reasons] == [f"{WHERE} sets --threads=3 --seed -1"]


def test_an_argument_of_another_backend_is_not_heard() -> None:
    asked = Request(defaults=Defaults(backends={"vllm": Preset(args=("-c", "1"), where=WHERE)}))
    assert resolve(llama_server, asked).request == asked


@pytest.mark.parametrize(
    "args", [("--api-key", "x"), ("--model", "x"), ("--max-model-len", "many"), ("--max-model-len",)]
)
def test_a_wrong_argument_is_told_with_its_place(args: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match=f"^{WHERE}: "):
        resolve(vllm, Request(defaults=Defaults(backends={"vllm": Preset(args=args, where=WHERE)})))


def test_the_devices_are_not_chosen_behind_the_plan() -> None:
    env = {"CUDA_VISIBLE_DEVICES": "1", "OMP_NUM_THREADS": "2"}
    with pytest.raises(UsageError, match=r"^CUDA_VISIBLE_DEVICES cannot") as caught:
        resolve(vllm, Request(env=env))
    assert "--device" in (caught.value.hint or "")
    with pytest.raises(UsageError, match=rf"^{WHERE}: CUDA_VISIBLE_DEVICES cannot"):
        resolve(vllm, Request(defaults=Defaults(backends={"vllm": Preset(env=env, where=WHERE)})))
    del env["CUDA_VISIBLE_DEVICES"]
    assert resolve(vllm, Request(env=env)).request.env == env


def test_a_flag_that_the_backend_does_not_know_is_told_with_its_place() -> None:
    backend = Backend(name="vllm", version="0.32.0", executable="/x", flags=frozenset({"--seed"}))
    backends = {"vllm": Preset(args=("--sede=1",), where=WHERE)}
    asked = Request(extra=("--seed", "2"), defaults=Defaults(backends=backends))
    with pytest.raises(UsageError, match=f"^{WHERE}: vllm 0.32.0 does not know --sede"):
        check_flags(vllm, resolve(vllm, asked).request, backend)


def test_without_defaults_it_is_what_absorb_says() -> None:
    asked = Request(max_num_seqs=2, extra=("-c", "512", "--seed", "1"))
    assert resolve(llama_server, asked).request == absorb(llama_server, asked)


def test_variables_are_put_together() -> None:
    preset = Preset(env={"A": "1", "B": "1"})
    asked = Request(env={"B": "2"}, defaults=Defaults(backends={"vllm": preset}))
    assert resolve(vllm, asked).request.env == {"A": "1", "B": "2"}
