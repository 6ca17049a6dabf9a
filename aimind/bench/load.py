"""Requests that measure a server: as many at once as wanted, each with a prompt that no cache has seen."""

from __future__ import annotations

import contextlib
import os
import queue
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field, replace

from aimind.api import Answer, Server
from aimind.bench.result import Result, result_of
from aimind.errors import AimindError, ApiError

_WORDS = (
    "the of and to in is that for it as was with be by on not he his but at are this have from or had "
    "an they which one you were all her she there would their we him been has when who will no more if "
    "out so what up about into than them can only other time new some could these two may first then do "
    "any like my now over such our man me even most made after also did many off before must well back "
    "through years where much way"
).split()
# What is sent to learn how many tokens of the model's such words are.
_SAMPLE_WORDS = 100
# Warming up: enough to compile or allocate what a batch of this size needs, and no more.
_WARM_WORDS, _WARM_TOKENS = 16, 4
# Requests for one measurement unless told: enough for a percentile, and no hour on a CPU.
LEAST_REQUESTS, ROUNDS = 8, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """The requests of a measurement.

    Attributes:
        prompt_tokens: of each request, about; the server's own counts are what is reported.
        answer_tokens: the longest answer; where the server can ignore the end of a text, each is as long.
        requests: in all; `None`: at least 8, and twice as many as there are at once.
    """

    prompt_tokens: int = 256
    answer_tokens: int = 128
    requests: int | None = None

    def count(self, at_once: int) -> int:
        """How many requests are made with so many at once."""
        return max(LEAST_REQUESTS, ROUNDS * at_once) if self.requests is None else self.requests


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """How this server is asked.

    Attributes:
        server: to ask.
        path: below `/v1/`.
        fields: that each body has.
        words: of a prompt that is as long as wanted.
        nonce: of this run, so that no prompt has been sent before.
    """

    server: Server
    path: str
    fields: Mapping[str, object]
    words: int = _SAMPLE_WORDS
    nonce: str = field(default_factory=lambda: os.urandom(8).hex())

    def ask(self, number: int, *, words: int, tokens: int) -> Answer:
        """Send the request of this number, and read its answer to the end.

        Raises:
            ApiError: there is none.
        """
        prompt = self._prompt(number, words)
        content: dict[str, object] = {"prompt": prompt}
        if self.path == "chat/completions":
            content = {"messages": [{"role": "user", "content": prompt}]}
        answer = Answer(self.server, self.path, {**self.fields, **content, "max_tokens": tokens})
        for _ in answer.pieces():
            pass
        if not answer.piece_times:
            raise ApiError("the server answered without any text", hint="see its log for the cause")
        return answer

    def _prompt(self, number: int, words: int) -> str:
        """Random words, of which the first already differ from those of other numbers."""
        chosen = random.Random(f"{self.nonce} {number}")
        return " ".join(chosen.choices(_WORDS, k=words))


def prepare(server: Server, *, model: str | None, load: Load) -> Probe:
    """Find out how the server can be asked, and how many words make a prompt of the wanted length.

    Raises:
        ApiError: it can be asked in no way that is known.
    """
    named = {} if model is None else {"model": model}
    endless = {**named, "ignore_eos": True}
    ways = (
        ("completions", endless),
        ("chat/completions", endless),
        ("chat/completions", named),
        ("completions", named),
    )
    problem: AimindError | None = None
    for path, fields in ways:
        probe = Probe(server=server, path=path, fields={**fields, "temperature": 0})
        try:
            answer = probe.ask(0, words=_SAMPLE_WORDS, tokens=_WARM_TOKENS)
        except ApiError as refusal:
            problem = problem or refusal
            continue
        tokens_per_word = (answer.prompt_tokens or _SAMPLE_WORDS) / _SAMPLE_WORDS
        return replace(probe, words=max(1, round(load.prompt_tokens / tokens_per_word)))
    raise problem or ApiError("the server cannot be reached", hint="run `aimind ps` to see what is running")


def measure(
    probe: Probe, load: Load, *, at_once: int, progress: Callable[[int, int], None] = lambda *_: None
) -> Result:
    """Return the figures with so many requests at once; `progress(done, all)` is called on the way.

    Raises:
        ApiError: not one request was answered.
    """
    first = at_once << 20  # numbers, and so prompts, that other measurements of this run do not have
    warm_up = _Batch(first, count=at_once, at_once=at_once, words=_WARM_WORDS, tokens=_WARM_TOKENS)
    warm_up.send(probe)
    batch = _Batch(
        first + at_once,
        count=load.count(at_once),
        at_once=at_once,
        words=probe.words,
        tokens=load.answer_tokens,
    )
    start = time.perf_counter()
    outcomes = batch.send(probe, progress)
    duration = time.perf_counter() - start
    answers = [outcome for outcome in outcomes if isinstance(outcome, Answer)]
    problems = [outcome for outcome in outcomes if isinstance(outcome, ApiError)]
    if not answers:
        raise problems[0]
    return result_of(answers, failed=len(problems), max_concurrency=at_once, duration=duration)


@dataclass(frozen=True, slots=True)
class _Batch:
    """Requests that are made from as many threads as there shall be at once.

    The threads are daemons: after Ctrl-C nobody waits for answers that a slow server still owes.
    """

    first: int
    _: KW_ONLY
    count: int
    at_once: int
    words: int
    tokens: int

    def send(
        self, probe: Probe, progress: Callable[[int, int], None] = lambda *_: None
    ) -> list[Answer | ApiError]:
        """Make all requests; what each has come to."""
        numbers: queue.SimpleQueue[int] = queue.SimpleQueue()
        for number in range(self.first, self.first + self.count):
            numbers.put(number)
        done: queue.SimpleQueue[Answer | Exception] = queue.SimpleQueue()
        for _ in range(min(self.at_once, self.count)):
            threading.Thread(target=self._work, args=(probe, numbers, done), daemon=True).start()
        outcomes: list[Answer | ApiError] = []
        while len(outcomes) < self.count:
            progress(len(outcomes), self.count)
            outcome = done.get()
            if not isinstance(outcome, Answer | ApiError):
                raise outcome
            outcomes.append(outcome)
        progress(self.count, self.count)
        return outcomes

    def _work(
        self, probe: Probe, numbers: queue.SimpleQueue[int], done: queue.SimpleQueue[Answer | Exception]
    ) -> None:
        """Make one request after the other, until there are no more."""
        with contextlib.suppress(queue.Empty):
            while True:
                number = numbers.get_nowait()
                try:
                    done.put(probe.ask(number, words=self.words, tokens=self.tokens))
                except Exception as problem:  # noqa: BLE001 - the thread that waits raises it again
                    done.put(problem)
