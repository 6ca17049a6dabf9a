"""An answer that is generated while it is read."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass

from aimind.api.server import Server, refuse_error
from aimind.errors import ApiError, ConnectionLostError

DONE = "[DONE]"


@dataclass(frozen=True, slots=True)
class Piece:
    """Some of the text. `reasoning`: it is what the model thinks before it answers."""

    text: str
    reasoning: bool = False


class Answer:
    """One answer of a language model, from `/v1/chat/completions` or `/v1/completions`.

    Attributes:
        text: the answer as far as it has come, without the reasoning.
        finish_reason: `stop`, `length` or another word of the server's; `None` before the end.
        prompt_tokens, completion_tokens: as the server counts them; `None` where it does not.
        started_at: when the request was sent, by `time.perf_counter`; piece_times: when each piece came.
    """

    def __init__(self, server: Server, path: str, body: Mapping[str, object]) -> None:
        self.text = ""
        self.finish_reason: str | None = None
        self.prompt_tokens: int | None = None
        self.completion_tokens: int | None = None
        self.started_at = 0.0
        self.piece_times: list[float] = []
        self._server = server
        self._path = path
        self._body = {**body, "stream": True, "stream_options": {"include_usage": True}}

    def pieces(self) -> Generator[Piece]:
        """Send the request, and yield the text as it comes.

        Raises:
            ApiError: the server refuses, or reports an error in the middle.
            ConnectionLostError: the server cannot be reached, or the answer breaks off.
        """
        self.started_at = time.perf_counter()
        done = False
        with contextlib.closing(self._server.stream(self._path, self._body)) as events:
            for data in events:
                if data.strip() == DONE:
                    done = True
                    break
                for piece in self._read(data):
                    self.piece_times.append(time.perf_counter())
                    if not piece.reasoning:
                        self.text += piece.text
                    yield piece
        if not done and self.finish_reason is None:
            raise ConnectionLostError(
                "the server ended its answer before it was complete", hint="see its log for the cause"
            )

    @property
    def ttft_seconds(self) -> float | None:
        """Seconds from the request to the first piece of text."""
        return self.piece_times[0] - self.started_at if self.piece_times else None

    @property
    def latency_seconds(self) -> float:
        """Seconds from the request to the last piece of text."""
        return self.piece_times[-1] - self.started_at if self.piece_times else 0.0

    @property
    def output_tokens(self) -> int:
        """Tokens of the answer: the server's count, else the number of pieces."""
        return len(self.piece_times) if self.completion_tokens is None else self.completion_tokens

    def _read(self, data: str) -> Iterator[Piece]:
        """Read one event of the stream, or the whole document of a server that does not stream."""
        try:
            event = json.loads(data)
        except ValueError:
            event = None
        if not isinstance(event, dict):
            raise ApiError("the server sent an event that is not JSON", hint="see its log for details")
        refuse_error(event)
        self._read_usage(event.get("usage"))
        choices = event.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        if not isinstance(choice, dict):
            return
        if choice.get("finish_reason"):
            self.finish_reason = str(choice["finish_reason"])
        # A delta of a streamed chat, a message of one that is not streamed, or the text of a completion.
        part = choice.get("delta") or choice.get("message") or {"content": choice.get("text")}
        if not isinstance(part, dict):
            return
        reasoning = part.get("reasoning_content") or part.get("reasoning")  # llama.cpp, SGLang; vLLM
        if isinstance(reasoning, str) and reasoning:
            yield Piece(reasoning, reasoning=True)
        content = part.get("content")
        if isinstance(content, str) and content:
            yield Piece(content)

    def _read_usage(self, usage: object) -> None:
        if not isinstance(usage, dict):
            return
        prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
        self.prompt_tokens = prompt if isinstance(prompt, int) else self.prompt_tokens
        self.completion_tokens = completion if isinstance(completion, int) else self.completion_tokens
