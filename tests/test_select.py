from __future__ import annotations

import dataclasses
from typing import Literal

import pytest

from aimind import plan
from aimind.errors import UnsupportedError, UsageError
from aimind.launchers import LAUNCHERS
from aimind.select import choose, find_launcher
from aimind.types import Backend, Device, Host, Request
from tests.samples import device, host, llama, model, speech


def without(machine: Host, *names: str) -> Host:
    backends = tuple(backend for backend in machine.backends if backend.name not in names)
    return dataclasses.replace(machine, backends=backends)


def test_gguf_goes_to_the_llama_cpp_that_the_user_has() -> None:
    machine = host(device())
    assert choose(llama(), machine, Request(), LAUNCHERS).backend.name == "llama-server"
    machine = without(machine, "llama-server")
    assert choose(llama(), machine, Request(), LAUNCHERS).backend.name == "llama-box"


def test_gguf_goes_to_the_managed_one_where_the_user_has_none() -> None:
    choice = choose(llama(), without(host(), "llama-server", "llama-box"), Request(), LAUNCHERS)
    assert choice.backend.name == "xllamacpp"
    assert [refusal.backend for refusal in choice.refused] == ["llama-server", "llama-box"]
    assert "not found on PATH" in choice.refused[0].sentence


def test_folders_go_to_vllm() -> None:
    choice = choose(llama(safetensors=True), host(device()), Request(), LAUNCHERS)
    assert choice.backend.name == "vllm"
    said = {refusal.backend: refusal.sentence for refusal in choice.refused}
    assert "speech models" in said.pop("vox-box")
    assert "Apple silicon" in said.pop("mlx")
    assert "Ascend devices" in said.pop("mindie")
    assert all("GGUF" in sentence for sentence in said.values())


def test_on_ascend_devices_folders_go_to_mindie() -> None:
    machine = host(device(vendor="ascend", free_gib=60))
    assert choose(llama(safetensors=True), machine, Request(), LAUNCHERS).backend.name == "mindie"
    choice = choose(llama(safetensors=True), without(machine, "mindie"), Request(), LAUNCHERS)
    assert choice.backend.name == "vllm"
    assert "MIES_INSTALL_PATH" in choice.refused[-1].sentence
    assert choose(llama(), machine, Request(), LAUNCHERS).backend.name == "llama-server"


def test_devices_that_are_left_idle_are_told() -> None:
    def notes(request: Request, *devices: Device) -> tuple[str, ...]:
        machine = without(host(*devices), "mindie")
        folder = llama(safetensors=True)
        return plan.make(model(folder), folder, machine, request, LAUNCHERS).notes

    ascend = device(vendor="ascend", free_gib=60)
    (said,) = notes(Request(), ascend)
    assert said.startswith("vllm cannot use device 0 (")
    assert "runs on the CPU" in said
    assert notes(Request(devices=()), ascend) == ()
    assert notes(Request(), device()) == notes(Request()) == ()


def elsewhere(*devices: Device, assumed: tuple[str, ...]) -> Host:
    """Another machine, on which these programs are assumed to be, and all packages can be installed."""
    machine = dataclasses.replace(host(*devices), elsewhere=True)
    backends = tuple(
        dataclasses.replace(backend, assumed=backend.name in assumed) for backend in machine.backends
    )
    return dataclasses.replace(machine, backends=backends)


def test_elsewhere_what_aimind_installs_comes_before_what_is_assumed() -> None:
    programs = ("llama-server", "llama-box", "mindie")
    choice = choose(llama(), elsewhere(device(), assumed=programs), Request(), LAUNCHERS)
    assert choice.backend.name == "xllamacpp"
    assert "assumes" not in choice.reason.sentence
    picture = dataclasses.replace(llama(), category="image")
    choice = choose(picture, elsewhere(device(), assumed=programs), Request(), LAUNCHERS)
    assert choice.backend.name == "llama-box"
    assert choice.reason.sentence.endswith("assumes that llama-box 1 is installed there")


def test_elsewhere_devices_are_used_before_that() -> None:
    machine = elsewhere(device(vendor="ascend", free_gib=60), assumed=("mindie",))
    assert choose(llama(safetensors=True), machine, Request(), LAUNCHERS).backend.name == "mindie"
    # GGUF is computed in RAM there, whichever backend it is.
    assert choose(llama(), machine, Request(), LAUNCHERS).backend.name == "llama-server"
    machine = elsewhere(device(vendor="ascend", free_gib=60), assumed=("llama-server", "mindie"))
    assert choose(llama(), machine, Request(), LAUNCHERS).backend.name == "llama-box"


