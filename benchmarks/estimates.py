"""How far the estimates are from what the backends allocate: `python benchmarks/estimates.py`.

Without options it takes the records in tests/data, of two versions of llama.cpp. Other models are tried with
`--headers DIR --truth FILE`
(GGUF headers with their index.json, and what llama.cpp reserves for them) and `--vllm-configs DIR
--vllm-truth FILE`. What no buffer holds (the CUDA context) is in neither the records nor the figures.
"""

from __future__ import annotations

import argparse
import gzip
import json
import struct
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aimind import metadata
from aimind.errors import AimindError
from aimind.estimate import ggml, paged
from aimind.types import File, Metadata, Model, Reader, Reference
from benchmarks import gpu_llama, gpu_vllm

DATA = Path(__file__).parent.parent / "tests" / "data"
_DTYPES = {
    "torch.bfloat16": "BF16",
    "torch.float16": "F16",
    "torch.float32": "F32",
    "torch.float8_e4m3fn": "F8_E4M3",
    "torch.float8_e5m2": "F8_E5M2",
    "torch.uint8": "U8",
    "torch.int8": "I8",
    "torch.int32": "I32",
    "torch.int64": "I64",
}
# Folders of headers, and what llama.cpp reserved for them, each by another version.
GGUF_FILES = (
    (DATA / "models" / "gguf", DATA / "ground_truth_gguf.json.gz"),
    (DATA / "gguf_new", DATA / "gguf_new" / "ground_truth.json.gz"),
)
Record = Mapping[str, Any]


# A file of records that does not say its version was made with llama-cpp-python 0.3.36.
_FIRST_GGML = "0.25.3"
# As of this ggml a step of llama.cpp may mix tokens and embeddings.
_MIXES_INPUTS = (0, 27)


@dataclass(frozen=True, slots=True)
class Recorded:
    """What one version of llama.cpp reserved.

    Attributes:
        ggml: the version; what an estimate assumes of the program depends on nothing else of a record but
            the flags.
    """

    ggml: str
    records: Sequence[Record]

    @property
    def mixed_inputs(self) -> bool:
        """Whether a step of this version holds tokens and embeddings side by side."""
        return tuple(int(part) for part in self.ggml.split(".")) >= _MIXES_INPUTS


def read_records(path: Path) -> Recorded:
    """The records in a JSON file, perhaps compressed: a list, or a document that says its version."""
    content = path.read_bytes()
    document = json.loads(gzip.decompress(content) if path.suffix == ".gz" else content)
    if isinstance(document, list):
        return Recorded(_FIRST_GGML, document)
    return Recorded(document["ggml"], document["records"])


@dataclass(frozen=True, slots=True)
class Report:
    """What the estimates of a file of records are.

    Attributes:
        figures: of each component of each record that was estimated.
        missing: for each record that was not, its name and why.
        milliseconds: per estimate, in the mean.
    """

    figures: list[Figure]
    missing: list[str]
    milliseconds: float


@dataclass(frozen=True, slots=True)
class Figure:
    """One component of one record."""

    setup: str
    component: str
    record: str
    estimated: int
    real: int

    @property
    def error(self) -> float:
        """Relative; positive where the estimate is too high."""
        return self.estimated / self.real - 1 if self.real else float(self.estimated > 0)


# ── llama.cpp ──────────────────────────────────────────────────────────────────────────────────────────────


class _OnDisk:
    """A file as `metadata.read` wants it."""

    def __init__(self, path: Path) -> None:
        self.path, self.size_bytes = path, path.stat().st_size

    def read(self, offset: int, length: int) -> bytes:
        with self.path.open("rb") as file:
            file.seek(offset)
            return file.read(length)


def read_folder(folder: Path) -> Metadata:
    """The metadata of the one model in a folder."""
    files = tuple(File(path.name, path.stat().st_size) for path in sorted(folder.iterdir()))

    def open_file(file: File) -> Reader:
        return _OnDisk(folder / file.path)

    reference = Reference(source="local", name=str(folder))
    return metadata.read(Model(reference=reference, files=files, root=str(folder)), open_file)


def gguf_models(headers: Path) -> Iterator[tuple[str, Metadata]]:
    """Every recorded model, from a sparse file of its true size.

    Raises:
        AimindError: a header cannot be read.
    """
    for name in model_sizes(headers):
        yield name, gguf_model(headers, name)


def model_sizes(headers: Path) -> dict[str, int]:
    """Names and bytes of the files whose headers are in a folder."""
    return {entry["name"]: entry["size_bytes"] for entry in json.loads((headers / "index.json").read_text())}


