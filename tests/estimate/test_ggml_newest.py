"""Estimates of five newer architectures against llama.cpp 0.7 (ggml 0.27).

The records are of imitation CUDA devices without the fusion of experts, so that the compute buffers of models
with experts may be recorded too low on a device, never too high.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest

from aimind.estimate import ggml
from aimind.metadata.gguf import read_header
from aimind.metadata.gguf_model import describe
from benchmarks import estimates

HEADERS = estimates.DATA / "gguf_new"
TRUTH = HEADERS / "ground_truth.json.gz"
NAMES = tuple(estimates.model_sizes(HEADERS))


class SparseFile:
    """A file of a model's true size that holds its header."""

    def __init__(self, content: bytes, size_bytes: int) -> None:
        self.content, self.size_bytes = content, size_bytes

    def read(self, offset: int, length: int) -> bytes:
        missing = min(length, self.size_bytes - offset)
        return self.content[offset : offset + length].ljust(missing, b"\0")


@cache
def figures() -> Sequence[estimates.Figure]:
    report = estimates.gguf_report(HEADERS, TRUTH)
    assert not report.missing
    return report.figures


def of(name: str) -> list[estimates.Figure]:
    found = [figure for figure in figures() if figure.record.startswith(f"{name}|")]
    assert found
    return found


def test_every_record_is_estimated() -> None:
    records = estimates.read_records(TRUTH)
    assert records.mixed_inputs
    assert {figure.record for figure in figures()} == {record["id"] for record in records.records}
    assert len(records.records) == 95


@pytest.mark.parametrize("name", NAMES)
def test_every_part_of_the_newest_models_is_known(name: str) -> None:
    assert ggml.profile(estimates.gguf_model(HEADERS, name)).understood


@pytest.mark.parametrize("name", NAMES)
def test_weights_and_caches_are_exact(name: str) -> None:
    wrong = [f for f in of(name) if f.component.endswith(("model", "context")) and f.estimated != f.real]
    assert not wrong


@pytest.mark.parametrize("name", NAMES)
def test_no_total_is_too_low(name: str) -> None:
    low = [f for f in of(name) if f.component.endswith("total") and f.error < -0.0005]
    assert not low


@pytest.mark.parametrize("name", NAMES)
def test_no_compute_buffer_is_too_low(name: str) -> None:
    low = [f for f in of(name) if f.component.endswith("compute") and f.error < -0.0001]
    assert not low


@pytest.mark.parametrize("name", NAMES)
def test_compute_buffers_in_ram_are_exact(name: str) -> None:
    wrong = [f for f in of(name) if f.component == "host compute" and f.estimated != f.real]
    assert not wrong


@pytest.mark.parametrize("name", NAMES)
def test_no_total_is_much_too_high(name: str) -> None:
    high = [f for f in of(name) if f.component.endswith("total") and f.error > 0.001]
    assert not high


def test_the_version_of_records_decides_what_is_assumed(tmp_path: Path) -> None:
    records = estimates.read_records(TRUTH).records
    documents = {
        "list.json": records,
        "old.json": {"ggml": "0.25.3", "records": records},
        "new.json": {"ggml": "0.28.1", "records": records},
    }
    found = {}
    for name, document in documents.items():
        (tmp_path / name).write_text(json.dumps(document))
        found[name] = estimates.read_records(tmp_path / name).mixed_inputs
    assert found == {"list.json": False, "old.json": False, "new.json": True}


def test_records_without_a_header_are_named_not_dropped(tmp_path: Path) -> None:
    (tmp_path / "index.json").write_text("[]")
    report = estimates.gguf_report(tmp_path, TRUTH)
    assert not report.figures
    assert len(report.missing) == 95


def test_records_whose_header_cannot_be_read_are_named_not_dropped(tmp_path: Path) -> None:
    (tmp_path / "index.json").write_text(json.dumps([{"name": "glm-5", "size_bytes": 4096}]))
    (tmp_path / "glm-5.header.gz").write_bytes(gzip.compress(b"GGUF, but broken"))
    truth = tmp_path / "truth.json"
    records = [r for r in estimates.read_records(TRUTH).records if r["file"] == "glm-5"]
    truth.write_text(json.dumps(records))
    report = estimates.gguf_report(tmp_path, truth)
    assert not report.figures
    assert len(report.missing) == len(records)


@pytest.mark.parametrize(
    ("headers", "name", "slots", "logged_mib"),
    [
        (HEADERS, "nemotron-nano-9b-v2", 16, 315.27),
        (HEADERS, "nemotron-nano-9b-v2", 64, 809.52),
        (HEADERS, "nemotron-nano-9b-v2", 96, 1158.08),
        (HEADERS, "nemotron-nano-9b-v2", 128, 1467.27),
        (estimates.DATA / "models" / "gguf", "granite-4.0-h-tiny.Q4_K_M", 64, 242.49),
        (estimates.DATA / "models" / "gguf", "granite-4.0-h-tiny.Q4_K_M", 128, 439.11),
        (estimates.DATA / "models" / "gguf", "falcon-h1-7b.Q4_K_M", 32, 285.02),
        (estimates.DATA / "models" / "gguf", "falcon-h1-7b.Q4_K_M", 128, 839.57),
    ],
)
def test_many_slots_of_mamba_2(headers: Path, name: str, slots: int, logged_mib: float) -> None:
    """What llama-fit-params of llama.cpp 0.7 logs for the CPU with `-c 32768 -np SLOTS -fa on`."""
    flags = ggml.Settings(n_ctx=32768, n_seq=slots, kv_unified=False, mmap=False)
    usage = ggml.estimate(ggml.profile(estimates.gguf_model(headers, name)), flags, ())
    assert usage.host.compute_bytes / (1 << 20) == pytest.approx(logged_mib, abs=0.006)


@pytest.mark.parametrize("keys", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_a_bound_is_never_too_low(name: str, keys: bool) -> None:
    """The same files as if a later llama.cpp had written them, for an architecture of its own.

    Without keys nothing tells how wide the inputs are, so that only the devices are bounded.
    """
    content = gzip.decompress((HEADERS / f"{name}.header.gz").read_bytes())
    first = read_header(SparseFile(content, estimates.model_sizes(HEADERS)[name]), f"{name}.gguf")
    architecture = str(first.values["general.architecture"])
    values = {"general.architecture": "newcomer"}
    for key, value in first.values.items():
        if keys and key.startswith(f"{architecture}."):
            values[key.replace(architecture, "newcomer", 1)] = value  # type: ignore[assignment]
    model = ggml.profile(describe([dataclasses.replace(first, values=values)]))
    assert not model.understood
    records = estimates.read_records(TRUTH)
    low = [
        figure
        for record in records.records
        if record["file"] == name
        for figure in estimates.gguf_figures(model, record, mixed_inputs=True)
        if figure.estimated < figure.real and (keys or figure.component == "device total")
    ]
    assert not low


@pytest.mark.parametrize("answer", ["fa_on", "buffers", "output_mib", "kv_log"])
def test_no_estimate_reads_an_answer_from_its_record(answer: str) -> None:
    """Whatever a record says of what was reserved, the estimate is the same."""
    record = dict(estimates.read_records(TRUTH).records[0])
    before = estimates.settings(record, 61, mixed_inputs=True)
    record.pop(answer)
    assert estimates.settings(record, 61, mixed_inputs=True) == before
