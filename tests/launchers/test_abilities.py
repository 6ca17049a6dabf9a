"""What a launcher serves and where is what it does not refuse."""

from __future__ import annotations

import dataclasses

import pytest

from aimind.launchers import LAUNCHERS, llama_server, mindie, mlx, sglang, vllm
from aimind.launchers.abilities import RAM, abilities, against, machines, models, uses
from aimind.launchers.base import Launcher
from tests.samples import device, host


@pytest.mark.parametrize("launcher", LAUNCHERS, ids=lambda launcher: launcher.NAME)
def test_nothing_else_is_named_than_what_it_takes(launcher: Launcher) -> None:
    """Law: each name has a sample that it takes, and what it never takes has none."""
    found = abilities(launcher)
    taken = [
        (model, machine)
        for model in models()
        for machine in machines()
        if uses(launcher, machine) and launcher.refuse(model, machine.host) is None
    ]
    assert set(found.categories) == {model.category for model, _ in taken}
    assert set(found.formats) == {model.format for model, _ in taken}
    assert set(found.platforms) == {machine.platform for _, machine in taken}
    assert set(found.devices) == {machine.device for _, machine in taken}
    assert all((found.categories, found.formats, found.platforms, found.devices))


def test_some_that_are_known() -> None:
    assert abilities(mlx).platforms == ("macOS ARM64",)
    assert abilities(mindie).devices == ("Ascend",)
    assert abilities(vllm).devices == ("NVIDIA", "AMD", RAM)
    assert "speech-to-text" not in abilities(llama_server).categories


def test_why_it_cannot_be_used_is_a_sentence_about_the_machine() -> None:
    assert against(vllm, host()) is None
    assert against(sglang, host()) == "it runs only on NVIDIA devices, and this machine has none"
    assert against(sglang, host(device())) is None
    mac = dataclasses.replace(host(), os="macos", arch="arm64")
    assert against(vllm, mac) == "it runs only on Linux, and this machine is macos"
    assert against(mlx, mac) is None
