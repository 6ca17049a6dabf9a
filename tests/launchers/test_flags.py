"""The user's arguments against a backend's flags; what vLLM once documented against its newest parser."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from aimind.errors import UsageError
from aimind.launchers import LAUNCHERS, llama_server, mindie, vllm
from aimind.launchers.arguments import absorb, plain, uncounted
from aimind.launchers.base import Launcher, TellsFlags
from aimind.launchers.flags import check_flags
from aimind.launchers.values import check_values
from aimind.types import Backend, Request

# Each documented argument of vLLM 0.4, with values that it takes, and what becomes of it; then all that the
# parser of the version below takes (its `_option_string_actions`).
RECORDED: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "data" / "vllm_arguments.json").read_text(encoding="utf-8")
)
VLLM = Backend(
    name="vllm", version=RECORDED["version"], executable="/python", flags=frozenset(RECORDED["parser"])
)
LLAMA = Backend(
    name="llama-server",
    version="9999",
    executable="/llama-server",
    flags=frozenset({"--threads", "-t", "--threads-batch", "--fim-qwen-1.5b-default"}),
)


def check(launcher: Launcher, backend: Backend, *words: str, force: bool = False) -> tuple[str, ...]:
    return check_flags(launcher, absorb(launcher, Request(extra=words, force=force)), backend)


def refused(launcher: Launcher, backend: Backend, *words: str) -> str:
    with pytest.raises(UsageError) as caught:
        check(launcher, backend, *words)
    return f"{caught.value.message}\n{caught.value.hint}"


def test_the_record_is_of_the_version_that_is_installed() -> None:
    assert vllm.VERSION == RECORDED["version"]
    assert len(RECORDED["arguments"]) == 92


@pytest.mark.parametrize(
    ("name", "row"), [(name, row) for row in RECORDED["arguments"] for name in row["names"]]
)
def test_every_documented_argument_of_vllm(name: str, row: dict[str, Any]) -> None:
    """Passed as it is, taken into the plan, or refused with a sentence."""
    words = (name, *row["values"])
    if "refused" in row:
        assert row["refused"] in refused(vllm, VLLM, *words)
        return
    request = absorb(vllm, Request(extra=words))
    assert check_flags(vllm, request, VLLM) == ()
    assert request.extra == (() if "setting" in row else words)
    if "setting" in row:
        assert getattr(request, row["setting"]) not in (None, False)


def test_what_is_gone_is_gone() -> None:
    known = {plain(flag) for flag in RECORDED["parser"]}
    assert not known & set(vllm.HELP.dropped)
    for instead in vllm.HELP.dropped.values():
        named = {word.strip(",;:").partition(".")[0] for word in instead.split() if word.startswith("--")}
        assert named - {"--"} <= {*known, "--device"}


def test_a_version_that_still_has_it_takes_it() -> None:
    older = dataclasses.replace(VLLM, version="0.6.0", flags=frozenset({"--swap-space"}))
    assert check(vllm, older, "--swap-space", "4") == ()


@pytest.mark.parametrize("launcher", [each for each in LAUNCHERS if isinstance(each, TellsFlags)])
def test_nothing_is_said_before_the_backend_was_asked(launcher: Launcher) -> None:
    backend = Backend(name=launcher.NAME, version="1", executable="/x")
    assert check(launcher, backend, "--nonsense") == ()
    told = dataclasses.replace(backend, flags=frozenset({"--something"}))
    assert f"{launcher.NAME} 1 does not know --nonsense" in refused(launcher, told, "--nonsense")


def test_llama_cpp_has_one_flag_in_place_of_several() -> None:
    """An older one has these still, and takes them."""
    assert "no longer has --mlock: use --load-mode mlock" in refused(llama_server, LLAMA, "--mlock")
    older = dataclasses.replace(LLAMA, flags=frozenset({"--mlock"}))
    assert check(llama_server, older, "--mlock") == ()


def test_what_is_gone_is_told_before_it_is_installed() -> None:
    """Gigabytes are not brought for a flag that is known to be none."""
    absent = dataclasses.replace(VLLM, flags=None, installed=False)
    assert "vllm 0.32.0 no longer has --worker-use-ray" in refused(vllm, absent, "--worker-use-ray")
    assert check(vllm, absent, "--nonsense") == ()
    assert check(vllm, dataclasses.replace(absent, version="0.6.1"), "--worker-use-ray") == ()


def test_a_backend_without_help_is_not_checked() -> None:
    backend = Backend(name="mindie", version="1", executable="/x", flags=frozenset())
    assert check_flags(mindie, Request(extra=("--nonsense",)), backend) == ()


def test_an_unknown_flag_is_answered_by_the_nearest() -> None:
    said = refused(vllm, VLLM, "--enable-prefix-cachin-g=true")
    assert "vllm 0.32.0 does not know --enable-prefix-cachin-g\n" in said
    assert "did you mean --enable-prefix-caching" in said
    said = refused(llama_server, LLAMA, "--thread", "4")
    assert "did you mean --threads? use --force to pass it anyway" in said
    assert refused(vllm, VLLM, "--zzzzz").endswith("\nuse --force to pass it anyway")


def test_force_passes_it_with_a_warning() -> None:
    said = check(vllm, VLLM, "--zzzzz", "1", "--swap-space", "4", "--seed", "1", force=True)
    assert [sentence.split(":")[0].split(";")[0] for sentence in said] == [
        "vllm 0.32.0 does not know --zzzzz",
        "vllm 0.32.0 no longer has --swap-space",
    ]


@pytest.mark.parametrize(
    "words",
    [
        ("--seed", "-1"),
        ("--seed=-1",),
        ("--hf-overrides", "-.5"),
        ("--chat-template", "- a template"),
        ("--chat_template_content_format", "auto"),
        ("--no-enable-prefix-caching",),
        ("--compilation-config.mode", "3"),
        ("--compilation_config.pass_config.enable_fusion", "true"),
        ("-cc.use_inductor_graph_partition=true",),
        ("--kv-transfer-config.key+", "value"),
        ("-O", "2"),
        ("-O.mode=3",),
        ("--otlp", "http://127.0.0.1"),  # cut short, and none that the plan depends on
        ("--", "--nonsense"),
        ("-",),
    ],
)
def test_what_its_parser_takes(words: tuple[str, ...]) -> None:
    assert check(vllm, VLLM, *words) == ()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--max-model", "4096"), "would read --max-model as --max-model-len, which the plan depends on"),
        (("--gpu-memory-util=0.5",), "as --gpu-memory-utilization, which"),
        (("--num-gpu-blocks", "3"), "as --num-gpu-blocks-override, which"),
        (("--cpu-offload-g", "3"), "as --cpu-offload-gb, which"),
        (("-qawq",), "as -q, which"),
        (("--max-num", "3"), "it could be --max-num-active-seqs, --max-num-batched-tokens, "),
        (("--nonsense.key", "3"), "does not know --nonsense.key"),
        (("--log-prefix=a b",), "does not know --log-prefix"),
    ],
)
def test_what_its_parser_or_the_plan_does_not_take(words: tuple[str, ...], said: str) -> None:
    assert said in refused(vllm, VLLM, *words)


def test_no_force_lets_a_flag_past_the_plan() -> None:
    with pytest.raises(UsageError, match="as --max-model-len, which the plan depends on"):
        check(vllm, VLLM, "--max-model", "4096", force=True)
    assert absorb(vllm, Request(extra=("--device-memory-utilization", "0.5"))).gpu_memory_utilization == 0.5


def test_a_model_may_have_several_names() -> None:
    """The first is the plan's; of a flag that is said twice the parser takes the last."""
    words = ("--served-model-name", "a", "b", "c", "--seed", "1")
    request = absorb(vllm, Request(extra=words))
    assert (request.served_name, request.extra) == ("a", words)
    assert check_flags(vllm, request, VLLM) == ()
    with pytest.raises(UsageError, match=r"^b is not a flag"):
        absorb(vllm, Request(extra=("--served-model-name=a", "b")))


