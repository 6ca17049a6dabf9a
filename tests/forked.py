"""Running `aimind` many times: each is a process of its own, forked from one that has imported everything.

Starting Python and importing takes three quarters of a short command's time. What depends on how Python is
started (encodings, preloaded libraries, closed descriptors) is run as usual.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import io
import json
import os
import pkgutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

AIMIND = Path(sys.executable).with_name("aimind")
# Read by the dynamic linker or by Python when a process starts.
_READ_AT_THE_START = ("LD_", "PYTHON", "LC_", "LANG")
_MESSAGE_BYTES = 1 << 20


def run(
    words: Sequence[str], *, env: Mapping[str, str], cwd: Path, timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """`aimind WORDS`, to its end."""
    argv = [str(AIMIND), *words]
    if sys.platform != "linux" or any(name.startswith(_READ_AT_THE_START) for name in env):
        return subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, cwd=cwd, env=env
        )
    with (
        Path(os.devnull).open("rb") as stdin,
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryFile() as err,
    ):
        request = json.dumps({"argv": argv, "env": dict(env), "cwd": str(cwd)}).encode()
        server = _server()
        server.settimeout(timeout)
        socket.send_fds(server, [request], [stdin.fileno(), out.fileno(), err.fileno()])
        pid = int(server.recv(64))
        try:
            status = int(server.recv(64))
        except TimeoutError:
            os.kill(pid, signal.SIGKILL)
            server.recv(64)
            raise subprocess.TimeoutExpired(argv, timeout) from None
        out.seek(0)
        err.seek(0)
        code = os.waitstatus_to_exitcode(status)
        return subprocess.CompletedProcess(
            argv, code, out.read().decode(errors="replace"), err.read().decode(errors="replace")
        )


@functools.cache
def _server() -> socket.socket:
    """The process that forks: it ends when this one closes its socket, which it does when it ends."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.forked"],
        stdin=theirs.fileno(),
        cwd=Path(__file__).parents[1],
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent"},
    )
    theirs.close()

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


def _serve() -> None:
    import aimind

    for module in pkgutil.walk_packages(aimind.__path__, "aimind."):
        if ".shims" not in module.name and not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in ("rich.console", "rich.table", "httpx2", "pynvml", "uv", "psutil"):
        importlib.import_module(name)
    gc.freeze()  # the pages are shared for as long as nobody writes to them
    with socket.socket(fileno=os.dup(0)) as server:
        while True:
            message, descriptors, _, _ = socket.recv_fds(server, _MESSAGE_BYTES, 3)
            if not message:
                return
            pid = os.fork()
            if not pid:
                server.close()
                _become(json.loads(message), descriptors)
            for descriptor in descriptors:
                os.close(descriptor)
            server.send(str(pid).encode())
            server.send(str(os.waitpid(pid, 0)[1]).encode())


def _become(request: dict[str, object], descriptors: list[int]) -> None:
    """Be `aimind` with these arguments, this environment and these three descriptors."""
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    env = request["env"]
    assert isinstance(env, dict)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(str(request["cwd"]))
    argv = request["argv"]
    assert isinstance(argv, list)
    sys.argv = argv
    sys.stdin = io.TextIOWrapper(io.FileIO(0, closefd=False), encoding="utf-8")
    sys.stdout = io.TextIOWrapper(io.BufferedWriter(io.FileIO(1, "w", closefd=False)), encoding="utf-8")
    sys.stderr = io.TextIOWrapper(
        io.BufferedWriter(io.FileIO(2, "w", closefd=False)),
        encoding="utf-8",
        errors="backslashreplace",
        line_buffering=True,
    )
    from aimind.cli import main

    code: object = 1
    try:
        main()
    except SystemExit as end:
        code = end.code
    finally:
        # Python would else take all modules apart, which costs as much as importing them.
        atexit._run_exitfuncs()
        sys.stdout.flush()
        os._exit(code if isinstance(code, int) else 1)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):  # which is for pytest, and comes here too
        _serve()
