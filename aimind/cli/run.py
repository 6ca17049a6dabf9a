"""`aimind run` and `aimind chat`: a model is used in the terminal, or in a pipe."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aimind import show
from aimind.cli import complete
from aimind.cli.app import Command
from aimind.cli.asking import api_key, ask
from aimind.cli.configured import ARGV, Configured, defaults, source, typed_values
from aimind.cli.declare import RUNNING, SERVER, argument, option
from aimind.cli.options import (
    TALK_FIELDS,
    Context,
    Model,
    RequestOptions,
    RunOptions,
    TalkOptions,
    with_options,
)
from aimind.errors import BadReferenceError, InstanceError, UnsupportedError
from aimind.types import API_KEY_VARIABLE

if TYPE_CHECKING:
    from aimind.chat.target import Target
    from aimind.chat.use import Wish
    from aimind.cli.serve import Start
    from aimind.instances import Sight
    from aimind.supervise import Rules

app = typer.Typer(add_completion=False)
# Options with which a running instance can be used: they do not change how the model is served.
_HARMLESS = TALK_FIELDS | {"model", "hub", "offline", "hf_token_file", "api_key_file", "no_config", "name"}
RUN_SUFFIX = "-run"

Prompt = Annotated[
    list[str] | None,
    argument("PROMPT", "The message, or the sound file of a speech model (default: a conversation)."),
]
ServerName = Annotated[
    str,
    argument(
        "NAME|URL",
        "The instance, or the address of any OpenAI-compatible server, such as http://127.0.0.1:8000.",
        autocompletion=complete.running_instances,
    ),
]
KeyFile = Annotated[
    Path | None,
    option(
        "--api-key-file",
        panel=SERVER,
        metavar="FILE",
        exists=True,
        dir_okay=False,
        help=f"File with the server's API key (default: the variable {API_KEY_VARIABLE}, or no key).",
    ),
]
ModelName = Annotated[
    str | None,
    option(
        "--model",
        panel=SERVER,
        metavar="NAME",
        help="Name of the model in the API (default: the first that the server lists).",
    ),
]


@app.command("run", cls=Configured)
@with_options
def run_command(  # noqa: PLR0913 - one per option
    ctx: typer.Context,
    model: Model,
    prompt: Prompt = None,
    *,
    talk: TalkOptions,
    context: Context = None,
    asked: RequestOptions,
    run: RunOptions,
    keep: Annotated[
        bool,
        option("--keep", panel=RUNNING, help="Keep the model running afterwards (default: stop it)."),
    ] = False,
) -> None:
    """Chat with a model, or get one answer, in this terminal.

    A running instance of the model is used; otherwise one is started, and stopped at the end. With PROMPT or
    with piped input, the answer alone goes to stdout.

    Examples:
      aimind run demo
      aimind run unsloth/Qwen3-0.6B-GGUF "Why is the sky blue?"
      git diff | aimind run ./model.gguf "Write a commit message for this"
      aimind run Systran/faster-whisper-tiny speech.wav
    """
    from aimind.chat.target import target_of
    from aimind.chat.use import use
    from aimind.cli.serve import Start, same_again
    from aimind.supervise import Rules

    if sys.platform == "win32":
        raise UnsupportedError("aimind cannot serve on Windows yet", hint="use WSL 2, or `aimind chat URL`")
    wish = _wish(prompt, talk)
    wanted = ask(model, asked, context=context, backend_argv=ctx.obj, defaults=defaults(ctx))
    key = wanted.request.api_key
    running = None if _changes_serving(ctx) else _running(model)
    if running is not None:
        show.note(f"Using the running instance {running.name}.")
        use(target_of(running, key=key), wish, ends_with_us=False)
        return
    if source(ctx, "port") != "COMMANDLINE":  # a configured port is meant for what keeps running
        wanted = dataclasses.replace(wanted, request=dataclasses.replace(wanted.request, port=0))
    start = Start(
        asked=wanted,
        lock=None,
        again=functools.partial(same_again, ctx, wanted.request),
        name=run.name,
        ready_probe=run.ready_probe,
        may_install=not (run.no_install or wanted.offline),
        suffix="" if keep else RUN_SUFFIX,
        verbose=False,
    )
    rules = Rules(
        restart=run.restart,
        max_restarts=run.max_restarts,
        stall_seconds=run.stall_timeout,
        probe_seconds=run.probe_interval,
    )
    with _started(start, rules, keep=keep) as sight:
        use(target_of(sight, key=key), wish, ends_with_us=not keep)


@app.command("chat", cls=Command)
@with_options
def chat_command(
    server: ServerName,
    prompt: Prompt = None,
    *,
    talk: TalkOptions,
    model: ModelName = None,
    api_key_file: KeyFile = None,
) -> None:
    """Chat with a running instance, or with any server.

    With PROMPT or with piped input, the answer alone goes to stdout.

    Examples:
      aimind chat demo
      aimind chat http://127.0.0.1:8000 "Why is the sky blue?"
    """
    from aimind.chat.use import use

    wish = _wish(prompt, talk)
    use(find_target(server, model=model, key=api_key(api_key_file)), wish, ends_with_us=False)


def find_target(text: str, *, model: str | None, key: str | None) -> Target:
    """Return the server that a name or an address means.

    Raises:
        InstanceError: there is no such instance, or it does not run.
        ApiError: nothing answers at the address.
    """
    from aimind import instances
    from aimind.chat.target import is_address, target_at, target_of

    if is_address(text):
        return target_at(text, key=key, model=model)
    if text not in instances.all_names():
        raise InstanceError(
            f"there is no instance {text}",
            hint=f"`aimind ps` lists the running ones; `aimind run {text}` starts a model",
        )
    return target_of(instances.look(text), key=key)


def _wish(prompt: list[str] | None, talk: TalkOptions) -> Wish:
    """What is wanted of the model. Images and piped text are read now, before anything is started.

    Raises:
        UsageError: an image cannot be read, or what is piped in is empty and there is no other prompt.
    """
    from aimind.chat.conversation import Settings, image_url
    from aimind.chat.use import Wish, no_prompt

    piped = "" if sys.stdin.isatty() else sys.stdin.read()
    if not prompt and not piped.strip() and not sys.stdin.isatty():
        raise no_prompt()
    return Wish(
        prompt=" ".join(prompt) if prompt else None,
        piped=piped,
        images=tuple(image_url(path) for path in talk.image or ()),
        output=talk.output,
        voice=talk.voice,
        settings=Settings(
            system=talk.system,
            temperature=talk.temperature,
            max_tokens=talk.max_tokens,
            statistics=talk.stats,
        ),
    )


# ── The instance ───────────────────────────────────────────────────────────────────────────────────────────


def _changes_serving(ctx: typer.Context) -> bool:
    """Whether options were typed that an instance which runs already may not have."""
    typed = typed_values(ctx.command, ctx, ctx.meta[ARGV])
    return bool(ctx.obj) or not _HARMLESS.issuperset(typed)


def _running(model: str) -> Sight | None:
    """A running instance of the model, or of this name: one that is ready before one that starts."""
    from aimind import instances

    living = instances.living()
    found = [sight for sight in living if sight.instance is not None and _is_of(sight, model)]
    found += [sight for sight in living if sight.name == model]
    found.sort(key=lambda sight: sight.status != "ready")
    return found[0] if found else None


def _is_of(sight: Sight, model: str) -> bool:
    """Whether an instance serves the model that the text names, relative paths included."""
    if sight.instance is None:
        return False
    return _full_name(sight.instance.model, sight.instance.cwd) == _full_name(model, str(Path.cwd()))


def _full_name(model: str, folder: str) -> str:
    """The model's name in one form; a relative path starts in the folder."""
    from aimind import reference

    try:
        parsed = reference.parse(model)
    except BadReferenceError:
        return model
    if parsed.source == "local":
        parsed = dataclasses.replace(parsed, name=os.path.normpath(Path(folder, parsed.name)))
    return reference.unparse(parsed, anywhere=True)


@contextlib.contextmanager
def _started(start: Start, rules: Rules, *, keep: bool) -> Iterator[Sight]:
    """An instance that ends with the block, and with this process however that ends, unless it is kept."""
    from aimind.cli.serve import start_instance

    if keep:
        sight = start_instance(start, rules, detach=True).sight
        yield sight
        show.note(f"instance {sight.name} keeps running: `aimind stop {sight.name}` stops it")
        return
    with contextlib.ExitStack() as ends:
        reader, writer = os.pipe()  # the writing end is ours alone, and the kernel closes it when we are gone
        ends.callback(os.close, reader)
        ends.callback(os.close, writer)
        sight = start_instance(start, rules, detach=True, lifeline=reader).sight
        ends.callback(_stop, sight.name)  # before the pipe is closed
        yield sight


def _stop(name: str) -> None:
    """Stop an instance of ours; its files go with it, unless it has failed."""
    import signal

    from aimind import instances

    instances.send(name, signal.SIGTERM)
    instances.finish_stop(name)
    if instances.look(name).status == "stopped":
        instances.remove(name)
