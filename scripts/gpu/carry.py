"""Bring what `make test-gpu` needs on a machine without a network: `make gpu-carry`, where there is one.

The sources of llama.cpp come from the sdist of llama-cpp-python, the version that the estimates were written
for, cut to what a CUDA build of `llama-server` reads. The packages are those that planning a local file
imports, at the pins of requirements/dev.txt. Both are checked against their hashes. The same versions give
the same bytes again.
"""

from __future__ import annotations

import argparse
import io
import re
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from uv import find_uv_bin

from scripts.gpu import CARRIED, ROOT

SDIST = (
    "llama-cpp-python==0.3.36 "
    "--hash=sha256:832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e\n"
)
PACKAGES = """
    annotated-doc markdown-it-py mdurl nvidia-ml-py platformdirs psutil pygments rich shellingham typer
    typing-extensions
""".split()
# manylinux as far back as these packages go; pip takes no newer wheel than those named.
PLATFORMS = "manylinux_2_28 manylinux_2_17 manylinux2014 manylinux_2_12 manylinux2010".split()

KEPT = re.compile(
    r"(CMakeLists\.txt|LICENSE|scripts/ui-assets\.cmake"
    r"|(cmake|common|include|licenses|src|tools|vendor)/.*"
    r"|ggml/(CMakeLists\.txt|(cmake|include)/.*|src/[^/]+|src/ggml-(cpu|cuda)/.*))"
)
DROPPED = re.compile(
    r"tools/ui/.*/.*|tools/(mtmd|server)/(bench|tests|.*\.(jpe?g|png|mp3|wav)).*|.*\.(md|py)"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--python", default="3.12", help="of the machine with the GPU (default: %(default)s)")
    parser.add_argument("--machine", default="x86_64", help="its processor (default: %(default)s)")
    options = parser.parse_args()
    shutil.rmtree(CARRIED, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        download(SDIST, Path(folder), "--no-binary", "llama-cpp-python")
        trim(next(Path(folder).glob("*.tar.gz")), CARRIED / "llama.cpp.tar.xz")
    platforms = [word for name in PLATFORMS for word in ("--platform", f"{name}_{options.machine}")]
    wheels = ("--only-binary", ":all:", "--python-version", options.python, "--implementation", "cp")
    download(pins(), CARRIED / "wheels", *wheels, *platforms)
    for path in sorted(CARRIED.rglob("*.*")):
        print(f"{path.stat().st_size / 2**20:7.2f} MiB  {path.relative_to(ROOT)}")


def download(requirements: str, folder: Path, *options: str) -> None:
    """Have pip bring exactly these, with their hashes checked."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(requirements)
        file.flush()
        pip = [find_uv_bin(), "tool", "run", "-q", "pip", "download", "-qq", "--no-deps"]
        subprocess.run([*pip, *options, "--require-hashes", "-r", file.name, "-d", folder], check=True)


def pins() -> str:
    """The lines of requirements/dev.txt that pin the packages."""
    lines = (ROOT / "requirements" / "dev.txt").read_text()
    found = [re.search(rf"^{name}==(.*\\\n)+.*\n", lines, re.MULTILINE) for name in PACKAGES]
    return "".join(match[0] for match in found if match)


def trim(sdist: Path, to: Path) -> None:
    """The archive of what is kept of llama.cpp."""
    to.parent.mkdir(parents=True)
    with tarfile.open(sdist) as source, tarfile.open(to, "w:xz") as target:
        for member in sorted(source.getmembers(), key=lambda member: member.name):
            _, vendored, path = member.name.partition("/vendor/llama.cpp/")
            if not (vendored and member.isfile() and KEPT.fullmatch(path)) or DROPPED.fullmatch(path):
                continue
            stream = source.extractfile(member)
            assert stream is not None
            content = stream.read()
            kept = tarfile.TarInfo(
                f"llama.cpp/{path}"
            )  # nothing but name and size, so that bytes are the same
            kept.size = len(content)
            target.addfile(kept, io.BytesIO(content))


if __name__ == "__main__":
    main()
