"""llama-server from the carried sources: for the device that is here, or for the CPU where there is none."""

from __future__ import annotations

import ctypes
import itertools
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

from scripts.gpu import CARRIED, FOLDER

COMMON = {
    "CMAKE_BUILD_TYPE": "Release",
    "BUILD_SHARED_LIBS": "OFF",
    "GGML_CCACHE": "OFF",
    "GGML_CUDA_NCCL": "OFF",
    "LLAMA_BUILD_APP": "OFF",
    "LLAMA_BUILD_EXAMPLES": "OFF",
    "LLAMA_BUILD_TESTS": "OFF",
    "LLAMA_OPENSSL": "OFF",
    "LLAMA_USE_PREBUILT_UI": "OFF",
}
# As CUDA's compiler comes from Python's packages on some machines, these may be elsewhere than beside it.
LIBRARIES = ("cublas", "cublasLt", "cuda", "cudart")


def build(architecture: str | None, *, jobs: int) -> Path:
    """The folder with `llama-server`, to be put on PATH.

    Args:
        architecture: of the device, as CUDA writes it: `90`; none for a build without CUDA.
        jobs: compilations at once.
    """
    folder = FOLDER / (f"cuda-{architecture}" if architecture else "cpu")
    started = time.monotonic()
    configure(folder, architecture)
    run(folder, "cmake", "--build", folder, "--target", "llama-server", "--parallel", str(jobs))
    print(f"built {folder.name} with {jobs} jobs in {time.monotonic() - started:.0f} s", flush=True)
    return folder / "bin"


def configure(folder: Path, architecture: str | None) -> None:
    """Unpack the sources and let cmake look at the machine."""
    folder.mkdir(parents=True, exist_ok=True)
    sources = FOLDER / "llama.cpp"
    if not sources.exists():
        with tarfile.open(CARRIED / "llama.cpp.tar.xz") as archive:
            archive.extractall(FOLDER, filter="data")
    definitions = COMMON | (_cuda(folder, architecture) if architecture else {})
    generator = ("-G", "Ninja") if shutil.which("ninja") else ()
    arguments = [f"-D{name}={value}" for name, value in definitions.items()]
    run(folder, "cmake", "-S", sources, "-B", folder, *generator, *arguments)


def run(folder: Path, *command: str | Path) -> None:
    """Run it with its output in a file; that it failed is told with the end of that.

    Raises:
        SystemExit: it failed.
    """
    with (folder / "build.log").open("ab+") as log:
        if subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False).returncode:
            log.seek(0)
            said = log.read().decode(errors="replace").splitlines()
            failed = [line for line in said if re.search(r"error|FAILED", line, re.IGNORECASE)]
            raise SystemExit(
                "\n".join([*failed[:10], "…", *said[-20:], f"failed: {command[0]} {command[1]}"])
            )


def _cuda(folder: Path, architecture: str) -> dict[str, str]:
    links = folder / "libraries"
    links.mkdir(exist_ok=True)
    for name in LIBRARIES:
        for found in itertools.islice(_libraries(name), 1):
            for link in {f"lib{name}.so", found.name, found.resolve().name}:
                (links / link).unlink(missing_ok=True)
                (links / link).symlink_to(found.resolve())
    header = next((path.parent for place in _places() for path in place.glob("include/cublas_v2.h")), None)
    return {
        "GGML_CUDA": "ON",
        "CMAKE_CUDA_ARCHITECTURES": f"{architecture}-real",
        "CMAKE_LIBRARY_PATH": str(links),
        "CMAKE_CUDA_FLAGS": f"-isystem {header}" if header else "",
    }


def _libraries(name: str) -> Iterator[Path]:
    """Where a library of CUDA is, the driver's own first for its."""
    if name == "cuda" and (driver := _loaded("libcuda.so.1")):
        yield driver
    for place in _places():
        for part in ("lib64", "lib", "lib64/stubs", "."):
            yield from sorted((place / part).glob(f"lib{name}.so*"))


def _places() -> Iterator[Path]:
    """Folders that hold `include` and `lib`: the toolkit's, those of Python's packages; and the linker's."""
    said = subprocess.run(["nvcc", "--dryrun", "x.cu"], capture_output=True, text=True, check=False).stderr
    if match := re.search(r"^#\$ TOP=(.*)$", said, re.MULTILINE):
        yield Path(match[1]).resolve()
    for folder in sys.path:
        yield from Path(folder).glob("nvidia/*")
    yield from map(Path, filter(None, os.environ.get("LIBRARY_PATH", "").split(os.pathsep)))


def _loaded(library: str) -> Path | None:
    """The file that the loader takes for it."""
    try:
        ctypes.CDLL(library)
    except OSError:
        return None
    maps = Path("/proc/self/maps").read_text().split()
    return next((Path(word) for word in maps if word.startswith("/") and "/libcuda.so" in word), None)
