"""Which quantization is served, and what a refusal says would fit."""

from __future__ import annotations

import dataclasses

import pytest

from aimind.alternatives import Offer, Question, best, label, survey
from aimind.errors import DoesNotFitError
from aimind.launchers import LAUNCHERS
from aimind.types import File, Host, Metadata, Model, Reference, Request, Tensor
from tests.samples import device, host, llama

F16_BYTES = llama().weight_bytes
BITS = {"F16": 16.0, "Q8_0": 8.5, "Q6_K": 6.6, "Q4_K_M": 4.8, "Q3_K_M": 3.9, "Q2_K": 3.2}


def quantized(bits: float) -> Metadata:
    """The model with all tensors of so many bits an element."""

    def scaled(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(
            dataclasses.replace(t, dtype="Q4_K", size_bytes=int(t.size_bytes * bits / 16)) for t in tensors
        )

    plain = llama()
    layers = tuple(dataclasses.replace(layer, tensors=scaled(layer.tensors)) for layer in plain.layers)
    return dataclasses.replace(plain, layers=layers, others=scaled(plain.others))


def candidate(name: str) -> Model:
    size = int(F16_BYTES * BITS[name] / 16)
    reference = Reference(source="huggingface", name="owner/name")
    return Model(reference=reference, files=(File(f"m-{name}.gguf", size),), commit="0" * 40)


class Repository:
    """Quantizations of one model, and which of them were read."""

    def __init__(self, *names: str) -> None:
        self.models = {name: candidate(name) for name in names}
        self.read_names: list[str] = []

    def read(self, model: Model) -> Metadata:
        self.read_names.append(label(model))
        return quantized(BITS[label(model)])

    def question(
        self,
        machine: Host,
        request: Request | None = None,
        *,
        quality: bool = False,
        named: str | None = None,
    ) -> Question:
        first = named or "Q4_K_M"
        others = [model for name, model in self.models.items() if name != first]
        offer = Offer(
            candidates=[self.models[first]] + ([] if named else others), siblings=others, read=self.read
        )
        return Question(
            offer=offer,
            host=machine,
            request=request or Request(),
            launchers=LAUNCHERS,
            prefer_quality=quality,
        )


@pytest.fixture
def repository() -> Repository:
    return Repository(*BITS)


def test_the_usual_one_if_it_fits_and_no_other_is_read(repository: Repository) -> None:
    found = best(repository.question(host(device(free_gib=24))))
    assert label(found.model) == "Q4_K_M"
    assert repository.read_names == ["Q4_K_M"]


def test_a_smaller_one_that_fits_wholly_comes_before_layers_in_ram(repository: Repository) -> None:
    found = best(repository.question(host(device(free_gib=5.4))))
    assert label(found.model) == "Q3_K_M"
    assert found.is_whole
    assert (found.settings.max_model_len or 0) >= 8192
    assert repository.read_names == ["Q4_K_M", "Q3_K_M"]
    assert found.reasons[0].field == "model"
    assert "the default would be Q4_K_M" in found.reasons[0].sentence


@pytest.mark.parametrize(("free_gib", "expected"), [(24, "F16"), (12, "Q8_0"), (5.4, "Q3_K_M")])
def test_quality_takes_the_largest_that_fits(repository: Repository, free_gib: float, expected: str) -> None:
    found = best(repository.question(host(device(free_gib=free_gib)), quality=True))
    assert label(found.model) == expected
    assert found.is_whole


def test_where_none_fits_wholly_the_usual_one_does_in_part(repository: Repository) -> None:
    found = best(repository.question(host(device(free_gib=3)), quality=True))
    assert label(found.model) == "Q4_K_M"
    assert 0 < (found.settings.gpu_layers or 0) < 33


def test_without_devices_ram_decides(repository: Repository) -> None:
    assert label(best(repository.question(host(ram_gib=64))).model) == "Q4_K_M"
    assert label(best(repository.question(host(ram_gib=8))).model) == "Q4_K_M"
    assert label(best(repository.question(host(ram_gib=3.9))).model) == "Q2_K"


def test_the_user_s_layers_are_no_reason_for_another_file(repository: Repository) -> None:
    found = best(repository.question(host(device(free_gib=5.4)), Request(gpu_layers=10)))
    assert label(found.model) == "Q4_K_M"


def test_the_survey_says_of_each_whether_it_fits(repository: Repository) -> None:
    question = repository.question(host(device(free_gib=5.4), ram_gib=8))
    found = best(question)
    options = survey(question, found)
    assert [label(option.model) for option in options] == list(BITS)
    whole = {
        label(o.model): o.plan.settings.max_model_len or 0 for o in options if o.plan and o.plan.is_whole
    }
    assert list(whole) == ["Q3_K_M", "Q2_K"]
    assert 8192 <= whole["Q3_K_M"] < whole["Q2_K"]
    assert [label(option.model) for option in options if option.plan is None] == ["F16"]
    assert [label(option.model) for option in options if not option.guessed] == ["Q4_K_M", "Q3_K_M"]


def refusal(question: Question) -> str:
    with pytest.raises(DoesNotFitError) as caught:
        best(question)
    return caught.value.hint


def test_a_refusal_names_what_would_fit(repository: Repository) -> None:
    request = Request(cpu_offload=False, max_model_len=65536)
    machine = host(device(free_gib=10))
    hint = refusal(repository.question(machine, request, named="Q4_K_M"))
    assert hint.startswith("to make it fit, try --context ")
    context = int(hint.split("--context ")[1].split(";")[0])
    shorter = dataclasses.replace(request, max_model_len=context)
    assert best(repository.question(machine, shorter, named="Q4_K_M")).settings.max_model_len == context
    longer = dataclasses.replace(request, max_model_len=context * 9 // 8)
    refusal(repository.question(machine, longer, named="Q4_K_M"))
    assert "--kv-cache-type q8_0" in hint
    eight_bit = dataclasses.replace(request, kv_cache_dtype="q8_0")
    assert best(repository.question(machine, eight_bit, named="Q4_K_M")).is_whole
    assert "omit --no-cpu-offload" in hint
    assert "one more device of 10.0 GiB" in hint
    best(repository.question(host(device(0, free_gib=10), device(1, free_gib=10)), request, named="Q4_K_M"))


def test_a_named_quantization_that_does_not_fit_points_to_a_smaller_one(repository: Repository) -> None:
    machine = host(device(free_gib=10))
    hint = refusal(repository.question(machine, Request(cpu_offload=False), named="F16"))
    assert "Q8_0 (7.9 GiB)" in hint
    assert best(repository.question(machine, Request(cpu_offload=False), named="Q8_0")).is_whole


def test_more_ram_is_named_with_the_least_size_that_fits(repository: Repository) -> None:
    hint = refusal(repository.question(host(ram_gib=1), named="F16"))
    assert hint == "to make it fit, try 16 GiB of free RAM"
    best(repository.question(host(ram_gib=16), named="F16"))
    refusal(repository.question(host(ram_gib=8), named="F16"))


def test_a_larger_device_is_named_with_the_least_size_that_fits(repository: Repository) -> None:
    strict = Request(cpu_offload=False)
    hint = refusal(repository.question(host(device(free_gib=10)), strict, named="F16"))
    assert "a device of 16 GiB" in hint
    best(repository.question(host(device(free_gib=16)), strict, named="F16"))
    refusal(repository.question(host(device(free_gib=12)), strict, named="F16"))


def test_backend_arguments_are_worded_as_backend_arguments(repository: Repository) -> None:
    """A physical batch of 32k tokens needs more to compute with than a device of 10 GiB has left."""
    asked = Request(cpu_offload=False, max_model_len=32768)
    request = dataclasses.replace(asked, extra=("--batch-size", "32768", "--ubatch-size", "32768"))
    machine = host(device(free_gib=10))
    hint = refusal(repository.question(machine, request, named="Q4_K_M"))
    assert hint.startswith("to make it fit, try -- --ubatch-size 512; ")
    smaller = dataclasses.replace(asked, extra=("--batch-size", "32768", "--ubatch-size", "512"))
    best(repository.question(machine, smaller, named="Q4_K_M"))


def test_nothing_near_is_no_promise(repository: Repository) -> None:
    hint = refusal(repository.question(host(ram_gib=1), Request(cpu_offload=False), named="F16"))
    assert "make it fit" not in hint