def test_images_go_to_llama_box() -> None:
    picture = dataclasses.replace(llama(), category="image")
    assert choose(picture, host(device()), Request(), LAUNCHERS).backend.name == "llama-box"
    with pytest.raises(UnsupportedError) as caught:
        choose(picture, without(host(), "llama-box"), Request(), LAUNCHERS)
    assert caught.value.message == (
        "llama-box can serve this gguf image model, but is not installed here: see "
        "https://github.com/gpustack/llama-box/releases"
    )
    assert "llama-server, xllamacpp, llama-cpp-python: it does not generate images" in caught.value.hint
    assert "llama-box:" not in caught.value.hint


@pytest.mark.parametrize("kind", ["faster-whisper", "funasr", "cosyvoice", "bark", "dia"])
def test_speech_goes_to_vox_box(kind: str) -> None:
    assert choose(speech(kind), host(device()), Request(), LAUNCHERS).backend.name == "vox-box"


@pytest.mark.parametrize(
    ("kind", "os", "arch", "why"),
    [
        ("cosyvoice", "linux", "arm64", "this machine is linux arm64"),
        ("dia", "windows", "x86_64", "this machine is windows x86_64"),
        ("cosyvoice2", "linux", "x86_64", "gpustack/CosyVoice2-0.5B"),
        ("DiaForConditionalGeneration", "linux", "x86_64", "this is DiaForConditionalGeneration"),
    ],
)
def test_speech_that_vox_box_cannot_serve(
    kind: str, os: Literal["linux", "windows"], arch: Literal["x86_64", "arm64"], why: str
) -> None:
    machine = dataclasses.replace(host(), os=os, arch=arch)
    with pytest.raises(UnsupportedError) as caught:
        choose(speech(kind), machine, Request(), LAUNCHERS)
    assert why in caught.value.hint


def test_a_slim_build_is_for_its_architecture_alone() -> None:
    """The whole build does for it, too, and what is installed comes first."""
    slim = Backend(name="vox-box", version="1", executable="/slim", installed=False, only="faster-whisper")
    whole = Backend(name="vox-box", version="1", executable="/whole", installed=False)
    machine = dataclasses.replace(host(), backends=(slim, whole))
    assert choose(speech(), machine, Request(), LAUNCHERS).backend is slim
    assert choose(speech("bark"), machine, Request(), LAUNCHERS).backend is whole
    here = dataclasses.replace(whole, installed=True)
    machine = dataclasses.replace(host(), backends=(here, slim))
    assert choose(speech(), machine, Request(), LAUNCHERS).backend is here


def mac(*names: str) -> Host:
    return dataclasses.replace(without(host(), *names), os="macos", arch="arm64")


def test_on_apple_silicon_mlx_comes_first() -> None:
    folder = llama(safetensors=True)
    assert choose(folder, mac(), Request(), LAUNCHERS).backend.name == "mlx"
    packed = dataclasses.replace(folder, quantization="MLX-4bit")
    assert choose(packed, mac(), Request(), LAUNCHERS).backend.name == "mlx"
    assert choose(llama(), mac(), Request(), LAUNCHERS).backend.name == "llama-server"
    with pytest.raises(UnsupportedError) as caught:
        choose(packed, host(device()), Request(), LAUNCHERS)
    assert "mlx: it runs only on Apple silicon, and this machine is linux x86_64" in caught.value.hint
    assert "vllm, sglang: its weights are in MLX format" in caught.value.hint


def test_where_vllm_refuses_transformers_serves() -> None:
    choice = choose(llama(safetensors=True), mac("mlx"), Request(), LAUNCHERS)
    assert choice.backend.name == "transformers"
    assert [refusal.backend for refusal in choice.refused[-2:]] == ["vllm", "sglang"]


def test_where_vllm_cannot_be_had_sglang_serves() -> None:
    choice = choose(llama(safetensors=True), without(host(device()), "vllm"), Request(), LAUNCHERS)
    assert choice.backend.name == "sglang"


def test_by_force_a_backend_is_taken_although_it_refuses() -> None:
    folder = llama(safetensors=True)
    with pytest.raises(UnsupportedError, match="mlx cannot serve"):
        choose(folder, host(), Request(backend="mlx"), LAUNCHERS)
    choice = choose(folder, host(), Request(backend="mlx", force=True), LAUNCHERS)
    assert choice.reason.sentence.startswith("--force overrides this refusal of mlx: ")
    assert choose(folder, host(), Request(force=True), LAUNCHERS).backend.name == "vllm"


def test_who_wants_a_key_gets_a_backend_that_takes_one() -> None:
    machine = without(host(), "llama-server")
    choice = choose(llama(), machine, Request(api_key="canary"), LAUNCHERS)
    assert choice.backend.name == "xllamacpp"
    assert "does not support API keys" in choice.refused[1].sentence


