"""Which server is talked to, and what its model is for."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from aimind import show
from aimind.api import Server
from aimind.errors import AimindError, ApiError, ConnectionLostError, InstanceError
from aimind.types import API_KEY_VARIABLE, ENDED

if TYPE_CHECKING:
    from aimind.instances import Sight
    from aimind.types import Instance

CHAT = "chat/completions"
# A supervisor notices within this time that its backend has ended.
NOTICE_SECONDS = 3.0
POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A model behind a server.

    Attributes:
        server: to ask.
        title: what a person calls it: the instance, or the address.
        path: below `/v1/`, where requests of the model's kind go.
        template: fields that each JSON body has, such as the model's name.
        example: arguments of curl for such a request; empty where none is known.
        instance: the name of the instance; `None` for a server that was given by its address.
    """

    server: Server
    title: str
    path: str = CHAT
    template: Mapping[str, object] = field(default_factory=dict)
    example: tuple[str, ...] = ()
    instance: str | None = None

    @property
    def model(self) -> str | None:
        """The model's name in the API; `None` where the backend gives it none."""
        name = self.template.get("model")
        return None if name is None else str(name)


def is_address(text: str) -> bool:
    """Whether the text is meant as the address of a server, not as the name of an instance or a model."""
    return text.lower().startswith(("http://", "https://"))


def target_at(url: str, *, key: str | None, model: str | None) -> Target:
    """Return the server at an address. `model`: its name in the API (default: the first one listed).

    Raises:
        ApiError: the server does not answer, or has no model of this name.
    """
    server = Server(url, key=key)
    listed = [str(entry["id"]) for entry in server.models()]
    if model is None and not listed:
        raise ApiError(
            f"the server at {server.url} does not list any models", hint="choose a model with --model"
        )
    if model is not None and listed and model not in listed:
        raise ApiError(
            f"the server at {server.url} does not serve {model}",
            hint=f"choose one of {', '.join(listed[:10])}",
        )
    return Target(server=server, title=server.url, template={"model": model or listed[0]})


def target_of(sight: Sight, *, key: str | None) -> Target:
    """Return the server of an instance, once it is ready.

    Raises:
        InstanceError: it does not run, or wants a key that was not given.
    """
    instance = sight.instance
    if instance is None:
        raise sight.problem or InstanceError(f"instance {sight.name} is damaged", hint="see `aimind ps`")
    if instance.has_key and key is None:
        raise InstanceError(
            f"instance {sight.name} requires an API key",
            hint=f"provide it with --api-key-file or the environment variable {API_KEY_VARIABLE}",
        )
    wait_until_ready(sight.name)
    return Target(
        server=Server(instance.url, key=key if instance.has_key else None, is_here=True),
        title=sight.name,
        path=_path(instance),
        template=_template(instance),
        example=instance.example,
        instance=sight.name,
    )


def wait_until_ready(name: str) -> None:
    """Wait while an instance starts, or starts again.

    Raises:
        InstanceError: it does not run, or ends before it is ready.
    """
    from aimind import instances

    sight = instances.look(name)
    if sight.running and sight.status == "ready":
        return
    if sight.running:
        with show.Step(f"waiting for instance {name}") as step:
            sight = instances.follow_start(
                name, lambda _: True, changed=lambda seen: show.instance_progress(seen, step)
            )
    if not sight.running:
        raise InstanceError(
            f"instance {name} is not running: it {_how_it_ended(sight)}", hint=f"run `aimind start {name}`"
        )


def explained(target: Target, problem: AimindError) -> AimindError:
    """Return the error, with what the instance's supervisor knows of it where a connection was lost."""
    if target.instance is None or not isinstance(problem, ConnectionLostError):
        return problem
    from aimind import instances

    name = target.instance
    until = time.monotonic() + NOTICE_SECONDS
    sight = instances.look(name)
    while sight.running and sight.status == "ready" and time.monotonic() < until:
        time.sleep(POLL_SECONDS)
        sight = instances.look(name)
    if sight.running and sight.status == "ready":
        return problem
    if not sight.running:
        message = f"instance {name} {_how_it_ended(sight)} before the answer was complete"
        return ConnectionLostError(message, hint=f"`aimind logs {name}` shows what it printed")
    reason = sight.state.reason if sight.state is not None else None
    return ConnectionLostError(
        f"the backend of instance {name} ended before the answer was complete: {reason or sight.status}",
        hint="send the message again: the supervisor restarts the backend",
    )


def _how_it_ended(sight: Sight) -> str:
    state = sight.state
    if state is None or state.state not in ENDED:
        return "was killed"
    if state.state == "failed":
        return f"failed ({state.reason})"
    return "was stopped"


def _path(instance: Instance) -> str:
    """The path of the instance's example; one of an older aimind has none, and is taken for a chat."""
    if not instance.example:
        return CHAT
    return urlsplit(instance.example[0]).path.partition("/v1/")[2]


def _template(instance: Instance) -> dict[str, object]:
    """The body of the example without what it asks: the model's name, a voice."""
    words = instance.example
    if not words:
        return {"model": instance.served_name}
    if "-d" in words:
        body = json.loads(words[words.index("-d") + 1])
        return {name: value for name, value in body.items() if name in ("model", "voice", "n", "size")}
    named = [word.partition("=")[2] for word in words if word.startswith("model=")]  # a form
    return {"model": named[0]} if named else {}