def test_uncounted_flags_are_flags() -> None:
    for name in ("--spec-model", "-q", "-sc", "-ep", "--speculative_config.model", "--kv-offloading-size"):
        request = absorb(vllm, Request(extra=(name, "1")))
        assert uncounted(vllm, request) == (name,)
        assert check_flags(vllm, request, VLLM) == ()


def test_llama_cpp_takes_flags_only_in_full() -> None:
    assert check(llama_server, LLAMA, "--fim-qwen-1.5b-default", "--threads_batch", "2", "-t", "-1") == ()
    for words in (("--threads-b", "2"), ("-t4",), ("--threads.key", "2")):
        assert "does not know" in refused(llama_server, LLAMA, *words)


def given(*words: str, version: str = "0.32.0", force: bool = False) -> tuple[str, ...]:
    """What is said of the values of vLLM's arguments."""
    request = absorb(vllm, Request(extra=words, force=force))
    return check_values(vllm, request, dataclasses.replace(VLLM, version=version))


@pytest.mark.parametrize(
    ("flag", "text", "wanted"),
    [
        ("--performance-mode", "x", "balanced, interactivity or throughput"),
        ("--dtype", "x", "auto, bfloat16, float, float16, float32 or half"),
        ("--seed", "1.5", "a whole number"),
        ("--cpu-offload-gb", "-1", "a number, at least 0"),
        ("--watermark", "1", "a number, at least 0 and less than 1"),
        ("--speculative-config", "{", "JSON"),
        ("--block-size", "7x", "a number"),
    ],
)
def test_values_that_vllm_does_not_take(flag: str, text: str, wanted: str) -> None:
    for words in ((flag, text), (f"{flag}={text}",)):
        with pytest.raises(UsageError) as caught:
            given(*words)
        assert flag in caught.value.message
        assert wanted in caught.value.hint


def test_values_that_vllm_takes() -> None:
    words = ("--moe-backend", "flashinfer-trtllm", "--max-num-batched-tokens", "8k", "--seed", "7")
    assert given(*words, "--speculative-config", "{}", "--watermark=0.5") == ()


def test_values_of_versions_without_a_table_and_forced_ones_are_passed() -> None:
    assert given("--dtype", "x", version="0.26.0") == ()
    (warning,) = given("--dtype", "x", force=True)
    assert warning == "vllm 0.32.0 does not accept --dtype x; it is passed because of --force"


@pytest.mark.parametrize("row", RECORDED["arguments"], ids=lambda row: str(row["names"][0]))
def test_no_documented_value_of_vllm_is_refused(row: dict[str, Any]) -> None:
    if "refused" not in row:
        given(row["names"][0], *row["values"])