def test_what_is_asked_for_is_taken_or_refused() -> None:
    asked = Request(backend="llama-cpp-python")
    choice = choose(llama(), host(), asked, LAUNCHERS)
    assert (choice.backend.name, choice.refused) == ("llama-cpp-python", ())
    with pytest.raises(UnsupportedError, match="vllm cannot serve"):
        choose(llama(), host(), Request(backend="vllm"), LAUNCHERS)


def test_a_refusal_names_a_backend_that_would_serve() -> None:
    folder = llama(safetensors=True)
    hints = []
    for request in (
        Request(backend="mindie"),
        Request(backend="mindie", force=True),
        Request(backend="vox-box", api_key="canary"),
    ):
        with pytest.raises(UnsupportedError, match="cannot serve this model here: ") as caught:
            choose(folder, without(host(), "mindie"), request, LAUNCHERS)
        hints.append(caught.value.hint)
    assert hints == [
        "omit --backend to use vllm; use --force to try it all the same",
        "omit --backend to use vllm; see `aimind backends`",
        "omit --backend to use vllm; use --force to try it all the same",
    ]
    with pytest.raises(UnsupportedError) as caught:
        choose(dataclasses.replace(llama(), category="image"), host(), Request(backend="vllm"), LAUNCHERS)
    assert caught.value.hint == "use --force to try it all the same", "what paints is the user's to install"


def test_what_several_say_is_said_once_and_last() -> None:
    packed = dataclasses.replace(llama(safetensors=True), quantization="AQLM")
    with pytest.raises(UnsupportedError) as caught:
        choose(packed, mac(), Request(), LAUNCHERS)
    said = caught.value.hint.split("; ")
    assert said[0] == "the backends refuse it: vox-box: it serves only speech models, and this one is for llm"
    assert said[-1] == (
        "llama-server, llama-box, xllamacpp, llama-cpp-python: "
        "it serves only GGUF files, and this model is safetensors"
    )


def test_a_version_is_known_by_its_tag() -> None:
    machine = host()
    tagged = tuple(dataclasses.replace(each, version="v1.2") for each in machine.backends)
    machine = dataclasses.replace(machine, backends=tagged)
    for version in ("1.2", "v1.2"):
        request = Request(backend="llama-box", backend_version=version)
        assert choose(llama(), machine, request, LAUNCHERS).backend.version == "v1.2"


def test_a_version_that_is_not_here_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="not the requested one"):
        choose(llama(), host(), Request(backend="xllamacpp", backend_version="0.1"), LAUNCHERS)


def test_old_devices_are_refused_by_the_number() -> None:
    old = dataclasses.replace(device(), capability="6.1", name="P40")
    with pytest.raises(UnsupportedError) as caught:
        choose(llama(safetensors=True), host(old), Request(), LAUNCHERS)
    assert "6.1" in caught.value.hint


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(UsageError) as caught:
        find_launcher("vlm", LAUNCHERS)
    assert "vllm" in caught.value.hint
    with pytest.raises(UsageError) as caught:
        find_launcher("qqq", LAUNCHERS)
    assert "xllamacpp" in caught.value.hint


def test_a_build_for_the_cpu_is_passed_over_where_there_are_devices() -> None:
    machine = host(device())
    blind = tuple(dataclasses.replace(b, sees_devices=b.name != "llama-server") for b in machine.backends)
    machine = dataclasses.replace(machine, backends=blind)
    choice = choose(llama(), machine, Request(), LAUNCHERS)
    assert choice.backend.name == "llama-box"
    assert "build for the CPU" in choice.refused[0].sentence
    assert choose(llama(), machine, Request(devices=()), LAUNCHERS).backend.name == "llama-server"


def test_a_program_with_a_problem_is_refused_with_it() -> None:
    machine = host()
    broken = tuple(
        dataclasses.replace(b, problem="it is broken") if b.name == "llama-server" else b
        for b in machine.backends
    )
    choice = choose(llama(), dataclasses.replace(machine, backends=broken), Request(), LAUNCHERS)
    assert [r.sentence for r in choice.refused] == ["it is broken"]


def test_a_refusal_for_another_machine_does_not_speak_of_this_one() -> None:
    """A newer version of llama-server would not serve a folder either."""
    there = dataclasses.replace(host(device()), elsewhere=True)
    with pytest.raises(UnsupportedError) as caught:
        choose(llama(safetensors=True), there, Request(backend="llama-server"), LAUNCHERS)
    assert caught.value.message.startswith("llama-server cannot serve this model there: ")
    assert "--backend-version" not in caught.value.hint
    reason = choose(llama(), there, Request(), LAUNCHERS).reason.sentence
    assert "first backend that serves gguf llm models there" in reason
