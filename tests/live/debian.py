"""A real llama-server from Debian's packages, unpacked into a folder: nothing is installed on the machine."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

PACKAGES = "llama.cpp-tools libllama0 libggml0 libc6 libgcc-s1 libstdc++6 libssl3t64 libgomp1 zlib1g libzstd1"
SOURCE = """\
Types: deb
URIs: {mirror}
Suites: sid
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
"""


def can_be_had() -> bool:
    """Whether this is a Debian on x86-64 with its own mirror."""
    return bool(
        shutil.which("apt-get") and shutil.which("dpkg-deb") and _mirror() and os.uname().machine == "x86_64"
    )


def llama_server(folder: Path) -> Path:
    """The folder that holds `llama-server`, to be put on PATH; what was fetched before is kept."""
    programs = folder / "bin"
    if not (programs / "llama-server").exists():
        _unpack(folder)
        programs.mkdir(exist_ok=True)
        (programs / "llama-server").write_text(_script(folder / "root"))
        (programs / "llama-server").chmod(0o755)
    return programs


def _mirror() -> str | None:
    """Where the machine's own packages come from."""
    for path in (*Path("/etc/apt/sources.list.d").glob("*.sources"), Path("/etc/apt/sources.list")):
        for line in path.read_text().splitlines() if path.exists() else ():
            words = line.split()
            if words[:1] in (["URIs:"], ["deb"]):
                return words[1]
    return None


def _unpack(folder: Path) -> None:
    for name in ("parts", "lists/partial", "cache/archives/partial", "packages", "root"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "parts" / "sid.sources").write_text(SOURCE.format(mirror=_mirror()))
    private = [
        "-oDir::Etc::SourceList=/dev/null",
        f"-oDir::Etc::SourceParts={folder}/parts",
        f"-oDir::State::Lists={folder}/lists",
        f"-oDir::Cache={folder}/cache",
        "-oAPT::Sandbox::User=root",
    ]
    subprocess.run(["apt-get", *private, "--quiet=2", "update"], check=True)
    subprocess.run(
        ["apt-get", *private, "--quiet=2", "download", *PACKAGES.split()], check=True, cwd=folder / "packages"
    )
    for package in sorted((folder / "packages").glob("*.deb")):
        subprocess.run(["dpkg-deb", "--extract", package, folder / "root"], check=True)
    libraries = _libraries(folder / "root")
    for backend in libraries.glob("ggml/backends0/*.so"):
        (libraries / backend.name).symlink_to(backend)  # ggml looks for them beside the loader


def _libraries(root: Path) -> Path:
    return root / "usr" / "lib" / "x86_64-linux-gnu"


def _script(root: Path) -> str:
    libraries = _libraries(root)
    path = f"{libraries}:{libraries}/llama:{libraries}/ggml/backends0"
    loader = f"{libraries}/ld-linux-x86-64.so.2 --argv0 llama-server --library-path {path}"
    return f'#!/bin/sh\nexec {loader} {root}/usr/bin/llama-server "$@"\n'
