"""Models that are not for conversations, behind a small server that answers as vox-box and llama-box do."""

from __future__ import annotations

import base64
import json
import shlex
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO
from pathlib import Path

import pytest

from aimind.api import Server
from aimind.chat.target import Target
from aimind.chat.use import Wish, use
from aimind.errors import ApiError, UsageError

SOUND, IMAGE = b"ID3 sound", b"\x89PNG image"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/v1/audio/speech":
            asked = json.loads(body)
            if asked["voice"] == "nobody":  # vox-box answers errors with 200
                self.answer(
                    b'{"status_code": 400, "detail": "voice nobody not supported"}', "application/json"
                )
            else:
                assert asked == {"model": "bark", "voice": "v2/en", "input": "Hello"}
                self.answer(SOUND, "audio/mpeg")
        else:
            assert json.loads(body) == {"model": "sd", "prompt": "Hello", "response_format": "b64_json"}
            document = {"data": [{"b64_json": base64.b64encode(IMAGE).decode()}]}
            self.answer(json.dumps(document).encode(), "application/json")

    def answer(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, template: str, *values: object) -> None:
        """Print nothing."""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.chdir(tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        thread = threading.Thread(target=found.serve_forever, args=(0.01,))
        thread.start()
        yield Server(f"http://127.0.0.1:{found.server_port}")
        found.shutdown()
        thread.join()


def test_speech_is_a_file_that_replaces_none(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    template = {"model": "bark", "voice": "v2/en"}
    target = Target(server=server, title="bark", path="audio/speech", template=template)
    Path("speech.mp3").write_bytes(b"mine")
    use(target, Wish(piped="Hello\n"), ends_with_us=True)
    assert capsys.readouterr().out == "speech-2.mp3\n"
    assert (Path("speech.mp3").read_bytes(), Path("speech-2.mp3").read_bytes()) == (b"mine", SOUND)
    use(target, Wish(prompt="Hello", output=Path("speech.mp3")), ends_with_us=True)
    assert Path("speech.mp3").read_bytes() == SOUND


def test_a_voice_that_does_not_exist(server: Server) -> None:
    target = Target(server=server, title="bark", path="audio/speech", template={"model": "bark"})
    with pytest.raises(ApiError, match="the server answered 400: voice nobody not supported"):
        use(target, Wish(prompt="Hello", voice="nobody"), ends_with_us=True)
    assert not Path("speech.mp3").exists()


def test_an_image_is_a_file(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    target = Target(server=server, title="sd", path="images/generations", template={"model": "sd"})
    use(target, Wish(prompt="Hello"), ends_with_us=True)
    assert capsys.readouterr().out == "image.png\n"
    assert Path("image.png").read_bytes() == IMAGE


class _TypedText(StringIO):
    def isatty(self) -> bool:
        return True


def test_an_embedding_model_in_a_terminal(
    server: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is explained, and runs on until Ctrl-D."""
    typed = _TypedText("until here")
    monkeypatch.setattr(sys, "stdin", typed)
    words = (f"{server.url}/v1/embeddings", "-d", '{"model": "bge", "input": "Hello"}')
    target = Target(server=server, title="bge", path="embeddings", example=words)
    use(target, Wish(), ends_with_us=True)
    purpose, line = capsys.readouterr().out.splitlines()
    assert purpose.startswith("bge turns texts into vectors")
    assert shlex.split(line) == ["curl", *words]
    assert typed.read() == ""


def test_an_image_for_a_model_that_takes_none(server: Server) -> None:
    target = Target(server=server, title="bark", path="audio/speech")
    with pytest.raises(UsageError, match="bark does not support conversations"):
        use(target, Wish(images=("data:image/png;base64,",)), ends_with_us=True)
