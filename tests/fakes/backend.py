#!/usr/bin/env python3
"""A backend that misbehaves on demand: a real executable with the HTTP interface of an inference server.

It takes the flags of its own below, from its arguments and from the environment variable FAKE_BACKEND, and
ignores all others, so that it can stand in for any backend: give it that backend's name on PATH.

    GET  /health                 200 {"status": "ok"}, as the flags let it
    GET  /v1/models              the name it serves
    POST /v1/chat/completions    SENTENCE, whatever is asked; with "stream" word by word
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

SENTENCE = "I am a fake backend, and I work."
MAPPED: list[mmap.mmap] = []
LEAVE = "import os\nif os.fork(): os._exit(0)\nos.setsid(); print(os.getpid(), flush=True)\n"
IGNORE_TERM = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(3600)"


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    add = options.add_argument
    add("--host", default="127.0.0.1")
    add("--port", type=int, default=8080)
    add("--alias", default="fake", help="the model's name")
    add("--version", action="version", version="version: 9999 (fake)")
    add("--list-devices", action="store_true", help="print the variable FAKE_DEVICES, and end")
    add("--key-env", metavar="NAME", help="the variable with the key that every request must carry")
    add("--open-health", action="store_true", help="but for /health, as llama.cpp has it")
    # llama-server's, which change nothing.
    add("--threads", "--lora", "--load-mode", "--log-file", "--log-prefix", metavar="VALUE", dest="ignored")
    add("--mlock", action="store_true")
    # Before it listens.
    add("--pids", type=Path, metavar="FILE", help="write all process ids, one a line, this one first")
    add("--count", type=Path, metavar="FILE", help="add one line to this file at each start")
    add(
        "--grandchildren",
        type=int,
        default=0,
        help="start so many that ignore TERM, each second one a setsid",
    )
    add("--ignore-term", action="store_true")
    add(
        "--litter",
        type=Path,
        metavar="FILE",
        help="leave shared memory, of a process that has left the group too, and fill the temporary folder; "
        "write the names of the segments, one a line",
    )
    add("--map", type=Path, metavar="FILE", help="map a file that is there")
    add("--print", action="append", default=[], metavar="TEXT", help="a line for stdout (Python escapes)")
    add("--print-error", action="append", default=[], metavar="TEXT", help="likewise for stderr")
    add("--print-partial", metavar="TEXT", help="a line without its end")
    add("--print-env", action="append", default=[], metavar="NAME", help="the line NAME=value")
    add("--print-bytes", type=int, default=0, metavar="N", help="so many bytes, in lines of 100")
    add("--print-line", type=int, default=0, metavar="N", help="one line of so many bytes")
    add("--print-garbage", type=int, default=0, metavar="N", help="so many bytes that are no text")
    add("--allocate", type=int, default=0, metavar="N", help="take so many bytes of memory")
    add("--exit-at-start", type=int, metavar="CODE")
    add("--bind-after", type=float, default=0.0, metavar="SECONDS")
    add("--bind-when", type=Path, metavar="FILE", help="once this file is there")
    add("--busy", type=float, default=0.0, metavar="SECONDS", help="compute for so long, in silence")
    add("--chatter", type=float, default=0.0, metavar="SECONDS", help="print a line now and then for so long")
    # While it listens; what comes after some time comes so long after the first GET.
    add("--unready", type=float, default=0.0, metavar="SECONDS", help="answer 503 for so long")
    add("--lie", metavar="BODY", help="answer 200 with this body")
    add("--fail-after", type=float, metavar="SECONDS", help="answer 500 from then on")
    add("--hang-after", type=float, metavar="SECONDS", help="answer nothing from then on")
    add("--log-requests", action="store_true", help="print a line for each request")
    add("--refuse", action="store_true", help="answer 400 to every POST")
    add("--bodies", type=Path, metavar="FILE", help="add the body of each POST for a stream, one a line")
    add("--refuse-stream", metavar="BODY", help="answer 400 with this body to a POST that wants a stream")
    add("--think", metavar="TEXT", help="stream this as the reasoning before the answer")
    add("--word-pause", type=float, default=0.0, metavar="SECONDS", help="between the words of a stream")
    add("--exit-after-words", type=int, metavar="N", help="end with code 9 in the middle of a stream")
    add("--exit-after", type=float, metavar="SECONDS", help="then end")
    add("--exit-code", type=int, default=0, help="for --exit-after")
    return options


class Server(ThreadingHTTPServer):
    """Serves by the flags."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, flags: argparse.Namespace) -> None:
        super().__init__((flags.host, flags.port), Handler)
        self.flags = flags
        self.asked_at: float | None = None

    def be_asked(self) -> None:
        """The first time, a clock begins to run: on a busy machine it may be late."""
        if self.asked_at is None:
            self.asked_at = time.monotonic()
            if self.flags.exit_after is not None:
                threading.Timer(self.flags.exit_after, os._exit, (self.flags.exit_code,)).start()

    def since(self, seconds: float | None) -> bool:
        return (
            seconds is not None and self.asked_at is not None and time.monotonic() - self.asked_at >= seconds
        )


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        flags = self.server.flags
        self.server.be_asked()
        if not self.admit():
            return
        if self.server.since(flags.hang_after):
            time.sleep(3600)
        if self.path == "/v1/models":
            self.answer(200, {"object": "list", "data": [{"id": flags.alias, "object": "model"}]})
        elif self.path != "/health":
            self.answer(404, {"error": "no such page"})
        elif not self.server.since(flags.unready):
            self.answer(503, {"status": "loading"})
        elif self.server.since(flags.fail_after):
            self.answer(500, {"status": "broken"})
        elif flags.lie is not None:
            self.answer_text(200, flags.lie)
        else:
            self.answer(200, {"status": "ok"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if not self.admit():
            return
        if self.server.flags.refuse:
            self.answer(400, {"error": "not like this"})
            return
        if self.path != "/v1/chat/completions":
            self.answer(404, {"error": "no such page"})
            return
        if b'"stream":true' in body.replace(b" ", b""):
            if self.server.flags.bodies is not None:
                with self.server.flags.bodies.open("ab") as file:
                    file.write(body + b"\n")
            self.stream()
            return
        message = {"role": "assistant", "content": SENTENCE}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        model = self.server.flags.alias
        self.answer(200, {"id": "fake", "object": "chat.completion", "model": model, "choices": [choice]})

    def stream(self) -> None:
        """The answer word by word, with counts as of a server that has them."""
        flags = self.server.flags
        if flags.refuse_stream is not None:
            self.answer_text(400, flags.refuse_stream)
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        words = re.findall(r"\S+\s*", SENTENCE)
        thoughts = [{"reasoning_content": flags.think}] if flags.think else []
        for number, delta in enumerate([*thoughts, *({"content": word} for word in words)]):
            if number == flags.exit_after_words:
                os._exit(9)
            self.send_event({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
            time.sleep(flags.word_pause)
        self.send_event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        self.send_event({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": len(words)}})
        self.wfile.write(b"data: [DONE]\n\n")

    def send_event(self, document: object) -> None:
        self.wfile.write(f"data: {json.dumps(document)}\n\n".encode())
        self.wfile.flush()

    def admit(self) -> bool:
        name = self.server.flags.key_env
        if self.path == "/health" and self.server.flags.open_health:
            return True
        if name is None or self.headers.get("Authorization") == f"Bearer {os.environ[name]}":
            return True
        self.answer(401, {"error": "wrong key"})
        return False

    def answer(self, status: int, document: object) -> None:
        self.answer_text(status, json.dumps(document))

    def answer_text(self, status: int, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, template: str, *values: object) -> None:
        """Print nothing, unless the flags say so."""
        if self.server.flags.log_requests:
            print(f"{self.address_string()} - {template % values}", flush=True)


def write_out(flags: argparse.Namespace) -> None:
    for text in flags.print:
        sys.stdout.buffer.write(raw(text) + b"\n")
        sys.stdout.buffer.flush()
    for text in flags.print_error:
        sys.stderr.buffer.write(raw(text) + b"\n")
        sys.stderr.buffer.flush()
    for name in flags.print_env:
        print(f"{name}={os.environ.get(name)}", flush=True)
    for _ in range(flags.print_bytes // 100):
        sys.stdout.buffer.write(b"x" * 99 + b"\n")
    if flags.print_line:
        sys.stdout.buffer.write(b"y" * (flags.print_line - 1) + b"\n")
    sys.stdout.buffer.write(os.urandom(flags.print_garbage))
    if flags.print_partial is not None:
        sys.stdout.buffer.write(raw(flags.print_partial))
    sys.stdout.buffer.flush()


def raw(text: str) -> bytes:
    r"""The bytes that `text` means: `\xff` is one byte that is no UTF-8."""
    return text.encode().decode("unicode_escape").encode("latin-1")


def start_grandchildren(number: int) -> list[int]:
    r"""Processes that ignore TERM: every second one leaves the process group, and its parent ends at once."""
    command = [sys.executable, "-I", "-S", "-c"]
    pids = []
    for index in range(number):
        if index % 2 == 0:
            pids.append(subprocess.Popen([*command, IGNORE_TERM]).pid)
        else:
            with subprocess.Popen([*command, LEAVE + IGNORE_TERM], stdout=subprocess.PIPE) as parent:
                assert parent.stdout is not None
                pids.append(int(parent.stdout.readline()))
    return pids


def make_segment() -> str:
    """Shared memory that this process has mapped, and nobody removes."""
    name = f"psm_fake_{os.getpid()}"
    with Path(f"/dev/shm/{name}").open("x+b") as file:
        file.truncate(4096)
        MAPPED.append(mmap.mmap(file.fileno(), 4096))
    return name


def make_semaphore() -> str:
    """The same, as sem_open(3) makes it: mapped under a name that it then has no more."""
    path = Path(f"/dev/shm/{make_segment()}")
    name = f"sem.fake_{os.getpid()}"
    path.with_name(name).hardlink_to(path)
    path.unlink()
    return name


def litter() -> list[str]:
    """Fill the temporary folder, and make segments; the names of these."""
    folder = Path(tempfile.gettempdir())
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "a" / "b" / "file").write_text("x")
    (folder / "a").chmod(0o500)
    (folder / "link").symlink_to("/dev/shm")
    socket.socket(socket.AF_UNIX).bind(str(folder / "01234567-89ab-cdef-0123-456789abcdef"))
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.write(writer, make_semaphore().encode())
        time.sleep(3600)
    return [make_segment(), os.read(reader, 100).decode()]


def load(flags: argparse.Namespace) -> None:
    """Take the time that it is to take."""
    time.sleep(flags.bind_after)
    while flags.bind_when is not None and not flags.bind_when.exists():
        time.sleep(0.01)
    until = time.process_time() + flags.busy
    while time.process_time() < until:
        pass
    until = time.monotonic() + flags.chatter
    while time.monotonic() < until:
        print("still loading", flush=True)
        time.sleep(0.1)


def main() -> None:
    argv = [*shlex.split(os.environ.get("FAKE_BACKEND", "")), *sys.argv[1:]]
    flags, _ = parser().parse_known_args(argv)
    if flags.list_devices:
        print("Available devices:", os.environ.get("FAKE_DEVICES", ""), sep="\n")
        return
    if flags.ignore_term:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if flags.count is not None:
        with flags.count.open("a") as file:
            file.write("start\n")
    pids = [os.getpid(), *start_grandchildren(flags.grandchildren)]
    if flags.pids is not None:
        # Whole or not at all: others wait for this file.
        unfinished = flags.pids.with_suffix(".part")
        unfinished.write_text("".join(f"{pid}\n" for pid in pids))
        unfinished.replace(flags.pids)
    if flags.map is not None:
        with flags.map.open("r+b") as file:
            MAPPED.append(mmap.mmap(file.fileno(), 0))
    write_out(flags)
    held = b"x" * flags.allocate
    if flags.exit_at_start is not None:
        sys.exit(flags.exit_at_start)
    load(flags)
    if flags.litter is not None:
        flags.litter.write_text("".join(f"{name}\n" for name in litter()))
    server = Server(flags)
    server.serve_forever()
    del held


if __name__ == "__main__":
    main()
