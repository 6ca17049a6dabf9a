"""`aimind bench`: how fast a server answers."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from aimind import show
from aimind.cli.app import Command
from aimind.cli.asking import api_key
from aimind.cli.declare import RUNNING, option
from aimind.cli.options import Json
from aimind.cli.run import KeyFile, ModelName, ServerName, find_target
from aimind.errors import InstallError, UsageError

if TYPE_CHECKING:
    from aimind.bench import Load, Result
    from aimind.chat.target import Target

app = typer.Typer(add_completion=False)
AT_ONCE = (1, 8, 64)
# Python runs on one core: a client that computes longer than this share of the time delays what it measures.
BUSY_SHARE = 0.7


class Counts(tuple[int, ...]):
    """Numbers of requests at once."""

    __slots__ = ()


def parse_counts(value: object) -> Counts:
    """Positive numbers, separated by commas.

    Raises:
        ValueError: one of them is none.
    """
    if isinstance(value, tuple):
        return Counts(value)
    try:
        counts = Counts(int(part) for part in str(value).split(","))
    except ValueError:
        counts = Counts([0])
    if min(counts) < 1:
        raise ValueError(f"{value!r} is not a list of numbers such as 1,8,64")
    return counts


@app.command("bench", cls=Command)
def bench_command(  # noqa: PLR0913 - one per option
    server: ServerName,
    *,
    at_once: Annotated[
        Counts | None,
        option(
            "--at-once",
            panel=RUNNING,
            metavar="LIST",
            parser=parse_counts,
            help="Measure with these numbers of requests at once (default: 1,8,64).",
        ),
    ] = None,
    requests: Annotated[
        int | None,
        option(
            "--requests",
            panel=RUNNING,
            metavar="N",
            min=1,
            help="Requests per measurement (default: twice the number at once, and at least 8).",
        ),
    ] = None,
    prompt_tokens: Annotated[
        int,
        option(
            "--prompt-tokens",
            panel=RUNNING,
            metavar="N",
            min=1,
            help="Approximate length of each prompt, in tokens (default: 256).",
        ),
    ] = 256,
    answer_tokens: Annotated[
        int,
        option(
            "--answer-tokens",
            panel=RUNNING,
            metavar="N",
            min=2,
            help="Length of each answer, in tokens (default: 128).",
        ),
    ] = 128,
    use_vllm: Annotated[
        bool,
        option(
            "--use-vllm",
            panel=RUNNING,
            help="Measure with `vllm bench serve` of the installed vLLM; the server must be a vLLM on this "
            "machine.",
        ),
    ] = False,
    model: ModelName = None,
    api_key_file: KeyFile = None,
    as_json: Json = False,
) -> None:
    """Measure how fast a server answers.

    It shows the time to the first token, the time per further token and the tokens per second. No two prompts
    are alike, so that no cache helps. With --json the fields are those of `vllm bench serve`.

    Examples:
      aimind bench demo
      aimind bench http://127.0.0.1:8000 --at-once 1,16 --answer-tokens 256
    """
    from aimind.bench import Load

    key = api_key(api_key_file)
    target = find_target(server, model=model, key=key)
    if target.path not in ("chat/completions", "completions"):
        raise UsageError(
            f"{target.title} is not a language model", hint="`aimind bench` measures language models only"
        )
    load = Load(prompt_tokens=prompt_tokens, answer_tokens=answer_tokens, requests=requests)
    measure = _by_vllm(target, load, key=key) if use_vllm else _by_us(target, load)
    results = _measure_all(measure, at_once or AT_ONCE)
    if as_json:
        facts = {"server": target.server.url, "model": target.model, "by": "vllm" if use_vllm else "aimind"}
        show.data(show.bench_document(results, **facts))
        return
    show.bench(
        results, title=f"{target.title}  prompts of about {prompt_tokens} tokens, answers of {answer_tokens}"
    )


def _measure_all(measure: Callable[[int], Result], counts: Sequence[int]) -> list[Result]:
    results = []
    for at_once in counts:
        start, computed = time.monotonic(), time.process_time()
        results.append(measure(at_once))
        share = (time.process_time() - computed) / (time.monotonic() - start)
        if share > BUSY_SHARE:
            show.warn(
                f"with {at_once} at once, aimind was busy {share:.0%} of the time: the server may be faster"
            )
    return results


def _by_us(target: Target, load: Load) -> Callable[[int], Result]:
    from aimind import bench

    probe = bench.prepare(target.server, model=target.model, load=load)

    def measure(at_once: int) -> Result:
        progress = functools.partial(show.bench_progress, at_once)
        return bench.measure(probe, load, at_once=at_once, progress=progress)

    return measure


def _by_vllm(target: Target, load: Load, *, key: str | None) -> Callable[[int], Result]:
    from aimind import bench, devices, environments, steps
    from aimind.launchers import vllm

    installed = environments.find(vllm.NAME, steps.source(vllm.NAME, devices.probe()))
    if not installed:
        raise InstallError("vLLM is not installed", hint=f"aimind backends install {vllm.NAME}")
    program = bench.VllmBench(
        python=installed[0].executable,
        server=target.server,
        model=target.model or "",
        tokenizer=bench.tokenizer_folder(target.server, target.model),
        key=key,
    )

    def measure(at_once: int) -> Result:
        show.note(f"vllm bench serve with {at_once} at once")
        return program.measure(load, at_once=at_once)

    return measure