def gguf_model(headers: Path, name: str) -> Metadata:
    """One recorded model.

    Raises:
        AimindError: its header cannot be read.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.gguf"
        with path.open("wb") as file:
            file.write(gzip.decompress((headers / f"{name}.header.gz").read_bytes()))
            file.truncate(model_sizes(headers)[name])
        return read_folder(Path(folder))


def settings(record: Record, layers: int, *, mixed_inputs: bool) -> tuple[ggml.Settings, tuple[int, ...]]:
    """The flags of a record, and the layers per device: as equal as llama.cpp makes them."""
    params, devices = record["params"], record["gpus"]
    asked = params.get("ngl", 0)
    experts = params.get("cpu_moe", 0)
    on_devices = (layers + 1 if asked < 0 else min(asked, layers + 1)) if devices else 0
    chosen = ggml.Settings(
        n_ctx=params["n_ctx"],
        n_seq=params.get("n_seq", 1),
        kv_unified=params.get("kv_unified", False),
        n_batch=params["n_batch"],
        n_ubatch=params["n_ubatch"],
        type_k=params.get("ctk", "f16"),
        type_v=params.get("ctv", "f16"),
        flash_attention=params.get("fa") != "off",
        n_outputs=params.get("n_outputs_max") or None,
        swa_full=params.get("swa_full", False),
        gpu_layers=on_devices,
        experts_on_cpu=layers if experts < 0 else experts,
        mixed_inputs=mixed_inputs,
        mmap=False,
    )
    return chosen, tuple((on_devices + devices - 1 - i) // devices for i in range(devices))


def gguf_figures(model: ggml.Profile, record: Record, *, mixed_inputs: bool = False) -> Iterator[Figure]:
    """Per component: of every device, of all devices together, and of RAM."""
    flags, per_device = settings(record, len(model.metadata.layers), mixed_inputs=mixed_inputs)
    usage = ggml.estimate(model, flags, per_device, overhead_bytes=0)
    setup, name = record["setup"], record["id"]
    totals = [0, 0]
    for index, device in enumerate(usage.devices):
        real = record["buffers"][f"CUDA{index}"]
        found = {
            "model": device.weights_bytes,
            "context": device.kv_cache_bytes + device.state_bytes,
            "compute": device.compute_bytes,
        }
        for component, estimated in found.items():
            yield Figure(setup, f"device {component}", name, estimated, real[component])
        totals[0] += device.total_bytes
        totals[1] += sum(real[component] for component in found)
    if usage.devices:
        yield Figure(setup, "device total", name, *totals)
    kept = [b for kind, b in record["buffers"].items() if kind == "CUDA_Host" or not kind.startswith("CUDA")]
    host = usage.host
    outputs = round(record["output_mib"] * (1 << 20))  # rounded to 0.01 MiB in the records, so not compared
    found = {
        "model": host.weights_bytes,
        "context": host.kv_cache_bytes + host.state_bytes,
        "compute": host.compute_bytes,
    }
    for component, estimated in found.items():
        yield Figure(setup, f"host {component}", name, estimated, sum(b[component] for b in kept))
    real_host = sum(sum(b[component] for component in found) for b in kept)
    yield Figure(setup, "host total", name, host.total_bytes, real_host + outputs)


def gguf_report(headers: Path, truth: Path) -> Report:
    """The estimates of all records in a file."""
    recorded = read_records(truth)
    by_model: dict[str, list[Record]] = defaultdict(list)
    for record in recorded.records:
        by_model[record["file"]].append(record)
    figures: list[Figure] = []
    missing: list[str] = []
    spent, count = 0.0, 0
    sizes = model_sizes(headers)
    for name, records in by_model.items():
        if name not in sizes:
            missing += [f"{record['id']}: there is no header of {name}" for record in records]
            continue
        try:
            model = ggml.profile(gguf_model(headers, name))
        except AimindError as problem:
            missing += [f"{record['id']}: {problem.message}" for record in records]
            continue
        for record in records:
            started = time.perf_counter()
            try:
                figures += list(gguf_figures(model, record, mixed_inputs=recorded.mixed_inputs))
            except (AimindError, ValueError) as problem:
                missing.append(f"{record['id']}: {problem}")
            spent += time.perf_counter() - started
            count += 1
    return Report(figures, missing, 1000 * spent / max(1, count))


# ── vLLM ───────────────────────────────────────────────────────────────────────────────────────────────────


def vllm_model(configs: Path, record: Record) -> Metadata:
    """The model of a run: its config.json beside a sparse file with the parameters that vLLM had.

    The runs had dummy weights, so there is no checkpoint whose headers could be read.
    """
    header: dict[str, object] = {}
    offset = 0
    for name, (shape, dtype, size) in record["param_shapes"].items():
        header[name] = {"dtype": _DTYPES[dtype], "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    with tempfile.TemporaryDirectory() as folder:
        config = configs / f"{record['dir']}.config.json"
        (Path(folder) / "config.json").write_bytes(config.read_bytes())
        with (Path(folder) / "model.safetensors").open("wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            file.truncate(8 + len(text) + offset)
        return read_folder(Path(folder))


def vllm_figures(configs: Path, record: Record) -> Iterator[Figure]:
    """Weights, block size, blocks, tokens, and the length that `auto` chooses."""
    described, args = vllm_model(configs, record), record["args"]
    layout = paged.layout(
        described,
        ranks=(1, 1),
        cache_dtype=args["kv_dtype"],
        dtype="auto",
        block_size=args["block"] or paged.ram_block_size(described, 128),
        prefix_caching=not args["no_prefix"],
    )
    memory, in_flight = args["kv_bytes"], args["batched"]
    length = args["max_model_len"]
    if length < 0:
        length = layout.longest(memory, described.max_model_len or 0, in_flight=in_flight)
    weights = paged.weights_bytes(described, tensor_parallel=1, pipeline_parallel=1)
    found = {
        "weight_bytes": weights,
        "block_size": layout.block_size,
        "num_blocks": memory // layout.block_bytes,
        "max_model_len": length,
        "kv_tokens": layout.tokens_held(memory, length, in_flight=in_flight),
    }
    for component, estimated in found.items():
        yield Figure("vllm", component, record["run"], estimated, record[component])


# ── The table ──────────────────────────────────────────────────────────────────────────────────────────────


def summary(figures: Sequence[Figure]) -> dict[str, object]:
    """One line of the table."""
    errors = sorted(figures, key=lambda figure: figure.error)
    sizes = sorted(abs(figure.error) for figure in figures)
    return {
        "setup": figures[0].setup,
        "component": figures[0].component,
        "records": len(figures),
        "exact": sum(figure.estimated == figure.real for figure in figures) / len(figures),
        "median": sizes[len(sizes) // 2],
        "p90": sizes[min(len(sizes) - 1, len(sizes) * 9 // 10)],
        "worst_under": min(0.0, errors[0].error),
        "worst_over": max(0.0, errors[-1].error),
        "worst_under_record": errors[0].record,
        "worst_over_record": errors[-1].record,
    }


def table(figures: Sequence[Figure]) -> list[dict[str, object]]:
    """A line per setup and component, in the order of the records."""
    groups: dict[tuple[str, str], list[Figure]] = defaultdict(list)
    for figure in figures:
        if figure.real or figure.estimated:
            groups[figure.setup, figure.component].append(figure)
    return [summary(group) for group in groups.values()]


def _print(lines: Sequence[Mapping[str, Any]]) -> None:
    print("| setup | component | records | exact | median | 90 % | worst under | worst over |")
    print("|---|---|---|---|---|---|---|---|")
    for line in lines:
        shown = [line["setup"], line["component"], line["records"], f"{line['exact']:.1%}"]
        shown += [f"{line[name]:.3%}" for name in ("median", "p90")]
        shown += [f"{line[name]:+.2%}" for name in ("worst_under", "worst_over")]
        print(f"| {' | '.join(map(str, shown))} |")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--headers", type=Path, help="folder of GGUF headers (default: those in tests/data)")
    parser.add_argument("--truth", type=Path, help="records of these models (default: those in tests/data)")
    parser.add_argument("--vllm-configs", type=Path, default=DATA / "models" / "vllm")
    parser.add_argument("--vllm-truth", type=Path, default=DATA / "ground_truth_vllm.json")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of tables")
    options = parser.parse_args(arguments)
    if bool(options.headers) != bool(options.truth):
        parser.error("--headers and --truth belong together")
    files = ((options.headers, options.truth),) if options.headers else GGUF_FILES
    reports = {read_records(truth).ggml: gguf_report(headers, truth) for headers, truth in files}
    runs = json.loads(options.vllm_truth.read_text())
    vllm = [figure for run in runs for figure in vllm_figures(options.vllm_configs, run)]
    tables = {f"llama.cpp, ggml {version}": table(report.figures) for version, report in reports.items()}
    tables["vllm"] = table(vllm)
    missing = [line for report in reports.values() for line in report.missing]
    milliseconds = {version: report.milliseconds for version, report in reports.items()}
    if options.json:
        document = {**tables, "milliseconds_per_estimate": milliseconds, "not_estimated": missing}
        print(json.dumps(document, indent=1))
        return 0
    for backend, lines in tables.items():
        print(f"\n{backend}\n")
        _print(lines)
    print("\nllama.cpp on a GPU\n")
    gpu_llama.print_table()
    print("\nvLLM on a GPU\n")
    gpu_vllm.print_table()
    for version, mean in milliseconds.items():
        print(f"\n{mean:.2f} ms per estimate of llama.cpp with ggml {version}, none of them repeated")
    print(f"\n{len(missing)} records of llama.cpp were not estimated")
    for line in missing:
        print(f"- {line}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
